import assert from "node:assert/strict";
import type { IncomingMessage } from "node:http";
import { type TestContext, test } from "node:test";
import { type CheckEndpoint, type CheckResult, failureReason } from "../../src/health/check.ts";
import { checkHttp } from "../../src/health/http-check.ts";
import { checkTcpConnect } from "../../src/health/tcp-check.ts";
import type { HttpQuestion } from "../../src/service/health-definition.ts";
import { waitFor } from "../support/wait.ts";
import { closedPort, httpServer, LOOPBACK, type TestServer, tcpServer } from "./targets.ts";

const endpoint = (port: number, overrides: Partial<CheckEndpoint> = {}): CheckEndpoint => ({
  address: LOOPBACK,
  port,
  source: null,
  timeoutMs: 2000,
  ...overrides,
});
const question = (overrides: Partial<HttpQuestion> = {}): HttpQuestion => ({
  method: "GET",
  path: "/",
  host: null,
  headers: {},
  status: [{ low: 200, high: 399 }],
  body: null,
  bodyBytes: 65_536,
  ...overrides,
});
const never = (): AbortSignal => new AbortController().signal;

/** Closed with the test, so that a failure leaves nothing open. */
async function open(t: TestContext, server: Promise<TestServer>): Promise<TestServer> {
  const opened = await server;
  t.after(() => opened.close());
  return opened;
}

function found({ ok, reason }: CheckResult): { ok: boolean; reason: string } {
  return { ok, reason };
}

test("tcp: a backend that accepts is well, and the connection ends in order", async (t) => {
  const ended: boolean[] = [];
  const server = await open(
    t,
    tcpServer((socket) => {
      socket.resume();
      socket.once("close", (hadError) => ended.push(hadError));
    }),
  );
  const result = await checkTcpConnect(endpoint(server.port), never());
  assert.deepEqual(found(result), { ok: true, reason: "connected" });
  assert.ok(result.durationMs >= 0 && result.durationMs < 2000);
  await waitFor("the server's side to end", () => ended.length === 1);
  assert.deepEqual(ended, [false]);
});

test("tcp: nobody listens", async () => {
  const result = await checkTcpConnect(endpoint(await closedPort()), never());
  assert.deepEqual(found(result), { ok: false, reason: "connect ECONNREFUSED" });
});

test("tcp: a source address that the host does not have", async (t) => {
  const server = await open(t, tcpServer());
  const wrong = endpoint(server.port, { source: "192.0.2.1" });
  assert.deepEqual(found(await checkTcpConnect(wrong, never())), {
    ok: false,
    reason: "bind EADDRNOTAVAIL",
  });
});

test("the source address is the one that the backend sees", async (t) => {
  const seen: (string | undefined)[] = [];
  const server = await open(
    t,
    tcpServer((socket) => {
      seen.push(socket.remoteAddress);
      socket.end("HTTP/1.1 200 OK\r\n\r\n");
      socket.resume();
    }),
  );
  const from = endpoint(server.port, { source: "127.0.0.77" });
  assert.equal((await checkTcpConnect(from, never())).ok, true);
  assert.equal((await checkHttp(from, question(), never())).ok, true);
  await waitFor("both connections", () => seen.length === 2);
  assert.deepEqual(seen, ["127.0.0.77", "127.0.0.77"]);
});

test("http: the request is as configured", async (t) => {
  const asked: IncomingMessage[] = [];
  const server = await open(
    t,
    httpServer((request, response) => {
      asked.push(request);
      response.end("fine");
    }),
  );
  const one = question({ path: "/ready?deep=1", host: "shop.example" });
  assert.deepEqual(found(await checkHttp(endpoint(server.port), one, never())), {
    ok: true,
    reason: "status 200",
  });
  await checkHttp(endpoint(server.port), question(), never());
  assert.deepEqual(
    asked.map(({ method, url, headers }) => [method, url, headers.host, headers.connection]),
    [
      ["GET", "/ready?deep=1", "shop.example", "close"],
      ["GET", "/", `${LOOPBACK}:${server.port}`, "close"],
    ],
  );
});

