import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, type TestContext, test } from "node:test";
import { openEcho } from "../../src/device/echo.ts";
import { NO_TOOLS } from "../../src/health/checkers.ts";
import { checkExec, type ExecQuestion } from "../../src/health/exec-check.ts";
import { checkIcmp } from "../../src/health/icmp-check.ts";
import { waitFor } from "../support/wait.ts";
import { endpoint, found, never } from "./questions.ts";

const folder = mkdtempSync(path.join(tmpdir(), "headgate-exec-"));
after(() => rmSync(folder, { recursive: true }));

const run = (
  script: string,
  overrides: Partial<ExecQuestion> = {},
  timeoutMs = 5000,
  signal: AbortSignal = never(),
) =>
  checkExec(
    endpoint(8080, { timeoutMs, service: "web" }),
    { command: ["/bin/sh", "-c", script], user: null, dynamicWeight: false, ...overrides },
    NO_TOOLS,
    signal,
  );

test("exec: exit codes as keepalived reads them", async () => {
  assert.equal(found(await run("exit 0")), "up: exit code 0");
  assert.equal(found(await run("echo all is well; exit 0")), "up: exit code 0: all is well");
  assert.equal(found(await run("echo; echo sick >&2; exit 1")), "down: exit code 1: sick");
  assert.equal(found(await run("exit 52")), "down: exit code 52");
  const dynamic = { dynamicWeight: true };
  const weighed = await run("exit 52", dynamic);
  assert.deepEqual([found(weighed), weighed.weight], ["up: exit code 52", 50]);
  assert.equal((await run("exit 2", dynamic)).weight, 0);
  assert.equal((await run("exit 255", dynamic)).weight, 253);
  const same = await run("exit 0", dynamic);
  assert.deepEqual([found(same), same.weight], ["up: exit code 0", undefined]);
  assert.equal(found(await run("exit 1", dynamic)), "down: exit code 1");
});

test("exec: the environment is its own, parameters are no shell's", async () => {
  process.env["HEADGATE_TEST_SECRET"] = "x";
  const names =
    'echo "$HEADGATE_SERVICE $HEADGATE_ADDRESS $HEADGATE_PORT [$HEADGATE_TEST_SECRET] $PWD"';
  assert.equal(found(await run(names)), "up: exit code 0: web 127.0.0.1 8080 [] /");
  delete process.env["HEADGATE_TEST_SECRET"];
  const echo = { command: ["/bin/echo", "$HOME; exit 1", "*"] };
  assert.equal(found(await run("", echo)), "up: exit code 0: $HOME; exit 1 *");
});

test("exec: the timeout and the signal end all of it; nothing waits for what it left behind", async () => {
  const file = path.join(folder, "late");
  const late = `(sleep 1; touch ${file}) & sleep 60`;
  assert.equal(found(await run(late, {}, 100)), "down: timeout after 100ms");
  const controller = new AbortController();
  const ended = run("sleep 60", {}, 5000, controller.signal);
  controller.abort();
  assert.equal(found(await ended), "down: the check was ended");
  // A child that holds the output open does not hold the result.
  assert.equal(found(await run("sleep 2 & echo started; exit 0")), "up: exit code 0: started");
  assert.equal(found(await run("kill -9 $$")), "down: killed by SIGKILL");
  await waitFor("a second", () => run("sleep 1.2").then(() => true));
  assert.equal(existsSync(file), false, "its background job was killed, too");
});

test("exec: more output than is kept, no such program, no right to run it, no such user", async () => {
  const much = await run("yes headgate | head -c 3000000");
  assert.equal(found(much), "up: exit code 0: headgate");
  const nothing = { command: ["/nonexistent/check"] };
  assert.equal(found(await run("", nothing)), "down: spawn /nonexistent/check ENOENT");
  const plain = path.join(folder, "plain");
  writeFileSync(plain, "#!/bin/sh\n", { mode: 0o644 });
  assert.equal(found(await run("", { command: [plain] })), `down: spawn ${plain} EACCES`);
  assert.equal(found(await run("", { user: "nosuch" })), "down: there is no user nosuch");
});

test("exec: another user", { skip: process.getuid?.() !== 0 && "needs root" }, async () => {
  const as = await checkExec(
    endpoint(80),
    { command: ["/usr/bin/id", "-u"], user: "nobody", dynamicWeight: false },
    { ...NO_TOOLS, userOf: () => ({ uid: 65_534, gid: 65_534 }) },
    never(),
  );
  assert.equal(found(as), "up: exit code 0: 65534");
});

const isAllowed = (t: TestContext): boolean => {
  const [low = 1, high = 0] = readFileSync("/proc/sys/net/ipv4/ping_group_range", "utf8")
    .trim()
    .split(/\s+/)
    .map(Number);
  const group = process.getgid?.() ?? 0;
  const isOkay = process.getuid?.() === 0 || (low <= group && group <= high);
  if (!isOkay) t.skip("needs CAP_NET_RAW or net.ipv4.ping_group_range");
  return isOkay;
};

test("icmp: both families, many at once; who is not there does not answer", async (t) => {
  if (!isAllowed(t)) return;
  const echo = openEcho();
  t.after(() => echo.close());
  const ping = async (address: string, timeoutMs = 2000, source: string | null = null) =>
    found(
      await checkIcmp(
        endpoint(0, { address, timeoutMs, source }),
        { payloadBytes: 56 },
        echo,
        never(),
      ),
    );
  assert.equal(await ping("127.0.0.1"), "up: echo reply");
  assert.equal(await ping("::1"), "up: echo reply");
  assert.equal(await ping("127.0.0.1", 2000, "127.0.0.77"), "up: echo reply");
  assert.match(await ping("127.0.0.1", 2000, "192.0.2.1"), /^down: send E\w+$/);
  const many = await Promise.all(
    Array.from({ length: 200 }, (_, index) => ping(`127.0.0.${1 + (index % 250)}`)),
  );
  assert.equal(many.filter((one) => one === "up: echo reply").length, 200);
  // The kernel answers none for the unspecified network's broadcast address.
  assert.match(await ping("203.0.113.1", 100), /^down: (timeout after 100ms|send E\w+)$/);
  assert.equal(process.getActiveResourcesInfo().filter((it) => it === "Timeout").length <= 1, true);
});

test("icmp: replies to others are none of ours; a closed socket, none at all", async (t) => {
  if (!isAllowed(t)) return;
  const one = openEcho();
  const other = openEcho();
  t.after(() => other.close());
  one.send("127.0.0.1", null, 7n, 56);
  const seen = await waitFor("the reply", () => {
    const tokens = one.receive();
    return tokens.length > 0 && tokens;
  });
  assert.deepEqual(seen, [7n]);
  one.close();
  assert.throws(() => one.send("127.0.0.1", null, 8n, 56), /send EBADF/);
  assert.deepEqual(one.receive(), []);
  const none = await checkIcmp(endpoint(0), { payloadBytes: 56 }, null, never());
  assert.match(found(none), /^down: no socket for ICMP/);
  const controller = new AbortController();
  controller.abort();
  const ended = await checkIcmp(endpoint(0), { payloadBytes: 56 }, other, controller.signal);
  assert.equal(found(ended), "down: the check was ended");
});
