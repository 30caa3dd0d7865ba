import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import {
  D_AT,
  D_BYTES,
  D_CSUM,
  D_INTERFACE,
  D_VNET,
  DESCRIPTOR_WORDS,
} from "../../src/device/device.ts";
import type { NativeFrameDevice } from "../../src/device/frame-device.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Network namespaces for the device tests, which open devices in the test's own process.
 *
 * The test file runs itself again inside a network namespace without a name; its peers are further
 * ones, each held by a process that ends when the test does. So nothing is left behind, also when
 * a test is killed, and no test touches the host's interfaces.
 */

const INSIDE = "HEADGATE_TEST_INSIDE";

/** True in the run inside the namespace. */
export const isInside = process.env[INSIDE] === "1";

export const skipUnlessRoot =
  process.getuid?.() === 0 ? false : "needs root: network namespaces and devices";

/**
 * Register the test that runs `file` again inside a namespace and passes when every test there
 * does. Its output is shown when one fails.
 */
export function runInside(file: string): void {
  test("in a network namespace of its own", { skip: skipUnlessRoot }, (context) => {
    const environment: NodeJS.ProcessEnv = { ...process.env, [INSIDE]: "1" };
    // Or the inner runner would speak the outer runner's binary protocol.
    delete environment["NODE_TEST_CONTEXT"];
    const { status, stdout, stderr } = spawnSync(
      "unshare",
      ["--net", process.execPath, "--enable-source-maps", "--test-reporter=tap", file],
      { env: environment, encoding: "utf8", maxBuffer: 1 << 26 },
    );
    const passed = /^# pass (\d+)$/m.exec(stdout)?.[1] ?? "0";
    context.diagnostic(`${passed} tests passed inside`);
    if (status !== 0 || passed === "0") throw new Error(`${stdout}\n${stderr}`);
  });
}

/** Run a command here; its output. Throws with its standard error when it fails. */
export function run(command: string, ...args: string[]): string {
  return execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

/** `ip` with the words of one line: `ip("link set in0 up")`. */
export function ip(words: string): string {
  return run("ip", ...words.split(" "));
}

/** Another namespace, reachable only through the interfaces that are moved there. */
export interface Peer {
  readonly pid: number;
  run(command: string, ...args: string[]): string;
  /** A command that goes on; `done` gives its output when it ends well. */
  start(command: string, ...args: string[]): { child: ChildProcess; done: Promise<string> };
  close(): void;
}

export async function makePeer(): Promise<Peer> {
  // Ends when its standard input does, so with this process at the latest.
  const holder = spawn("unshare", ["--net", "sh", "-c", "echo ready; exec cat"], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  await new Promise((resolve, reject) => {
    holder.stdout.once("data", resolve);
    holder.once("exit", () => reject(new Error("unshare --net failed")));
  });
  const pid = holder.pid!;
  const enter = ["-t", String(pid), "-n"];
  return {
    pid,
    run: (command, ...args) => run("nsenter", ...enter, command, ...args),
    start: (command, ...args) => start("nsenter", ...enter, command, ...args),
    close() {
      holder.stdin.end();
    },
  };
}

/** Start a command here, beside this process. */
export function start(
  command: string,
  ...args: string[]
): { child: ChildProcess; done: Promise<string> } {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  let errors = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    output += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors += text;
  });
  const done = new Promise<string>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => {
      if (code === 0) resolve(output);
      else reject(new Error(`${command} ${args.join(" ")}: ${code ?? signal}\n${output}${errors}`));
    });
  });
  return { child, done };
}

export const A_MAC = "02:00:00:00:00:0a";
export const B_MAC = "02:00:00:00:00:0b";

/** Two hosts with one wire each to this namespace: A on in0, B on in1. */
export interface Pair {
  readonly a: Peer;
  readonly b: Peer;
  close(): void;
}

/**
 * Make the pair. Frames between A (10.0.0.1) and B (10.0.0.2) can be passed on unchanged: in0 has
 * B's hardware address and in1 has A's, so that either side's frames are addressed to us.
 */
export async function makePair(): Promise<Pair> {
  const a = await makePeer();
  const b = await makePeer();
  run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1");
  for (const [peer, name, own, address, neighbour, mac] of [
    [a, "in0", A_MAC, "10.0.0.1", "10.0.0.2", B_MAC],
    [b, "in1", B_MAC, "10.0.0.2", "10.0.0.1", A_MAC],
  ] as const) {
    ip(`link add ${name} address ${mac} type veth peer name e0 netns ${peer.pid}`);
    peer.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1");
    peer.run("ip", "link", "set", "lo", "up");
    peer.run("ip", "link", "set", "e0", "address", own, "up");
    peer.run("ip", "addr", "add", `${address}/24`, "dev", "e0");
    // Known for good: no ARP frame disturbs a count.
    peer.run("ip", "neigh", "add", neighbour, "lladdr", mac, "dev", "e0", "nud", "permanent");
    ip(`link set ${name} up`);
  }
  return {
    a,
    b,
    close() {
      for (const name of ["in0", "in1"]) spawnSync("ip", ["link", "del", name]);
      a.close();
      b.close();
    },
  };
}

