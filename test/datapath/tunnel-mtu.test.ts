import assert from "node:assert/strict";
import { test } from "node:test";
import { VNET_F_NEEDS_CSUM, VNET_GSO_TCPV4, VNET_GSO_UDP_L4 } from "../../src/device/device.ts";
import {
  ACK,
  type Address,
  addressNumber,
  checksumFault,
  ethernetFrame,
  FIN,
  icmpError,
  ipv4Packet,
  RST,
  SYN,
  slowSum,
  tcpPacket,
  udpPacket,
} from "../support/frames.ts";
import {
  backendMac,
  CLIENT_MAC,
  createMemoryGateway,
  GATEWAY_MACS,
  type MemoryGateway,
} from "../support/memory-gateway.ts";

/**
 * Goal: what is too large for the way to the backend once it has an outer header is announced to the
 * client with the right MTU, or goes in fragments or segments; what routers say of the way is believed
 * for ten minutes; a flow that ends is reset at both ends although only one is heard.
 * Method: frames through the data plane in memory; packets put together again by hand.
 */

const VIP = "203.0.113.10";
const CLIENT = "198.51.100.2";
const BACKEND = "10.20.0.11";
const SOURCE = "10.20.0.1";
const OVERHEAD = { ipip: 20, gue: 28 } as const;
const GUE_PORT = 6080;

function gatewayOf(mode: string, more = "", tooBig = "icmp"): MemoryGateway {
  return createMemoryGateway({
    yaml: `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
tunnel: { source: { ipv4: ${SOURCE} }, gue: { checksum: computed } }
services:
  - name: all
    vip: ${VIP}
    port: 80
    protocol: [tcp, udp]
    mode: ${mode}
    scheduler: sh
    ${tooBig === "icmp" ? "" : "mtu: { tooBig: fragment }"}
    ${more}
    backends: [{ address: ${BACKEND} }]
`,
    headroomBytes: 48,
    slotBytes: 70_000,
    slots: 64,
  });
}

const FROM_CLIENT = {
  source: CLIENT,
  destination: VIP,
  sourcePort: 40_000,
  destinationPort: 80,
} as const;

const DF = 0x4000;

function segment(dataBytes: number, fragmentWord: number, flags = ACK): Uint8Array {
  const data = Uint8Array.from({ length: dataBytes }, (_, index) => index % 251);
  return tcpPacket({ ...FROM_CLIENT, flags, sequence: 1000, data, ip: { fragmentWord, id: 7 } });
}

function send(gateway: MemoryGateway, packet: Uint8Array, words?: { vnet: number; csum: number }) {
  const frame = ethernetFrame(packet, { destination: GATEWAY_MACS[0], source: CLIENT_MAC });
  gateway.device.inject(frame, 0, words);
  gateway.datapath.runBatch(0);
  gateway.checkLaw();
  return gateway.device.sent.splice(0);
}

function two(bytes: Uint8Array, at: number): number {
  return bytes[at]! * 256 + bytes[at + 1]!;
}

/** Fragmentation needed, from a router. */
function tooBig(source: string, destination: string, rest: number, quote: Uint8Array): Uint8Array {
  const payload = icmpError({ type: 3, code: 4, rest, quote });
  return ipv4Packet({ source, destination, protocol: 1, payload });
}

