import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { HeadgateError } from "../../src/base/errors.ts";
import {
  ADMIN_DRAINED,
  ADMIN_ENABLED,
  B_ADDRESS,
  B_ADMIN,
  B_ADMIN_DEADLINE_MS,
  B_CONFIGURED,
  B_EXISTING,
  B_GENERATION,
  B_HEALTH,
  B_PORT,
  B_PROTOCOL,
  B_RULES,
  B_RULES_DEADLINE_MS,
  B_SERVICE,
  B_USED,
  B_WEIGHT,
  B_WEIGHT_OVERRIDE,
  BF_CONNECTIONS,
  EXISTING_KEEP,
  HEALTH_STARTING,
  HEALTH_UP,
  V_CONFIGURED,
  V_CURSOR,
  V_USED,
} from "../../src/service/backend-slots.ts";
import type { ProtocolName, ServiceDefinition } from "../../src/service/definition.ts";
import { backendFlows, backendRunWord, serviceRunWord } from "../../src/service/runs.ts";
import {
  assignSlots,
  backendKey,
  backendSlotWord,
  findSlots,
  readBackendKey,
  type SlotAssignment,
  serviceKey,
  serviceSlotWord,
  usedBackendSlots,
} from "../../src/service/slots.ts";
import { parseTarget } from "../../src/service/target.ts";
import { KEY_BYTES, type RegionViews } from "../../src/state/layout.ts";
import { address, backend, gateway, service } from "../control/definitions.ts";
import { memoryRegion, setSlot } from "./regions.ts";

function assign(views: RegionViews, ...services: ServiceDefinition[]): SlotAssignment {
  return assignSlots(views, gateway(services), 0);
}

function slotOf(assignment: SlotAssignment, service = 0, index = 0): number {
  return assignment.services[service]!.backends[index]!.slot;
}

/** The key of a slot, as it lies in the region: its length, then its text. */
function keyText(views: RegionViews, keys: "backendKeys" | "serviceKeys", slot: number): string {
  const at = views.layout[keys].at + slot * KEY_BYTES;
  const bytes = views.u8.slice(at + 2, at + 2 + new DataView(views.u8.buffer).getUint16(at, true));
  return Buffer.from(bytes).toString();
}

/** Everything that an assignment may touch. */
function snapshot({ layout, u8 }: RegionViews): Uint8Array {
  return u8.slice(layout.backendSlots.at, layout.hops[0].at);
}

test("a slot says what the definition says", () => {
  const views = memoryRegion();
  const assignment = assign(
    views,
    service("web", {
      protocols: ["udp", "tcp"],
      backends: [backend("10.20.0.12:8080", 7), backend("10.20.0.11", 3)],
      existingFlows: {
        drained: "keep",
        removed: "drain",
        down: "reset",
        disabled: "drain",
        ejected: "reset",
        deadlineMs: 1234,
      },
    }),
  );
  assert.deepEqual(
    assignment.services.map(({ protocol, backends }) => [
      protocol,
      backends.map(({ definition }) => `${definition.address.text}:${definition.port}`),
    ]),
    [
      ["tcp", ["10.20.0.11:0", "10.20.0.12:8080"]],
      ["udp", ["10.20.0.11:0", "10.20.0.12:8080"]],
    ],
  );
  const udp = assignment.services[1]!;
  const { i32 } = views;
  const at = backendSlotWord(views, udp.backends[1]!.slot);
  const words = (...indexes: number[]): number[] => indexes.map((index) => i32[at + index]!);
  assert.deepEqual(words(B_USED, B_CONFIGURED, B_SERVICE, B_PROTOCOL), [1, 1, udp.slot, 17]);
  assert.deepEqual(words(B_ADDRESS, B_PORT, B_WEIGHT), [0x0a14000c, 8080, 7]);
  assert.deepEqual(words(B_WEIGHT_OVERRIDE, B_ADMIN, B_ADMIN_DEADLINE_MS), [-1, ADMIN_ENABLED, -1]);
  assert.deepEqual(words(B_EXISTING, B_HEALTH), [EXISTING_KEEP, HEALTH_UP]);
  assert.deepEqual(words(B_RULES, B_RULES_DEADLINE_MS), [
    0 | (1 << 2) | (2 << 4) | (1 << 6) | (2 << 8),
    1234,
  ]);
  assert.equal(
    keyText(views, "backendKeys", udp.backends[1]!.slot),
    backendKey("web", "udp", "10.20.0.12", 8080),
  );
  assert.equal(keyText(views, "serviceKeys", udp.slot), serviceKey("web", "udp"));
  assert.equal(i32[serviceSlotWord(views, udp.slot) + V_CONFIGURED], 1);
});

