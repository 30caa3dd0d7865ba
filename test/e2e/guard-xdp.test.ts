import assert from "node:assert/strict";
import path from "node:path";
import { after, before, describe, type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { cleanUp, mountBpf } from "../host/guard-pins.ts";
import { ENTRIES, OWNED_ROW, ROWS } from "../host/guard-rows.ts";
import {
  command,
  FRAMES,
  isVisible,
  observe,
  openWires,
  SETTLE_MS,
  type Wires,
} from "../host/guard-wires.ts";
import {
  CLIENT,
  createTopology,
  GATEWAY_TO_CLIENT,
  MACS,
  type Program,
  SKIP_UNLESS_ROOT,
  SNAT,
  type Topology,
  VIP,
} from "../host/netns.ts";
import { arpRequest } from "../support/frames.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Goal: what the gateway owns comes out of its AF_XDP sockets and the kernel does not see it;
 * everything else is the kernel's, as if the gateway were not there (design 1.9).
 * Method: the rows of the other guards, over a real wire into a namespace with the XDP program and
 * its sockets, in native and in generic mode.
 */

const FOLDER = path.join(path.dirname(fileURLToPath(import.meta.url)), "../host");
const HOLDER = path.join(FOLDER, "xdp-holder.js");

interface HoldOptions {
  readonly xdpMode?: "auto" | "native" | "generic";
  readonly mode?: "process" | "persistent";
  readonly bpfFolder?: string;
  readonly sockets?: boolean;
}

function start(topology: Topology, options: HoldOptions): Program {
  const settings = { interfaces: ["gc", "gb"], mode: "process", xdpMode: "native", ...options };
  return topology.spawn([process.execPath, HOLDER, JSON.stringify(settings)]);
}

async function hold(
  t: TestContext,
  topology: Topology,
  options: HoldOptions = {},
): Promise<Program> {
  const holder = start(topology, options);
  t.after(() => holder.kill());
  await holder.line(/^guard xdp /);
  return holder;
}

async function guard(
  t: TestContext,
  topology: Topology,
  options: HoldOptions = {},
): Promise<Program> {
  const holder = await hold(t, topology, options);
  await command(holder, { update: ENTRIES });
  return holder;
}

/** Frames (hex) that came out of the sockets. */
async function taken(holder: Program): Promise<string[]> {
  const from = holder.lines.length;
  await command(holder, { taken: true });
  const line = holder.lines.slice(from).find((text) => text.startsWith("taken "));
  return JSON.parse((line ?? "taken []").slice("taken ".length)) as string[];
}

/** XDP programs on the gateway's interfaces, as the kernel says: `xdp` or `xdpgeneric`. */
function attached(topology: Topology): string[] {
  return ["gc", "gb"].flatMap((name) => {
    const text = topology.exec(`ip -d link show dev ${name}`);
    const found = /\b(xdp|xdpgeneric)\b/.exec(text.split("\n")[0]!)?.[1];
    return found === undefined ? [] : [found];
  });
}

describe("the XDP program", { skip: SKIP_UNLESS_ROOT }, () => {
  let topology: Topology;
  let wires: Wires;
  before(async () => {
    topology = createTopology(true);
    wires = await openWires(topology);
  });
  after(() => topology.stop());

  for (const xdpMode of ["native", "generic"] as const) {
    test(`${xdpMode}: owned frames come out of the sockets, the kernel has the others`, async (t) => {
      const holder = await guard(t, topology, { xdpMode });
      assert.deepEqual(
        attached(topology),
        xdpMode === "native" ? ["xdp", "xdp"] : ["xdpgeneric", "xdpgeneric"],
      );
      for (const row of ROWS) {
        const { reactions, sent } = await observe(topology, wires, row, !row.owned);
        const expected = isVisible(row, true) && !row.owned ? FRAMES : 0;
        assert.equal(reactions, expected, row.name);
        // What the kernel forwarded has answers, which can be ours.
        const came = (await taken(holder)).filter((frame) => sent.includes(frame));
        assert.deepEqual(came, row.owned ? sent : [], row.name);
      }
      await holder.kill();
      await waitFor("the programs to go", () => attached(topology).length === 0);
    });
  }

  test("ARP: requests for addresses that are ours alone are taken, all else is not", async (t) => {
    const holder = await guard(t, topology);
    const request = (targetAddress: string, senderAddress = CLIENT, operation = 1): Uint8Array => {
      const fields = { operation, senderMac: MACS.c0, senderAddress, targetAddress };
      return arpRequest(fields);
    };
    const unicast = request(SNAT);
    unicast.set(Buffer.from(MACS.gc.replaceAll(":", ""), "hex"), 0);
    const ours = [request(VIP), unicast];
    const kernels = [
      request(GATEWAY_TO_CLIENT), // also a VIP, and the host's address: the kernel answers
      request(VIP, VIP), // an announcement
      request(VIP, CLIENT, 2), // a reply
      request("198.51.100.77"),
    ];
    wires.client.send([...ours, ...kernels]);
    await sleep(SETTLE_MS);
    assert.deepEqual(
      await taken(holder),
      ours.map((frame) => Buffer.from(frame).toString("hex")),
    );
    await holder.kill();
  });

  test("without a socket an owned packet is the kernel's (process)", async (t) => {
    const holder = await guard(t, topology, { sockets: false });
    assert.equal((await observe(topology, wires, OWNED_ROW, true)).reactions, FRAMES);
    await holder.kill();
  });

  test("entries come and go", async (t) => {
    const holder = await guard(t, topology);
    const owned = async (): Promise<number> => {
      await observe(topology, wires, OWNED_ROW, false);
      return (await taken(holder)).length;
    };
    assert.equal(await owned(), FRAMES);
    const vips = ENTRIES.vips.filter(({ low }) => low !== 443);
    await command(holder, { update: { ...ENTRIES, vips } });
    assert.equal((await observe(topology, wires, OWNED_ROW, true)).reactions, FRAMES);
    assert.deepEqual(await taken(holder), []);
    await command(holder, { update: ENTRIES });
    assert.equal(await owned(), FRAMES);
    await holder.kill();
  });

  test("a second gateway, or another program, is refused in one sentence", async (t) => {
    const first = await guard(t, topology);
    const second = start(topology, {});
    t.after(() => second.kill());
    const line = await second.line(/^refused/);
    assert.match(line, /interface gc has an XDP program already; `ip -d link show dev gc` shows/);
    assert.match(line, /`ip link set dev gc xdp off`/);
    await observe(topology, wires, OWNED_ROW, false);
    assert.equal((await taken(first)).length, FRAMES, "and the first goes on");
    await first.kill();
  });

  test("an MTU that the driver takes no program for is said, and generic takes over", async (t) => {
    topology.exec("ip link set dev gc mtu 9000");
    topology.exec("ip link set dev c0 mtu 9000", topology.client);
    t.after(() => {
      topology.exec("ip link set dev c0 mtu 1500", topology.client);
      topology.exec("ip link set dev gc mtu 1500");
    });
    const refused = start(topology, { xdpMode: "native" });
    t.after(() => refused.kill());
    assert.match(
      await refused.line(/^refused/),
      /no XDP program on interface gc: .*its MTU is 9000/,
    );
    const holder = await hold(t, topology, { xdpMode: "auto", sockets: false });
    assert.equal(holder.lines.at(-1), "guard xdp true false");
    await holder.kill();
  });
});

describe("the XDP program, persistent", { skip: SKIP_UNLESS_ROOT }, () => {
  let topology: Topology;
  let wires: Wires;
  before(async () => {
    topology = createTopology(false);
    wires = await openWires(topology);
  });
  after(() => topology.stop());

  test("it drops what is owned after a kill, is replaced without a gap, and removed", async (t) => {
    const bpfFolder = mountBpf(t);
    const options = { mode: "persistent", bpfFolder } as const;
    const silent = async (): Promise<void> => {
      assert.equal((await observe(topology, wires, OWNED_ROW, false)).reactions, 0);
    };
    const first = await guard(t, topology, options);
    await silent();
    assert.equal((await taken(first)).length, FRAMES);
    await first.kill();
    await silent();

    // Until the next one has its entries, the one before goes on.
    const second = await hold(t, topology, options);
    await silent();
    assert.deepEqual(await taken(second), []);
    await command(second, { update: ENTRIES });
    await silent();
    assert.equal((await taken(second)).length, FRAMES);
    await command(second, { close: {} });
    await second.kill();
    await silent();

    // A guard that goes with its process takes the place of one that would have stayed.
    const third = await guard(t, topology, { bpfFolder });
    await silent();
    assert.equal((await taken(third)).length, FRAMES);
    await third.kill();
    await waitFor("the programs to go", () => attached(topology).length === 0);

    // In another mode it cannot be replaced: it goes first.
    await (await guard(t, topology, options)).kill();
    assert.deepEqual(attached(topology), ["xdp", "xdp"]);
    const generic = await guard(t, topology, { ...options, xdpMode: "generic" });
    assert.deepEqual(attached(topology), ["xdpgeneric", "xdpgeneric"]);
    await silent();
    assert.equal((await taken(generic)).length, FRAMES);
    await generic.kill();

    const removed = await cleanUp(topology, bpfFolder);
    assert.equal(removed.length, 2, removed.join("\n"));
    assert.match(removed[0] ?? "", /guard on g[cb]/);
    await waitFor("the programs to go", () => attached(topology).length === 0);
    assert.deepEqual(await cleanUp(topology, bpfFolder), []);
    assert.equal((await observe(topology, wires, OWNED_ROW, true)).reactions, FRAMES);
  });

  test("a TCX guard takes the place of a pinned XDP program", async (t) => {
    const bpfFolder = mountBpf(t);
    await (await guard(t, topology, { mode: "persistent", bpfFolder })).kill();
    assert.deepEqual(attached(topology), ["xdp", "xdp"]);
    const settings = { interfaces: ["gc", "gb"], mode: "process", kind: "tcx", bpfFolder };
    const program = path.join(FOLDER, "guard-holder.js");
    const holder = topology.spawn([process.execPath, program, JSON.stringify(settings)]);
    t.after(() => holder.kill());
    await holder.line(/^guard tcx/);
    await command(holder, { update: ENTRIES });
    await waitFor("the programs to go", () => attached(topology).length === 0);
    assert.equal((await observe(topology, wires, OWNED_ROW, true)).reactions, 0);
    await holder.kill();
  });
});