/** Puts the outer fragments together, as the tunnel's end does, and takes the outer header off. */
function reassemble(frames: readonly { bytes: Uint8Array }[], mode: "ipip" | "gue"): Uint8Array {
  const whole: number[] = [];
  for (const [index, { bytes }] of frames.entries()) {
    const ip = bytes.subarray(14);
    const word = two(ip, 6);
    const isLast = index === frames.length - 1;
    assert.ok(two(ip, 2) <= 1500 && two(ip, 2) === ip.length);
    assert.equal(slowSum(ip.subarray(0, 20)), 0xffff);
    assert.equal(word & 0xe000, isLast ? 0 : 0x2000, "no DF, more but on the last");
    assert.equal((word & 0x1fff) * 8, whole.length, "pieces follow one another");
    assert.equal(two(ip, 4), two(frames[0]!.bytes, 18), "one identification");
    whole.push(...ip.subarray(20));
  }
  const payload = Uint8Array.from(whole);
  if (mode === "ipip") return payload;
  assert.equal(two(payload, 2), GUE_PORT);
  assert.equal(two(payload, 4), payload.length);
  const head = frames[0]!.bytes.subarray(26, 34);
  const length = [payload.length >>> 8, payload.length & 0xff];
  const pseudo = Uint8Array.from([...head, 0, 17, ...length, ...payload]);
  assert.equal(slowSum(pseudo), 0xffff, "the UDP checksum is over all fragments");
  return payload.subarray(8);
}

