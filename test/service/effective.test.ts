import assert from "node:assert/strict";
import { test } from "node:test";
import { setOverride } from "../../src/control/overrides.ts";
import {
  ADMIN_DISABLED,
  ADMIN_DRAINED,
  ADMIN_ENABLED,
  AGENT_DOWN,
  AGENT_DRAIN,
  AGENT_MAINTENANCE,
  AGENT_READY,
  B_ADMIN_DEADLINE_MS,
  B_DEADLINE,
  B_EXISTING,
  EJECTED_YES,
  EXISTING_DEADLINE,
  EXISTING_KEEP,
  EXISTING_MOVE_LATER,
  EXISTING_RESET,
  HEALTH_DOWN,
  HEALTH_STARTING,
  HEALTH_UP,
} from "../../src/service/backend-slots.ts";
import type {
  ExistingRule,
  HealthDefinition,
  ServiceDefinition,
} from "../../src/service/definition.ts";
import {
  applyExistingRules,
  type BackendStateName,
  backendState,
  type ExistingReport,
  eligibleBackends,
} from "../../src/service/effective.ts";
import { assignSlots, backendSlotWord, type SlotAssignment } from "../../src/service/slots.ts";
import type { RegionViews } from "../../src/state/layout.ts";
import { address, backend, gateway, service } from "../control/definitions.ts";
import { memoryRegion, setSlot } from "./regions.ts";

const HEALTH: HealthDefinition = {
  type: "tcp",
  intervalMs: 2000,
  fastIntervalMs: 2000,
  downIntervalMs: 2000,
  timeoutMs: 1000,
  rise: 2,
  fall: 3,
  spread: 0.1,
  port: 0,
  source: null,
  through: "direct",
};
const DEADLINE_MS = 300_000;
const RULES: readonly ExistingRule[] = ["keep", "drain", "reset"];

function rules(
  overrides: Partial<ServiceDefinition["existingFlows"]> = {},
): ServiceDefinition["existingFlows"] {
  const keep = {
    drained: "keep",
    removed: "keep",
    down: "keep",
    disabled: "keep",
    ejected: "keep",
  } as const;
  return { ...keep, deadlineMs: DEADLINE_MS, ...overrides };
}

/** A region with one service, its first slot, and the steps of control on it. */
class World {
  readonly views: RegionViews = memoryRegion();
  service: ServiceDefinition;
  assignment: SlotAssignment = { services: [] };
  slot = 0;

  constructor(overrides: Partial<ServiceDefinition> = {}) {
    this.service = service("web", { health: HEALTH, ...overrides });
    this.assign();
    this.slot = this.assignment.services[0]!.backends[0]!.slot;
    for (const one of this.assignment.services[0]!.backends) {
      setSlot(this.views, one.slot, { health: HEALTH_UP });
    }
  }

  /** Take over the service, with changes. */
  assign(overrides: Partial<ServiceDefinition> = {}): void {
    this.service = { ...this.service, ...overrides };
    this.assignment = assignSlots(this.views, gateway([this.service]), 0);
  }

  set(words: Parameters<typeof setSlot>[2], slot = this.slot): void {
    setSlot(this.views, slot, words);
  }

  apply(now: number): ExistingReport {
    return applyExistingRules(this.views, gateway([this.service]), this.assignment, now);
  }

  word(word: number, slot = this.slot): number {
    return this.views.i32[backendSlotWord(this.views, slot) + word]!;
  }

  state(slot = this.slot): string {
    const { state, takesNewFlows, weight, reason } = backendState(this.views, slot);
    return `${state} ${takesNewFlows} ${weight} ${reason}`.trimEnd();
  }

  eligible(): string[] {
    return eligibleBackends(this.views, this.assignment.services[0]!).map(
      ({ slot, weight, isDown }) => `${slot}*${weight}${isDown ? " down" : ""}`,
    );
  }
}

test("the state of a backend: configuration before operator before weight before health", () => {
  const world = new World();
  assert.equal(world.state(), "up true 1");
  world.set({ health: HEALTH_STARTING });
  assert.equal(world.state(), "starting false 1");
  world.set({ health: HEALTH_DOWN });
  assert.equal(world.state(), "down false 1");
  world.set({ weightOverride: 0 });
  assert.equal(world.state(), "draining false 0 weight 0 (override)");
  world.set({ admin: ADMIN_DRAINED });
  assert.equal(world.state(), "draining false 0 drained by operator");
  world.set({ admin: ADMIN_DISABLED });
  assert.equal(world.state(), "disabled false 0 disabled by operator");
  world.assign({ backends: [backend("10.20.0.12:8080")] });
  assert.equal(world.state(), "removed false 0 not in the configuration");
});

