import { backendKey, type MaglevBackend } from "./maglev-table.ts";

/**
 * What stands for each backend in rendezvous hashing: who it is decides, not where in the list.
 *
 * @param backends - in the order of the list
 * @param seed - `hash.seed` as a word
 * @returns two 16-bit words a backend, low half first
 */
export function buildRendezvousKeys(backends: readonly MaglevBackend[], seed: number): Uint16Array {
  const table = new Uint16Array(2 * backends.length);
  backends.forEach((backend, position) => {
    const key = backendKey(backend, seed);
    table[2 * position] = key & 0xffff;
    table[2 * position + 1] = key >>> 16;
  });
  return table;
}
