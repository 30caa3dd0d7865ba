import { createRandom, type Random } from "../../src/base/random.ts";
import { VNET_GSO_NONE } from "../../src/device/device.ts";
import type { SentFrame } from "../../src/device/memory.ts";
import type { MemoryGateway } from "../support/memory-gateway.ts";
import { repairChecksums, type WireKind, wireFaults } from "../support/wire-check.ts";
import { answerTo } from "./answers.ts";
import { FAMILIES, type Seed } from "./corpus.ts";
import { mutateFrame } from "./mutators.ts";
import { createWorld, GUE_PORT, MTU, type World } from "./worlds.ts";

/**
 * Broken frames through the whole data path.
 *
 * A run is a list of batches; a batch is a tick and frames. Frames come from the corpus, changed, and
 * from the gateway itself: what it sent is answered as its receiver would, so that flows of every
 * kind grow old under the mutations. After each batch these hold, or the run has failed:
 *
 *   - nothing threw, and the verdict law is exact;
 *   - as many frames were counted as came in;
 *   - the IP header of what was sent has a right checksum, and every other checksum in it is right
 *     unless one of that kind was wrong in a frame of the batch;
 *   - nothing that was sent is larger than the MTU of its interface, nor a segment of it.
 *
 * A run is all that a failure needs: the same batches into a new gateway fail again.
 */
export interface RunFrame {
  readonly interface: number;
  readonly worker: number;
  readonly vnet: number;
  readonly csum: number;
  readonly bytes: Uint8Array;
}

export interface RunBatch {
  readonly afterMs: number;
  readonly frames: readonly RunFrame[];
}

/** Breaks a frame that was sent, as a defect of the gateway would: for the canary. */
export type Spoiler = (sent: SentFrame) => void;

/** Sums over runs. */
export interface Tally {
  frames: number;
  sent: number;
  batches: number;
  readonly counters: Record<string, number>;
}

export interface DatapathFailure {
  readonly world: World;
  readonly batches: readonly RunBatch[];
  readonly error: Error;
  readonly spoil?: Spoiler | undefined;
}

/** Batches until the gateway is made anew. */
const RUN_BATCHES = 400;
const BATCH_FRAMES = 24;
const RECENT = 64;
/** An IPv6 and a UDP header. */
const TUNNEL_BYTES_MAX = 48;

/** Milliseconds between batches, now and then: long enough for every timeout. */
const PAUSES_MS = [300, 2_500, 11_000, 31_000, 130_000, 310_000];

let corpus: readonly (readonly Seed[])[] | null = null;

/** The families' frames, built once; a family is there as often as it weighs. */
function seeds(): readonly (readonly Seed[])[] {
  corpus ??= FAMILIES.flatMap(([, build, weight = 1]) => {
    const frames = build();
    return Array.from({ length: weight }, () => frames);
  });
  return corpus;
}

function kindOf(world: World, vnet: number, csum: number): WireKind {
  return { link: world.link, vnet, csum, silentPartial: world.asXdp, guePort: GUE_PORT };
}

/** One gateway, its clock, and what the law says of each batch. */
export class DatapathRun {
  readonly world: World;
  readonly gateway: MemoryGateway;
  #now = 1_000_000;
  #received = 0;

  readonly #spoil: Spoiler | undefined;

  constructor(world: World, spoil?: Spoiler) {
    this.world = world;
    this.#spoil = spoil;
    this.gateway = createWorld(world);
  }

  /** @throws Error when something does not hold. @returns what was sent */
  batch({ afterMs, frames }: RunBatch): SentFrame[] {
    const { gateway, world } = this;
    this.#now = (this.#now + afterMs) | 0;
    for (const { device } of gateway.workers) {
      device.setTick(this.#now);
      device.sent.length = 0;
    }
    const allowed = new Set<string>();
    for (const frame of frames) {
      for (const fault of wireFaults(frame.bytes, kindOf(world, frame.vnet, frame.csum))) {
        allowed.add(fault);
      }
      const { device } = gateway.workers[frame.worker]!;
      device.inject(frame.bytes, frame.interface, frame);
    }
    this.#received += frames.length;
    if (world.workers === 1) gateway.datapath.runBatch(0);
    else gateway.settle();
    gateway.checkLaw();
    const sent = gateway.workers.flatMap(({ device }) => device.sent);
    if (this.#spoil !== undefined) sent.forEach(this.#spoil);
    for (const one of sent) this.#check(one, frames, allowed);
    return sent;
  }

  /** At the end of a run: every frame that came in was counted. */
  finish(): Record<string, number> {
    const counters = this.gateway.counters();
    if (counters["received"] !== this.#received) {
      throw new Error(`${this.#received} frames came in, ${counters["received"]} were counted`);
    }
    this.gateway.close();
    return counters;
  }

  #check(sent: SentFrame, frames: readonly RunFrame[], allowed: ReadonlySet<string>): void {
    const { world } = this;
    // What is passed on TUN is given back as it came, whatever it is.
    if (world.link === 0 && frames.some((frame) => isSame(frame.bytes, sent.bytes))) return;
    for (const fault of wireFaults(sent.bytes, kindOf(world, sent.vnet, sent.csum))) {
      if (fault === "IPv4 header checksum" || !allowed.has(fault)) {
        throw new Error(`sent with a fault: ${fault}: ${hex(sent.bytes)}`);
      }
    }
    const mtu = world.link === 0 ? tunLimit(frames) : MTU[sent.interface as 0 | 1];
    const bytes = sent.bytes.length - world.link;
    const isGso = ((sent.vnet >>> 8) & 0x7f) !== VNET_GSO_NONE;
    const size = isGso ? segmentBytes(sent, world.link) : bytes;
    if (size > mtu) throw new Error(`${size} bytes over an MTU of ${mtu}: ${hex(sent.bytes)}`);
  }
}

/**
 * The kernel takes what is written to a TUN device, knows the MTU of its own way on, and splits a packet
 * or tells its source: there nothing may be larger than it came, but for a tunnel's headers.
 */
function tunLimit(frames: readonly RunFrame[]): number {
  return TUNNEL_BYTES_MAX + Math.max(1500, ...frames.map((frame) => frame.bytes.length));
}

function isSame(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && Buffer.compare(one, other) === 0;
}

/** Bytes of the largest segment that a GSO packet becomes, from its IP header on. */
function segmentBytes({ bytes, vnet }: SentFrame, link: number): number {
  const version = bytes[link]! >> 4;
  const l4At = version === 4 ? link + (bytes[link]! & 15) * 4 : link + 40;
  const isTcp = ((vnet >>> 8) & 0x7f) !== 5;
  const headers = l4At - link + (isTcp ? (bytes[l4At + 12]! >> 4) * 4 : 8);
  return Math.min(bytes.length - link, headers + (vnet >>> 16));
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.subarray(0, 120)).toString("hex");
}

