import assert from "node:assert/strict";
import { test } from "node:test";
import { createLog } from "../../src/base/log.ts";
import { slotsOfTarget } from "../../src/control/overrides.ts";
import {
  type Applied,
  createReconciler,
  type HostSide,
  REWRITE_INTERVAL_MS,
  type Reconciler,
} from "../../src/control/reconcile.ts";
import {
  ADMIN_DRAINED,
  B_ADMIN,
  B_CONFIGURED,
  B_EXISTING,
  B_HEALTH,
  B_USED,
  B_WEIGHT,
  B_WEIGHT_OVERRIDE,
  EXISTING_DEADLINE,
  EXISTING_KEEP,
  EXISTING_RESET,
  HEALTH_DOWN,
  R_FLOWS,
} from "../../src/service/backend-slots.ts";
import { BANK_SERVICES_AT, S_BACKENDS_COUNT, SERVICE_WORDS } from "../../src/service/bank.ts";
import type { GatewayDefinition } from "../../src/service/definition.ts";
import { backendFlows, backendRunWord } from "../../src/service/runs.ts";
import { backendSlotWord } from "../../src/service/slots.ts";
import { type RegionViews, W_BANK_TAKEN } from "../../src/state/layout.ts";
import { backend, gateway, service, TCP_HEALTH } from "./definitions.ts";
import { addFlow, type FakeWorker, fakeWorker, memoryRegion } from "./region.ts";

// Goal: the data plane gets every change once, whole, and in the right order with the host's side;
// what fails changes nothing. Method: an in-memory region, a worker that takes what is published
// when it is woken, and a host side that writes down what it is asked.

interface Bench {
  readonly views: RegionViews;
  readonly worker: FakeWorker;
  readonly reconciler: Reconciler;
  readonly events: string[];
  readonly host: { widen?: () => Promise<void>; narrow?: () => Promise<void> };
  tick: number;
  slot(target: string): number;
  /** Backends that take new flows, as the bank in use says. */
  listed(serviceSlot: number): number;
}

function bench(definition: GatewayDefinition): Bench {
  const views = memoryRegion(definition);
  const worker = fakeWorker(views);
  const events: string[] = [];
  const failing: Bench["host"] = {};
  const host: HostSide = {
    widen: async (before, after) => {
      events.push(`widen ${names(before)} > ${names(after)}`);
      await failing.widen?.();
    },
    narrow: async (after) => {
      events.push(`narrow ${names(after)}`);
      await failing.narrow?.();
    },
  };
  const reconciler = createReconciler({
    views,
    host,
    log: createLog("error", { write: (line) => events.push(`log ${line}`) }),
    tick: () => self.tick,
    wake: () => {
      const before = worker.taken.length;
      worker.wake();
      if (worker.taken.length > before) events.push("taken");
    },
    hostAddresses: () => [],
    onApplied: () => events.push("applied"),
  });
  const self: Bench = {
    views,
    worker,
    reconciler,
    events,
    host: failing,
    tick: 1000,
    slot(target) {
      const slots = slotsOfTarget(views, target);
      assert.equal(slots.length, 1, `one slot of ${target}`);
      return slots[0]!;
    },
    listed(serviceSlot) {
      const bank =
        views.layout.banks[views.i32[views.layout.workerWord + W_BANK_TAKEN]! & 1]!.at >> 2;
      const services = bank + (views.i32[bank + BANK_SERVICES_AT]! >> 2);
      return views.i32[services + serviceSlot * SERVICE_WORDS + S_BACKENDS_COUNT]!;
    },
  };
  return self;
}

function names(applied: Applied | null): string {
  return applied?.definition.services.map(({ name }) => name).join("+") ?? "-";
}

function word(views: RegionViews, slot: number, index: number): number {
  return views.i32[backendSlotWord(views, slot) + index]!;
}

test("the first definition: host widened, bank 1 taken, host narrowed", async () => {
  const definition = gateway([service("web")]);
  const { reconciler, events, worker, listed } = bench(definition);
  assert.equal(reconciler.current(), null);
  await reconciler.apply(definition);
  assert.deepEqual(events, ["widen - > web", "taken", "narrow web", "applied"]);
  assert.deepEqual(worker.taken, [1]);
  assert.equal(listed(0), 2);
  assert.equal(reconciler.current()?.definition, definition);
});