for (const mode of ["ipip", "gue"] as const) {
  const inside = 1500 - OVERHEAD[mode];

  test(`${mode}: DF, one byte too large: the client hears of ${inside}`, () => {
    const gateway = gatewayOf(mode);
    const fits = segment(inside - 40, DF);
    assert.equal(fits.length, inside);
    assert.equal(send(gateway, fits)[0]!.interface, 1);
    const [answer, more] = send(gateway, segment(inside - 39, DF));
    assert.equal(more, undefined);
    assert.equal(answer!.interface, 0);
    assert.equal(checksumFault(answer!.bytes, { linkHeaderBytes: 14 }), null);
    const ip = answer!.bytes.subarray(14);
    assert.equal([...ip.subarray(12, 16)].join("."), VIP);
    assert.deepEqual([ip[20], ip[21], two(ip, 26)], [3, 4, inside]);
    gateway.close();
  });

  test(`${mode}: without DF, or where the service says so: fragments of the outer packet`, () => {
    for (const [tooBig, word] of [
      ["icmp", 0],
      ["fragment", DF],
    ] as const) {
      const gateway = gatewayOf(mode, "", tooBig);
      for (const bytes of [inside - 39, 2000, 3000, 9000]) {
        const packet = segment(bytes, word);
        const frames = send(gateway, packet);
        assert.ok(frames.length >= 2);
        assert.deepEqual(reassemble(frames, mode), packet);
      }
      const { originated = 0 } = gateway.counters();
      assert.equal(originated, 0, "not a verdict");
      gateway.close();
    }
  });

  test(`${mode}: GSO of TCP: segments with an outer header each; too large ones as the MTU says`, () => {
    const gateway = gatewayOf(mode);
    const packet = segment(60_000, DF, ACK | FIN);
    const words = (mss: number) => ({
      vnet: VNET_F_NEEDS_CSUM | (VNET_GSO_TCPV4 << 8) | (mss << 16),
      csum: 34 | (16 << 16),
    });
    const frames = send(gateway, packet, words(1400));
    assert.equal(frames.length, Math.ceil(60_000 / 1400));
    const data: number[] = [];
    for (const [index, { bytes, vnet }] of frames.entries()) {
      assert.equal(vnet, 0);
      assert.equal(two(bytes, 16), bytes.length - 14);
      const inner = bytes.subarray(34 + OVERHEAD[mode] - 20);
      assert.equal(checksumFault(inner, { linkHeaderBytes: 0 }), null, `segment ${index}`);
      assert.equal(checksumFault(bytes, { linkHeaderBytes: 14 }), null, `outer ${index}`);
      assert.equal((inner[33]! & FIN) !== 0, index === frames.length - 1);
      data.push(...inner.subarray(40));
    }
    assert.deepEqual(Uint8Array.from(data), packet.subarray(40));
    const [answer] = send(gateway, packet, words(1460));
    assert.deepEqual([answer!.bytes[34], two(answer!.bytes, 40)], [3, inside]);
    // A segment is not a packet of the sender's that may not be split: TCP may be cut anywhere.
    const free = segment(60_000, 0);
    const cut = send(gateway, free, words(1460));
    assert.equal(cut.length, Math.ceil(60_000 / (inside - 40)));
    assert.ok(cut.every(({ bytes }) => bytes.length <= 1514));
    gateway.close();
  });

  test(`${mode}: GSO of UDP: datagrams, in fragments where they must be`, () => {
    const gateway = gatewayOf(mode, "", "fragment");
    for (const size of [1000, 1472, 1900]) {
      const data = Uint8Array.from({ length: 7 * size + 5 }, (_, index) => index % 253);
      const packet = udpPacket({ ...FROM_CLIENT, data, ip: { fragmentWord: DF } });
      const vnet = VNET_F_NEEDS_CSUM | (VNET_GSO_UDP_L4 << 8) | (size << 16);
      const frames = send(gateway, packet, { vnet, csum: 34 | (6 << 16) });
      const datagrams: Uint8Array[] = [];
      for (let at = 0; at < frames.length; ) {
        let end = at + 1;
        while ((two(frames[end - 1]!.bytes, 20) & 0x2000) !== 0) end++;
        const group = frames.slice(at, end);
        datagrams.push(
          group.length === 1
            ? group[0]!.bytes.subarray(14 + OVERHEAD[mode])
            : reassemble(group, mode),
        );
        at = end;
      }
      assert.equal(datagrams.length, 8);
      const got = datagrams.flatMap((datagram) => {
        assert.equal(checksumFault(datagram, { linkHeaderBytes: 0 }), null);
        return [...datagram.subarray(28)];
      });
      assert.deepEqual(Uint8Array.from(got), data);
    }
    gateway.close();
  });

  test(`${mode}: a router's word lowers the path for ten minutes, and the client hears it at once`, () => {
    const gateway = gatewayOf(mode);
    gateway.device.setTick(1000);
    const large = segment(1380, DF);
    const [went] = send(gateway, large);
    const outer = went!.bytes.slice(14);
    const error = (mtu: number, quoted = 128): Uint8Array =>
      tooBig("10.20.0.254", SOURCE, mtu, outer.subarray(0, quoted));
    gateway.device.setTick(2000);
    const [told, nothing] = send(gateway, error(1300));
    assert.equal(nothing, undefined);
    const ip = told!.bytes.subarray(14);
    assert.equal(told!.interface, 0);
    assert.equal(checksumFault(told!.bytes, { linkHeaderBytes: 14 }), null);
    assert.equal([...ip.subarray(16, 20)].join("."), CLIENT);
    assert.deepEqual([ip[20], ip[21], two(ip, 26)], [3, 4, 1300 - OVERHEAD[mode]]);
    assert.deepEqual(ip.subarray(28, 68), large.subarray(0, 40), "quotes what the client sent");
    assert.equal(gateway.counters()["consumed"], 1);

    const [again] = send(gateway, large);
    assert.equal(two(again!.bytes, 40), 1300 - OVERHEAD[mode]);
    // Too little of a quote for the client, later, and larger: the smaller holds.
    gateway.device.setTick(3000);
    assert.deepEqual(send(gateway, error(1350, 28)), []);
    assert.equal(two(send(gateway, large)[0]!.bytes, 40), 1300 - OVERHEAD[mode]);
    // Forged: about a packet of somebody else, and to nowhere.
    outer.set([10, 20, 0, 99], 16);
    gateway.device.setTick(4000);
    send(gateway, error(600));
    assert.equal(gateway.counters()["icmp_no_flow"], 1);
    gateway.device.setTick(2000 + 600_001);
    assert.equal(send(gateway, large)[0]!.interface, 1, "forgotten after ten minutes");
    gateway.close();
  });
}

test("dsr: too large with DF is announced with the whole MTU", () => {
  const gateway = gatewayOf("dsr");
  const [answer] = send(gateway, segment(1461, DF));
  assert.deepEqual([answer!.bytes[34], two(answer!.bytes, 40)], [3, 1500]);
  const frames = send(gateway, segment(2000, 0));
  assert.ok(frames.length === 2 && frames.every(({ interface: egress }) => egress === 1));
  gateway.close();
});

