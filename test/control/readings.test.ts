import assert from "node:assert/strict";
import { test } from "node:test";
import { createLog } from "../../src/base/log.ts";
import { createBackendStories } from "../../src/control/backend-stories.ts";
import { healthTargets } from "../../src/control/health-targets.ts";
import { setOverride, slotsOfTarget } from "../../src/control/overrides.ts";
import { NO_RATES } from "../../src/control/rates.ts";
import { createReadings, GATEWAY_SUBJECT, type Readings } from "../../src/control/readings.ts";
import type { Applied } from "../../src/control/reconcile.ts";
import { C_DROPS, C_FLOWS_CREATED, C_RECEIVED } from "../../src/datapath/counters.ts";
import { DROP_NO_SERVICE, DROP_REASON_COUNT } from "../../src/datapath/verdict.ts";
import {
  B_ADMIN_DEADLINE_MS,
  B_EXISTING,
  B_HEALTH,
  B_TOLD_SINCE_S,
  BF_BYTES_OUT,
  EXISTING_KEEP,
  EXISTING_RESET,
  HEALTH_DOWN,
  HEALTH_UP,
  VF_CONNECTIONS,
  VF_DROPS,
} from "../../src/service/backend-slots.ts";
import type { GatewayDefinition } from "../../src/service/definition.ts";
import { backendRunWord, serviceRunWord } from "../../src/service/runs.ts";
import { assignSlots, backendSlotWord } from "../../src/service/slots.ts";
import type { RegionViews } from "../../src/state/layout.ts";
import { address, backend, gateway, service, TCP_HEALTH } from "./definitions.ts";
import { addFlow, memoryRegion } from "./region.ts";

interface Bench {
  readonly views: RegionViews;
  readonly readings: Readings;
  applied: Applied;
  slot(target: string): number;
}

function bench(definition: GatewayDefinition): Bench {
  // Two workers: whatever is read is the sum of both.
  const views = memoryRegion(definition, 2);
  const readings = createReadings({
    views,
    deviceType: "tun",
    interfaces: ["hg0"],
    tick: () => 5000,
    current: () => self.applied,
    storyOf: () => ({ reason: "connected", since: "2026-01-02T03:04:05.000Z" }),
    ratesOf: () => NO_RATES,
  });
  const self: Bench = {
    views,
    readings,
    applied: { definition, assignment: assignSlots(views, definition, 0) },
    slot: (target) => slotsOfTarget(views, target)[0]!,
  };
  return self;
}

const WEB = service("web", {
  ports: [
    { low: 80, high: 80 },
    { low: 8000, high: 8099 },
  ],
  health: TCP_HEALTH,
});
const DNS = service("dns", {
  vips: [address("203.0.113.53")],
  ports: [{ low: 1, high: 65535 }],
  protocols: ["tcp", "udp"],
  backends: [backend("10.20.0.53", 4)],
});

test("a service row: what the configuration says, and what its slots have counted", () => {
  const { views, readings, slot, applied } = bench(gateway([WEB, DNS]));
  views.i32[backendSlotWord(views, slot("web/10.20.0.11:8080")) + B_HEALTH] = HEALTH_DOWN;
  views.i32[backendSlotWord(views, slot("web/10.20.0.12:8080")) + B_HEALTH] = HEALTH_UP;
  const at = slot("web/10.20.0.12:8080");
  const flow = { slot: at, vip: "203.0.113.10", vipPort: 80, backend: "10.20.0.12" };
  addFlow(views, { ...flow, backendPort: 8080 }, 1);
  for (const { slot: number, definition } of applied.assignment.services) {
    if (definition !== DNS) continue;
    views.f64[(serviceRunWord(views, 0, number) >> 1) + VF_CONNECTIONS] = 3;
    views.f64[(serviceRunWord(views, 1, number) >> 1) + VF_CONNECTIONS] = 4;
    views.f64[(serviceRunWord(views, 1, number) >> 1) + VF_DROPS] = 2;
  }
  const [web, dns] = readings.services();
  assert.deepEqual(web!.ports, ["80", "8000-8099"]);
  assert.deepEqual(web!.backends, { total: 2, available: 1 });
  assert.equal(web!.active, 1);
  assert.equal(web!.inactive, 0);
  assert.deepEqual(dns!.ports, ["any"]);
  assert.deepEqual(dns!.backends, { total: 2, available: 2 });
  // Both protocols' slots together.
  assert.equal(dns!.connections, 14);
  assert.equal(dns!.drops, 4);
  assert.equal(readings.totals().get("dns")!.connections, 14);
});

