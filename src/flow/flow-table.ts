import { assert } from "../base/assert.ts";
import { EVICT_LOOKS, SWEEP_ROWS_MAX } from "../base/limits.ts";
import { type RegionViews, W_FLOWS_HIGH_WATER, W_FLOWS_USED } from "../state/layout.ts";
import { flowIsSound } from "./check-record.ts";
import { createFlowIndex } from "./flow-index.ts";
import {
  backendSlotOf,
  EXTENSION_WORDS,
  F_BACKEND,
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_EXPIRES,
  F_HOP_MAC_HIGH,
  F_HOP_MAC_LOW,
  F_REPLY_ADDR,
  F_STATE,
  F_VERSION,
  F_VIP_ADDR,
  FLOW_WORDS,
  generationOf,
  hasExtension,
  isOneWay,
  KEY_BY_BACKEND,
  ORIGINAL,
  originalKeyOf,
  REPLY,
  replyKeyOf,
  STATE_CLOSE,
  STATE_FREE,
  STATE_SYN_RECV,
  STATE_SYN_SENT,
  STATE_TIME_WAIT,
  STATE_UDP_ONE_WAY,
} from "./flow-record.ts";

/**
 * The flow table.
 *
 * Theory of operation
 *
 * Rows      One flow is one row of sixteen words (flow-record.ts), a cache line, with both
 *           directions in it. A row is FREE while its F_STATE is 0. Rows below the high-water mark
 *           (W_FLOWS_HIGH_WATER) have been used at least once; the sweep and every reader stop
 *           there.
 * Free list A stack of row numbers in the section flowFree. It needs no depth of its own: every row
 *           below the high-water mark is either used or on the stack, so the depth is
 *           high water - used. Rows are taken from the stack first (the row that was freed last is
 *           still in cache), then from above the high-water mark.
 * Index     Two entries a flow, one a direction: flow-index.ts. An entry is a hint, the record decides.
 *           A one-way flow (dsr, tunnels) has no REPLY, so one entry.
 * Keys      ORIGINAL (protocol, client, VIP, client port << 16 | VIP port), REPLY (protocol,
 *           backend, reply address, backend port << 16 | reply port). All live keys, of both
 *           directions together, differ: no two live flows share a reply tuple (design section 2).
 * Extension Addresses of a flow that has IPv6 ones: a row of the same number in another section, written
 *           between the same two versions (flow-record.ts). Keys have folds of the addresses.
 * Stores    insert() makes the version odd, writes the words, makes the version even, and only then
 *           indexes the row; remove() first makes the state FREE, with one store. A process that
 *           dies between any two stores leaves each row free, whole, or marked by an odd version.
 *           Index, free list, high-water mark and count may be wrong then, so a take-over trusts
 *           none of them: rebuild() makes them from the records.
 * Writers   One: the worker whose shard it is. Readers in other threads (read-flows.ts) use the version.
 * Bounds    Every search looks at two buckets, evict() at EVICT_LOOKS rows, sweep and walk at
 *           SWEEP_ROWS_MAX rows a batch. Full is an answer (INSERT_…), never growth.
 *
 * V8 compiles `i32` and the offsets into the code as constants while there is one closure of
 * createFlowTable() in the isolate: the worker makes exactly one.
 */

export const INSERT_TABLE_FULL = -1;
export const INSERT_INDEX_FULL = -2;
export const INSERT_REPLY_TAKEN = -3;
export const INSERT_ORIGINAL_TAKEN = -4;

/** Answers of walkNext() that are no row. */
export const WALK_PAUSE = -1;
export const WALK_DONE = -2;

/** What rebuild() found. */
export interface RebuildReport {
  /** Flows that live on. */
  readonly kept: number;
  /** Records that were half-written, damaged, or had the key of another. */
  readonly dropped: number;
  /** Sound flows without room in the index. */
  readonly noRoom: number;
}