test("apply is fulfilled only when the worker has taken the bank", async () => {
  const definition = gateway([service("web")]);
  const { reconciler, worker, views } = bench(definition);
  worker.paused = true;
  let done = false;
  const applied = reconciler.apply(definition).then(() => {
    done = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 30));
  assert.equal(done, false);
  assert.equal(views.i32[views.layout.workerWord + W_BANK_TAKEN], 0);
  worker.paused = false;
  worker.wake();
  await applied;
});

test("a change is one bank, the other one; the host holds old and new meanwhile", async () => {
  const before = gateway([service("web")]);
  const after = gateway([service("shop", { backends: [backend("10.20.0.13:80")] })]);
  const { reconciler, events, worker } = bench(before);
  await reconciler.apply(before);
  events.length = 0;
  await reconciler.apply(after);
  assert.deepEqual(events, ["widen web > shop", "taken", "narrow shop", "applied"]);
  assert.deepEqual(worker.taken, [1, 2]);
});

test("a burst of slot changes costs one bank; nothing that was changed is missed", async () => {
  const definition = gateway([service("web", { health: TCP_HEALTH })]);
  const { reconciler, worker, views, slot, listed } = bench(definition);
  await reconciler.apply(definition);
  const first = slot("web/10.20.0.11:8080");
  views.i32[backendSlotWord(views, first) + B_HEALTH] = HEALTH_DOWN;
  const burst = Array.from({ length: 50 }, () => reconciler.refresh());
  const second = slot("web/10.20.0.12:8080");
  views.i32[backendSlotWord(views, second) + B_HEALTH] = HEALTH_DOWN;
  burst.push(reconciler.refresh());
  await Promise.all(burst);
  assert.deepEqual(worker.taken, [1, 2]);
  assert.equal(listed(0), 0);
});

test("a change while a run is under way gets a run of its own", async () => {
  const definition = gateway([service("web", { health: TCP_HEALTH })]);
  const { reconciler, worker, views, slot, listed, host } = bench(definition);
  await reconciler.apply(definition);
  let resume = (): void => {};
  host.narrow = () =>
    new Promise((resolve) => {
      resume = resolve;
    });
  const first = reconciler.refresh();
  while (worker.taken.length < 2) await new Promise((resolve) => setTimeout(resolve, 5));
  const at = backendSlotWord(views, slot("web/10.20.0.11:8080"));
  views.i32[at + B_HEALTH] = HEALTH_DOWN;
  const second = reconciler.refresh();
  assert.notEqual(second, first);
  delete host.narrow;
  resume();
  await Promise.all([first, second]);
  assert.deepEqual(worker.taken, [1, 2, 3]);
  assert.equal(listed(0), 1);
});

test("runs of refreshes begin apart", async () => {
  const definition = gateway([service("web")]);
  const { reconciler } = bench(definition);
  await reconciler.apply(definition);
  const startedMs = performance.now();
  for (let run = 0; run < 3; run++) await reconciler.refresh();
  assert.ok(performance.now() - startedMs >= 2 * REWRITE_INTERVAL_MS);
});

const FAILURES: { name: string; after: GatewayDefinition; break?: (bench: Bench) => void }[] = [
  {
    name: "no slot left",
    after: gateway([
      service("web", {
        backends: Array.from({ length: 40 }, (_, index) => backend(`10.20.1.${index + 1}:80`)),
      }),
    ]),
  },
  {
    name: "the host refuses",
    after: gateway([service("shop")]),
    break: ({ host }) => {
      host.widen = () => Promise.reject(new Error("no such device"));
    },
  },
  {
    name: "the bank is too small",
    after: gateway([
      service("web", {
        scheduler: "maglev",
        tableSize: 65_537,
        backends: [backend("10.20.0.13:80")],
      }),
    ]),
  },
];
for (const { name, after, break: spoil } of FAILURES) {
  test(`what fails changes nothing: ${name}`, async () => {
    const before = gateway([service("web", { backends: [backend("10.20.0.11:8080", 3)] })]);
    const self = bench(before);
    const { reconciler, worker, views, slot, host, listed } = self;
    await reconciler.apply(before);
    const at = slot("web/10.20.0.11:8080");
    views.i32[backendSlotWord(views, at) + B_WEIGHT_OVERRIDE] = 9;
    addFlow(views, {
      slot: at,
      vip: "203.0.113.10",
      vipPort: 80,
      backend: "10.20.0.11",
      backendPort: 8080,
    });
    const saved = slotBytes(views);
    spoil?.(self);
    await assert.rejects(reconciler.apply(after));
    assert.deepEqual(slotBytes(views), saved);
    assert.deepEqual(worker.taken, [1]);
    assert.equal(reconciler.current()?.definition, before);

    delete host.widen;
    await reconciler.refresh();
    assert.equal(slot("web/10.20.0.11:8080"), at);
    assert.equal(word(views, at, B_WEIGHT_OVERRIDE), 9);
    assert.equal(word(views, at, B_WEIGHT), 3);
    assert.equal(backendFlows(views, at), 1);
    assert.equal(listed(0), 1);
  });
}