test("a backend row: weight, override, state, reason, counters; in the configuration's order", () => {
  const { views, readings, slot } = bench(gateway([DNS, WEB]));
  const at = slot("web/10.20.0.11:8080");
  setOverride(views, at, { action: "weight", target: "", weight: 0 });
  views.f64[(backendRunWord(views, 0, at) >> 1) + BF_BYTES_OUT] = 4000;
  views.f64[(backendRunWord(views, 1, at) >> 1) + BF_BYTES_OUT] = 1000;
  const rows = readings.backends(null);
  assert.deepEqual(
    rows.map((row) => `${row.service} ${row.protocol} ${row.address}:${row.port}`),
    [
      "dns tcp 10.20.0.53:0",
      "dns udp 10.20.0.53:0",
      "web tcp 10.20.0.11:8080",
      "web tcp 10.20.0.12:8080",
    ],
  );
  const row = rows[2]!;
  assert.equal(row.weight, 1);
  assert.equal(row.weightOverride, 0);
  assert.equal(row.state, "draining");
  assert.match(row.reason, /^weight 0/);
  assert.equal(row.health, "starting");
  assert.deepEqual([row.takesNewFlows, row.remaining, row.deadlineInMs], [false, 0, null]);
  assert.equal(row.bytesOut, 5000);
  assert.equal(rows[3]!.reason, "connected");
  assert.deepEqual([rows[3]!.takesNewFlows, rows[3]!.remaining], [true, null]);
  assert.equal(rows[3]!.weightOverride, null);
  assert.deepEqual(readings.backends("dns"), rows.slice(0, 2));
  assert.throws(() => readings.backends("shop"), { code: "HEADGATE_NOT_FOUND" });
});

test("a removed backend is shown as long as it has flows", () => {
  const self = bench(gateway([WEB]));
  const { views, readings, slot } = self;
  const busy = slot("web/10.20.0.11:8080");
  addFlow(views, {
    slot: busy,
    vip: "203.0.113.10",
    vipPort: 80,
    backend: "10.20.0.11",
    backendPort: 8080,
  });
  const after = gateway([DNS]);
  self.applied = { definition: after, assignment: assignSlots(views, after, 0) };
  assert.deepEqual(
    readings.backends(null).map((row) => `${row.service} ${row.address} ${row.state}`),
    ["dns 10.20.0.53 up", "dns 10.20.0.53 up", "web 10.20.0.11 removed"],
  );
  assert.equal(readings.backends("web").length, 1);
});

test("a sorry server is no backend", () => {
  const sorry = { address: address("10.20.0.99"), port: 81 };
  const { readings } = bench(gateway([service("web", { noBackend: { action: "sorry", sorry } })]));
  assert.ok(readings.backends(null).every((row) => row.address !== "10.20.0.99"));
});

test("flows: text of both ends, and every filter", () => {
  const { views, readings, slot } = bench(gateway([WEB, DNS]));
  const flow = { vip: "203.0.113.10", vipPort: 80, backendPort: 8080 };
  const first = slot("web/10.20.0.11:8080");
  addFlow(views, { ...flow, slot: first, backend: "10.20.0.11", client: "198.51.100.7" }, 0);
  const second = { slot: slot("web/10.20.0.12:8080"), backend: "10.20.0.12", snat: "10.20.0.100" };
  addFlow(views, { ...flow, ...second }, 1);
  const query = { limit: 10, service: null, backend: null, client: null };
  const all = readings.flows(query);
  assert.equal(all.total, 2);
  assert.equal(all.truncated, false);
  assert.deepEqual(
    all.flows.map(({ service, client, vip, backend, snat, state }) => [
      service,
      client,
      vip,
      backend,
      snat,
      state,
    ]),
    [
      ["web", "198.51.100.7:40000", "203.0.113.10:80", "10.20.0.11:8080", null, "ESTABLISHED"],
      [
        "web",
        "198.51.100.2:40000",
        "203.0.113.10:80",
        "10.20.0.12:8080",
        "10.20.0.100:40000",
        "ESTABLISHED",
      ],
    ],
  );
  const total = (part: object): number => readings.flows({ ...query, ...part }).total;
  assert.equal(total({ service: "web" }), 2);
  assert.equal(total({ service: "dns" }), 0);
  assert.equal(total({ backend: "10.20.0.12:8080" }), 1);
  assert.equal(total({ backend: "10.20.0.12" }), 1);
  assert.equal(total({ backend: "10.20.0.12:80" }), 0);
  assert.equal(total({ client: { address: address("198.51.100.7").value, prefixLength: 32 } }), 1);
  assert.throws(() => total({ service: "shop" }), { code: "HEADGATE_NOT_FOUND" });
  const cut = readings.flows({ ...query, limit: 1 });
  assert.deepEqual([cut.flows.length, cut.total, cut.truncated], [1, 2, true]);
});

