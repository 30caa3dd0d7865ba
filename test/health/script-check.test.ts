import assert from "node:assert/strict";
import type { Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { checkScript } from "../../src/health/script-check.ts";
import type { ScriptStep } from "../../src/service/health-definition.ts";
import { waitFor } from "../support/wait.ts";
import { endpoint, found, never, open } from "./questions.ts";
import { closedPort, tcpServer } from "./targets.ts";

const send = (text: string): ScriptStep => ({ kind: "send", text });
const expect = (text: string): ScriptStep => ({ kind: "expect", text });

async function run(
  t: TestContext,
  steps: readonly ScriptStep[],
  serve: (socket: Socket) => void,
  timeoutMs = 2000,
): Promise<string> {
  const server = await open(t, tcpServer(serve));
  const result = found(
    await checkScript(endpoint(server.port, { timeoutMs }), { steps, tls: null }, never()),
  );
  await waitFor("the server's side to end", () => server.sockets.size === 0);
  return result;
}

/** Answers a line by the same with a plus sign, one byte a time. */
function slowEcho(socket: Socket): void {
  socket.write("220 ready\r\n");
  socket.on("data", (part: Buffer) => {
    for (const byte of Buffer.from(`+${part}`)) socket.write(Buffer.of(byte));
  });
}

test("a dialogue, in pieces", async (t) => {
  const steps = [expect("220 "), expect("\r\n"), send("PING\r\n"), expect("+PING\r\n")];
  assert.equal(await run(t, steps, slowEcho), "up: 4 steps");
});

test("an expectation begins where the last one ended", async (t) => {
  const two = (socket: Socket): void => {
    socket.write("OK OK ");
    socket.resume();
  };
  assert.equal(await run(t, [expect("OK"), expect("OK")], two), "up: 2 steps");
  const three = await run(t, [expect("OK"), expect("OK"), expect("OK")], two, 100);
  assert.equal(three, 'down: timeout after 100ms at step 3 (expect "OK"), got " "');
});

test("bytes and expressions", async (t) => {
  const mysql = (socket: Socket): void => {
    socket.write(Buffer.from("4a0000000a382e302e333600", "hex"));
    socket.resume();
  };
  const greeting: ScriptStep = { kind: "expectHex", text: "xx0000000a" };
  const version: ScriptStep = { kind: "expectRegex", text: "^8\\.\\d+\\." };
  assert.equal(await run(t, [greeting, version], mysql), "up: 2 steps");
  const other: ScriptStep = { kind: "expectHex", text: "xx000000ff" };
  assert.match(
    await run(t, [other], mysql, 100),
    /^down: timeout after 100ms at step 1 \(expectHex xx000000ff\), got 4a00/,
  );
  const raw: ScriptStep = { kind: "sendHex", text: "0aff" };
  const heard: ScriptStep = { kind: "expectHex", text: "2b0aff" };
  const echo = (socket: Socket): void => {
    socket.on("data", (part: Buffer) => socket.write(Buffer.concat([Buffer.from("+"), part])));
  };
  assert.equal(await run(t, [raw, heard], echo), "up: 2 steps");
});

test("what goes wrong is said with its step", async (t) => {
  const closing = (socket: Socket): void => {
    socket.resume();
    socket.end("-ERR no auth\r\n");
  };
  assert.equal(
    await run(t, [send("PING\r\n"), expect("+PONG")], closing),
    'down: closed by the backend at step 2 (expect "+PONG"), got "-ERR no auth\\r\\n"',
  );
  const flood = (socket: Socket): void => {
    socket.write("x".repeat(200_000));
    socket.resume();
  };
  assert.equal(
    await run(t, [expect("y")], flood),
    'down: more than 65536 bytes at step 1 (expect "y")',
  );
  const endless: ScriptStep = { kind: "expectRegex", text: "^(x+)+y" };
  const some = (socket: Socket): void => {
    socket.write("x".repeat(40));
    socket.resume();
  };
  assert.match(await run(t, [endless], some), /^down: the expression takes too long at step 1/);
  assert.equal(
    found(
      await checkScript(endpoint(await closedPort()), { steps: [expect("x")], tls: null }, never()),
    ),
    "down: connect ECONNREFUSED",
  );
});
