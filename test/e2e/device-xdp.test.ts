import assert from "node:assert/strict";
import { readdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import type { BackendRow, DropList, Status } from "../../src/base/admin-types.ts";
import {
  createLab,
  gatewayProgram,
  LAB_BACKENDS,
  type Lab,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import { httpLoad, startUdpEcho, startWeb, udpProbe } from "../support/servers.ts";
import { waitFor } from "../support/wait.ts";

/** The gateway on AF_XDP: what is its own about this device. */

const WEB = { name: "web", protocol: "tcp", port: 80, backendPort: 8080 } as const;
const ECHO = {
  name: "echo",
  protocol: "udp",
  port: 7000,
  backendPort: 7777,
  backends: ["b1"],
} as const;

function deviceOf(lab: Lab, more: Readonly<Record<string, unknown>>) {
  return { device: { type: "xdp", interfaces: lab.interfaces, ...more } };
}

/** XDP programs on the gateway's interfaces, as `ip` names them. */
function programs(lab: Lab): string[] {
  const text = lab.execSync("gateway", ["ip", "-d", "link", "show"]);
  return [...text.matchAll(/mtu \d+ (xdp\w*)\b/g)].map((match) => match[1]!);
}

test("partial checksums are completed on the way out, and said once an interface", {
  skip: SKIP_UNLESS_ROOT,
}, async (t) => {
  const lab = createLab({ device: "xdp" });
  t.after(() => lab.stop());
  await startWeb(lab);
  await startUdpEcho(lab, "b1", 7777);
  // The gateway's side alone is without offloads: what leaves it is complete, and is verified.
  for (const name of lab.interfaces) lab.execSync("gateway", ["ethtool", "-K", name, "tx", "off"]);
  const gateway = await lab.startGateway(lab.config({ mode: "nat", services: [WEB, ECHO] }));
  const web = await httpLoad(lab, { requests: 500 });
  assert.deepEqual(web.failures, {});
  const echo = await udpProbe(lab, { port: 7000, count: 300 });
  assert.equal(echo.equal, 300);
  assert.deepEqual(lab.checksumErrors(), {});
  for (const name of lab.interfaces) {
    const line = await gateway.waitLine(
      new RegExp(`"partial_checksums".*"interface":"${name}"`),
      15_000,
    );
    assert.match(line, /ethtool -K PEER tx off/);
  }
  const said = gateway.log.filter((line) => line["event"] === "partial_checksums");
  assert.equal(said.length, 2);
  const opened = gateway.log.find((line) => line["event"] === "xdp_opened");
  assert.deepEqual([opened?.["zero_copy"], opened?.["tx_metadata"]], [false, true]);
});

test("what is not the gateway's is the kernel's", { skip: SKIP_UNLESS_ROOT }, async (t) => {
  const lab = createLab({ device: "xdp" });
  t.after(() => lab.stop());
  await startWeb(lab);
  const gateway = await lab.startGateway(lab.config({ mode: "full-nat", services: [WEB] }));
  const status = await gateway.get<Status>("/api/v1/status");
  assert.equal(status.device.guard, "xdp native");

  // Pings of the host, with ARP asked anew at both ends: requests and replies are the kernel's.
  lab.execSync("client", ["ip", "neigh", "flush", "all"]);
  lab.execSync("gateway", ["ip", "neigh", "flush", "all"]);
  await lab.exec("client", ["ping", "-c3", "-i0.05", "-W2", "-n", "198.51.100.1"]);
  await lab.exec("gateway", ["ping", "-c3", "-i0.05", "-W2", "-n", LAB_BACKENDS.b2]);
  // ARP for the VIP and the pool is the gateway's.
  await lab.exec("client", ["ping", "-c3", "-i0.05", "-W2", "-n", "203.0.113.10"]);

  // A connection to the host itself, and one from it to a backend's port.
  const server = lab.spawn("gateway", [
    "socat",
    "-u",
    "EXEC:echo host",
    "TCP-LISTEN:2222,reuseaddr",
  ]);
  t.after(() => server.stop());
  const host = await waitFor("the host's server", async () => {
    const argv = ["socat", "-u", "TCP:198.51.100.1:2222", "-"];
    const { code, stdout } = await lab.exec("client", argv, { check: false });
    return code === 0 ? stdout : null;
  });
  assert.equal(host, "host\n");
  const { stdout } = await lab.exec("gateway", ["curl", "-sS", `http://${LAB_BACKENDS.b1}:8080/`]);
  assert.equal(stdout.trim(), "b1");

  // IPv6 neighbour discovery, by multicast.
  await lab.exec("client", ["ping", "-c3", "-i0.05", "-W2", "-n", "2001:db8:1::1"]);

  const load = await httpLoad(lab, { requests: 100 });
  assert.equal(load.ok, 100);
  const drops = await gateway.get<DropList>("/api/v1/drops");
  assert.deepEqual(
    drops.reasons.filter(({ reason, count }) => reason === "not_ours" && count > 0),
    [],
  );
});

test("generic mode, spinning and busy polling carry traffic too", {
  skip: SKIP_UNLESS_ROOT,
}, async (t) => {
  const lab = createLab({ device: "xdp" });
  t.after(() => lab.stop());
  await startWeb(lab);
  const drive = { spin: 200, xdp: { mode: "generic", zeroCopy: "off", busyPoll: 50 } };
  const more = deviceOf(lab, drive);
  const gateway = await lab.startGateway(lab.config({ mode: "nat", services: [WEB], more }));
  assert.deepEqual(programs(lab), ["xdpgeneric", "xdpgeneric"]);
  const status = await gateway.get<Status>("/api/v1/status");
  assert.equal(status.device.guard, "xdp generic");
  const load = await httpLoad(lab, { requests: 300 });
  assert.deepEqual(load.failures, {});
  const said = gateway.log.filter((line) => line["event"] === "xdp_generic");
  assert.deepEqual(
    said.map((line) => line["interface"]),
    lab.interfaces,
  );
  assert.match(String(said[0]!["reason"]), /ethtool -K gw-client gro off/);
});

test("a second gateway on the same interfaces is refused, and the first goes on", {
  skip: SKIP_UNLESS_ROOT,
}, async (t) => {
  const lab = createLab({ device: "xdp" });
  t.after(() => lab.stop());
  await startWeb(lab);
  const config = lab.config({ mode: "nat", services: [WEB] });
  const gateway = await lab.startGateway(config);
  const other = path.join(lab.directory, "other.yaml");
  const text = config
    .replace(gateway.socket, `${lab.directory}/other.sock`)
    .replace(gateway.stateFile, `${gateway.stateFile}.other`);
  writeFileSync(other, text);
  const argv = [process.execPath, gatewayProgram(), "run", "-c", other];
  const { code, stderr } = await lab.exec("gateway", argv, { check: false });
  assert.equal(code, 1, stderr);
  assert.match(stderr, /^headgate: interface gw-client has an XDP program already; /m);
  const load = await httpLoad(lab, { requests: 100 });
  assert.deepEqual(load.failures, {});
});

test("zero-copy where the driver has none, and an MTU that no chunk holds, are said", {
  skip: SKIP_UNLESS_ROOT,
}, async (t) => {
  const lab = createLab({ device: "xdp" });
  t.after(() => lab.stop());
  const run = async (more: Readonly<Record<string, unknown>>): Promise<string> => {
    const file = path.join(lab.directory, "bad.yaml");
    writeFileSync(file, lab.config({ mode: "nat", services: [WEB], more }));
    const argv = [process.execPath, gatewayProgram(), "run", "-c", file];
    const { code, stderr } = await lab.exec("gateway", argv, { check: false });
    assert.equal(code, 1, stderr);
    assert.deepEqual(programs(lab), [], "nothing stays behind");
    return stderr;
  };
  const zeroCopy = await run(deviceOf(lab, { xdp: { zeroCopy: "require" } }));
  assert.match(zeroCopy, /bind\(AF_XDP\) gw-client queue 0: ENOTSUP\): .*zeroCopy: auto/);
  lab.execSync("gateway", ["ip", "link", "set", "dev", "gw-client", "mtu", "9000"]);
  const native = await run(deviceOf(lab, { xdp: { mode: "generic" } }));
  assert.match(native, /MTU that no chunk holds: type xdp takes up to 3824/);
  const file = path.join(lab.directory, "bad.yaml");
  const check = await lab.exec(
    "gateway",
    [process.execPath, gatewayProgram(), "check", "--host", "-c", file],
    { check: false },
  );
  assert.equal(check.code, 78);
  assert.match(
    `${check.stdout}${check.stderr}`,
    /device\.interfaces\[0\]: expected an MTU of at most 3824 .*, got 9000/,
  );
});

test("memory that may not be locked is said", { skip: SKIP_UNLESS_ROOT }, async (t) => {
  const lab = createLab({ device: "xdp" });
  t.after(() => lab.stop());
  const file = path.join(lab.directory, "headgate.yaml");
  writeFileSync(file, lab.config({ mode: "nat", services: [WEB] }));
  const limits = ["prlimit", "--memlock=1048576:1048576"];
  const caps = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"];
  const argv = [...limits, ...caps, process.execPath, gatewayProgram(), "run", "-c", file];
  const { code, stderr } = await lab.exec("gateway", argv, { check: false });
  assert.equal(code, 1, stderr);
  assert.match(stderr, /XDP_UMEM_REG gw-client: ENOBUFS\): no memory may be locked .*ulimit -l/);
});

