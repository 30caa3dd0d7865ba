import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { after, before, describe, type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { type Address, addressOf4 } from "../../src/base/address.ts";
import type { GuardKind } from "../../src/host/guard.ts";
import { cleanUp, mountBpf } from "../host/guard-pins.ts";
import { ENTRIES, framesOf, OWNED_ROW, ROWS, type Row } from "../host/guard-rows.ts";
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
  createTopology,
  type Program,
  SKIP_UNLESS_ROOT,
  type Topology,
  type Wire,
  waitGone,
} from "../host/netns.ts";
import { addressOf } from "../support/frames.ts";
import { runSync } from "../support/processes.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Goal: the kernel does nothing with what the gateway owns, everything as before with the rest, and
 * an AF_PACKET tap sees both (design 1.9).
 * Method: every row's frames go over a real wire into a namespace with a guard, and into the same
 * one without. What the kernel does is seen on the wires around it and in its counters.
 */

const HOLDER = path.join(path.dirname(fileURLToPath(import.meta.url)), "../host/guard-holder.js");
async function hold(
  t: TestContext,
  topology: Topology,
  options: { kind?: GuardKind; mode?: "process" | "persistent"; bpfFolder?: string } = {},
): Promise<Program> {
  const settings = JSON.stringify({ interfaces: ["gc", "gb"], mode: "process", ...options });
  const holder = topology.spawn([process.execPath, HOLDER, settings]);
  t.after(() => holder.kill());
  await holder.line(/^guard /);
  return holder;
}

async function guard(
  t: TestContext,
  topology: Topology,
  options: Parameters<typeof hold>[2] = {},
): Promise<Program> {
  const holder = await hold(t, topology, options);
  await command(holder, { update: ENTRIES });
  return holder;
}

/** Reactions of the kernel to a row's frames; and the tap sees them all. */
async function tappedReactions(topology: Topology, wires: Wires, row: Row): Promise<number> {
  return (await observe(topology, wires, row, true)).reactions;
}

for (const forward of [true, false]) {
  describe(`guard, ip_forward=${forward ? 1 : 0}`, { skip: SKIP_UNLESS_ROOT }, () => {
    let topology: Topology;
    let wires: Wires;
    before(async () => {
      topology = createTopology(forward);
      wires = await openWires(topology);
    });
    after(() => topology.stop());

    test("without a guard the kernel reacts to every row", async () => {
      for (const row of ROWS) {
        const expected = isVisible(row, forward) ? FRAMES : 0;
        assert.equal(await tappedReactions(topology, wires, row), expected, row.name);
      }
    });

    for (const kind of ["tcx", "nftables"] as const) {
      test(`${kind}: the kernel reacts to what is not owned, and to nothing else`, async (t) => {
        const holder = await guard(t, topology, { kind });
        assert.equal(holder.lines[0], `guard ${kind}`);
        for (const row of ROWS) {
          const expected = isVisible(row, forward) && !row.owned ? FRAMES : 0;
          assert.equal(await tappedReactions(topology, wires, row), expected, row.name);
        }
        await command(holder, { close: {} });
        await waitReacts(topology, wires);
        await holder.kill();
      });

      test(`${kind}: it goes with a process that is killed`, async (t) => {
        const holder = await guard(t, topology, { kind });
        await assertSilent(topology, wires);
        await holder.kill();
        await waitReacts(topology, wires);
        assert.equal(topology.exec("nft list tables"), "");
      });

      test(`${kind}: entries come and go`, async (t) => {
        const holder = await guard(t, topology, { kind });
        await assertSilent(topology, wires);
        const vips = ENTRIES.vips.filter(({ low }) => low !== 443);
        await command(holder, { update: { ...ENTRIES, vips } });
        await assertReacts(topology, wires);
        await command(holder, { update: ENTRIES });
        await assertSilent(topology, wires);
        await command(holder, { update: { vips: [], backends: [], snat: [], hosts: [] } });
        await assertReacts(topology, wires);
        await holder.kill();
      });
    }
  });
}