/** What `pump` saw. */
export interface Seen {
  received: number;
  sent: number;
  gso: number;
  partial: number;
  bytesMax: number;
  misaligned: number;
  /** Native calls as they should have been counted. */
  calls: number;
}

/**
 * Receive, let `change` turn each descriptor of rx into one of tx, send; until `done` settles.
 *
 * @param change - gets the word index of a descriptor, the same in rx and in tx
 */
export async function pump<T>(
  device: NativeFrameDevice,
  done: Promise<T>,
  change: (word: number) => void,
): Promise<Seen & { value: T }> {
  const seen: Seen = {
    received: 0,
    sent: 0,
    gso: 0,
    partial: 0,
    bytesMax: 0,
    misaligned: 0,
    calls: 0,
  };
  let isDone = false;
  const ended = done.finally(() => {
    isDone = true;
  });
  // Not handled here but where it is awaited, below.
  ended.catch(() => undefined);
  const { rx, tx } = device.batch;
  while (!isDone) {
    const count = device.receive(10);
    seen.calls += 1;
    for (let i = 0; i < count; i += 1) {
      const word = i * DESCRIPTOR_WORDS;
      for (const field of [D_AT, D_BYTES, D_INTERFACE, D_VNET, D_CSUM]) {
        tx[word + field] = rx[word + field]!;
      }
      const vnet = rx[word + D_VNET]!;
      if ((vnet & 1) !== 0) seen.partial += 1;
      if (((vnet >>> 8) & 0xff) !== 0) seen.gso += 1;
      seen.bytesMax = Math.max(seen.bytesMax, rx[word + D_BYTES]!);
      if (((rx[word + D_AT]! + device.linkHeaderBytes) & 3) !== 0) seen.misaligned += 1;
      change(word);
    }
    seen.received += count;
    if (count > 0) {
      seen.sent += device.transmit(count);
      seen.calls += 1;
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  return { ...seen, value: await ended };
}

/** Mappings of this process. */
export function mappingCount(): number {
  return readFileSync("/proc/self/maps", "utf8").split("\n").length;
}

/** Open descriptors of this process. */
export function descriptorCount(): number {
  return readdirSync("/proc/self/fd").length;
}

/**
 * Open descriptors once their number stays: pipes of children and descriptors of threads that
 * ended close a little later.
 */
export async function settledDescriptors(): Promise<number> {
  let count = descriptorCount();
  for (let same = 0, looks = 0; same < 10 && looks < 300; looks += 1) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    const now = descriptorCount();
    same = now === count ? same + 1 : 0;
    count = now;
  }
  return count;
}

/** Collect garbage until `isDone`, a bounded number of times. */
export async function collectUntil(isDone: () => boolean): Promise<void> {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  for (let i = 0; i < 30 && !isDone(); i += 1) {
    collect();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Wait until a program listens on a TCP port, where `run` runs commands. */
export async function waitListening(
  run: (command: string, ...args: string[]) => string,
  port: number,
): Promise<void> {
  await waitFor(`a listener on port ${port}`, () => run("ss", "-Hltn", `sport = :${port}`) !== "");
}

/**
 * A TCP transfer as two programs for `node -e`: the receiver prints the bytes and SHA-256 that came,
 * the sender what it sent. Start the sender when somebody listens (`waitListening`).
 */
export const tcpReceiver = (port: number): string => `
  const hash = require("node:crypto").createHash("sha256");
  let bytes = 0;
  const server = require("node:net").createServer((socket) => {
    socket.on("data", (part) => { bytes += part.length; hash.update(part); });
    socket.on("end", () => { console.log(bytes + " " + hash.digest("hex")); socket.end(); server.close(); });
  });
  server.listen(${port}, "0.0.0.0");`;

export const tcpSender = (address: string, port: number, bytes: number): string => `
  const { createHash, randomBytes } = require("node:crypto");
  const block = randomBytes(1 << 20);
  const hash = createHash("sha256");
  let left = ${bytes};
  let socket;
  const write = () => {
    while (left > 0) {
      const part = block.subarray(0, Math.min(left, block.length));
      left -= part.length;
      hash.update(part);
      if (!socket.write(part)) { socket.once("drain", write); return; }
    }
    socket.end();
  };
  const open = () => {
    socket = require("node:net").connect(${port}, "${address}");
    // The receiver may not be there yet.
    socket.once("error", (error) => {
      if (error.code !== "ECONNREFUSED") throw error;
      setTimeout(open, 100);
    });
    socket.once("connect", () => {
      write();
      socket.resume();
      socket.once("close", () => console.log(${bytes} + " " + hash.digest("hex")));
    });
  };
  setTimeout(open, 300);`;
