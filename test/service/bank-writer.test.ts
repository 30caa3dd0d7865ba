import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { addressOf4, parseIpv4 } from "../../src/base/address.ts";
import { HeadgateError } from "../../src/base/errors.ts";
import { parseConfig } from "../../src/control/config/load.ts";
import {
  MODE_FULL_NAT,
  MODE_NAT,
  STATE_ESTABLISHED,
  STATE_TIME_WAIT,
  STATE_UDP_REPLIED,
} from "../../src/flow/flow-record.ts";
import {
  ADMIN_DISABLED,
  ADMIN_DRAINED,
  ADMIN_ENABLED,
  HEALTH_DOWN,
  HEALTH_STARTING,
  HEALTH_UP,
} from "../../src/service/backend-slots.ts";
import {
  A_IS_BACKEND,
  A_IS_HOST,
  A_IS_SNAT,
  A_IS_VIP,
  A_USED,
  BANK_ANNOUNCE,
  BANK_EVICT,
  BANK_LAST_HOP,
  BANK_NUMBER,
  BANK_SEED,
  BANK_SERVICE_COUNT,
  BANK_SNAT_ADDRESSES,
  BANK_SNAT_COUNT,
  BANK_SNAT_PORT_HIGH,
  BANK_SNAT_PORT_LOW,
  NO_BACKEND_DROP,
  NO_BACKEND_RESET,
  NO_BACKEND_SORRY,
  OUT_OF_STATE_ADOPT,
  OUT_OF_STATE_DROP,
  OUT_OF_STATE_RESET,
  S_HASH_SIZE,
  S_MODE,
  S_NO_BACKEND,
  S_ON_IDLE,
  S_OUT_OF_STATE,
  S_SCHEDULER,
  S_SORRY_SLOT,
  S_TIMEOUTS,
  S_USED,
  S_WEIGHT_SUM,
  SCHEDULER_NAMES,
} from "../../src/service/bank.ts";
import { writeBank } from "../../src/service/bank-writer.ts";
import type {
  GatewayDefinition,
  ProtocolName,
  ServiceDefinition,
} from "../../src/service/definition.ts";
import { tableWords } from "../../src/service/hash-tables.ts";
import { assignSlots, type SlotAssignment } from "../../src/service/slots.ts";
import { H_BANK_PUBLISHED, type RegionViews } from "../../src/state/layout.ts";
import { address, backend, gateway, service } from "../control/definitions.ts";
import { type BankReader, readBank } from "./bank-reader.ts";
import { BACKENDS, randomConfig, SNAT, SORRY, VIPS } from "./random-config.ts";
import { memoryRegion, setSlot } from "./regions.ts";

const HOSTS = ["192.0.2.1", "10.20.0.1"] as const;
const value = (text: string): number => parseIpv4(text)!;

function write(
  views: RegionViews,
  number: number,
  definition: GatewayDefinition,
): { assignment: SlotAssignment; bank: BankReader } {
  const assignment = assignSlots(views, definition, 0);
  writeBank(views, number, definition, assignment, HOSTS.map(value).map(addressOf4));
  views.i32[H_BANK_PUBLISHED] = number;
  return { assignment, bank: readBank(views, number) };
}

/** Who has a port of a VIP, by walking the configuration: exact beats range beats any. */
function ownerOf(
  definition: GatewayDefinition,
  vip: string,
  protocol: ProtocolName,
  port: number,
): string | null {
  let best: { name: string; rank: number } | null = null;
  for (const one of definition.services) {
    if (!one.protocols.includes(protocol)) continue;
    if (!one.vips.some((address) => address.text === vip)) continue;
    for (const { low, high } of one.ports) {
      if (port < low || port > high) continue;
      const rank = low === high ? 0 : low === 1 && high === 65_535 ? 2 : 1;
      if (best === null || rank < best.rank) best = { name: one.name, rank };
    }
  }
  return best?.name ?? null;
}