test("addresses above 127 are in order, too", () => {
  const views = memoryRegion();
  const backends = ["203.0.113.1:1", "10.0.0.1:2", "10.0.0.1:1"].map((one) => backend(one));
  const [one] = assign(views, service("web", { backends })).services;
  assert.deepEqual(
    one!.backends.map(({ definition }) => `${definition.address.text}:${definition.port}`),
    ["10.0.0.1:1", "10.0.0.1:2", "203.0.113.1:1"],
  );
});

test("keys are read back, also of names with slashes, and of sorry servers", () => {
  const views = memoryRegion();
  const sorry = { address: address("10.20.0.11"), port: 8080 };
  const assignment = assign(
    views,
    service("shop/eu.west", {
      backends: [backend("10.20.0.11:8080")],
      noBackend: { action: "sorry", sorry },
    }),
  );
  const common = { service: "shop/eu.west", protocol: "tcp", address: "10.20.0.11", port: 8080 };
  assert.deepEqual(readBackendKey(views, slotOf(assignment)), { ...common, sorry: false });
  assert.deepEqual(readBackendKey(views, assignment.services[0]!.sorry), {
    ...common,
    sorry: true,
  });
  assert.equal(readBackendKey(views, 99), null);
});

test("operators find the slots of a backend, one a protocol; never sorry servers or removed backends", () => {
  const views = memoryRegion();
  const sorry = { address: address("10.20.0.12"), port: 81 };
  const web = service("web", {
    protocols: ["tcp", "udp"],
    backends: [backend("10.20.0.11:80"), backend("10.20.0.11:81"), backend("10.20.0.12:80")],
    noBackend: { action: "sorry", sorry },
  });
  assign(views, web, service("shop", { backends: [backend("10.20.0.11:80")] }));
  const find = (text: string): number[] => findSlots(views, parseTarget(text));
  const keys = (slots: number[]): string[] =>
    slots.map((slot) => keyText(views, "backendKeys", slot)).toSorted();
  assert.deepEqual(keys(find("web/10.20.0.11:80")), [
    "web tcp 10.20.0.11:80",
    "web udp 10.20.0.11:80",
  ]);
  assert.deepEqual(find("web/10.20.0.11"), [], "it has a port");
  assert.deepEqual(find("web/10.20.0.12:81"), []);
  assert.deepEqual(find("web/10.20.0.13"), []);
  const [slot] = find("web/10.20.0.12:80");
  setSlot(views, slot!, { flows: 1 });
  assign(views, { ...web, backends: web.backends.slice(0, 2) });
  assert.deepEqual(find("web/10.20.0.12:80"), []);
  assert.ok(usedBackendSlots(views).includes(slot!));
});

test("overrides, health, counters and cursors of what stays are left alone", () => {
  const views = memoryRegion();
  const web = service("web");
  const before = assign(views, web);
  const slot = slotOf(before);
  const at = backendSlotWord(views, slot);
  setSlot(views, slot, { admin: ADMIN_DRAINED, weightOverride: 9, flows: 5 });
  views.f64[(backendRunWord(views, 0, slot) >> 1) + BF_CONNECTIONS] = 77;
  views.i32[serviceRunWord(views, 0, before.services[0]!.slot) + V_CURSOR] = 1;
  const backends = web.backends.map((one) => ({ ...one, weight: 4 }));
  const after = assign(views, service("new", {}), { ...web, backends });
  assert.equal(slotOf(after, 1), slot);
  const words = [B_ADMIN, B_WEIGHT_OVERRIDE, B_WEIGHT].map((word) => views.i32[at + word]);
  assert.deepEqual(words, [ADMIN_DRAINED, 9, 4]);
  assert.equal(views.f64[(backendRunWord(views, 0, slot) >> 1) + BF_CONNECTIONS], 77);
  assert.equal(views.i32[serviceRunWord(views, 0, after.services[1]!.slot) + V_CURSOR], 1);
});

test("a new user of a slot finds nothing of the one before, but the next generation", () => {
  const views = memoryRegion({ backends: 2 });
  const first = assign(views, service("web", { backends: [backend("10.20.0.11:80")] }));
  const slot = slotOf(first);
  const at = backendSlotWord(views, slot);
  setSlot(views, slot, { admin: ADMIN_DRAINED, weightOverride: 0 });
  views.f64[(backendRunWord(views, 0, slot) >> 1) + BF_CONNECTIONS] = 77;
  const generation = views.i32[at + B_GENERATION]!;
  // What is taken away may be in the bank in use, so it is free from the next call on.
  const other = service("web", { backends: [backend("10.20.0.12:80")] });
  assert.notEqual(slotOf(assign(views, other)), slot);
  const checked = service("web", {
    health: {
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
    },
    backends: [backend("10.20.0.12:80"), backend("10.20.0.13:80")],
  });
  assert.equal(slotOf(assign(views, checked), 0, 1), slot);
  const words = [B_GENERATION, B_ADMIN, B_WEIGHT_OVERRIDE, B_HEALTH, B_SERVICE];
  assert.deepEqual(
    words.map((word) => views.i32[at + word]),
    [generation + 1, ADMIN_ENABLED, -1, HEALTH_STARTING, 0],
  );
  assert.equal(views.f64[(backendRunWord(views, 0, slot) >> 1) + BF_CONNECTIONS], 0);
});

