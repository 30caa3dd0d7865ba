import assert from "node:assert/strict";
import { test } from "node:test";
import {
  formatLatency,
  formatWeight,
  renderAffinity,
  renderBackends,
  renderDrops,
  renderFlows,
  renderReload,
  renderServices,
  renderStatus,
  renderWorkers,
} from "../../src/cli/render.ts";
import { formatAge, formatCount, renderTable } from "../../src/cli/table.ts";
import {
  AFFINITY,
  BACKENDS,
  DROPS,
  FLOWS,
  RELOADED,
  SERVICES,
  STATUS,
  WORKERS,
} from "./fake-gateway.ts";

function lines(...text: string[]): string {
  return text.map((line) => `${line}\n`).join("");
}

test("services stand in ipvsadm's columns", () => {
  assert.equal(
    renderServices(SERVICES),
    lines(
      "Service  Prot     LocalAddress:Port                   Scheduler    Flags                              Forward  Backends  ActiveConn  InActConn",
      "web      TCP      203.0.113.10,203.0.113.11:80,443    maglev       persistent 300 mask 255.255.255.0  Masq     2/3               12          3",
      "dns      TCP,UDP  203.0.113.12,[2001:db8:ff::12]:any  round-robin  -                                  FullNat  0/0                0          0",
    ),
  );
});

test("wide services add counters, rates and drops", () => {
  const [head, web] = renderServices(SERVICES, true).split("\n");
  const titles = head!.split(/ {2,}/).slice(-12);
  const cells = web!.trim().split(/ {2,}/).slice(-12);
  assert.deepEqual(Object.fromEntries(titles.map((title, at) => [title.trim(), cells[at]])), {
    Conns: "123K",
    InPkts: "1.5M",
    OutPkts: "99999",
    InBytes: "2.0G",
    OutBytes: "5.0T",
    CPS: "2.5",
    InPPS: "1234",
    OutPPS: "1200",
    InBPS: "8.1M",
    OutBPS: "0",
    Drops: "7",
    Policy: "-",
  });
});

test("wide services say how their policies do", () => {
  const policy = {
    ...{ protocol: "tcp", module: "/etc/p.ts", fallback: "maglev", shadow: false, since: "" },
    ...{ answer: "weights", durationMs: 0.44, failures: {}, backends: [] },
    ...{ state: "active", reason: "", differenceRatio: null },
  };
  const timeout = "timeout: no answer within 500 ms";
  const cases = [
    [[], "-"],
    [[policy], "active 0.4ms"],
    [[{ ...policy, state: "starting" }], "starting (maglev)"],
    [[{ ...policy, state: "failed", reason: timeout }], `failed (maglev): ${timeout}`],
    [[{ ...policy, state: "shadow", differenceRatio: 0.125 }], "shadow differs 12.5%"],
    [[policy, { ...policy, durationMs: 2 }], "active 0.4ms; active 2.0ms"],
  ] as const;
  for (const [policies, want] of cases) {
    const [, line] = renderServices([{ ...SERVICES[0]!, policies }], true).split("\n");
    assert.ok(line!.endsWith(` ${want}`), line);
  }
});

