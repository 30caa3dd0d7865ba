import { maskWord } from "../base/prefix.ts";
import { H_SECRET, type RegionViews } from "../state/layout.ts";
import {
  AE_ADDRESS_WORD,
  AE_ANSWERED,
  AE_BACKEND,
  AE_BITS,
  AE_CLIENT,
  AE_EXPIRES,
  AE_FLOWS,
  AE_GENERATION_MASK,
  AE_GENERATION_SHIFT,
  AE_GROUP,
  AE_PORT,
  AE_TIMEOUT_MS,
  AE_VERSION,
  AE_WORDS,
  AFFINITY_SET_WORDS,
  AFFINITY_WAYS,
  affinityBits,
  MAPPED_WORD,
} from "./affinity-record.ts";
import { flowHash, foldAddress6 } from "./flow-hash.ts";

/**
 * The affinity table: from a client to the backend that it has (docs/affinity.md).
 *
 * Theory of operation
 *
 * Sets      Sixteen entries and a line of their tags (the key's hash, never 0; 0: free). A client's
 *           entry lies in one of two sets, told by a hash with the region's secret; a new one goes to
 *           the emptier. At the thirteen entries a set that the table is sized for, both are never
 *           full. A search reads two lines of tags and the line of the entry. Nothing is ever moved.
 * Life      An entry is over AE_TIMEOUT_MS after the last of its flows has begun and the last has
 *           ended. Each flow has a word (affinityFlows) that says which entry it counts for, so that
 *           its end finds the entry without a search, and whatever the configuration says by then.
 *           An entry none of whose flows was answered goes with the last of them: SYNs from made-up
 *           addresses leave nothing behind.
 * Full      When both sets are full, the entry that goes is the first there is of: one that is over;
 *           one that was not answered, the oldest; one without live flows, the first to be over. If
 *           all have live flows, the new client gets no entry.
 * Flow word (entry + 1) | the entry's generation << FLOW_GENERATION_SHIFT; 0: none. A flow whose
 *           entry has gone and come again finds another generation, and changes nothing.
 * Stores    As in the flow table: version odd, words, version even; a freed entry first loses its
 *           group. Tags, AE_FLOWS and flow words are made anew by a take-over (state/affinity.ts).
 * Writers   One, the worker whose shard it is. Readers: read-affinity.ts.
 */
export interface AffinityTable {
  /** False: the region has no room for it, and none of the functions may be called. */
  readonly exists: boolean;
  readonly sets: number;
  /** An entry: find() reads its group, bits and client, insert() and move() the rest too. */
  readonly draft: Int32Array;
  /** The draft's client is an IPv4 address; bits behind `bits` (1..32) are cleared. */
  setClient4(client: number, bits: number): void;
  /** The same of the IPv6 address in four words at `from` of `words`; bits 1..128. */
  setClient6(words: Int32Array, from: number, bits: number): void;
  /** @returns first word of the entry that has the draft's group, bits and client, or -1 */
  find(): number;
  /** Whether a place that find() has told still has the draft's entry. */
  isDraft(entry: number): boolean;
  /**
   * Make an entry of the draft, whose key find() has just not found. It has no flow and was not answered.
   *
   * @param mayEvict - false: only where an entry is free
   * @returns its first word, or -1: no room
   */
  insert(tick: number, mayEvict: boolean): number;
  /** Whether insert() has put the last entry into the place of one that was not over. */
  hasEvicted(): boolean;
  /** Give an entry the draft's backend. */
  move(entry: number): void;
  free(entry: number): void;
  /** The entry is over: it has no flow, and its time is up. */
  isOver(entry: number, tick: number): boolean;
  /** Count a flow for an entry. A flow that counts for one stays with it. */
  attach(row: number, entry: number): void;
  /** The flow ends. */
  detach(row: number, tick: number): void;
  /** The entry may outlast its flows. */
  setAnswered(entry: number): void;
  /** The flow was answered. */
  answered(row: number): void;
  /** Free what is over in `count` sets. @returns the set to go on with */
  sweep(first: number, count: number, tick: number): number;
  /** First word of a set (take-over). */
  setWord(set: number): number;
  /** Whether the draft's key may lie in a set (take-over). */
  isIn(set: number): boolean;
  /** Write the tag of the entry of the draft's key. */
  retag(entry: number): void;
  /** First word of the entry that a flow's word names, or -1: none, or gone. */
  entryOf(flowWord: number): number;
}