/** All slots and keys. */
function slotBytes({ u8, layout }: RegionViews): Buffer {
  return Buffer.from(u8.slice(layout.backendSlots.at, layout.hops[0].at));
}

test("a host that cannot be narrowed is logged; the definition runs", async () => {
  const definition = gateway([service("web")]);
  const { reconciler, events, host } = bench(definition);
  host.narrow = () => Promise.reject(new Error("rule is gone"));
  await reconciler.apply(definition);
  assert.equal(reconciler.current()?.definition, definition);
  assert.ok(events.some((event) => /host_update_failed.*rule is gone/.test(event)));
});

test("a removed backend keeps its slot while it has flows, and is swept when the rule says", async () => {
  const rules = { ...service("web").existingFlows, removed: "reset" as const };
  const before = gateway([service("web", { existingFlows: rules })]);
  const after = gateway([
    service("web", { existingFlows: rules, backends: [backend("10.20.0.12:8080")] }),
  ]);
  const { reconciler, worker, views, slot } = bench(before);
  await reconciler.apply(before);
  const gone = slot("web/10.20.0.11:8080");
  addFlow(views, {
    slot: gone,
    vip: "203.0.113.10",
    vipPort: 80,
    backend: "10.20.0.11",
    backendPort: 8080,
  });
  await reconciler.apply(after);
  assert.equal(word(views, gone, B_CONFIGURED), 0);
  assert.equal(word(views, gone, B_USED), 1);
  assert.equal(word(views, gone, B_EXISTING), EXISTING_RESET);
  assert.equal(worker.sweeps, 1);
  views.i32[backendRunWord(views, 0, gone) + R_FLOWS] = 0;
  await reconciler.refresh();
  assert.equal(word(views, gone, B_USED), 0);
  assert.equal(worker.sweeps, 1);
});

test("a new limit on packets is a sweep, so that flows learn of it; an old one is none", async () => {
  const limited = service("web", {
    limits: { ...service("web").limits, packetsPerSecond: 100 },
  });
  const before = gateway([service("web")]);
  const { reconciler, worker } = bench(before);
  await reconciler.apply(before);
  assert.equal(worker.sweeps, 0);
  await reconciler.apply(gateway([limited]));
  assert.equal(worker.sweeps, 1);
  await reconciler.refresh();
  assert.equal(worker.sweeps, 1);
});

test("a deadline that passes is a sweep without anybody's doing", async () => {
  const rules = { ...service("web").existingFlows, drained: "drain" as const, deadlineMs: 40 };
  const definition = gateway([service("web", { existingFlows: rules })]);
  const self = bench(definition);
  const { reconciler, worker, views, slot } = self;
  await reconciler.apply(definition);
  const drained = slot("web/10.20.0.11:8080");
  views.i32[backendSlotWord(views, drained) + B_ADMIN] = ADMIN_DRAINED;
  await reconciler.refresh();
  assert.equal(word(views, drained, B_EXISTING), EXISTING_DEADLINE);
  assert.equal(worker.sweeps, 0);
  self.tick += 41;
  for (let wait = 0; wait < 200 && worker.sweeps === 0; wait++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.equal(worker.sweeps, 1);
  assert.equal(word(views, drained, B_EXISTING), EXISTING_RESET);
  assert.equal(word(views, slot("web/10.20.0.12:8080"), B_EXISTING), EXISTING_KEEP);
  await reconciler.close();
});

test("after close nothing runs any more, and nobody waits", async () => {
  const definition = gateway([service("web")]);
  const { reconciler, worker } = bench(definition);
  worker.paused = true;
  const applied = reconciler.apply(definition);
  const closed = reconciler.close();
  await Promise.all([applied, closed, reconciler.refresh()]);
  assert.deepEqual(worker.taken, []);
});