/** Names of the services for which an address and port is a `nat` backend or sorry server. */
function backendOf(
  definition: GatewayDefinition,
  text: string,
  protocol: ProtocolName,
  port: number,
): string[] {
  return definition.services
    .filter((one) => one.mode === "nat" && one.protocols.includes(protocol))
    .filter(({ backends, noBackend }) =>
      [...backends, ...(noBackend.sorry === null ? [] : [noBackend.sorry])].some(
        (server) => server.address.text === text && (server.port === 0 || server.port === port),
      ),
    )
    .map((one) => one.name);
}

/** Every port at which something can begin or end. */
function interestingPorts(definition: GatewayDefinition): number[] {
  const edges = definition.services.flatMap((one) => [
    ...one.ports.flatMap(({ low, high }) => [low - 1, low, low + 1, high - 1, high, high + 1]),
    ...one.backends.flatMap(({ port }) => [port - 1, port, port + 1]),
  ]);
  const all = [...edges, 0, 1, 50, 81, 7777, 40_000, 65_535];
  return [...new Set(all)].filter((port) => port >= 0 && port <= 65_535);
}

function checkLookups(
  definition: GatewayDefinition,
  assignment: SlotAssignment,
  bank: BankReader,
): void {
  const nameOf = new Map(assignment.services.map((one) => [one.slot, one.definition.name]));
  const protocolOf = new Map(assignment.services.map((one) => [one.slot, one.protocol]));
  const vips = new Set(definition.services.flatMap((one) => one.vips.map(({ text }) => text)));
  for (const protocol of ["tcp", "udp"] as const) {
    for (const port of interestingPorts(definition)) {
      for (const text of [...VIPS, ...BACKENDS, SORRY, ...SNAT, ...HOSTS, "192.0.2.99"]) {
        const found = bank.serviceAt(value(text), protocol, port);
        const name = found === null ? null : nameOf.get(found)!;
        const where = `${text}:${port}/${protocol}`;
        if (found !== null) assert.equal(protocolOf.get(found), protocol, where);
        if (vips.has(text)) {
          assert.equal(name, ownerOf(definition, text, protocol, port), where);
        } else {
          const expected = backendOf(definition, text, protocol, port);
          if (expected.length === 0) assert.equal(name, null, where);
          else assert.ok(name !== null && expected.includes(name), where);
        }
      }
    }
  }
}

function checkAddresses(
  definition: GatewayDefinition,
  bank: BankReader,
  isAlive: (one: ServiceDefinition, protocol: ProtocolName) => boolean,
): void {
  for (const text of [...VIPS, ...BACKENDS, SORRY, ...SNAT, ...HOSTS, "192.0.2.99", "0.0.0.0"]) {
    const found = bank.address(value(text));
    const having = definition.services.filter((one) => one.vips.some((vip) => vip.text === text));
    const isBackend = definition.services.some(
      ({ mode, backends, noBackend }) =>
        mode === "nat" &&
        [...backends, noBackend.sorry].some((server) => server?.address.text === text),
    );
    const flags =
      (having.length > 0 ? A_IS_VIP : 0) |
      (isBackend ? A_IS_BACKEND : 0) |
      (definition.snat.addresses.some((one) => one.text === text) ? A_IS_SNAT : 0) |
      (HOSTS.includes(text as (typeof HOSTS)[number]) ? A_IS_HOST : 0);
    if (flags === 0) {
      assert.equal(found, null, text);
      continue;
    }
    assert.equal(found!.flags, A_USED | flags, text);
    const answers = having.some(
      (one) =>
        one.ping === "always" ||
        (one.ping === "healthy" && one.protocols.some((protocol) => isAlive(one, protocol))),
    );
    assert.equal(found!.answersPing, answers ? 1 : 0, text);
    for (const intervals of [found!.tcp, found!.udp]) {
      intervals.forEach(({ low, high }, index) => {
        assert.ok(low <= high);
        const before = intervals[index - 1];
        assert.ok(before === undefined || before.high < low, "sorted, not overlapping");
      });
    }
  }
}

interface Condition {
  readonly admin: number;
  readonly health: number;
  readonly weightOverride: number;
}

const UP_AND_ENABLED: Condition = { admin: ADMIN_ENABLED, health: HEALTH_UP, weightOverride: -1 };

