import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createLab, type Lab, type LabDevice } from "../test/support/lab.ts";
import { cpuSeconds } from "./machine.ts";
import { headgateConfig, type Started, throughVip } from "./pps/contenders.ts";
import { ROUGH_SEARCH, sampleOf, warmUp } from "./pps/trial.ts";
import { table } from "./statistics.ts";
import { directBackends, generate, startSink } from "./traffic.ts";

/**
 * Hours at half load: whether the rate stays, memory stays, and the data plane never pauses. The
 * gateway runs with V8's own traces of collections and deoptimisations; what they say before the soak
 * begins (start, warm-up, the search for the load) is not counted.
 */
export interface SoakSample {
  readonly second: number;
  readonly deliveredRate: number;
  readonly residentBytes: number;
  /** CPUs that the gateway's process used since the sample before. */
  readonly cpus: number;
}

export interface SoakResult {
  readonly device: LabDevice;
  readonly seconds: number;
  readonly flows: number;
  readonly rate: number;
  readonly offered: number;
  readonly arrived: number;
  readonly samples: readonly SoakSample[];
  /** Collections of the worker's heap, and of the control thread's, and the worker's longest. */
  readonly workerCollections: number;
  readonly controlCollections: number;
  readonly workerPauseMs: number;
  readonly deoptimisations: number;
  /** Of which functions, of any thread: name and V8's reason. Left out in results of before. */
  readonly deoptimised?: readonly string[];
  readonly p50Us: number;
  readonly p99Us: number;
  readonly p999Us: number;
}

const FLOWS = 1000;

/** One line of V8's --trace-gc: whose heap, and how long it took. */
const GC_LINE =
  /^\[\d+:(0x[0-9a-f]+)(?::\d+)?\]\s+\d+ ms: (?:Scavenge|Mark-Compact).* ([\d.]+) \/ /;

interface Collections {
  /** Look at what was said since the last time. */
  look(): void;
  count(): { worker: number; control: number; workerPauseMs: number };
}

/** The first heap that collects is the control thread's: it starts long before the worker. */
export function watchGcLines(lines: readonly string[]): Collections {
  let control: string | undefined;
  let last = lines.at(-1);
  const sum = { worker: 0, control: 0, workerPauseMs: 0 };
  for (const line of lines) control ??= GC_LINE.exec(line)?.[1];
  return {
    look() {
      // The list drops its oldest lines, so a place in it means nothing: the last line seen does.
      const from = last === undefined ? 0 : lines.lastIndexOf(last) + 1;
      for (const line of lines.slice(from)) {
        const found = GC_LINE.exec(line);
        if (found === null) continue;
        control ??= found[1];
        if (found[1] === control) sum.control++;
        else {
          sum.worker++;
          sum.workerPauseMs = Math.max(sum.workerPauseMs, Number(found[2]));
        }
      }
      last = lines.at(-1) ?? last;
    },
    count: () => ({ ...sum }),
  };
}

/** One in V8's trace: "[bailout (kind: deopt-eager, reason: wrong map): begin. … <JSFunction name …". */
const BAILOUT = /\[bailout \(kind: [\w-]+, reason: ([^)]*)\): begin\.[^\n]*?<JSFunction ([^ >]*)/g;

function deoptimisationsIn(file: string): string[] {
  if (!existsSync(file)) return [];
  return [...readFileSync(file, "latin1").matchAll(BAILOUT)].map(
    ([, reason, name]) => `${name}: ${reason}`,
  );
}

function residentOf(pid: number): number {
  const found = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return found === null ? 0 : Number(found[1]) * 1024;
}

async function sampled(
  pid: number,
  started: Started,
  seconds: number,
  look: () => void,
): Promise<SoakSample[]> {
  const samples: SoakSample[] = [];
  const begun = performance.now();
  const everyMs = Math.min(5000, (seconds * 1000) / 4);
  let [frames, cpu, at] = [(await started.sink.read()).frames, cpuSeconds([pid]), begun];
  while (performance.now() - begun + everyMs <= seconds * 1000) {
    await sleep(everyMs);
    const [nowFrames, nowCpu, now] = [
      (await started.sink.read()).frames,
      cpuSeconds([pid]),
      performance.now(),
    ];
    const span = (now - at) / 1000;
    samples.push({
      second: (now - begun) / 1000,
      deliveredRate: (nowFrames - frames) / span,
      residentBytes: residentOf(pid),
      cpus: (nowCpu - cpu) / span,
    });
    [frames, cpu, at] = [nowFrames, nowCpu, now];
    look();
  }
  return samples;
}

