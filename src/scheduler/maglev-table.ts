import { assert } from "../base/assert.ts";
import { mix } from "./mix.ts";

/** A backend as the table sees it: who it is decides its permutation, not where it is in a list. */
export interface MaglevBackend {
  /** int32, host order. */
  readonly address: number;
  readonly port: number;
  /** At least 1. */
  readonly weight: number;
}

const OFFSET_KEY = 0x6f666673; // "offs"
const SKIP_KEY = 0x736b6970; // "skip"
const EMPTY = 0xffff;

/**
 * The lookup table of Maglev (NSDI 2016, section 3.4, with weights as in section 3.4's last
 * paragraph): each backend has a permutation of the slots, and the backends take turns to claim
 * their next free one. A backend with weight w takes a turn in w of every `largest weight` rounds,
 * spread evenly, so shares follow the weights; with equal weights two shares differ by one at most.
 *
 * @param backends - in the fixed order of the backend list, at most 65,534
 * @param size - slots, a prime larger than the number of backends
 * @param seed - `hash.seed` as a word
 * @returns position in `backends` of every slot; empty when there is no backend
 */
export function buildMaglevTable(
  backends: readonly MaglevBackend[],
  size: number,
  seed: number,
): Uint16Array {
  const count = backends.length;
  if (count === 0) return new Uint16Array(0);
  assert(count < EMPTY, "positions fit in 16 bits, with one value for an empty slot");
  const table = new Uint16Array(size).fill(EMPTY);
  const skip = new Int32Array(count);
  const next = new Int32Array(count);
  const credit = new Float64Array(count);
  const share = new Float64Array(count);
  const heaviest = backends.reduce((most, backend) => Math.max(most, backend.weight), 1);
  backends.forEach((backend, index) => {
    const { address, port } = backend;
    next[index] = (mix(seed, address, port, OFFSET_KEY, 0) >>> 0) % size;
    skip[index] = ((mix(seed, address, port, SKIP_KEY, 0) >>> 0) % (size - 1)) + 1;
    share[index] = backend.weight / heaviest;
  });
  for (let filled = 0; ; ) {
    for (let index = 0; index < count; index++) {
      credit[index] = credit[index]! + share[index]!;
      // The sum of shares is a float: what is 1 but for rounding counts as 1.
      if (credit[index]! < 1 - 1e-9) continue;
      credit[index] = credit[index]! - 1;
      let slot = next[index]!;
      while (table[slot] !== EMPTY) slot = after(slot, skip[index]!, size);
      table[slot] = index;
      next[index] = after(slot, skip[index]!, size);
      filled++;
      if (filled === size) return table;
    }
  }
}

function after(slot: number, skip: number, size: number): number {
  const sum = slot + skip;
  return sum >= size ? sum - size : sum;
}
