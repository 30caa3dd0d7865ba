import assert from "node:assert/strict";
import { createServer as createHttp2Server, type ServerHttp2Stream } from "node:http2";
import { type TestContext, test } from "node:test";
import { checkHttp } from "../../src/health/http-check.ts";
import { checkHttp2 } from "../../src/health/http2-check.ts";
import type { HttpQuestion } from "../../src/service/health-definition.ts";
import { waitFor } from "../support/wait.ts";
import { endpoint, found, never, open, question } from "./questions.ts";
import { closedPort, httpServer, LOOPBACK, listen, type TestServer, tcpServer } from "./targets.ts";

// Goal: HTTP/1.1 and HTTP/2 judge the same answers alike.
// Method: one description of an answer, given by a server of each.

interface Answer {
  readonly status?: number;
  readonly parts: readonly string[];
  /** The body never ends. */
  readonly isOpen?: boolean;
}

interface Asked {
  method: string;
  path: string;
  authority: string;
  token: string;
}

interface Both {
  readonly name: string;
  readonly asked: Asked[];
  check(question: HttpQuestion, timeoutMs?: number): Promise<string>;
  readonly server: TestServer;
}

async function both(t: TestContext, answer: Answer): Promise<Both[]> {
  const { status = 200, parts, isOpen = false } = answer;
  const one: Asked[] = [];
  const first = await open(
    t,
    httpServer((request, response) => {
      const { method = "", url = "", headers } = request;
      one.push({ method, path: url, authority: headers.host!, token: `${headers["x-token"]}` });
      response.on("error", () => undefined);
      response.writeHead(status);
      for (const part of parts) response.write(part);
      if (!isOpen) response.end();
    }),
  );
  const two: Asked[] = [];
  const server = createHttp2Server();
  server.on("stream", (stream: ServerHttp2Stream, headers) => {
    two.push({
      method: `${headers[":method"]}`,
      path: `${headers[":path"]}`,
      authority: `${headers[":authority"]}`,
      token: `${headers["x-token"]}`,
    });
    stream.on("error", () => undefined);
    stream.respond({ ":status": status });
    for (const part of parts) stream.write(part);
    if (!isOpen) stream.end();
  });
  server.on("sessionError", () => undefined);
  const second = await open(t, listen(server, 0, LOOPBACK));
  return [
    {
      name: "http",
      asked: one,
      server: first,
      check: async (asked, timeoutMs = 2000) =>
        found(await checkHttp(endpoint(first.port, { timeoutMs }), asked, never())),
    },
    {
      name: "http2",
      asked: two,
      server: second,
      check: async (asked, timeoutMs = 2000) =>
        found(
          await checkHttp2(endpoint(second.port, { timeoutMs }), { ...asked, tls: null }, never()),
        ),
    },
  ];
}

const contains = (text: string): HttpQuestion => question({ body: { kind: "contains", text } });
const matches = (text: string): HttpQuestion => question({ body: { kind: "matches", text } });

test("the request is as configured", async (t) => {
  for (const { name, check, asked, server } of await both(t, { parts: ["fine"] })) {
    const odd = question({
      method: "POST",
      path: "/ready?deep=1",
      host: "shop.example",
      headers: { "x-token": "s3cret" },
    });
    assert.equal(await check(odd), "up: status 200", name);
    assert.equal(await check(question({ method: "HEAD" })), "up: status 200", name);
    const own = `${LOOPBACK}:${server.port}`;
    assert.deepEqual(asked, [
      { method: "POST", path: "/ready?deep=1", authority: "shop.example", token: "s3cret" },
      { method: "HEAD", path: "/", authority: own, token: "undefined" },
    ]);
    await waitFor(`${name}: the server's side to end`, () => server.sockets.size === 0);
  }
});

test("status before body, and what the body has to hold", async (t) => {
  for (const { name, check } of await both(t, {
    parts: ["all is", " well\n", "as far as I know"],
  })) {
    assert.equal(await check(contains("is well")), "up: status 200", name);
    assert.equal(
      await check(contains("is sick")),
      'down: status 200, body without "is sick"',
      name,
    );
    assert.equal(await check(matches("^all .* well")), "up: status 200", name);
    assert.equal(
      await check(matches("well$")),
      "down: status 200, body does not match /well$/",
      name,
    );
    const short = { ...contains("as far"), bodyBytes: 9 };
    assert.equal(await check(short), 'down: status 200, body without "as far"', name);
    assert.equal(await check({ ...matches("^all is we$"), bodyBytes: 9 }), "up: status 200", name);
  }
  for (const { name, check } of await both(t, { status: 500, parts: ["all is well"] })) {
    assert.equal(await check(contains("well")), "down: status 500", name);
    assert.equal(await check(matches("well")), "down: status 500", name);
  }
});

test("a body that never ends: found as soon as it is there, else down at the timeout", async (t) => {
  for (const { name, check, server } of await both(t, { parts: ["ready"], isOpen: true })) {
    assert.equal(await check(contains("ready"), 60_000), "up: status 200", name);
    assert.equal(await check(contains("sick"), 100), "down: timeout after 100ms", name);
    assert.equal(await check(matches("ready"), 100), "down: timeout after 100ms", name);
    await waitFor(`${name}: the server's side to end`, () => server.sockets.size === 0);
  }
});

test("an expression that takes for ever is ended, and the thread goes on", async (t) => {
  for (const { name, check } of await both(t, { parts: ["a".repeat(40), "!"] })) {
    const endless = "^(a+)+$";
    assert.equal(
      await check(matches(endless)),
      "down: status 200, bodyMatches takes too long",
      name,
    );
  }
});

test("http2: what is no HTTP/2, and who does not answer", async (t) => {
  const ask = async (port: number, timeoutMs = 2000): Promise<string> =>
    found(await checkHttp2(endpoint(port, { timeoutMs }), { ...question(), tls: null }, never()));
  const speaks = (answer: string) =>
    open(
      t,
      tcpServer((socket) => {
        socket.resume();
        socket.end(answer);
      }),
    );
  assert.match(
    await ask((await speaks("HTTP/1.1 400 Bad Request\r\n\r\n")).port),
    /^down: Protocol error/,
  );
  assert.match(await ask((await speaks("")).port), /^down: /);
  assert.equal(await ask(await closedPort()), "down: connect ECONNREFUSED");
  const silent = await open(t, tcpServer());
  assert.equal(await ask(silent.port, 100), "down: timeout after 100ms");
  await waitFor("its end", () => silent.sockets.size === 0);

  const refusing = createHttp2Server();
  refusing.on("stream", (stream: ServerHttp2Stream) => stream.close(7));
  const refused = await open(t, listen(refusing, 0, LOOPBACK));
  assert.match(await ask(refused.port), /^down: .*REFUSED_STREAM/);
});

test("http2: an ended check closes its connection", async (t) => {
  const [, two] = await both(t, { parts: [], isOpen: true });
  const controller = new AbortController();
  const check = checkHttp2(
    endpoint(two!.server.port),
    { ...contains("x"), tls: null },
    controller.signal,
  );
  await waitFor("the request", () => two!.asked.length === 1);
  controller.abort();
  assert.equal(found(await check), "down: the check was ended");
  await waitFor("its end", () => two!.server.sockets.size === 0);
});
