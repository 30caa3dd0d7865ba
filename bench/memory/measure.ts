import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";
import { PerformanceObserver } from "node:perf_hooks";
import { setImmediate as nextTurn } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { powerOfTwoAtLeast } from "../../src/state/layout.ts";
import { createFastPath, type FastPath, type MemoryCase } from "./fast-path.ts";
import { openFlows, steadyFrames } from "./flow-frames.ts";
import { type FrameStore, WINDOW_FRAMES } from "./frame-store.ts";
import { startReference, writeReferenceInput } from "./reference.ts";
import { checkSent } from "./slow-nat.ts";

/**
 * The whole fast path on frames in memory, without any device, beside the same work in C++ over the
 * same frames: nanoseconds and bytes allocated a packet.
 *
 * Honest   Both sides get the same frames (both directions of every flow, in an order without order)
 *          in the same windows, into slots of the same size, and only what happens between "the
 *          frames are there" and "the last one is sent" is timed (ready-device.ts). The tick is the
 *          time spent, so that the expiry sweep does its share. Before anything is timed the two
 *          have sent the same bytes, frame by frame; else there is no figure.
 * Steady   Collections and deoptimisations during the timed part are counted, and the bytes that the
 *          heap grew by.
 * Alone    Measure each case in a process of its own: the fast path is one closure an isolate, and a
 *          second one would have V8 compile code that serves both.
 */
export interface MemoryResult extends SteadyResult {
  /** The reference's, in the same rounds. */
  readonly referenceNs: readonly number[];
}

/** A case with IPv6 addresses: what it sent was checked by slow-nat.ts, and there is no reference. */
export interface SteadyResult extends MemoryCase {
  /** Nanoseconds a packet, by round. */
  readonly ns: readonly number[];
  /** Frames whose output was compared with the reference's, or checked, and was right. */
  readonly comparedFrames: number;
  readonly bytesPerPacket: number;
  /** Garbage collections, and deoptimisations, during all timed rounds. */
  readonly collections: number;
  readonly deoptimisations: number;
  /** Bytes of flow table, extensions, index and free list for each flow that they can hold. */
  readonly bytesPerFlow: number;
}

/** Frames of one timed round, at least. */
const FRAMES_MIN = 1_000_000;
/** Frames of a case with fewer flows than that. */
const STORE_FRAMES_MIN = 16 * WINDOW_FRAMES;
/** Passes of one window: so many calls that V8 compiles each function whole, and not a loop of it. */
const WARM_CALLS = 500;
const WARM_FRAMES_MIN = 400_000;
const WARM_TURNS_MAX = 20;

/** Runs frames in windows; the time of loading them is not counted. */
export interface Runner {
  /**
   * @param frames - how many, from the first on; all unless said
   * @returns nanoseconds spent in the fast path
   */
  pass(frames?: number): number;
}

export function createRunner(fast: FastPath, store: FrameStore & { frames: number }): Runner {
  const { device, datapath } = fast;
  // [0]: time spent so far; in an array, so that no number is ever boxed.
  const clock = new Float64Array(1);
  return {
    pass(frames = store.frames) {
      const before = clock[0]!;
      for (let first = 0; first < frames; first += WINDOW_FRAMES) {
        const count = Math.min(WINDOW_FRAMES, frames - first);
        device.load(store, first, count);
        device.setTick((clock[0]! / 1e6) | 0);
        const from = performance.now();
        for (let done = 0; done < count; ) done += datapath.runBatch(0);
        clock[0] = clock[0]! + (performance.now() - from) * 1e6;
      }
      return clock[0]! - before;
    },
  };
}

/** What the fast path sends for every frame of a store. */
export function captureSent(fast: FastPath, store: FrameStore & { frames: number }): Uint8Array {
  const sent = new Uint8Array(store.frames * store.slotBytes);
  fast.resetCounters();
  fast.device.capture = sent;
  for (let first = 0; first < store.frames; first += WINDOW_FRAMES) {
    fast.runWindow(store, first, Math.min(WINDOW_FRAMES, store.frames - first));
  }
  fast.device.capture = null;
  fast.checkForwarded();
  return sent;
}

