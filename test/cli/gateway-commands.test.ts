import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { parse } from "yaml";
import { EXIT } from "../../src/base/errors.ts";
import { createAdminClient } from "../../src/cli/admin-client.ts";
import {
  renderAffinity,
  renderBackends,
  renderDrops,
  renderFlows,
  renderServices,
  renderStatus,
  renderWorkers,
} from "../../src/cli/render.ts";
import {
  AFFINITY,
  type Asked,
  BACKENDS,
  DROPS,
  type FakeGateway,
  FLOWS,
  headgate,
  RELOADED,
  type Reply,
  SERVICES,
  STATUS,
  startFakeGateway,
  WORKERS,
} from "./fake-gateway.ts";

// Commands that ask the admin socket, against one that answers as the test says.

async function gateway(
  t: TestContext,
  answer?: (asked: Asked) => Reply | undefined,
): Promise<FakeGateway> {
  const fake = await startFakeGateway(answer);
  t.after(() => fake.end());
  return fake;
}

const TABLES: readonly (readonly [string, unknown, (isWide: boolean) => string])[] = [
  ["services", SERVICES, (isWide) => renderServices(SERVICES, isWide)],
  ["backends", BACKENDS, (isWide) => renderBackends(BACKENDS, isWide)],
  ["flows", FLOWS, (isWide) => renderFlows(FLOWS, isWide)],
  ["affinity", AFFINITY, (isWide) => renderAffinity(AFFINITY, isWide)],
  ["drops", DROPS, (isWide) => renderDrops(DROPS, isWide)],
  ["workers", WORKERS, (isWide) => renderWorkers(WORKERS, isWide)],
];
for (const [what, data, render] of TABLES) {
  test(`get ${what}: table, wide, JSON and YAML`, async (t) => {
    const { socket } = await gateway(t);
    const get = (...more: string[]) => headgate(["get", what, "--socket", socket, ...more]);
    assert.deepEqual(await get(), { code: 0, out: render(false), err: "", actions: [] });
    assert.equal((await get("-o", "wide")).out, render(true));
    assert.deepEqual(JSON.parse((await get("-o", "json")).out), data);
    assert.deepEqual(parse((await get("-o", "yaml")).out), data);
  });
}

test("status: one screen, or data", async (t) => {
  const { socket } = await gateway(t);
  const { code, out } = await headgate(["status", "--socket", socket]);
  assert.deepEqual([code, out], [0, renderStatus(STATUS, DROPS, WORKERS)]);
  const json = await headgate(["status", "--socket", socket, "-o", "json"]);
  assert.deepEqual(JSON.parse(json.out), STATUS);
});

test("--socket stands before or after the command", async (t) => {
  const { socket } = await gateway(t);
  assert.equal((await headgate(["--socket", socket, "get", "workers"])).code, EXIT.done);
  assert.equal((await headgate(["get", "--socket", socket, "workers"])).code, EXIT.done);
  assert.equal((await headgate(["get", "workers", "--socket", socket])).code, EXIT.done);
});

test("filters and limits go to the gateway, or are applied here", async (t) => {
  const { socket, asked } = await gateway(t);
  const ask = async (...argv: string[]): Promise<string> => {
    const { out, code } = await headgate([...argv, "--socket", socket, "-o", "json"]);
    assert.equal(code, EXIT.done);
    return out;
  };
  await ask("get", "flows");
  await ask("get", "flows", "--limit", "7", "--service", "a/b", "--client", "198.51.100.0/24");
  await ask("get", "flows", "--backend", "web/10.20.0.11:8080");
  await ask("get", "flows", "--backend", "10.20.0.11");
  const backends = JSON.parse(await ask("get", "backends", "--backend", "web/10.20.0.11:8080"));
  assert.deepEqual(
    asked.map((it) => it.url),
    [
      "/api/v1/flows?limit=100",
      "/api/v1/flows?limit=7&service=a%2Fb&client=198.51.100.0%2F24",
      "/api/v1/flows?limit=100&service=web&backend=10.20.0.11%3A8080",
      "/api/v1/flows?limit=100&backend=10.20.0.11",
      "/api/v1/backends?service=web",
    ],
  );
  assert.deepEqual(backends, BACKENDS.slice(0, 1));
  assert.equal(JSON.parse(await ask("get", "backends", "--limit", "2")).length, 2);
  assert.deepEqual(JSON.parse(await ask("get", "services", "--service", "dns")), [SERVICES[1]]);
});

