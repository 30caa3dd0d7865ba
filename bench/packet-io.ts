import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

/**
 * Measures ways to move frames with AF_PACKET, for docs/decisions/0001-packet-receive-and-send.md.
 *
 *   node dist/bench/packet-io.js [ROUNDS]
 *
 * Two hosts hang on a forwarder by a veth pair each, all in namespaces without a name that end with
 * this program. Per candidate and round: 20 pings; one TCP stream of 2 s (64 KiB frames); 60-byte
 * UDP frames for 2 s as fast as a generator makes them. The table has medians. Rates depend on the
 * machine and on what else it does: compare the rows of one run, not of two.
 */
const CANDIDATES: readonly (readonly string[])[] = [
  ["v2", "ring"],
  ["v2", "ring-bypass"],
  ["v2", "ringpage"],
  ["v2", "sendmmsg"],
  ["v2big", "ringbig-bypass"],
  ["v3", "ring"],
  ["v3", "sendmmsg"],
  ["recvmmsg", "sendmmsg"],
  ["the device, from TypeScript"],
];
const A_MAC = "02:00:00:00:00:0a";
const B_MAC = "02:00:00:00:00:0b";

interface Sample {
  readonly pingMs: number;
  readonly gigabits: number;
  readonly kiloFrames: number;
  readonly lostPercent: number;
  readonly cpuNs: number;
}

interface Forwarded {
  readonly received: number;
  readonly sent: number;
  readonly cpuSeconds: number;
}

const file = fileURLToPath(import.meta.url);
if (process.getuid?.() !== 0) {
  console.error("packet-io: needs root: network namespaces and packet sockets");
  process.exitCode = 77;
} else if (process.env["HEADGATE_BENCH_INSIDE"] !== "1") {
  const { status } = spawnSync(
    "unshare",
    ["--net", process.execPath, file, ...process.argv.slice(2)],
    {
      env: { ...process.env, HEADGATE_BENCH_INSIDE: "1" },
      stdio: "inherit",
    },
  );
  process.exitCode = status ?? 1;
} else {
  await main(Number(process.argv[2] ?? 3));
}

function run(command: string, ...args: string[]): string {
  return execFileSync(command, args, { encoding: "utf8" });
}

/** A namespace that lasts as long as this process. */
async function makeHost(): Promise<ChildProcess> {
  const host = spawn("unshare", ["--net", "sh", "-c", "echo ready; exec cat"], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  await new Promise((resolve) => host.stdout?.once("data", resolve));
  return host;
}

async function main(rounds: number): Promise<void> {
  const folder = mkdtempSync(path.join(tmpdir(), "headgate-packet-io-"));
  const program = path.join(folder, "forward");
  const source = fileURLToPath(new URL("../../bench/packet-io/forward.cc", import.meta.url));
  run("g++", "-std=c++20", "-O2", "-D_GNU_SOURCE", source, "-o", program);
  const a = await makeHost();
  const b = await makeHost();
  const inside = (host: ChildProcess, ...words: string[]): string =>
    run("nsenter", "-t", String(host.pid), "-n", ...words);
  run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1");
  // Each of our interfaces has the address of the host behind the other one, so that frames are
  // for us and can be passed on unchanged.
  for (const [host, name, own, address, other] of [
    [a, "in0", A_MAC, "10.0.0.1", B_MAC],
    [b, "in1", B_MAC, "10.0.0.2", A_MAC],
  ] as const) {
    run(
      "ip",
      "link",
      "add",
      name,
      "address",
      other,
      "type",
      "veth",
      "peer",
      "e0",
      "netns",
      String(host.pid),
    );
    inside(host, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1");
    inside(host, "ip", "link", "set", "e0", "address", own, "up");
    inside(host, "ip", "addr", "add", `${address}/24`, "dev", "e0");
    run("ip", "link", "set", name, "up");
  }

  /** Starts a candidate for some seconds; what it forwarded, once it is done. */
  const forward = async (
    candidate: readonly string[],
    seconds: number,
  ): Promise<() => Promise<Forwarded>> => {
    const [rx, tx] = candidate;
    const device = fileURLToPath(new URL("packet-io/forward-device.js", import.meta.url));
    const child =
      tx === undefined
        ? spawn(process.execPath, [device, "in0", "in1", String(seconds)])
        : spawn(program, ["forward", rx!, tx, "in0", "in1", String(seconds)]);
    let text = "";
    child.stdout.on("data", (part) => {
      text += part;
    });
    child.stderr.pipe(process.stderr);
    const done = new Promise<Forwarded>((resolve, reject) => {
      child.once("close", (code) => {
        if (code === 0) resolve(JSON.parse(text));
        else reject(new Error(`${candidate.join(" ")} ended with ${code}`));
      });
    });
    await sleep(400);
    return () => done;
  };

  const arrived = (): number =>
    JSON.parse(inside(b, "ip", "-json", "-s", "link", "show", "dev", "e0"))[0].stats64.rx.packets;

  const measure = async (candidate: readonly string[]): Promise<Sample> => {
    const first = await forward(candidate, 5);
    const ping = inside(a, "ping", "-q", "-c", "20", "-i", "0.02", "10.0.0.2");
    inside(b, "iperf3", "-s", "-1", "-D");
    await sleep(200);
    const stream = JSON.parse(inside(a, "iperf3", "-J", "-c", "10.0.0.2", "-t", "2"));
    await first();
    const second = await forward(candidate, 3);
    const already = arrived();
    const { sent } = JSON.parse(inside(a, program, "generate", "e0", B_MAC, "2"));
    const { received, cpuSeconds } = await second();
    const delivered = arrived() - already;
    return {
      pingMs: Number(/= [\d.]+\/([\d.]+)\//.exec(ping)?.[1]),
      gigabits: stream.end.sum_received.bits_per_second / 1e9,
      kiloFrames: delivered / 2000,
      lostPercent: (100 * (sent - delivered)) / sent,
      cpuNs: (cpuSeconds * 1e9) / received,
    };
  };

  const samples = CANDIDATES.map((): Sample[] => []);
  for (let round = 0; round < rounds; round += 1) {
    for (const [i, candidate] of CANDIDATES.entries()) samples[i]!.push(await measure(candidate));
  }
  const median = (values: readonly number[]): number =>
    [...values].sort((x, y) => x - y)[values.length >> 1]!;
  console.log("| receive | send | ping, ms | TCP, Gb/s | 60 B, kpps | lost, % | CPU, ns a frame |");
  console.log("|---|---|---|---|---|---|---|");
  for (const [i, [rx, tx]] of CANDIDATES.entries()) {
    const of = (pick: (sample: Sample) => number, digits: number): string =>
      median(samples[i]!.map(pick)).toFixed(digits);
    const cells = [
      rx,
      tx ?? "",
      of((it) => it.pingMs, 2),
      of((it) => it.gigabits, 1),
      of((it) => it.kiloFrames, 0),
      of((it) => it.lostPercent, 0),
      of((it) => it.cpuNs, 0),
    ];
    console.log(`| ${cells.join(" | ")} |`);
  }
  a.stdin?.end();
  b.stdin?.end();
  rmSync(folder, { recursive: true });
}
