import assert from "node:assert/strict";
import { test } from "node:test";
import { createLog } from "../../src/base/log.ts";
import { type CheckExtrasKeeper, createCheckExtras } from "../../src/control/check-extras.ts";
import { healthTargets } from "../../src/control/health-targets.ts";
import type { HealthTarget } from "../../src/health/monitor.ts";
import { B_AGENT_WEIGHT } from "../../src/service/backend-slots.ts";
import type { HealthDefinition } from "../../src/service/health-definition.ts";
import { assignSlots, backendSlotWord } from "../../src/service/slots.ts";
import type { RegionViews } from "../../src/state/layout.ts";
import { gateway, service, TCP_HEALTH } from "./definitions.ts";
import { memoryRegion } from "./region.ts";

const DAY_MS = 86_400_000;
const { type: _tcp, ...COMMON } = TCP_HEALTH;
const EXEC: HealthDefinition = {
  ...COMMON,
  type: "exec",
  command: ["/bin/true"],
  user: null,
  dynamicWeight: true,
};
const TLS: HealthDefinition = {
  ...COMMON,
  type: "tls",
  tls: { serverName: null, verify: false, caFile: null, expiryWarningMs: 14 * DAY_MS },
};

interface Bench {
  readonly views: RegionViews;
  readonly extras: CheckExtrasKeeper;
  readonly log: Record<string, unknown>[];
  readonly changes: number[];
  targets(health: HealthDefinition): HealthTarget[];
  weight(slot: number): number;
}

function bench(): Bench {
  const definition = gateway([service("web", { health: EXEC })]);
  const views = memoryRegion(definition, 1);
  const log: Record<string, unknown>[] = [];
  const changes: number[] = [];
  const destination = {
    write: (line: string) => log.push(JSON.parse(line)),
    close: () => undefined,
  };
  return {
    views,
    log,
    changes,
    extras: createCheckExtras(views, createLog("trace", destination), () => changes.push(1)),
    targets(health) {
      const changed = gateway([service("web", { health })]);
      const assignment = assignSlots(views, changed, 0);
      return healthTargets(views, { definition: changed, assignment });
    },
    weight: (slot) => views.i32[backendSlotWord(views, slot) + B_AGENT_WEIGHT]!,
  };
}

test("a weight is in the slot from the first word to the last", () => {
  const { extras, targets, weight, changes, log, views } = bench();
  const [{ slot }] = targets(EXEC) as [HealthTarget];
  extras.follow(targets(EXEC));
  assert.equal(weight(slot), -1);
  extras.record(slot, "exit code 52", { weight: 50 });
  extras.record(slot, "exit code 52", { weight: 50 });
  extras.record(slot, "exit code 0", {});
  assert.deepEqual([weight(slot), changes.length, extras.weightOf(slot)], [50, 1, 50]);
  assert.deepEqual(
    log.map(({ event, weight_percent }) => [event, weight_percent]),
    [["backend_check_weight", 50]],
  );
  // As agents do with the slots of backends that have none.
  const follow = (keeper: CheckExtrasKeeper, health: HealthDefinition): void => {
    keeper.follow(targets(health));
    views.i32[backendSlotWord(views, slot) + B_AGENT_WEIGHT] = -1;
    keeper.restore();
  };
  views.i32[backendSlotWord(views, slot) + B_AGENT_WEIGHT] = 50;
  follow(extras, EXEC);
  assert.equal(weight(slot), 50);
  // The next process goes on with it.
  const next = createCheckExtras(views, createLog("error"), () => undefined);
  follow(next, EXEC);
  assert.deepEqual([weight(slot), next.weightOf(slot)], [50, 50]);
  follow(next, TCP_HEALTH);
  assert.deepEqual([weight(slot), next.weightOf(slot)], [-1, null]);
});

test("a certificate is warned of once, and again when it is another one", () => {
  const { extras, targets, log } = bench();
  const [{ slot }] = targets(TLS) as [HealthTarget];
  extras.follow(targets(TLS));
  const inDays = (days: number): number => Math.round((Date.now() + days * DAY_MS) / 1000) * 1000;
  const [soon, sooner, late] = [inDays(3), inDays(1), inDays(300)];
  assert.equal(extras.certificateExpiresMsOf(slot), null);
  for (const certificateExpiresMs of [soon, soon, soon, sooner, sooner, late, late, soon]) {
    extras.record(slot, "TLSv1.3", { certificateExpiresMs });
    extras.follow(targets(TLS));
  }
  const day = (ms: number): string => new Date(ms).toISOString();
  assert.deepEqual(
    log.map(({ event, service: name, expires }) => [event, name, expires]),
    [
      ["certificate_expires", "web", day(soon)],
      ["certificate_expires", "web", day(sooner)],
      ["certificate_renewed", "web", day(late)],
      ["certificate_expires", "web", day(soon)],
    ],
  );
  assert.equal(extras.certificateExpiresMsOf(slot), soon);
  extras.follow(targets(TCP_HEALTH));
  assert.equal(extras.certificateExpiresMsOf(slot), null);
});