for (const mode of ["dsr", "ipip", "gue"] as const) {
  test(`${mode}: fragments of the client, in any order, each go on as they are`, () => {
    const data = Uint8Array.from({ length: 3000 }, (_, index) => index % 247);
    const whole = udpPacket({ ...FROM_CLIENT, data });
    const pieces = [0, 1472, 2944].map((at) => {
      const payload = whole.subarray(20 + at, Math.min(20 + at + 1472, whole.length));
      const more = 20 + at + 1472 < whole.length ? 0x2000 : 0;
      const fragmentWord = more | (at >>> 3);
      const ends = { source: CLIENT, destination: VIP, protocol: 17 };
      return ipv4Packet({ ...ends, payload, id: 77, fragmentWord });
    });
    for (const order of [
      [0, 1, 2],
      [2, 1, 0],
      [1, 0, 2],
    ]) {
      const gateway = gatewayOf(mode);
      const got: string[] = [];
      for (const index of order) {
        const frames = send(gateway, pieces[index]!);
        // 1492 bytes and an outer header are more than 1500: the outer packet is split again.
        for (let at = 0; at < frames.length; ) {
          let end = at + 1;
          if (mode !== "dsr") while ((two(frames[end - 1]!.bytes, 20) & 0x2000) !== 0) end++;
          const group = frames.slice(at, end);
          const whole1 = group.length === 1;
          const inner = whole1
            ? group[0]!.bytes.subarray(14 + { dsr: 0, ...OVERHEAD }[mode])
            : reassemble(group, mode as "ipip");
          got.push(Buffer.from(inner).toString("hex"));
          at = end;
        }
      }
      const wanted = pieces.map((piece) => Buffer.from(piece).toString("hex"));
      assert.deepEqual(got.sort(), wanted.sort(), order.join());
      gateway.checkLaw();
      gateway.close();
    }
  });

  test(`${mode}: an idle flow is reset at both ends, with the numbers that each of them expects`, () => {
    const gateway = gatewayOf(mode, "timeouts: { tcp: { established: 10s } }");
    gateway.device.setTick(1000);
    send(gateway, tcpPacket({ ...FROM_CLIENT, flags: SYN, sequence: 999 }));
    const data = { ...FROM_CLIENT, flags: ACK, sequence: 1000, acknowledgement: 5000 };
    send(gateway, tcpPacket(data));
    send(gateway, tcpPacket({ ...data, data: new Uint8Array(50), acknowledgement: 6000 }));
    let resets: { bytes: Uint8Array; interface: number }[] = [];
    for (let tick = 11_000; tick < 14_000 && resets.length === 0; tick += 500) {
      gateway.device.setTick(tick);
      gateway.datapath.runBatch(0);
      resets = gateway.device.sent.splice(0);
    }
    assert.equal(resets.length, 2);
    const [toClient, toBackend] = resets;
    const client = toClient!.bytes.subarray(14);
    assert.equal(checksumFault(toClient!.bytes, { linkHeaderBytes: 14 }), null);
    assert.deepEqual([...client.subarray(12, 20)].join(), `${VIP},${CLIENT}`.replaceAll(".", ","));
    assert.equal(client[33]! & RST, RST);
    assert.equal(numberAt(client, 24), 6000, "what the client expects next");
    assert.equal(numberAt(client, 28), 1050);
    assert.equal(toBackend!.interface, 1);
    assert.equal(addressOfMac(toBackend!.bytes), BACKEND);
    const inner = toBackend!.bytes.subarray(14 + { dsr: 0, ...OVERHEAD }[mode]);
    assert.equal(checksumFault(inner, { linkHeaderBytes: 0 }), null);
    assert.equal(checksumFault(toBackend!.bytes, { linkHeaderBytes: 14 }), null);
    assert.deepEqual([...inner.subarray(12, 20)].join(), `${CLIENT},${VIP}`.replaceAll(".", ","));
    assert.equal(numberAt(inner, 24), 1050, "what the backend expects next");
    assert.equal(numberAt(inner, 28), 6000);
    gateway.close();
  });

  test(`${mode}: an error about what the server sent to the client goes to the server as it is`, () => {
    const gateway = gatewayOf(mode);
    send(gateway, tcpPacket({ ...FROM_CLIENT, flags: SYN }));
    const reply = tcpPacket({
      source: VIP,
      destination: CLIENT,
      sourcePort: 80,
      destinationPort: 40_000,
      flags: ACK,
    });
    const error = tooBig("192.0.2.1", VIP, 1280, reply);
    const [sent] = send(gateway, error);
    assert.equal(sent!.interface, 1);
    assert.equal(addressOfMac(sent!.bytes), BACKEND);
    assert.deepEqual(sent!.bytes.subarray(14 + { dsr: 0, ...OVERHEAD }[mode]), error);
    gateway.close();
  });
}

