import assert from "node:assert/strict";
import { test } from "node:test";
import { N_COOKIES_ON, N_HALF_OPEN } from "../../src/admission/admission-run.ts";
import {
  C_ORIGINATED,
  C_SYN_COOKIES_ACCEPTED,
  C_SYN_COOKIES_REJECTED,
  C_SYN_COOKIES_SENT,
  C_SYN_RETRANSMITTED,
} from "../../src/datapath/counters.ts";
import { F_STATE, STATE_FIN_WAIT } from "../../src/flow/flow-record.ts";
import { ADMIN_DISABLED, B_ADMIN } from "../../src/service/backend-slots.ts";
import { applyExistingRules } from "../../src/service/effective.ts";
import { H_SWEEP_REQUESTED } from "../../src/state/layout.ts";
import { takeOverFlows } from "../../src/state/take-over.ts";
import {
  ACK,
  CWR,
  checksumFault,
  ECE,
  ethernetFrame,
  FIN,
  icmpError,
  ipv4Packet,
  PSH,
  RST,
  SYN,
  type TcpFields,
  tcpPacket,
} from "../support/frames.ts";
import { CLIENT_MAC, GATEWAY_MACS } from "../support/memory-gateway.ts";
import { icmp6, see6, tcp6 } from "../support/packets6.ts";
import {
  AdmissionBench,
  BACKEND,
  CLIENT,
  configOf,
  type Sent,
  SNAT,
  TCP,
  VIP,
} from "./admission-bench.ts";
import {
  BACKEND as BACKEND6,
  CLIENT as CLIENT6,
  SNAT as SNAT6,
  VIP as VIP6,
} from "./ipv6-bench.ts";

// Goal: a client whose SYN was answered by a cookie talks to a backend whose numbers are others, and
// neither notices. Method: packets in, packets out; every checksum that leaves is verified by the
// bench; fields are read by a reader of this file's own.

const ISN = 0x7000_0000;
const BACKEND_ISN = 0xffff_ff00 | 0;
const four = (word: number): number[] => [
  (word >>> 24) & 255,
  (word >>> 16) & 255,
  (word >>> 8) & 255,
  word & 255,
];
const timestamps = (value: number, echo: number): number[] => [
  8,
  10,
  ...four(value),
  ...four(echo),
];
const SYN_OPTIONS = [2, 4, 5, 180, 4, 2, ...timestamps(7000, 0), 1, 3, 3, 7];

interface Segment {
  readonly source: string;
  readonly destination: string;
  readonly ports: readonly [number, number];
  readonly sequence: number;
  readonly acknowledgement: number;
  readonly flags: number;
  readonly window: number;
  /** By kind. */
  readonly options: ReadonlyMap<number, readonly number[]>;
  readonly data: readonly number[];
}

/** Where client, VIP and backend are; the last two modes are between the families. */
interface Way {
  readonly name: string;
  readonly mode: string;
  readonly client: string;
  readonly vip: string;
  readonly backend: string;
  readonly snat: string;
}

const CLIENT_SIDE = { 4: { client: CLIENT, vip: VIP }, 6: { client: CLIENT6, vip: VIP6 } };
const BACKEND_SIDE = {
  4: { backend: BACKEND, snat: SNAT },
  6: { backend: BACKEND6, snat: SNAT6 },
};

function wayOf(mode: string, client: 4 | 6, backend: 4 | 6): Way {
  const name = `${mode}, IPv${client} to IPv${backend}`;
  return { name, mode, ...CLIENT_SIDE[client], ...BACKEND_SIDE[backend] };
}

const NAT_4 = wayOf("nat", 4, 4);
const WAYS: readonly Way[] = [
  NAT_4,
  wayOf("full-nat", 4, 4),
  wayOf("nat", 6, 6),
  wayOf("full-nat", 6, 6),
  wayOf("full-nat", 6, 4),
  wayOf("full-nat", 4, 6),
];
const isSix = (address: string): boolean => address.includes(":");