test("a definition that could not be published: the one that is put back finds its slots again", () => {
  const views = memoryRegion();
  const web = service("web");
  const running = assign(views, web).services[0]!;
  const slots = running.backends.map(({ slot }) => slot);
  setSlot(views, slots[0]!, { weightOverride: 3 });
  const words = (slot: number): Int32Array => {
    const at = backendSlotWord(views, slot);
    return views.i32.slice(at, at + 32);
  };
  const before = slots.map(words);
  // The bank in use still names the slots of `web`: they may be nobody else's.
  const failed = assign(views, service("shop")).services[0]!;
  assert.ok(
    failed.slot !== running.slot && !failed.backends.some(({ slot }) => slots.includes(slot)),
  );
  const back = assign(views, web).services[0]!;
  assert.equal(back.slot, running.slot);
  assert.deepEqual(
    back.backends.map(({ slot }) => slot),
    slots,
  );
  assert.deepEqual(slots.map(words), before);
});

test("a generation wraps at 16 bits, which is what flows carry", () => {
  const views = memoryRegion({ backends: 1 });
  views.i32[backendSlotWord(views, 0) + B_GENERATION] = 0xffff;
  const assignment = assign(views, service("web", { backends: [backend("10.20.0.11:80")] }));
  assert.equal(views.i32[backendSlotWord(views, slotOf(assignment)) + B_GENERATION], 0);
});

test("a service slot stays while a removed backend of it has flows", () => {
  const views = memoryRegion();
  const web = assign(views, service("web")).services[0]!;
  setSlot(views, web.backends[0]!.slot, { flows: 1 });
  for (let call = 0; call < 3; call++) assign(views, service("shop"));
  const word = serviceSlotWord(views, web.slot);
  assert.deepEqual([views.i32[word + V_USED], views.i32[word + V_CONFIGURED]], [1, 0]);
  setSlot(views, web.backends[0]!.slot, { flows: 0 });
  assign(views, service("shop"));
  assert.equal(views.i32[word + V_USED], 0);
});

test("too few slots, or too long a name: an error that says so, and nothing has changed", () => {
  const views = memoryRegion({ services: 2, backends: 4 });
  const web = service("web");
  assign(views, web);
  assign(views, service("shop"));
  // The slots of `web` are free by now, but not yet given up.
  const before = snapshot(views);
  const refuse = (message: RegExp, ...services: ServiceDefinition[]): void => {
    assert.throws(
      () => assign(views, ...services),
      (error) => error instanceof HeadgateError && message.test(error.message),
    );
    assert.deepEqual(snapshot(views), before);
  };
  refuse(/^limits\.services: expected room for 4 .*, got 2$/, service("a", { backends: [] }), {
    ...service("b", { protocols: ["tcp", "udp"] }),
    backends: [],
  });
  const five = [1, 2, 3, 4, 5].map((port) => backend(`10.20.0.1:${port}`));
  refuse(/^limits\.backends: expected room for 7 .*, got 4$/, service("a", { backends: five }));
  refuse(/^the name "xxx.* is too long/, service("x".repeat(300), { backends: [] }));
  assert.equal(assign(views, service("shop"), web).services.length, 2);
});

/** What ought to be known of a slot in use. */
interface Known {
  readonly slot: number;
  readonly generation: number;
  flows: number;
  configured: boolean;
}

const NAMES = ["a", "b", "c"] as const;
const POOL = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "200.0.0.4:80"] as const;

const arbitraryServices = fc.uniqueArray(
  fc.record({
    name: fc.constantFrom(...NAMES),
    protocols: fc.subarray<ProtocolName>(["tcp", "udp"], { minLength: 1 }),
    backends: fc.subarray([...POOL]),
    sorry: fc.boolean(),
  }),
  { selector: (one) => one.name, maxLength: 3 },
);