test("weights: the override goes before the configuration, until it is gone", () => {
  const world = new World({ backends: [backend("10.20.0.11:8080", 10)] });
  assert.equal(world.state(), "up true 10");
  world.set({ weightOverride: 3 });
  assert.equal(world.state(), "up true 3");
  world.set({ weightOverride: -1 });
  world.assign({ backends: [backend("10.20.0.11:8080", 0)] });
  assert.equal(world.state(), "draining false 0 weight 0");
  world.set({ weightOverride: 5 });
  assert.equal(world.state(), "up true 5");
});

test("the agent's word goes after the operator's and before health's", () => {
  const world = new World({ backends: [backend("10.20.0.11:8080", 5)] });
  world.set({ agentWeight: 50 });
  assert.equal(world.state(), "up true 3", "rounded up");
  world.set({ agentWeight: 1 });
  assert.equal(world.state(), "up true 1", "a share is never nothing");
  world.set({ agentWeight: 0 });
  assert.equal(world.state(), "draining false 0");
  world.set({ agentWeight: 200, weightOverride: 10 });
  assert.equal(world.state(), "up true 20", "of the override, where there is one");
  world.set({ agentWeight: -1, weightOverride: -1, health: HEALTH_DOWN, agent: AGENT_DRAIN });
  assert.equal(world.state(), "draining false 5");
  world.set({ agent: AGENT_MAINTENANCE });
  assert.equal(world.state(), "disabled false 5");
  world.set({ admin: ADMIN_DRAINED });
  assert.equal(world.state(), "draining false 5 drained by operator");
  world.set({ admin: ADMIN_ENABLED, health: HEALTH_UP, agent: AGENT_DOWN });
  assert.equal(world.state(), "down false 5");
  world.set({ agent: AGENT_READY, ejected: EJECTED_YES });
  assert.equal(world.state(), "ejected false 5");
  world.set({ health: HEALTH_DOWN });
  assert.equal(world.state(), "down false 5");
});

test("a backend that nobody checks is up, and so is a sorry server", () => {
  const sorry = { address: address("10.20.0.99"), port: 80 };
  const world = new World({ health: null });
  assert.equal(world.state(), "up true 1");
  world.assign({ health: HEALTH, noBackend: { action: "sorry", sorry } });
  assert.equal(world.state(), "up true 1", "it was up when checks began");
  assert.equal(world.state(world.assignment.services[0]!.sorry), "up true 1");
  world.set({ health: HEALTH_DOWN });
  world.assign({ health: null });
  assert.equal(world.state(), "up true 1", "nothing would ever raise it again");
});

test("who takes new flows: those that are up; starting ones while none is; all in a panic", () => {
  const three = ["10.20.0.11:80", "10.20.0.12:80", "10.20.0.13:80"].map((one) => backend(one));
  const world = new World({ backends: three });
  assert.deepEqual(world.eligible(), ["0*1", "1*1", "2*1"]);
  world.set({ health: HEALTH_STARTING }, 1);
  assert.deepEqual(world.eligible(), ["0*1", "2*1"]);
  world.set({ health: HEALTH_DOWN }, 0);
  world.set({ admin: ADMIN_DRAINED }, 2);
  assert.deepEqual(world.eligible(), ["1*1"]);
  world.set({ health: HEALTH_DOWN }, 1);
  assert.deepEqual(world.eligible(), []);
  world.assign({ noBackend: { action: "panic", sorry: null } });
  assert.deepEqual(world.eligible(), ["0*1 down", "1*1 down"], "not what the operator took out");
  world.set({ health: HEALTH_UP }, 1);
  assert.deepEqual(world.eligible(), ["1*1"]);
});

