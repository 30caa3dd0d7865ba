import assert from "node:assert/strict";
import { test } from "node:test";
import { ethernetFrame } from "../support/frames.ts";
import { MALFORMED_6, VIP_6 } from "../support/malformed6.ts";
import { CLIENT_MAC, createMemoryGateway, GATEWAY_MACS } from "../support/memory-gateway.ts";

/** One drop each, by its name, on Ethernet and on TUN; and nothing is sent. */

const YAML = (device: string): string => `
version: 1
device: ${device}
services:
  - { name: web, vip: "${VIP_6}", port: 80, protocol: tcp, scheduler: rr, backends: [{ address: "2001:db8:2::11", port: 8080 }] }
  - { name: dns, vip: "${VIP_6}", port: 53, protocol: udp, scheduler: rr, backends: [{ address: "2001:db8:2::11", port: 53 }] }
`;
const GROUP_MAC = "33:33:ff:00:00:10";

const DEVICES = { 14: "{ type: packet, interfaces: [a, b] }", 0: "{ type: tun, name: hg0 }" };
const gateways = {
  14: createMemoryGateway({ yaml: YAML(DEVICES[14]), linkHeaderBytes: 14 }),
  0: createMemoryGateway({ yaml: YAML(DEVICES[0]), linkHeaderBytes: 0 }),
};

for (const { name, packet, reason, isNeighbour = false } of MALFORMED_6) {
  test(`${name}: ${reason}`, () => {
    for (const link of isNeighbour ? ([14] as const) : ([14, 0] as const)) {
      const gateway = gateways[link];
      const before = gateway.counters();
      const destination = isNeighbour ? GROUP_MAC : GATEWAY_MACS[0];
      const frame = ethernetFrame(packet, { destination, source: CLIENT_MAC, type: 0x86dd });
      gateway.device.inject(link === 0 ? packet : frame, 0);
      gateway.datapath.runBatch(0);
      gateway.checkLaw();
      const after = gateway.counters();
      const counted = ["received", "dropped", reason].map(
        (counter) => (after[counter] ?? 0) - (before[counter] ?? 0),
      );
      assert.deepEqual(counted, [1, 1, 1], `link ${link}: ${JSON.stringify(after)}`);
      assert.deepEqual(gateway.device.sent, []);
    }
  });
}

test("names are unique", () => {
  assert.equal(new Set(MALFORMED_6.map(({ name }) => name)).size, MALFORMED_6.length);
});
