import { StateError } from "../base/errors.ts";
import { OWNER_PORT_COUNTS } from "../flow/owner.ts";
import {
  type AffinityCounts,
  moveAffinity,
  NO_AFFINITY,
  takeOverAffinity,
} from "./affinity-take-over.ts";
import { examineHeader, layoutHash, writeHeader } from "./header.ts";
import {
  H_DEATHS,
  H_FLOWS_SCATTERED,
  H_LAYOUT_HASH,
  H_MAGIC,
  H_OWNER_HOST_BITS,
  H_OWNER_PID,
  H_OWNER_PORT_MASK,
  H_READY,
  H_RUN,
  H_RUN_WORDS,
  H_RUN_WORDS_END,
  H_SECRET,
  H_STARTED_TICK,
  MAGIC,
  planRegion,
  type RegionLayout,
  type RegionSize,
  type RegionViews,
  RUN_BEGUN,
  RUN_ENDED,
  RUN_PROVEN,
  type Section,
  viewRegion,
  WORKER_WORDS,
} from "./layout.ts";
import type { MappedRegion, RegionFile, RegionMapper } from "./mapper.ts";
import { hasScatteredFlows, moveFlows, type TakeOverCounts, takeOverFlows } from "./take-over.ts";

/**
 * The region's file: made new, or taken over from the process that had it before (design 1.3, 1.4).
 *
 * Theory of operation
 *
 * Made      Pages are allocated (zero), the header is written, H_READY is stored last. A file that
 *           is not ready, or has nothing but zeros in it, is the work of a process that died while
 *           it made the file: it is made anew.
 * Refused   A file without our magic may be anybody's, and one of another layout version may hold
 *           flows of another release: neither is touched, and a StateError says what to do.
 * Set aside A file with our magic and version but a header that contradicts itself, and a file on
 *           which processes keep dying, is renamed to PATH.bad-TIME; a new one is made.
 * Deaths    H_RUN is RUN_BEGUN from the take-over on, before any record is looked at, until
 *           markProven() or markClean(). So who finds it knows that its predecessor died before the
 *           file had proved good, also when the take-over itself was what killed it. The ticks of
 *           the last two such finds are kept in H_DEATHS. A gateway that was killed from outside
 *           after that has done the file no wrong, however often it happens; one that fails by
 *           itself says so (markDoubtful) before it ends.
 * Resized   With other capacities, another number of workers, or where another worker would own a
 *           flow, a new region is made at PATH.new, filled, made ready, and renamed
 *           over PATH. Until that rename the old file is as it was.
 * Lock      Held with the file (RegionFile), by one process; each other thread of it attaches.
 */

/** Two deaths within this time set a file aside (design 1.4). */
export const DEATH_WINDOW_MS = 60_000;

export interface RegionOptions {
  /** Absolute path on tmpfs; its folder exists. */
  readonly path: string;
  readonly size: RegionSize;
  /** CLOCK_MONOTONIC, ms, as int32. */
  readonly tick: number;
  /** Bits of the client's port that decide which worker has a flow; default: all. */
  readonly ownerPortMask?: number;
  /** Bits at the end of a client's address that do not (flow/owner.ts); default: none. */
  readonly ownerHostBits?: number;
  /** Random bytes for the secret of the flow hash. */
  readonly random: (bytes: number) => Uint8Array;
  /** Owner written into the header; default: this process. */
  readonly processId?: number;
  /** Time of day, for the name of a file set aside. */
  readonly now?: () => Date;
  /** Default DEATH_WINDOW_MS; 0: a file is never set aside for deaths. */
  readonly deathWindowMs?: number;
}

export interface TakeOverReport extends TakeOverCounts, AffinityCounts {
  /** `new`: there was nothing to take over; `resized`: taken over into other capacities. */
  readonly kind: "new" | "taken-over" | "resized";
  /** Process that had the file before; 0: none. */
  readonly previousProcessId: number;
  /** False when that process died. */
  readonly previousClean: boolean;
  /** A file that was not taken over: where it is now, and why, as a clause. */
  readonly setAside: { readonly path: string; readonly reason: string } | null;
}

