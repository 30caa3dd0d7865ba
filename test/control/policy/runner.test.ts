import assert from "node:assert/strict";
import { test } from "node:test";
import { compiledPolicy, compilePolicies } from "../../../src/control/policy/compile.ts";
import type { PolicyInput } from "../../../src/control/policy/input.ts";
import type { Backend } from "../../../src/control/policy/policy.d.ts";
import { createRunner, type Runner, type RunnerParts } from "../../../src/control/policy/runner.ts";
import { createPolicyThreads } from "../../../src/control/policy/threads.ts";
import type { PolicyDecision } from "../../../src/service/policy.ts";
import { waitFor } from "../../support/wait.ts";
import { gatewayOf, policyOf, policyProcesses, policyThreads } from "./policies.ts";

// Goal: whatever a policy does, its runner has a decision or says why there is none, in a bounded time,
// and its thread is gone. Method: one module whose behaviour is the name of the service that it is
// called for, in real threads.

const MODULE = `
import type { Backend, Decision, Statistics } from "headgate/policy";
import { explode } from "./explode.ts";
declare const process: {
  exit(code: number): never;
  dlopen(module: object, file: string): void;
  readonly env: object;
};

let calls = 0;
const hoard: object[] = [];

export function rebuild(backends: readonly Backend[], statistics: Statistics): Decision {
  calls++;
  const { service, reason } = statistics;
  const weights = backends.map((backend) => backend.weight);
  const even = backends.map((_, index) => (index % 2 === 0 ? 1 : 0));
  console.log(service, reason, calls);
  switch (service) {
    case "weights": return { weights };
    case "fractions": return { weights: Float64Array.of(0.5, 0.25, 1e-9) };
    case "table": return { table: Uint8Array.of(2, 0, 1, 0) };
    case "throws": return explode(backends.length);
    case "throws-nothing": throw undefined;
    case "loops": for (;;) calls++;
    case "hoards": for (;;) hoard.push(new Array(1000).fill(calls));
    case "hoards-map": for (const map = new Map();; ) map.set(map.size, map.size);
    case "exits": return process.exit(3);
    case "addon": process.dlopen({ exports: {} }, "/frameio.node"); return { weights };
    case "environment": throw new Error(JSON.stringify(process.env));
    case "short": return { weights: [1, 2] };
    case "long": return { weights: [1, 2, 3, 4] };
    case "negative": return { weights: [1, -1, 1] };
    case "nan": return { weights: [1, Number.NaN, 1] };
    case "infinite": return { weights: [1, Number.POSITIVE_INFINITY, 1] };
    case "zero": return { weights: [0, 0, 0] };
    case "words": return { weights: ["1", "2", "3"] as unknown as number[] };
    case "empty": return { table: [] };
    case "out-of-range": return { table: [0, 3] };
    case "half": return { table: [0, 0.5] };
    case "huge": return { table: { length: 1e9 } as ArrayLike<number> };
    case "nothing": return undefined as unknown as Decision;
    case "promise": return Promise.resolve({ weights }) as unknown as Decision;
    case "drained": return { weights: [0, 0, 1] };
    case "once": if (calls > 1) throw new Error("once only"); return { weights: even };
    case "twice": if (reason !== "start") return { table: [1] }; return { weights: even };
    default: throw new Error("no such behaviour");
  }
}
`;
const EXPLODE = `export function explode(count: number): never {
  type Unused = { readonly of: "this line" };
  throw new RangeError(\`\${count} is too much\`);
}
`;
const POLICY = policyOf({ "policy.ts": MODULE, "explode.ts": EXPLODE });
const TABLE_MAX = 251;

function inputOf(
  service: string,
  states: readonly string[] = ["up", "up", "draining"],
): PolicyInput {
  const backends = states.map(
    (state, index) =>
      ({
        index,
        address: `10.20.0.1${index}`,
        port: 80,
        weight: index + 1,
        state,
        takesNewFlows: state === "up",
      }) as Backend,
  );
  return {
    backends,
    slots: [7, 8, 9],
    statistics: {
      ...{ service, protocol: "tcp", nowMs: 0, now: "", seed: 0, fallback: "maglev" },
      ...{ tableSizeMax: TABLE_MAX, available: 2 },
    },
    key: states.join(" "),
  };
}

interface Run {
  readonly runner: Runner;
  readonly states: string[];
  readonly answers: PolicyDecision[];
  readonly lines: string[];
  readonly decisions: number;
  readonly threads: number;
}

const threads = createPolicyThreads();
test.after(() => threads.close());

