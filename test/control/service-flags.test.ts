import assert from "node:assert/strict";
import { test } from "node:test";
import { serviceFlags } from "../../src/control/service-flags.ts";
import { address, service } from "./definitions.ts";

// ipvsadm's column Flags.

const affinity = { ipv4: 32, ipv6: 128, timeoutMs: 300_000, group: null };
const udp = { perPacket: true, maxAgeMs: null };
const both = [address("203.0.113.10"), address("2001:db8:ff::10")];
const ROWS: readonly (readonly [Parameters<typeof service>[1], string])[] = [
  [{}, ""],
  [{ affinity }, "persistent 300"],
  [
    { affinity: { ...affinity, timeoutMs: 1500, ipv4: 24, ipv6: 64 } },
    "persistent 2 mask 255.255.255.0",
  ],
  [
    { vips: both, affinity: { ...affinity, ipv4: 24, ipv6: 64 } },
    "persistent 300 mask 255.255.255.0 mask 64",
  ],
  [{ udp, protocols: ["udp"] }, "ops"],
  [{ udp, protocols: ["tcp"] }, ""],
];
for (const [keys, flags] of ROWS) {
  test(`flags: ${flags || "none"}`, () => {
    assert.equal(serviceFlags(service("web", keys)).join(" "), flags);
  });
}
