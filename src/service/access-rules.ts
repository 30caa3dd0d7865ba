import type { Prefix } from "../base/prefix.ts";

/** Words of a rule: of IPv4 the address and `bits | ALLOW`, of IPv6 four words and the same. */
const WORDS_4 = 2;
const WORDS_6 = 5;
/** Set in the last word of a rule that admits. */
const ALLOW = 256;

/**
 * The access lists of one service, packed: a hundred thousand prefixes are two arrays and no
 * objects. What the lists mean together:
 *
 *   the longest prefix that contains the client's address decides; the same prefix in both lists is
 *   denied; a client in no prefix is admitted, unless the service has an allow list
 */
export class AccessRules {
  readonly four: Int32Array;
  readonly six: Int32Array;
  /** What becomes of a client in no prefix. */
  readonly admitsOthers: boolean;
  /** Differs when the rules do: what a reload compares. */
  readonly digest: string;

  constructor(four: Int32Array, six: Int32Array, admitsOthers: boolean, digest: string) {
    this.four = four;
    this.six = six;
    this.admitsOthers = admitsOthers;
    this.digest = digest;
  }

  /** Prefixes of both families. */
  get count(): number {
    return this.four.length / WORDS_4 + this.six.length / WORDS_6;
  }

  /** In a text that is compared, the digest stands for all of it. */
  toJSON(): string {
    return this.digest;
  }
}

export interface Rule {
  /** First address: one word, or four. */
  readonly words: readonly number[];
  readonly bits: number;
  readonly allows: boolean;
}

/**
 * @param allow - null: there is no allow list, which is not the same as an empty one
 * @param digestOf - any digest of a text
 */
export function packRules(
  allow: readonly Prefix[] | null,
  deny: readonly Prefix[],
  digestOf: (bytes: Uint8Array) => string,
): AccessRules {
  const pack = (family: 4 | 6, words: number): Int32Array => {
    const flat: number[] = [];
    for (const [list, flag] of [
      [allow ?? [], ALLOW],
      [deny, 0],
    ] as const) {
      for (const prefix of list) {
        if (prefix.family !== family) continue;
        for (let word = 0; word < words - 1; word++) flat.push(prefix.words[word as 0]);
        flat.push(prefix.bits | flag);
      }
    }
    return Int32Array.from(flat);
  };
  const four = pack(4, WORDS_4);
  const six = pack(6, WORDS_6);
  const head = Int32Array.of(allow === null ? 1 : 0, four.length);
  const bytes = Buffer.concat([head, four, six].map((part) => Buffer.from(part.buffer)));
  return new AccessRules(four, six, allow === null, digestOf(bytes));
}

/** The rules of one family again, one by one. */
export function* rulesOf(rules: AccessRules, family: 4 | 6): Generator<Rule> {
  const [packed, words] = family === 4 ? [rules.four, WORDS_4] : [rules.six, WORDS_6];
  for (let at = 0; at < packed.length; at += words) {
    const last = packed[at + words - 1]!;
    yield {
      words: [...packed.subarray(at, at + words - 1)],
      bits: last & (ALLOW - 1),
      allows: (last & ALLOW) !== 0,
    };
  }
}