export interface FlowTable {
  /** The caller fills every word but F_VERSION, then calls insert(). Reused; never cleared here. */
  readonly draft: Int32Array;
  /** The extension of the draft: the caller fills it where the key byte says IPv6. */
  readonly draftExtension: Int32Array;
  /**
   * Find a flow by the addresses and ports of a packet.
   *
   * @param protocol - PROTOCOL_TCP or PROTOCOL_UDP; of an IPv6 packet with KEY_IPV6
   * @param source - source address, int32 in host order; foldAddress6() of an IPv6 one, and who finds
   *   a flow so compares the addresses of its extension
   * @param destination - destination address
   * @param ports - source port << 16 | destination port
   * @returns row << 1 | direction, or -1
   */
  find(protocol: number, source: number, destination: number, ports: number): number;
  /**
   * Say the hash of a key that will be looked for, or opened, next: it is not computed again then.
   *
   * @param hash - flowHash() of the key with the secret of the region
   */
  remember(
    hash: number,
    protocol: number,
    source: number,
    destination: number,
    ports: number,
  ): void;
  /**
   * Find the one of a client's flows (FLAG_BY_BACKEND) that leads to a backend.
   *
   * @param protocol - with KEY_IPV6 where the addresses are IPv6
   * @param backend - F_BACKEND word
   * @returns its row, or -1
   */
  findByBackend(
    protocol: number,
    source: number,
    destination: number,
    ports: number,
    backend: number,
  ): number;
  /**
   * Make the flow of the draft live.
   *
   * @returns its row, or INSERT_TABLE_FULL, INSERT_INDEX_FULL, INSERT_REPLY_TAKEN or
   *   INSERT_ORIGINAL_TAKEN, and then nothing has changed
   */
  insert(): number;
  /**
   * Make the flow of the draft live after insert() has said INSERT_TABLE_FULL and rows were removed:
   * its place in the index has been found already.
   *
   * @returns its row, or INSERT_TABLE_FULL
   */
  insertChosen(): number;
  /**
   * Free a live row.
   *
   * @throws AssertionError when the row is not live: freeing it twice would hand it out twice
   */
  remove(row: number): void;
  /** Index in views.i32 of the first word of a row; F_* are relative to it. */
  word(row: number): number;
  /** The same of the row's extension, X_*; it means something where hasExtension(). */
  extensionWord(row: number): number;
  /** The extension of the flow whose record begins at `flowWord`. */
  extensionOf(flowWord: number): number;
  /**
   * Look at EVICT_LOOKS rows for one that may make room for a new flow: a half-open one (SYN_SENT,
   * SYN_RECV, UDP_ONE_WAY), else a closed one (TIME_WAIT, CLOSE); of several the one that expires
   * first. A flow in any other state is never an answer, also when it has expired.
   *
   * @returns a row, still live (the caller removes it), or -1
   */
  evict(tick: number): number;
  /**
   * The same look in advance, before insert() says that the table is full: evict() answers with what
   * was found. What it takes to remove the flow is then on its way into the cache with what insert()
   * reads.
   */
  prepareEviction(tick: number): void;
  /** Whether every row is used. */
  isFull(): boolean;
  /** Begin the batch's share of the sweep: at most `rows` rows, SWEEP_ROWS_MAX and one round. */
  sweepBegin(rows: number): void;
  /** @returns the next live row whose time is over, or -1 when the share of the batch is done */
  sweepNext(tick: number): number;
  /** The same for live rows that have time left: whoever asks looks at each. */
  sweepNextLive(): number;
  /** Begin a walk over the whole table. */
  walkBegin(): void;
  /**
   * @returns the next live row; WALK_PAUSE after SWEEP_ROWS_MAX rows looked at (go on in the next
   *   batch); WALK_DONE at the end, and again when called after it
   */
  walkNext(): number;
  /**
   * Set the last hop of a live flow. Writes nothing when it is the same.
   *
   * @param macHigh - first four bytes of the MAC, big-endian
   * @param macLowAndInterface - last two bytes << 16 | interface index
   */
  setHop(row: number, macHigh: number, macLowAndInterface: number): void;
  /** Live flows. */
  used(): number;
  /**
   * Make index, free list, high-water mark and count from the records (take-over; cold). Records
   * that are half-written, damaged or twice there become FREE.
   *
   * @param isBackend - whether a slot number and generation (GENERATION_MASK bits) of a record
   *   name a backend slot in use; default: any slot within the layout
   */
  rebuild(isBackend?: (slot: number, generation: number) => boolean): RebuildReport;
}

assert(EXTENSION_WORDS === FLOW_WORDS, "a record and its extension lie equally far into sections");

function isHalfOpen(state: number): boolean {
  return state === STATE_SYN_SENT || state === STATE_SYN_RECV || state === STATE_UDP_ONE_WAY;
}

function isClosed(state: number): boolean {
  return state === STATE_TIME_WAIT || state === STATE_CLOSE;
}