export interface Region {
  readonly views: RegionViews;
  readonly file: RegionFile;
  readonly path: string;
  readonly report: TakeOverReport;
  /** Say that the gateway works on this file: a death from here on is not the file's fault. */
  markProven(): void;
  /** Take that back: the gateway is about to end by a defect of its own. */
  markDoubtful(): void;
  /** Say that the process ends in order: the last store into the region. */
  markClean(): void;
  /** Unmap, and give lock and descriptor back. The views are empty afterwards. Twice is fine. */
  close(): void;
}

/**
 * Where the state lies when the configuration does not say.
 *
 * @param isTmpfs - whether a folder is on tmpfs
 */
export function defaultStateFile(isTmpfs: (folder: string) => boolean): string {
  return isTmpfs("/run") ? "/run/headgate/state" : "/dev/shm/headgate/state";
}

/**
 * Open the state file of a gateway: make it, or take it over.
 *
 * @throws StateError - not on tmpfs, no room, not a state file, another layout version
 * @throws AlreadyRunningError - another process has it
 */
export function openRegion(mapper: RegionMapper, options: RegionOptions): Region {
  const { path } = options;
  const held: Held = { file: mapper.open(path), mapped: null };
  try {
    if (!held.file.onTmpfs) {
      throw new StateError(
        `state file ${path}: expected a file on tmpfs, where no store waits for a disk; ` +
          "set flows.stateFile to a path such as /run/headgate/state or /dev/shm/headgate/state",
      );
    }
    if (held.file.bytesAtOpen === 0) return makeNew(held, options, null);
    return openExisting(mapper, held, options);
  } catch (error) {
    release(held);
    throw error;
  }
}

/**
 * Map the region that openRegion() of this process has opened (worker threads).
 *
 * @param worker - whose shard `views.layout` names
 * @throws StateError - the file is not the ready region of this size
 */
export function attachRegion(
  mapper: RegionMapper,
  path: string,
  size: RegionSize,
  worker: number,
): { readonly views: RegionViews; close(): void } {
  const layout = planRegion(size);
  const mapped = mapper.attach(path, touchedParts(layout, worker));
  const words = new Int32Array(mapped.buffer, 0, mapped.buffer.byteLength >> 2);
  const isOurs =
    mapped.buffer.byteLength >= layout.bytes &&
    words[H_MAGIC] === MAGIC &&
    words[H_READY] === 1 &&
    words[H_LAYOUT_HASH] === layoutHash(layout);
  if (!isOurs) {
    mapped.close();
    throw new StateError(
      `state file ${path}: expected the region that this gateway has opened; ` +
        "something else has replaced the file: stop the gateway and start it again",
    );
  }
  return { views: viewRegion(mapped.buffer, layout, worker), close: () => mapped.close() };
}

/**
 * What a worker uses: its shard, and what is shared but for the tables of banks and the access lists.
 * These it only reads, and they have room for far more than most gateways need: their pages are
 * mapped, some at a time, as they are looked at.
 */
function touchedParts(layout: RegionLayout, worker: number): Section[] {
  const { banks, handover, hashSlots, shards } = layout;
  const shard = shards[worker]!;
  const shardEnd = shards[worker + 1]?.workerHeader.at ?? layout.bytes;
  const listsBytes = banks[0].bytes - hashSlots * 2;
  return [
    { at: 0, bytes: banks[0].at + listsBytes },
    { at: banks[1].at, bytes: listsBytes },
    handover,
    { at: shard.workerHeader.at, bytes: shardEnd - shard.workerHeader.at },
  ].filter(({ bytes }) => bytes > 0);
}

/** What an error must give back. */
interface Held {
  file: RegionFile;
  mapped: MappedRegion | null;
}