const condition: fc.Arbitrary<Condition> = fc.oneof(
  fc.constant(UP_AND_ENABLED),
  fc.record({
    admin: fc.constantFrom(ADMIN_ENABLED, ADMIN_ENABLED, ADMIN_DRAINED, ADMIN_DISABLED),
    health: fc.constantFrom(HEALTH_UP, HEALTH_DOWN, HEALTH_DOWN, HEALTH_STARTING),
    weightOverride: fc.constantFrom(-1, -1, 0, 5),
  }),
);

/** Keys of the backends that take new flows, by the words of the design; `down`: in a panic. */
function expectedList(
  one: ServiceDefinition,
  conditionOf: (index: number) => Condition,
): { list: string[]; panic: boolean } {
  const all = one.backends.map((definition, index) => {
    const { admin, health, weightOverride } = conditionOf(index);
    const weight = weightOverride >= 0 ? weightOverride : definition.weight;
    return { definition, weight, health, usable: admin === ADMIN_ENABLED && weight > 0 };
  });
  const having = (health: number): string[] =>
    all
      .filter((backend) => backend.usable && backend.health === health)
      .sort(
        ({ definition: a }, { definition: b }) =>
          (a.address.value >>> 0) - (b.address.value >>> 0) || a.port - b.port,
      )
      .map(({ definition, weight }) => `${definition.address.text}:${definition.port}*${weight}`);
  if (having(HEALTH_UP).length > 0) return { list: having(HEALTH_UP), panic: false };
  if (having(HEALTH_STARTING).length > 0) return { list: having(HEALTH_STARTING), panic: false };
  if (one.noBackend.action !== "panic") return { list: [], panic: false };
  return { list: having(HEALTH_DOWN), panic: true };
}

function text({ address: at, port, weight }: ReturnType<BankReader["list"]>[number]): string {
  const bytes = [at >>> 24, (at >>> 16) & 255, (at >>> 8) & 255, at & 255];
  return `${bytes.join(".")}:${port}*${weight}`;
}

test("property: a walk over the bank finds what a walk over the configuration finds", () => {
  fc.assert(
    fc.property(randomConfig, (yaml) => {
      const definition = parseConfig(yaml, "random.yaml");
      const { assignment, bank } = write(memoryRegion(), 1, definition);
      checkLookups(definition, assignment, bank);
    }),
    { numRuns: 150 },
  );
});

test("property: addresses, services, lists and tables say what configuration and slots say", () => {
  fc.assert(
    fc.property(
      randomConfig,
      fc.array(condition, { minLength: 1, maxLength: 12 }),
      fc.nat(1),
      (yaml, conditions, parity) => {
        const views = memoryRegion();
        const definition = parseConfig(yaml, "random.yaml");
        write(views, 1 + parity, definition);
        const first = assignSlots(views, definition, 0);
        const conditionOf = new Map<number, Condition>();
        for (const { definition: one, backends } of first.services) {
          for (const { slot } of backends) {
            const chosen = conditions[slot % conditions.length]!;
            // Nobody checks them: they cannot be anything but up.
            const found = one.health === null ? { ...chosen, health: HEALTH_UP } : chosen;
            conditionOf.set(slot, found);
            setSlot(views, slot, { ...found });
          }
        }
        const { assignment, bank } = write(views, 2 + parity, definition);
        checkLookups(definition, assignment, bank);
        const lists = new Map<string, { list: string[]; panic: boolean }>();
        for (const { slot, protocol, definition: one, backends, sorry } of assignment.services) {
          const slotOf = new Map(backends.map((each) => [each.definition, each.slot]));
          const expected = expectedList(
            one,
            (index) => conditionOf.get(slotOf.get(one.backends[index]!)!)!,
          );
          lists.set(`${one.name} ${protocol}`, expected);
          const list = bank.list(slot);
          assert.deepEqual(list.map(text), expected.list);
          for (const entry of list) {
            const own = backends.find((each) => each.slot === entry.slot)!.definition;
            assert.equal(own.address.value, entry.address);
            assert.equal(own.port, entry.port);
          }
          const weights = list.map((entry) => entry.weight);
          const word = (index: number): number => bank.service(slot, index);
          assert.equal(word(S_USED), 1);
          assert.equal(word(S_MODE), one.mode === "nat" ? MODE_NAT : MODE_FULL_NAT);
          assert.equal(SCHEDULER_NAMES[word(S_SCHEDULER)], one.scheduler);
          assert.equal(
            word(S_WEIGHT_SUM),
            weights.reduce((sum, weight) => sum + weight, 0),
          );
          assert.equal(word(S_SORRY_SLOT), sorry);
          assert.equal(sorry >= 0, one.noBackend.action === "sorry");
          checkTable(one, list, bank.table(slot));
        }
        checkAddresses(definition, bank, (one, protocol) => {
          const { list, panic } = lists.get(`${one.name} ${protocol}`)!;
          return list.length > 0 && !panic;
        });
      },
    ),
    { numRuns: 150 },
  );
});

