import { assert } from "../base/assert.ts";
import { apportion } from "./apportion.ts";
import { finish, mix } from "./mix.ts";

/**
 * The lookup table of Maglev, filled in another way.
 *
 * What Maglev asks of its table (NSDI 2016, section 3.4) is kept: a prime number of slots, shares
 * as even as whole slots allow, the same table on every node that knows the same backends, and few
 * slots that move when a backend comes or goes. The paper fills it by backends that take turns at
 * claiming slots. When one of ten goes, 0.26 % of the slots of the other nine change hands then (mean
 * of 20 trials in a table of 65,537; 0.42 % at the most), of a hundred 0.57 %.
 *
 * Here every slot draws a cost for every backend, exponentially distributed, from a hash of both,
 * and belongs to the backend whose cost times price is least. With one over the weight for a price
 * that is weighted rendezvous hashing: a backend that goes gives up its own slots and no other
 * moves, but shares are as uneven as chance. So prices go up and down until every share is exact.
 * When a backend goes, other slots move only by the little that prices change: one of ten moves
 * 0.18 % of them on average, above 0.3 % in one of a hundred trials, and 0.36 % at the most of 600;
 * one of a hundred 0.30 %. Only with fewer than some two hundred slots a backend is the paper's table
 * the steadier one (one of a thousand: 0.13 % against 1.1 %).
 *
 * Health and operators take backends away and bring them back far more often than a configuration
 * does. Hence two steps: a table of all backends of the configuration, and from it the table in
 * use, in which only the slots of absent backends are handed to present ones. No other slot moves.
 *
 * Only integers and the basic operations of IEEE 754 decide, so that nodes agree to the bit.
 */

/** Who a backend is decides its costs, not where it is in a list. */
export interface MaglevBackend {
  /** int32, host order. */
  readonly address: number;
  readonly port: number;
  /** 1..65535. */
  readonly weight: number;
}

const BACKEND_KEY = 0x6261636b; // "back"
const SLOT_KEY = 0x736c6f74; // "slot"
const POSITIONS_MAX = 65_536;

/** Backends of least cost that a slot remembers while prices are sought. */
const CANDIDATES = 4;
/** Price changes without a better table before the search ends; it takes ten to twenty in all. */
const PATIENCE = 8;
/** Share of the relative error that a price change takes back; the rest is for what others do. */
const DAMPING = 0.75;
/** How much dearer than its owner a backend may be for the slots that chance leaves over. */
const REGRETS = [1.001, 1.01, 1.1, Number.POSITIVE_INFINITY];

/**
 * The table of all backends.
 *
 * @param backends - at most 65,536, each endpoint once, in any order
 * @param size - slots, at most 2^20
 * @param seed - `hash.seed` as a word
 * @returns position in `backends` by slot: with equal weights no two positions have counts that
 *   differ by more than one; empty when there is no backend
 */
export function buildMaglevTable(
  backends: readonly MaglevBackend[],
  size: number,
  seed: number,
): Uint16Array {
  assert(backends.length <= POSITIONS_MAX, "positions fit in 16 bits");
  if (backends.length === 0) return new Uint16Array(0);
  const table = new Uint16Array(size);
  const order = fixedOrder(backends, seed);
  const weights = backends.map((backend) => backend.weight);
  const slots = Int32Array.from({ length: size }, (_, slot) => slot);
  fill(table, slots, backends, order, apportion(weights, size, order), seed);
  return table;
}

/**
 * The table while some backends are absent, or have but a share of their weight (slow start). Their
 * slots, or those of their own that are too many for it, go to the others by weight, and no other
 * slot moves, but for single ones where weights cannot be met otherwise.
 *
 * @param table - of all `backends`; not changed
 * @param shares - by position: percent of its weight, 0: absent
 * @returns a table of positions that are present; empty when there is none
 */