/** Another address with the same low half: of the network for benchmarks (RFC 2544). */
/** A process's name, or nothing where it ended between the list and the look. */
function nameOf(id: string): string {
  try {
    return readFileSync(`/proc/${id}/comm`, "utf8");
  } catch {
    return "";
  }
}

function sharingLowHalf({ value }: Address): Address {
  return addressOf4((198 << 24) | (19 << 16) | (value & 0xffff));
}

describe("guard of addresses that share their low half", { skip: SKIP_UNLESS_ROOT }, () => {
  test("tcx: each is what it is, whichever came first or went", async (t) => {
    const topology = createTopology(true);
    t.after(() => topology.stop());
    const wires = await openWires(topology);
    const holder = await hold(t, topology, { kind: "tcx" });
    // Those that come first have the program's array; the rows' own addresses then lie behind them.
    const first = {
      vips: [],
      backends: [],
      snat: [...ENTRIES.vips, ...ENTRIES.backends].map(({ address }) => sharingLowHalf(address)),
      hosts: [...ENTRIES.snat, ...ENTRIES.hosts].map(sharingLowHalf),
    };
    await command(holder, { update: first });
    await assertReacts(topology, wires);
    const both = {
      ...ENTRIES,
      snat: [...first.snat, ...ENTRIES.snat],
      hosts: [...first.hosts, ...ENTRIES.hosts],
    };
    await command(holder, { update: both });
    for (const row of ROWS) {
      const expected = isVisible(row, true) && !row.owned ? FRAMES : 0;
      assert.equal(await tappedReactions(topology, wires, row), expected, row.name);
    }
    await command(holder, { update: ENTRIES });
    await assertSilent(topology, wires);
    await command(holder, { update: first });
    await assertReacts(topology, wires);
    await holder.kill();
  });
});

describe("guard under change", { skip: SKIP_UNLESS_ROOT }, () => {
  let topology: Topology;
  let wires: Wires;
  before(async () => {
    topology = createTopology(true);
    wires = await openWires(topology);
  });
  after(() => topology.stop());

  for (const kind of ["tcx", "nftables"] as const) {
    test(`${kind}: no packet slips through while entries change 50 times`, async (t) => {
      const holder = await guard(t, topology, { kind });
      for (const wire of Object.values(wires) as Wire[]) wire.clear();
      const stranger = { address: addressOf("192.0.2.1"), protocol: 6, low: 1, high: 9999 };
      let count = 0;
      for (let round = 0; round < 50; round++) {
        const vips = round % 2 === 0 ? [...ENTRIES.vips, stranger] : ENTRIES.vips;
        const changed = command(holder, { update: { ...ENTRIES, vips } });
        // Frames go on while the change is being made.
        for (let frame = 0; frame < 20; frame++, count++) {
          wires.client.send(framesOf(OWNED_ROW, 0x4000 + count, 1));
          await sleep(1);
        }
        await changed;
      }
      await waitFor("the tap to see all", () => {
        return wires.gatewayToClient.received().length >= count;
      });
      await sleep(SETTLE_MS);
      assert.deepEqual([...wires.client.received(), ...wires.backend.received()], []);
    });
  }

  test("nftables: a table that is lost with its nft comes back", async (t) => {
    await guard(t, topology, { kind: "nftables" });
    const nft = runSync(["ip", "netns", "pids", topology.gateway])
      .split("\n")
      .filter((id) => id !== "" && nameOf(id) === "nft\n");
    assert.equal(nft.length, 1);
    process.kill(Number(nft[0]), "SIGKILL");
    await waitGone(Number(nft[0]));
    await waitFor("the guard to come back", async () => {
      return (await tappedReactions(topology, wires, OWNED_ROW)) === 0;
    });
  });
});

async function assertSilent(topology: Topology, wires: Wires): Promise<void> {
  assert.equal(await tappedReactions(topology, wires, OWNED_ROW), 0);
}

/** The kernel lets go of a program a moment after its last holder is gone (RCU). */
async function waitReacts(topology: Topology, wires: Wires): Promise<void> {
  await waitFor("the kernel to react again", async () => {
    return (await tappedReactions(topology, wires, OWNED_ROW)) === FRAMES;
  });
}