test("an interface that goes down comes back; one that is deleted ends the gateway", {
  skip: SKIP_UNLESS_ROOT,
}, async (t) => {
  const lab = createLab({ device: "xdp" });
  t.after(() => lab.stop());
  await startWeb(lab);
  const gateway = await lab.startGateway(lab.config({ mode: "nat", services: [WEB] }));
  assert.equal((await httpLoad(lab, { requests: 50 })).ok, 50);
  lab.execSync("gateway", ["ip", "link", "set", "gw-backend", "down"]);
  await gateway.waitLine(/"interface_down"/);
  // Sent to an interface that is down: refused, one by one, and nothing is stuck.
  const refused = await httpLoad(lab, { requests: 4, concurrency: 4, requestMs: 300 });
  assert.equal(refused.ok, 0);
  lab.execSync("gateway", ["ip", "link", "set", "gw-backend", "up"]);
  await gateway.waitLine(/"interface_up"/);
  await waitFor("requests to be answered again", async () => {
    const load = await httpLoad(lab, { requests: 3, requestMs: 1000 });
    return load.ok === 3;
  });
  assert.equal((await httpLoad(lab, { requests: 50 })).ok, 50);
  const rows = await gateway.get<BackendRow[]>("/api/v1/backends");
  assert.equal(rows.length, 3);

  lab.execSync("gateway", ["ip", "link", "del", "gw-client"]);
  const exit = await gateway.exited;
  assert.equal(exit.code, 1);
  assert.match(gateway.lines.join("\n"), /interfaces gw-client, gw-backend is gone .*ENODEV/);
});

