import assert from "node:assert/strict";
import { test } from "node:test";
import { configNotes, parseConfig } from "../../src/control/config/load.ts";
import { seedWord } from "../../src/scheduler/mix.ts";
import { nameAffinity, sharedAddresses } from "../../src/service/affinity-words.ts";
import type { ServiceDefinition } from "../../src/service/definition.ts";

/** Services of a file, each `name: group` ("": alone) with the backends that are named by a number. */
function services(...rows: readonly (readonly [string, string, ...number[]])[]) {
  const text = rows.map(([name, group, ...hosts], index) => {
    const affinity = group === "" ? "{ timeout: 1m }" : `{ timeout: 1m, group: ${group} }`;
    const backends = hosts.map((host) => `{ address: 10.20.0.${host} }`).join(", ");
    return `  - { name: ${name}, vip: 203.0.113.10, port: ${80 + index}, protocol: tcp, health: none, affinity: ${affinity}, backends: [${backends}] }`;
  });
  const head = "version: 1\ndevice: { type: packet, interfaces: [eth0] }\nservices:\n";
  return parseConfig(`${head}${text.join("\n")}\n`, "gw.yaml");
}

test("numbers are made of names: the same in another order, beside others, in another process", () => {
  const one = services(["web", "shop", 1], ["tls", "shop", 1], ["dns", "", 1]).services;
  const two = services(["dns", "", 2], ["aaa", "other", 1], ["tls", "shop", 3]).services;
  const [a, b] = [nameAffinity(one), nameAffinity(two)];
  assert.equal(a.groupOf(one[0]!), a.groupOf(one[1]!));
  assert.equal(a.groupOf(one[0]!), b.groupOf(two[2]!));
  assert.equal(a.groupOf(one[2]!), b.ownOf(two[0]!));
  assert.equal(a.groupOf(one[0]!), seedWord("group shop"));
  assert.notEqual(a.groupOf(one[0]!), a.ownOf(one[0]!));
  assert.deepEqual(a.nameOf(a.groupOf(one[1]!)), { kind: "group", name: "shop" });
  assert.deepEqual(a.nameOf(a.ownOf(one[2]!)), { kind: "service", name: "dns" });
  assert.equal(a.nameOf(12345), null);
});

test("names that give one number get two", () => {
  // Found by search: a birthday among some 80,000 names.
  const seen = new Map<number, string>();
  let pair: [string, string] | null = null;
  for (let id = 0; pair === null; id++) {
    const name = `s${id}`;
    const number = seedWord(`service ${name}`);
    const before = seen.get(number);
    if (before !== undefined) pair = [before, name];
    seen.set(number, name);
  }
  const affinity = { ipv4: 32, ipv6: 128, timeoutMs: 1000, group: null };
  const both = pair.map((name) => ({ name, affinity })) as unknown as ServiceDefinition[];
  for (const order of [both, both.toReversed()]) {
    const names = nameAffinity(order);
    const numbers = both.map(names.ownOf);
    assert.notEqual(numbers[0], numbers[1]);
    assert.deepEqual(
      numbers.map((number) => names.nameOf(number)?.name),
      pair,
    );
  }
});

test("shared addresses, and the notes about groups that share less than they seem to", () => {
  const definition = services(["web", "shop", 1, 2], ["tls", "shop", 2, 3], ["dns", "alone", 4]);
  assert.deepEqual(
    sharedAddresses(definition.services),
    new Map([
      ["shop", new Set(["10.20.0.2"])],
      ["alone", new Set(["10.20.0.4"])],
    ]),
  );
  const notes = configNotes(definition)
    .filter(({ path }) => path.includes("affinity"))
    .map(({ message }) => message);
  assert.deepEqual(notes, [
    'not every service of group "shop" has a backend at 10.20.0.1: clients that get it keep it in service "web" alone',
    'not every service of group "shop" has a backend at 10.20.0.3: clients that get it keep it in service "tls" alone',
    'service "dns" is the only one of group "alone"',
  ]);
});
