import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  ACCESS_WORDS_PER_PREFIX,
  ACCESS_WORDS_PER_SERVICE,
  isRefused4,
  isRefused6,
  writeAccess4,
  writeAccess6,
} from "../../src/admission/access-table.ts";
import { formatIpv4, formatIpv6, type Words6 } from "../../src/base/address.ts";
import { maskWord, type Prefix, parsePrefix } from "../../src/base/prefix.ts";
import { createRandom } from "../../src/base/random.ts";
import { packRules } from "../../src/service/access-rules.ts";

// Goal: the longest prefix decides, for every address, whatever the lists are.
// Method: random lists with many prefixes in each other; a linear scan over all of them is the
// oracle, asked at random addresses and at both ends of every prefix.

const digest = (): string => "";

/** The verdict by definition: longest prefix; of equal ones deny; nobody's is `admitsOthers`. */
function isRefusedBySearch(
  allow: readonly Prefix[] | null,
  deny: readonly Prefix[],
  words: Words6,
): boolean {
  let best = -1;
  let refused = allow !== null;
  const look = (prefix: Prefix, refuses: boolean): void => {
    const covers = prefix.words.every((word, index) => {
      return ((word ^ words[index]!) & maskWord(prefix.bits, index)) === 0;
    });
    if (!covers || prefix.bits < best || (prefix.bits === best && !refuses)) return;
    best = prefix.bits;
    refused = refuses;
  };
  for (const prefix of allow ?? []) look(prefix, false);
  for (const prefix of deny) look(prefix, true);
  return refused;
}

function prefixOf(family: 4 | 6, words: Words6, bits: number): Prefix {
  const text = family === 4 ? formatIpv4(words[0]) : formatIpv6(words);
  return parsePrefix(`${text}/${bits}`)!.prefix;
}

/** The last address of a prefix, and the one behind it. */
function lastOf(prefix: Prefix): Words6 {
  return prefix.words.map((word, index) => word | ~maskWord(prefix.bits, index)) as never;
}

/** Few values in every word, so that prefixes lie in each other; and now and then any. */
const word = fc.oneof(fc.constantFrom(0, 1, -1, 0x0a000000, 0x0a010203, 1 << 31), fc.integer());
const words4 = word.map((one): Words6 => [one, 0, 0, 0]);
const words6 = fc.tuple(word, word, word, word) as fc.Arbitrary<Words6>;

for (const family of [4, 6] as const) {
  const words = family === 4 ? words4 : words6;
  const list = fc.array(fc.tuple(words, fc.integer({ min: 0, max: family === 4 ? 32 : 128 })), {
    maxLength: 40,
  });
  test(`IPv${family}: what a linear scan says`, () => {
    fc.assert(
      fc.property(
        fc.option(list),
        list,
        fc.array(words, { minLength: 5 }),
        (allowed, denied, more) => {
          const make = (one: readonly [Words6, number]): Prefix => prefixOf(family, ...one);
          const allow = allowed?.map(make) ?? null;
          const deny = denied.map(make);
          const rules = packRules(allow, deny, digest);
          const room = rules.count * ACCESS_WORDS_PER_PREFIX + ACCESS_WORDS_PER_SERVICE;
          // Words before and behind, which nobody may write.
          const i32 = new Int32Array(room + 2).fill(0x5a5a5a5a);
          const written = (family === 4 ? writeAccess4 : writeAccess6)(i32, 1, rules);
          assert.ok(written <= room, `${written} words in a room of ${room}`);
          assert.equal(i32[0], 0x5a5a5a5a);
          assert.equal(i32[1 + written], 0x5a5a5a5a);
          const all = [...(allow ?? []), ...deny];
          for (const one of [...more, ...all.map((p) => p.words), ...all.map(lastOf)]) {
            const refused = family === 4 ? isRefused4(i32, 1, one[0]) : isRefused6(i32, 1, ...one);
            assert.equal(refused, isRefusedBySearch(allow, deny, one), one.join(" "));
          }
        },
      ),
      { numRuns: 400 },
    );
  });
}

test("100,000 prefixes: random addresses, against a table of hashes", () => {
  const random = createRandom(0xacce55);
  const deny = Array.from({ length: 100_000 }, () =>
    prefixOf(4, [random.next32(), 0, 0, 0], 16 + random.below(17)),
  );
  const rules = packRules(null, deny, digest);
  const i32 = new Int32Array(rules.count * ACCESS_WORDS_PER_PREFIX + ACCESS_WORDS_PER_SERVICE);
  writeAccess4(i32, 0, rules);
  const byLength = new Map<number, Set<number>>();
  for (const { bits, words } of deny) {
    byLength.set(bits, (byLength.get(bits) ?? new Set()).add(words[0]));
  }
  let refusals = 0;
  for (let tries = 0; tries < 200_000; tries++) {
    const near = deny[random.below(deny.length)]!.words[0];
    const address = tries % 2 === 0 ? random.next32() : (near + random.below(4) - 1) | 0;
    let refused = false;
    for (const [bits, set] of byLength) refused ||= set.has(address & maskWord(bits, 0));
    assert.equal(isRefused4(i32, 0, address), refused, formatIpv4(address));
    if (refused) refusals++;
  }
  assert.ok(refusals > 50_000, `${refusals} of 200,000 were refused`);
});

test("prefixes as text", () => {
  for (const [text, canonical] of [
    ["10.0.0.0/8", "10.0.0.0/8"],
    ["198.51.100.2", "198.51.100.2/32"],
    ["0.0.0.0/0", "0.0.0.0/0"],
    ["2001:DB8:0::/32", "2001:db8::/32"],
    ["::1", "::1/128"],
  ] as const) {
    assert.deepEqual(
      [parsePrefix(text)?.prefix.text, parsePrefix(text)?.isExact],
      [canonical, true],
    );
  }
  assert.deepEqual(
    [parsePrefix("10.1.2.3/8")?.isExact, parsePrefix("10.1.2.3/8")?.prefix.text],
    [false, "10.0.0.0/8"],
  );
  for (const text of ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/", "a", "10.0.0.0/08"]) {
    assert.equal(parsePrefix(text), null, text);
  }
});