/** A segment in a packet of the family that its addresses have. */
function packetOf(fields: TcpText): Uint8Array {
  if (!isSix(fields.source)) return tcpPacket(fields);
  return tcp6({ ...fields, partial: fields.checksum === "partial" });
}

type TcpText = TcpFields & { readonly source: string; readonly destination: string };

/** Bytes before the transport header in a frame to or from this address. */
const l4AtOf = (address: string): number => (isSix(address) ? 54 : 34);

function clientTcp({ client, vip }: Way) {
  return { source: client, destination: vip, sourcePort: 40_000, destinationPort: 80 };
}

function read(sent: Sent | undefined): Segment {
  assert.ok(sent !== undefined, "a frame was sent");
  const six = sent.bytes[14]! >> 4 === 6;
  assert.equal(sent.bytes[12]! * 256 + sent.bytes[13]!, six ? 0x86dd : 0x0800);
  const view = new DataView(sent.bytes.buffer, sent.bytes.byteOffset + 14);
  const tcp = six ? 40 : (view.getUint8(0) & 15) * 4;
  const end = six ? 40 + view.getUint16(4) : view.getUint16(2);
  const header = (view.getUint8(tcp + 12) >> 4) * 4;
  const options = new Map<number, number[]>();
  for (let at = tcp + 20; at < tcp + header; ) {
    const kind = view.getUint8(at);
    if (kind === 0) break;
    const bytes = kind === 1 ? 1 : view.getUint8(at + 1);
    if (kind !== 1) {
      options.set(
        kind,
        Array.from({ length: bytes - 2 }, (_, index) => view.getUint8(at + 2 + index)),
      );
    }
    at += bytes;
  }
  const address = (at: number): string => [0, 1, 2, 3].map((b) => view.getUint8(at + b)).join(".");
  const seen = six ? see6(sent.bytes.subarray(14)) : null;
  return {
    source: seen?.source ?? address(12),
    destination: seen?.destination ?? address(16),
    ports: [view.getUint16(tcp), view.getUint16(tcp + 2)],
    sequence: view.getInt32(tcp + 4),
    acknowledgement: view.getInt32(tcp + 8),
    flags: view.getUint8(tcp + 13),
    window: view.getUint16(tcp + 14),
    options,
    data: Array.from({ length: end - tcp - header }, (_, at) => view.getUint8(tcp + header + at)),
  };
}

