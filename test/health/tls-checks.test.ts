import assert from "node:assert/strict";
import { createSecureServer, type ServerHttp2Stream } from "node:http2";
import { createServer as createHttp1Server } from "node:https";
import { after, type TestContext, test } from "node:test";
import { createServer, type TlsOptions } from "node:tls";
import { checkHttps } from "../../src/health/http-check.ts";
import { checkHttp2 } from "../../src/health/http2-check.ts";
import { checkScript } from "../../src/health/script-check.ts";
import { checkTls } from "../../src/health/tls-check.ts";
import type { TlsQuestion } from "../../src/service/health-definition.ts";
import { waitFor } from "../support/wait.ts";
import { makeCertificates, tlsQuestion } from "./certificates.ts";
import { endpoint, found, never, open, question } from "./questions.ts";
import { closedPort, LOOPBACK, listen, type TestServer, tcpServer } from "./targets.ts";

const certificates = makeCertificates();
after(() => certificates.remove());
const { caFile } = certificates;

/** Names that clients asked for. */
const names: string[] = [];

async function tlsServer(t: TestContext, options: TlsOptions): Promise<TestServer> {
  const SNICallback: TlsOptions["SNICallback"] = (name, done) => {
    names.push(name);
    done(null);
  };
  const server = createServer({ ...options, SNICallback }, (socket) => {
    socket.on("error", () => undefined);
    socket.on("data", (part) => socket.write(`+${part}`));
  });
  server.on("tlsClientError", () => undefined);
  return open(t, listen(server, 0, LOOPBACK));
}

const ask = (port: number, tls: Partial<TlsQuestion> = {}, timeoutMs = 2000) =>
  checkTls(endpoint(port, { timeoutMs }), { tls: tlsQuestion(tls) }, never());

test("tls: the handshake is enough, whatever the certificate", async (t) => {
  const good = await tlsServer(t, certificates.good);
  const result = await ask(good.port);
  assert.equal(found(result), "up: TLSv1.3");
  assert.ok(result.certificateExpiresMs! > Date.now());
  await waitFor("the server's side to end", () => good.sockets.size === 0);
  const old = await tlsServer(t, { ...certificates.good, maxVersion: "TLSv1.2" });
  assert.equal(found(await ask(old.port)), "up: TLSv1.2");
});

test("tls: a certificate near its end is a remark, one behind it a failure only with verify", async (t) => {
  const soon = await tlsServer(t, certificates.soon);
  assert.equal(found(await ask(soon.port)), "up: TLSv1.3, certificate expires in 3 days");
  assert.equal(found(await ask(soon.port, { expiryWarningMs: 0 })), "up: TLSv1.3");
  assert.equal(
    found(await ask(soon.port, { verify: true, caFile })),
    "up: TLSv1.3, certificate expires in 3 days",
  );
  const expired = await tlsServer(t, certificates.expired);
  const remark = await ask(expired.port);
  assert.equal(found(remark), "up: TLSv1.3, certificate has expired");
  assert.ok(remark.certificateExpiresMs! < Date.now());
  const verified = await ask(expired.port, { verify: true, caFile });
  assert.equal(found(verified), "down: certificate has expired");
});

test("tls: verify looks at who signed, and for which name", async (t) => {
  const server = await tlsServer(t, certificates.good);
  assert.equal(
    found(await ask(server.port, { verify: true, caFile })),
    "up: TLSv1.3",
    "by address",
  );
  const named = { verify: true, caFile, serverName: "shop.example" };
  assert.equal(found(await ask(server.port, named)), "up: TLSv1.3");
  assert.match(
    found(await ask(server.port, { ...named, serverName: "other.example" })),
    /^down: Hostname\/IP does not match certificate's altnames/,
  );
  assert.match(
    found(await ask(server.port, { verify: true })),
    /^down: (unable to (verify the first certificate|get local issuer certificate)|self.signed certificate)/,
  );
  assert.match(
    found(await ask(server.port, { verify: true, caFile: "/nonexistent/ca.pem" })),
    /^down: open ENOENT/,
  );
  assert.deepEqual(names, ["shop.example", "other.example"], "an address is not asked for");
});

test("tls: who does not speak it, and who does not speak", async (t) => {
  const plain = await open(
    t,
    tcpServer((socket) => {
      socket.resume();
      socket.end("220 mail.example ESMTP\r\n");
    }),
  );
  assert.match(
    found(await ask(plain.port)),
    /^down: tls: (wrong version number|packet length too long)/,
  );
  assert.equal(found(await ask(await closedPort())), "down: connect ECONNREFUSED");
  const silent = await open(t, tcpServer());
  assert.equal(found(await ask(silent.port, {}, 100)), "down: timeout after 100ms");
  await waitFor("its end", () => silent.sockets.size === 0);
  const dead = await open(
    t,
    tcpServer((socket) => socket.destroy()),
  );
  assert.equal(found(await ask(dead.port)).startsWith("down: "), true);
});

test("https: status and body as by http, with what the certificate says", async (t) => {
  const server = createHttp1Server(certificates.soon, (request, response) => {
    response.statusCode = request.url === "/sick" ? 503 : 200;
    response.end(`you asked ${request.headers.host}`);
  });
  const { port, sockets } = await open(t, listen(server, 0, LOOPBACK));
  const get = (path: string, tls: Partial<TlsQuestion> = {}) =>
    checkHttps(
      endpoint(port),
      {
        ...question({ path, host: "shop.example", body: { kind: "contains", text: "asked shop" } }),
        tls: tlsQuestion(tls),
      },
      never(),
    );
  const result = await get("/");
  assert.equal(found(result), "up: status 200, certificate expires in 3 days");
  assert.ok(result.certificateExpiresMs !== undefined);
  assert.equal(found(await get("/sick")), "down: status 503");
  const named = { verify: true, caFile, serverName: "other.example" };
  assert.match(found(await get("/", named)), /^down: Hostname/);
  await waitFor("the server's side to end", () => sockets.size === 0);
});

test("http2 over TLS: only with ALPN h2", async (t) => {
  const server = createSecureServer({ ...certificates.good, allowHTTP1: false });
  server.on("stream", (stream: ServerHttp2Stream) => {
    stream.respond({ ":status": 204 });
    stream.end();
  });
  const { port, sockets } = await open(t, listen(server, 0, LOOPBACK));
  const get = (to: number) =>
    checkHttp2(
      endpoint(to),
      { ...question(), tls: tlsQuestion({ verify: true, caFile }) },
      never(),
    );
  const result = await get(port);
  assert.equal(found(result), "up: status 204");
  assert.ok(result.certificateExpiresMs! > Date.now());
  await waitFor("the server's side to end", () => sockets.size === 0);
  const without = await tlsServer(t, certificates.good);
  assert.equal(found(await get(without.port)), "down: no h2 by ALPN");
});

test("script over TLS", async (t) => {
  const server = await tlsServer(t, certificates.good);
  const result = await checkScript(
    endpoint(server.port),
    {
      steps: [
        { kind: "send", text: "PING" },
        { kind: "expect", text: "+PING" },
      ],
      tls: tlsQuestion(),
    },
    never(),
  );
  assert.equal(found(result), "up: 2 steps");
  assert.ok(result.certificateExpiresMs! > Date.now());
});
