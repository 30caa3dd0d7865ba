import assert from "node:assert/strict";
import { chmodSync, existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import {
  createLab,
  type GatewayProcess,
  gatewayProgram,
  LAB_BACKEND_NAMES,
  type Lab,
  type LabBackend,
  type LabBalance,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import { httpLoad, startWeb } from "../support/servers.ts";
import { waitFor } from "../support/wait.ts";

/**
 * `user`: a gateway that gave up root's rights goes on to do all that it has to: forward, check health,
 * reload, remove what it made.
 */

const NOBODY = 65_534;
const NET_ADMIN = 1n << 12n;

interface ThreadStatus {
  readonly name: string;
  readonly uids: string;
  readonly gids: string;
  readonly groups: string;
  readonly noNewPrivs: string;
  readonly permitted: bigint;
  readonly effective: bigint;
  readonly inheritable: bigint;
  readonly ambient: bigint;
  readonly bounding: bigint;
}

function threadsOf(pid: number): ThreadStatus[] {
  return readdirSync(`/proc/${pid}/task`).map((task) => {
    const text = readFileSync(`/proc/${pid}/task/${task}/status`, "utf8");
    const field = (key: string): string =>
      (new RegExp(`^${key}:\\s*(.*)$`, "m").exec(text)?.[1] ?? "").replaceAll("\t", " ").trim();
    const set = (key: string): bigint => BigInt(`0x${field(key)}`);
    return {
      name: field("Name"),
      uids: field("Uid"),
      gids: field("Gid"),
      groups: field("Groups"),
      noNewPrivs: field("NoNewPrivs"),
      permitted: set("CapPrm"),
      effective: set("CapEff"),
      inheritable: set("CapInh"),
      ambient: set("CapAmb"),
      bounding: set("CapBnd"),
    };
  });
}

/** Every thread is the user's and can gain nothing; the workers can do nothing. */
function checkThreads(pid: number, workers: number): void {
  const threads = threadsOf(pid);
  assert.equal(threads.filter(({ name }) => name.startsWith("headgate-w")).length, workers);
  const four = `${NOBODY} ${NOBODY} ${NOBODY} ${NOBODY}`;
  // What a start needs (src/host/users.ts), and no more, is all that the engine's threads could have had.
  const start = 0x80_0120_75ebn;
  for (const [index, thread] of threads.entries()) {
    const about = `thread ${thread.name}`;
    assert.equal(thread.uids, four, about);
    assert.equal(thread.gids, four, about);
    assert.equal(thread.groups, `${NOBODY}`, about);
    assert.equal(thread.noNewPrivs, "1", about);
    if (index === 0) {
      // The kernel lists the main thread first.
      for (const set of [thread.permitted, thread.effective, thread.inheritable, thread.ambient]) {
        assert.equal(set, NET_ADMIN, about);
      }
      assert.equal(thread.bounding, NET_ADMIN, about);
    } else if (thread.name.startsWith("headgate-w")) {
      const sets = [thread.permitted, thread.effective, thread.ambient, thread.bounding];
      assert.deepEqual(sets, [0n, 0n, 0n, 0n], about);
    } else {
      assert.equal(thread.permitted & ~NET_ADMIN, 0n, about);
      assert.equal(thread.bounding & ~start, 0n, `${about}: ${thread.bounding.toString(16)}`);
    }
  }
}

/** Children that still are root's, by their command line. */
function rootChildren(pid: number): string[] {
  const found: string[] = [];
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    const list = `/proc/${pid}/task/${task}/children`;
    if (!existsSync(list)) continue;
    const children = readFileSync(list, "utf8").trim();
    for (const child of children.split(" ").filter((each) => each !== "")) {
      try {
        const status = readFileSync(`/proc/${child}/status`, "utf8");
        if (!/^Uid:\t0/m.test(status)) continue;
        assert.match(status, /^CapEff:\t0+$/m);
        found.push(readFileSync(`/proc/${child}/cmdline`, "utf8").split("\0")[0]!);
      } catch (error) {
        // A child that ends in between: its directory is gone, or reading from it says ESRCH.
        const code = (error as NodeJS.ErrnoException).code;
        if (code !== "ENOENT" && code !== "ESRCH") throw error;
      }
    }
  }
  return found;
}

const web = (name: string, port: number, backends: readonly LabBackend[], family: 4 | 6 = 4) => ({
  name: family === 4 ? name : `${name}6`,
  backends,
  family,
  protocol: "tcp" as const,
  port,
  backendPort: 8080,
  more: { health: { type: "tcp", interval: "500ms", timeout: "500ms", rise: 1, fall: 2 } },
});

/** What gateways make on a host: to be the same afterwards as before. */
function leftovers(lab: Lab): Record<string, string> {
  const ask = (...argv: string[]): string => lab.execSync("gateway", argv);
  const pins = path.join(lab.directory, "bpf");
  return {
    rules: ask("ip", "rule") + ask("ip", "-6", "rule"),
    routes: ask("ip", "route", "show", "table", "all"),
    routes6: ask("ip", "-6", "route", "show", "table", "all"),
    addresses: ask("ip", "-brief", "address"),
    xdp:
      ask("ip", "-details", "link")
        .match(/prog\/xdp.*/g)
        ?.join("\n") ?? "",
    nftables: ask("nft", "list", "tables"),
    pins: existsSync(path.join(pins, "headgate")) ? "left" : "",
  };
}

/** `headgate cleanup` where the lab's pins are. */
function cleanupOf(lab: Lab, gateway: GatewayProcess): string[] {
  const mounted = ["sh", "-c", 'mount --bind "$0" /sys/fs/bpf && exec "$@"'];
  const command = [process.execPath, gatewayProgram(), "cleanup", "-c", gateway.configFile];
  return [...mounted, path.join(lab.directory, "bpf"), ...command];
}

function withGuard(config: string, guard: string): string {
  const parsed = JSON.parse(config) as { device: Record<string, unknown> };
  parsed.device["guard"] = guard;
  return JSON.stringify(parsed, null, 2);
}

async function upBackends(gateway: GatewayProcess): Promise<number> {
  const items = await gateway.get<{ state: string }[]>("/api/v1/backends");
  return items.filter(({ state }) => state === "up").length;
}

/** Forwarding, health and a reload by a process that is nobody. */
async function work(lab: Lab, gateway: GatewayProcess, balance: LabBalance, guard: string) {
  for (const family of [4, 6] as const) {
    const first = await httpLoad(lab, { requests: 60, family });
    assert.equal(first.failed, 0, `IPv${family}`);
  }
  await waitFor("both backends to be up", async () => (await upBackends(gateway)) === 4);

  // Another port for the guard, and another backend for the rules of TUN.
  const all = ([4, 6] as const).map((family) => web("more", 81, LAB_BACKEND_NAMES, family));
  const more: LabBalance = { ...balance, services: [...balance.services, ...all] };
  const answer = await gateway.reload(withGuard(lab.config(more), guard));
  assert.equal(answer.status, 200, answer.body);
  await waitFor("all backends to be up", async () => (await upBackends(gateway)) === 10);
  for (const family of [4, 6] as const) {
    const second = await httpLoad(lab, { requests: 60, port: 81, family });
    assert.deepEqual([second.failed, Object.keys(second.bodies).sort()], [0, ["b1", "b2", "b3"]]);
  }

  const other = withGuard(lab.config({ ...more, more: { user: "daemon" } }), guard);
  const refused = await gateway.reload(other);
  assert.match(refused.body, /user: expected \S+, as it is running, got .*: a restart is needed/);
}

const CASES = [
  ["tun", "process", "nobody"],
  ["packet", "persistent", `${NOBODY}:${NOBODY}`],
  ["xdp", "process", NOBODY],
] as const;

for (const [device, guard, user] of CASES) {
  test(`${device}, guard ${guard}: nobody's gateway`, { skip: SKIP_UNLESS_ROOT }, async (t) => {
    const lab = createLab({ device });
    t.after(() => lab.stop());
    chmodSync(lab.directory, 0o755);
    await startWeb(lab);
    const before = leftovers(lab);
    const services = ([4, 6] as const).map((family) => web("web", 80, ["b1", "b2"], family));
    const balance: LabBalance = { mode: "nat", workers: 2, services, more: { user } };
    const config = withGuard(lab.config(balance), guard);
    const gateway = await lab.startGateway(config, { pins: true });
    const dropped = gateway.log.find(({ event }) => event === "privileges_dropped");
    assert.deepEqual(dropped?.["kept"], ["CAP_NET_ADMIN"]);
    assert.equal(gateway.log.filter(({ event }) => event === "runs_as_root").length, 0);
    checkThreads(gateway.pid, 2);
    assert.deepEqual(rootChildren(gateway.pid), ["sh"]);
    assert.equal(statSync(gateway.socket).uid, NOBODY);
    await work(lab, gateway, balance, guard);
    checkThreads(gateway.pid, 2);

    const exit = await gateway.stop();
    assert.equal(exit.code, 0, gateway.lines.slice(-5).join("\n"));
    assert.deepEqual(
      gateway.log.filter(({ event }) => /failed$/.test(String(event))),
      [],
    );
    assert.ok(!existsSync(gateway.socket));
    if (guard === "persistent") {
      const removed = await lab.exec("gateway", cleanupOf(lab, gateway));
      assert.match(removed.stdout, /removed guard on gw-/);
    }
    assert.deepEqual(leftovers(lab), before);
    if (device === "tun") await refuse(lab, balance);
  });
}

/** What cannot be is said before anything is opened. */
async function refuse(lab: Lab, balance: LabBalance): Promise<void> {
  const attempt = async (user: string): Promise<string> => {
    const config = lab.config({ ...balance, more: { user } });
    const gateway = await lab.startGateway(config, { ready: false });
    const { code } = await gateway.exited;
    return `${code} ${gateway.lines.join("\n")}`;
  };
  assert.match(
    await attempt("hg-nobody-at-all"),
    /^1 headgate: user: there is no user hg-nobody-at-all on this host; run `useradd/,
  );
  assert.match(await attempt("root"), /^1 headgate: user: expected a user other than root/);
  chmodSync(lab.directory, 0o700);
  assert.match(
    await attempt("nobody"),
    /user: nobody cannot read the configuration \S+headgate\.yaml, so that no reload could; run `chgrp/,
  );
}