function release(held: Held): void {
  held.mapped?.close();
  held.mapped = null;
  held.file.close();
}

function openExisting(mapper: RegionMapper, held: Held, options: RegionOptions): Region {
  const { path } = options;
  // A file that was being made may lack pages, and touching one could then end the process.
  held.file.allocate(held.file.bytesAtOpen);
  held.mapped = held.file.map();
  const found = examineHeader(held.mapped.buffer, path);
  if (found.kind === "unfinished") {
    held.mapped.close();
    held.mapped = null;
    return makeNew(held, options, null);
  }
  if (found.kind === "damaged") return setAside(mapper, held, options, found.reason);
  const old = viewRegion(held.mapped.buffer, found.layout);
  const previousProcessId = old.i32[H_OWNER_PID]!;
  const previousClean = old.i32[H_RUN] === RUN_ENDED;
  if (recordStart(old, options)) {
    const seconds = (options.deathWindowMs ?? DEATH_WINDOW_MS) / 1000;
    const reason = `two processes died on it within ${seconds} s`;
    return setAside(mapper, held, options, reason);
  }
  const previous = { previousProcessId, previousClean, setAside: null };
  const isSameOwner =
    found.layout.workers === 1 ||
    (old.i32[H_OWNER_PORT_MASK] === portMaskOf(options) &&
      old.i32[H_OWNER_HOST_BITS] === (options.ownerHostBits ?? 0));
  if (isSameSize(found.layout.size, options.size) && isSameOwner) {
    clearRunWords(old);
    const counts = { ...takeOverFlows(old), ...takeOverAffinity(old, options.tick) };
    old.i32[H_FLOWS_SCATTERED] = hasScatteredFlows(old) ? 1 : 0;
    writeOwner(old, options);
    return region(held, old, path, { kind: "taken-over", ...counts, ...previous });
  }
  return resize(mapper, held, old, options, previous);
}

function isSameSize(a: RegionSize, b: RegionSize): boolean {
  return (
    a.flowCapacity === b.flowCapacity &&
    a.services === b.services &&
    a.backends === b.backends &&
    a.hashSlots === b.hashSlots &&
    a.workers === b.workers &&
    (a.accessPrefixes ?? 0) === (b.accessPrefixes ?? 0) &&
    (a.sources ?? 0) === (b.sources ?? 0) &&
    (a.splices ?? 0) === (b.splices ?? 0) &&
    (a.affinity ?? 0) === (b.affinity ?? 0) &&
    (a.ipv6 ?? false) === (b.ipv6 ?? false)
  );
}

/**
 * Note that a process begins to use the file, and whether the one before it may have died of it.
 *
 * @returns whether two deaths lie within the window
 */
function recordStart(views: RegionViews, options: RegionOptions): boolean {
  const { i32 } = views;
  const died = i32[H_RUN] === RUN_BEGUN;
  i32[H_RUN] = RUN_BEGUN;
  if (!died) return false;
  const before = i32[H_DEATHS]!;
  const tick = options.tick === 0 ? 1 : options.tick; // 0 says: none
  i32[H_DEATHS + 1] = before;
  i32[H_DEATHS] = tick;
  const apart = (tick - before) | 0;
  return before !== 0 && apart >= 0 && apart < (options.deathWindowMs ?? DEATH_WINDOW_MS);
}

/** Move the file out of the way and go on with a new one. */
function setAside(
  mapper: RegionMapper,
  held: Held,
  options: RegionOptions,
  reason: string,
): Region {
  const time = (options.now?.() ?? new Date()).toISOString().replaceAll(/[-:]|\.\d+/g, "");
  const path = `${options.path}.bad-${time}`;
  held.mapped?.close();
  held.mapped = null;
  held.file.rename(path);
  held.file.close();
  held.file = mapper.open(options.path);
  return makeNew(held, options, { path, reason });
}