/** Shares of the positions follow the weights; which slot is whose is the schedulers' test. */
function checkTable(
  one: ServiceDefinition,
  list: ReturnType<BankReader["list"]>,
  table: readonly number[],
): void {
  const hasSlots = one.scheduler === "maglev" || one.scheduler === "source-hash";
  if (!hasSlots || list.length === 0) {
    const weights = list.map(({ weight }) => weight);
    assert.equal(table.length, list.length === 0 ? 0 : tableWords(one.scheduler, weights, 0));
    return;
  }
  if (one.scheduler === "maglev") assert.equal(table.length, one.tableSize);
  else assert.ok(table.length >= 256 && (table.length & (table.length - 1)) === 0);
  const counts = new Array<number>(list.length).fill(0);
  for (const position of table) {
    assert.ok(position < list.length);
    counts[position]!++;
  }
  const sum = list.reduce((total, { weight }) => total + weight, 0);
  list.forEach(({ weight }, position) => {
    const fair = (table.length * weight) / sum;
    assert.ok(Math.abs(counts[position]! - fair) < 1, `${counts[position]} slots, not ${fair}`);
  });
}

test("the header and a service's record", () => {
  const views = memoryRegion();
  const yaml = `
device: { type: packet, interfaces: [eth0], announce: false, replies: route }
flows: { whenFull: drop }
hash: { seed: fleet }
snat: { addresses: [10.20.0.100, 200.0.0.1], ports: 5000-6000 }
services:
  - { name: a, vip: 203.0.113.1, port: 80, protocol: tcp, scheduler: maglev, onIdle: silent,
      timeouts: { tcp: { established: 1h, timeWait: 7s }, udp: { replied: 9s } },
      noBackend: { action: drop }, backends: [{ address: 10.20.0.1 }] }
  - { name: b, vip: 203.0.113.1, port: 81, protocol: tcp, outOfState: drop, scheduler: sh,
      noBackend: { action: panic }, backends: [{ address: 10.20.0.1 }] }
  - { name: c, vip: 203.0.113.1, port: 82, protocol: tcp, mode: full-nat, scheduler: maglev,
      noBackend: { action: sorry, address: 10.20.0.9, port: 1 }, backends: [] }
  - { name: d, vip: 203.0.113.1, port: 83, protocol: tcp, outOfState: adopt, scheduler: maglev,
      backends: [{ address: 10.20.0.1 }] }
`;
  const { bank, assignment } = write(views, 6, parseConfig(yaml, "test.yaml"));
  const header = [BANK_NUMBER, BANK_SERVICE_COUNT, BANK_SNAT_PORT_LOW, BANK_SNAT_PORT_HIGH];
  assert.deepEqual(header.map(bank.header), [6, 4, 5000, 6000]);
  assert.deepEqual([BANK_ANNOUNCE, BANK_LAST_HOP, BANK_EVICT].map(bank.header), [0, 0, 0]);
  assert.deepEqual(
    [BANK_SNAT_COUNT, BANK_SNAT_ADDRESSES, BANK_SNAT_ADDRESSES + 1].map(bank.header),
    [2, value("10.20.0.100"), value("200.0.0.1")],
  );
  const slots = assignment.services.map((one) => one.slot);
  const column = (word: number): number[] => slots.map((slot) => bank.service(slot, word));
  assert.deepEqual(column(S_ON_IDLE), [0, 1, 1, 1]);
  assert.deepEqual(column(S_OUT_OF_STATE), [
    OUT_OF_STATE_ADOPT,
    OUT_OF_STATE_DROP,
    OUT_OF_STATE_RESET,
    OUT_OF_STATE_ADOPT,
  ]);
  assert.deepEqual(column(S_NO_BACKEND), [
    NO_BACKEND_DROP,
    NO_BACKEND_RESET,
    NO_BACKEND_SORRY,
    NO_BACKEND_RESET,
  ]);
  assert.deepEqual(column(S_HASH_SIZE), [65_537, 256, 0, 65_537]);
  const timeouts = [STATE_ESTABLISHED, STATE_TIME_WAIT, STATE_UDP_REPLIED];
  assert.deepEqual(
    timeouts.map((state) => bank.service(slots[0]!, S_TIMEOUTS + state)),
    [3_600_000, 7000, 9000],
  );
  const plain = write(memoryRegion(), 1, parseConfig(yaml.replace("fleet", "other"), "x")).bank;
  assert.notEqual(plain.header(BANK_SEED), bank.header(BANK_SEED));
});