test("http: the status decides, by the ranges of the configuration", async (t) => {
  const server = await open(
    t,
    httpServer((request, response) => {
      response.statusCode = Number(request.url!.slice(1));
      response.setHeader("location", "/200");
      response.end();
    }),
  );
  const judge = async (code: number, status: HttpQuestion["status"]): Promise<string> => {
    const asked = question({ path: `/${code}`, status });
    const { ok, reason } = await checkHttp(endpoint(server.port), asked, never());
    return `${ok} ${reason}`;
  };
  const usual = [{ low: 200, high: 399 }];
  const odd = [
    { low: 204, high: 204 },
    { low: 500, high: 503 },
  ];
  assert.equal(await judge(200, usual), "true status 200");
  assert.equal(await judge(302, usual), "true status 302");
  assert.equal(await judge(399, usual), "true status 399");
  assert.equal(await judge(400, usual), "false status 400");
  assert.equal(await judge(503, usual), "false status 503");
  assert.equal(await judge(200, odd), "false status 200");
  assert.equal(await judge(204, odd), "true status 204");
  assert.equal(await judge(503, odd), "true status 503");
  assert.equal(await judge(504, odd), "false status 504");
});

test("http: a body that never ends is cut off, and does not matter", async (t) => {
  let written = 0;
  const server = await open(
    t,
    httpServer((_request, response) => {
      const part = Buffer.alloc(16 * 1024, 0x61);
      const more = (): void => {
        if (response.destroyed) return;
        written += part.length;
        response.write(part, more);
      };
      response.on("error", () => undefined);
      more();
    }),
  );
  const result = await checkHttp(endpoint(server.port), question(), never());
  assert.deepEqual(found(result), { ok: true, reason: "status 200" });
  await waitFor("the server to notice", () => server.sockets.size === 0);
  // What socket buffers on both sides can hold, and not more.
  assert.ok(written < 16 * 1024 * 1024, `${written} bytes were taken`);
});

test("http: a body that stops half-way does not outlast the timeout", async (t) => {
  const server = await open(
    t,
    httpServer((_request, response) => {
      response.writeHead(200, { "content-length": 100 });
      response.write("half");
    }),
  );
  const result = await checkHttp(endpoint(server.port, { timeoutMs: 100 }), question(), never());
  assert.deepEqual(found(result), { ok: true, reason: "status 200" });
  await waitFor("the server to notice", () => server.sockets.size === 0);
});

test("http: no answer in time", async (t) => {
  const silent = await open(t, tcpServer());
  const late = endpoint(silent.port, { timeoutMs: 150 });
  assert.deepEqual(found(await checkHttp(late, question(), never())), {
    ok: false,
    reason: "timeout after 150ms",
  });
  const second = endpoint(silent.port, { timeoutMs: 1000 });
  assert.equal((await checkHttp(second, question(), never())).reason, "timeout after 1s");
});

test("http: what is no HTTP", async (t) => {
  const cases: [name: string, answer: string, reason: RegExp][] = [
    ["another protocol", "SSH-2.0-OpenSSH_9.6\r\n", /^Parse Error/],
    ["headers without end", `HTTP/1.1 200 OK\r\nx: ${"y".repeat(70_000)}`, /Header overflow/],
    ["closed at once", "", /^(socket hang up|closed by the backend)$/],
  ];
  for (const [name, answer, reason] of cases) {
    const server = await open(
      t,
      tcpServer((socket) => {
        socket.resume();
        socket.end(answer);
      }),
    );
    const result = await checkHttp(endpoint(server.port), question(), never());
    assert.equal(result.ok, false, name);
    assert.match(result.reason, reason, name);
  }
});

test("http: an upgrade is a status like any other", async (t) => {
  const server = await open(
    t,
    tcpServer((socket) => {
      socket.resume();
      socket.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n");
    }),
  );
  const switching = question({ status: [{ low: 101, high: 101 }] });
  assert.deepEqual(found(await checkHttp(endpoint(server.port), switching, never())), {
    ok: true,
    reason: "status 101",
  });
});

test("an ended check closes its connection", async (t) => {
  const server = await open(t, tcpServer());
  const controller = new AbortController();
  const check = checkHttp(endpoint(server.port), question(), controller.signal);
  await waitFor("the connection", () => server.sockets.size === 1);
  controller.abort();
  assert.equal((await check).ok, false);
  await waitFor("its end", () => server.sockets.size === 0);
  const ended = await checkTcpConnect(endpoint(server.port), controller.signal);
  assert.equal(ended.ok, false);
});

test("time in which the thread was busy does not count against the backend", async (t) => {
  const server = await open(t, tcpServer());
  const check = checkTcpConnect(endpoint(server.port, { timeoutMs: 100 }), never());
  // The kernel completes the handshake meanwhile; the timer is due before the socket is looked at.
  const until = performance.now() + 300;
  while (performance.now() < until);
  assert.deepEqual(found(await check), { ok: true, reason: "connected" });
});

test("a reason is a short line", () => {
  assert.equal(failureReason(new Error("x".repeat(1000))).length, 200);
  const reset = Object.assign(new Error("long"), { code: "ECONNRESET", syscall: "read" });
  assert.equal(failureReason(reset), "read ECONNRESET");
});
