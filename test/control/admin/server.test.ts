import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { get } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { AlreadyRunningError, HostError } from "../../../src/base/errors.ts";
import { answers, claimAdminSocket, readToken } from "../../../src/control/admin/server.ts";

const folder = mkdtempSync(path.join(tmpdir(), "headgate-admin-"));
after(() => rmSync(folder, { recursive: true }));

function request(socketPath: string): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    get({ socketPath, path: "/", agent: false }, (response) => {
      let text = "";
      response.on("data", (chunk: Buffer) => (text += chunk.toString()));
      response.on("end", () => resolve({ status: response.statusCode ?? 0, text }));
    }).on("error", reject);
  });
}

test("the socket is 0600, says 503 until it has a handler, and goes with the server", async () => {
  const socketPath = path.join(folder, "new", "admin.sock");
  const server = await claimAdminSocket(socketPath);
  try {
    assert.equal(statSync(socketPath).mode & 0o777, 0o600);
    assert.equal((await request(socketPath)).status, 503);
    server.setHandler(() => new Response("here"));
    assert.deepEqual(await request(socketPath), { status: 200, text: "here" });
  } finally {
    await server.close();
  }
  assert.equal(existsSync(socketPath), false);
});

test("a second gateway on the same socket is refused, and the first goes on", async () => {
  const socketPath = path.join(folder, "second.sock");
  const server = await claimAdminSocket(socketPath);
  try {
    server.setHandler(() => new Response("first"));
    await assert.rejects(
      claimAdminSocket(socketPath),
      (error) => error instanceof AlreadyRunningError && error.exitCode === 75,
    );
    assert.equal((await request(socketPath)).text, "first");
  } finally {
    await server.close();
  }
});

test("the socket of a dead process is replaced", async () => {
  const socketPath = path.join(folder, "stale.sock");
  const script = `require("node:net").createServer().listen(${JSON.stringify(socketPath)}, () =>
    process.kill(process.pid, "SIGKILL"));`;
  assert.equal(spawnSync(process.execPath, ["-e", script]).signal, "SIGKILL");
  assert.equal(existsSync(socketPath), true);
  assert.equal(await answers(socketPath), false);
  const server = await claimAdminSocket(socketPath);
  assert.equal(await answers(socketPath), true);
  await server.close();
});

test("a path that cannot hold a socket is one clear sentence", async () => {
  const file = path.join(folder, "file");
  writeFileSync(file, "");
  await assert.rejects(
    claimAdminSocket(path.join(file, "admin.sock")),
    (error) => error instanceof HostError && /cannot listen on .*admin\.sock: /.test(error.message),
  );
});

test("a token is read without its line feed; a short or missing one is refused", () => {
  const file = path.join(folder, "token");
  writeFileSync(file, "0123456789abcdef\n");
  assert.equal(readToken(file), "0123456789abcdef");
  writeFileSync(file, "short\n");
  assert.throws(() => readToken(file), HostError);
  assert.throws(() => readToken(path.join(folder, "none")), HostError);
});