test("a service that is not there: exit 1, and its name", async (t) => {
  const error = 'there is no service "nix"';
  const { socket } = await gateway(t, ({ url }) =>
    url.includes("service=nix") ? { status: 404, body: { error } } : undefined,
  );
  for (const what of ["services", "backends", "flows"]) {
    const ran = await headgate(["get", what, "--service", "nix", "--socket", socket]);
    assert.deepEqual([ran.code, ran.out, ran.err], [EXIT.failed, "", `headgate: ${error}\n`]);
  }
});

for (const { name, isTerminal, between } of [
  { name: "a terminal is cleared", isTerminal: true, between: "\u001b[2J\u001b[H" },
  { name: "a pipe gets an empty line", isTerminal: false, between: "\n" },
]) {
  test(`-w prints again each second until interrupted; ${name}`, async (t) => {
    const { socket, asked } = await gateway(t);
    const stop = new AbortController();
    let screens = 0;
    const ran = await headgate(["get", "workers", "-w", "--socket", socket], {
      isTerminal,
      interrupted: stop.signal,
      onOut: () => {
        screens += 1;
        if (screens === 2) stop.abort();
      },
    });
    const screen = renderWorkers(WORKERS);
    const first = isTerminal ? `${between}${screen}` : screen;
    assert.deepEqual([ran.code, ran.out], [EXIT.done, `${first}${between}${screen}`]);
    assert.equal(asked.length, 2);
  });
}

test("-w ends with 69 when the gateway goes", async (t) => {
  const fake = await gateway(t);
  const ran = await headgate(["status", "-w", "--socket", fake.socket], {
    onOut: () => void fake.end(),
  });
  assert.equal(ran.code, EXIT.noGateway);
  assert.match(ran.err, /^headgate: no gateway answers at /);
});

const ACTIONS: readonly (readonly [string[], unknown])[] = [
  [["drain", "web/10.20.0.11:8080"], { action: "drain", target: "web/10.20.0.11:8080" }],
  [
    ["drain", "web/10.20.0.11:8080", "--deadline", "5m"],
    { action: "drain", target: "web/10.20.0.11:8080", deadlineMs: 300_000 },
  ],
  [
    ["disable", "a/b/10.20.0.11", "--deadline", "0s"],
    { action: "disable", target: "a/b/10.20.0.11", deadlineMs: 0 },
  ],
  [["enable", "web/10.20.0.11:8080"], { action: "enable", target: "web/10.20.0.11:8080" }],
  [
    ["reset", "web/[2001:db8:2::11]:8080"],
    { action: "reset", target: "web/[2001:db8:2::11]:8080" },
  ],
  [
    ["weight", "web/10.20.0.11:8080", "0"],
    { action: "weight", target: "web/10.20.0.11:8080", weight: 0 },
  ],
];
for (const [argv, body] of ACTIONS) {
  test(`backend ${argv.join(" ")}`, async (t) => {
    const { socket, asked } = await gateway(t);
    const ran = await headgate(["backend", ...argv, "--socket", socket]);
    assert.deepEqual([ran.code, ran.err], [EXIT.done, ""]);
    assert.equal(ran.out, renderBackends(BACKENDS.slice(0, 1)));
    assert.deepEqual(asked, [{ method: "POST", url: "/api/v1/backends/action", body }]);
  });
}

test("a backend that is not there: exit 1", async (t) => {
  const error = "service web has no backend 10.20.0.99:80";
  const { socket } = await gateway(t, () => ({ status: 404, body: { error } }));
  const ran = await headgate(["backend", "drain", "web/10.20.0.99:80", "--socket", socket]);
  assert.deepEqual([ran.code, ran.err], [EXIT.failed, `headgate: ${error}\n`]);
});

test("reload says what changed", async (t) => {
  const { socket, asked } = await gateway(t);
  const ran = await headgate(["reload", "--socket", socket]);
  assert.equal(ran.code, EXIT.done);
  assert.match(ran.out, /^added {4}service api\n.*\n.*\ngeneration 4 is running\n$/);
  assert.deepEqual(asked, [{ method: "POST", url: "/api/v1/reload", body: {} }]);
});

for (const [name, changed, argv, want] of [
  ["differs, with --exit-code", ["log"], ["--dry-run", "--exit-code"], EXIT.differs],
  ["is the same, with --exit-code", [], ["--dry-run", "--exit-code"], EXIT.done],
  ["differs, without --exit-code", ["log"], ["--dry-run"], EXIT.done],
] as const) {
  test(`reload --dry-run of a file that ${name}`, async (t) => {
    const body = { ...RELOADED, dryRun: true, added: [], removed: [], changed };
    const { socket, asked } = await gateway(t, () => ({ body }));
    const ran = await headgate(["reload", ...argv, "--socket", socket]);
    assert.equal(ran.code, want);
    assert.equal(asked[0]?.url, "/api/v1/reload?dryRun=1");
    assert.match(ran.out, /dry run: generation 4 stays as it is\n$/);
  });
}