test("ping: healthy answers for a backend that is up or starting, not for panic", () => {
  const health = {
    type: "tcp",
    intervalMs: 2000,
    fastIntervalMs: 2000,
    downIntervalMs: 2000,
    timeoutMs: 1000,
    rise: 2,
    fall: 3,
    spread: 0,
    port: 0,
    source: null,
    through: "direct",
    path: "/",
    host: null,
    status: [],
  } as const;
  const views = memoryRegion();
  const panic = service("web", { health, noBackend: { action: "panic", sorry: null } });
  const answers = (number: number, states: readonly [number, number]): number => {
    const { assignment } = write(views, number, gateway([panic]));
    assignment.services[0]!.backends.forEach(({ slot }, index) => {
      setSlot(views, slot, { health: states[index]! });
    });
    return write(views, number + 1, gateway([panic])).bank.address(value("203.0.113.10"))!
      .answersPing;
  };
  assert.equal(answers(1, [HEALTH_DOWN, HEALTH_UP]), 1);
  assert.equal(answers(3, [HEALTH_DOWN, HEALTH_STARTING]), 1);
  assert.equal(answers(5, [HEALTH_DOWN, HEALTH_DOWN]), 0);
});

test("only the bank of the number's parity is written", () => {
  const views = memoryRegion();
  const definition = gateway([service("web", { scheduler: "maglev" })]);
  write(views, 1, definition);
  const assignment = assignSlots(views, definition, 0);
  const { banks } = views.layout;
  const before = views.u8.slice();
  writeBank(views, 2, definition, assignment, []);
  const after = views.u8;
  assert.deepEqual(after.slice(0, banks[0].at), before.slice(0, banks[0].at));
  assert.deepEqual(after.slice(banks[1].at), before.slice(banks[1].at));
  assert.equal(readBank(views, 2).list(assignment.services[0]!.slot).length, 2);
  assert.equal(readBank(views, 2).header(BANK_NUMBER), 2);
});