export function withShares(
  table: Uint16Array,
  backends: readonly MaglevBackend[],
  shares: readonly number[],
  seed: number,
): Uint16Array {
  if (shares.every((share) => share === 100)) return table;
  if (shares.every((share) => share === 0)) return new Uint16Array(0);
  const order = fixedOrder(backends, seed);
  const weights = backends.map((backend, index) => backend.weight * shares[index]!);
  const wanted = apportion(weights, table.length, order);
  const free: number[] = [];
  for (let slot = 0; slot < table.length; slot++) {
    const owner = table[slot]!;
    if (wanted[owner]! > 0) wanted[owner] = wanted[owner]! - 1;
    else free.push(slot);
  }
  const next = table.slice();
  fill(next, Int32Array.from(free), backends, order, wanted, seed);
  return next;
}

/** The same order of the same backends wherever they stand in a list. */
function fixedOrder(backends: readonly MaglevBackend[], seed: number): number[] {
  const keys = backends.map((backend) => backendKey(backend, seed));
  return [...backends.keys()].sort(
    (a, b) =>
      keys[a]! - keys[b]! ||
      backends[a]!.address - backends[b]!.address ||
      backends[a]!.port - backends[b]!.port,
  );
}

/** Who a backend is, as a hash. */
export function backendKey({ address, port }: MaglevBackend, seed: number): number {
  return mix(seed, address, port, BACKEND_KEY, 0);
}

/**
 * Give each of `slots` to a backend, `quotas[position]` of them to each.
 *
 * @param order - every position once; settles what costs leave open
 */
function fill(
  table: Uint16Array,
  slots: Int32Array,
  backends: readonly MaglevBackend[],
  order: readonly number[],
  quotas: Int32Array,
  seed: number,
): void {
  const members = order.filter((position) => quotas[position]! > 0);
  if (members.length === 1) {
    for (const slot of slots) table[slot] = members[0]!;
    return;
  }
  const quota = Int32Array.from(members, (position) => quotas[position]!);
  const keys = Int32Array.from(members, (position) => backendKey(backends[position]!, seed));
  const draws = drawCandidates(slots, keys, quota, seed);
  const owners = balance(draws, quota);
  slots.forEach((slot, index) => {
    table[slot] = members[owners[index]!]!;
  });
}

/** The candidates of every slot: `depth` entries each, cheapest first. */
interface Draws {
  readonly depth: number;
  readonly member: Uint16Array;
  /** Cost over quota. */
  readonly cost: Float64Array;
}

function drawCandidates(
  slots: Int32Array,
  keys: Int32Array,
  quota: Int32Array,
  seed: number,
): Draws {
  const depth = Math.min(CANDIDATES, keys.length);
  const member = new Uint16Array(slots.length * depth);
  const cost = new Float64Array(slots.length * depth).fill(Number.POSITIVE_INFINITY);
  // A cost is at least its number drawn over 2^32: nearly all members are out by that alone.
  const unit = Float64Array.from(quota, (share) => 1 / (share * WORDS));
  for (let index = 0; index < slots.length; index++) {
    const first = index * depth;
    const slotKey = mix(seed, slots[index]!, SLOT_KEY, 0, 0);
    let dearest = Number.POSITIVE_INFINITY;
    for (let one = 0; one < keys.length; one++) {
      const drawn = finish(keys[one]! ^ slotKey) >>> 0;
      if (drawn * unit[one]! >= dearest) continue;
      const price = exponential(drawn) * unit[one]!;
      if (price >= dearest) continue;
      let at = first + depth - 1;
      for (; at > first && cost[at - 1]! > price; at--) {
        cost[at] = cost[at - 1]!;
        member[at] = member[at - 1]!;
      }
      cost[at] = price;
      member[at] = one;
      dearest = cost[first + depth - 1]!;
    }
  }
  return { depth, member, cost };
}

