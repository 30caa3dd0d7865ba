import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism, cpus, release, totalmem } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

/** What a figure was measured on: without it, a rate says nothing. */
export interface Machine {
  readonly cpus: number;
  readonly cpuModel: string;
  readonly memoryGiB: number;
  readonly kernel: string;
  readonly node: string;
  readonly v8: string;
}

export function describeMachine(): Machine {
  return {
    cpus: availableParallelism(),
    cpuModel: cpus()[0]?.model ?? "unknown",
    memoryGiB: Math.round((totalmem() / 1024 ** 3) * 10) / 10,
    kernel: release().replace(/^(\d+\.\d+\.\d+).*$/, "$1"),
    node: process.version,
    v8: process.versions.v8,
  };
}

/** One line of it, for the head of a table. */
export function machineLine(machine: Machine): string {
  return `${machine.cpus} CPUs (${machine.cpuModel}), ${machine.memoryGiB} GiB, Linux ${machine.kernel}, Node ${machine.node}`;
}

/** Seconds that the machine's CPUs have been busy since it started, all together (10 ms steps). */
export function busySeconds(): number {
  const [, user, nice, system, , , irq, softirq] = readFileSync("/proc/stat", "utf8")
    .split("\n", 1)[0]!
    .split(/\s+/)
    .map(Number);
  return (user! + nice! + system! + irq! + softirq!) / 100;
}

/** Seconds of CPU that some processes have used so far, all their threads; 0 for one that is gone. */
export function cpuSeconds(pids: readonly number[]): number {
  let ticks = 0;
  for (const pid of pids) {
    try {
      // Behind the name, which may hold anything: utime and stime are fields 14 and 15 (proc(5)).
      const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)!.split(" ");
      ticks += Number(fields[11]) + Number(fields[12]);
    } catch {
      // It ended.
    }
  }
  return ticks / 100;
}

/** The kernel's softirq threads, where this process can see them: one a CPU. */
export function softirqThreads(): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/comm`, "utf8").startsWith("ksoftirqd/");
      } catch {
        return false;
      }
    });
}

const QUIET_BUSY_MAX = 0.1;
const QUIET_WAIT_MS_MAX = 30_000;
const QUIET_LOOK_MS = 250;

/**
 * Waits until what else runs leaves the machine nearly idle (at most 0.1 of one CPU busy over a quarter
 * second), or half a minute.
 *
 * @param pollers - processes whose CPU is always busy, because they look for frames without a pause
 * @returns CPUs that were busy when it stopped waiting: figures measured beside much else say little
 */
export async function waitQuiet(pollers: readonly number[] = []): Promise<number> {
  const deadline = performance.now() + QUIET_WAIT_MS_MAX;
  const othersSeconds = (): number => busySeconds() - cpuSeconds(pollers);
  for (;;) {
    const [from, busy] = [performance.now(), othersSeconds()];
    await sleep(QUIET_LOOK_MS);
    const others = (othersSeconds() - busy) / ((performance.now() - from) / 1000);
    if (others <= QUIET_BUSY_MAX || performance.now() > deadline) return others;
  }
}

/** CPUs that others may use during a measurement; with more it is done again. */
export const OTHERS_MAX = 0.2;
const QUIET_TRIES_MAX = 4;

/**
 * Measures when the machine is quiet.
 *
 * @param measure - says how many CPUs others used meanwhile
 * @param waitFirst - false: waits only after a measurement that was disturbed
 * @param pollers - processes whose CPU is always busy
 * @returns the first result that was not disturbed, or the least disturbed of four
 */
export async function quietly<T extends { readonly othersBusyCpus: number }>(
  measure: () => Promise<T>,
  waitFirst = true,
  pollers: readonly number[] = [],
): Promise<T> {
  // The suite's own tests ask for counts, not rates, and run beside others.
  if (process.env["HEADGATE_BENCH_LOUD"] === "1") return measure();
  if (waitFirst) await waitQuiet(pollers);
  let best = await measure();
  for (let tries = 1; tries < QUIET_TRIES_MAX && best.othersBusyCpus > OTHERS_MAX; tries++) {
    await waitQuiet(pollers);
    const next = await measure();
    if (next.othersBusyCpus < best.othersBusyCpus) best = next;
  }
  return best;
}
