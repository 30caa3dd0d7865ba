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

for (const { name, packet, reason, isNeighbour = false } of MALFORMED_6) {
  test(`${name}: ${reason}`, () => {
    for (const link of isNeighbour ? ([14] as const) : ([14, 0] as const)) {
      const device =
        link === 0 ? "{ type: tun, name: hg0 }" : "{ type: packet, interfaces: [a, b] }";
      const gateway = createMemoryGateway({ yaml: YAML(device), linkHeaderBytes: link });
      const destination = isNeighbour ? GROUP_MAC : GATEWAY_MACS[0];
      const frame = ethernetFrame(packet, { destination, source: CLIENT_MAC, type: 0x86dd });
      gateway.device.inject(link === 0 ? packet : frame, 0);
      gateway.datapath.runBatch(0);
      gateway.checkLaw();
      const { received, dropped, [reason]: named } = gateway.counters();
      const text = JSON.stringify(gateway.counters());
      assert.deepEqual([received, dropped, named], [1, 1, 1], `link ${link}: ${text}`);
      assert.deepEqual(gateway.device.sent, []);
      gateway.close();
    }
  });
}

test("names are unique", () => {
  assert.equal(new Set(MALFORMED_6.map(({ name }) => name)).size, MALFORMED_6.length);
});
