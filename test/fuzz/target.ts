import { createRandom, type Random } from "../../src/base/random.ts";

/** What a target has found: an input that fails again, made short, as the text of a case file. */
export interface Finding {
  readonly error: Error;
  /** Number of the input, from 0. */
  readonly input: number;
  /** Contents of `test/fuzz/cases/TARGET-WHAT-IT-WAS.EXTENSION`. */
  readonly text: string;
  readonly extension: "hex" | "run";
}

/** Something that has to hold whatever it is given. */
export interface FuzzTarget {
  readonly name: string;
  /** Inputs that npm test spends on it. */
  readonly smokeInputs: number;
  /**
   * Try inputs until the count or the time is up.
   *
   * @param untilMs - by performance.now()
   * @returns the first that fails, or null
   */
  fuzz(seed: number, inputs: number, untilMs?: number): Finding | null;
  /** Run a case. @throws whatever it fails with */
  replay(text: string): void;
}

/** A target whose input is bytes: good ones are changed and run. */
export interface ByteTarget {
  readonly name: string;
  readonly smokeInputs: number;
  /** A good input, to be mutated. */
  seed(random: Random): Uint8Array;
  /** @throws when what it checks does not hold */
  run(bytes: Uint8Array): void;
}

/** Change a good input: bits, bytes, lengths, and pieces of itself. */
export function mutateBytes(bytes: Uint8Array, random: Random): Uint8Array {
  let out = bytes.slice();
  const changes = random.below(4);
  for (let change = 0; change <= changes && out.length > 0; change++) {
    const at = random.below(out.length);
    switch (random.below(6)) {
      case 0:
        out[at] = out[at]! ^ (1 << random.below(8));
        break;
      case 1:
        out[at] = random.below(256);
        break;
      case 2:
        out[at] = [0, 0xff, 0x7f, 0x80][random.below(4)]!;
        break;
      case 3:
        out = out.slice(0, at);
        break;
      case 4:
        out = Uint8Array.from([...out.subarray(0, at), ...out.subarray(random.below(out.length))]);
        break;
      default:
        out = Uint8Array.from([...out, ...out.subarray(0, at)]);
    }
  }
  return out;
}

const SHRINK_RUNS_MAX = 2000;

/** Fewer bytes, and more of them 0, as long as it fails. */
function shrinkBytes(target: ByteTarget, failing: Uint8Array): Uint8Array {
  let best = failing;
  let runs = 0;
  const attempt = (bytes: Uint8Array): boolean => {
    if (++runs > SHRINK_RUNS_MAX) return false;
    try {
      target.run(bytes);
      return false;
    } catch {
      best = bytes;
      return true;
    }
  };
  for (let size = best.length >> 1; size >= 1; size >>= 1) {
    for (let at = 0; at < best.length; ) {
      const without = Uint8Array.from([...best.subarray(0, at), ...best.subarray(at + size)]);
      if (!attempt(without)) at += size;
    }
  }
  for (let at = 0; at < best.length; at++) {
    if (best[at] === 0) continue;
    const zeroed = best.slice();
    zeroed[at] = 0;
    attempt(zeroed);
  }
  return best;
}

/** The target of a byte target. */
export function byteTarget(target: ByteTarget): FuzzTarget {
  return {
    name: target.name,
    smokeInputs: target.smokeInputs,
    fuzz(seed, inputs, untilMs = Number.POSITIVE_INFINITY) {
      const random = createRandom(seed);
      for (let input = 0; input < inputs; input++) {
        if ((input & 0xf) === 0 && performance.now() > untilMs) return null;
        const bytes = mutateBytes(target.seed(random), random);
        try {
          target.run(bytes);
        } catch (error) {
          const text = `${Buffer.from(shrinkBytes(target, bytes)).toString("hex")}\n`;
          return { error: error as Error, input, text, extension: "hex" };
        }
      }
      return null;
    },
    replay: (text) => target.run(Buffer.from(text.replaceAll(/\s/g, ""), "hex")),
  };
}