test("an ejected backend keeps its flows, unless existingFlows.ejected says otherwise", () => {
  const [one, two] = ["10.20.0.11:80", "10.20.0.12:80"].map((text) => backend(text));
  const world = new World({ backends: [one!, two!], protocols: ["udp"], existingFlows: rules() });
  world.apply(0);
  world.set({ ejected: EJECTED_YES });
  assert.deepEqual(world.apply(1000), { sweep: false, nextDeadline: 1000 + DEADLINE_MS });
  assert.equal(world.word(B_EXISTING), EXISTING_MOVE_LATER, "UDP that nobody answers moves");
  world.assign({ existingFlows: rules({ ejected: "reset" }) });
  assert.deepEqual(world.apply(2000), { sweep: true, nextDeadline: null });
  assert.equal(world.word(B_EXISTING), EXISTING_RESET);
  // Nobody else is left: what takes new flows must not have them reset.
  world.set({ health: HEALTH_DOWN }, 1);
  assert.deepEqual(world.eligible(), ["0*1 down"]);
  world.apply(3000);
  assert.equal(world.word(B_EXISTING), EXISTING_KEEP);
});

/** How a backend gets into a state, and which key of `existingFlows` is about it. */
const CAUSES: readonly {
  readonly name: string;
  readonly state: BackendStateName;
  readonly key: keyof Omit<ServiceDefinition["existingFlows"], "deadlineMs"> | null;
  readonly enter: (world: World) => void;
}[] = [
  { name: "up", state: "up", key: null, enter: () => undefined },
  {
    name: "starting",
    state: "starting",
    key: null,
    enter: (world) => world.set({ health: HEALTH_STARTING }),
  },
  {
    name: "down",
    state: "down",
    key: "down",
    enter: (world) => world.set({ health: HEALTH_DOWN }),
  },
  {
    name: "drained",
    state: "draining",
    key: "drained",
    enter: (world) => world.set({ admin: ADMIN_DRAINED }),
  },
  {
    name: "weight 0 (override)",
    state: "draining",
    key: "drained",
    enter: (world) => world.set({ weightOverride: 0 }),
  },
  {
    name: "weight 0",
    state: "draining",
    key: "drained",
    enter: (world) =>
      world.assign({ backends: [backend("10.20.0.11:8080", 0), backend("10.20.0.12:8080")] }),
  },
  {
    name: "disabled",
    state: "disabled",
    key: "disabled",
    enter: (world) => world.set({ admin: ADMIN_DISABLED }),
  },
  {
    name: "removed",
    state: "removed",
    key: "removed",
    enter: (world) => {
      world.set({ flows: 1 });
      world.assign({ backends: [backend("10.20.0.12:8080")] });
    },
  },
];

for (const { name, state, key, enter } of CAUSES) {
  for (const rule of RULES) {
    test(`existing flows of a backend that is ${name}, with the rule ${rule}`, () => {
      // The other keys say something else, so that a mix-up shows.
      const other = rule === "keep" ? "reset" : "keep";
      const all = { drained: other, removed: other, down: other, disabled: other } as const;
      const world = new World({
        existingFlows: rules(key === null ? all : { ...all, [key]: rule }),
      });
      assert.deepEqual(world.apply(1000), { sweep: false, nextDeadline: null });
      enter(world);
      assert.equal(backendState(world.views, world.slot).state, state);
      const report = world.apply(2000);
      const expected = key === null ? "keep" : rule;
      if (expected === "keep") {
        assert.equal(world.word(B_EXISTING), EXISTING_KEEP);
        assert.deepEqual(report, { sweep: false, nextDeadline: null });
      } else if (expected === "reset") {
        assert.equal(world.word(B_EXISTING), EXISTING_RESET);
        assert.deepEqual(report, { sweep: true, nextDeadline: null });
        assert.equal(world.apply(2001).sweep, false, "one sweep is enough");
      } else {
        assert.equal(world.word(B_EXISTING), EXISTING_DEADLINE);
        assert.equal(world.word(B_DEADLINE), 2000 + DEADLINE_MS);
        assert.deepEqual(report, { sweep: false, nextDeadline: 2000 + DEADLINE_MS });
      }
    });
  }
}