/** Find prices that give every member its quota; what is left over is settled slot by slot. */
function balance(draws: Draws, quota: Int32Array): Uint16Array {
  const prices = new Float64Array(quota.length).fill(1);
  const best = { prices: prices.slice(), error: Number.POSITIVE_INFINITY, round: 0 };
  const owners = new Uint16Array(draws.member.length / draws.depth);
  const counts = new Int32Array(quota.length);
  for (let round = 0; best.error > 0 && round < best.round + PATIENCE; round++) {
    award(draws, prices, owners, counts);
    let error = 0;
    for (let one = 0; one < quota.length; one++) error += Math.abs(counts[one]! - quota[one]!);
    if (error < best.error) {
      best.prices.set(prices);
      best.error = error;
      best.round = round;
    }
    for (let one = 0; one < quota.length; one++) {
      const excess = (counts[one]! - quota[one]!) / quota[one]!;
      prices[one] = prices[one]! * (1 + DAMPING * Math.min(1, excess));
    }
  }
  award(draws, best.prices, owners, counts);
  settle(draws, best.prices, owners, counts, quota);
  return owners;
}

/** Every slot to its cheapest candidate. */
function award(
  { depth, member, cost }: Draws,
  prices: Float64Array,
  owners: Uint16Array,
  counts: Int32Array,
): void {
  counts.fill(0);
  for (let index = 0; index < owners.length; index++) {
    const first = index * depth;
    let owner = member[first]!;
    let least = cost[first]! * prices[owner]!;
    for (let at = first + 1; at < first + depth; at++) {
      const price = cost[at]! * prices[member[at]!]!;
      if (price < least) {
        least = price;
        owner = member[at]!;
      }
    }
    owners[index] = owner;
    counts[owner] = counts[owner]! + 1;
  }
}

/** Move single slots from members over their quota to members under it, the least dear first. */
function settle(
  { depth, member, cost }: Draws,
  prices: Float64Array,
  owners: Uint16Array,
  counts: Int32Array,
  quota: Int32Array,
): void {
  const isOver = (one: number): boolean => counts[one]! > quota[one]!;
  const isUnder = (one: number): boolean => counts[one]! < quota[one]!;
  const move = (index: number, to: number): void => {
    counts[owners[index]!] = counts[owners[index]!]! - 1;
    counts[to] = counts[to]! + 1;
    owners[index] = to;
  };
  for (const regretMax of REGRETS) {
    if (!quota.some((_, one) => isUnder(one))) return;
    const moves: { readonly index: number; readonly to: number; readonly regret: number }[] = [];
    for (let index = 0; index < owners.length; index++) {
      const owner = owners[index]!;
      if (!isOver(owner)) continue;
      let held = 0;
      for (let at = index * depth; at < (index + 1) * depth; at++) {
        if (member[at] === owner) held = cost[at]! * prices[owner]!;
      }
      for (let at = index * depth; at < (index + 1) * depth; at++) {
        const to = member[at]!;
        const regret = (cost[at]! * prices[to]!) / held;
        if (isUnder(to) && regret <= regretMax) moves.push({ index, to, regret });
      }
    }
    moves.sort((a, b) => a.regret - b.regret);
    for (const { index, to } of moves) {
      if (isOver(owners[index]!) && isUnder(to)) move(index, to);
    }
  }
  // A member that is no candidate of any slot to spare: nearly as many members as slots.
  let index = 0;
  for (let to = 0; to < quota.length; to++) {
    while (isUnder(to)) {
      while (!isOver(owners[index]!)) index++;
      move(index, to);
    }
  }
}

const WORDS = 2 ** 32;

/**
 * An exponentially distributed number from a uniform one: -ln(1 - drawn / 2^32) * 2^32.
 *
 * Engines may round Math.log as they like, so this is the series of artanh, good to 1e-6: what is
 * lost cannot be told from chance, and is lost alike everywhere.
 *
 * @param drawn - uint32
 */
function exponential(drawn: number): number {
  const left = ~drawn | 0;
  const zeros = Math.clz32(left);
  // (1 - drawn / 2^32) as mantissa in 1..2 over a power of two.
  const mantissa = ((left << zeros) >>> 0) / 2 ** 31 || 1;
  const s = (mantissa - 1) / (mantissa + 1);
  const q = s * s;
  const series = 1 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q / 11))));
  return ((zeros + 1) * Math.LN2 - 2 * s * series) * WORDS;
}
