import { tuneCompiler } from "../../src/datapath/compiler.ts";
import { X_BACKEND, X_CLIENT, X_REPLY, X_VIP } from "../../src/flow/flow-record.ts";
import { addressIn, listFlows } from "../../src/flow/read-flows.ts";
import { cutPacket } from "./fragments.ts";
import {
  ACK,
  ethernetFrame,
  FIN,
  SYN,
  type TcpFields,
  tcpPacket,
  type UdpFields,
  udpDatagram,
  udpPacket,
} from "./frames.ts";
import { backendMac, CLIENT_MAC, createMemoryGateway, GATEWAY_MACS } from "./memory-gateway.ts";
import { icmp6, type Tcp6, tcp6, udp6 } from "./packets6.ts";

/**
 * The data plane at work, for test/datapath/steady-state.test.ts to watch V8 do nothing: live flows of
 * TCP and UDP, nat and full-nat, of both families and between them, in both directions, with
 * connections that come and go and packets that are dropped or passed among them. Prints "steady" when
 * it is warm, and "done".
 *
 *   node --trace-deopt --trace-gc dist/bundled/test/support/steady-state-main.js
 */
const WARM_BATCHES = 30_000;
const STEADY_BATCHES = 20_000;
const CLIENTS = 400;

/** Each is asked for every datagram of its service. */
const SCHEDULERS = [
  ...["rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "hrw", "twos", "random", "fo", "ovf"],
  ...["maglev, tableSize: 251", "maglev, tableSize: 251, maxLoad: 1.25"],
];

function scheduled(scheduler: string, port: number): string {
  return `
  - { name: s${port}, vip: 203.0.113.13, port: ${port}, protocol: udp, scheduler: ${scheduler},
      udp: { perPacket: true },
      backends: [{ address: 10.20.0.11, port: ${port}, weight: 2 }, { address: 10.20.0.12, port: ${port} }] }`;
}

tuneCompiler();
const gateway = createMemoryGateway({
  yaml: `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
snat: { addresses: [10.20.0.100, "2001:db8:2::100"] }
services:
  - { name: web, vip: 203.0.113.10, port: 80, protocol: [tcp, udp], scheduler: wlc, outOfState: drop,
      affinity: { timeout: 1s, group: all, prefix: { ipv6: 64 } },
      backends: [{ address: 10.20.0.11, port: 8080 }, { address: 10.20.0.12, port: 8080 }] }
  - { name: full, vip: 203.0.113.11, port: 80, protocol: [tcp, udp], mode: full-nat, scheduler: maglev,
      tableSize: 251, outOfState: drop, backends: [{ address: 10.20.0.11, port: 8081 }] }
  - { name: six, vip: "2001:db8:ff::10", port: 80, protocol: [tcp, udp], scheduler: wlc, outOfState: drop,
      affinity: { timeout: 1s, group: all, prefix: { ipv6: 64 } },
      backends: [{ address: "2001:db8:2::11", port: 8080 }] }
  - { name: full6, vip: "2001:db8:ff::11", port: 80, protocol: [tcp, udp], mode: full-nat, scheduler: sh,
      outOfState: drop, backends: [{ address: "2001:db8:2::11", port: 8081 }] }
  - { name: between, vip: ["2001:db8:ff::12", 203.0.113.12], port: 80, protocol: [tcp, udp], mode: full-nat,
      scheduler: rr, outOfState: drop,
      backends: [{ address: 10.20.0.11, port: 8082 }, { address: "2001:db8:2::11", port: 8082 }] }
  - { name: dns, vip: 203.0.113.10, port: 53, protocol: udp, scheduler: rr, udp: { perPacket: true },
      backends: [{ address: 10.20.0.11, port: 53 }, { address: 10.20.0.12, port: 53 }] }
  - { name: quic, vip: 203.0.113.10, port: 443, protocol: udp, quic: { serverIdBytes: 2 }, udp: { maxAge: 1m },
      backends: [{ address: 10.20.0.11, port: 443, serverId: "0a0b" }] }
${SCHEDULERS.map((scheduler, index) => scheduled(scheduler, 1000 + index)).join("")}`,
  keepSent: false,
  headroomBytes: 48,
  size: { flowCapacity: 4096 },
});
const { device, datapath, views } = gateway;
const frames: Uint8Array[] = [];
const sides: number[] = [];

function add(side: 0 | 1, packet: ArrayLike<number>, source = CLIENT_MAC): void {
  const type = packet[0]! >>> 4 === 6 ? 0x86dd : 0x0800;
  frames.push(ethernetFrame(packet, { destination: GATEWAY_MACS[side], source, type, padTo: 60 }));
  sides.push(side);
}

let now = 1;
function run(batches: number, from: number, to: number): void {
  let next = from;
  for (let batch = 0; batch < batches; batch++) {
    for (let index = 0; index < 64; index++) {
      device.inject(frames[next]!, sides[next]!);
      next = next + 1 === to ? from : next + 1;
    }
    device.setTick(++now);
    datapath.runBatch(0);
  }
}

/** A segment of the family of its addresses. */
function tcp(fields: TcpFields & { source: string; destination: string }): Uint8Array {
  return fields.source.includes(":") ? tcp6(fields as Tcp6) : tcpPacket(fields);
}

function udp(fields: Omit<Tcp6, "flags">): Uint8Array {
  return fields.source.includes(":") ? udp6(fields) : udpPacket(fields as UdpFields);
}

const VIPS = ["203.0.113.10", "203.0.113.11", "203.0.113.12"];
const VIPS6 = ["2001:db8:ff::10", "2001:db8:ff::11", "2001:db8:ff::12"];
const clients = Array.from({ length: CLIENTS }, (_, index) => ({
  source: `198.51.100.${2 + (index % 200)}`,
  sourcePort: 10_000 + index,
  destination: VIPS[index % 3]!,
  destinationPort: 80,
}));
const clients6 = clients.map((ends, index) => ({
  ...ends,
  source: `2001:db8:1::${(2 + index).toString(16)}`,
  destination: VIPS6[index % 3]!,
}));
for (const ends of [...clients, ...clients6]) {
  add(0, tcp({ ...ends, flags: SYN }));
  add(0, udp({ ...ends, data: [1] }));
}
run(Math.ceil(frames.length / 64), 0, frames.length);
frames.length = 0;
sides.length = 0;
// Which backend a client got, and from which port it is served, stands in the flow table.
for (const flow of listFlows(views, {}, 4096).flows) {
  const ends = {
    source: addressIn(flow, X_BACKEND).text,
    sourcePort: flow.backendPort,
    destination: addressIn(flow, X_REPLY).text,
    destinationPort: flow.replyPort,
  };
  const mac = backendMac(addressIn(flow, X_BACKEND).words[3]);
  const client = {
    source: addressIn(flow, X_CLIENT).text,
    sourcePort: flow.clientPort,
    destination: addressIn(flow, X_VIP).text,
    destinationPort: flow.vipPort,
  };
  if (flow.protocol === 6) {
    add(1, tcp({ ...ends, flags: SYN | ACK }), mac);
    add(0, tcp({ ...client, flags: ACK, data: [1, 2] }));
    add(1, tcp({ ...ends, flags: ACK, data: [3] }), mac);
  } else {
    add(1, udp({ ...ends, data: [4] }), mac);
    add(0, udp({ ...client, data: [5] }));
  }
}
const passing = {
  source: "198.51.100.9",
  destination: "192.0.2.7",
  sourcePort: 9,
  destinationPort: 9,
};
for (let index = 0; index < 64; index++) {
  const ends = { ...clients[0]!, sourcePort: 20_000 + index };
  add(0, tcpPacket({ ...ends, flags: SYN }));
  add(0, tcpPacket({ ...ends, flags: FIN | ACK }));
  add(0, tcpPacket({ ...ends, sourcePort: 30_000 + index, flags: ACK }));
  add(0, udpPacket({ ...passing, data: [index] }));
  const ends6 = { ...clients6[0]!, sourcePort: 20_000 + index };
  add(0, tcp6({ ...ends6, flags: SYN }));
  add(0, tcp6({ ...ends6, flags: FIN | ACK }));
  add(0, tcp6({ ...ends6, sourcePort: 30_000 + index, flags: ACK }));
  add(0, udp6({ ...ends6, destination: "2001:db8:9::1" }));
  add(0, icmp6({ source: ends6.source, destination: "2001:db8:ff::10", type: 128 }));
  add(0, tcpPacket({ ...ends, flags: ACK, ip: { ttl: 1 } }));
}
// Datagrams in fragments, of which the first one comes last; queries from one port; connection IDs.
for (let index = 0; index < 16; index++) {
  const ends = { source: "198.51.100.77", destination: "203.0.113.10" };
  const data = new Uint8Array(1000);
  const whole = udpDatagram({ ...ends, sourcePort: 6000 + index, destinationPort: 80, data });
  const cut = { ...ends, payload: 400, protocol: 17, id: index };
  for (const fragment of cutPacket(whole, cut).toReversed()) add(0, fragment);
  add(0, udpPacket({ ...ends, sourcePort: 7000, destinationPort: 53, data: [index] }));
  const dcid = [8, 0x0a, 0x0b, 1, 2, 3, 4, 5, 6];
  add(0, udpPacket({ ...ends, sourcePort: 8000, destinationPort: 443, data: [0x41, ...dcid] }));
}
for (const index of SCHEDULERS.keys()) {
  const ends = { source: "198.51.100.78", destination: "203.0.113.13" };
  for (const sourcePort of [9000, 9001, 9002]) {
    add(0, udpPacket({ ...ends, sourcePort, destinationPort: 1000 + index, data: [index] }));
  }
}

run(WARM_BATCHES, 0, frames.length);
console.log("steady");
run(STEADY_BATCHES, 0, frames.length);
console.log("done");
gateway.checkLaw();
console.log(JSON.stringify(gateway.counters()));