test("a deadline runs from the state's beginning, and ends in one sweep", () => {
  const world = new World({ existingFlows: rules({ drained: "drain", deadlineMs: 1000 }) });
  world.set({ admin: ADMIN_DRAINED });
  assert.deepEqual(world.apply(5000), { sweep: false, nextDeadline: 6000 });
  assert.deepEqual(world.apply(5999), { sweep: false, nextDeadline: 6000 });
  assert.equal(world.word(B_EXISTING), EXISTING_DEADLINE);
  assert.deepEqual(world.apply(6000), { sweep: true, nextDeadline: null });
  assert.equal(world.word(B_EXISTING), EXISTING_RESET);
  assert.deepEqual(world.apply(9000), { sweep: false, nextDeadline: null });
  assert.equal(world.word(B_EXISTING), EXISTING_RESET);
});

test("a backend that is back keeps its flows, and its next deadline is a new one", () => {
  const world = new World({ existingFlows: rules({ down: "drain", deadlineMs: 1000 }) });
  world.set({ health: HEALTH_DOWN });
  world.apply(5000);
  world.set({ health: HEALTH_UP });
  assert.deepEqual(world.apply(5500), { sweep: false, nextDeadline: null });
  assert.equal(world.word(B_EXISTING), EXISTING_KEEP);
  world.set({ health: HEALTH_DOWN });
  assert.deepEqual(world.apply(7000), { sweep: false, nextDeadline: 8000 });
});

test("ticks wrap: a deadline beyond 2^31 is as far away as any other", () => {
  const world = new World({ existingFlows: rules({ drained: "drain", deadlineMs: 1000 }) });
  world.set({ admin: ADMIN_DRAINED });
  const now = 2 ** 31 - 500;
  const deadline = (now + 1000) | 0;
  assert.ok(deadline < 0);
  assert.deepEqual(world.apply(now), { sweep: false, nextDeadline: deadline });
  assert.deepEqual(world.apply((now + 999) | 0), { sweep: false, nextDeadline: deadline });
  assert.deepEqual(world.apply((now + 1000) | 0), { sweep: true, nextDeadline: null });
});

test("the nearest of several deadlines is the next one, also across the wrap", () => {
  const world = new World({ existingFlows: rules({ drained: "drain", deadlineMs: 1000 }) });
  const [first, second] = world.assignment.services[0]!.backends;
  const now = 2 ** 31 - 1200;
  world.set({ admin: ADMIN_DRAINED }, second!.slot);
  assert.equal(world.apply(now).nextDeadline, now + 1000);
  world.set({ admin: ADMIN_DRAINED }, first!.slot);
  assert.equal(world.apply(now + 600).nextDeadline, now + 1000);
  assert.equal(world.word(B_DEADLINE, first!.slot), (now + 1600) | 0);
  assert.deepEqual(world.apply(now + 1000), { sweep: true, nextDeadline: (now + 1600) | 0 });
});

test("a deadline that is over stays over, also half a round of the clock later", () => {
  const world = new World({ existingFlows: rules({ drained: "drain", deadlineMs: 1000 }) });
  world.set({ admin: ADMIN_DRAINED });
  world.apply(0);
  assert.equal(world.apply(1000).sweep, true);
  assert.deepEqual(world.apply((1000 + 2 ** 31 + 5) | 0), { sweep: false, nextDeadline: null });
  assert.equal(world.word(B_EXISTING), EXISTING_RESET);
});

test("a deadline of another length ends as long after the beginning", () => {
  const world = new World({ existingFlows: rules({ drained: "drain", deadlineMs: 1000 }) });
  world.set({ admin: ADMIN_DRAINED });
  world.apply(5000);
  world.assign({ existingFlows: rules({ drained: "drain", deadlineMs: 3000 }) });
  assert.deepEqual(world.apply(5500), { sweep: false, nextDeadline: 8000 });
  world.assign({ existingFlows: rules({ drained: "drain", deadlineMs: 200 }) });
  assert.deepEqual(world.apply(5600), { sweep: true, nextDeadline: null });
});

test("a deadline that comes to a state of old runs from then on", () => {
  const world = new World({ existingFlows: rules({ drained: "keep" }) });
  world.set({ admin: ADMIN_DRAINED });
  world.apply(1000);
  world.assign({ existingFlows: rules({ drained: "drain", deadlineMs: 700 }) });
  assert.deepEqual(world.apply(50_000), { sweep: false, nextDeadline: 50_700 });
});

