import assert from "node:assert/strict";
import { after, type TestContext, test } from "node:test";
import { Server, ServerCredentials, status } from "@grpc/grpc-js";
import fc from "fast-check";
import { checkGrpc, type GrpcQuestion } from "../../src/health/grpc-check.ts";
import { decodeResponse, encodeRequest } from "../../src/health/grpc-messages.ts";
import { waitFor } from "../support/wait.ts";
import { makeCertificates, tlsQuestion } from "./certificates.ts";
import { endpoint, found, never, open } from "./questions.ts";
import { closedPort, LOOPBACK, tcpServer } from "./targets.ts";

const certificates = makeCertificates();
after(() => certificates.remove());

interface Asked {
  readonly service: string;
  readonly authority: string;
  readonly peer: string;
}

/** Servers of the library's own; what they say of a service is its name's number. */
async function grpcServer(
  t: TestContext,
  credentials = ServerCredentials.createInsecure(),
): Promise<{ port: number; asked: Asked[] }> {
  const asked: Asked[] = [];
  const server = new Server();
  const definition = {
    check: {
      path: "/grpc.health.v1.Health/Check",
      requestStream: false,
      responseStream: false,
      requestSerialize: (value: Buffer) => value,
      requestDeserialize: (value: Buffer) => value,
      responseSerialize: (value: Buffer) => value,
      responseDeserialize: (value: Buffer) => value,
    },
  } as const;
  server.addService(definition, {
    check(
      call: { request: Buffer; getHost(): string; getPeer(): string },
      answer: (error: object | null, value?: Buffer) => void,
    ) {
      const service = call.request.subarray(2).toString();
      asked.push({ service, authority: call.getHost(), peer: call.getPeer() });
      if (service === "unknown") answer({ code: status.NOT_FOUND, details: "no such service" });
      else if (service === "silent") return;
      else if (service === "garbage") answer(null, Buffer.from([0xff]));
      else answer(null, Buffer.from([0x08, service === "" ? 1 : Number(service)]));
    },
  });
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(`${LOOPBACK}:0`, credentials, (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    );
  });
  t.after(() => server.forceShutdown());
  return { port, asked };
}

const ask = async (
  port: number,
  overrides: Partial<GrpcQuestion> = {},
  where: Parameters<typeof endpoint>[1] = {},
): Promise<string> => {
  const question = { grpcService: "", host: null, tls: null, ...overrides };
  return found(await checkGrpc(endpoint(port, where), question, never()));
};

/** Sockets of this process that are open or opening. */
const sockets = (): number =>
  process.getActiveResourcesInfo().filter((name) => /^TCP(Socket|Connect)Wrap$/.test(name)).length;

test("SERVING is up, everything else is not", async (t) => {
  const { port, asked } = await grpcServer(t);
  assert.equal(await ask(port), "up: SERVING");
  assert.equal(await ask(port, { grpcService: "1", host: "shop.example" }), "up: SERVING");
  assert.equal(await ask(port, { grpcService: "2" }), "down: NOT_SERVING");
  assert.equal(await ask(port, { grpcService: "3" }), "down: SERVICE_UNKNOWN");
  assert.equal(await ask(port, { grpcService: "0" }), "down: UNKNOWN");
  assert.equal(await ask(port, { grpcService: "77" }), "down: status 77");
  assert.equal(await ask(port, { grpcService: "unknown" }), "down: NOT_FOUND: no such service");
  assert.match(
    await ask(port, { grpcService: "garbage" }),
    /^down: INTERNAL: .*HealthCheckResponse/,
  );
  assert.deepEqual(
    asked.slice(0, 2).map(({ service, authority }) => [service, authority]),
    [
      ["", `${LOOPBACK}:${port}`],
      ["1", "shop.example"],
    ],
  );
});

test("the source address is the one that the backend sees", async (t) => {
  const { port, asked } = await grpcServer(t);
  assert.equal(await ask(port, {}, { source: "127.0.0.77" }), "up: SERVING");
  assert.match(asked[0]!.peer, /^127\.0\.0\.77:/);
});

test("over TLS, with what the certificate says", async (t) => {
  const { key, cert } = certificates.soon;
  const pair = [{ private_key: key, cert_chain: cert }];
  const { port } = await grpcServer(t, ServerCredentials.createSsl(null, pair));
  const { caFile } = certificates;
  assert.equal(
    await ask(port, { tls: tlsQuestion({ verify: true, caFile }) }),
    "up: SERVING, certificate expires in 3 days",
  );
  const wrong = tlsQuestion({ verify: true, caFile, serverName: "other.example" });
  assert.match(await ask(port, { tls: wrong }), /^down: UNAVAILABLE: Hostname\/IP does not match/);
  assert.match(await ask(port), /^down: /, "no TLS where TLS is spoken");
});

test("who is not there, who is silent, who is somebody else; nothing stays open", async (t) => {
  await waitFor("the tests before to end", () => sockets() === 0);
  assert.equal(await ask(await closedPort()), "down: UNAVAILABLE: connect ECONNREFUSED");
  const silent = await open(t, tcpServer());
  assert.equal(await ask(silent.port, {}, { timeoutMs: 150 }), "down: timeout after 150ms");
  await waitFor("its end", () => silent.sockets.size === 0);
  const other = await open(
    t,
    tcpServer((socket) => {
      socket.resume();
      socket.end("SSH-2.0-OpenSSH_9.6\r\n");
    }),
  );
  assert.match(await ask(other.port, {}, { timeoutMs: 1000 }), /^down: /);
  const { port } = await grpcServer(t);
  const late = await ask(port, { grpcService: "silent" }, { timeoutMs: 150 });
  assert.equal(late, "down: timeout after 150ms");
  // Documentation addresses are nowhere: a connection to one stays half-open, or fails at once.
  const nowhere = await ask(1, {}, { address: "203.0.113.1", timeoutMs: 100 });
  assert.match(nowhere, /^down: /);
  await waitFor("sockets to close", () => sockets() === 0);
});

test("messages: every answer is read, or refused", () => {
  assert.equal(encodeRequest("").length, 0);
  assert.equal(encodeRequest("a.B").toString("hex"), "0a03612e42");
  assert.throws(() => encodeRequest("x".repeat(128)), RangeError);
  // Field 1 behind fields of every wire type, which are skipped.
  const mixed = Buffer.from(
    "1001" + "1a0261" + "62" + "25aabbccdd" + "290102030405060708" + "0802",
    "hex",
  );
  assert.equal(decodeResponse(mixed), 2);
  assert.equal(decodeResponse(Buffer.alloc(0)), 0);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
      try {
        return decodeResponse(Buffer.from(bytes)) >= 0;
      } catch (error) {
        return error instanceof RangeError;
      }
    }),
  );
});
