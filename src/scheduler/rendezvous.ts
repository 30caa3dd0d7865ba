import { E_WEIGHT, ENTRY_WORDS } from "../service/bank.ts";
import { finish } from "./mix.ts";

/**
 * Weighted rendezvous hashing, or highest random weight (Thaler and Ravishankar, "Using name-based
 * mappings to increase hit rates", IEEE/ACM ToN 6(1), 1998; the weighted score -w / ln(h) is
 * Schindelhauer and Schomaker's logarithmic method, SPAA 2005). The 5-tuple and each backend give a
 * number h, uniform in (0, 1); the backend whose score is highest has the flow. A backend that goes
 * gives up its own flows and no other moves, a weight that changes moves flows to or from that backend
 * alone, and shares are the weights but for chance; it needs no table of slots.
 *
 * Computed the other way round, as the least of -ln(h) / w: an exponentially distributed cost over the
 * weight. Only integers and the basic operations of IEEE 754 decide, so nodes agree to the bit. Of
 * equal costs the first in the list wins, whose order is that of addresses and ports.
 *
 * It looks at every backend for each new flow, some 3 ns each: maglev is the one for thousands.
 */

/** Hash of a backend (rendezvous-keys.ts): two 16-bit words a position, low half first. */
function keyAt(u16: Uint16Array, tableAt: number, position: number): number {
  const at = tableAt + 2 * position;
  return u16[at]! | (u16[at + 1]! << 16);
}

/**
 * @param u16 - the mapped region as 16-bit words
 * @param tableAt - index in u16 of the backends' keys
 * @param flowHash - mix() of seed and 5-tuple
 * @returns first word of the entry
 */
export function pickRendezvous(
  i32: Int32Array,
  u16: Uint16Array,
  tableAt: number,
  listWord: number,
  count: number,
  flowHash: number,
): number {
  return leastAfter(i32, u16, tableAt, listWord, count, flowHash, -1, -1);
}

/** The next choice for the flow after `entry`: where it would go if that one and all before were away. */
export function nextRendezvous(
  i32: Int32Array,
  u16: Uint16Array,
  tableAt: number,
  listWord: number,
  count: number,
  flowHash: number,
  entry: number,
): number {
  const position = (entry - listWord) / ENTRY_WORDS;
  const drawn = finish(keyAt(u16, tableAt, position) ^ flowHash) >>> 0;
  const cost = exponentialOf(drawn) / i32[entry + E_WEIGHT]!;
  const next = leastAfter(i32, u16, tableAt, listWord, count, flowHash, cost, position);
  return next >= 0 ? next : pickRendezvous(i32, u16, tableAt, listWord, count, flowHash);
}

/**
 * The least cost that comes after that of another position; -1 where there is none.
 *
 * @param cost - its cost; -1: before all
 */
function leastAfter(
  i32: Int32Array,
  u16: Uint16Array,
  tableAt: number,
  listWord: number,
  count: number,
  flowHash: number,
  cost: number,
  position: number,
): number {
  let best = -1;
  let least = Number.POSITIVE_INFINITY;
  for (let index = 0; index < count; index++) {
    const drawn = finish(keyAt(u16, tableAt, index) ^ flowHash) >>> 0;
    const entry = listWord + index * ENTRY_WORDS;
    const weight = i32[entry + E_WEIGHT]!;
    // A cost is at least its number drawn: nearly all backends are out by that alone.
    if (drawn >= least * weight) continue;
    const own = exponentialOf(drawn) / weight;
    if (own >= least || own < cost || (own === cost && index <= position)) continue;
    least = own;
    best = entry;
  }
  return best;
}

const UNIT = 1 / 2 ** 32;

/**
 * An exponentially distributed number from a uniform one: -ln(1 - x) * 2^32 with x = drawn / 2^32, at
 * least `drawn`, good to 1e-11 of itself. Engines may round Math.log as they like, so this is a series.
 *
 * @param drawn - uint32
 */
export function exponentialOf(drawn: number): number {
  if (drawn === 0) return 0;
  // 1 - x is left / 2^32: a mantissa about 1 and a power of two, its logarithm by the series of artanh.
  const left = -drawn | 0;
  let halvings = Math.clz32(left) + 1;
  let mantissa = ((left << (halvings - 1)) >>> 0) / 2 ** 31;
  if (mantissa > Math.SQRT2) {
    mantissa /= 2;
    halvings--;
  }
  const s = (mantissa - 1) / (mantissa + 1);
  const q = s * s;
  const tail = 1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13 + q / 15)));
  const series = 1 + q * (1 / 3 + q * (1 / 5 + q * tail));
  return (halvings * Math.LN2 - 2 * s * series) / UNIT;
}
