import assert from "node:assert/strict";
import { test } from "node:test";
import type { AdminError } from "../../../src/base/admin-types.ts";
import { HeadgateError } from "../../../src/base/errors.ts";
import { type AdminAppOptions, createAdminApp } from "../../../src/control/admin/app.ts";
import { BACKEND, fakeView, SERVICE, STATUS } from "./view.ts";

const SOCKET: AdminAppOptions = {
  access: "all",
  token: null,
  onDefect: (error) => {
    throw error;
  },
};

function post(body: unknown): RequestInit {
  return { method: "POST", body: typeof body === "string" ? body : JSON.stringify(body) };
}

async function errorOf(response: Response): Promise<string> {
  return ((await response.json()) as AdminError).error;
}

test("every GET answers with what the gateway says", async () => {
  const app = createAdminApp(fakeView(), SOCKET);
  const answers: [string, unknown][] = [
    ["/api/v1/status", STATUS],
    ["/api/v1/services", [SERVICE]],
    ["/api/v1/backends", [BACKEND]],
    ["/api/v1/flows", { flows: [], total: 0, truncated: false }],
    ["/api/v1/affinity", { entries: [], total: 0, truncated: false }],
    ["/api/v1/drops", { reasons: [], samples: [] }],
    ["/api/v1/workers", []],
    ["/api/v1/config", { version: 1 }],
  ];
  for (const [path, want] of answers) {
    const response = await app.request(path);
    assert.equal(response.status, 200, path);
    assert.deepEqual(await response.json(), want, path);
  }
  const metrics = await app.request("/metrics");
  assert.equal(metrics.headers.get("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  assert.equal(await metrics.text(), "# EOF\n");
});

test("livez and readyz answer 200 or 503", async () => {
  const up = createAdminApp(fakeView(), SOCKET);
  const down = createAdminApp(fakeView({ isLive: () => false, isReady: () => false }), SOCKET);
  for (const path of ["/livez", "/readyz"]) {
    assert.equal((await up.request(path)).status, 200, path);
    assert.equal((await down.request(path)).status, 503, path);
  }
});

test("a flow query reaches the gateway in its own words", async () => {
  const view = fakeView();
  const app = createAdminApp(view, SOCKET);
  await app.request(
    "/api/v1/flows?limit=5&service=web&backend=10.20.0.11:8080&client=198.51.100.0/24",
  );
  await app.request("/api/v1/flows?client=198.51.100.2");
  assert.deepEqual(view.calls, [
    [
      "flows",
      {
        limit: 5,
        service: "web",
        backend: "10.20.0.11:8080",
        client: { address: 0xc6336400 | 0, prefixLength: 24 },
      },
    ],
    [
      "flows",
      {
        limit: 100,
        service: null,
        backend: null,
        client: { address: 0xc6336402 | 0, prefixLength: 32 },
      },
    ],
  ]);
});

test("a backend action reaches the gateway; its answer is the changed rows", async () => {
  const view = fakeView();
  const app = createAdminApp(view, SOCKET);
  const action = { action: "weight", target: "web/10.20.0.11:8080", weight: 0 };
  const response = await app.request("/api/v1/backends/action", post(action));
  assert.equal(response.status, 200);
  assert.deepEqual(await response.json(), [BACKEND]);
  assert.deepEqual(view.calls, [["backendAction", action]]);
});

const BAD_BODIES: { name: string; path: string; body: unknown; want: RegExp }[] = [
  { name: "no JSON", path: "backends/action", body: "{", want: /JSON/ },
  { name: "no object", path: "backends/action", body: [], want: /./ },
  {
    name: "unknown action",
    path: "backends/action",
    body: { action: "kill", target: "web/10.20.0.11" },
    want: /action/,
  },
  {
    name: "unknown key",
    path: "backends/action",
    body: { action: "drain", target: "web/10.20.0.11", force: true },
    want: /force/,
  },
  {
    name: "target without a service",
    path: "backends/action",
    body: { action: "drain", target: "10.20.0.11" },
    want: /target/,
  },
  {
    name: "weight missing",
    path: "backends/action",
    body: { action: "weight", target: "web/10.20.0.11" },
    want: /weight/,
  },
  {
    name: "weight too large",
    path: "backends/action",
    body: { action: "weight", target: "web/10.20.0.11", weight: 65536 },
    want: /weight/,
  },
  {
    name: "weight of a drain",
    path: "backends/action",
    body: { action: "drain", target: "web/10.20.0.11", weight: 1 },
    want: /weight/,
  },
  { name: "drain without a time", path: "drain", body: {}, want: /timeoutMs/ },
  { name: "drain with a negative time", path: "drain", body: { timeoutMs: -1 }, want: /timeoutMs/ },
  { name: "reload with a word", path: "reload?dryRun=maybe", body: {}, want: /dryRun/ },
];
for (const { name, path, body, want } of BAD_BODIES) {
  test(`a bad request is 400 and does not reach the gateway: ${name}`, async () => {
    const view = fakeView();
    const response = await createAdminApp(view, SOCKET).request(`/api/v1/${path}`, post(body));
    assert.equal(response.status, 400);
    assert.match(await errorOf(response), want);
    assert.deepEqual(view.calls, []);
  });
}

for (const query of ["limit=-1", "limit=x", "client=198.51.100.300", "client=1.2.3.4/33"]) {
  test(`a bad flow query is 400: ${query}`, async () => {
    const view = fakeView();
    const response = await createAdminApp(view, SOCKET).request(`/api/v1/flows?${query}`);
    assert.equal(response.status, 400);
    assert.deepEqual(view.calls, []);
  });
}

test("a body that is too large is 400", async () => {
  const response = await createAdminApp(fakeView(), SOCKET).request(
    "/api/v1/drain",
    post(JSON.stringify({ timeoutMs: 1, pad: "x".repeat(70_000) })),
  );
  assert.equal(response.status, 400);
});

test("what is not there is 404, also as the gateway says it", async () => {
  const view = fakeView({
    backends: () => {
      throw new HeadgateError("HEADGATE_NOT_FOUND", 'no service "shop"', 1);
    },
  });
  const app = createAdminApp(view, SOCKET);
  assert.equal((await app.request("/api/v2/status")).status, 404);
  const response = await app.request("/api/v1/backends?service=shop");
  assert.equal(response.status, 404);
  assert.equal(await errorOf(response), 'no service "shop"');
});

test("a refused reload is 409 with its report", async () => {
  const refused = {
    ok: false,
    dryRun: true,
    generation: 3,
    added: [],
    changed: [],
    removed: [],
    problems: ["gw.yaml:1:1: device: needs a restart"],
  };
  const seen: boolean[] = [];
  const view = fakeView({
    reload: (dryRun) => {
      seen.push(dryRun);
      return Promise.resolve(refused);
    },
  });
  const app = createAdminApp(view, SOCKET);
  const response = await app.request("/api/v1/reload?dryRun=1", { method: "POST" });
  assert.equal(response.status, 409);
  assert.deepEqual(await response.json(), refused);
  await app.request("/api/v1/reload", { method: "POST" });
  assert.deepEqual(seen, [true, false]);
});

test("a defect is 500, and is told", async () => {
  const told: string[] = [];
  const view = fakeView({
    status: () => {
      throw new TypeError("undefined is not a number");
    },
  });
  const app = createAdminApp(view, { ...SOCKET, onDefect: (error) => told.push(error.message) });
  assert.equal((await app.request("/api/v1/status")).status, 500);
  assert.deepEqual(told, ["undefined is not a number"]);
});

test("on TCP nothing can be changed", async () => {
  const view = fakeView();
  const app = createAdminApp(view, { ...SOCKET, access: "read" });
  assert.equal((await app.request("http://127.0.0.1:9105/api/v1/status")).status, 200);
  assert.equal((await app.request("http://127.0.0.1:9105/metrics")).status, 200);
  view.calls.length = 0;
  for (const path of ["reload", "drain", "backends/action"]) {
    const response = await app.request(
      `http://127.0.0.1:9105/api/v1/${path}`,
      post({ timeoutMs: 1 }),
    );
    assert.equal(response.status, 405, path);
  }
  assert.deepEqual(view.calls, []);
});

test("on TCP a request under a foreign name is refused", async () => {
  const app = createAdminApp(fakeView(), { ...SOCKET, access: "read" });
  const get = async (host: string): Promise<number> =>
    (await app.request("/api/v1/status", { headers: { host } })).status;
  assert.equal(await get("evil.example:9105"), 403);
  assert.equal(await get("127.0.0.1:9105"), 200);
  assert.equal(await get("localhost:9105"), 200);
  assert.equal(await get("[::1]:9105"), 200);
});

test("with a token every request has to carry it", async () => {
  const token = "0123456789abcdef";
  const app = createAdminApp(fakeView(), { ...SOCKET, access: "read", token });
  const get = async (headers: Record<string, string>): Promise<number> =>
    (await app.request("/metrics", { headers })).status;
  assert.equal(await get({}), 401);
  assert.equal(await get({ authorization: "Bearer 0123456789abcdee" }), 401);
  assert.equal(await get({ authorization: token }), 401);
  assert.equal(await get({ authorization: `Bearer ${token}` }), 200);
});