test("reload that is refused: its problems, exit 78", async (t) => {
  const problems = ["gw.yaml:5:11: services[0].port: expected …, got 0", "gw.yaml:9:1: x: y"];
  const body = { ...RELOADED, ok: false, problems };
  const { socket } = await gateway(t, () => ({ status: 409, body }));
  const ran = await headgate(["reload", "--socket", socket]);
  assert.deepEqual([ran.code, ran.out], [EXIT.configuration, ""]);
  assert.deepEqual(ran.err.split("\n"), [
    ...problems,
    "headgate: the reload was refused; the running configuration stays",
    "",
  ]);
});

test("drain waits until the gateway has ended", async (t) => {
  let looks = 0;
  const fake = await gateway(t, ({ url }) => {
    if (url === "/api/v1/drain") return { body: { liveFlows: 2 } };
    looks += 1;
    if (looks === 2) setImmediate(() => void fake.end());
    return { body: STATUS };
  });
  const ran = await headgate(["drain", "--timeout", "30s", "--socket", fake.socket]);
  assert.deepEqual([ran.code, ran.err], [EXIT.done, ""]);
  assert.equal(ran.out, "draining, 2 flows left\nthe gateway has ended\n");
  const post = fake.asked.find((it) => it.method === "POST");
  assert.deepEqual(post?.body, { timeoutMs: 30_000 });
});

test("drain ends when another process has taken the socket", async (t) => {
  let looks = 0;
  const { socket } = await gateway(t, ({ url }) => {
    if (url === "/api/v1/drain") return { body: { liveFlows: 1 } };
    looks += 1;
    return { body: { ...STATUS, processId: looks === 1 ? 1 : 2 } };
  });
  const ran = await headgate(["drain", "--socket", socket]);
  assert.deepEqual([ran.code, ran.out], [0, "draining, 1 flow left\nthe gateway has ended\n"]);
});

test("no gateway: exit 69 and one sentence, for every command that asks one", async (t) => {
  const fake = await gateway(t);
  const { socket } = fake;
  await fake.end();
  for (const argv of [
    ["status"],
    ["get", "flows"],
    ["backend", "reset", "web/10.20.0.11:80"],
    ["reload"],
    ["drain"],
  ]) {
    const ran = await headgate([...argv, "--socket", socket]);
    assert.deepEqual([ran.code, ran.out], [EXIT.noGateway, ""], argv.join(" "));
    assert.match(
      ran.err,
      /^headgate: no gateway answers at .* \(ENOENT\): start one with [^\n]*\n$/,
    );
  }
});

test("a file that is no socket, and a socket that nobody listens on: 69", async (t) => {
  const { socket } = await gateway(t);
  const file = path.join(path.dirname(socket), "file");
  writeFileSync(file, "");
  const ran = await headgate(["status", "--socket", file]);
  assert.equal(ran.code, EXIT.noGateway);
  assert.match(ran.err, /\((ECONNREFUSED|ENOTSOCK)\)/);
});

test("a gateway that is only starting: 69", async (t) => {
  const body = { error: "the gateway is starting" };
  const { socket } = await gateway(t, () => ({ status: 503, body }));
  const ran = await headgate(["status", "--socket", socket]);
  assert.equal(ran.code, EXIT.noGateway);
  assert.match(ran.err, /^headgate: no gateway is ready at .*: the gateway is starting\n$/);
});

for (const [name, reply, want] of [
  [
    "bad request",
    { status: 400, body: { error: "limit: too big" } },
    /^headgate: limit: too big\n$/,
  ],
  ["no reason", { status: 500, body: {} }, /^headgate: the gateway answered with status 500\n$/],
  [
    "not JSON",
    { body: null, raw: "<html>" },
    /^headgate: expected a headgate gateway at .* not JSON\n$/,
  ],
] as const) {
  test(`an answer that is no answer (${name}): exit 1`, async (t) => {
    const { socket } = await gateway(t, () => reply);
    const ran = await headgate(["get", "workers", "--socket", socket]);
    assert.equal(ran.code, EXIT.failed);
    assert.match(ran.err, want);
  });
}

test("a gateway that never answers is given up", async (t) => {
  const { socket } = await gateway(t);
  const silent = `${socket}.silent`;
  const server = createServer(() => {}).listen(silent);
  t.after(() => server.close());
  await assert.rejects(createAdminClient(silent, 50).get("/api/v1/status"), {
    name: "NoGatewayError",
    message: /no gateway answers at .* \(nothing within 0\.05 s\)/,
  });
});