/** Makes the hash of a client another one than that of a flow with the same words. */
const AFFINITY_KEY = 0x41464649; // "AFFI"
const GOLDEN = 0x9e3779b1 | 0;
const FLOW_GENERATION_SHIFT = 22;
const FLOW_ENTRY_MASK = (1 << FLOW_GENERATION_SHIFT) - 1;

/** Places of the state: hash of the draft, the victim found so far, its class, 1: it was not over. */
const T_HASH = 0;
const T_VICTIM = 1;
const T_CLASS = 2;
const T_EVICTED = 3;
/** Classes of victims, best last. */
const CLASS_NONE = 0;
const CLASS_IDLE = 1;
const CLASS_UNANSWERED = 2;
const CLASS_OVER = 3;

/** @param views - of the worker whose table it is; H_SECRET is set */
export function createAffinityTable(views: RegionViews): AffinityTable {
  const { i32, layout } = views;
  const sets = layout.affinitySets;
  const base = layout.affinity.at >> 2;
  const flowWords = layout.affinityFlows.at >> 2;
  const mask = sets - 1;
  const shift = sets > 1 ? Math.clz32(mask) : 31;
  const draft = new Int32Array(AE_WORDS);
  const state = new Int32Array(4);

  function setClient4(client: number, bits: number): void {
    draft[AE_BITS] = 96 + bits;
    draft[AE_CLIENT] = 0;
    draft[AE_CLIENT + 1] = 0;
    draft[AE_CLIENT + 2] = MAPPED_WORD;
    draft[AE_CLIENT + 3] = client & maskWord(bits, 0);
  }

  function setClient6(words: Int32Array, from: number, bits: number): void {
    draft[AE_BITS] = bits;
    for (let word = 0; word < 4; word++) {
      draft[AE_CLIENT + word] = words[from + word]! & maskWord(bits, word);
    }
  }

  function hash(): number {
    const k0 = i32[H_SECRET]! ^ AFFINITY_KEY;
    const k1 = i32[H_SECRET + 1]!;
    const isFour = draft[AE_CLIENT + 2] === MAPPED_WORD && draft[AE_CLIENT] === 0;
    const client = isFour
      ? draft[AE_CLIENT + 3]!
      : foldAddress6(
          k0,
          k1,
          draft[AE_CLIENT]!,
          draft[AE_CLIENT + 1]!,
          draft[AE_CLIENT + 2]!,
          draft[AE_CLIENT + 3]!,
        );
    const value = flowHash(k0, k1, draft[AE_GROUP]!, affinityBits(draft[AE_BITS]!), client, 0);
    return value === 0 ? 1 : value;
  }

  function secondSet(hashed: number): number {
    const second = Math.imul(hashed, GOLDEN) >>> shift;
    return second === (hashed & mask) ? second ^ 1 : second;
  }

  function setWord(set: number): number {
    return base + set * AFFINITY_SET_WORDS;
  }

  function isDraft(entry: number): boolean {
    return (
      i32[entry + AE_GROUP] === draft[AE_GROUP] &&
      affinityBits(i32[entry + AE_BITS]!) === affinityBits(draft[AE_BITS]!) &&
      i32[entry + AE_CLIENT + 3] === draft[AE_CLIENT + 3] &&
      i32[entry + AE_CLIENT + 2] === draft[AE_CLIENT + 2] &&
      i32[entry + AE_CLIENT + 1] === draft[AE_CLIENT + 1] &&
      i32[entry + AE_CLIENT] === draft[AE_CLIENT]
    );
  }

  function findIn(set: number): number {
    const tags = setWord(set);
    for (let way = 0; way < AFFINITY_WAYS; way++) {
      if (i32[tags + way] !== state[T_HASH]) continue;
      const entry = tags + AFFINITY_WAYS + way * AE_WORDS;
      if (isDraft(entry)) return entry;
    }
    return -1;
  }

  function find(): number {
    const hashed = hash();
    state[T_HASH] = hashed;
    const entry = findIn(hashed & mask);
    return entry >= 0 ? entry : findIn(secondSet(hashed));
  }

  /** Entries of a set that are free, << 8 | way of the first of them. */
  function freeIn(set: number): number {
    const tags = setWord(set);
    let free = 0;
    for (let way = AFFINITY_WAYS - 1; way >= 0; way--) {
      if (i32[tags + way] === 0) free = (((free >>> 8) + 1) << 8) | way;
    }
    return free;
  }

  function classOf(entry: number, tick: number): number {
    if (isOver(entry, tick)) return CLASS_OVER;
    if ((i32[entry + AE_BITS]! & AE_ANSWERED) === 0) return CLASS_UNANSWERED;
    return i32[entry + AE_FLOWS] === 0 ? CLASS_IDLE : CLASS_NONE;
  }

  function lookForVictim(set: number, tick: number): void {
    const first = setWord(set) + AFFINITY_WAYS;
    for (let way = 0; way < AFFINITY_WAYS; way++) {
      const entry = first + way * AE_WORDS;
      const kind = classOf(entry, tick);
      if (kind === CLASS_NONE || kind < state[T_CLASS]!) continue;
      const sooner = (i32[entry + AE_EXPIRES]! - i32[state[T_VICTIM]! + AE_EXPIRES]!) | 0;
      if (kind === state[T_CLASS] && sooner >= 0) continue;
      state[T_CLASS] = kind;
      state[T_VICTIM] = entry;
    }
  }

  /** @returns first word of the place for the draft, which is free then, or -1 */
  function makeRoom(tick: number, mayEvict: boolean): number {
    const one = state[T_HASH]! & mask;
    const two = secondSet(state[T_HASH]!);
    const freeOne = freeIn(one);
    const freeTwo = freeIn(two);
    state[T_EVICTED] = 0;
    if (freeOne >>> 8 !== 0 || freeTwo >>> 8 !== 0) {
      const isOne = freeOne >>> 8 >= freeTwo >>> 8;
      const way = (isOne ? freeOne : freeTwo) & 0xff;
      return setWord(isOne ? one : two) + AFFINITY_WAYS + way * AE_WORDS;
    }
    if (!mayEvict) return -1;
    state[T_CLASS] = CLASS_NONE;
    state[T_VICTIM] = setWord(one) + AFFINITY_WAYS;
    lookForVictim(one, tick);
    lookForVictim(two, tick);
    if (state[T_CLASS] === CLASS_NONE) return -1;
    state[T_EVICTED] = state[T_CLASS] === CLASS_OVER ? 0 : 1;
    free(state[T_VICTIM]!);
    return state[T_VICTIM]!;
  }

  function writeBackend(entry: number): void {
    i32[entry + AE_PORT] = draft[AE_PORT]!;
    i32[entry + AE_ADDRESS_WORD] = draft[AE_ADDRESS_WORD]!;
    for (let word = 0; word < 4; word++) i32[entry + AE_BACKEND + word] = draft[AE_BACKEND + word]!;
  }

  function begin(entry: number): void {
    i32[entry + AE_VERSION] = i32[entry + AE_VERSION]! | 1;
  }

  function end(entry: number): void {
    i32[entry + AE_VERSION] = ((i32[entry + AE_VERSION]! | 1) + 1) | 0;
  }

  function insert(tick: number, mayEvict: boolean): number {
    const entry = makeRoom(tick, mayEvict);
    if (entry < 0) return -1;
    const generation = (i32[entry + AE_BITS]! >>> AE_GENERATION_SHIFT) + 1;
    begin(entry);
    for (let word = 0; word < 4; word++) i32[entry + AE_CLIENT + word] = draft[AE_CLIENT + word]!;
    i32[entry + AE_BITS] =
      affinityBits(draft[AE_BITS]!) | ((generation & AE_GENERATION_MASK) << AE_GENERATION_SHIFT);
    i32[entry + AE_EXPIRES] = draft[AE_EXPIRES]!;
    i32[entry + AE_TIMEOUT_MS] = draft[AE_TIMEOUT_MS]!;
    i32[entry + AE_FLOWS] = 0;
    writeBackend(entry);
    i32[entry + AE_GROUP] = draft[AE_GROUP]!;
    end(entry);
    i32[tagWord(entry)] = state[T_HASH]!;
    return entry;
  }

  /** Number of an entry within the table. */
  function numberOf(entry: number): number {
    const set = ((entry - base) / AFFINITY_SET_WORDS) | 0;
    const way = ((entry - setWord(set) - AFFINITY_WAYS) / AE_WORDS) | 0;
    return set * AFFINITY_WAYS + way;
  }

  function tagWord(entry: number): number {
    const set = ((entry - base) / AFFINITY_SET_WORDS) | 0;
    return setWord(set) + (((entry - setWord(set) - AFFINITY_WAYS) / AE_WORDS) | 0);
  }

  function move(entry: number): void {
    begin(entry);
    writeBackend(entry);
    end(entry);
  }

  function free(entry: number): void {
    i32[entry + AE_GROUP] = 0;
    i32[tagWord(entry)] = 0;
  }

  function isOver(entry: number, tick: number): boolean {
    if (i32[entry + AE_FLOWS] !== 0) return false;
    const left = (i32[entry + AE_EXPIRES]! - tick) | 0;
    // More than its timeout is half a round of the clock ago.
    return left <= 0 || left > i32[entry + AE_TIMEOUT_MS]!;
  }

  function generationOf(entry: number): number {
    return (i32[entry + AE_BITS]! >>> AE_GENERATION_SHIFT) & AE_GENERATION_MASK;
  }

  function entryOf(flowWord: number): number {
    const number = (flowWord & FLOW_ENTRY_MASK) - 1;
    if (number < 0 || number >= sets * AFFINITY_WAYS) return -1;
    const set = number >>> 4;
    const entry = setWord(set) + AFFINITY_WAYS + (number & (AFFINITY_WAYS - 1)) * AE_WORDS;
    const isSame = flowWord >>> FLOW_GENERATION_SHIFT === generationOf(entry);
    return isSame && i32[entry + AE_GROUP] !== 0 ? entry : -1;
  }

  function attach(row: number, entry: number): void {
    if (i32[flowWords + row] !== 0) return;
    i32[entry + AE_FLOWS] = i32[entry + AE_FLOWS]! + 1;
    i32[flowWords + row] = (numberOf(entry) + 1) | (generationOf(entry) << FLOW_GENERATION_SHIFT);
  }

  function detach(row: number, tick: number): void {
    const word = i32[flowWords + row]!;
    if (word === 0) return;
    i32[flowWords + row] = 0;
    const entry = entryOf(word);
    if (entry < 0) return;
    const flows = i32[entry + AE_FLOWS]! - 1;
    // A generation that has come round has not counted this flow.
    i32[entry + AE_FLOWS] = Math.max(flows, 0);
    if (flows > 0) return;
    if ((i32[entry + AE_BITS]! & AE_ANSWERED) === 0) free(entry);
    else i32[entry + AE_EXPIRES] = (tick + i32[entry + AE_TIMEOUT_MS]!) | 0;
  }

  function setAnswered(entry: number): void {
    i32[entry + AE_BITS] = i32[entry + AE_BITS]! | AE_ANSWERED;
  }

  function answered(row: number): void {
    const entry = i32[flowWords + row] === 0 ? -1 : entryOf(i32[flowWords + row]!);
    if (entry >= 0) setAnswered(entry);
  }

  function sweep(first: number, count: number, tick: number): number {
    let set = first >= sets ? 0 : first;
    for (let looks = 0; looks < count; looks++) {
      const tags = setWord(set);
      for (let way = 0; way < AFFINITY_WAYS; way++) {
        if (i32[tags + way] === 0) continue;
        const entry = tags + AFFINITY_WAYS + way * AE_WORDS;
        if (isOver(entry, tick)) free(entry);
      }
      set = set + 1 >= sets ? 0 : set + 1;
    }
    return set;
  }

  function isIn(set: number): boolean {
    const hashed = hash();
    return set === (hashed & mask) || set === secondSet(hashed);
  }

  function retag(entry: number): void {
    i32[tagWord(entry)] = hash();
  }

  return {
    exists: sets > 0,
    sets,
    draft,
    setClient4,
    setClient6,
    find,
    isDraft,
    insert,
    hasEvicted: () => state[T_EVICTED] !== 0,
    move,
    free,
    isOver,
    attach,
    detach,
    setAnswered,
    answered,
    sweep,
    setWord,
    isIn,
    retag,
    entryOf,
  };
}