test("another command of the operator starts another deadline", () => {
  const world = new World({ existingFlows: rules({ drained: "keep" }) });
  const command = (deadlineMs?: number): void =>
    setOverride(world.views, world.slot, {
      target: "web/10.20.0.11:8080",
      action: "drain",
      ...(deadlineMs === undefined ? {} : { deadlineMs }),
    });
  command();
  assert.deepEqual(world.apply(1000), { sweep: false, nextDeadline: null });
  command(700);
  assert.deepEqual(world.apply(50_000), { sweep: false, nextDeadline: 50_700 });
  command(300);
  assert.deepEqual(world.apply(50_500), { sweep: false, nextDeadline: 50_800 });
  command(300);
  assert.deepEqual(world.apply(50_600), { sweep: false, nextDeadline: 50_900 });
  assert.deepEqual(world.apply(50_900), { sweep: true, nextDeadline: null });
  command();
  assert.deepEqual(world.apply(51_000), { sweep: false, nextDeadline: null });
});

test("the operator's deadline goes before the rule, for drain and disable", () => {
  for (const admin of [ADMIN_DRAINED, ADMIN_DISABLED]) {
    for (const rule of RULES) {
      const world = new World({ existingFlows: rules({ drained: rule, disabled: rule }) });
      world.set({ admin });
      world.views.i32[backendSlotWord(world.views, world.slot) + B_ADMIN_DEADLINE_MS] = 700;
      assert.deepEqual(world.apply(100), { sweep: false, nextDeadline: 800 });
      assert.deepEqual(world.apply(800), { sweep: true, nextDeadline: null });
    }
  }
});

test("the operator's deadline is not for what the operator did not do", () => {
  const world = new World({ existingFlows: rules({ down: "reset", removed: "drain" }) });
  world.views.i32[backendSlotWord(world.views, world.slot) + B_ADMIN_DEADLINE_MS] = 700;
  world.set({ health: HEALTH_DOWN, admin: ADMIN_ENABLED });
  assert.deepEqual(world.apply(100), { sweep: true, nextDeadline: null });
  const removed = new World({ existingFlows: rules({ removed: "keep" }) });
  removed.views.i32[backendSlotWord(removed.views, removed.slot) + B_ADMIN_DEADLINE_MS] = 700;
  removed.set({ admin: ADMIN_DRAINED, flows: 1 });
  assert.deepEqual(removed.apply(50), { sweep: false, nextDeadline: 750 });
  removed.assign({ backends: [backend("10.20.0.12:8080")] });
  assert.deepEqual(removed.apply(100), { sweep: false, nextDeadline: null });
});

test("a deadline of nothing is a reset", () => {
  const world = new World({ existingFlows: rules({ drained: "keep" }) });
  world.set({ admin: ADMIN_DRAINED });
  world.views.i32[backendSlotWord(world.views, world.slot) + B_ADMIN_DEADLINE_MS] = 0;
  assert.deepEqual(world.apply(100), { sweep: true, nextDeadline: null });
});

test("removed backends go by the rules that they had, not by those of a service of the same name", () => {
  const world = new World({ existingFlows: rules({ removed: "reset" }) });
  world.set({ flows: 3 });
  world.apply(50);
  world.assign({
    backends: [backend("10.20.0.12:8080")],
    existingFlows: rules({ removed: "keep" }),
  });
  assert.deepEqual(world.apply(100), { sweep: true, nextDeadline: null });
});

test("in a panic, backends that are down take flows and keep them", () => {
  const world = new World({
    existingFlows: rules({ down: "reset" }),
    noBackend: { action: "panic", sorry: null },
  });
  const [first, second] = world.assignment.services[0]!.backends;
  world.set({ health: HEALTH_DOWN }, first!.slot);
  assert.equal(world.apply(100).sweep, true);
  assert.equal(world.word(B_EXISTING, first!.slot), EXISTING_RESET);
  world.set({ health: HEALTH_DOWN }, second!.slot);
  assert.deepEqual(world.eligible(), ["0*1 down", "1*1 down"]);
  assert.equal(world.apply(200).sweep, false);
  assert.equal(world.word(B_EXISTING, first!.slot), EXISTING_KEEP);
  assert.equal(world.word(B_EXISTING, second!.slot), EXISTING_KEEP);
  world.set({ health: HEALTH_UP }, first!.slot);
  assert.equal(world.apply(300).sweep, true, "the panic is over");
  assert.equal(world.word(B_EXISTING, second!.slot), EXISTING_RESET);
});