async function soakIn(lab: Lab, device: LabDevice, seconds: number): Promise<SoakResult> {
  await directBackends(lab);
  const traces = path.join(lab.directory, "deopt");
  const nodeFlags = [
    "--trace-gc",
    "--trace-deopt",
    "--redirect-code-traces",
    `--redirect-code-traces-to=${traces}`,
  ];
  const gateway = await lab.startGateway(headgateConfig(lab), { nodeFlags });
  const { pid } = gateway;
  const started = { targets: throughVip(lab), pid, sink: await startSink(lab, "xdp") };
  const one = { bytes: 60, flows: FLOWS };
  await warmUp(lab, started, one);
  const { pdr, flood } = await sampleOf(lab, started, one, Math.min(1, seconds), ROUGH_SEARCH);
  const rate = (pdr ?? flood).deliveredRate / 2;
  // The load of the soak is its own: what it makes V8 compile anew is not steady state.
  await generate(lab, { ...started, flows: FLOWS, rate, seconds: Math.min(5, seconds) });
  const collections = watchGcLines(gateway.lines);
  const deoptimisedBefore = deoptimisationsIn(traces).length;
  const before = (await started.sink.settled()).frames;
  started.sink.forget();
  const sending = generate(lab, { ...started, flows: FLOWS, rate, seconds, burst: 8 });
  // An error of the sampling must not hide behind one of the generator.
  sending.catch(() => undefined);
  const samples = await sampled(pid, started, seconds, collections.look);
  const { offered } = await sending;
  collections.look();
  const after = await started.sink.settled();
  const deoptimised = deoptimisationsIn(traces).slice(deoptimisedBefore);
  const { worker, control, workerPauseMs } = collections.count();
  return {
    device,
    seconds,
    flows: FLOWS,
    rate,
    offered,
    arrived: after.frames - before,
    samples,
    workerCollections: worker,
    controlCollections: control,
    workerPauseMs,
    deoptimisations: deoptimised.length,
    deoptimised,
    p50Us: after.p50 / 1e3,
    p99Us: after.p99 / 1e3,
    p999Us: after.p999 / 1e3,
  };
}

/** Soak one device. */
export async function measureSoak(device: LabDevice, seconds: number): Promise<SoakResult> {
  const lab = createLab({ device });
  try {
    return await soakIn(lab, device, seconds);
  } finally {
    await lab.stop();
  }
}

/** Bytes an hour by which the resident set grows: the slope of the least squares line. */
export function residentSlope(samples: readonly SoakSample[]): number {
  if (samples.length < 2) return 0;
  const mean = (pick: (one: SoakSample) => number): number =>
    samples.reduce((sum, one) => sum + pick(one), 0) / samples.length;
  const [at, bytes] = [mean((one) => one.second), mean((one) => one.residentBytes)];
  let above = 0;
  let below = 0;
  for (const one of samples) {
    above += (one.second - at) * (one.residentBytes - bytes);
    below += (one.second - at) ** 2;
  }
  return (above / below) * 3600;
}

export function formatSoak(results: readonly SoakResult[]): string {
  const deoptimised = results.flatMap((one) => one.deoptimised ?? []);
  const named = deoptimised.length === 0 ? "" : `\nDeoptimised: ${deoptimised.join("; ")}.\n`;
  return soakTable(results) + named;
}

function soakTable(results: readonly SoakResult[]): string {
  return table(
    [
      "soak at half load, 60-byte UDP",
      "minutes",
      "kpps",
      "slowest 5 s, kpps",
      "lost, %",
      "resident, MiB",
      "MiB an hour",
      "CPUs",
      "p50, us",
      "p99.9, us",
      "worker collections",
      "control collections",
      "deoptimisations",
    ],
    results.map((one) => {
      const { samples } = one;
      const cpus = samples.reduce((sum, sample) => sum + sample.cpus, 0) / (samples.length || 1);
      return [
        `Headgate ${one.device}, nat`,
        (one.seconds / 60).toFixed(one.seconds < 600 ? 1 : 0),
        (one.arrived / one.seconds / 1000).toFixed(0),
        (Math.min(...samples.map((sample) => sample.deliveredRate)) / 1000).toFixed(0),
        (100 * (1 - one.arrived / one.offered)).toFixed(4),
        ((samples.at(-1)?.residentBytes ?? 0) / 2 ** 20).toFixed(0),
        (residentSlope(samples) / 2 ** 20).toFixed(1),
        cpus.toFixed(2),
        one.p50Us.toFixed(0),
        one.p999Us.toFixed(0),
        String(one.workerCollections),
        String(one.controlCollections),
        String(one.deoptimisations),
      ];
    }),
  );
}