test("nothing stays behind after a kill; what is pinned goes by cleanup", {
  skip: SKIP_UNLESS_ROOT,
}, async (t) => {
  const lab = createLab({ device: "xdp" });
  t.after(() => lab.stop());
  const balance = { mode: "nat", services: [WEB] } as const;
  const first = await lab.startGateway(lab.config(balance));
  assert.deepEqual(programs(lab), ["xdp", "xdp"]);
  first.kill("SIGKILL");
  await first.exited;
  await waitFor("the programs to go", () => programs(lab).length === 0);

  const more = deviceOf(lab, { guard: "persistent" });
  const second = await lab.startGateway(lab.config({ ...balance, more }), { pins: true });
  second.kill("SIGKILL");
  await second.exited;
  assert.deepEqual(programs(lab), ["xdp", "xdp"]);
  const bpf = path.join(lab.directory, "bpf");
  assert.equal(readdirSync(path.join(bpf, "headgate")).length, 1);
  const argv = [process.execPath, gatewayProgram(), "cleanup", "-c", second.configFile];
  const command = ["sh", "-c", 'mount --bind "$0" /sys/fs/bpf && exec "$@"', bpf, ...argv];
  const { stdout } = await lab.exec("gateway", command);
  assert.match(stdout, /removed guard on gw-client \(.*-xdp\/gw-client\)/);
  await waitFor("the programs to go", () => programs(lab).length === 0);
  assert.ok(!readdirSync(bpf).includes("headgate"));
});