test("property: numbers stay, are not used again while flows refer to them, and carry a new generation", () => {
  const step = fc.oneof(
    { weight: 3, arbitrary: fc.record({ services: arbitraryServices }) },
    { weight: 2, arbitrary: fc.record({ pick: fc.nat(), flows: fc.constantFrom(0, 0, 1, 7) }) },
  );
  const size = { services: 4, backends: 9 };
  let refused = 0;
  let reused = 0;
  fc.assert(
    fc.property(fc.array(step, { minLength: 4, maxLength: 40 }), (steps) => {
      const views = memoryRegion(size);
      const backends = new Map<string, Known>();
      let services = new Map<string, { slot: number; configured: boolean }>();
      const generations = new Array<number>(size.backends).fill(0);
      for (const one of steps) {
        if ("pick" in one) {
          const known = [...backends.values()];
          const chosen = known[one.pick % Math.max(1, known.length)];
          if (chosen === undefined) continue;
          chosen.flows = one.flows;
          setSlot(views, chosen.slot, { flows: one.flows });
          continue;
        }
        const wanted = one.services.flatMap(({ name, protocols, backends: endpoints, sorry }) =>
          protocols.map((protocol) => ({
            service: `${name} ${protocol}`,
            keys: [
              ...endpoints.map((endpoint) => `${name} ${protocol} ${endpoint}`),
              ...(sorry ? [`${name} ${protocol} sorry 10.9.9.9:80`] : []),
            ],
          })),
        );
        const keys = wanted.flatMap((service) => service.keys);
        const stays = new Map(
          [...backends].filter(
            ([key, known]) => known.configured || known.flows > 0 || keys.includes(key),
          ),
        );
        const staysService = new Map(
          [...services].filter(
            ([name, known]) =>
              known.configured ||
              wanted.some((service) => service.service === name) ||
              [...stays.keys()].some((key) => key.startsWith(`${name} `)),
          ),
        );
        const room = new Set([...stays.keys(), ...keys]).size <= size.backends;
        const roomForServices =
          new Set([...staysService.keys(), ...wanted.map((service) => service.service)]).size <=
          size.services;
        const definitions = one.services.map(({ name, protocols, backends: endpoints, sorry }) =>
          service(name, {
            protocols,
            backends: endpoints.map((endpoint) => backend(endpoint)),
            noBackend: sorry
              ? { action: "sorry", sorry: { address: address("10.9.9.9"), port: 80 } }
              : { action: "reset", sorry: null },
          }),
        );
        if (!room || !roomForServices) {
          const before = snapshot(views);
          assert.throws(() => assign(views, ...definitions), HeadgateError);
          assert.deepEqual(snapshot(views), before);
          refused++;
          continue;
        }
        const assignment = assign(views, ...definitions);
        const given = new Map<string, number>();
        for (const { slot, protocol, definition, backends: list, sorry } of assignment.services) {
          const name = `${definition.name} ${protocol}`;
          assert.equal(keyText(views, "serviceKeys", slot), name);
          const known = staysService.get(name);
          if (known !== undefined) assert.equal(slot, known.slot);
          else assert.ok(![...staysService.values()].some((other) => other.slot === slot));
          given.set(name, slot);
          for (const { slot: number } of list) {
            given.set(keyText(views, "backendKeys", number), number);
          }
          if (sorry >= 0) given.set(keyText(views, "backendKeys", sorry), sorry);
        }
        assert.deepEqual(
          [...given.keys()].toSorted(),
          [...keys, ...wanted.map((service) => service.service)].toSorted(),
        );

        for (const known of stays.values()) known.configured = false;
        for (const key of keys) {
          const slot = given.get(key)!;
          const known = stays.get(key);
          if (known !== undefined) {
            assert.equal(slot, known.slot);
            known.configured = true;
          } else {
            assert.ok(![...stays.values()].some((other) => other.slot === slot), "not used again");
            if (generations[slot]! > 0) reused++;
            generations[slot] = generations[slot]! + 1;
            stays.set(key, { slot, generation: generations[slot]!, flows: 0, configured: true });
          }
        }
        backends.clear();
        for (const [key, known] of stays) {
          backends.set(key, known);
          const at = backendSlotWord(views, known.slot);
          assert.equal(views.i32[at + B_GENERATION], known.generation);
          assert.equal(views.i32[at + B_CONFIGURED], known.configured ? 1 : 0);
          assert.equal(backendFlows(views, known.slot), known.flows);
        }
        assert.deepEqual(
          usedBackendSlots(views),
          [...stays.values()].map((known) => known.slot).toSorted((a, b) => a - b),
        );
        services = new Map(
          [...staysService].map(([name, { slot }]) => [name, { slot, configured: false }]),
        );
        for (const { service: name } of wanted) {
          services.set(name, { slot: given.get(name)!, configured: true });
        }
      }
    }),
    { numRuns: 300 },
  );
  assert.ok(refused > 0 && reused > 0, "the test has met both cases");
});
