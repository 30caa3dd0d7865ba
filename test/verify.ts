import { spawn } from "node:child_process";
import path from "node:path";
import { fileURLToPath } from "node:url";

/**
 * The full figures: npm run verify.
 *
 * Runs the tests of the figures at their full size, one after the other, and prints a table of what
 * was to be shown and what came out. Times and ratios are the bench's (npm run bench).
 */
const here = path.dirname(fileURLToPath(import.meta.url));

interface Figure {
  readonly what: string;
  readonly figure: string;
  readonly files: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  /** Lines of the output that say what was measured. */
  readonly measured: RegExp;
}

const FIGURES: readonly Figure[] = [
  {
    what: "nginx through the VIP, nat and full-nat, TUN, AF_PACKET and AF_XDP",
    figure: "10,000 requests each, 0 failures",
    files: ["e2e/http-modes.test.js"],
    measured: /^ok \d+ - (.*)$/,
  },
  {
    what: "every mode, both families on each side, every device, real servers in namespaces",
    figure: "all pass; what cannot be is refused",
    files: ["e2e/matrix.test.js"],
    measured: /^ok \d+ - (every mode.*)$/,
  },
  {
    what: "64 KiB over a hop of 1,280 bytes through every mode and family",
    figure: "completes; no black hole",
    files: ["e2e/path-mtu.test.js"],
    measured: /^ok \d+ - (.*)$/,
  },
  {
    what: "1 GiB through the VIP",
    figure: "compares equal",
    files: ["e2e/transfer-1gib.test.js"],
    measured: /^ok \d+ - (.*)$/,
  },
  {
    what: "iperf3 and a UDP echo through the VIP",
    figure: "all pass",
    files: ["e2e/transfer-iperf3.test.js", "e2e/udp-echo.test.js"],
    measured: /^ok \d+ - (.*)$/,
  },
  {
    what: "random frames through nftables and the fast path",
    figure: "at least 10,000, byte-identical",
    files: ["e2e/nftables-same-bytes.test.js"],
    measured: /^(?:# )?(.* compared)$/,
  },
  {
    what: "checksums on the receiving side, offloads on and off",
    figure: "0 bad",
    files: ["e2e/lab-checksums.test.js"],
    measured: /^ok \d+ - (.*)$/,
  },
  {
    what: "generated sequences against the slow model",
    figure: "at least 100,000, 0 failures",
    files: ["datapath/model.test.js"],
    environment: { HEADGATE_SEQUENCES: "100000" },
    measured: /^(?:# )?(\d+ sequences.*)$/,
  },
  {
    what: "reloads at 500 new connections a second with 50 long transfers",
    figure: "1,000; 0 resets, 0 failed connects, contents equal",
    files: ["e2e/reload-storm.test.js"],
    environment: { HEADGATE_RELOADS: "1000" },
    measured: /^(?:# )?(\d+ reloads.*)$/,
  },
  {
    what: "kill -9 under 100 open connections, started again",
    figure: "20 times; all go on, same backends, gap at most 2 s",
    files: ["e2e/survives-kill.test.js"],
    environment: { HEADGATE_KILLS: "20" },
    measured: /^(?:# )?(.*longest gap.*)$/,
  },
  {
    what: "a one-way UDP sender at 1,000 packets/s, all backends gone and back, then drained",
    figure: "0 lost from the return on",
    files: ["e2e/udp-flows.test.js"],
    environment: { HEADGATE_DEVICES: "all" },
    measured: /^# (\d+ datagrams, back at .*)$/,
  },
  {
    what: "a backend that dies under load, with passive checks",
    figure: "no new flow to it after 200 ms",
    files: ["e2e/passive.test.js"],
    environment: { HEADGATE_DEATHS: "10" },
    measured: /^# (silent: out .*|refusing: out .*)$/,
  },
  {
    what: "a flood of first fragments",
    figure: "1,000,000: table bounded, at least 95 % of whole packets forwarded",
    files: ["datapath/fragments.test.js"],
    environment: { HEADGATE_FRAGMENT_FLOOD: "1000000" },
    measured: /^# (\d+ first fragments.*)$/,
  },
  {
    what: "a SYN flood at the sender's full rate beside 200 established connections",
    figure: "0 of them reset, their goodput at least 90 %, memory constant, new clients connect",
    files: ["e2e/syn-proxy.test.js"],
    environment: { HEADGATE_FLOOD_SECONDS: "20" },
    measured: /^# (\d+ SYNs sent.*)$/,
  },
  {
    what: "every store of a flow write interrupted, then taken over",
    figure: "0 damaged flows followed",
    files: ["flow/interruption.test.js"],
    measured: /^ok \d+ - (.*)$/,
  },
  {
    what: "bytes allocated per packet in steady state; malformed frames; full tables",
    figure: "0; one counted drop each; the written policy",
    files: ["datapath/datapath.test.js"],
    measured: /^ok \d+ - (in steady state.*|a full table.*)$/,
  },
  {
    what: "malformed frames and mutations of every protocol through the whole data path",
    figure: "10,000,000; 0 crashes, the verdict law exact, 0 wrong checksums, 0 over the MTU",
    files: ["fuzz/datapath.test.js"],
    environment: { HEADGATE_MUTATIONS: "10000000" },
    measured: /^(?:# )?(.* frames in .* batches.*)$/,
  },
  {
    what: "affinity of 100,000 clients",
    figure: "every client stays, also after kill -9",
    files: ["e2e/affinity.test.js"],
    environment: { HEADGATE_CLIENTS: "100000" },
    measured: /^# (\d+ clients, kill -9.*)$/,
  },
  {
    what: "a backend that flaps at 1 Hz for a minute, and one that dies (interval 1 s, fall 3)",
    figure: "no flow moved between the others, one line a change; no new flow after 3 s + 1 s",
    files: ["e2e/flapping.test.js"],
    environment: { HEADGATE_FLAPS: "60", HEADGATE_CHECK_INTERVAL: "1s" },
    measured: /^# (\d+ flaps.*|a backend that dies.*)$/,
  },
  {
    what: "drain, weight 0, removal, disable, down: every row of the table in docs/states.md",
    figure: "all pass, TCP and UDP, real servers in namespaces",
    files: ["e2e/states.test.js"],
    measured: /^# (\d+ rows)$/,
  },
  {
    what: "maglev, equal weights, one of 10 removed",
    figure: "slots differ by at most 1; at most 0.3 % of the others move",
    files: ["scheduler"],
    measured: /^# (.*maglev.*|.*moved.*)$/i,
  },
];

function run(figure: Figure): Promise<{ code: number; measured: string[] }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [path.join(here, "run.js"), ...figure.files], {
      env: { ...process.env, ...figure.environment, CI: "1" },
      stdio: ["ignore", "pipe", "inherit"],
    });
    let text = "";
    child.stdout.on("data", (chunk: Buffer) => {
      text += chunk.toString("utf8");
    });
    child.on("error", reject);
    child.on("close", (code) => {
      const measured = text.split("\n").flatMap((line) => figure.measured.exec(line)?.[1] ?? []);
      if (code !== 0) process.stdout.write(text);
      resolve({ code: code ?? 1, measured });
    });
  });
}

let failed = 0;
for (const figure of FIGURES) {
  const { code, measured } = await run(figure);
  const ok = code === 0 && measured.length > 0;
  if (!ok) failed++;
  console.log(`${ok ? "ok    " : "FAILED"} ${figure.what}`);
  console.log(`         to be shown: ${figure.figure}`);
  for (const line of measured) console.log(`         ${line}`);
}
console.log(`\n${FIGURES.length - failed} of ${FIGURES.length} figures shown`);
console.log("times and ratios: npm run bench -- lab-tcp, npm run bench -- lab-pps");
process.exitCode = failed === 0 ? 0 : 1;
