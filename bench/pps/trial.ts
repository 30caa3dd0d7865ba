import type { Lab } from "../../test/support/lab.ts";
import { cpuSeconds, quietly, softirqThreads } from "../machine.ts";
import { generate } from "../traffic.ts";
import type { Started } from "./contenders.ts";

/** One measurement of packets a second, and the search for the highest rate with little loss. */

export interface PpsCase {
  /** Bytes of a frame, without its checksum. */
  readonly bytes: number;
  readonly flows: number;
}

export interface Latency {
  readonly p50Us: number;
  readonly p99Us: number;
  readonly p999Us: number;
}

export interface Trial {
  /** Asked for; 0: flood. */
  readonly rate: number;
  readonly offeredRate: number;
  readonly deliveredRate: number;
  /** Share of the offered frames that did not arrive. */
  readonly loss: number;
  /** Busy time of the whole machine (/proc/stat: sampled by the timer tick, so rough). */
  readonly busyNsPerFrame: number;
  /** CPU time of the generator, the contender's process and the kernel's softirq threads (exact). */
  readonly threadNsPerFrame: number;
  /** CPUs that were busy, by all together. */
  readonly busyCpus: number;
  /** CPUs that were busy for neither the generator nor the contender nor the kernel's softirqs. */
  readonly othersBusyCpus: number;
  readonly latency: Latency;
}

export interface PpsSample {
  readonly flood: Trial;
  /** The trial with the highest delivered rate among those within the loss limit. */
  readonly pdr: Trial | null;
  /** At half of PDR; null where it was not asked for, or there is no PDR. */
  readonly half: Trial | null;
  readonly trials: readonly Trial[];
}

export const LOSS_MAX = 0.005;
/** Frames that are sent at once: as many as fit one kick, and few where latency is measured. */
const BURST = 32;
const LATENCY_BURST = 4;

/** How closely to search. */
export interface Search {
  /** The search ends when its bounds are this close. */
  readonly precision: number;
  readonly trialsMax: number;
  readonly latency: boolean;
}

export const CLOSE_SEARCH: Search = { precision: 0.03, trialsMax: 10, latency: true };
export const ROUGH_SEARCH: Search = { precision: 0.06, trialsMax: 4, latency: false };

/** Sends for some seconds at a rate and counts what arrives. */
export async function runTrial(
  lab: Lab,
  { targets, pid, sink }: Started,
  { bytes, flows }: PpsCase,
  rate: number,
  seconds: number,
  burst: number = BURST,
): Promise<Trial> {
  const threads = [...softirqThreads(), ...(pid === undefined ? [] : [pid])];
  const before = (await sink.settled()).frames;
  sink.forget();
  const usedBefore = cpuSeconds(threads);
  const sent = await generate(lab, { targets, flows, rate, seconds, bytes, burst });
  const used = sent.cpuSeconds + cpuSeconds(threads) - usedBefore;
  const after = await sink.settled();
  const arrived = after.frames - before;
  return {
    rate,
    offeredRate: sent.offered / sent.seconds,
    deliveredRate: arrived / sent.seconds,
    loss: sent.offered === 0 ? 1 : 1 - arrived / sent.offered,
    busyNsPerFrame: (sent.busySeconds * 1e9) / arrived,
    threadNsPerFrame: (used * 1e9) / arrived,
    busyCpus: sent.busySeconds / sent.seconds,
    othersBusyCpus: Math.max(0, (sent.busySeconds - used) / sent.seconds),
    latency: { p50Us: after.p50 / 1e3, p99Us: after.p99 / 1e3, p999Us: after.p999 / 1e3 },
  };
}

/** Makes the flows, and has the fast path compiled. */
export async function warmUp(lab: Lab, started: Started, one: PpsCase): Promise<void> {
  const rate = 100_000;
  await runTrial(lab, started, one, rate, Math.max(0.2, one.flows / rate));
  await runTrial(lab, started, one, 0, 0.3);
}

/** The flood, and the search for the highest rate with little loss. */
export async function sampleOf(
  lab: Lab,
  started: Started,
  one: PpsCase,
  seconds: number,
  search: Search,
): Promise<PpsSample> {
  // testpmd polls: what it uses while nothing is sent is not other work.
  const pollers = started.pid === undefined ? [] : [started.pid];
  const trial = (rate: number): Promise<Trial> =>
    quietly(() => runTrial(lab, started, one, rate, seconds), search.latency, pollers);
  const flood = await trial(0);
  const trials = [flood];
  let low = 0;
  let high = flood.offeredRate;
  let rate = flood.deliveredRate;
  if (flood.loss <= LOSS_MAX) low = high;
  while (trials.length < search.trialsMax && high - low > search.precision * high) {
    let found = await trial(rate);
    trials.push(found);
    if (found.loss > LOSS_MAX && trials.length < search.trialsMax) {
      // A shared machine can spoil a trial without using its CPUs: it has failed when it fails twice.
      found = await trial(rate);
      trials.push(found);
    }
    if (found.loss > LOSS_MAX) {
      high = rate;
    } else {
      low = rate;
      // The generator could not keep up: more than this cannot be offered without loss.
      if (found.offeredRate < rate * (1 - search.precision)) high = rate;
    }
    rate = low === 0 ? high * 0.8 : (low + high) / 2;
  }
  const within = trials.filter((trial) => trial.loss <= LOSS_MAX);
  within.sort((a, b) => b.deliveredRate - a.deliveredRate);
  const pdr = within[0] ?? null;
  const half =
    !search.latency || pdr === null
      ? null
      : await quietly(
          () => runTrial(lab, started, one, pdr.deliveredRate / 2, seconds, LATENCY_BURST),
          true,
          pollers,
        );
  return { flood, pdr, half, trials };
}