/**
 * Has V8 write each deoptimisation to a file in a folder, which becomes the working directory (the name
 * is V8's own: code-PID-ISOLATE.asm). The answer says how many there are so far.
 */
function watchDeoptimisations(folder: string): () => number {
  process.chdir(folder);
  setFlagsFromString("--redirect-code-traces");
  setFlagsFromString("--trace-deopt");
  return () =>
    readdirSync(folder)
      .filter((name) => name.endsWith(".asm"))
      .map((name) => readFileSync(path.join(folder, name), "latin1").split("[bailout").length - 1)
      .reduce((sum, count) => sum + count, 0);
}

/** Counts collections that began within spans of time. */
function watchCollections(): { add(from: number, to: number): void; count(): Promise<number> } {
  const spans: [from: number, to: number][] = [];
  const starts: number[] = [];
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) starts.push(entry.startTime);
  });
  observer.observe({ entryTypes: ["gc"] });
  return {
    add: (from, to) => spans.push([from, to]),
    async count() {
      // Entries are given out at the end of a turn.
      await nextTurn();
      await nextTurn();
      observer.disconnect();
      return starts.filter((at) => spans.some(([from, to]) => at >= from && at <= to)).length;
    },
  };
}

/** Bytes that the heap grows by for each frame. */
function allocatedPerFrame(runner: Runner, passes: number, frames: number): number {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const once = (): number => {
    collect();
    const before = process.memoryUsage().heapUsed;
    for (let pass = 0; pass < passes; pass++) runner.pass();
    return (process.memoryUsage().heapUsed - before) / (passes * frames);
  };
  // The least of three: now and then the compiler or the collector work meanwhile.
  return Math.max(0, Math.min(once(), once(), once()));
}

/**
 * Has the sweep for expired flows see every span of time: none, a millisecond, more than its period
 * and less than none. While flows were opened, time stood still; no flow is old enough to end.
 */
function warmSweep({ device, datapath }: FastPath): void {
  for (let turn = 0; turn < 50; turn++) {
    for (const tick of [1, 1, 2, 12, 3000, 3001]) {
      device.setTick(tick);
      datapath.runBatch(0);
    }
  }
}

/**
 * Runs until V8 has nothing to compile anew. Code that it made for a loop while that ran (on-stack
 * replacement) lacks what follows the loop, and V8 leaves it there each time until it has compiled the
 * function itself: that takes calls, and not frames. So many short passes come first, then whole ones
 * until two in a row were without a deoptimisation. What never ends, the timed part counts.
 */
function warmUp(fast: FastPath, runner: Runner, frames: number, deoptimised: () => number): void {
  warmSweep(fast);
  for (let call = 0; call < WARM_CALLS; call++) runner.pass(WINDOW_FRAMES);
  let quiet = 0;
  for (let turn = 0; turn < WARM_TURNS_MAX && quiet < 2; turn++) {
    const before = deoptimised();
    for (let done = 0; done < WARM_FRAMES_MIN; done += frames) runner.pass();
    quiet = deoptimised() === before ? quiet + 1 : 0;
  }
  // A warm-up has some: a count that saw none would prove nothing.
  if (deoptimised() === 0) throw new Error("V8 told of no deoptimisation in the warm-up");
}

export function flowCapacity(flows: number): number {
  return powerOfTwoAtLeast(Math.max(1024, flows));
}

/**
 * Warm up, and measure rounds of at least FRAMES_MIN frames. Forwarded frames were counted from what
 * captureSent() left on.
 *
 * @param between - runs after each round, which had so many passes
 * @throws Error when a frame was not forwarded
 */
