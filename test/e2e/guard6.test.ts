import assert from "node:assert/strict";
import path from "node:path";
import { after, before, describe, type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import {
  ENTRIES6,
  frameOf6,
  HOST_IN_PREFIX6,
  MORE_THAN_WALKED,
  PREFIX4,
  PREFIX6,
  ROWS6,
  type Row6,
  rowOfAnswer,
  rowOfForwarded,
} from "../host/guard-rows6.ts";
import { command, openWires, type Wires } from "../host/guard-wires.ts";
import {
  BACKEND,
  createTopology,
  MACS,
  NODES6,
  type Program,
  SKIP_UNLESS_ROOT,
  type Topology,
  type Wire,
} from "../host/netns.ts";
import { groupMac, solicitationFrame } from "../support/frames6.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Goal: of IPv6, and of VIPs that are prefixes, the kernel does nothing with what the gateway owns and
 * everything as before with the rest (design 1.9), by each of the three guards.
 * Method: a packet of every row at once over real wires into a namespace with a guard, and without
 * one. What the kernel forwards and answers is seen on the wires, what it takes in its counters.
 */

const FOLDER = path.join(path.dirname(fileURLToPath(import.meta.url)), "../host");

/** Rows by name that the kernel reacted to. */
interface Seen {
  readonly forwarded: readonly string[];
  readonly answered: readonly string[];
  /** ICMPv6 errors that it took: messages of type 1. */
  readonly taken: number;
  /** Rows that an AF_PACKET socket of the gateway saw. */
  readonly tapped: readonly string[];
}

function namesOf(indexes: Iterable<number | null>): string[] {
  const rows = new Set([...indexes].filter((index) => index !== null));
  return ROWS6.filter((_, index) => rows.has(index)).map(({ name }) => name);
}

function namesWhere(choose: (row: Row6) => boolean): string[] {
  return ROWS6.filter(choose).map(({ name }) => name);
}

/** What is expected of the kernel under a guard, or without one. */
function expected(guard: "none" | "tcx" | "nftables" | "xdp"): Omit<Seen, "tapped"> {
  // nftables walks extension headers to the last.
  const owned = (row: Row6): boolean =>
    row.owned || (guard === "nftables" && row.name === MORE_THAN_WALKED);
  const reacts = (row: Row6): boolean => guard === "none" || !owned(row);
  return {
    forwarded: namesWhere((row) => reacts(row) && row.reaction === "forward"),
    answered: namesWhere((row) => reacts(row) && row.reaction === "answer"),
    taken: namesWhere((row) => reacts(row) && row.reaction === "take").length,
  };
}

function unreachables(topology: Topology): number {
  const text = topology.exec("cat /proc/net/snmp6");
  return Number(/^Icmp6InDestUnreachs\s+(\d+)/m.exec(text)?.[1]);
}

/** Send every row's packet, and see what comes of it until nothing more does. */
async function observe(topology: Topology, wires: Wires): Promise<Seen> {
  for (const wire of Object.values(wires) as Wire[]) wire.clear();
  const before = unreachables(topology);
  for (const from of ["client", "backend"] as const) {
    wires[from].send(ROWS6.flatMap((row, index) => (row.from === from ? [frameOf6(index)] : [])));
  }
  const counts = (): number =>
    [...(Object.values(wires) as Wire[])].reduce((sum, one) => sum + one.receivedAll().length, 0);
  let last = -1;
  await waitFor("the wires to be quiet", async () => {
    const now = counts();
    const isQuiet = now === last;
    last = now;
    await sleep(80);
    return isQuiet;
  });
  const out = [...wires.client.receivedAll(), ...wires.backend.receivedAll()];
  const isHosts = (frame: string): boolean =>
    [MACS.gc, MACS.gb].some((mac) => frame.slice(12, 24) === mac.replaceAll(":", ""));
  const tapped = [...wires.gatewayToClient.receivedAll(), ...wires.gatewayToBackend.receivedAll()];
  return {
    forwarded: namesOf(out.filter(isHosts).map(rowOfForwarded)),
    answered: namesOf(out.filter(isHosts).map(rowOfAnswer)),
    taken: unreachables(topology) - before,
    tapped: namesOf(tapped.map(rowOfForwarded)),
  };
}

async function hold(
  t: TestContext,
  topology: Topology,
  program: string,
  options: Readonly<Record<string, unknown>>,
): Promise<Program> {
  const settings = JSON.stringify({ interfaces: ["gc", "gb"], mode: "process", ...options });
  const argv = [process.execPath, path.join(FOLDER, program), settings];
  const holder = topology.spawn(argv);
  t.after(() => holder.kill());
  await holder.line(/^guard /);
  await command(holder, { update: ENTRIES6 });
  return holder;
}

/** Frames (hex) that came out of the AF_XDP sockets. */
async function taken(holder: Program): Promise<string[]> {
  const from = holder.lines.length;
  await command(holder, { taken: true });
  const line = holder.lines.slice(from).find((text) => text.startsWith("taken "));
  return JSON.parse((line ?? "taken []").slice("taken ".length)) as string[];
}

describe("guards of IPv6", { skip: SKIP_UNLESS_ROOT }, () => {
  let topology: Topology;
  let wires: Wires;
  before(async () => {
    topology = createTopology(true, true);
    topology.exec(`ip addr add ${HOST_IN_PREFIX6}/128 dev lo nodad`);
    for (const prefix of [`${PREFIX6}/64`, "2001:db8:ff:2::/64"]) {
      topology.exec(`ip route add ${prefix} via ${NODES6.backend}`);
    }
    topology.exec(`ip route add ${PREFIX4}/24 via ${BACKEND}`);
    wires = await openWires(topology);
  });
  after(() => topology.stop());

  test("without a guard the kernel reacts to every row", async () => {
    const { tapped, ...seen } = await observe(topology, wires);
    assert.deepEqual(seen, expected("none"));
    assert.deepEqual(
      tapped,
      namesWhere(() => true),
    );
  });

  for (const kind of ["tcx", "nftables"] as const) {
    test(`${kind}: it reacts to what is not owned, and the tap sees all`, async (t) => {
      const holder = await hold(t, topology, "guard-holder.js", { kind });
      assert.equal(holder.lines[0], `guard ${kind}`);
      const { tapped, ...seen } = await observe(topology, wires);
      assert.deepEqual(seen, expected(kind));
      assert.deepEqual(
        tapped,
        namesWhere(() => true),
      );
      // What goes is the kernel's again, and what was in a prefix with it.
      await command(holder, { update: { vips: [], backends: [], snat: [], hosts: [] } });
      const { tapped: _, ...after } = await observe(topology, wires);
      assert.deepEqual(after, expected("none"));
      await holder.kill();
    });
  }

  for (const xdpMode of ["native", "generic"] as const) {
    test(`xdp ${xdpMode}: owned packets come out of the sockets`, async (t) => {
      const holder = await hold(t, topology, "xdp-holder.js", { xdpMode });
      const { tapped, ...seen } = await observe(topology, wires);
      assert.deepEqual(seen, expected("xdp"));
      assert.deepEqual(
        tapped,
        namesWhere(({ owned }) => !owned),
      );
      const came = (await taken(holder)).map(rowOfForwarded);
      assert.deepEqual(
        namesOf(came),
        namesWhere(({ owned }) => owned),
      );
      await holder.kill();
    });
  }

  test("xdp: solicitations for addresses that are ours alone are taken, all else is not", async (t) => {
    const holder = await hold(t, topology, "xdp-holder.js", { xdpMode: "native" });
    const { client, vip, snat, toClient } = NODES6;
    const ask = (target: string, more: object = {}): Uint8Array =>
      solicitationFrame({ source: client, target, sourceMac: MACS.c0, ...more });
    const ours = [
      ask(vip),
      ask(snat),
      ask(`${PREFIX6}abcd`),
      ask(vip, { source: "::" }), // somebody is about to take it: the answer says whose it is
      ask(vip, { to: { address: vip, mac: MACS.gc } }),
    ];
    const kernels = [
      ask(toClient), // also a VIP, and the host's address: the kernel answers
      ask(HOST_IN_PREFIX6),
      ask("2001:db8:1::77"),
      ask(vip, { hopLimit: 254 }), // through a router
      ask(vip, { to: { address: "ff02::1", mac: groupMac("ff02::1") } }),
    ];
    const last = ours.length;
    wires.client.send([...ours, ...kernels]);
    const hex = [...ours, ...kernels].map((frame) => Buffer.from(frame).toString("hex"));
    const got: string[] = [];
    await waitFor("the solicitations", async () => {
      got.push(...(await taken(holder)));
      return got.length >= last;
    });
    await sleep(40);
    got.push(...(await taken(holder)));
    // A solicitation to all nodes is taken too: what counts is its target.
    const wanted = [...hex.slice(0, last), hex.at(-1)];
    assert.deepEqual(
      got.filter((frame) => hex.includes(frame)),
      wanted,
    );
    await holder.kill();
  });
});
