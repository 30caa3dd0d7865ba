import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Address, addressOf4 } from "../../src/base/address.ts";
import {
  compileGuard,
  GUARD_BACKEND,
  GUARD_HOST,
  GUARD_VIP,
  GUARD_WHOLE,
  type GuardEntries,
  PORTS_OF_BACKEND,
  PORTS_OF_VIP,
  portEntries,
} from "../../src/host/guard-entries.ts";

const NONE: GuardEntries = { vips: [], backends: [], snat: [], hosts: [] };

const address = (value: number): Address => addressOf4(value);

test("an address has a flag for everything that it is", () => {
  const { addresses } = compileGuard({
    vips: [
      { address: address(1), protocol: 6, low: 80, high: 80 },
      { address: address(2), protocol: 6, low: 80, high: 80 },
    ],
    backends: [
      { address: address(3), protocol: 6, port: 80 },
      { address: address(4), protocol: 6, port: 80 },
    ],
    snat: [address(5)],
    hosts: [2, 4, 6].map(address),
  });
  assert.deepEqual(
    [...addresses.values()]
      .map((one) => [one.address.value, one.flags])
      .sort(([a], [b]) => a! - b!),
    [
      [1, GUARD_WHOLE],
      [2, GUARD_HOST | GUARD_VIP],
      [3, GUARD_BACKEND],
      [4, GUARD_HOST | GUARD_BACKEND],
      [5, GUARD_WHOLE],
      [6, GUARD_HOST],
    ],
  );
});

test("ranges that touch or overlap are one; those of others stay apart", () => {
  const vip = (number: number, protocol: number, low: number, high: number) => ({
    address: address(number),
    protocol,
    low,
    high,
  });
  const { ranges } = compileGuard({
    ...NONE,
    vips: [vip(1, 6, 90, 99), vip(1, 6, 80, 89), vip(1, 6, 85, 95), vip(1, 17, 80, 80)],
    backends: [{ address: address(1), protocol: 6, port: 100 }],
  });
  assert.deepEqual(ranges, [
    { kind: PORTS_OF_VIP, ...vip(1, 6, 80, 99) },
    { kind: PORTS_OF_VIP, ...vip(1, 17, 80, 80) },
    { kind: PORTS_OF_BACKEND, ...vip(1, 6, 100, 100) },
  ]);
});

test("backend port 0 is every port, also 0 itself, and takes the others in", () => {
  const { ranges } = compileGuard({
    ...NONE,
    backends: [
      { address: address(1), protocol: 6, port: 0 },
      { address: address(1), protocol: 6, port: 8080 },
    ],
  });
  assert.deepEqual(ranges, [
    { kind: PORTS_OF_BACKEND, address: address(1), protocol: 6, low: 0, high: 65_535 },
  ]);
  assert.equal(portEntries(ranges).size, 1);
});

test("merged ranges hold exactly the ports that were given", () => {
  const range = fc.record({
    address: fc.integer({ min: 1, max: 2 }).map(address),
    protocol: fc.constantFrom(6, 17),
    low: fc.integer({ min: 1, max: 60 }),
    size: fc.integer({ min: 0, max: 20 }),
  });
  const key = (one: Address, protocol: number, port: number): string =>
    `${one.text}/${protocol}/${port}`;
  fc.assert(
    fc.property(fc.array(range, { maxLength: 12 }), (given) => {
      const vips = given.map(({ size, ...rest }) => ({ ...rest, high: rest.low + size }));
      const wanted = new Set<string>();
      for (const { address, protocol, low, high } of vips) {
        for (let port = low; port <= high; port++) wanted.add(key(address, protocol, port));
      }
      const found: string[] = [];
      for (const { address, protocol, low, high } of compileGuard({ ...NONE, vips }).ranges) {
        for (let port = low; port <= high; port++) found.push(key(address, protocol, port));
      }
      assert.equal(new Set(found).size, found.length, "no port twice");
      assert.deepEqual(new Set(found), wanted);
    }),
  );
});
