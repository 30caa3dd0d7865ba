import assert from "node:assert/strict";
import { test } from "node:test";
import { REPLY_TOKENS_BURST } from "../../src/base/limits.ts";
import { MODE_FULL_NAT } from "../../src/flow/flow-record.ts";
import { createFlowTable } from "../../src/flow/flow-table.ts";
import { OWNER_PORT_COUNTS, ownerOfClient, ownerOfSnatPort } from "../../src/flow/owner.ts";
import { listFlows } from "../../src/flow/read-flows.ts";
import {
  H_ANNOUNCE_REQUESTED,
  H_FLOWS_SCATTERED,
  H_SECRET,
  viewShard,
} from "../../src/state/layout.ts";
import { distinctFlow, insertSample } from "../flow/sample-flows.ts";
import {
  ACK,
  addressNumber,
  arpRequest,
  describe,
  ethernetFrame,
  FIN,
  icmpEcho,
  icmpError,
  ipv4Packet,
  SYN,
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
 * Goal: several workers do what one would, whichever of them a frame comes to.
 * Method: workers on frames in memory, in one thread; the test says who gets each frame, and the
 * verdict law is checked for each worker after every frame.
 */

const CLIENT = "198.51.100.2";
const VIP = "203.0.113.10";
const SNAT = "10.20.0.100";
const BACKEND = "10.20.0.11";

function yaml(mode: "nat" | "full-nat"): string {
  return `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
snat: { addresses: [${SNAT}], ports: 2000-2999 }
services:
  - { name: web, vip: ${VIP}, port: 80, protocol: [tcp, udp], mode: ${mode}, ping: always, scheduler: rr,
      backends: [{ address: ${BACKEND}, port: 8080 }] }
`;
}

interface Ends {
  readonly source: string;
  readonly sourcePort: number;
  readonly destination: string;
  readonly destinationPort: number;
}

class Bench {
  readonly gateway: MemoryGateway;
  readonly link: 0 | 14;

  constructor(mode: "nat" | "full-nat", workers: number, link: 0 | 14 = 14) {
    this.link = link;
    this.gateway = createMemoryGateway({
      yaml: yaml(mode),
      linkHeaderBytes: link,
      size: { workers },
      slotBytes: 66_000,
    });
  }

  /** Give a packet to one worker, let all work; what left, as "worker: line". */
  send(worker: number, packet: Uint8Array, ingress: 0 | 1, words = { vnet: 0, csum: 0 }): string[] {
    const source = ingress === 0 ? CLIENT_MAC : backendMac(addressNumber(BACKEND));
    const frame =
      this.link === 0
        ? packet
        : ethernetFrame(packet, { destination: GATEWAY_MACS[ingress], source });
    return this.raw(worker, frame, this.link === 0 ? 0 : ingress, words);
  }

  raw(worker: number, frame: Uint8Array, ingress: number, words = { vnet: 0, csum: 0 }): string[] {
    const { workers } = this.gateway;
    for (const { device } of workers) device.sent.length = 0;
    workers[worker]!.device.inject(frame, ingress, words);
    for (let batch = 0; batch < 2 * workers.length + 2; batch++) {
      for (const { datapath } of workers) {
        datapath.runBatch(0);
        this.gateway.checkLaw();
      }
    }
    return workers.flatMap(({ device }, number) =>
      device.sent.map(({ bytes }) => `${number}: ${describe(bytes.subarray(this.link), 0)}`),
    );
  }

  get count(): Record<string, number> {
    return this.gateway.counters();
  }

  ownerOf(port: number): number {
    const { i32, layout } = this.gateway.views;
    const [k0, k1] = i32.subarray(H_SECRET, H_SECRET + 2);
    const client = addressNumber(CLIENT);
    return ownerOfClient(k0!, k1!, client, port, OWNER_PORT_COUNTS, layout.workers);
  }

  /** A client port whose flows this worker owns. */
  portOf(worker: number): number {
    let port = 40_000;
    while (this.ownerOf(port) !== worker) port++;
    return port;
  }

  /** A connection of the client; what the backend sees of it. */
  connect(worker: number, sourcePort: number): Ends {
    const ends = { source: CLIENT, sourcePort, destination: VIP, destinationPort: 80 };
    assert.equal(
      this.send(worker, tcpPacket({ ...ends, flags: SYN, sequence: 1000 }), 0).length,
      1,
    );
    const { flows } = listFlows(this.gateway.views, {}, 100);
    const flow = flows.find(({ clientPort }) => clientPort === sourcePort)!;
    assert.equal(flow.worker, this.ownerOf(sourcePort), "a flow lies with its owner");
    const snat = flow.mode === MODE_FULL_NAT;
    return {
      source: BACKEND,
      sourcePort: 8080,
      destination: snat ? SNAT : CLIENT,
      destinationPort: flow.replyPort,
    };
  }
}

for (const mode of ["nat", "full-nat"] as const) {
  for (const workers of [2, 5]) {
    test(`${mode}, ${workers} workers: a connection by any of them is one flow of its owner`, () => {
      const bench = new Bench(mode, workers);
      for (let owner = 0; owner < workers; owner++) {
        const port = bench.portOf(owner);
        for (let first = 0; first < workers; first++) {
          const reply = bench.connect(first, port);
          if (mode === "full-nat") {
            assert.equal(ownerOfSnatPort(reply.destinationPort, workers), owner);
          }
          const ends = { source: CLIENT, sourcePort: port, destination: VIP, destinationPort: 80 };
          for (let worker = 0; worker < workers; worker++) {
            const [back, ...others] = bench.send(
              worker,
              tcpPacket({ ...reply, flags: SYN | ACK, acknowledgement: 1001 }),
              1,
            );
            assert.deepEqual(others, []);
            const wanted = `${owner}: ${VIP}:80 > ${CLIENT}:${port} tcp`;
            assert.ok(back?.startsWith(wanted), `${back}, ${wanted}`);
            const [on] = bench.send(worker, tcpPacket({ ...ends, flags: ACK }), 0);
            assert.match(on!, new RegExp(`^${owner}: .* > ${BACKEND}:8080 tcp`));
          }
          // Closed by both ends: the next round begins it anew.
          bench.send(first, tcpPacket({ ...ends, flags: FIN | ACK }), 0);
          bench.send(first, tcpPacket({ ...reply, flags: FIN | ACK }), 1);
          bench.send(first, tcpPacket({ ...ends, flags: ACK }), 0);
        }
      }
      assert.equal(bench.count["dropped"], 0);
      assert.equal(listFlows(bench.gateway.views, {}, 100).total, workers);
      assert.ok(bench.count["handed_over"]! > 0);
      assert.equal(bench.count["handed_over"], bench.count["handed_in"]);
    });
  }
}

test("what was steered well is handed to nobody", () => {
  const bench = new Bench("full-nat", 3);
  for (let owner = 0; owner < 3; owner++) {
    const reply = bench.connect(owner, bench.portOf(owner));
    assert.equal(bench.send(owner, tcpPacket({ ...reply, flags: SYN | ACK }), 1).length, 1);
  }
  assert.equal(bench.count["handed_over"], 0);
  assert.equal(bench.count["forwarded"], 6);
});

test("an ICMP error comes to the worker that has the flow it quotes, in both directions", () => {
  for (const mode of ["nat", "full-nat"] as const) {
    const bench = new Bench(mode, 3);
    const port = bench.portOf(1);
    const reply = bench.connect(1, port);
    const toBackend = udpOrTcp(reply.destination, reply.destinationPort, BACKEND, 8080);
    const toClient = udpOrTcp(VIP, 80, CLIENT, port);
    for (let worker = 0; worker < 3; worker++) {
      const fromBackend = error(BACKEND, reply.destination, toBackend);
      const [first] = bench.send(worker, fromBackend, 1);
      assert.match(first ?? "", new RegExp(`^1: .*${CLIENT}.*icmp`), `${mode} ${worker}`);
      const fromClient = error("198.51.100.77", VIP, toClient);
      const [second] = bench.send(worker, fromClient, 0);
      assert.match(second ?? "", new RegExp(`^1: .*${BACKEND}.*icmp`), `${mode} ${worker}`);
    }
    assert.equal(bench.count["handed_over"], 4);
    assert.equal(bench.count["dropped"], 0);
  }
});

function udpOrTcp(source: string, sourcePort: number, destination: string, port: number) {
  return tcpPacket({ source, sourcePort, destination, destinationPort: port, flags: ACK });
}

function error(source: string, destination: string, quote: Uint8Array): Uint8Array {
  const payload = icmpError({ type: 3, code: 1, quote: quote.subarray(0, 28) });
  return ipv4Packet({ source, destination, protocol: 1, payload });
}

test("whoever gets them answers ARP and ping; only worker 0 announces", () => {
  const bench = new Bench("nat", 3);
  for (let worker = 0; worker < 3; worker++) {
    const asked = arpRequest({ senderAddress: CLIENT, targetAddress: VIP });
    assert.equal(bench.raw(worker, asked, 0).length, 1);
    const ping = ipv4Packet({ source: CLIENT, destination: VIP, protocol: 1, payload: icmpEcho() });
    assert.equal(bench.send(worker, ping, 0).length, 1);
  }
  assert.equal(bench.count["replied"], 6);
  assert.equal(bench.count["handed_over"], 0);
  bench.gateway.views.i32[H_ANNOUNCE_REQUESTED] = 1;
  for (const { device } of bench.gateway.workers) device.sent.length = 0;
  bench.gateway.settle();
  const announced = bench.gateway.workers.map(({ device }) => device.sent.length);
  assert.ok(announced[0]! > 0);
  assert.deepEqual(announced.slice(1), [0, 0]);
});

test("a packet that is no flow is left to the kernel, on TUN by its owner", () => {
  const packet = tcpPacket({
    source: CLIENT,
    sourcePort: 1234,
    destination: "192.0.2.9",
    destinationPort: 22,
    flags: SYN,
  });
  const ethernet = new Bench("nat", 3);
  for (let worker = 0; worker < 3; worker++) {
    assert.deepEqual(ethernet.send(worker, packet, 0), []);
  }
  assert.equal(ethernet.count["passed"], 3);
  assert.equal(ethernet.count["handed_over"], 0);
  const tun = new Bench("nat", 3, 0);
  const owners = [0, 1, 2].map((worker) => {
    const sent = tun.send(worker, packet, 0);
    assert.equal(sent.length, 1, "written back once");
    return sent[0]!.split(":")[0];
  });
  assert.equal(new Set(owners).size, 1);
  assert.equal(tun.count["passed"], 3);
  assert.equal(tun.count["handed_over"], 2);
});

test("a GSO frame is handed over whole, with its virtio header", () => {
  const bench = new Bench("nat", 2);
  const port = bench.portOf(1);
  bench.connect(1, port);
  const ends = { source: CLIENT, sourcePort: port, destination: VIP, destinationPort: 80 };
  const data = Uint8Array.from({ length: 60_000 }, (_, index) => index & 0xff);
  const packet = tcpPacket({ ...ends, flags: ACK, data, checksum: "partial" });
  const words = { vnet: 1 | (1 << 8) | (1400 << 16), csum: 34 | (16 << 16) };
  const frame = ethernetFrame(packet, { destination: GATEWAY_MACS[0], source: CLIENT_MAC });
  const sentBy = (worker: number): Uint8Array => {
    bench.raw(worker, frame, 0, words);
    const [sent] = bench.gateway.workers[1]!.device.sent;
    assert.deepEqual({ vnet: sent!.vnet, csum: sent!.csum }, words);
    return sent!.bytes;
  };
  assert.deepEqual(sentBy(0), sentBy(1));
  assert.equal(bench.count["handed_over"], 1);
});

test("a worker that does not look costs a drop with a reason, and nothing else", () => {
  const bench = new Bench("nat", 2);
  const ends = { source: CLIENT, sourcePort: bench.portOf(1), destination: VIP };
  const packet = udpPacket({ ...ends, destinationPort: 80, data: new Uint8Array(30_000) });
  const frame = ethernetFrame(packet, { destination: GATEWAY_MACS[0], source: CLIENT_MAC });
  const [first] = bench.gateway.workers;
  for (let index = 0; index < 100; index++) {
    first!.device.inject(frame, 0, { vnet: (1400 << 16) | (5 << 8) | 1, csum: 34 | (6 << 16) });
    first!.datapath.runBatch(0);
    bench.gateway.checkLaw();
  }
  const { handed_over: handed = 0, handover_full: full = 0 } = bench.count;
  assert.equal(handed + full, 100);
  assert.equal(handed, Math.floor((1 << 20) / (16 + 4 * Math.ceil((2 + frame.length) / 4))));
  bench.gateway.settle();
  bench.gateway.checkLaw();
  assert.equal(bench.count["handed_in"], handed);
});

test("replies of scattered flows go round until one has the flow, or all have looked", () => {
  for (const workers of [2, 3, 4]) {
    const bench = new Bench("full-nat", workers);
    const { views } = bench.gateway;
    const other = tcpPacket({
      source: BACKEND,
      sourcePort: 8080,
      destination: SNAT,
      destinationPort: 2001,
      flags: ACK,
    });
    assert.deepEqual(bench.send(0, other, 1), []);
    assert.equal(bench.count["handed_over"], ownerOfSnatPort(2001, workers) === 0 ? 0 : 1);
    views.i32[H_FLOWS_SCATTERED] = 1;
    // Made by a process with another number of workers: each holds a flow whose port is another's.
    for (let holder = 0; holder < workers; holder++) {
      const port = 2000 + workers * 10 + ((holder + 1) % workers);
      insertSample(
        createFlowTable(viewShard(views, holder)),
        distinctFlow(holder, {
          client: addressNumber(CLIENT) | 0,
          clientPort: 50_000 + holder,
          vip: addressNumber(VIP) | 0,
          backend: addressNumber(BACKEND) | 0,
          backendPort: 8080,
          slot: 0,
          generation: 1,
          snat: { address: addressNumber(SNAT) | 0, port },
        }),
      );
      const reply = { source: BACKEND, sourcePort: 8080, destination: SNAT };
      for (let worker = 0; worker < workers; worker++) {
        const before = bench.count["handed_over"]!;
        const packet = tcpPacket({ ...reply, destinationPort: port, flags: ACK });
        const sent = bench.send(worker, packet, 1);
        assert.equal(sent.length, 1, `port ${port} by worker ${worker} of ${workers}`);
        assert.match(sent[0]!, new RegExp(`^${holder}: ${VIP}:80 > ${CLIENT}:${50_000 + holder} `));
        assert.ok(bench.count["handed_over"]! - before <= workers);
      }
    }
    const drops = bench.count["out_of_state"]!;
    for (let worker = 0; worker < workers; worker++) bench.send(worker, other, 1);
    assert.equal(bench.count["out_of_state"], drops + workers, "nobody has it: a drop each");
  }
});

test("limits are the gateway's: workers share the tokens of replies", () => {
  const bench = new Bench("nat", 4);
  const unknown = { source: CLIENT, destination: VIP, destinationPort: 80 };
  for (let index = 0; index < REPLY_TOKENS_BURST + 200; index++) {
    const packet = tcpPacket({ ...unknown, sourcePort: 1024 + index, flags: ACK });
    const frame = ethernetFrame(packet, { destination: GATEWAY_MACS[0], source: CLIENT_MAC });
    bench.gateway.workers[index % 4]!.device.inject(frame, 0);
    if (index % 32 === 31) bench.gateway.settle();
  }
  bench.gateway.settle();
  assert.ok(bench.count["replied"]! <= REPLY_TOKENS_BURST);
  assert.ok(bench.count["replied"]! > 0.9 * REPLY_TOKENS_BURST);
  assert.ok(bench.count["reply_rate_limited"]! > 100);
});