test("backends: weight with its override, state and reason", () => {
  assert.equal(
    renderBackends(BACKENDS),
    lines(
      "Service  Prot  -> RemoteAddress:Port  Forward  Weight           ActiveConn  InActConn  State     Reason",
      "web      TCP   -> 10.20.0.11:8080     Masq     10                       12          3  up",
      "web      TCP   -> 10.20.0.12:*        Masq     10 (override 0)          12          3  draining  weight 0",
      "web      TCP   -> 10.20.0.13:8080     Masq     1                        12          3  down      connect ECONNREFUSED",
    ),
  );
  assert.equal(formatWeight({ weight: 10, weightOverride: 0, slowStart: null }), "10 (override 0)");
  assert.equal(
    formatWeight({ weight: 10, weightOverride: null, slowStart: 40, agentPercent: 50 }),
    "10 (agent 50%, slow start 40 %)",
  );
  const wide = renderBackends(BACKENDS, true);
  assert.match(
    wide,
    /^Service .* Conns +InPkts .* Health +Latency +Failed +Ejected +Priority +New +Remaining +Since +Deadline +Slot +Reason$/m,
  );
  assert.match(wide, / 0 +yes +- +2025-01-02T03:04:05\.000Z +- +0$/m);
  assert.match(wide, /down .* - +- +2 +connect ECONNREFUSED$/m);
  assert.match(wide, /up +840us +3 +1 +0 +yes/m);
  const latencies = [null, 7, 1240, 2_000_000].map(formatLatency);
  assert.deepEqual(latencies, ["-", "7us", "1.24ms", "2.00s"]);
});

test("an IPv6 backend stands in brackets", () => {
  const row = { ...BACKENDS[0]!, address: "2001:db8:2::11" };
  assert.match(renderBackends([row]), /\[2001:db8:2::11\]:8080/);
});

test("flows stand in the columns of ipvsadm -L -c", () => {
  assert.equal(
    renderFlows(FLOWS),
    lines(
      "Prot    Expire  State        Source              Virtual          Destination      Service",
      "TCP   1h59m59s  ESTABLISHED  198.51.100.2:40000  203.0.113.10:80  10.20.0.11:8080  web",
      "UDP       1m1s  ONE_WAY      198.51.100.3:5353   203.0.113.12:53  10.20.0.21:53    dns",
    ),
  );
  assert.match(renderFlows(FLOWS, true), /dns +10\.20\.0\.100:1024 +59s +-$/m);
});

test("flows that were left out are counted", () => {
  const list = { ...FLOWS, total: 5000, truncated: true };
  assert.equal(renderFlows(list).split("\n").at(-2), "2 of 5000 flows; more with --limit");
});

test("affinity: clients, their backends, what remembers them", () => {
  assert.equal(
    renderAffinity(AFFINITY),
    lines(
      "Client           Backend              Of           Flows  Expire",
      "198.51.100.0/24  10.20.0.11:8080      group shop       3       -",
      "2001:db8:1::7    [2001:db8:2::11]:53  service dns      0    1m1s",
      "198.51.100.9     10.20.0.12           -                0      0s",
    ),
  );
  assert.match(renderAffinity(AFFINITY, true), /service dns +0 +1m1s +no$/m);
  const list = { ...AFFINITY, total: 5000, truncated: true };
  assert.equal(renderAffinity(list).split("\n").at(-2), "3 of 5000 clients; more with --limit");
});

test("drops: most first, none that are 0; wide: all, and samples", () => {
  assert.equal(
    renderDrops(DROPS),
    lines("Reason          Count", "out_of_state  1234567", "no_service         12"),
  );
  const wide = renderDrops(DROPS, true);
  assert.match(wide, /^frame_too_short +0$/m);
  assert.match(wide, /no_service +eth0 +60 +tcp 198\.51\.100\.2:40000 > 203\.0\.113\.10:81$/m);
  assert.match(wide, /frame_too_short +eth1 +9 +02005e000001$/m);
});

test("workers", () => {
  assert.equal(
    renderWorkers(WORKERS),
    lines(
      "Worker  Device  Flows  Received  Forwarded  Dropped  Missed  FramesPerBatch",
      "     0  packet   1000      200K       190K    10000       4            40.0",
    ),
  );
  assert.match(renderWorkers(WORKERS, true), /HandedIn +HandedOut +Batches +NativeCalls$/m);
});

test("a table without rows is its header", () => {
  assert.equal(renderWorkers([]).split("\n").length, 2);
  assert.match(renderServices([]), /^Service +Prot .*\n$/);
});