test("drops have every reason; the workers and the gateway's totals come from the counters", () => {
  const { views, readings } = bench(gateway([WEB]));
  const [first, second] = views.layout.shards.map(({ counters }) => counters.at >> 3);
  views.f64[first! + C_DROPS + DROP_NO_SERVICE] = 1;
  views.f64[second! + C_DROPS + DROP_NO_SERVICE] = 2;
  views.f64[first! + C_RECEIVED] = 12;
  views.f64[second! + C_RECEIVED] = 5;
  views.f64[second! + C_FLOWS_CREATED] = 2;
  const { reasons } = readings.drops();
  assert.equal(reasons.length, DROP_REASON_COUNT);
  assert.deepEqual(
    reasons.filter(({ count }) => count > 0),
    [{ reason: "no_service", count: 3 }],
  );
  assert.deepEqual(
    readings.workers().map(({ worker, received }) => [worker, received]),
    [
      [0, 12],
      [1, 5],
    ],
  );
  assert.equal(readings.workers()[0]!.framesPerBatch, 0);
  assert.equal(readings.totals().get(GATEWAY_SUBJECT)!.connections, 2);
  assert.equal(readings.totals().get(GATEWAY_SUBJECT)!.packetsIn, 17);
});

test("overrides: a target finds its slots; an action begins its deadline anew", () => {
  const { views } = bench(gateway([WEB, DNS]));
  assert.equal(slotsOfTarget(views, "dns/10.20.0.53").length, 2);
  assert.throws(() => slotsOfTarget(views, "web/10.20.0.99:8080"), { code: "HEADGATE_NOT_FOUND" });
  assert.throws(() => slotsOfTarget(views, "web/10.20.0.11:http"), { code: "HEADGATE_USAGE" });
  const [slot] = slotsOfTarget(views, "web/10.20.0.11:8080");
  const at = backendSlotWord(views, slot!);
  views.i32[at + B_EXISTING] = EXISTING_RESET;
  setOverride(views, slot!, { action: "drain", target: "", deadlineMs: 700 });
  assert.equal(views.i32[at + B_ADMIN_DEADLINE_MS], 700);
  assert.equal(views.i32[at + B_EXISTING], EXISTING_KEEP);
  setOverride(views, slot!, { action: "disable", target: "" });
  assert.equal(views.i32[at + B_ADMIN_DEADLINE_MS], -1);
});

test("health targets: backends of services with health, at their port or the service's first", () => {
  const bare = service("bare", { health: TCP_HEALTH, backends: [backend("10.20.0.14")] });
  const { views, applied, slot } = bench(gateway([WEB, DNS, bare]));
  views.i32[backendSlotWord(views, slot("web/10.20.0.12:8080")) + B_HEALTH] = HEALTH_DOWN;
  assert.deepEqual(
    healthTargets(views, applied).map((target) => [
      target.serviceName,
      target.address,
      target.port,
      target.health,
    ]),
    [
      ["web", "10.20.0.11", 8080, 0],
      ["web", "10.20.0.12", 8080, HEALTH_DOWN],
      ["bare", "10.20.0.14", 80, 0],
    ],
  );
});

test("stories: one line a change of state, none at the start, with the check's reason", () => {
  const { views, slot } = bench(gateway([WEB]));
  const lines: Record<string, unknown>[] = [];
  const log = createLog("info", { write: (line) => lines.push(JSON.parse(line)) });
  const stories = createBackendStories(views, log, () => "connect ECONNREFUSED");
  stories.update();
  stories.update();
  const at = slot("web/10.20.0.11:8080");
  assert.match(stories.of(at).since, /^\d{4}-/);
  assert.equal(lines.length, 0);
  views.i32[backendSlotWord(views, at) + B_HEALTH] = HEALTH_DOWN;
  stories.update();
  stories.update();
  assert.equal(lines.length, 1);
  const { time, ...fields } = lines[0]!;
  assert.equal(typeof time, "string");
  assert.deepEqual(fields, {
    level: "warn",
    event: "backend_state",
    service: "web",
    backend: "10.20.0.11:8080",
    protocol: "tcp",
    state: "down",
    previous: "starting",
    reason: "connect ECONNREFUSED",
  });
  assert.equal(stories.of(at).reason, "connect ECONNREFUSED");
  // The next process finds the time where this one has left it.
  views.i32[backendSlotWord(views, at) + B_TOLD_SINCE_S] = 1_700_000_000;
  const next = createBackendStories(views, log, () => "");
  next.update();
  assert.equal(next.of(at).since, "2023-11-14T22:13:20.000Z");
  assert.equal(lines.length, 1);
});
