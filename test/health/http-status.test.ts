import assert from "node:assert/strict";
import type { Socket } from "node:net";
import { test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import type { CheckEndpoint, CheckResult } from "../../src/health/check.ts";
import { checkHttp } from "../../src/health/http-check.ts";
import { asksStatusAlone } from "../../src/health/http-status.ts";
import type { HttpQuestion } from "../../src/service/health-definition.ts";
import { LOOPBACK, tcpServer } from "./targets.ts";

/**
 * Goal: what is read of an answer here is what node:http reads of it.
 * Method: answers of many kinds, in pieces of any size, to a question about the status alone and to one
 * that wants a body too, which node:http answers: both have to come to the same.
 */

const STATUS_ALONE: HttpQuestion = {
  method: "GET",
  path: "/health?x=1",
  host: null,
  headers: {},
  status: [{ low: 200, high: 399 }],
  body: null,
  bodyBytes: 1024,
};
/** Nothing is in every body. */
const BY_NODE: HttpQuestion = { ...STATUS_ALONE, body: { kind: "contains", text: "" } };

const ANSWERS: readonly string[] = [
  "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwell",
  "HTTP/1.1 200 OK\r\nContent-Length:0\r\n\r\n",
  "HTTP/1.0 200 OK\r\n\r\nto the end of the connection",
  "HTTP/1.1 204 No Content\r\n\r\n",
  "HTTP/1.1 301 Moved\r\nlocation: /x\r\ncontent-length: 2\r\n\r\nno",
  "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 1\r\n\r\nx",
  "HTTP/1.1 404\r\ncontent-length: 0\r\n\r\n",
  "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nwell\r\n0\r\n\r\n",
  "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
  "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
  "SSH-2.0-OpenSSH_9.6\r\n",
  "HTTP/2 200\r\n\r\n",
  "HTTP/1.1 20 OK\r\n\r\n",
  "HTTP/1.1 2000 OK\r\n\r\n",
  "220 mail.example ESMTP\r\n",
  "",
  "HTT",
];

/** Sends an answer in pieces, and ends the connection, or not. */
function pieces(answer: string, sizes: () => number, ends: boolean) {
  return (socket: Socket): void => {
    socket.once("data", () => {
      const send = (at: number): void => {
        if (socket.destroyed) return;
        if (at >= answer.length) {
          if (ends) socket.end();
          return;
        }
        const size = sizes();
        socket.write(answer.slice(at, at + size), "latin1", () => {
          setImmediate(send, at + size);
        });
      };
      send(0);
    });
  };
}

async function ask(
  question: HttpQuestion,
  onConnection: (socket: Socket) => void,
  timeoutMs = 5000,
): Promise<CheckResult> {
  const server = await tcpServer(onConnection);
  try {
    const endpoint: CheckEndpoint = {
      address: LOOPBACK,
      port: server.port,
      source: null,
      timeoutMs,
      service: "web",
    };
    return await checkHttp(endpoint, question, new AbortController().signal);
  } finally {
    await server.close();
  }
}

test("the same as node:http says, however the answer is cut", async () => {
  assert.equal(asksStatusAlone(STATUS_ALONE), true);
  assert.equal(asksStatusAlone(BY_NODE), false);
  const seed = Date.now() & 0x3fffffff;
  const random = createRandom(seed);
  for (const answer of ANSWERS) {
    for (const most of [1, 7, 10_000]) {
      const server = pieces(answer, () => 1 + random.below(most), true);
      const [own, nodes] = await Promise.all([ask(STATUS_ALONE, server), ask(BY_NODE, server)]);
      const about = `seed ${seed}, pieces of ${most}: ${JSON.stringify(answer)}`;
      assert.equal(own.ok, nodes.ok, `${about}: ${own.reason} / ${nodes.reason}`);
      if (/^status/.test(nodes.reason)) assert.equal(own.reason, nodes.reason, about);
    }
  }
});

test("an answer that says where it ends needs no end of the connection", async () => {
  for (const answer of ANSWERS.slice(0, 2).concat(ANSWERS[3]!)) {
    // A check that waited for more would take its timeout, which the test does not.
    const result = await ask(
      STATUS_ALONE,
      pieces(answer, () => 3, false),
      60_000,
    );
    assert.equal(result.ok, true, answer);
  }
  const head = { ...STATUS_ALONE, method: "HEAD" } as const;
  const long = "HTTP/1.1 200 OK\r\ncontent-length: 4000\r\n\r\n";
  assert.equal(
    (
      await ask(
        head,
        pieces(long, () => 9, false),
        60_000,
      )
    ).reason,
    "status 200",
  );
});

test("the request is one of HTTP/1.1 with all that the question says", async () => {
  let heard = "";
  const question = { ...STATUS_ALONE, host: "shop.example", headers: { "x-probe": "1" } };
  await ask(question, (socket) => {
    socket.on("data", (part) => {
      heard += String(part);
      if (heard.endsWith("\r\n\r\n")) socket.end("HTTP/1.1 200 OK\r\n\r\n");
    });
  });
  assert.deepEqual(heard.split("\r\n"), [
    "GET /health?x=1 HTTP/1.1",
    "host: shop.example",
    "user-agent: headgate",
    "accept: */*",
    "x-probe: 1",
    "connection: close",
    "",
    "",
  ]);
});
