import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { createMetrics, type MetricsSource } from "../../src/control/metrics.ts";
import { C_DROPS, C_RECEIVED } from "../../src/datapath/counters.ts";
import { DROP_NO_SERVICE, DROP_REASONS } from "../../src/datapath/verdict.ts";
import { BACKEND, SERVICE, STATUS } from "./admin/view.ts";

const WORKER = {
  worker: 0,
  flows: 3,
  device: "tun",
  received: 10,
  forwarded: 8,
  dropped: 1,
  handedIn: 6,
  handedOut: 5,
  batches: 6,
  nativeCalls: 12,
  missed: 2,
  framesPerBatch: 1.6,
};

function source(): MetricsSource {
  const counters = new Map([
    [C_RECEIVED, 10],
    [C_DROPS + DROP_NO_SERVICE, 1],
  ]);
  return {
    status: () => STATUS,
    services: () => [SERVICE],
    backends: () => [BACKEND],
    workers: () => [WORKER],
    counter: (index) => counters.get(index) ?? 0,
    lastReloadSuccessMs: () => 1_700_000_000_000,
    reloads: () => ({ succeeded: 2, failed: 1 }),
    healthCheckFailures: () => 4,
    affinityEntries: () => 5,
    agentFailures: () => 0,
    certificateExpiresMs: () => 1_800_000_000_000,
    healthChecks: () => ({ checks: 9, late: 1 }),
    processStartMs: 1_600_000_000_000,
  };
}

interface Parsed {
  readonly types: Map<string, string>;
  readonly helps: Map<string, string>;
  /** By `name{labels}`. */
  readonly samples: Map<string, number>;
}

/** The Prometheus text format 0.0.4, as far as counters and gauges need it. */
function parse(text: string): Parsed {
  const parsed: Parsed = { types: new Map(), helps: new Map(), samples: new Map() };
  for (const line of text.split("\n")) {
    if (line === "") continue;
    const meta = /^# (HELP|TYPE) (\S+) (.+)$/.exec(line);
    if (meta !== null) {
      (meta[1] === "HELP" ? parsed.helps : parsed.types).set(meta[2]!, meta[3]!);
      continue;
    }
    const sample = /^([a-z_]+(?:\{[^}]*\})?) (\S+)$/.exec(line);
    assert.ok(sample !== null, `not a sample: ${line}`);
    assert.ok(!parsed.samples.has(sample[1]!), `twice: ${line}`);
    parsed.samples.set(sample[1]!, Number(sample[2]));
  }
  return parsed;
}

test("values of the gateway are found under their names and labels", async () => {
  const { samples } = parse(await createMetrics(source()).metrics());
  const want: [string, number][] = [
    ['headgate_build_info{version="0.1.0",device="tun"}', 1],
    ['headgate_frames_received_total{worker="0"}', 10],
    ['headgate_frames_dropped_total{reason="no_service"}', 1],
    ['headgate_frames_missed_total{worker="0"}', 2],
    ['headgate_native_calls_total{worker="0"}', 12],
    ["headgate_flows", 7],
    ["headgate_affinity_entries", 5],
    ["headgate_affinity_hits_total", 0],
    ["headgate_flow_table_capacity", 1024],
    ['headgate_service_connections_total{service="web"}', 9],
    ['headgate_service_bytes_total{service="web",direction="out"}', 5000],
    ['headgate_service_backends{service="web",state="draining"}', 1],
    ['headgate_service_backends{service="web",state="up"}', 0],
    [
      'headgate_backend_packets_total{service="web",backend="10.20.0.11:8080",protocol="tcp",direction="in"}',
      4,
    ],
    ['headgate_backend_weight{service="web",backend="10.20.0.11:8080",protocol="tcp"}', 0],
    [
      'headgate_backend_state{service="web",backend="10.20.0.11:8080",protocol="tcp",state="draining"}',
      1,
    ],
    [
      'headgate_health_certificate_expiry_timestamp_seconds{service="web",backend="10.20.0.11:8080",protocol="tcp"}',
      1_800_000_000,
    ],
    [
      'headgate_health_check_failures_total{service="web",backend="10.20.0.11:8080",protocol="tcp"}',
      4,
    ],
    ["headgate_config_last_reload_successful", 1],
    ["headgate_config_last_reload_success_timestamp_seconds", 1_700_000_000],
    ['headgate_config_reloads_total{outcome="failed"}', 1],
  ];
  for (const [name, value] of want) assert.equal(samples.get(name), value, name);
});

test("every drop reason is a sample, also at 0", async () => {
  const { samples } = parse(await createMetrics(source()).metrics());
  for (const reason of DROP_REASONS) {
    assert.ok(samples.has(`headgate_frames_dropped_total{reason="${reason}"}`), reason);
  }
});

test("a second scrape shows the values of its own moment, not sums", async () => {
  const metrics = createMetrics(source());
  const first = parse(await metrics.metrics());
  const second = parse(await metrics.metrics());
  const steady = (parsed: Parsed): [string, number][] =>
    [...parsed.samples].filter(([name]) => !/cpu_seconds|resident_memory/.test(name));
  assert.deepEqual(steady(second), steady(first));
});

// The rules of `promtool check metrics` (prometheus/util/promlint), for machines without it.
test("names follow the rules of the metrics linter", async () => {
  const { types, helps, samples } = parse(await createMetrics(source()).metrics());
  assert.deepEqual([...types.keys()].sort(), [...helps.keys()].sort());
  for (const [name, type] of types) {
    assert.match(name, /^headgate_[a-z][a-z_]*$/);
    assert.ok(["counter", "gauge"].includes(type), `${name}: ${type}`);
    assert.equal(name.endsWith("_total"), type === "counter", name);
    assert.doesNotMatch(name, /_(count|sum|bucket)$/, name);
    assert.doesNotMatch(name, /_(counter|gauge|histogram|summary)(_|$)/, name);
    assert.doesNotMatch(
      name,
      /_(ms|milliseconds|minutes|hours|kilobytes|kb|mb|percent)(_|$)/,
      name,
    );
    assert.ok((helps.get(name) ?? "").length > 10, `${name} has a help text`);
  }
  for (const name of samples.keys()) assert.doesNotMatch(name, /[{,](le|quantile)=/, name);
});

const PROMTOOL = process.env["PROMTOOL"] ?? "promtool";
const noPromtool = spawnSync(PROMTOOL, ["--version"]).status !== 0;

if (!noPromtool) {
  test("promtool finds nothing", async () => {
    const input = await createMetrics(source()).metrics();
    const lint = spawnSync(PROMTOOL, ["check", "metrics"], { input, encoding: "utf8" });
    assert.equal(lint.status, 0, lint.stderr);
    assert.equal(lint.stderr, "");
  });
}

test("a policy's state, failures, duration and difference", async () => {
  const { samples } = parse(await createMetrics(source()).metrics());
  const labels = 'service="web",protocol="tcp"';
  const want = {
    [`headgate_policy_state{${labels},state="shadow"}`]: 1,
    [`headgate_policy_state{${labels},state="failed"}`]: 0,
    [`headgate_policy_failures_total{${labels},reason="throws"}`]: 2,
    [`headgate_policy_duration_seconds{${labels}}`]: 0.0005,
    [`headgate_policy_shadow_difference_ratio{${labels}}`]: 0.125,
  };
  for (const [name, value] of Object.entries(want)) assert.equal(samples.get(name), value, name);
});