test("a removed service keeps its last record while it has flows, without ports and backends", () => {
  const views = memoryRegion();
  const timeouts = service("x").timeouts;
  const web = service("web", {
    onIdle: "silent",
    scheduler: "maglev",
    mode: "full-nat",
    timeouts: { ...timeouts, tcp: { ...timeouts.tcp, established: 1234 } },
  });
  const shop = service("shop", {
    vips: [address("203.0.113.11")],
    backends: [backend("10.3.0.1")],
  });
  const first = write(views, 1, gateway([web, shop])).assignment.services[0]!;
  setSlot(views, first.backends[0]!.slot, { flows: 1 });
  for (const number of [2, 3, 4]) {
    const { bank } = write(views, number, gateway([shop]));
    const word = (index: number): number => bank.service(first.slot, index);
    assert.deepEqual([S_USED, S_MODE, S_ON_IDLE].map(word), [1, MODE_FULL_NAT, 0]);
    assert.equal(word(S_TIMEOUTS + STATE_ESTABLISHED), 1234);
    assert.deepEqual([bank.list(first.slot), bank.table(first.slot)], [[], []]);
    assert.equal(bank.address(value("203.0.113.10")), null);
  }
  setSlot(views, first.backends[0]!.slot, { flows: 0 });
  assert.equal(write(views, 5, gateway([shop])).bank.service(first.slot, S_USED), 0);
});

test("a removed service whose record is lost has the usual timeouts", () => {
  const views = memoryRegion();
  const first = write(views, 1, gateway([service("web")])).assignment.services[0]!;
  setSlot(views, first.backends[0]!.slot, { flows: 1 });
  // Another process, with a region of another size: slots were copied, banks were not.
  views.i32[H_BANK_PUBLISHED] = 0;
  const { bank } = write(views, 1, gateway([]));
  assert.equal(bank.service(first.slot, S_USED), 1);
  assert.equal(bank.service(first.slot, S_TIMEOUTS + STATE_ESTABLISHED), 7_440_000);
});

test("a definition that does not fit is refused with the key to raise", () => {
  const refuse = (message: RegExp, size: object, ...services: ServiceDefinition[]): void => {
    const views = memoryRegion(size);
    const definition = gateway(services);
    const assignment = assignSlots(views, definition, 0);
    assert.throws(
      () => writeBank(views, 1, definition, assignment, []),
      (error) => error instanceof HeadgateError && message.test(error.message),
    );
  };
  const maglev = service("web", { scheduler: "maglev", tableSize: 251 });
  refuse(/^limits\.hashSlots: expected room for 251 .*, got 250/, { hashSlots: 250 }, maglev);
  const ports = Array.from({ length: 40 }, (_, index) => ({
    low: 2 * index + 1,
    high: 2 * index + 1,
  }));
  refuse(
    /^limits\.services: expected room for/,
    { services: 1, backends: 2 },
    service("web", { ports }),
  );
});

test("1,000 services with 100 backends each: how long a bank takes", (t) => {
  // Room for a port of every backend: see bankSize.
  const views = memoryRegion({ services: 4096, backends: 100_000, hashSlots: 1_100_000 });
  const build = (scheduler: "round-robin" | "maglev"): GatewayDefinition =>
    gateway(
      Array.from({ length: 1000 }, (_, index) =>
        service(`s${index}`, {
          scheduler,
          tableSize: 1021,
          vips: [address(`203.0.${index >> 8}.${index & 255}`)],
          backends: Array.from({ length: 100 }, (_, one) =>
            backend(`10.20.0.${one + 1}:${8000 + index}`),
          ),
        }),
      ),
    );
  const timed = (what: string, work: () => void): void => {
    const begun = performance.now();
    work();
    t.diagnostic(`${what}: ${Math.round(performance.now() - begun)} ms`);
  };
  for (const [step, scheduler] of (["round-robin", "maglev"] as const).entries()) {
    const definition = build(scheduler);
    let assignment: SlotAssignment = { services: [] };
    timed(`${scheduler}: assignSlots`, () => {
      assignment = assignSlots(views, definition, 0);
    });
    for (const again of ["", " again, after one backend went down"]) {
      timed(`${scheduler}: writeBank${again}`, () => {
        writeBank(views, step + 1, definition, assignment, []);
      });
      const bank = readBank(views, step + 1);
      const counts = assignment.services.map((one) => bank.list(one.slot).length);
      assert.equal(
        counts.reduce((sum, count) => sum + count, 0),
        again === "" ? 100_000 : 99_999,
      );
      setSlot(views, assignment.services[0]!.backends[0]!.slot, { health: HEALTH_DOWN });
    }
    setSlot(views, assignment.services[0]!.backends[0]!.slot, { health: HEALTH_UP });
  }
});
