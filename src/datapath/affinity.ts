import { AFFINITY_SWEEP_SETS } from "../base/limits.ts";
import {
  AE_ADDRESS_WORD,
  AE_BACKEND,
  AE_EXPIRES,
  AE_GROUP,
  AE_PORT,
  AE_TIMEOUT_MS,
  MAPPED_WORD,
} from "../flow/affinity-record.ts";
import {
  backendSlotOf,
  F_BACKEND,
  F_STATE,
  PROTOCOL_UDP,
  protocolOf,
} from "../flow/flow-record.ts";
import { addressWord6 } from "../scheduler/mix.ts";
import {
  B_ADDRESS,
  B_ADDRESS6,
  B_AFFINITY_SHARED,
  B_PORT,
  BACKEND_WORDS,
} from "../service/backend-slots.ts";
import {
  BANK_BACKENDS_AT,
  E_ADDRESS,
  E_SLOT,
  ENTRY_WORDS,
  NO_BACKEND,
  S_AFFINITY,
  S_AFFINITY_BITS,
  S_AFFINITY_OWN,
  S_AFFINITY_TIMEOUT_MS,
  S_BACKENDS_COUNT,
  S_BACKENDS_FIRST,
} from "../service/bank.ts";
import { type Context, R_AFFINITY_SWEEP, R_BANK, R_IS_IPV6, R_SOURCE6, R_TICK } from "./context.ts";
import {
  C_AFFINITY_CREATED,
  C_AFFINITY_EVICTED,
  C_AFFINITY_HITS,
  C_AFFINITY_MOVED,
  C_AFFINITY_NO_ROOM,
} from "./counters.ts";

/** The whole table is looked through for entries that are over in this time. */
const SWEEP_PERIOD_MS = 10_000;
/** A place in a backend list that an entry remembers has sixteen bits. */
const PLACE_MAX = 0xffff;

/**
 * `affinity`: new flows of a client go to the backend that it has (docs/affinity.md). Asked for new
 * flows alone; the table is flow/affinity-table.ts.
 *
 * An entry holds as long as its backend is in the list of those that take new flows. Where it is not,
 * the flow is scheduled, and the entry gets the backend that takes it. With a group, entries of
 * backends that all its services have belong to the group; one that some service lacks is remembered
 * for its own service alone, and that entry is asked first.
 */
export interface Affinity {
  /**
   * @param serviceWord - first word of a service that has affinity
   * @param client - as balance.ts has it: IPv6 ones are in the registers
   * @returns entry of the service's backend list that the client has, or NO_BACKEND
   */
  find(serviceWord: number, client: number): number;
  /**
   * The flow in `row` was opened for the packet that find() was asked about last.
   *
   * @param at - entry of the backend list that was chosen
   */
  keep(serviceWord: number, client: number, row: number, at: number): void;
}

