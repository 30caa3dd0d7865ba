import assert from "node:assert/strict";
import path from "node:path";
import { describe, type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { addressOf4 } from "../../src/base/address.ts";
import type { TunRouteEntries } from "../../src/host/tun-routes.ts";
import {
  BACKEND,
  BACKEND_ANY,
  CLIENT,
  createTopology,
  GATEWAY_TO_CLIENT,
  MACS,
  NODES6,
  openWire,
  type Program,
  SKIP_UNLESS_ROOT,
  SNAT,
  type Topology,
  VIP,
  type Wire,
} from "../host/netns.ts";
import { ACK, addressOf, ethernetFrame, SYN, tcpPacket } from "../support/frames.ts";
import { tcpPacket6 } from "../support/frames6.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Goal: what is for the gateway reaches the TUN device, what it writes back leaves through the right
 * interface, at every setting of rp_filter, and nothing stays behind.
 * Method: a TUN device held by a small program that prints what the kernel gives it and writes what
 * the test gives it; `ip rule`, `ip route` and the wires are looked at.
 */

const FOLDER = path.join(path.dirname(fileURLToPath(import.meta.url)), "../host");
const HOLDER = path.join(FOLDER, "tun-holder.js");
const CLEANUP = path.join(FOLDER, "cleanup-main.js");

const ENTRIES: TunRouteEntries = {
  vips: [{ address: addressOf(VIP) }],
  snat: [addressOf(SNAT)],
  backends: [
    { address: addressOf(BACKEND), protocol: 6, port: 8080 },
    { address: addressOf(BACKEND_ANY), protocol: 17, port: 0 },
  ],
};

const ENTRIES6: TunRouteEntries = {
  vips: [
    { address: addressOf(NODES6.vip) },
    { address: addressOf("2001:db8:ff:1::"), prefixLength: 64 },
  ],
  snat: [addressOf(NODES6.snat)],
  backends: [
    { address: addressOf(NODES6.backend), protocol: 6, port: 8080 },
    { address: addressOf(NODES6.backendAny), protocol: 17, port: 0 },
  ],
};

/** Opens a TUN device (linux/if_tun.h), prints packets as hex, writes those that it is given. */
const TUN_PROGRAM = `
import fcntl, os, select, struct, sys
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454ca, struct.pack("16sH22x", sys.argv[1].encode(), 0x1001))
print("open", flush=True)
rest = b""
while True:
    ready, _, _ = select.select([tun, sys.stdin], [], [])
    if tun in ready:
        print("in " + os.read(tun, 65536).hex(), flush=True)
    if sys.stdin in ready:
        data = os.read(0, 65536)
        if not data: break
        rest += data
        *lines, rest = rest.split(b"\\n")
        for line in lines:
            os.write(tun, bytes.fromhex(line.decode()))
`;

async function openTun(topology: Topology, name: string): Promise<Program> {
  const program = topology.spawn(["python3", "-u", "-c", TUN_PROGRAM, name]);
  await program.line(/^open$/);
  return program;
}

function packetsOf(tun: Program): string[] {
  return tun.lines.filter((line) => line.startsWith("in 45")).map((line) => line.slice(3));
}

async function hold(topology: Topology, device = "hg0"): Promise<Program> {
  const settings = JSON.stringify({ device, mode: "auto" });
  const holder = topology.spawn([process.execPath, HOLDER, settings]);
  await holder.line(/^warnings /);
  return holder;
}

async function command(holder: Program, what: unknown, answer = /^done$/): Promise<void> {
  const from = holder.lines.length;
  holder.write(JSON.stringify(what));
  assert.match(await holder.line(/^(done|failed)/, from), answer);
}

function gateway(t: TestContext, rpFilter: number, forward = true): Topology {
  const topology = createTopology(forward);
  t.after(() => topology.stop());
  // The gateway's own routes are to lead there.
  topology.exec(`ip route del ${VIP}/32`);
  for (const name of ["all", "default", "gc", "gb"]) {
    topology.exec(`sysctl -qw net.ipv4.conf.${name}.rp_filter=${rpFilter}`);
  }
  return topology;
}

interface Host {
  readonly rules: string;
  readonly routes: string;
  readonly addresses: string;
}

function hostState(topology: Topology): Host {
  return {
    rules: topology.exec("ip -4 rule show"),
    routes: topology.exec("ip -4 route show table all"),
    addresses: topology.exec("ip -4 -o address show"),
  };
}

const toVip = tcpPacket({
  source: CLIENT,
  destination: VIP,
  sourcePort: 5000,
  destinationPort: 80,
  flags: SYN,
});
const reply = tcpPacket({
  source: BACKEND,
  destination: CLIENT,
  sourcePort: 8080,
  destinationPort: 5000,
  flags: SYN | ACK,
});

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

/**
 * What forwarding leaves alone (TTL and checksum change): identification, addresses and ports. The
 * kernels at both ends answer with packets of their own, which have another identification.
 */
function ends(packet: string): string {
  return packet.slice(2 * 4, 2 * 6) + packet.slice(2 * 12, 2 * 24);
}

async function seenOn(wire: Wire, packet: Uint8Array): Promise<void> {
  await waitFor("the packet on the wire", () =>
    wire.received().some((frame) => ends(frame.slice(28)) === ends(hex(packet))),
  );
}

async function seenIn(tun: Program, packet: Uint8Array): Promise<void> {
  await waitFor("the packet in the device", () =>
    packetsOf(tun).some((received) => ends(received) === ends(hex(packet))),
  );
}

describe("TUN routes", { skip: SKIP_UNLESS_ROOT }, () => {
  for (const rpFilter of [0, 1, 2]) {
    test(`rp_filter=${rpFilter}: packets go in and come out, and nothing is left`, async (t) => {
      const topology = gateway(t, rpFilter);
      const before = hostState(topology);
      const tun = await openTun(topology, "hg0");
      const holder = await hold(topology);
      const warnings = JSON.parse(holder.lines[0]?.slice("warnings ".length) ?? "") as string[];
      assert.equal(warnings.length, rpFilter === 0 ? 0 : 1);
      for (const warning of warnings) {
        assert.match(warning, new RegExp(`^net.ipv4.conf.all.rp_filter is ${rpFilter}, `));
      }
      await command(holder, { update: ENTRIES });

      assert.match(topology.exec(`ip route get ${VIP} from ${CLIENT} iif gc`), / dev hg0 /);
      assert.match(topology.exec(`ip route get ${SNAT} from ${BACKEND} iif gb`), / dev hg0 /);
      const way = (from: string, what: string, iif = "gb"): string =>
        topology.exec(`ip route get ${CLIENT} from ${from} iif ${iif} ${what}`);
      assert.match(way(BACKEND, "ipproto tcp sport 8080"), / dev hg0 table 47000 /);
      assert.match(way(BACKEND, "ipproto tcp sport 8081"), / dev gc /);
      assert.match(way(BACKEND, "ipproto udp sport 8080"), / dev gc /);
      assert.match(way(BACKEND_ANY, "ipproto udp sport 53"), / dev hg0 table 47000 /);
      // What the gateway writes back does not turn round.
      assert.match(way(BACKEND, "ipproto tcp sport 8080", "hg0"), / dev gc /);

      const client = await openWire(topology, topology.client, "c0");
      const backend = await openWire(topology, topology.backend, "b0");
      client.send([ethernetFrame(toVip, { destination: MACS.gc, source: MACS.c0 })]);
      await seenIn(tun, toVip);
      backend.send([ethernetFrame(reply, { destination: MACS.gb, source: MACS.b0 })]);
      await seenIn(tun, reply);
      // The translated packet, its reply, and one that is no flow and is passed unchanged.
      const toBackend = tcpPacket({
        source: CLIENT,
        destination: BACKEND,
        sourcePort: 5001,
        destinationPort: 8080,
        flags: SYN,
      });
      const toClient = tcpPacket({
        source: VIP,
        destination: CLIENT,
        sourcePort: 80,
        destinationPort: 5000,
        flags: SYN | ACK,
      });
      for (const packet of [toBackend, toClient, reply]) tun.write(hex(packet));
      await seenOn(backend, toBackend);
      await seenOn(client, toClient);
      await seenOn(client, reply);
      const cameIn = packetsOf(tun).map(ends);
      for (const packet of [toVip, reply]) {
        assert.equal(cameIn.filter((one) => one === ends(hex(packet))).length, 1, "came in once");
      }
      for (const packet of [toBackend, toClient]) {
        assert.ok(!cameIn.includes(ends(hex(packet))), "what was written did not come back");
      }

      await command(holder, { update: { ...ENTRIES, vips: [], backends: [] } });
      assert.doesNotMatch(topology.exec("ip -4 rule show"), /sport|10\.20\.0\.1[12]/);
      assert.doesNotMatch(topology.exec("ip -4 route show table main"), /203\.0\.113\.10/);
      await command(holder, { update: ENTRIES });
      await command(holder, { close: true });
      await tun.kill();
      assert.deepEqual(hostState(topology), before);
    });
  }

  test("what a killed process left does nothing, and goes at the next start", async (t) => {
    const topology = gateway(t, 0);
    const before = hostState(topology);
    const tun = await openTun(topology, "hg0");
    const holder = await hold(topology);
    await command(holder, { update: ENTRIES });
    await Promise.all([holder.kill(), tun.kill()]);
    assert.notDeepEqual(hostState(topology), before);
    const left = `ip route get ${CLIENT} from ${BACKEND} iif gb ipproto tcp sport 8080`;
    assert.match(topology.exec(left), / dev gc /);

    const again = await openTun(topology, "hg0");
    const next = await hold(topology);
    await command(next, { update: { vips: [], snat: [], backends: [] } });
    assert.doesNotMatch(topology.exec("ip -4 rule show"), /sport/);
    await command(next, { close: true });
    await again.kill();
    assert.deepEqual(hostState(topology), before);
  });

  test("cleanup removes what is left, says so, and finds nothing the second time", async (t) => {
    const topology = gateway(t, 0);
    const before = hostState(topology);
    const tun = await openTun(topology, "hg0");
    const holder = await hold(topology);
    await command(holder, { update: ENTRIES });
    await holder.kill();
    const cleanUp = async (): Promise<string[]> => {
      const program = topology.spawn([process.execPath, CLEANUP]);
      const line = await program.line(/^(removed|failed) /);
      return JSON.parse(line.replace(/^removed /, "")) as string[];
    };
    // Two rules of each backend, jump and goal; routes of VIP, SNAT and table; the device's address.
    const removed = await cleanUp();
    assert.equal(removed.length, 10, removed.join("\n"));
    assert.ok(
      removed.includes(
        "removed ip rule pref 4700 from 10.20.0.11 ipproto tcp sport 8080 lookup 47000",
      ),
      removed.join("\n"),
    );
    assert.deepEqual(await cleanUp(), []);
    await tun.kill();
    assert.deepEqual(hostState(topology), before);
  });

  test("two devices side by side: closing one leaves the other's", async (t) => {
    const topology = gateway(t, 0);
    const first = await openTun(topology, "hg0");
    const second = await openTun(topology, "hg1");
    const holder = await hold(topology, "hg0");
    const other = await hold(topology, "hg1");
    await command(holder, { update: ENTRIES });
    await command(other, {
      update: {
        vips: [{ address: addressOf("203.0.113.11") }],
        snat: [],
        backends: [{ address: addressOf(BACKEND), protocol: 6, port: 9090 }],
      },
    });
    const way = (port: number, iif: string): string =>
      topology.exec(`ip route get ${CLIENT} from ${BACKEND} iif ${iif} ipproto tcp sport ${port}`);
    assert.match(way(8080, "gb"), / dev hg0 table 47000 /);
    await command(holder, { close: true });
    assert.match(way(8080, "gb"), / dev gc /);
    assert.match(way(9090, "gb"), / dev hg1 table 47001 /);
    assert.match(way(9090, "hg1"), / dev gc /);
    await command(other, { close: true });
    await Promise.all([first.kill(), second.kill()]);
  });

  test("1,000 backends in one update", async (t) => {
    const topology = gateway(t, 0);
    const tun = await openTun(topology, "hg0");
    const holder = await hold(topology);
    const backends = Array.from({ length: 1000 }, (_, index) => ({
      address: addressOf4(addressOf("10.30.0.0").value + index),
      protocol: 6,
      port: 8080,
    }));
    await command(holder, { update: { ...ENTRIES, backends } });
    const rules = () => topology.exec("ip -4 rule show").split("sport 8080").length - 1;
    assert.equal(rules(), 1000);
    await command(holder, { update: { ...ENTRIES, backends: backends.slice(1) } });
    assert.equal(rules(), 999);
    await command(holder, { close: true });
    assert.equal(rules(), 0);
    await tun.kill();
  });

  test("IPv6: packets go in and come out, what a kill left goes, and cleanup finds it", async (t) => {
    const topology = createTopology(true, true);
    t.after(() => topology.stop());
    topology.exec(`ip -6 route del ${NODES6.vip}/128`);
    topology.exec(`ip route del ${VIP}/32`);
    const state = () => ({
      ...hostState(topology),
      rules6: topology.exec("ip -6 rule show"),
      routes6: topology.exec("ip -6 route show table all"),
      addresses6: topology.exec("ip -6 -o address show"),
    });
    const before = state();
    let tun = await openTun(topology, "hg0");
    const ipv6Is = (): string =>
      topology.exec("cat /proc/sys/net/ipv6/conf/hg0/disable_ipv6").trim() === "0" ? "on" : "off";
    let holder = await hold(topology);
    await command(holder, { update: ENTRIES });
    assert.equal(ipv6Is(), "off", "no IPv6 entry yet");
    await command(holder, { update: ENTRIES6 });
    assert.equal(ipv6Is(), "on");
    assert.equal(topology.exec("ip -6 -o address show dev hg0"), "");

    const { client: from, backend, backendAny } = NODES6;
    const way = (source: string, what: string, iif = "gb"): string =>
      topology.exec(`ip route get ${from} from ${source} iif ${iif} ${what}`);
    const into = (address: string, source: string, iif: string): string =>
      topology.exec(`ip route get ${address} from ${source} iif ${iif}`);
    assert.match(into(NODES6.vip, from, "gc"), / dev hg0 /);
    assert.match(into("2001:db8:ff:1::77", from, "gc"), / dev hg0 /);
    assert.match(into(NODES6.snat, backend, "gb"), / dev hg0 /);
    assert.match(way(backend, "ipproto tcp sport 8080"), / dev hg0 table 47000 /);
    assert.match(way(backend, "ipproto tcp sport 8081"), / dev gc /);
    assert.match(way(backendAny, "ipproto udp sport 53"), / dev hg0 table 47000 /);
    assert.match(way(backend, "ipproto ipv6-icmp"), / dev hg0 table 47000 /);
    assert.match(way(backend, "ipproto tcp sport 8080", "hg0"), / dev gc /);

    const [clientWire, backendWire] = await Promise.all([
      openWire(topology, topology.client, "c0"),
      openWire(topology, topology.backend, "b0"),
    ]);
    const tcp = (source: string, port: number, destination: string, to: number, label: number) =>
      tcpPacket6({
        source,
        sourcePort: port,
        destination,
        destinationPort: to,
        flags: SYN,
        ip: { flowLabel: label },
      });
    /** Flow label and addresses: what forwarding leaves alone, and no answer has. */
    const mark = (packet: string): string => packet.slice(3, 8) + packet.slice(16, 80);
    const onWire = async (wire: Wire, packet: Uint8Array): Promise<void> => {
      await waitFor("the packet on the wire", () =>
        wire.receivedAll().some((frame) => mark(frame.slice(28)) === mark(hex(packet))),
      );
    };
    const inTun = (): string[] =>
      tun.lines.filter((line) => line.startsWith("in 6")).map((line) => mark(line.slice(3)));
    const toVip6 = tcp(from, 5000, NODES6.vip, 80, 1);
    const reply6 = tcp(backend, 8080, from, 5000, 2);
    const frame = (packet: Uint8Array, side: "client" | "backend"): Uint8Array =>
      ethernetFrame(packet, {
        destination: side === "client" ? MACS.gc : MACS.gb,
        source: side === "client" ? MACS.c0 : MACS.b0,
        type: 0x86dd,
      });
    clientWire.send([frame(toVip6, "client")]);
    backendWire.send([frame(reply6, "backend")]);
    await waitFor("both in the device", () =>
      [toVip6, reply6].every((packet) => inTun().includes(mark(hex(packet)))),
    );
    // The translated packet, its reply, and one that is no flow and is passed unchanged.
    const toBackend = tcp(from, 5001, backend, 8080, 3);
    const toClient = tcp(NODES6.vip, 80, from, 5000, 4);
    for (const packet of [toBackend, toClient, reply6]) tun.write(hex(packet));
    await onWire(backendWire, toBackend);
    await onWire(clientWire, toClient);
    await onWire(clientWire, reply6);
    for (const packet of [toBackend, toClient]) assert.ok(!inTun().includes(mark(hex(packet))));

    await Promise.all([holder.kill(), tun.kill()]);
    assert.match(way(backend, "ipproto tcp sport 8080"), / dev gc /, "a rule to an empty table");
    tun = await openTun(topology, "hg0");
    holder = await hold(topology);
    await command(holder, { update: ENTRIES6 });
    const rules = topology.exec("ip -6 rule show").split("\n");
    assert.equal(rules.filter((line) => line.includes("sport 8080")).length, 1);
    await command(holder, { update: ENTRIES });
    assert.doesNotMatch(topology.exec("ip -6 rule show"), /sport/);
    await command(holder, { update: ENTRIES6 });
    const ours = { address: addressOf(NODES6.toClient) };
    await command(
      holder,
      { update: { ...ENTRIES6, vips: [ours] } },
      /the VIP 2001:db8:1::1 is an address of this host \(gc\)/,
    );
    await command(holder, { update: ENTRIES6 });
    await holder.kill();
    const cleaner = topology.spawn([process.execPath, CLEANUP]);
    const removed = await cleaner.line(/^(removed|failed) /);
    assert.ok(
      removed.includes(
        "ip -6 rule pref 4700 from 2001:db8:2::11 ipproto tcp sport 8080 lookup 47000",
      ),
      removed,
    );
    await tun.kill();
    assert.deepEqual(state(), before);

    topology.exec("sysctl -qw net.ipv6.conf.all.forwarding=0");
    tun = await openTun(topology, "hg0");
    holder = await hold(topology);
    await command(
      holder,
      { update: ENTRIES6 },
      /net\.ipv6\.conf\.all\.forwarding is 0; run `sysctl -w net\.ipv6\.conf\.all\.forwarding=1`/,
    );
    await command(holder, { close: true });
    await Promise.all([holder.kill(), tun.kill()]);
    assert.deepEqual(state().rules6, before.rules6);
  });

  const refusals: {
    readonly name: string;
    readonly prepare: (topology: Topology) => void;
    readonly device?: string;
    readonly reason: RegExp;
  }[] = [
    {
      name: "ip_forward is 0",
      prepare: (topology) => {
        topology.exec("sysctl -qw net.ipv4.ip_forward=0");
      },
      reason: /ip_forward is 0; run `sysctl -w net.ipv4.ip_forward=1`/,
    },
    {
      name: "there is no such device",
      prepare: () => {},
      device: "hg7",
      reason: /there is no device hg7/,
    },
    {
      name: "another device has the table",
      prepare: (topology) => {
        topology.exec("ip route add default dev gc table 47000");
      },
      reason: /routing table 47000 of hg0 is in use for gc/,
    },
  ];
  for (const { name, prepare, device = "hg0", reason } of refusals) {
    test(`refused: ${name}`, async (t) => {
      const topology = gateway(t, 0);
      const tun = await openTun(topology, "hg0");
      prepare(topology);
      const before = hostState(topology);
      const settings = JSON.stringify({ device, mode: "auto" });
      const holder = topology.spawn([process.execPath, HOLDER, settings]);
      assert.match(await holder.line(/^(warnings|refused)/), reason);
      assert.deepEqual(hostState(topology), before);
      await tun.kill();
    });
  }

  test("refused: a VIP that is the host's", async (t) => {
    const topology = gateway(t, 0);
    const tun = await openTun(topology, "hg0");
    const holder = await hold(topology);
    const vips = [{ address: addressOf(GATEWAY_TO_CLIENT) }];
    await command(
      holder,
      { update: { ...ENTRIES, vips } },
      /the VIP 198\.51\.100\.1 is an address of this host \(gc\)/,
    );
    await command(holder, { update: ENTRIES });
    await tun.kill();
  });
});