/** Draws the frames of a run. */
class Source {
  readonly #world: World;
  readonly #random: Random;
  /** The last frames that the gateway sent. */
  readonly #recent: SentFrame[] = [];

  constructor(world: World, random: Random) {
    this.#world = world;
    this.#random = random;
  }

  saw(batch: RunBatch, sent: readonly SentFrame[]): void {
    for (const one of sent) {
      // What was passed on TUN is as it came; nobody has an answer to it that leads anywhere.
      if (this.#world.link === 0 && batch.frames.some(({ bytes }) => isSame(bytes, one.bytes))) {
        continue;
      }
      if (this.#recent.length < RECENT) this.#recent.push(one);
      else this.#recent[this.#random.below(RECENT)] = one;
    }
  }

  batch(): RunBatch {
    const random = this.#random;
    // In half of the batches all checksums are right: then no fault at all may come out.
    const repair = random.below(2) === 0;
    const count = 1 + random.below(BATCH_FRAMES);
    const frames = Array.from({ length: count }, () => this.#frame(repair));
    const afterMs = random.below(16) === 0 ? pick(random, PAUSES_MS) : random.below(20);
    return { afterMs, frames };
  }

  #frame(repair: boolean): RunFrame {
    const random = this.#random;
    const { link, workers } = this.#world;
    const seed = this.#seed();
    let { vnet, csum } = seed;
    let bytes = seed.frame;
    if (random.below(8) >= 3) {
      const other = pick(random, pick(random, seeds())).frame;
      bytes = mutateFrame(bytes, other, random);
      if (random.below(16) === 0) vnet ^= 1 << random.below(32);
      if (random.below(16) === 0) csum ^= 1 << random.below(32);
    } else {
      bytes = bytes.slice();
    }
    if (link === 0) {
      bytes = bytes.length > 14 ? bytes.slice(14) : bytes;
      csum = (csum & ~0xffff) | Math.max(0, (csum & 0xffff) - 14);
    }
    if (repair) repairChecksums(bytes, kindOf(this.#world, vnet, csum));
    const worker = workers === 1 ? 0 : random.below(workers);
    return { interface: link === 0 ? 0 : seed.interface, worker, vnet, csum, bytes };
  }

  #seed(): Seed {
    const random = this.#random;
    if (this.#recent.length > 0 && random.below(2) === 0) {
      const answer = answerTo(pick(random, this.#recent), this.#world.link, random);
      if (answer !== null) return answer;
    }
    return pick(random, pick(random, seeds()));
  }
}

function pick<T>(random: Random, list: readonly T[]): T {
  return list[random.below(list.length)]!;
}

/**
 * Send at least `frames` frames through gateways of one world.
 *
 * @returns the failure, or null; `tally` has the sums
 */
export function fuzzDatapath(
  world: World,
  seed: number,
  frames: number,
  tally: Tally,
  untilMs = Number.POSITIVE_INFINITY,
  spoil?: Spoiler,
): DatapathFailure | null {
  const random = createRandom(seed);
  for (let done = 0; done < frames && performance.now() < untilMs; ) {
    const run = new DatapathRun(world, spoil);
    const source = new Source(world, random);
    const batches: RunBatch[] = [];
    try {
      while (batches.length < RUN_BATCHES && done < frames) {
        const batch = source.batch();
        batches.push(batch);
        const sent = run.batch(batch);
        source.saw(batch, sent);
        done += batch.frames.length;
        tally.frames += batch.frames.length;
        tally.sent += sent.length;
        tally.batches++;
      }
      const counters = run.finish();
      for (const [name, count] of Object.entries(counters)) {
        tally.counters[name] = (tally.counters[name] ?? 0) + count;
      }
    } catch (error) {
      return { world, batches, error: error as Error, spoil };
    }
  }
  return null;
}
