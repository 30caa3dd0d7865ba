import assert from "node:assert/strict";
import { test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import { F_ACK_REPLY, F_EXPIRES, F_STATE, FLAG_AWAITS } from "../../src/flow/flow-record.ts";
import { B_EJECTED, EJECTED_NO, EJECTED_YES } from "../../src/service/backend-slots.ts";
import {
  FAILED_NAMES,
  failedTotal,
  LATENCY_SCALE,
  P_ANSWERS,
  P_LATENCY,
  P_OPEN,
  P_OPEN_TICK,
  P_RUN,
  passiveRunWord,
} from "../../src/service/passive-run.ts";
import { backendSlotWord } from "../../src/service/slots.ts";
import {
  ACK,
  FIN,
  icmpError,
  ipv4Packet,
  RST,
  SYN,
  tcpPacket,
  udpPacket,
} from "../support/frames.ts";
import { icmp6, tcp6 } from "../support/packets6.ts";
import { AdmissionBench, BACKEND, CLIENT, configOf, SNAT, VIP } from "./admission-bench.ts";

import {
  BACKEND as BACKEND6,
  Bench6,
  CLIENT as CLIENT6,
  VIP as VIP6,
  yaml6,
} from "./ipv6-bench.ts";

// Goal: what a backend answers, and what it does not, is counted as docs/passive.md says, and the time
// that an answer takes to the microsecond. Method: packets of client and backend in memory, one a batch;
// counts are compared with what a slow model of one line an event says.

const ISN = 0x1234_5678;
const config = (web = ""): string => configOf({ web: `outOfState: reset, ${web}` });

/** The bench, and the row of its one TCP backend (or the UDP one). */
class World {
  readonly bench: AdmissionBench;
  readonly mode: string;
  private micros = 0;

  constructor(yaml = config(), mode = "nat") {
    this.bench = new AdmissionBench({ yaml });
    this.mode = mode;
    this.at(0);
  }

  /** Set the clock: microseconds from the start. */
  at(micros: number): void {
    this.micros = micros;
    const { device } = this.bench.gateway;
    device.setTick(1_000_000 + Math.floor(micros / 1000), 4_000_000_000 + micros);
  }

  after(micros: number): void {
    this.at(this.micros + micros);
  }

  get now(): number {
    return 1_000_000 + Math.floor(this.micros / 1000);
  }

  syn(port: number): number {
    return this.bench.client(
      tcpPacket({
        source: CLIENT,
        destination: VIP,
        sourcePort: port,
        destinationPort: 80,
        flags: SYN,
        sequence: ISN,
      }),
    ).length;
  }

  reply(port: number, flags: number, acknowledgement = ISN + 1): number {
    return this.bench.backend(
      tcpPacket({
        source: BACKEND,
        destination: CLIENT,
        sourcePort: 8080,
        destinationPort: port,
        flags,
        sequence: 99,
        acknowledgement,
      }),
    ).length;
  }

  ack(port: number): number {
    return this.bench.client(
      tcpPacket({
        source: CLIENT,
        destination: VIP,
        sourcePort: port,
        destinationPort: 80,
        flags: ACK,
        sequence: ISN + 1,
        acknowledgement: 100,
      }),
    ).length;
  }

  /** ICMP of the backend about what the client at `port` has sent. */
  unreachable(port: number, code: number, protocol: "tcp" | "udp" = "tcp"): number {
    const quote =
      protocol === "tcp"
        ? tcpPacket({
            source: CLIENT,
            destination: BACKEND,
            sourcePort: port,
            destinationPort: 8080,
            flags: SYN,
            sequence: ISN,
          })
        : udpPacket({
            source: CLIENT,
            destination: BACKEND,
            sourcePort: port,
            destinationPort: 5353,
          });
    return this.bench.backend(
      ipv4Packet({
        source: BACKEND,
        destination: CLIENT,
        protocol: 1,
        payload: icmpError({ type: 3, code, quote }),
      }),
    ).length;
  }

  word(index: number, slot = 0): number {
    const { views } = this.bench.gateway;
    return views.i32[passiveRunWord(views, 0, slot) + index]!;
  }

  latencyUs(slot = 0): number {
    return this.word(P_LATENCY, slot) / LATENCY_SCALE;
  }

  /** Flows in a row that failed. */
  run(slot = 0): number {
    return this.word(P_RUN, slot) >> 2;
  }

  failures(slot = 0): Record<string, number> {
    const { views } = this.bench.gateway;
    return Object.fromEntries(
      FAILED_NAMES.map((name, kind) => [name, failedTotal(views, slot, kind)]),
    );
  }

  eject(value: number, slot = 0): void {
    const { views } = this.bench.gateway;
    views.i32[backendSlotWord(views, slot) + B_EJECTED] = value;
  }

  stateOf(row: number): number {
    const { views } = this.bench.gateway;
    return views.i32[(views.layout.flows.at >> 2) + row * 16 + F_STATE]!;
  }
}

const NONE = { silent: 0, refused: 0, unreachable: 0, unanswered: 0 };

test("the time from SYN to SYN-ACK is measured to the microsecond, an eighth of each sample", () => {
  const world = new World();
  const samples = [137, 512, 90_001, 1, 4_096, 250];
  let mean = 0;
  samples.forEach((sample, index) => {
    const port = 40_000 + index;
    assert.equal(world.syn(port), 1);
    assert.equal(world.word(P_OPEN), 1);
    world.after(sample);
    assert.equal(world.reply(port, SYN | ACK), 1);
    mean = mean === 0 ? sample : mean + (sample - mean) / 8;
    assert.ok(Math.abs(world.latencyUs() - mean) < 1, `${world.latencyUs()}, expected ${mean}`);
    assert.equal(world.word(P_OPEN), 0);
    assert.equal(world.ack(port), 1);
    world.after(10_000);
  });
  assert.equal(world.word(P_ANSWERS), samples.length);
  assert.deepEqual(world.failures(), NONE);
  world.bench.gateway.close();
});

test("a SYN that comes again gives no sample (Karn), and has failed when an answer is overdue", () => {
  const world = new World();
  world.syn(40_000);
  world.after(50_000);
  world.syn(40_000);
  assert.deepEqual(world.failures(), NONE, "50 ms are too short for any stack");
  world.reply(40_000, SYN | ACK);
  assert.equal(world.word(P_LATENCY), 0, "the answer may be to either");
  assert.equal(world.word(P_ANSWERS), 1);

  world.syn(40_001);
  world.after(1_000_000);
  world.syn(40_001);
  assert.deepEqual(world.failures(), { ...NONE, silent: 1 });
  assert.equal(world.run(), 1);
  world.after(2_000_000);
  world.syn(40_001);
  assert.equal(world.run(), 1, "a flow fails once");
  world.reply(40_001, SYN | ACK);
  assert.equal(world.run(), 0, "an answer ends the run");
  assert.equal(world.word(P_LATENCY), 0);
  world.bench.gateway.close();
});

test("a failure known late does not count for the run when the backend has answered since", () => {
  const world = new World();
  world.syn(40_000);
  world.after(10_000);
  world.syn(40_001);
  world.after(300);
  world.reply(40_001, SYN | ACK);
  world.after(1_000_000);
  world.syn(40_000);
  assert.deepEqual(world.failures(), { ...NONE, silent: 1 });
  assert.equal(world.run(), 0);
  world.bench.gateway.close();
});

test("a RST in answer to a SYN, ICMP unreachable and an expiry are failures, each flow's once", () => {
  const world = new World();
  world.syn(40_000);
  world.reply(40_000, RST | ACK);
  assert.deepEqual(world.failures(), { ...NONE, refused: 1 });
  assert.equal(world.word(P_OPEN), 0, "it is there");
  for (const code of [0, 1, 2, 3]) {
    world.syn(41_000 + code);
    assert.equal(world.unreachable(41_000 + code, code), 1);
    world.unreachable(41_000 + code, code);
  }
  world.syn(42_000);
  world.unreachable(42_000, 4);
  world.unreachable(42_000, 13);
  assert.deepEqual(world.failures(), { ...NONE, refused: 1, unreachable: 4 });
  assert.equal(world.run(), 5);
  // The others were answered by an error; this one by nothing, until its time of 30 s is over.
  world.after(31_000_000);
  world.bench.gateway.datapath.runBatch(0);
  world.after(1_100_000);
  world.bench.gateway.datapath.runBatch(0);
  assert.deepEqual(world.failures(), { ...NONE, silent: 1, refused: 1, unreachable: 4 });

  // An established flow's RST and ICMP say nothing of new ones.
  world.syn(43_000);
  world.reply(43_000, SYN | ACK);
  world.ack(43_000);
  const before = world.failures();
  world.unreachable(43_000, 3);
  world.reply(43_000, RST | ACK);
  assert.deepEqual(world.failures(), before);
  world.bench.gateway.close();
});

test("a challenge ACK is neither an answer nor a sample", () => {
  const world = new World();
  world.syn(40_000);
  world.after(100);
  world.reply(40_000, ACK, 77);
  assert.equal(world.word(P_ANSWERS), 0);
  world.reply(40_000, SYN | ACK);
  assert.equal(world.word(P_ANSWERS), 1);
  assert.equal(world.word(P_LATENCY), 0);
  world.bench.gateway.close();
});

test("a client that gives up awaits no more: a FIN or RST far from the window then ends nothing", () => {
  const world = new World();
  const { i32, layout } = world.bench.gateway.views;
  const client = { source: CLIENT, destination: VIP, sourcePort: 40_000, destinationPort: 80 };
  world.syn(40_000);
  const flow = layout.flows.at >> 2;
  assert.notEqual(i32[flow + F_STATE]! & FLAG_AWAITS, 0);
  world.bench.client(tcpPacket({ ...client, flags: RST | ACK, sequence: ISN + 1 }));
  assert.equal(i32[flow + F_STATE]! & FLAG_AWAITS, 0);
  assert.equal(i32[flow + F_ACK_REPLY], 0);
  world.reply(40_000, ACK);
  const expires = i32[flow + F_EXPIRES];
  world.after(1_000_000);
  const far = (ISN + 0x4000_0000) | 0;
  world.bench.client(tcpPacket({ ...client, flags: FIN | ACK, sequence: far >>> 0 }));
  assert.equal(i32[flow + F_EXPIRES], expires);
  world.bench.gateway.close();
});

test("UDP: a datagram back is an answer; ICMP counts before one came; silence where answers are due", () => {
  for (const answers of [false, true]) {
    const word = answers ? "passive: { answers: true }," : "";
    const world = new World(configOf().replace("protocol: udp,", `protocol: udp, ${word}`));
    const dns = 1;
    const ask = (port: number): void => {
      const packet = { source: CLIENT, destination: VIP, sourcePort: port, destinationPort: 53 };
      assert.equal(world.bench.client(udpPacket(packet)).length, 1);
    };
    const answer = (port: number): void => {
      const packet = { source: BACKEND, destination: CLIENT, sourcePort: 5353 };
      assert.equal(world.bench.backend(udpPacket({ ...packet, destinationPort: port })).length, 1);
    };
    ask(40_000);
    world.after(700);
    answer(40_000);
    assert.equal(world.word(P_ANSWERS, dns), 1);
    assert.equal(world.latencyUs(dns), answers ? 700 : 0);
    world.unreachable(40_000, 3, "udp");
    assert.deepEqual(world.failures(dns), NONE);
    ask(40_001);
    world.unreachable(40_001, 3, "udp");
    assert.deepEqual(world.failures(dns), { ...NONE, unreachable: 1 });
    ask(40_002);
    world.after(121_000_000);
    world.bench.gateway.datapath.runBatch(0);
    world.after(1_100_000);
    world.bench.gateway.datapath.runBatch(0);
    assert.equal(world.failures(dns)["unanswered"], answers ? 1 : 0);
    world.bench.gateway.close();
  }
});

test("with a SYN cookie the handshake with the backend is what is measured", () => {
  const world = new World(config("synProxy: { mode: on },"));
  const [answer] = world.bench.client(
    tcpPacket({
      source: CLIENT,
      destination: VIP,
      sourcePort: 40_000,
      destinationPort: 80,
      flags: SYN,
      sequence: ISN,
    }),
  );
  assert.equal(world.word(P_OPEN), 0, "the backend has seen nothing");
  const cookie = new DataView(answer!.bytes.buffer, answer!.bytes.byteOffset).getUint32(38);
  world.after(5000);
  world.bench.client(
    tcpPacket({
      source: CLIENT,
      destination: VIP,
      sourcePort: 40_000,
      destinationPort: 80,
      flags: ACK,
      sequence: ISN + 1,
      acknowledgement: (cookie + 1) >>> 0,
    }),
  );
  assert.equal(world.word(P_OPEN), 1);
  world.after(333);
  world.reply(40_000, SYN | ACK);
  assert.equal(world.word(P_OPEN), 0);
  assert.equal(world.latencyUs(), 333);
  world.bench.gateway.close();
});

test("a client's SYN that comes again leaves a backend that was ejected", () => {
  const two = config().replace(
    `{ address: "${BACKEND}", port: 8080 }`,
    `{ address: "${BACKEND}", port: 8080 }, { address: "10.20.0.12", port: 8080 }`,
  );
  const world = new World(two);
  const portOf = (bytes: Uint8Array): string => [...bytes.subarray(30, 34)].join(".");
  const send = (port: number) =>
    world.bench.client(
      tcpPacket({
        source: CLIENT,
        destination: VIP,
        sourcePort: port,
        destinationPort: 80,
        flags: SYN,
        sequence: ISN,
      }),
    );
  const first = portOf(send(40_000)[0]!.bytes);
  const slot = first === BACKEND ? 0 : 1;
  world.after(1_000_000);
  assert.equal(portOf(send(40_000)[0]!.bytes), first, "it stays while the backend is in");
  world.eject(EJECTED_YES, slot);
  world.bench.gateway.publish();
  world.after(2_000_000);
  assert.notEqual(portOf(send(40_000)[0]!.bytes), first);
  assert.equal(world.bench.live, 1);
  world.eject(EJECTED_NO, slot);
  world.bench.gateway.close();
});

test("random handshakes against a slow model", (t) => {
  const seed = Number(process.env["HEADGATE_SEED"] ?? 20_261_125);
  t.diagnostic(`seed ${seed}`);
  const random = createRandom(seed);
  const world = new World();
  interface Model {
    created: number;
    micros: number;
    awaits: boolean;
  }
  const flows = new Map<number, Model>();
  const expected = { ...NONE };
  let micros = 0;
  let open = 0;
  let openTick = 0;
  let run = 0;
  let answers = 0;
  let lastAnswer = Number.NEGATIVE_INFINITY;
  let mean = 0;
  const failed = (kind: keyof typeof NONE, since: number): void => {
    expected[kind]++;
    if (lastAnswer <= since) run++;
  };
  let next = 10_000;
  for (let step = 0; step < 4000; step++) {
    micros += random.below(400_000);
    world.at(micros);
    for (const [old, { created }] of flows) {
      // None gets as old as its time-out: the sweep has a test of its own.
      if (world.now - created <= 20_000) continue;
      world.reply(old, RST | ACK);
      failed("refused", world.now);
      open = 0;
      flows.delete(old);
    }
    const ports = [...flows.keys()];
    const port = ports[random.below(Math.max(1, ports.length))];
    const flow = port === undefined ? undefined : flows.get(port);
    const kind = random.below(6);
    if (flow === undefined || port === undefined || kind <= 1) {
      if (open === 0) openTick = world.now;
      open++;
      world.syn(next);
      flows.set(next, { created: world.now, micros, awaits: true });
      next = next >= 60_000 ? 10_000 : next + 1;
    } else if (kind === 2) {
      world.syn(port);
      if (flow.awaits && world.now - flow.created >= 200) failed("silent", flow.created);
      flow.awaits = false;
    } else if (kind === 3) {
      world.reply(port, RST | ACK);
      failed("refused", world.now);
      open = 0;
      flows.delete(port);
    } else if (kind === 4) {
      world.unreachable(port, random.below(4));
      if (flow.awaits) failed("unreachable", world.now);
      flow.awaits = false;
    } else {
      world.reply(port, SYN | ACK);
      world.ack(port);
      answers++;
      lastAnswer = world.now;
      open = 0;
      run = 0;
      if (flow.awaits && micros - flow.micros <= 60_000_000) {
        const sample = (micros - flow.micros) * LATENCY_SCALE;
        mean = mean === 0 ? sample : mean + Math.floor((sample - mean) / 8);
      }
      flows.delete(port);
    }
    assert.deepEqual(
      {
        open: world.word(P_OPEN),
        openTick: open === 0 ? 0 : world.word(P_OPEN_TICK),
        run: world.run(),
        answers: world.word(P_ANSWERS),
        latency: world.word(P_LATENCY),
        failures: world.failures(),
      },
      {
        open,
        openTick: open === 0 ? 0 : openTick,
        run,
        answers,
        latency: mean,
        failures: expected,
      },
      `seed ${seed}, step ${step}`,
    );
  }
  world.bench.gateway.close();
});

test("full-nat flows are measured like others; one-way ones do not await anything", () => {
  const world = new World(configOf({ mode: "full-nat", web: "outOfState: reset," }), "full-nat");
  const [sent] = world.bench.client(
    tcpPacket({
      source: CLIENT,
      destination: VIP,
      sourcePort: 40_000,
      destinationPort: 80,
      flags: SYN,
      sequence: ISN,
    }),
  );
  const port = new DataView(sent!.bytes.buffer, sent!.bytes.byteOffset).getUint16(34);
  assert.notEqual(world.stateOf(0) & FLAG_AWAITS, 0);
  world.after(61);
  world.bench.backend(
    tcpPacket({
      source: BACKEND,
      destination: SNAT,
      sourcePort: 8080,
      destinationPort: port,
      flags: SYN | ACK,
      sequence: 5,
      acknowledgement: ISN + 1,
    }),
  );
  assert.equal(world.latencyUs(), 61);
  assert.equal(world.stateOf(0) & FLAG_AWAITS, 0);
  world.bench.gateway.close();

  const oneWay = new World(
    configOf({ mode: "ipip", top: "tunnel: { source: { ipv4: 10.20.0.1 } }" })
      .replaceAll("port: 8080", "port: 80")
      .replaceAll("port: 5353", "port: 53"),
  );
  oneWay.syn(40_000);
  assert.equal(oneWay.stateOf(0) & FLAG_AWAITS, 0);
  assert.equal(oneWay.word(P_OPEN), 0);
  oneWay.bench.gateway.close();
});

test("IPv6: latency, a refusal, and ICMPv6", () => {
  const bench = new Bench6({ yaml: yaml6({ more: "outOfState: reset," }) });
  const { i32 } = bench.gateway.views;
  const run = passiveRunWord(bench.gateway.views, 0, 0);
  const toVip = { source: CLIENT6, destination: VIP6, destinationPort: 80 };
  const back = { source: BACKEND6, destination: CLIENT6, sourcePort: 8080 };
  const syn = (sourcePort: number): void => {
    assert.equal(bench.client(tcp6({ ...toVip, sourcePort, flags: SYN, sequence: ISN })).length, 1);
  };
  bench.gateway.device.setTick(1_000_000, 5_000_000);
  syn(40_000);
  bench.gateway.device.setTick(1_000_000, 5_000_419);
  const answer = { ...back, destinationPort: 40_000, acknowledgement: ISN + 1 };
  bench.backend(tcp6({ ...answer, flags: SYN | ACK }));
  assert.equal(i32[run + P_LATENCY], 419 * LATENCY_SCALE);
  syn(40_001);
  bench.backend(tcp6({ ...answer, destinationPort: 40_001, flags: RST | ACK }));
  // No route, prohibited, address and port unreachable: all but the second say that it is not there.
  for (const code of [0, 1, 3, 4]) {
    const sourcePort = 41_000 + code;
    syn(sourcePort);
    const sent = { source: CLIENT6, destination: BACKEND6, sourcePort, destinationPort: 8080 };
    const data = [...tcp6({ ...sent, flags: SYN, sequence: ISN })];
    const icmp = icmp6({ source: BACKEND6, destination: CLIENT6, type: 1, code, data });
    assert.equal(bench.backend(icmp).length, 1);
  }
  const failures = FAILED_NAMES.map((_, kind) => failedTotal(bench.gateway.views, 0, kind));
  assert.deepEqual(failures, [0, 1, 3, 0]);
  bench.gateway.close();
});