async function measureRounds(
  fast: FastPath,
  store: FrameStore & { frames: number },
  rounds: number,
  deoptimised: () => number,
  between: (passes: number) => Promise<void>,
): Promise<Omit<SteadyResult, keyof MemoryCase>> {
  const runner = createRunner(fast, store);
  const collections = watchCollections();
  warmUp(fast, runner, store.frames, deoptimised);
  const passes = Math.ceil(FRAMES_MIN / store.frames);
  let deoptimisations = 0;
  const ns: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const deoptimisedBefore = deoptimised();
    const from = performance.now();
    let spent = 0;
    for (let pass = 0; pass < passes; pass++) spent += runner.pass();
    collections.add(from, performance.now());
    deoptimisations += deoptimised() - deoptimisedBefore;
    ns.push(spent / (passes * store.frames));
    await between(passes);
  }
  const collected = await collections.count();
  const bytesPerPacket = allocatedPerFrame(runner, passes, store.frames);
  fast.checkForwarded();
  const { flows, flowExtensions, flowIndex, flowFree, flowCapacity } = fast.views.layout;
  const tables = flows.bytes + flowExtensions.bytes + flowIndex.bytes + flowFree.bytes;
  return {
    ns,
    comparedFrames: store.frames,
    bytesPerPacket,
    collections: collected,
    deoptimisations,
    bytesPerFlow: tables / flowCapacity,
  };
}

/**
 * Measure one case, in paired rounds with the reference.
 *
 * @throws Error when a frame was not forwarded, or the two do not send the same bytes
 */
export async function measureMemory(one: MemoryCase, rounds: number): Promise<MemoryResult> {
  const folder = mkdtempSync("/dev/shm/headgate-bench-");
  const fast = createFastPath(one, flowCapacity(one.flows));
  try {
    const deoptimised = watchDeoptimisations(folder);
    openFlows(fast, one);
    const store = steadyFrames(fast, one, STORE_FRAMES_MIN, 20_261_125);
    const sent = captureSent(fast, store);
    const input = path.join(folder, "input");
    writeReferenceInput(input, fast.views, store);
    const reference = await startReference(folder, input, sent);
    try {
      // The first message to another process makes V8 drop assumptions, and with them code: before.
      await reference.measure(1);
      const referenceNs: number[] = [];
      const own = await measureRounds(fast, store, rounds, deoptimised, async (passes) => {
        referenceNs.push(await reference.measure(passes));
      });
      return { ...one, ...own, referenceNs };
    } finally {
      await reference.stop();
    }
  } finally {
    fast.close();
    process.chdir("/");
    rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * Measure one case without a reference.
 *
 * @throws Error when a frame was not forwarded, or is not what a NAT sends
 */
export async function measureAlone(one: MemoryCase, rounds: number): Promise<SteadyResult> {
  const folder = mkdtempSync("/dev/shm/headgate-bench-");
  const fast = createFastPath(one, flowCapacity(one.flows));
  try {
    const deoptimised = watchDeoptimisations(folder);
    openFlows(fast, one);
    const store = steadyFrames(fast, one, STORE_FRAMES_MIN, 20_261_125);
    checkSent(store, captureSent(fast, store), one);
    const own = await measureRounds(fast, store, rounds, deoptimised, () => Promise.resolve());
    return { ...one, ...own };
  } finally {
    fast.close();
    process.chdir("/");
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A case of dsr, ipip or gue: the client's half alone, and no reference. */
export interface OneWayResult extends MemoryCase {
  /** Nanoseconds a packet, by round. */
  readonly ns: readonly number[];
  readonly bytesPerPacket: number;
  readonly deoptimisations: number;
}

/** @throws Error when a frame was not forwarded */
export function measureOneWay(one: MemoryCase, rounds: number): OneWayResult {
  const folder = mkdtempSync("/dev/shm/headgate-bench-");
  const fast = createFastPath(one, flowCapacity(one.flows));
  try {
    const deoptimised = watchDeoptimisations(folder);
    openFlows(fast, one);
    const store = steadyFrames(fast, one, STORE_FRAMES_MIN, 20_261_125);
    const runner = createRunner(fast, store);
    fast.resetCounters();
    warmUp(fast, runner, store.frames, deoptimised);
    const passes = Math.ceil(FRAMES_MIN / store.frames);
    const before = deoptimised();
    const ns = Array.from({ length: rounds }, () => {
      let spent = 0;
      for (let pass = 0; pass < passes; pass++) spent += runner.pass();
      return spent / (passes * store.frames);
    });
    const deoptimisations = deoptimised() - before;
    fast.checkForwarded();
    const bytesPerPacket = allocatedPerFrame(runner, passes, store.frames);
    return { ...one, ns, bytesPerPacket, deoptimisations };
  } finally {
    fast.close();
    rmSync(folder, { recursive: true, force: true });
  }
}
