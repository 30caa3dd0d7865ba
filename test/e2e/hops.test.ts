import assert from "node:assert/strict";
import path from "node:path";
import { describe, type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import type { HostHopPlan } from "../../src/host/hop-planner.ts";
import type { Hop } from "../../src/state/hop-table.ts";
import {
  BACKEND,
  BACKEND_ANY,
  CLIENT,
  createTopology,
  GATEWAY_TO_BACKEND,
  MACS,
  type Program,
  ROUTER,
  SKIP_UNLESS_ROOT,
  type Topology,
  waitGone,
} from "../host/netns.ts";
import { addressOf } from "../support/frames.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Goal: the plan of next hops is what the host's kernel would use, at the start and after every
 * change, and nothing is left when the planner's process is killed.
 * Method: a planner in a gateway's namespace; the test changes links, routes and neighbours.
 */

const HOLDER = path.join(path.dirname(fileURLToPath(import.meta.url)), "../host/hop-holder.js");

type Plan = Omit<HostHopPlan, "backends"> & { readonly backends: readonly [number, Hop][] };

function gateway(t: TestContext): Topology {
  const topology = createTopology(false);
  t.after(() => topology.stop());
  // The kernel is to find these by itself.
  for (const address of [BACKEND, BACKEND_ANY, ROUTER]) {
    topology.exec(`ip neigh del ${address} dev gb`);
  }
  return topology;
}

async function planner(topology: Topology, ...interfaces: string[]): Promise<Program> {
  const program = topology.spawn([process.execPath, HOLDER, ...interfaces]);
  await program.line(/^ready$/);
  return program;
}

function setBackends(program: Program, ...addresses: string[]): void {
  const backends = addresses.map((address, slot) => [slot, address]);
  program.write(JSON.stringify({ backends }));
}

function lastPlan(program: Program): Plan {
  const line = program.lines.filter((text) => text.startsWith("plan ")).at(-1) ?? "plan {}";
  return JSON.parse(line.slice("plan ".length)) as Plan;
}

/** Wait until the last plan is as wanted; the failure shows what it is. */
async function planIs(program: Program, what: string, wanted: (plan: Plan) => boolean) {
  try {
    return await waitFor(what, () => {
      const plan = lastPlan(program);
      return wanted(plan) ? plan : null;
    });
  } catch (error) {
    throw new Error(`${String(error)}: ${JSON.stringify(lastPlan(program))}`);
  }
}

function hopOf(plan: Plan, slot: number): Hop | undefined {
  return plan.backends.find(([number]) => number === slot)?.[1];
}

describe("next hops", { skip: SKIP_UNLESS_ROOT }, () => {
  test("backends on the link are resolved, with interface, MTU and MAC", async (t) => {
    const topology = gateway(t);
    const program = await planner(topology, "gc", "gb");
    setBackends(program, BACKEND, BACKEND_ANY);
    const plan = await planIs(program, "two MACs", ({ backends }) => {
      return backends.length === 2 && backends.every(([, hop]) => hop.mac !== null);
    });
    const hop = { interface: 1, mtu: 1500, mac: MACS.b0 };
    assert.deepEqual(plan.backends, [
      [0, { address: addressOf(BACKEND), ...hop }],
      [1, { address: addressOf(BACKEND_ANY), ...hop }],
    ]);
    assert.deepEqual(plan.interfaces, [
      { mtu: 1500, mac: MACS.gc, up: true },
      { mtu: 1500, mac: MACS.gb, up: true },
    ]);
    assert.deepEqual(plan.unreachable, []);
    // Every backend and the client, whose entry the topology has fixed.
    assert.ok(
      plan.neighbours.some(({ address, mac, interface: index }) => {
        return address.text === CLIENT && mac === MACS.c0 && index === 0;
      }),
    );
    assert.ok(
      plan.routes.some(({ address, prefixLength, via, interface: index }) => {
        return (
          address.text === "198.51.100.0" && prefixLength === 24 && via === null && index === 0
        );
      }),
    );
  });

  test("a route through a router gives its MAC, and the route's MTU", async (t) => {
    const topology = gateway(t);
    topology.exec(`ip route add 10.40.0.0/16 via ${ROUTER} mtu 1400`);
    const program = await planner(topology, "gc", "gb");
    setBackends(program, "10.40.0.5");
    const plan = await planIs(program, "the router's MAC", (one) => hopOf(one, 0)?.mac === MACS.b0);
    assert.deepEqual(hopOf(plan, 0), {
      address: addressOf(ROUTER),
      interface: 1,
      mtu: 1400,
      mac: MACS.b0,
    });
    topology.exec("ip route del 10.40.0.0/16");
    await planIs(program, "no route", ({ backends, unreachable }) => {
      return backends.length === 0 && unreachable[0]?.address.text === "10.40.0.5";
    });
    assert.match(lastPlan(program).unreachable[0]?.reason ?? "", /unreachable/);
  });

  test("a route through another interface is no hop, and hides the wider one", async (t) => {
    const topology = gateway(t);
    topology.exec(`ip route add default via ${CLIENT}`);
    const program = await planner(topology, "gc");
    setBackends(program, BACKEND);
    const plan = await planIs(program, "no way", ({ unreachable }) => unreachable.length === 1);
    assert.equal(hopOf(plan, 0), undefined);
    assert.match(plan.unreachable[0]?.reason ?? "", /leaves through gb, which is not in/);
    const interfaces = plan.routes.map(({ prefixLength, interface: index }) => [
      prefixLength,
      index,
    ]);
    assert.deepEqual(interfaces, [
      [32, 255],
      [24, 255],
      [24, 0],
      [0, 0],
    ]);
  });

  test("a new MAC of a backend is in the next plan", async (t) => {
    const topology = gateway(t);
    const program = await planner(topology, "gc", "gb");
    setBackends(program, BACKEND);
    await planIs(program, "the first MAC", (one) => hopOf(one, 0)?.mac === MACS.b0);
    const mac = "02:00:00:00:0b:99";
    topology.exec(`ip link set b0 address ${mac}`, topology.backend);
    await waitFor(
      "the second MAC",
      () => {
        // The backend asks for the gateway, by which the gateway's kernel learns the backend's MAC;
        // not before a second since it last did (locktime).
        topology.exec("ip neigh flush dev b0", topology.backend);
        topology.exec(
          `ip neigh replace ${GATEWAY_TO_BACKEND} dev b0 nud none use`,
          topology.backend,
        );
        return hopOf(lastPlan(program), 0)?.mac === mac;
      },
      { everyMs: 200 },
    );
  });

  test("link down, and up again", async (t) => {
    const topology = gateway(t);
    const program = await planner(topology, "gc", "gb");
    setBackends(program, BACKEND);
    await planIs(program, "the MAC", (one) => hopOf(one, 0)?.mac === MACS.b0);
    topology.exec("ip link set gb down");
    await planIs(program, "the interface down", ({ interfaces, unreachable }) => {
      return interfaces[1]?.up === false && unreachable.length === 1;
    });
    topology.exec("ip link set gb up");
    await planIs(program, "the MAC again", (one) => {
      return one.interfaces[1]?.up === true && hopOf(one, 0)?.mac === MACS.b0;
    });
    topology.exec("ip link set gb mtu 1300");
    await planIs(program, "the MTU", (one) => hopOf(one, 0)?.mtu === 1300);
    // The far end of the cable: no carrier.
    topology.exec("ip link set b0 down", topology.backend);
    await planIs(program, "no carrier", ({ interfaces }) => interfaces[1]?.up === false);
  });

  test("a neighbour that is asked for is resolved", async (t) => {
    const topology = gateway(t);
    const program = await planner(topology, "gc", "gb");
    const known = (plan: Plan): boolean =>
      plan.neighbours.some((entry) => entry.address.text === ROUTER);
    assert.equal(known(lastPlan(program)), false);
    program.write(JSON.stringify({ request: [ROUTER, 1] }));
    await planIs(program, "the neighbour", known);
    // Nobody has this address, and the device has no such interface: neither is in a plan.
    program.write(JSON.stringify({ request: ["10.20.0.99", 1] }));
    program.write(JSON.stringify({ request: [BACKEND, 7] }));
    await waitFor("the kernel to ask", () => topology.exec("ip neigh show 10.20.0.99") !== "");
    const addresses = lastPlan(program).neighbours.map(({ address }) => address.text);
    assert.ok(!addresses.includes("10.20.0.99"));
    assert.ok(!addresses.includes(BACKEND));
  });

  test("nothing is left of a planner that is killed", async (t) => {
    const topology = gateway(t);
    const program = await planner(topology, "gc", "gb");
    const monitor = await monitorOf(program);
    assert.equal(topology.exec(`cat /proc/${monitor}/comm`), "ip\n");
    await program.kill();
    await waitGone(monitor);
  });

  test("a monitor that ends is started again, and what it missed is read", async (t) => {
    const topology = gateway(t);
    const program = await planner(topology, "gc", "gb");
    const monitor = await monitorOf(program);
    process.kill(monitor, "SIGKILL");
    await waitGone(monitor);
    topology.exec("ip link set gc mtu 1234");
    await planIs(program, "the MTU", ({ interfaces }) => interfaces[0]?.mtu === 1234);
    assert.notEqual(await monitorOf(program), monitor);
  });
});

async function monitorOf(program: Program): Promise<number> {
  const from = program.lines.length;
  program.write(JSON.stringify({ monitor: true }));
  return Number((await program.line(/^monitor \d+$/, from)).slice("monitor ".length));
}