async function begin(
  service: string,
  overrides: Partial<RunnerParts> = {},
  before: PolicyDecision | null = null,
): Promise<Run> {
  await compilePolicies(gatewayOf(POLICY));
  const { digest, files } = compiledPolicy(POLICY)!;
  const counts = { decisions: 0, threads: 0 };
  const states: string[] = [];
  const answers: PolicyDecision[] = [];
  const lines: string[] = [];
  const runner = createRunner(
    {
      shadow: false,
      timeoutMs: 400,
      intervalMs: 60_000,
      startThread: (events) => {
        counts.threads++;
        return threads.start({ name: service, digest, files, tableSizeMax: TABLE_MAX }, events);
      },
      read: () => inputOf(service),
      key: () => (overrides.read ?? (() => inputOf(service)))().key,
      onDecision: () => counts.decisions++,
      onState: (state, previous, reason) => states.push(`${previous} -> ${state} ${reason}`.trim()),
      onAnswer: (decision) => answers.push(decision),
      onLines: (written) => lines.push(...written),
      pauses: { first: 60_000, most: 60_000, good: 60_000, load: 30_000 },
      ...overrides,
    },
    before,
  );
  return {
    ...{ runner, states, answers, lines },
    get decisions() {
      return counts.decisions;
    },
    get threads() {
      return counts.threads;
    },
  };
}

const FAILURES: { service: string; want: RegExp }[] = [
  { service: "throws", want: /^throws: explode\.ts:3:9: RangeError: 3 is too much$/ },
  { service: "throws-nothing", want: /^throws: threw undefined$/ },
  { service: "loops", want: /^timeout: no answer within 400 ms$/ },
  {
    service: "hoards",
    want: /^(memory: expected at most 64 MB of objects, got more|timeout: .*)$/,
  },
  { service: "exits", want: /^exit: its thread ended with code 3$/ },
  { service: "addon", want: /^throws: .*Cannot load native addon/ },
  { service: "environment", want: /^throws: .*: Error: \{\}$/ },
  { service: "short", want: /^nonsense: expected 3 weights, one for each backend, got 2$/ },
  { service: "long", want: /^nonsense: expected 3 weights, got 4$/ },
  { service: "negative", want: /^nonsense: expected weights of 0 or more, got -1 at index 1$/ },
  { service: "nan", want: /^nonsense: expected weights of 0 or more, got NaN at index 1$/ },
  { service: "infinite", want: /^nonsense: .* got Infinity at index 1$/ },
  { service: "zero", want: /^nonsense: expected a weight above 0, got only 0$/ },
  { service: "words", want: /^nonsense: expected weights of 0 or more, got NaN at index 0$/ },
  { service: "empty", want: /^nonsense: expected a table of 1 to 251 entries, got 0$/ },
  {
    service: "out-of-range",
    want: /^nonsense: expected indexes from 0 to 2 .*, got 3 at entry 1$/,
  },
  { service: "half", want: /^nonsense: expected indexes from 0 to 2 .*, got 0.5 at entry 1$/ },
  { service: "huge", want: /^nonsense: expected a table of 1 to 251 entries, got 1000000000$/ },
  { service: "nothing", want: /^nonsense: expected weights or a table, got undefined$/ },
  { service: "promise", want: /^nonsense: expected a list as table, got undefined$/ },
  { service: "drained", want: /^nonsense: expected a backend that takes new flows .*, got none$/ },
];

test("every way to fail is named, and leaves the fallback", async () => {
  const runs = await Promise.all(
    FAILURES.map(async ({ service, want }) => {
      // The memory of a loop is found out by whichever limit is met first on this machine.
      const timeoutMs = service === "hoards" ? 20_000 : service === "loops" ? 400 : 20_000;
      return { service, want, run: await begin(service, { timeoutMs }) };
    }),
  );
  for (const { service, want, run } of runs) {
    await waitFor(`${service} to fail`, () => run.runner.state() === "failed", {
      timeoutMs: 60_000,
    });
    assert.match(run.runner.reason(), want, service);
    assert.equal(run.runner.decision(), null);
    assert.equal(run.states.length, 1, run.states.join("\n"));
    const failures = Object.entries(run.runner.failures()).filter(([, count]) => count > 0);
    assert.deepEqual(failures, [[run.runner.reason().split(":")[0], 1]]);
    run.runner.close();
  }
});