const MSS_CASES: readonly { mode: string; mss: string; given: number; want: number }[] = [
  { mode: "nat", mss: "off", given: 1460, want: 1460 },
  { mode: "nat", mss: "1200", given: 1460, want: 1200 },
  { mode: "nat", mss: "1200", given: 1000, want: 1000 },
  { mode: "nat", mss: "auto", given: 8960, want: 1460 },
  { mode: "dsr", mss: "auto", given: 8960, want: 1460 },
  { mode: "ipip", mss: "auto", given: 1460, want: 1440 },
  { mode: "gue", mss: "auto", given: 1460, want: 1432 },
];
for (const { mode, mss, given, want } of MSS_CASES) {
  for (const checksum of ["complete", "partial"] as const) {
    test(`mss ${mss} in ${mode}: ${given} becomes ${want} (${checksum} checksum)`, () => {
      const gateway = gatewayOf(mode, `mss: ${mss}`);
      const options = [1, 2, 4, given >>> 8, given & 0xff, 1, 1, 1];
      const syn = tcpPacket({ ...FROM_CLIENT, flags: SYN, options, checksum });
      const words =
        checksum === "partial" ? { vnet: VNET_F_NEEDS_CSUM, csum: 34 | (16 << 16) } : undefined;
      const [sent] = send(gateway, syn, words);
      const before = 14 + ({ ipip: 20, gue: 28 }[mode] ?? 0);
      const inner = sent!.bytes.subarray(before);
      assert.equal(two(inner, 20 + 20 + 3), want);
      const partial = checksum === "partial" && before === 14;
      assert.equal(checksumFault(inner, { linkHeaderBytes: 0, partial }), null);
      gateway.close();
    });
  }
}

test("mss auto in nat: the SYN-ACK too", () => {
  const gateway = gatewayOf("nat", "mss: auto");
  send(gateway, tcpPacket({ ...FROM_CLIENT, flags: SYN }));
  const answer = tcpPacket({
    source: BACKEND,
    destination: CLIENT,
    sourcePort: 80,
    destinationPort: 40_000,
    flags: SYN | ACK,
    options: [2, 4, 35, 0],
  });
  const mac = backendMac(addressNumber(BACKEND));
  const frame = ethernetFrame(answer, { destination: GATEWAY_MACS[1], source: mac });
  gateway.device.inject(frame, 1);
  gateway.datapath.runBatch(0);
  const sent = gateway.device.sent.splice(0)[0]!;
  assert.equal(two(sent.bytes, 14 + 42), 1460);
  assert.equal(checksumFault(sent.bytes, { linkHeaderBytes: 14 }), null);
  gateway.close();
});

function numberAt(bytes: Uint8Array, at: number): number {
  return two(bytes, at) * 65_536 + two(bytes, at + 2);
}

/** Address of the backend that a frame's destination MAC stands for. */
function addressOfMac(frame: Uint8Array): Address {
  return [...frame.subarray(2, 6)].join(".");
}