function makeNew(held: Held, options: RegionOptions, setAside: TakeOverReport["setAside"]): Region {
  const views = makeRegion(held, options, null);
  writeOwner(views, options);
  Atomics.store(views.i32, H_READY, 1);
  return region(held, views, options.path, {
    kind: "new",
    flowsKept: 0,
    flowsDropped: 0,
    flowsNoRoom: 0,
    slotsDropped: 0,
    ...NO_AFFINITY,
    previousProcessId: 0,
    previousClean: true,
    setAside,
  });
}

function resize(
  mapper: RegionMapper,
  held: Held,
  old: RegionViews,
  options: RegionOptions,
  previous: Pick<TakeOverReport, "previousProcessId" | "previousClean" | "setAside">,
): Region {
  const next: Held = { file: mapper.open(`${options.path}.new`), mapped: null };
  try {
    const views = makeRegion(next, options, old);
    const affinity = moveAffinity(old, views, options.tick);
    const counts = { ...moveFlows(old, views, affinity.carry), ...affinity.counts };
    affinity.finish();
    views.i32[H_FLOWS_SCATTERED] = hasScatteredFlows(views) ? 1 : 0;
    writeOwner(views, options);
    Atomics.store(views.i32, H_READY, 1);
    next.file.rename(options.path);
    release(held);
    return region(next, views, options.path, { kind: "resized", ...counts, ...previous });
  } catch (error) {
    release(next);
    throw error;
  }
}

/** Allocate, clear and map the file, and write its header but for H_READY. */
function makeRegion(held: Held, options: RegionOptions, old: RegionViews | null): RegionViews {
  const layout = planRegion(options.size);
  held.file.allocate(layout.bytes);
  held.mapped = held.file.map();
  const views = viewRegion(held.mapped.buffer, layout);
  const { i32 } = views;
  if (held.file.bytesAtOpen > 0) {
    i32[H_READY] = 0;
    views.u8.fill(0);
  }
  writeHeader(i32, layout);
  i32[H_OWNER_PORT_MASK] = portMaskOf(options);
  i32[H_OWNER_HOST_BITS] = options.ownerHostBits ?? 0;
  if (old === null) {
    views.u8.set(options.random(8).subarray(0, 8), H_SECRET * 4);
  } else {
    for (const word of [H_SECRET, H_SECRET + 1, H_DEATHS, H_DEATHS + 1]) i32[word] = old.i32[word]!;
  }
  return views;
}

/** Words of the headers that belong to the process that was. */
function clearRunWords({ i32, layout }: RegionViews): void {
  i32.fill(0, H_RUN_WORDS, H_RUN_WORDS_END);
  for (const { workerWord } of layout.shards) i32.fill(0, workerWord, workerWord + WORKER_WORDS);
  i32.fill(0, layout.handover.at >> 2, (layout.handover.at + layout.handover.bytes) >> 2);
}

function portMaskOf(options: RegionOptions): number {
  return options.ownerPortMask ?? OWNER_PORT_COUNTS;
}

function writeOwner(views: RegionViews, options: RegionOptions): void {
  views.i32[H_OWNER_PID] = options.processId ?? process.pid;
  views.i32[H_STARTED_TICK] = options.tick;
  views.i32[H_RUN] = RUN_BEGUN;
  views.i32[H_OWNER_PORT_MASK] = portMaskOf(options);
  views.i32[H_OWNER_HOST_BITS] = options.ownerHostBits ?? 0;
}

function region(held: Held, views: RegionViews, path: string, report: TakeOverReport): Region {
  return {
    views,
    file: held.file,
    path,
    report,
    markProven() {
      Atomics.store(views.i32, H_RUN, RUN_PROVEN);
    },
    markDoubtful() {
      // After close() the views are empty, and so is the question.
      if (views.i32.length > 0) Atomics.store(views.i32, H_RUN, RUN_BEGUN);
    },
    markClean() {
      Atomics.store(views.i32, H_RUN, RUN_ENDED);
    },
    close() {
      release(held);
    },
  };
}