export function createAffinity(context: Context, countersAt: number): Affinity {
  const { affinity: table, f64, i32, layout, registers, table: flowTable } = context;
  const { draft } = table;
  const slots = layout.backendSlots.at >> 2;
  /** What the entry belongs to by which find() has chosen (0: the scheduler has), and its place. */
  const chosen = new Int32Array(2);

  function count(counter: number): void {
    f64[countersAt + counter] = f64[countersAt + counter]! + 1;
  }

  function setClient(serviceWord: number, client: number): void {
    const bits = i32[serviceWord + S_AFFINITY_BITS]!;
    if (registers[R_IS_IPV6] === 0) table.setClient4(client, bits & 0xff);
    else table.setClient6(registers, R_SOURCE6, bits >>> 8);
  }

  /** Whether the backend of a list entry has the address of the affinity entry. */
  function hasAddress(listed: number, entry: number): boolean {
    if (i32[listed + E_ADDRESS] !== i32[entry + AE_ADDRESS_WORD]) return false;
    const slot = slots + i32[listed + E_SLOT]! * BACKEND_WORDS;
    const address = i32[slot + B_ADDRESS]!;
    const from = entry + AE_BACKEND;
    if (address !== 0) return i32[from + 3] === address && i32[from + 2] === MAPPED_WORD;
    const six = slot + B_ADDRESS6;
    return (
      i32[from] === i32[six] &&
      i32[from + 1] === i32[six + 1] &&
      i32[from + 2] === i32[six + 2] &&
      i32[from + 3] === i32[six + 3]
    );
  }

  /** First word of the service's list of backends that take new flows. */
  function listWord(serviceWord: number): number {
    const bank = registers[R_BANK]!;
    const entries = bank + (i32[bank + BANK_BACKENDS_AT]! >> 2);
    return entries + i32[serviceWord + S_BACKENDS_FIRST]! * ENTRY_WORDS;
  }

  /**
   * The entry's backend in the service's list: of those at its address the one with its port, else the
   * first one, since each service has its own port. Where it was last it is found at once.
   */
  function listed(serviceWord: number, entry: number): number {
    const first = listWord(serviceWord);
    const count = i32[serviceWord + S_BACKENDS_COUNT]!;
    const hint = i32[entry + AE_PORT]! >>> 16;
    let place = hint < count && hasAddress(first + hint * ENTRY_WORDS, entry) ? hint : 0;
    // Those at one address are neighbours.
    while (place > 0 && hasAddress(first + (place - 1) * ENTRY_WORDS, entry)) place--;
    while (place < count && !hasAddress(first + place * ENTRY_WORDS, entry)) place++;
    if (place === count) return NO_BACKEND;
    const port = i32[entry + AE_PORT]! & 0xffff;
    let found = place;
    for (let next = place; next < count; next++) {
      const at = first + next * ENTRY_WORDS;
      if (!hasAddress(at, entry)) break;
      if (i32[slots + i32[at + E_SLOT]! * BACKEND_WORDS + B_PORT] !== port) continue;
      found = next;
      break;
    }
    if (found !== hint && found <= PLACE_MAX) i32[entry + AE_PORT] = port | (found << 16);
    return first + found * ENTRY_WORDS;
  }

  /** The entry of the draft's client that belongs to `group` and is not over, or -1. */
  function entryOf(group: number): number {
    draft[AE_GROUP] = group;
    const entry = table.find();
    if (entry < 0 || !table.isOver(entry, registers[R_TICK]!)) return entry;
    table.free(entry);
    return -1;
  }

  function find(serviceWord: number, client: number): number {
    chosen[0] = 0;
    if (i32[serviceWord + S_BACKENDS_COUNT] === 0) return NO_BACKEND;
    setClient(serviceWord, client);
    const own = i32[serviceWord + S_AFFINITY_OWN]!;
    if (own !== 0) {
      const entry = entryOf(own);
      const at = entry < 0 ? NO_BACKEND : listed(serviceWord, entry);
      if (at !== NO_BACKEND) {
        chosen[0] = own;
        chosen[1] = entry;
        return at;
      }
      // Else it would call the client back once its backend is well again.
      if (entry >= 0) table.free(entry);
    }
    const group = i32[serviceWord + S_AFFINITY]!;
    const entry = entryOf(group);
    const at = entry < 0 ? NO_BACKEND : listed(serviceWord, entry);
    if (at !== NO_BACKEND) {
      chosen[0] = group;
      chosen[1] = entry;
    }
    return at;
  }

  /** Place in the service's list of the entry at `at`, or 0: it is sought then. */
  function placeOf(serviceWord: number, at: number): number {
    const place = ((at - listWord(serviceWord)) / ENTRY_WORDS) | 0;
    return place <= PLACE_MAX ? place : 0;
  }

  /** The draft's backend is the one in the slot at `slot`, which was chosen from `place` of the list. */
  function setBackend(slot: number, place: number): void {
    const address = i32[slot + B_ADDRESS]!;
    const six = slot + B_ADDRESS6;
    draft[AE_PORT] = i32[slot + B_PORT]! | (place << 16);
    draft[AE_BACKEND] = address !== 0 ? 0 : i32[six]!;
    draft[AE_BACKEND + 1] = address !== 0 ? 0 : i32[six + 1]!;
    draft[AE_BACKEND + 2] = address !== 0 ? MAPPED_WORD : i32[six + 2]!;
    draft[AE_BACKEND + 3] = address !== 0 ? address : i32[six + 3]!;
    draft[AE_ADDRESS_WORD] =
      address !== 0
        ? address
        : addressWord6(i32[six]!, i32[six + 1]!, i32[six + 2]!, i32[six + 3]!);
  }

  /** An entry with the backend of a flow that the scheduler has placed, or -1: no room. */
  function remember(serviceWord: number, row: number, at: number): number {
    const tick = registers[R_TICK]!;
    const backend = backendSlotOf(i32[flowTable.word(row) + F_BACKEND]!);
    const slot = slots + backend * BACKEND_WORDS;
    const own = i32[serviceWord + S_AFFINITY_OWN]!;
    const isOwn = own !== 0 && i32[slot + B_AFFINITY_SHARED] === 0;
    draft[AE_EXPIRES] = (tick + i32[serviceWord + S_AFFINITY_TIMEOUT_MS]!) | 0;
    draft[AE_TIMEOUT_MS] = i32[serviceWord + S_AFFINITY_TIMEOUT_MS]!;
    setBackend(slot, placeOf(serviceWord, at));
    const before = entryOf(isOwn ? own : i32[serviceWord + S_AFFINITY]!);
    if (before >= 0) {
      table.move(before);
      count(C_AFFINITY_MOVED);
      return before;
    }
    const entry = table.insert(tick, true);
    count(entry < 0 ? C_AFFINITY_NO_ROOM : C_AFFINITY_CREATED);
    if (entry >= 0 && table.hasEvicted()) count(C_AFFINITY_EVICTED);
    return entry;
  }

  /** The entry that find() has chosen by, if it is still there; else -1. */
  function chosenEntry(): number {
    if (chosen[0] === 0) return -1;
    draft[AE_GROUP] = chosen[0]!;
    // Making room for the flow may have ended others of the client, and its entry with them.
    return table.isDraft(chosen[1]!) ? chosen[1]! : -1;
  }

  function keep(serviceWord: number, client: number, row: number, at: number): void {
    setClient(serviceWord, client);
    let entry = chosenEntry();
    if (entry >= 0) count(C_AFFINITY_HITS);
    else entry = remember(serviceWord, row, at);
    if (entry < 0) return;
    const timeoutMs = i32[serviceWord + S_AFFINITY_TIMEOUT_MS]!;
    i32[entry + AE_TIMEOUT_MS] = timeoutMs;
    i32[entry + AE_EXPIRES] = (registers[R_TICK]! + timeoutMs) | 0;
    table.attach(row, entry);
    // A datagram may have no answer that comes this way.
    if (protocolOf(i32[flowTable.word(row) + F_STATE]!) === PROTOCOL_UDP) table.setAnswered(entry);
  }

  return { find, keep };
}

/** Frees entries that are over: some sets a batch, by the time that has passed. */
export function createAffinitySweep({ affinity, registers }: Context): () => void {
  const { exists, sets } = affinity;
  return function sweep(): void {
    if (!exists) return;
    const tick = registers[R_TICK]!;
    const due = (((tick & 0x7fffffff) % SWEEP_PERIOD_MS) * sets) / SWEEP_PERIOD_MS;
    const first = registers[R_AFFINITY_SWEEP]!;
    const ahead = ((due | 0) - first + sets) & (sets - 1);
    const count = Math.min(ahead, AFFINITY_SWEEP_SETS);
    if (count > 0) registers[R_AFFINITY_SWEEP] = affinity.sweep(first, count, tick);
  };
}