/** The REPLY entry of a flow that has none. */
const NO_ENTRY = -2;

/** Cells of the closure's own state: int32 in an array, so that no counter is ever boxed. */
const CELL_SWEEP_CURSOR = 0;
const CELL_SWEEP_LEFT = 1;
const CELL_WALK_CURSOR = 2;
const CELL_WALK_LEFT = 3;
const CELL_EVICT_CURSOR = 4;
/** What prepareEviction() found, or -1. */
const CELL_VICTIM = 5;
/** The key that was hashed last, and its hash. */
const CELL_KEY_PROTOCOL = 6;
const CELL_KEY_SOURCE = 7;
const CELL_KEY_DESTINATION = 8;
const CELL_KEY_PORTS = 9;
const CELL_KEY_HASH = 10;
/** Where insert() would have put the draft: hashes and entries. */
const CELL_ORIGINAL = 11;
const CELL_REPLY = 12;
const CELL_ORIGINAL_ENTRY = 13;
const CELL_REPLY_ENTRY = 14;
const CELLS = 16;

/**
 * @param views - a region whose H_SECRET is set; the table is used as it is, so a region of
 *   unknown contents needs rebuild() before anything else
 */
export function createFlowTable(views: RegionViews): FlowTable {
  const i32 = views.i32;
  const layout = views.layout;
  const capacity = layout.flowCapacity;
  const flowsWord = layout.flows.at >> 2;
  const freeWord = layout.flowFree.at >> 2;
  const extensionsWord = layout.flowExtensions.at >> 2;
  const usedWord = layout.workerWord + W_FLOWS_USED;
  const highWaterWord = layout.workerWord + W_FLOWS_HIGH_WATER;
  const index = createFlowIndex(views);
  const draft = new Int32Array(FLOW_WORDS);
  const draftExtension = new Int32Array(EXTENSION_WORDS);
  const cells = new Int32Array(CELLS);
  cells[CELL_VICTIM] = -1;
  // No key has this protocol.
  cells[CELL_KEY_PROTOCOL] = -1;

  function remember(
    hash: number,
    protocol: number,
    source: number,
    destination: number,
    ports: number,
  ): void {
    cells[CELL_KEY_PROTOCOL] = protocol;
    cells[CELL_KEY_SOURCE] = source;
    cells[CELL_KEY_DESTINATION] = destination;
    cells[CELL_KEY_PORTS] = ports;
    cells[CELL_KEY_HASH] = hash;
  }

  function isRemembered(
    protocol: number,
    source: number,
    destination: number,
    ports: number,
  ): boolean {
    return (
      cells[CELL_KEY_PORTS] === ports &&
      cells[CELL_KEY_SOURCE] === source &&
      cells[CELL_KEY_DESTINATION] === destination &&
      cells[CELL_KEY_PROTOCOL] === protocol
    );
  }

  function find(protocol: number, source: number, destination: number, ports: number): number {
    if (!isRemembered(protocol, source, destination, ports)) {
      const hash = index.hashOf(protocol, source, destination, ports);
      remember(hash, protocol, source, destination, ports);
    }
    return index.find(cells[CELL_KEY_HASH]!, protocol, source, destination, ports);
  }

  /** Hash of the draft's ORIGINAL key: that of the packet which opens the flow, and was looked for. */
  function draftHash(): number {
    return isRemembered(
      originalKeyOf(draft[F_STATE]!),
      draft[F_CLIENT_ADDR]!,
      draft[F_VIP_ADDR]!,
      draft[F_CLIENT_VIP_PORTS]!,
    )
      ? cells[CELL_KEY_HASH]!
      : index.originalHash(draft, 0);
  }

  function findByBackend(
    protocol: number,
    source: number,
    destination: number,
    ports: number,
    backend: number,
  ): number {
    const key = protocol | KEY_BY_BACKEND;
    const hash = index.hashByBackend(key, source, destination, ports, backend);
    const reference = index.find(hash, key, source, destination, ports);
    if (reference < 0) return -1;
    const row = reference >> 1;
    return i32[flowsWord + row * FLOW_WORDS + F_BACKEND] === backend ? row : -1;
  }

  /** INSERT_…_TAKEN when a live flow, or the record's other direction, has a key of this record. */
  function takenBy(words: Int32Array, at: number, original: number, reply: number): number {
    const state = words[at + F_STATE]!;
    const client = words[at + F_CLIENT_ADDR]!;
    const vip = words[at + F_VIP_ADDR]!;
    const clientVipPorts = words[at + F_CLIENT_VIP_PORTS]!;
    if (index.find(original, originalKeyOf(state), client, vip, clientVipPorts) >= 0) {
      return INSERT_ORIGINAL_TAKEN;
    }
    if (isOneWay(state)) return 0;
    const backend = words[at + F_BACKEND_ADDR]!;
    const replyTo = words[at + F_REPLY_ADDR]!;
    const backendReplyPorts = words[at + F_BACKEND_REPLY_PORTS]!;
    if (index.find(reply, replyKeyOf(state), backend, replyTo, backendReplyPorts) >= 0) {
      return INSERT_REPLY_TAKEN;
    }
    // A client that is the backend, reaching a VIP that is the reply address: one key, two meanings.
    if (backend === client && replyTo === vip && backendReplyPorts === clientVipPorts) {
      return INSERT_REPLY_TAKEN;
    }
    return 0;
  }

  /** The even version that follows; never 0, which says that the row was never used. */
  function nextVersion(odd: number): number {
    const even = (odd + 1) | 0;
    return even === 0 ? 2 : even;
  }

  function takeRow(): number {
    const used = i32[usedWord]!;
    const highWater = i32[highWaterWord]!;
    if (used === capacity) return INSERT_TABLE_FULL;
    i32[usedWord] = used + 1;
    if (highWater > used) return i32[freeWord + highWater - used - 1]!;
    i32[highWaterWord] = highWater + 1;
    return highWater;
  }

  function insert(): number {
    const reply = index.replyHash(draft, 0);
    // Nobody has looked at these before: they come while the ORIGINAL key is sought.
    if (!isOneWay(draft[F_STATE]!)) index.touch(reply);
    const original = draftHash();
    const taken = takenBy(draft, 0, original, reply);
    if (taken !== 0) return taken;
    const originalEntry = index.choose(original, -1);
    if (originalEntry < 0) return INSERT_INDEX_FULL;
    const oneWay = isOneWay(draft[F_STATE]!);
    const replyEntry = oneWay ? NO_ENTRY : index.choose(reply, originalEntry);
    if (replyEntry === -1) return INSERT_INDEX_FULL;
    cells[CELL_ORIGINAL] = original;
    cells[CELL_REPLY] = reply;
    cells[CELL_ORIGINAL_ENTRY] = originalEntry;
    cells[CELL_REPLY_ENTRY] = replyEntry;
    return insertChosen();
  }

  function insertChosen(): number {
    const extended = hasExtension(draft[F_STATE]!);
    assert(!extended || layout.ipv6, "only a region with room for IPv6 has IPv6 flows");
    const replyEntry = cells[CELL_REPLY_ENTRY]!;
    const row = takeRow();
    if (row < 0) return INSERT_TABLE_FULL;
    const at = flowsWord + row * FLOW_WORDS;
    const odd = i32[at + F_VERSION]! | 1;
    Atomics.store(i32, at + F_VERSION, odd);
    for (let word = F_VERSION + 1; word < FLOW_WORDS; word++) i32[at + word] = draft[word]!;
    if (extended) {
      const extension = extensionWord(row);
      for (let word = 0; word < EXTENSION_WORDS; word++) {
        i32[extension + word] = draftExtension[word]!;
      }
    }
    Atomics.store(i32, at + F_VERSION, nextVersion(odd));
    index.write(cells[CELL_ORIGINAL_ENTRY]!, cells[CELL_ORIGINAL]!, (row << 1) | ORIGINAL);
    if (replyEntry !== NO_ENTRY) index.write(replyEntry, cells[CELL_REPLY]!, (row << 1) | REPLY);
    return row;
  }

  function remove(row: number): void {
    const at = flowsWord + row * FLOW_WORDS;
    assert((i32[at + F_STATE]! & 0xff) !== STATE_FREE, "only a live flow is removed");
    // The hashes need the protocol, which goes with the state.
    const oneWay = isOneWay(i32[at + F_STATE]!);
    const original = index.originalHash(i32, at);
    const reply = index.replyHash(i32, at);
    i32[at + F_STATE] = STATE_FREE;
    index.clear(original, (row << 1) | ORIGINAL);
    if (!oneWay) index.clear(reply, (row << 1) | REPLY);
    const used = i32[usedWord]!;
    i32[freeWord + i32[highWaterWord]! - used] = row;
    i32[usedWord] = used - 1;
  }

  function word(row: number): number {
    return flowsWord + row * FLOW_WORDS;
  }

  function extensionWord(row: number): number {
    return extensionsWord + row * EXTENSION_WORDS;
  }

  function extensionOf(flowWord: number): number {
    // Records and extensions have as many words.
    return extensionsWord + flowWord - flowsWord;
  }

  function isFull(): boolean {
    return i32[usedWord] === capacity;
  }

  function prepareEviction(tick: number): void {
    const victim = seekVictim(tick);
    cells[CELL_VICTIM] = victim;
    if (victim < 0) return;
    const at = flowsWord + victim * FLOW_WORDS;
    index.touchFirst(index.originalHash(i32, at));
    index.touchFirst(index.replyHash(i32, at));
  }

  function evict(tick: number): number {
    const prepared = cells[CELL_VICTIM]!;
    cells[CELL_VICTIM] = -1;
    if (prepared < 0) return seekVictim(tick);
    const state = i32[flowsWord + prepared * FLOW_WORDS + F_STATE]! & 0xff;
    return isHalfOpen(state) || isClosed(state) ? prepared : seekVictim(tick);
  }

  function seekVictim(tick: number): number {
    const highWater = i32[highWaterWord]!;
    let cursor = cells[CELL_EVICT_CURSOR]!;
    let halfOpen = -1;
    let halfOpenLeft = 0;
    let closed = -1;
    let closedLeft = 0;
    const looks = Math.min(highWater, EVICT_LOOKS);
    for (let look = 0; look < looks; look++) {
      if (cursor >= highWater) cursor = 0;
      const row = cursor++;
      const at = flowsWord + row * FLOW_WORDS;
      const state = i32[at + F_STATE]! & 0xff;
      const left = (i32[at + F_EXPIRES]! - tick) | 0;
      if (isHalfOpen(state)) {
        if (halfOpen < 0 || left < halfOpenLeft) {
          halfOpen = row;
          halfOpenLeft = left;
        }
      } else if (isClosed(state)) {
        if (closed < 0 || left < closedLeft) {
          closed = row;
          closedLeft = left;
        }
      }
    }
    cells[CELL_EVICT_CURSOR] = cursor;
    return halfOpen >= 0 ? halfOpen : closed;
  }

  function sweepBegin(rows: number): void {
    const highWater = i32[highWaterWord]!;
    const most = Math.min(highWater, SWEEP_ROWS_MAX);
    cells[CELL_SWEEP_LEFT] = Math.min(rows, most);
  }

  function sweepNext(tick: number): number {
    const highWater = i32[highWaterWord]!;
    let cursor = cells[CELL_SWEEP_CURSOR]!;
    let left = cells[CELL_SWEEP_LEFT]!;
    let found = -1;
    while (left > 0 && found < 0) {
      if (cursor >= highWater) cursor = 0;
      const at = flowsWord + cursor * FLOW_WORDS;
      if ((i32[at + F_STATE]! & 0xff) !== STATE_FREE && ((i32[at + F_EXPIRES]! - tick) | 0) <= 0) {
        found = cursor;
      }
      cursor++;
      left--;
    }
    cells[CELL_SWEEP_CURSOR] = cursor;
    cells[CELL_SWEEP_LEFT] = left;
    return found;
  }

  function sweepNextLive(): number {
    const highWater = i32[highWaterWord]!;
    let cursor = cells[CELL_SWEEP_CURSOR]!;
    let left = cells[CELL_SWEEP_LEFT]!;
    let found = -1;
    while (left > 0 && found < 0) {
      if (cursor >= highWater) cursor = 0;
      if ((i32[flowsWord + cursor * FLOW_WORDS + F_STATE]! & 0xff) !== STATE_FREE) found = cursor;
      cursor++;
      left--;
    }
    cells[CELL_SWEEP_CURSOR] = cursor;
    cells[CELL_SWEEP_LEFT] = left;
    return found;
  }

  function walkBegin(): void {
    cells[CELL_WALK_CURSOR] = 0;
    cells[CELL_WALK_LEFT] = SWEEP_ROWS_MAX;
  }

  function walkNext(): number {
    const highWater = i32[highWaterWord]!;
    let cursor = cells[CELL_WALK_CURSOR]!;
    let left = cells[CELL_WALK_LEFT]!;
    let found = WALK_DONE;
    while (cursor < highWater && found === WALK_DONE) {
      if (left === 0) {
        found = WALK_PAUSE;
      } else {
        if ((i32[flowsWord + cursor * FLOW_WORDS + F_STATE]! & 0xff) !== STATE_FREE) found = cursor;
        cursor++;
        left--;
      }
    }
    cells[CELL_WALK_CURSOR] = cursor;
    cells[CELL_WALK_LEFT] = found === WALK_PAUSE ? SWEEP_ROWS_MAX : left;
    return found;
  }

  function setHop(row: number, macHigh: number, macLowAndInterface: number): void {
    const at = flowsWord + row * FLOW_WORDS;
    if (i32[at + F_HOP_MAC_HIGH] === macHigh && i32[at + F_HOP_MAC_LOW] === macLowAndInterface) {
      return;
    }
    const odd = i32[at + F_VERSION]! | 1;
    Atomics.store(i32, at + F_VERSION, odd);
    i32[at + F_HOP_MAC_HIGH] = macHigh;
    i32[at + F_HOP_MAC_LOW] = macLowAndInterface;
    Atomics.store(i32, at + F_VERSION, nextVersion(odd));
  }

  function used(): number {
    return i32[usedWord]!;
  }

  /** Whether a row may stay, and if so its index entries are made. Cold. */
  function reindex(
    row: number,
    isBackend: (slot: number, generation: number) => boolean,
  ): "kept" | "damaged" | "noRoom" {
    const at = flowsWord + row * FLOW_WORDS;
    if (!flowIsSound(views, at, extensionWord(row))) return "damaged";
    const backend = i32[at + F_BACKEND]!;
    if (!isBackend(backendSlotOf(backend), generationOf(backend))) return "damaged";
    const original = index.originalHash(i32, at);
    const reply = index.replyHash(i32, at);
    // The row itself is not indexed yet, so whoever has its key is another.
    if (takenBy(i32, at, original, reply) !== 0) return "damaged";
    const originalEntry = index.choose(original, -1);
    if (originalEntry < 0) return "noRoom";
    const oneWay = isOneWay(i32[at + F_STATE]!);
    const replyEntry = oneWay ? NO_ENTRY : index.choose(reply, originalEntry);
    if (replyEntry === -1) return "noRoom";
    index.write(originalEntry, original, (row << 1) | ORIGINAL);
    if (!oneWay) index.write(replyEntry, reply, (row << 1) | REPLY);
    return "kept";
  }

  function rebuild(
    isBackend: (slot: number, generation: number) => boolean = (slot) => slot < layout.backends,
  ): RebuildReport {
    index.clearAll();
    cells.fill(0);
    let kept = 0;
    let dropped = 0;
    let noRoom = 0;
    let highWater = 0;
    for (let row = 0; row < capacity; row++) {
      const at = flowsWord + row * FLOW_WORDS;
      const version = i32[at + F_VERSION]!;
      if ((version & 1) === 0 && i32[at + F_STATE] === STATE_FREE) continue;
      const fate = reindex(row, isBackend);
      if (fate === "kept") {
        kept++;
        highWater = row + 1;
        continue;
      }
      if (fate === "noRoom") noRoom++;
      else dropped++;
      // FREE first: with an even version and the old state it would be followed.
      i32[at + F_STATE] = STATE_FREE;
      if ((version & 1) !== 0) i32[at + F_VERSION] = nextVersion(version);
    }
    // Lowest rows on top, so that live rows stay dense and the sweep short.
    let depth = 0;
    for (let row = highWater - 1; row >= 0; row--) {
      if (i32[flowsWord + row * FLOW_WORDS + F_STATE] === STATE_FREE) {
        i32[freeWord + depth++] = row;
      }
    }
    assert(depth === highWater - kept, "every row below the mark is used or on the stack");
    i32[highWaterWord] = highWater;
    i32[usedWord] = kept;
    return { kept, dropped, noRoom };
  }

  return {
    draft,
    draftExtension,
    extensionWord,
    extensionOf,
    remember,
    find,
    findByBackend,
    insert,
    insertChosen,
    remove,
    word,
    evict,
    prepareEviction,
    isFull,
    sweepBegin,
    sweepNext,
    sweepNextLive,
    walkBegin,
    walkNext,
    setHop,
    used,
    rebuild,
  };
}