test("no cell can move the cursor or start a line", () => {
  const row = { ...BACKENDS[0]!, reason: "a\nb\u001b[2Jc\u009bd" };
  const text = renderBackends([row]);
  assert.equal(text.split("\n").length, 3);
  assert.match(text, /a\?b\?\[2Jc\?d$/m);
});

test("status is one screen", () => {
  assert.equal(
    renderStatus(STATUS, DROPS, WORKERS),
    lines(
      "Gateway        headgate 0.1.0, process 4242, up 2h4m, ready",
      "Configuration  /etc/headgate/gw.yaml, generation 3, last reload 2025-01-02T03:04:05.000Z (ok)",
      "Device         packet, guard tcx: eth0 02:00:00:00:00:01 mtu 1500 up, eth1 02:00:00:00:00:02 mtu 9000 DOWN",
      "State file     /run/headgate/state",
      "Services       2, backends 1 of 3 up",
      "Flows          15 of 1000 (1.5 %), created 100, expired 80, evicted 1, reset 4",
      "Taken over     6 flows, 2 dropped",
      "Frames         received 200K: forwarded 190K, replied 5, passed 0, consumed 0, dropped 9995",
      "               originated 3, missed 4",
      "Rates          in 1234 packets/s 8.1MB/s, out 1200 packets/s 0B/s, 2.5 connections/s",
      "Drops          out_of_state 1.2M, no_service 12",
      "Worker 0       packet, 1000 flows, 40.0 frames a batch, 5000 batches",
    ),
  );
});

test("status: readiness, and only the most frequent drops", () => {
  const screen = (changes: object) => renderStatus({ ...STATUS, ...changes }, DROPS, []);
  assert.match(screen({ ready: false }), /, not ready\n/);
  assert.match(screen({ ready: false, draining: true }), /, draining\n/);
  const reasons = Array.from({ length: 9 }, (_, index) => ({ reason: `r${index}`, count: index }));
  const many = renderStatus(STATUS, { reasons, samples: [] }, []);
  assert.match(many, /^Drops +r8 8, r7 7, r6 6, r5 5, r4 4, … \(headgate get drops\)$/m);
  assert.match(renderStatus(STATUS, { reasons: [], samples: [] }, []), /^Drops +none$/m);
});

test("reload: what changed, or that nothing did", () => {
  assert.equal(
    renderReload(RELOADED),
    lines(
      "added    service api",
      "changed  service web: scheduler",
      "removed  backend web/10.20.0.13:8080",
      "generation 4 is running",
    ),
  );
  const none = { ...RELOADED, dryRun: true, added: [], changed: [], removed: [] };
  assert.equal(renderReload(none), lines("no changes", "dry run: generation 4 stays as it is"));
});

const COUNTS: readonly (readonly [number, string])[] = [
  [0, "0"],
  [0.25, "0.3"],
  [9.96, "10.0"],
  [12.7, "13"],
  [99_999, "99999"],
  [100_000, "100K"],
  [999_499, "999K"],
  [1_000_000, "1.0M"],
  [99_949_999, "99.9M"],
  [99_960_000, "100M"],
  [2 ** 53, "9.0P"],
];
for (const [count, want] of COUNTS) {
  test(`count ${count} is printed ${want}`, () => assert.equal(formatCount(count), want));
}

const AGES: readonly (readonly [number, string])[] = [
  [-5, "0s"],
  [999, "0s"],
  [59_999, "59s"],
  [60_000, "1m"],
  [7_440_000, "2h4m"],
  [90_061_000, "25h1m1s"],
];
for (const [ageMs, want] of AGES) {
  test(`age of ${ageMs} ms is printed ${want}`, () => assert.equal(formatAge(ageMs), want));
}

test("lines have no trailing spaces, which would break comparisons", () => {
  const text = renderTable([{ title: "A", cell: (row: string) => row }], ["x", "", "longer"]);
  assert.equal(text, "A\nx\n\nlonger\n");
});