test("weights and tables become decisions about slots", async () => {
  const [weights, fractions, table] = await Promise.all(
    ["weights", "fractions", "table"].map((service) => begin(service, { timeoutMs: 20_000 })),
  );
  for (const run of [weights!, fractions!, table!]) {
    await waitFor("an answer", () => run.runner.state() === "active", { timeoutMs: 60_000 });
    assert.equal(run.decisions, 1);
    run.runner.close();
  }
  const weightsOf = (run: Run) => {
    const decision = run.runner.decision();
    return decision?.kind === "weights" ? [...decision.weights] : decision;
  };
  assert.deepEqual(weightsOf(weights!), [
    [7, 1],
    [8, 2],
    [9, 3],
  ]);
  assert.deepEqual(weightsOf(fractions!), [
    [7, 4096],
    [8, 2048],
    [9, 1],
  ]);
  assert.deepEqual(table!.runner.decision(), {
    kind: "table",
    slots: [7, 8, 9],
    table: Uint16Array.of(2, 0, 1, 0),
  });
  assert.deepEqual(weights!.lines, ["weights start 1"]);
});

const NOT_ROOT = process.getuid?.() === 0 ? false : "needs root: others have nothing to give up";

test("threads have no capability and no way to one, also as root", { skip: NOT_ROOT }, async () => {
  const run = await begin("weights", { timeoutMs: 20_000 });
  await waitFor("an answer", () => run.runner.state() === "active", { timeoutMs: 60_000 });
  const [nursery, ...others] = policyProcesses(process.pid);
  assert.deepEqual(others, []);
  const nice = policyThreads(nursery!);
  // Its own, and the process's first.
  assert.ok(nice.length >= 2, String(nice.length));
  for (const status of nice) {
    for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]) {
      assert.match(status, new RegExp(`^${set}:\\s*0+$`, "m"));
    }
    assert.match(status, /^NoNewPrivs:\s*1$/m);
  }
  run.runner.close();
  await waitFor("its process to end", () => policyProcesses(process.pid).length === 0);
});

test("an engine that aborts for want of memory is another process's", async () => {
  const own = createPolicyThreads();
  await compilePolicies(gatewayOf(POLICY));
  const { digest, files } = compiledPolicy(POLICY)!;
  const run = await begin("hoards-map", {
    timeoutMs: 30_000,
    startThread: (events) =>
      own.start({ name: "own", digest, files, tableSizeMax: TABLE_MAX }, events),
  });
  await waitFor("it to fail", () => run.runner.state() === "failed", { timeoutMs: 60_000 });
  assert.match(
    run.runner.reason(),
    /^memory: (the process of its threads ended with SIGABRT|expected at most 64 MB)/,
  );
  run.runner.close();
  await own.close();
});

test("called on change and by the interval; a new thread after a pause that grows", async () => {
  let states = ["up", "up", "draining"];
  const twice = await begin("twice", { timeoutMs: 20_000, read: () => inputOf("twice", states) });
  await waitFor("the first answer", () => twice.answers.length === 1, { timeoutMs: 60_000 });
  twice.runner.look();
  states = ["up", "up", "up"];
  twice.runner.look();
  await waitFor("the second answer", () => twice.answers.length === 2, { timeoutMs: 60_000 });
  assert.deepEqual(twice.lines, ["twice start 1", "twice change 2"]);
  assert.equal(twice.runner.decision()?.kind, "table");
  twice.runner.close();

  const pauses = { first: 10, most: 40, good: 1e9, load: 60_000 };
  const once = await begin("once", { timeoutMs: 20_000, intervalMs: 10, pauses });
  await waitFor("three threads", () => once.threads >= 3, { timeoutMs: 60_000 });
  once.runner.close();
  assert.ok((once.runner.failures().throws ?? 0) >= 2);
  assert.equal(once.states[0], "starting -> active");
  assert.match(once.states[1]!, /^active -> failed throws: policy\.ts:\d+:\d+: Error: once only$/);
  assert.match(once.states[2]!, /^failed -> active$/);
  assert.ok(once.lines.includes("once interval 2"));
});

test("an earlier decision stands until there is an answer; shadow has none", async () => {
  const before: PolicyDecision = { kind: "weights", weights: new Map([[7, 1]]) };
  const next = await begin("weights", { timeoutMs: 20_000 }, before);
  assert.equal(next.runner.decision(), before);
  const failing = await begin("throws", { timeoutMs: 20_000 }, before);
  const shadow = await begin("weights", { timeoutMs: 20_000, shadow: true });
  await waitFor("all three", () => next.answers.length + shadow.answers.length === 2, {
    timeoutMs: 60_000,
  });
  await waitFor("the failure", () => failing.runner.state() === "failed", { timeoutMs: 60_000 });
  assert.equal(failing.runner.decision(), null);
  assert.equal(failing.decisions, 1);
  assert.deepEqual([shadow.runner.state(), shadow.runner.decision()], ["shadow", null]);
  assert.equal(shadow.decisions, 0);
  for (const { runner } of [next, failing, shadow]) runner.close();
});
