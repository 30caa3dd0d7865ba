import assert from "node:assert/strict";
import { test } from "node:test";
import { ethernetFrame, icmpEcho, ipv4Packet, SYN, tcpPacket } from "../support/frames.ts";
import { CLIENT_MAC, createMemoryGateway, GATEWAY_MACS } from "../support/memory-gateway.ts";

/**
 * What the gateway does not balance, as the README lists it: each is left to the kernel, or a drop
 * with a name; never half a translation. On AF_XDP, which takes frames from the kernel, what would be
 * left is the drop `not_ours`; the XDP program leaves such frames there before we see them.
 */
const VIP = "203.0.113.10";
const CLIENT = "198.51.100.2";
const ENDS = { source: CLIENT, destination: VIP };
const YAML = `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
services:
  - { name: web, vip: ${VIP}, port: 80, protocol: tcp, scheduler: rr, backends: [{ address: 10.20.0.11, port: 8080 }] }
`;

const valid = tcpPacket({ ...ENDS, sourcePort: 40_000, destinationPort: 80, flags: SYN });
const some = Uint8Array.from({ length: 40 }, (_, index) => index);

/** Bytes before the IP header that is inside, and the EtherType that says so. */
function under(type: number, ...before: readonly number[]): Uint8Array {
  return frame(Uint8Array.from([...before, ...valid]), type);
}

function frame(payload: ArrayLike<number>, type = 0x0800): Uint8Array {
  return ethernetFrame(payload, { destination: GATEWAY_MACS[0], source: CLIENT_MAC, type });
}

const protocol = (number: number): Uint8Array =>
  frame(ipv4Packet({ ...ENDS, protocol: number, payload: some }));
const message = (type: number): Uint8Array => {
  const payload = icmpEcho({ data: some });
  payload[0] = type;
  // The checksum takes the difference from type 8.
  payload[2] = (payload[2]! - (type - 8)) & 0xff;
  return frame(ipv4Packet({ ...ENDS, protocol: 1, payload }));
};

/** What it is, the frame, and its one verdict or drop. */
export const UNSUPPORTED: readonly (readonly [what: string, frame: Uint8Array, is: string])[] = [
  ["SCTP to a VIP", protocol(132), "no_service"],
  ["ESP to a VIP", protocol(50), "no_service"],
  ["AH to a VIP", protocol(51), "no_service"],
  ["GRE to a VIP", protocol(47), "no_service"],
  ["IP in IP to a VIP", protocol(4), "no_service"],
  ["IPv6 in IPv4 to a VIP", protocol(41), "no_service"],
  ["DCCP to a VIP", protocol(33), "no_service"],
  ["UDP-Lite to a VIP", protocol(136), "no_service"],
  ["IGMP to a VIP", protocol(2), "no_service"],
  ["a frame with a VLAN tag", under(0x8100, 0, 5, 8, 0), "passed"],
  ["a frame with two VLAN tags", under(0x8100, 0, 5, 0x81, 0, 0, 6, 8, 0), "passed"],
  ["a provider's VLAN tag", under(0x88a8, 0, 5, 0x81, 0, 0, 6, 8, 0), "passed"],
  ["MPLS", under(0x8847, 0, 0x10, 0x01, 0x40), "passed"],
  ["PPPoE", under(0x8864, 0x11, 0, 0, 1, 0, 42, 0, 0x21), "passed"],
  ["IEEE 802.3 with LLC", under(60, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0), "passed"],
  ["LLDP", frame(some, 0x88cc), "passed"],
  [
    "a source route",
    frame(
      tcpPacket({ ...ENDS, sourcePort: 1, destinationPort: 80, ip: { options: [131, 3, 4, 0] } }),
    ),
    "ipv4_options_source_route",
  ],
  ["an ICMP timestamp request", message(13), "icmp_type_not_handled"],
  ["an ICMP address mask request", message(17), "icmp_type_not_handled"],
  ["a router solicitation", message(10), "icmp_type_not_handled"],
];

const gateways = [false, true].map((asXdp) => createMemoryGateway({ yaml: YAML, asXdp }));

for (const [what, bytes, is] of UNSUPPORTED) {
  test(`${what}: ${is}`, () => {
    const names = [is, is === "passed" ? "not_ours" : is];
    for (const [index, gateway] of gateways.entries()) {
      const name = names[index]!;
      const before = gateway.counters();
      gateway.device.inject(bytes, 0);
      gateway.datapath.runBatch(0);
      gateway.checkLaw();
      const after = gateway.counters();
      const counted = ["received", name].map((key) => (after[key] ?? 0) - (before[key] ?? 0));
      assert.deepEqual(counted, [1, 1], JSON.stringify(after));
      assert.deepEqual(gateway.device.sent, []);
    }
  });
}