async function assertReacts(topology: Topology, wires: Wires): Promise<void> {
  assert.equal(await tappedReactions(topology, wires, OWNED_ROW), FRAMES);
}

describe("guard, persistent", { skip: SKIP_UNLESS_ROOT }, () => {
  let topology: Topology;
  let wires: Wires;
  before(async () => {
    topology = createTopology(false);
    wires = await openWires(topology);
  });
  after(() => topology.stop());

  test("tcx without a bpf file system says which mount is missing", async () => {
    const settings = { interfaces: ["gc"], mode: "persistent", bpfFolder: "/nowhere" };
    const holder = topology.spawn([process.execPath, HOLDER, JSON.stringify(settings)]);
    const line = await holder.line(/^refused/);
    assert.match(line, /needs a bpf file system on \/nowhere; run `mount -t bpf bpf \/nowhere`/);
  });

  for (const kind of ["tcx", "nftables"] as const) {
    test(`${kind}: it stays after a kill, is replaced without a gap, and removed`, async (t) => {
      const folder = mountBpf(t);
      const options = { kind, mode: "persistent", bpfFolder: folder } as const;
      const first = await guard(t, topology, options);
      await assertSilent(topology, wires);
      await first.kill();
      await assertSilent(topology, wires);

      // Until the next one has its entries, the one before goes on.
      const second = await hold(t, topology, options);
      await assertSilent(topology, wires);
      await command(second, { update: { ...ENTRIES, vips: [] } });
      await assertReacts(topology, wires);
      await command(second, { update: ENTRIES });
      await assertSilent(topology, wires);
      await command(second, { close: {} });
      await assertSilent(topology, wires);
      await second.kill();

      // A guard that goes with its process takes the place of one that would have stayed.
      const third = await guard(t, topology, { kind, bpfFolder: folder });
      await assertSilent(topology, wires);
      await third.kill();
      await waitReacts(topology, wires);

      const last = await guard(t, topology, options);
      await command(last, { close: { remove: true } });
      await waitReacts(topology, wires);
      await last.kill();
    });
  }

  test("cleanup removes both kinds, and says so; the second time nothing", async (t) => {
    const folder = mountBpf(t);
    for (const kind of ["tcx", "nftables"] as const) {
      const holder = await guard(t, topology, { kind, mode: "persistent", bpfFolder: folder });
      await holder.kill();
      await assertSilent(topology, wires);
      const removed = await cleanUp(topology, folder);
      assert.equal(removed.length, kind === "tcx" ? 2 : 1, removed.join("\n"));
      assert.match(
        removed[0] ?? "",
        kind === "tcx" ? /guard on g[cb]/ : /nftables guard on (gc, gb|gb, gc) /,
      );
      await waitReacts(topology, wires);
      assert.deepEqual(await cleanUp(topology, folder), []);
    }
  });
});

describe("guard and the host's own connections", { skip: SKIP_UNLESS_ROOT }, () => {
  let topology: Topology;
  before(() => {
    topology = createTopology(true);
  });
  after(() => topology.stop());

  for (const kind of ["tcx", "nftables"] as const) {
    test(`${kind}: a client reaches the host's ssh, and the host a backend's port`, async (t) => {
      const holder = await guard(t, topology, { kind });
      const server = topology.spawn([...NODE_SERVER, "22"]);
      await server.line(/^open$/);
      const answer = topology.exec(`${NODE_CLIENT} 198.51.100.1 22`, topology.client);
      assert.equal(answer, "65536 bytes\n");
      // From the host to a backend's port, as a health check does.
      const web = topology.spawn([...NODE_SERVER, "8080"], topology.backend);
      await web.line(/^open$/);
      assert.equal(topology.exec(`${NODE_CLIENT} 10.20.0.11 8080`), "65536 bytes\n");
      await Promise.all([server.kill(), web.kill(), holder.kill()]);
    });
  }
});

const PEER = path.join(path.dirname(HOLDER), "tcp-peer.js");
const NODE_SERVER = [process.execPath, PEER, "serve"];
const NODE_CLIENT = `${process.execPath} ${PEER} fetch`;
