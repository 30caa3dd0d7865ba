import assert from "node:assert/strict";
import { existsSync, mkdirSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import {
  createLab,
  LAB_VIP,
  LAB_VIP6,
  labEnvironment,
  PROJECT_ROOT,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import { run, runSync, start } from "../support/processes.ts";
import { httpLoad, startWeb } from "../support/servers.ts";
import { waitFor } from "../support/wait.ts";

/** The lab itself, with the kernel's nftables in the gateway's place: what it shows is the lab's. */

const WEB = { name: "web", protocol: "tcp", port: 80, backendPort: 8080 } as const;
const LAB_SH = path.join(PROJECT_ROOT, "lab/lab.sh");

function namespacesOf(prefix: string): string[] {
  return runSync(["ip", "netns", "list"])
    .split("\n")
    .filter((line) => line.startsWith(prefix));
}

for (const arms of [1, 2] as const) {
  for (const mode of ["nat", "full-nat"] as const) {
    test(`lab, ${arms}-arm, kernel ${mode}`, { skip: SKIP_UNLESS_ROOT }, async (t) => {
      const lab = createLab({ device: "nftables", arms });
      t.after(() => lab.stop());
      await startWeb(lab);
      await lab.balance({ mode, services: [WEB, { ...WEB, name: "web6", family: 6 }] });
      for (const family of [4, 6] as const) {
        const report = await httpLoad(lab, { requests: 300, family });
        assert.deepEqual(report.failures, {});
        assert.deepEqual(report.bodies, { b1: 100, b2: 100, b3: 100 });
      }
      const seenBy = async (vip: string): Promise<string> =>
        (await lab.exec("client", ["curl", "-gsS", `http://${vip}/client`])).stdout.trim();
      const [four, six] = [await seenBy(LAB_VIP), await seenBy(`[${LAB_VIP6}]`)];
      assert.match(four, mode === "nat" ? /^198\.51\.100\.2$/ : /^10\.20\.0\.10[0-3]$/);
      assert.match(six, mode === "nat" ? /^2001:db8:1::2$/ : /^2001:db8:2::10[0-3]$/);
      assert.deepEqual(lab.checksumErrors(), {});
    });
  }
}

test("a request without anything that balances fails", { skip: SKIP_UNLESS_ROOT }, async (t) => {
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  await startWeb(lab);
  const report = await httpLoad(lab, { requests: 1, requestMs: 1500 });
  assert.equal(report.ok, 0);
  assert.equal(report.failed, 1);
});

test("a namespace has no way out", { skip: SKIP_UNLESS_ROOT }, async (t) => {
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  for (const node of ["client", "gateway", "b1"] as const) {
    const links = JSON.parse(lab.execSync(node, ["ip", "-j", "link"])) as { ifname: string }[];
    const names = links.map((link) => link.ifname).sort();
    const want = node === "gateway" ? ["gw-backend", "gw-client", "lo"] : ["eth0", "lo"];
    assert.deepEqual(names, want);
  }
  const { stdout } = await lab.exec("client", ["ping", "-c1", "-W1", "-n", "192.0.2.1"], {
    check: false,
  });
  assert.match(stdout, /100% packet loss/);
});

test("two labs side by side, and nothing left of them", { skip: SKIP_UNLESS_ROOT }, async (t) => {
  const labs = [createLab({ device: "nftables" }), createLab({ device: "nftables", arms: 1 })];
  t.after(() => Promise.all(labs.map((lab) => lab.stop())));
  const servers = await Promise.all(labs.map((lab) => startWeb(lab)));
  await Promise.all(labs.map((lab) => lab.balance({ mode: "nat", services: [WEB] })));
  const reports = await Promise.all(labs.map((lab) => httpLoad(lab, { requests: 60 })));
  for (const report of reports) assert.equal(report.ok, 60);

  await Promise.all(labs.map((lab) => lab.stop()));
  for (const lab of labs) {
    assert.deepEqual(namespacesOf(`${lab.id}-`), []);
    assert.equal(existsSync(lab.directory), false);
    assert.equal(existsSync(lab.memory), false);
    await lab.stop(); // a second time is no error
  }
  for (const server of servers.flat()) assert.equal(server.alive, false);
});

test("what a killed lab left is removed by the next one", { skip: SKIP_UNLESS_ROOT }, async (t) => {
  const dead = start(["true"]);
  await dead.exited;
  const left = `hglab-${dead.pid}-client`;
  runSync(["ip", "netns", "add", left]);
  const folder = `/dev/shm/hglab-${dead.pid}.x`;
  mkdirSync(folder);
  t.after(() => runSync(["ip", "netns", "del", left], { check: false }));
  const mine = createLab({ device: "packet" });
  t.after(() => mine.stop());
  assert.deepEqual(namespacesOf(left), []);
  assert.equal(existsSync(folder), false);
  // A lab whose process lives is left alone.
  const other = createLab({ device: "packet" });
  t.after(() => other.stop());
  assert.equal(namespacesOf(`${mine.id}-`).length, 6);
});

test("lab.sh twice at once", { skip: SKIP_UNLESS_ROOT }, async () => {
  const argv = ["bash", LAB_SH, "round-robin", "--device", "nftables"];
  const env = labEnvironment();
  const ends = await Promise.all([run(argv, { env }), run([...argv, "--arms", "1"], { env })]);
  for (const { stdout, stderr } of ends) {
    assert.match(stdout, /^PASS {2}round-robin/m);
    assert.match(stderr, /^\[gateway\] ip addr add 10\.20\.0\.1\/24 dev gw-/m);
    const id = /^== cleaning up (hglab-\d+)$/m.exec(stderr)?.[1];
    assert.ok(id !== undefined);
    assert.deepEqual(namespacesOf(`${id}-`), []);
  }
});

test("lab.sh cleans up when it is ended in the middle", { skip: SKIP_UNLESS_ROOT }, async (t) => {
  const child = start(["bash", LAB_SH, "round-robin", "--device", "nftables"], {
    env: labEnvironment(),
  });
  t.after(() => child.stop());
  await child.waitLine(/^\[b3\] nginx/);
  assert.equal(namespacesOf(`hglab-${child.pid}-`).length, 6);
  child.kill("SIGTERM");
  await child.exited;
  assert.deepEqual(namespacesOf(`hglab-${child.pid}-`), []);
  assert.ok(child.lines.some((line) => line.startsWith("FAIL  round-robin")));
});

test("lab.sh fails when the gateway does", { skip: SKIP_UNLESS_ROOT }, async () => {
  const env = { ...labEnvironment(), HEADGATE_MAIN: "/nonexistent/main.js" };
  const { code, stdout, stderr } = await run(["bash", LAB_SH, "round-robin"], {
    env,
    check: false,
  });
  assert.equal(code, 1);
  assert.match(stdout, /^FAIL {2}round-robin/m);
  assert.match(stderr, /the gateway ended instead of getting ready/);
});

test("lab.sh lists its scenarios and refuses what it does not know", async () => {
  const list = await run(["bash", LAB_SH]);
  for (const name of [
    "round-robin",
    "backend-dies",
    "drain",
    "reload-under-load",
    "tls-passthrough",
    "full-nat-one-arm",
    "path-mtu",
  ]) {
    assert.match(list.stdout, new RegExp(`^  ${name} +\\S`, "m"));
  }
  for (const wrong of [["nope"], ["drain", "--device", "x"], ["path-mtu", "--arms"], ["--fast"]]) {
    const { code, stderr } = await run(["bash", LAB_SH, ...wrong], { check: false });
    assert.equal(code, 2, wrong.join(" "));
    assert.match(stderr, /^lab: /);
  }
});

test("waiting ends", async () => {
  await assert.rejects(
    waitFor("the moon", () => false, { timeoutMs: 60 }),
    /waited 60 ms for the moon/,
  );
  await assert.rejects(run(["sleep", "30"], { timeoutMs: 60 }), /sleep 30: timed out/);
});
