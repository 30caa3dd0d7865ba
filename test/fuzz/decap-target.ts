import { parseAddress } from "../../src/base/address.ts";
import {
  createDecapsulator,
  KIND_GUE_6,
  KIND_IP4_IN_6,
  T_AT,
  T_BYTES,
  T_KIND,
  T_TOS,
  TUNNEL_WORDS,
} from "../../src/decap/decapsulate.ts";
import { DELIVERED, OUTCOMES } from "../../src/decap/reasons.ts";
import { wireFaults } from "../support/wire-check.ts";
import { FAMILIES, VIP_6, VIP_ADDRESSES } from "./corpus.ts";
import type { ByteTarget } from "./target.ts";

/**
 * The backend's decapsulator: the first byte says which socket the rest came in on, the second is the
 * outer traffic class. What it delivers lies within what came, and is it but for the ECN bits.
 */
const LEAD = 64;
const memory = new Uint8Array(LEAD * 4 + 70_000);
const words = new Int32Array(memory.buffer, 0, TUNNEL_WORDS);
const AT = LEAD * 4;
const open = createDecapsulator(memory, words, {
  vips: [...VIP_ADDRESSES, VIP_6].map((text) => parseAddress(text)!),
  accept: [],
});

let packets: readonly Uint8Array[] | null = null;

export const decapTarget: ByteTarget = {
  name: "decap",
  smokeInputs: 20_000,
  seed(random) {
    packets ??= FAMILIES.filter(([name]) =>
      ["tcp", "udp", "ipv6", "tunnels"].includes(name),
    ).flatMap(([, build]) => build().map(({ frame }) => frame.subarray(14)));
    const kind = random.below(KIND_GUE_6 + 1);
    const inner = packets[random.below(packets.length)]!;
    const outer = kind < KIND_IP4_IN_6 ? outerIpv4(20 + inner.length) : [];
    return Uint8Array.from([kind, random.below(256), ...outer, ...inner]);
  },
  run(bytes) {
    if (bytes.length < 2) return;
    const packet = bytes.subarray(2, 65_537);
    words.fill(0);
    words[T_AT] = AT;
    words[T_BYTES] = packet.length;
    words[T_KIND] = bytes[0]! % (KIND_GUE_6 + 1);
    words[T_TOS] = bytes[1]!;
    memory.fill(0xee, AT);
    memory.set(packet, AT);
    const outcome = open(0);
    if (OUTCOMES[outcome] === undefined) throw new Error(`outcome ${outcome} has no name`);
    if (outcome !== DELIVERED) {
      if (words[T_BYTES] !== 0) throw new Error(`${OUTCOMES[outcome]}, and something to deliver`);
      return;
    }
    const at = words[T_AT]!;
    const length = words[T_BYTES]!;
    if (at < AT || length < 20 || at + length > AT + packet.length) {
      throw new Error(`${length} bytes at ${at - AT} of ${packet.length}`);
    }
    compare(packet.subarray(at - AT, at - AT + length), memory.slice(at, at + length));
  },
};

function outerIpv4(total: number): number[] {
  return [0x45, 0, total >> 8, total & 0xff, 0, 0, 0, 0, 64, 4, 0, 0, 10, 20, 0, 99, 10, 20, 0, 11];
}

/** ECN lies in the second byte of IPv4, whose checksum follows it, and in that of IPv6. */
function compare(came: Uint8Array, delivered: Uint8Array): void {
  const isIpv4 = came[0]! >> 4 === 4;
  const free = isIpv4 ? [1, 10, 11] : [1];
  const mask = isIpv4 ? 0xfc : 0xcf;
  for (let at = 0; at < came.length; at++) {
    if (came[at] !== delivered[at] && !free.includes(at)) throw new Error(`byte ${at} is another`);
  }
  if (((came[1]! ^ delivered[1]!) & mask) !== 0) throw new Error("more than ECN has changed");
  if (wireFaults(delivered, { link: 0 }).includes("IPv4 header checksum")) {
    throw new Error("delivered with a wrong header checksum");
  }
}
