import { assert } from "./assert.ts";

/** A generator whose numbers follow from its seed alone: tests, simulations, benches. No secrets. */
export interface Random {
  /** The seed it was made with, as uint32: print it, and the run can be repeated. */
  readonly seed: number;
  /** @returns the next int32, all 2^32 values equally likely */
  next32(): number;
  /**
   * @param bound - 1..2^32
   * @returns an integer in 0..bound-1, all equally likely
   */
  below(bound: number): number;
}

const WORDS = 2 ** 32;

/** Rounds thrown away at the start, so that near seeds give unrelated numbers. */
const WARM_UP_ROUNDS = 15;

/**
 * sfc32 (Chris Doty-Humphrey, PractRand 0.94, `sfc.cpp`): three words mixed and one counter, so that
 * no seed has a cycle shorter than 2^32.
 *
 * @param seed - any number; its low 32 bits count
 */
export function createRandom(seed: number): Random {
  let a = 0;
  let b = 0;
  let c = seed | 0;
  let counter = 1;

  function next32(): number {
    const result = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + result) | 0;
    return result;
  }

  function below(bound: number): number {
    assert(Number.isInteger(bound) && bound >= 1 && bound <= WORDS, "a bound is in 1..2^32");
    // Numbers of the last, incomplete round of `bound` would favour small results: draw again.
    const fair = WORDS - (WORDS % bound);
    let drawn = next32() >>> 0;
    while (drawn >= fair) drawn = next32() >>> 0;
    return drawn % bound;
  }

  for (let round = 0; round < WARM_UP_ROUNDS; round++) next32();
  return { seed: seed >>> 0, next32, below };
}