function word(bytes: readonly number[] | undefined, at = 0): number {
  assert.ok(bytes !== undefined);
  return (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!;
}

interface Opened {
  readonly way: Way;
  readonly bench: AdmissionBench;
  readonly cookie: number;
  readonly ours: number;
  /** Where the backend sees the client. */
  readonly seen: { readonly source: string; readonly port: number };
}

function proxied(way: Way): AdmissionBench {
  const yaml = configOf({ ...way, web: "synProxy: { mode: on }, outOfState: reset," });
  // An IPv4 packet needs room before it to become an IPv6 one.
  return new AdmissionBench({ yaml, headroomBytes: 48 });
}

function synAck(bench: AdmissionBench, options = SYN_OPTIONS, way = NAT_4): Segment {
  const tcp = clientTcp(way);
  const sent = bench.client(packetOf({ ...tcp, flags: SYN, sequence: ISN, options }));
  assert.equal(sent.length, 1);
  assert.equal(sent[0]!.interface, 0);
  return read(sent[0]);
}

/** Cookie, ACK, and the SYN that the backend gets. */
function open(way: Way): Opened & { readonly syn: Segment } {
  const bench = proxied(way);
  const answer = synAck(bench, SYN_OPTIONS, way);
  const ours = word(answer.options.get(8));
  const [sent, ...others] = bench.client(
    packetOf({
      ...clientTcp(way),
      sequence: ISN + 1,
      acknowledgement: answer.sequence + 1,
      window: 502,
      options: [1, 1, ...timestamps(7010, ours)],
    }),
  );
  assert.deepEqual(others, []);
  assert.equal(sent!.interface, 1);
  const syn = read(sent);
  const seen = { source: syn.source, port: syn.ports[0] };
  return { way, bench, cookie: answer.sequence, ours, seen, syn };
}

function back({ seen, way }: Opened): {
  source: string;
  sourcePort: number;
  destination: string;
  destinationPort: number;
} {
  return {
    source: way.backend,
    sourcePort: 8080,
    destination: seen.source,
    destinationPort: seen.port,
  };
}

/** The backend's SYN-ACK: what goes to it, and what to the client. */
function join(opened: Opened, scale = 9): { toBackend: Segment; toClient: Segment } {
  const sent = opened.bench.backend(
    packetOf({
      ...back(opened),
      flags: SYN | ACK,
      sequence: BACKEND_ISN,
      acknowledgement: ISN + 1,
      window: 65_160,
      options: [2, 4, 5, 180, 4, 2, ...timestamps(-5, 7010), 1, 3, 3, scale],
    }),
  );
  assert.deepEqual(sent.map((one) => one.interface).sort(), [0, 1]);
  return {
    toBackend: read(sent.find((one) => one.interface === 1)),
    toClient: read(sent.find((one) => one.interface === 0)),
  };
}

test("a SYN is answered with nothing kept: a cookie, window 0, and what the client has offered", () => {
  const bench = proxied(NAT_4);
  const answer = synAck(bench);
  assert.deepEqual([answer.source, answer.ports], [VIP, [80, 40_000]]);
  assert.deepEqual([answer.flags, answer.acknowledgement], [SYN | ACK, ISN + 1]);
  assert.equal(answer.window, 0);
  assert.deepEqual([...answer.options.keys()].sort(), [2, 3, 4, 8]);
  assert.deepEqual(answer.options.get(2), [5, 180], "MSS 1460 until a backend has said another");
  assert.equal(word(answer.options.get(8), 4), 7000);
  assert.equal(word(answer.options.get(8)) & 63, 7 | 16, "window scale 7, SACK");
  assert.ok(((bench.now - word(answer.options.get(8))) | 0) >= 0, "never from the future");
  assert.equal(bench.live, 0);
  assert.equal(bench.count("replied"), 1);
  assert.equal(bench.counter(C_SYN_COOKIES_SENT), 1);

  const plain = synAck(bench, [2, 4, 2, 0]);
  assert.deepEqual([...plain.options.keys()], [2], "without timestamps nothing else is kept");
  assert.deepEqual([...synAck(bench, []).options.keys()], [], "nor more said than fits the frame");
});

test("a partial checksum on the SYN, or IP options, leave a whole SYN-ACK", () => {
  const bench = proxied(NAT_4);
  const packet = tcpPacket({ ...TCP, flags: SYN, options: SYN_OPTIONS, checksum: "partial" });
  const [sent] = bench.client(packet, { vnet: 1, csum: 34 | (16 << 16) });
  assert.deepEqual([sent!.vnet, sent!.csum], [0, 0]);
  const routed = tcpPacket({ ...TCP, flags: SYN, ip: { options: [1, 1, 1, 1] } });
  assert.equal(read(bench.client(routed)[0]).flags, SYN | ACK);
});

for (const way of WAYS) {
  test(`${way.name}: numbers, SACK blocks, timestamps and windows are shifted both ways`, () => {
    const opened = open(way);
    const { bench, cookie, ours, syn } = opened;
    const tcp = clientTcp(way);
    assert.deepEqual(
      [syn.source, syn.destination],
      [way.mode === "nat" ? way.client : way.snat, way.backend],
    );
    assert.deepEqual([syn.flags, syn.sequence, syn.window], [SYN, ISN, 502]);
    assert.deepEqual(syn.options.get(2), [5, 180]);
    assert.deepEqual(syn.options.get(3), [7], "the client's own window scale");
    assert.ok(syn.options.has(4));
    assert.equal(word(syn.options.get(8)), 7010);
    assert.equal(bench.count("consumed"), 1);
    assert.equal(bench.counter(C_ORIGINATED), 1);
    assert.equal(bench.counter(C_SYN_COOKIES_ACCEPTED), 1);
    assert.equal(bench.live, 1);

    // The client's data before the backend answers is taken, and not kept.
    const early = { ...tcp, sequence: ISN + 1, acknowledgement: cookie + 1, data: [1, 2] };
    assert.deepEqual(bench.client(packetOf(early)), []);

    const { toBackend, toClient } = join(opened);
    assert.deepEqual(
      [toBackend.flags, toBackend.sequence, toBackend.acknowledgement, toBackend.window],
      [ACK, ISN + 1, (BACKEND_ISN + 1) | 0, 502],
    );
    assert.deepEqual(
      [word(toBackend.options.get(8)), word(toBackend.options.get(8), 4)],
      [7010, -5],
    );
    assert.deepEqual(
      [toClient.flags, toClient.sequence, toClient.acknowledgement, toClient.window],
      [ACK, (cookie + 1) | 0, ISN + 1, 65_160 >> 7],
    );
    assert.deepEqual(
      [word(toClient.options.get(8)), word(toClient.options.get(8), 4)],
      [ours, 7010],
    );

    // From the client, with two SACK blocks at an odd place of the header.
    const [block, other] = [(cookie + 1001) | 0, (cookie + 5001) | 0];
    const sack = [5, 18, ...[block, block + 500, other, other + 9].flatMap(four)];
    const [up] = bench.client(
      packetOf({
        ...tcp,
        flags: ACK | PSH,
        sequence: ISN + 1,
        acknowledgement: (cookie + 101) | 0,
        window: 300,
        options: [1, ...sack, ...timestamps(7020, ours + 3), 1, 1, 1],
        data: [65, 66, 67],
      }),
    );
    const above = read(up);
    assert.deepEqual(
      [above.destination, above.data, above.window],
      [way.backend, [65, 66, 67], 300],
    );
    assert.deepEqual([above.sequence, above.acknowledgement], [ISN + 1, (BACKEND_ISN + 101) | 0]);
    const blocks = [1001, 1501, 5001, 5010].map((offset) => (BACKEND_ISN + offset) | 0);
    assert.deepEqual(
      [0, 4, 8, 12].map((at) => word(above.options.get(5), at)),
      blocks,
    );
    assert.deepEqual([word(above.options.get(8)), word(above.options.get(8), 4)], [7020, -2]);

    // From the backend: the client's own numbers stay, the backend's come back, the window is in
    // units of 2^9 where the client was told 2^7.
    const [down] = bench.backend(
      packetOf({
        ...back(opened),
        flags: ACK | PSH,
        sequence: (BACKEND_ISN + 101) | 0,
        acknowledgement: ISN + 4,
        window: 100,
        options: [1, 1, ...timestamps(20, 7020), 1, 1, 5, 10, ...four(ISN + 50), ...four(ISN + 60)],
        data: [90],
      }),
    );
    const below = read(down);
    assert.deepEqual([below.source, below.destination], [way.vip, way.client]);
    assert.deepEqual([below.sequence, below.acknowledgement], [(cookie + 101) | 0, ISN + 4]);
    assert.deepEqual([below.window, below.data], [400, [90]]);
    assert.deepEqual(
      [0, 4].map((at) => word(below.options.get(5), at)),
      [ISN + 50, ISN + 60],
    );
    assert.deepEqual(
      [word(below.options.get(8)), word(below.options.get(8), 4)],
      [ours + 25, 7020],
    );

    // The backend's FIN is one, though its number is not of the client's counting.
    const end = { ...back(opened), flags: FIN | ACK, acknowledgement: ISN + 4 };
    bench.backend(packetOf({ ...end, sequence: (BACKEND_ISN + 102) | 0 }));
    const { i32, layout } = bench.gateway.views;
    assert.equal(i32[(layout.flows.at >> 2) + F_STATE]! & 0xff, STATE_FIN_WAIT);

    // A partial checksum says nothing of the header.
    const partial = packetOf({
      ...tcp,
      sequence: ISN + 4,
      acknowledgement: (cookie + 102) | 0,
      checksum: "partial",
      data: [1],
    });
    const [whole] = bench.client(partial, { vnet: 1, csum: l4AtOf(way.client) | (16 << 16) });
    assert.equal(read(whole).acknowledgement, (BACKEND_ISN + 102) | 0);
    assert.ok(isPartialRight(whole!.bytes), "the sum of the pseudo header");
  });
}

function isPartialRight(frame: Uint8Array): boolean {
  if (frame[14]! >> 4 === 6) return see6(frame.subarray(14)).partialIsRight;
  let sum = 6 + (frame[16]! * 256 + frame[17]! - 20);
  for (let at = 26; at < 34; at += 2) sum += frame[at]! * 256 + frame[at + 1]!;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum === frame[50]! * 256 + frame[51]!;
}

test("IPv6: a SYN behind an extension header, with a partial checksum, from nobody; MSS left out", () => {
  const way = wayOf("nat", 6, 6);
  const bench = proxied(way);
  const tcp = { ...clientTcp(way), flags: SYN, sequence: ISN, options: SYN_OPTIONS };
  const ip = { extensions: [[60, [0, 0, 1, 4, 0, 0, 0, 0]]] } as const;
  const [behind] = bench.client(tcp6({ ...tcp, ip }));
  const seen = see6(behind!.bytes.subarray(14));
  assert.deepEqual([seen.source, seen.destination, seen.hopLimit], [VIP6, CLIENT6, 64]);
  const answer = read(behind);
  assert.deepEqual([answer.flags, answer.acknowledgement, answer.window], [SYN | ACK, ISN + 1, 0]);
  assert.deepEqual(answer.options.get(2), [5, 160], "MSS 1440 until a backend has said another");
  const [whole] = bench.client(tcp6({ ...tcp, partial: true }), { vnet: 1, csum: 54 | (16 << 16) });
  assert.deepEqual([whole!.vnet, whole!.csum], [0, 0]);
  assert.deepEqual(bench.client(tcp6({ ...tcp, source: "::" })), []);
  assert.equal(bench.count("reply_not_allowed"), 1);

  const { sequence: cookie } = synAck(bench, [], way);
  const ack = { ...clientTcp(way), sequence: ISN + 1, acknowledgement: cookie + 1 };
  const syn = read(bench.client(tcp6({ ...ack, ip }))[0]);
  assert.deepEqual(syn.options.get(2), [4, 196], "1220, which is what none means");
});

/** "Too big" from a router before the client, about what was sent there. */
function tooBig({ client, vip }: Way, quote: Uint8Array): Uint8Array {
  if (isSix(client)) {
    return icmp6({ source: "2001:db8:9::1", destination: vip, type: 2, rest: 1280, data: quote });
  }
  const payload = icmpError({ type: 3, code: 4, rest: 1280, quote });
  return ipv4Packet({ source: "198.51.100.1", destination: vip, protocol: 1, payload });
}

for (const way of WAYS) {
  test(`${way.name}: errors, the next process, and a reset have numbers that each end knows`, () => {
    const opened = open(way);
    const { bench, cookie } = opened;
    join(opened);
    const numbers = { sequence: (BACKEND_ISN + 1) | 0, acknowledgement: ISN + 1 };
    const [down] = bench.backend(packetOf({ ...back(opened), ...numbers, data: [1, 2, 3] }));
    const [error] = bench.client(tooBig(way, down!.bytes.subarray(14)));
    assert.equal(error!.interface, 1);
    const six = isSix(way.backend);
    const quote = error!.bytes.subarray(14 + (six ? 48 : 28));
    const quoted = new DataView(quote.buffer, quote.byteOffset).getInt32(six ? 44 : 24);
    assert.equal(quoted, (BACKEND_ISN + 1) | 0);
    if (six) {
      const { source, destination, sumIsRight } = see6(quote);
      assert.deepEqual([source, destination, sumIsRight], [way.backend, opened.seen.source, true]);
    } else {
      assert.equal(checksumFault(quote, { linkHeaderBytes: 0 }), null, "the quote is whole again");
    }

    const { definition, publish, views } = bench.gateway;
    assert.equal(takeOverFlows(views).flowsKept, 1);
    const acknowledgement = (cookie + 4) | 0;
    const tcp = { ...clientTcp(way), sequence: ISN + 1, acknowledgement };
    const up = read(bench.client(packetOf({ ...tcp, data: [7] }))[0]);
    assert.deepEqual([up.acknowledgement, up.data], [(BACKEND_ISN + 4) | 0, [7]]);

    views.i32[(views.layout.backendSlots.at >> 2) + B_ADMIN] = ADMIN_DISABLED;
    publish();
    assert.ok(applyExistingRules(views, definition, { services: [] }, bench.now).sweep);
    views.i32[H_SWEEP_REQUESTED] = 1;
    const resets = bench.pause(1).map(read);
    assert.deepEqual(
      resets.map((one) => [one.destination, one.flags, one.sequence, one.acknowledgement]),
      [
        [way.client, RST | ACK, acknowledgement, ISN + 1],
        [way.backend, RST | ACK, ISN + 1, (BACKEND_ISN + 4) | 0],
      ],
    );
    assert.equal(bench.live, 0);
  });
}

test("a backend that scales no windows: the client's lose their scale, its own keep their size", () => {
  const opened = open(NAT_4);
  const { bench, cookie } = opened;
  const sent = bench.backend(
    tcpPacket({
      ...back(opened),
      flags: SYN | ACK,
      sequence: BACKEND_ISN,
      acknowledgement: ISN + 1,
      window: 8000,
      options: [2, 4, 5, 180],
    }),
  );
  assert.equal(read(sent.find((one) => one.interface === 1)).window, 502 << 7);
  assert.equal(read(sent.find((one) => one.interface === 0)).window, 8000 >> 7);
  const up = tcpPacket({ ...TCP, sequence: ISN + 1, acknowledgement: cookie + 1, window: 3 });
  assert.equal(read(bench.client(up)[0]).window, 3 << 7);
  const down = tcpPacket({
    ...back(opened),
    sequence: (BACKEND_ISN + 1) | 0,
    acknowledgement: ISN + 1,
    window: 8000,
  });
  assert.equal(read(bench.backend(down)[0]).window, 8000 >> 7);
});

for (const way of WAYS) {
  test(`${way.name}: a SYN that the backend does not answer is sent again, and in the end the client is reset`, () => {
    const opened = open(way);
    const { bench, cookie } = opened;
    let syns = 1;
    let reset: Sent | undefined;
    for (let ms = 0; ms < 30_000 && reset === undefined; ms += 250) {
      for (const sent of bench.pause(250)) {
        const segment = read(sent);
        if (segment.flags === SYN) {
          assert.deepEqual([segment.sequence, segment.destination], [ISN, way.backend]);
          assert.deepEqual(segment.options.get(3), [7]);
          syns++;
        } else if (sent.interface === 0) reset = sent;
      }
    }
    assert.equal(syns, 4);
    assert.equal(bench.counter(C_SYN_RETRANSMITTED), 3);
    const segment = read(reset);
    assert.deepEqual([segment.flags & RST, segment.sequence], [RST, (cookie + 1) | 0]);
    assert.equal(bench.live, 0);
  });
}

for (const way of WAYS) {
  test(`${way.name}: a backend that refuses: the client hears it with numbers that it takes`, () => {
    const opened = open(way);
    const refusal = { ...back(opened), flags: RST | ACK, sequence: 0, acknowledgement: ISN + 1 };
    const wrong = opened.bench.backend(packetOf({ ...refusal, acknowledgement: ISN + 2 }));
    assert.deepEqual(wrong, [], "not an answer to our SYN");
    const [sent] = opened.bench.backend(packetOf(refusal));
    const reset = read(sent);
    assert.deepEqual([reset.source, reset.flags & RST], [way.vip, RST]);
    assert.deepEqual([reset.sequence, reset.acknowledgement], [(opened.cookie + 1) | 0, ISN + 1]);
  });
}

for (const way of WAYS) {
  test(`${way.name}: flow, cookie, policy: a wrong number opens nothing and gets what outOfState says`, () => {
    const bench = proxied(way);
    const ack = { ...clientTcp(way), sequence: ISN + 1 };
    bench.client(packetOf({ ...ack, acknowledgement: 12_345 }));
    assert.equal(
      bench.counter(C_SYN_COOKIES_REJECTED),
      0,
      "no cookie was sent: none is looked for",
    );
    const { sequence: cookie } = synAck(bench, SYN_OPTIONS, way);
    const [reset] = bench.client(packetOf({ ...ack, acknowledgement: cookie - 99 }));
    assert.deepEqual([read(reset).flags, read(reset).source], [RST, way.vip]);
    for (const change of [
      { sequence: ISN + 2 },
      { sourcePort: 40_001 },
      { source: isSix(way.client) ? "2001:db8:1::3" : "198.51.100.3" },
    ]) {
      bench.client(packetOf({ ...ack, acknowledgement: cookie + 1, ...change }));
    }
    const spoilt = packetOf({ ...ack, acknowledgement: cookie + 1, data: [1, 2, 3, 4] });
    spoilt[spoilt.length - 1]! ^= 1;
    bench.client(spoilt);
    assert.equal(bench.counter(C_SYN_COOKIES_REJECTED), 5);
    assert.equal(bench.live, 0);
    bench.now += 61_000;
    bench.gateway.device.setTick(bench.now);
    bench.client(packetOf({ ...ack, acknowledgement: cookie + 1 }));
    assert.equal(bench.live, 1, "good in the minute that follows");
    bench.now += 180_000;
    bench.gateway.device.setTick(bench.now);
    bench.client(packetOf({ ...ack, sourcePort: 40_009, acknowledgement: cookie + 1 }));
    assert.equal(bench.live, 1);
  });
}

for (const way of WAYS) {
  test(`${way.name}: the client's ACK is lost: its window probe, one byte back, brings the cookie too`, () => {
    const bench = proxied(way);
    const { sequence: cookie } = synAck(bench, SYN_OPTIONS, way);
    const probe = packetOf({ ...clientTcp(way), sequence: ISN, acknowledgement: cookie + 1 });
    const syn = read(bench.client(probe)[0]);
    assert.deepEqual([syn.flags, syn.sequence], [SYN, ISN]);
  });
}

for (const way of WAYS) {
  test(`${way.name}: a client that closes while its backend is silent: both are told`, () => {
    const { bench } = open(way);
    const [sent] = bench.client(packetOf({ ...clientTcp(way), flags: RST, sequence: ISN + 1 }));
    assert.deepEqual([read(sent).flags & RST, read(sent).sequence], [RST, ISN + 1]);
    assert.equal(read(sent).destination, way.backend);
    assert.equal(bench.live, 0);
  });
}

test("what backends say is what clients are told: MSS, window scale, ECN", () => {
  const yaml = configOf({ web: "synProxy: { mode: auto, halfOpen: 2 }," });
  const bench = new AdmissionBench({ yaml });
  const options = SYN_OPTIONS;
  // A connection of the usual kind, from which there is something to learn.
  bench.client(tcpPacket({ ...TCP, flags: SYN | ECE | CWR, sequence: ISN, options }));
  const reply = {
    source: BACKEND,
    sourcePort: 8080,
    destination: TCP.source,
    destinationPort: 40_000,
  };
  const theirs = [2, 4, 4, 176, 4, 2, ...timestamps(1, 7000), 1, 3, 3, 5];
  const flags = SYN | ACK | ECE;
  bench.backend(
    tcpPacket({ ...reply, flags, sequence: 1, acknowledgement: ISN + 1, options: theirs }),
  );
  bench.client(tcpPacket({ ...TCP, sourcePort: 40_001, flags: SYN, sequence: 5 }));
  // Two are half-open: the third is asked to prove itself.
  const third = { ...TCP, sourcePort: 40_002, flags: SYN | ECE | CWR, sequence: ISN, options };
  const answer = read(bench.client(tcpPacket(third))[0]);
  assert.deepEqual([answer.options.get(2), answer.options.get(3)], [[4, 176], [5]]);
  assert.equal(answer.flags, SYN | ACK | ECE);
  assert.equal(word(answer.options.get(8)) & 63, 7 | 16 | 32);
});

test("auto: begins with half-open flows, ends when they are gone, and never touches what is open", () => {
  const yaml = configOf({ web: "synProxy: { mode: auto, halfOpen: 64 }," });
  const bench = new AdmissionBench({ yaml });
  const { i32, layout } = bench.gateway.views;
  const run = layout.admissionRuns.at >> 2;
  for (let id = 0; id < 2000; id++) {
    const syn = { ...TCP, source: `192.0.2.${id % 250}`, sourcePort: 1024 + id, flags: SYN };
    bench.client(tcpPacket(syn));
  }
  assert.equal(bench.live, 64);
  assert.equal(i32[run + N_HALF_OPEN], 64);
  assert.equal(i32[run + N_COOKIES_ON], 1);
  assert.equal(bench.counter(C_SYN_COOKIES_SENT), 2000 - 64);
  for (let ms = 0; ms < 35_000; ms += 500) bench.pause(500);
  assert.equal(i32[run + N_HALF_OPEN], 0);
  bench.client(tcpPacket({ ...TCP, flags: SYN }));
  assert.equal(i32[run + N_COOKIES_ON], 0);
  assert.equal(bench.live, 1);
});

test("a flood of SYNs at full batches beside 200 connections: none is lost, memory and answers bounded", () => {
  const bench = new AdmissionBench({ yaml: configOf({ web: "synProxy: { mode: on }," }) });
  const { device, datapath } = bench.gateway;
  const connections = Array.from({ length: 200 }, (_, id) => {
    const tcp = { ...TCP, sourcePort: 50_000 + id };
    const cookie = read(bench.client(tcpPacket({ ...tcp, flags: SYN, sequence: ISN }))[0]).sequence;
    bench.client(tcpPacket({ ...tcp, sequence: ISN + 1, acknowledgement: cookie + 1 }));
    const reply = { source: BACKEND, sourcePort: 8080, destination: TCP.source };
    bench.backend(
      tcpPacket({
        ...reply,
        destinationPort: tcp.sourcePort,
        flags: SYN | ACK,
        sequence: BACKEND_ISN,
        acknowledgement: ISN + 1,
      }),
    );
    return { ...tcp, sequence: ISN + 1, acknowledgement: cookie + 1, data: [1] };
  });
  assert.equal(bench.live, 200);
  device.sent.length = 0;
  const before = bench.counter(C_SYN_COOKIES_SENT);
  const link = { destination: GATEWAY_MACS[0], source: CLIENT_MAC };
  let arrived = 0;
  for (let round = 0; round < 200; round++) {
    for (let index = 0; index < 63; index++) {
      const id = round * 63 + index;
      const source = `198.18.${id >> 8}.${id & 255}`;
      device.inject(
        ethernetFrame(tcpPacket({ ...TCP, source, flags: SYN, sequence: id }), link),
        0,
      );
    }
    device.inject(ethernetFrame(tcpPacket(connections[round]!), link), 0);
    datapath.runBatch(0);
    arrived += device.sent.filter((one) => one.interface === 1).length;
    device.sent.length = 0;
  }
  bench.gateway.checkLaw();
  assert.equal(arrived, 200, "every segment of a connection goes on");
  assert.equal(bench.counter(C_SYN_COOKIES_SENT) - before, 200 * 63, "and every SYN is answered");
  assert.equal(bench.live, 200);
  assert.equal(bench.count("dropped"), 0);
});
