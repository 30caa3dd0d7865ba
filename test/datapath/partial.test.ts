import assert from "node:assert/strict";
import { test } from "node:test";
import { VNET_F_NEEDS_CSUM } from "../../src/device/device.ts";
import { W_PARTIAL_CHECKSUMS } from "../../src/state/layout.ts";
import {
  ACK,
  addressNumber,
  arpRequest,
  checksumsOk,
  ethernetFrame,
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
 * Goal: on AF_XDP a partial checksum is recognised by its value and goes on as a partial one; every
 * other frame goes on as on AF_PACKET; what is passed there is the drop `not_ours`.
 */

const YAML = `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
services:
  - name: all
    vip: 203.0.113.10
    port: 80
    protocol: [tcp, udp]
    scheduler: rr
    backends: [{ address: 10.20.0.11, port: 8080 }]
`;
const CLIENT = { source: "198.51.100.2", sourcePort: 40_000 } as const;
const TO_VIP = { ...CLIENT, destination: "203.0.113.10", destinationPort: 80 } as const;
const FROM_BACKEND = {
  source: "10.20.0.11",
  sourcePort: 8080,
  destination: CLIENT.source,
  destinationPort: CLIENT.sourcePort,
} as const;

interface Case {
  readonly name: string;
  readonly packet: Uint8Array;
  readonly partial: boolean;
}

const CASES: readonly Case[] = (["partial", "complete"] as const).flatMap((checksum) => [
  {
    name: `TCP, ${checksum}`,
    packet: tcpPacket({ ...TO_VIP, flags: SYN, checksum }),
    partial: checksum === "partial",
  },
  {
    name: `UDP, ${checksum}`,
    packet: udpPacket({ ...TO_VIP, data: [1, 2, 3], checksum }),
    partial: checksum === "partial",
  },
]);

for (const { name, packet, partial } of [
  ...CASES,
  {
    name: "UDP, none",
    packet: udpPacket({ ...TO_VIP, data: [1, 2, 3], checksum: "none" }),
    partial: false,
  },
]) {
  test(`${name}: goes on as ${partial ? "a partial one" : "it came"}`, () => {
    const gateway = createMemoryGateway({ yaml: YAML, asXdp: true });
    const frame = ethernetFrame(packet, { destination: GATEWAY_MACS[0], source: CLIENT_MAC });
    gateway.device.inject(frame, 0);
    gateway.datapath.runBatch(0);
    const sent = gateway.device.sent[0]!;
    assert.equal(sent.interface, 1);
    assert.equal(sent.vnet & VNET_F_NEEDS_CSUM, partial ? VNET_F_NEEDS_CSUM : 0);
    if (partial) assert.equal(sent.csum, 34 | ((packet[9] === 6 ? 16 : 6) << 16));
    assert.ok(checksumsOk(sent.bytes, { linkHeaderBytes: 14, partial }));
    assert.equal(seenOn(gateway), partial ? 1 : 0);
    gateway.checkLaw();
    gateway.close();
  });
}

/** Bits of the interfaces that a partial checksum came in on. */
function seenOn({ views }: MemoryGateway): number {
  return views.i32[views.layout.workerWord + W_PARTIAL_CHECKSUMS]!;
}

test("the interface is noted: a reply of the backend comes in on the second", () => {
  const gateway = createMemoryGateway({ yaml: YAML, asXdp: true });
  const there = ethernetFrame(tcpPacket({ ...TO_VIP, flags: SYN }), {
    destination: GATEWAY_MACS[0],
    source: CLIENT_MAC,
  });
  const back = ethernetFrame(
    tcpPacket({ ...FROM_BACKEND, flags: SYN | ACK, checksum: "partial" }),
    {
      destination: GATEWAY_MACS[1],
      source: backendMac(addressNumber("10.20.0.11")),
    },
  );
  gateway.device.inject(there, 0);
  gateway.device.inject(back, 1);
  gateway.datapath.runBatch(0);
  assert.equal(gateway.device.sent.length, 2);
  assert.equal(seenOn(gateway), 2);
  gateway.close();
});

test("what AF_PACKET would leave to the kernel is the drop not_ours", () => {
  for (const asXdp of [false, true]) {
    const gateway = createMemoryGateway({ yaml: YAML, asXdp });
    const stranger = udpPacket({ ...CLIENT, destination: "192.0.2.1", destinationPort: 53 });
    gateway.device.inject(ethernetFrame(stranger, { destination: GATEWAY_MACS[0] }), 0);
    gateway.device.inject(ethernetFrame(stranger, { destination: "02:00:00:00:00:99" }), 0);
    gateway.device.inject(
      arpRequest({ senderAddress: CLIENT.source, targetAddress: "198.51.100.1" }),
      0,
    );
    gateway.datapath.runBatch(0);
    const { passed, dropped, not_ours: notOurs = 0 } = gateway.counters();
    assert.deepEqual([passed, dropped, notOurs], asXdp ? [0, 3, 3] : [3, 0, 0]);
    assert.equal(gateway.device.sent.length, 0);
    gateway.checkLaw();
    gateway.close();
  }
});
