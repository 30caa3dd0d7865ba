import { createRandom } from "../src/base/random.ts";
import { flowHash } from "../src/flow/flow-hash.ts";
import { segmentKind } from "../src/flow/tcp-state.ts";
import {
  difference32,
  pseudoSumIpv4,
  sumBytes,
  updateChecksum,
  updatePartial,
} from "../src/wire/checksum.ts";
import { setEthernetAddresses } from "../src/wire/ethernet.ts";
import { decrementTtl, updateIpv4HeaderChecksum } from "../src/wire/ipv4.ts";
import { checkTcp, TCP_OK } from "../src/wire/tcp.ts";
import { checkUdp, UDP_OK } from "../src/wire/udp.ts";
import {
  addressText,
  ipv4Packet,
  pseudoHeader,
  slowChecksum,
  slowSum,
  tcpPacket,
  udpPacket,
} from "../test/support/frames.ts";
import { CALLS, type Pair } from "./micro-pair.ts";

/** The hot functions of src/wire, and the flow's hash, each beside its slow oracle. */

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function packets(): DataView[] {
  return Array.from({ length: CALLS }, (_, at) =>
    viewOf(
      ipv4Packet({
        source: "198.51.100.2",
        destination: `10.20.${at >> 8}.${at & 255}`,
        protocol: 17,
        ttl: 2 + (at % 250),
        payload: new Uint8Array(26),
      }),
    ),
  );
}

/** Random words, the same in every run. */
function words(count: number): Int32Array {
  const random = createRandom(7);
  return Int32Array.from({ length: count }, () => random.next32());
}

function sumPair(bytes: number): Pair {
  const random = createRandom(3);
  const data = Array.from({ length: CALLS }, () =>
    Uint8Array.from({ length: bytes }, () => random.below(256)),
  );
  const views = data.map(viewOf);
  return {
    name: `sumBytes, ${bytes.toLocaleString("en")} bytes`,
    alternative: "word by word, modulo 65,535",
    same: true,
    fast: (at) => sumBytes(views[at]!, 0, bytes),
    slow: (at) => slowSum(data[at]!),
  };
}

function pseudoPair(): Pair {
  const addresses = words(2 * CALLS);
  return {
    name: "pseudoSumIpv4",
    alternative: "sum of the header's bytes",
    same: true,
    fast: (at) => pseudoSumIpv4(addresses[2 * at]!, addresses[2 * at + 1]!, 6, 40 + at),
    slow: (at) => slowSum(pseudoHeader(addresses[2 * at]!, addresses[2 * at + 1]!, 6, 40 + at)),
  };
}

function differencePair(): Pair {
  const addresses = words(2 * CALLS);
  const bytes = (word: number): number[] => [24, 16, 8, 0].map((shift) => (word >>> shift) & 0xff);
  return {
    name: "difference32",
    alternative: "sums of bytes",
    same: true,
    fast: (at) => difference32(addresses[2 * at]!, addresses[2 * at + 1]!),
    slow: (at) => slowSum([...bytes(~addresses[2 * at]!), ...bytes(addresses[2 * at + 1]!)]),
  };
}

function partialPair(): Pair {
  const sums = words(2 * CALLS).map((word) => word & 0xffff);
  return {
    name: "updatePartial",
    alternative: "modulo 65,535",
    same: true,
    fast: (at) => updatePartial(sums[2 * at]!, sums[2 * at + 1]!),
    slow(at) {
      const sum = sums[2 * at]! + sums[2 * at + 1]!;
      return sum === 0 ? 0 : sum % 0xffff || 0xffff;
    },
  };
}

/** A header after one change: checksum kept up to date, or made anew. */
function headerPair(name: string, change: (view: DataView) => void): Pair {
  const own = packets();
  const others = packets().map((view) => new Uint8Array(view.buffer, view.byteOffset, 20));
  return {
    name,
    alternative: "whole header anew",
    // Each side has changed its packet another number of times.
    same: false,
    fast(at) {
      change(own[at]!);
      return own[at]!.getUint16(10);
    },
    slow(at) {
      const header = others[at]!;
      header[8]!--;
      header[10] = 0;
      header[11] = 0;
      const checksum = slowChecksum(header);
      header[10] = checksum >>> 8;
      header[11] = checksum;
      return checksum;
    },
  };
}

function ttlPair(): Pair {
  return headerPair("decrementTtl", (view) => {
    if (view.getUint8(8) === 0) view.setUint8(8, 255);
    decrementTtl(view, 0);
  });
}

function headerChecksumPair(): Pair {
  const delta = difference32(0xc6336402 | 0, 0x0a14000b);
  return headerPair("updateIpv4HeaderChecksum", (view) => updateIpv4HeaderChecksum(view, 0, delta));
}

/** A whole segment's checksum after NAT: with the flow's difference, or over all bytes. */
function natPair(): Pair {
  const segment = Uint8Array.from({ length: 1460 }, (_, at) => at * 31);
  const view = viewOf(segment);
  const delta = difference32(0xcb00710a | 0, 0x0a14000b);
  return {
    name: "L4 checksum after NAT, 1,460 bytes",
    alternative: "sumBytes over the segment",
    same: false,
    fast: (at) => updateChecksum(view.getUint16((at * 2) % 1400), delta),
    slow: (at) => ~sumBytes(view, 0, 1460, at) & 0xffff,
  };
}

const ENDS = { sourcePort: 40_000, destinationPort: 80 } as const;

function tcpPair(): Pair {
  const flagSets = [2, 18, 16, 24, 17, 4, 20, 3, 0, 1, 5, 48];
  const views = Array.from({ length: CALLS }, (_, at) =>
    viewOf(
      tcpPacket({
        ...ENDS,
        source: "198.51.100.2",
        destination: addressText(0x0a140000 + at),
        flags: flagSets[at % flagSets.length]!,
      }),
    ),
  );
  const valid = new Set(["S", "SA", "A", "R", "RA", "FA", "AU"]);
  return {
    name: "checkTcp",
    alternative: "flags as text, in a set",
    same: true,
    fast: (at) => (checkTcp(views[at]!, 20, 20) === TCP_OK ? 1 : 0),
    slow(at) {
      const flags = views[at]!.getUint8(33);
      let text = "";
      if ((flags & 1) !== 0) text += "F";
      if ((flags & 2) !== 0) text += "S";
      if ((flags & 4) !== 0) text += "R";
      if ((flags & 16) !== 0) text += "A";
      if ((flags & 32) !== 0) text += "U";
      return views[at]!.getUint8(32) >>> 4 === 5 && valid.has(text) ? 1 : 0;
    },
  };
}

function udpPair(): Pair {
  const views = Array.from({ length: CALLS }, (_, at) => {
    const data = new Uint8Array(at % 64);
    return viewOf(udpPacket({ ...ENDS, source: "198.51.100.2", destination: "10.20.0.11", data }));
  });
  return {
    name: "checkUdp",
    alternative: "header parsed to an object",
    same: true,
    fast: (at) => (checkUdp(views[at]!, 20, 8 + (at % 64)) === UDP_OK ? 1 : 0),
    slow(at) {
      const header = {
        ports: [views[at]!.getUint16(20), views[at]!.getUint16(22)],
        length: views[at]!.getUint16(24),
        checksum: views[at]!.getUint16(26),
      };
      return header.length >= 8 && header.length <= 8 + (at % 64) ? 1 : 0;
    },
  };
}

function kindPair(): Pair {
  const names = ["SYN", "SYN ACK", "FIN", "ACK", "RST", "NONE"];
  return {
    name: "segmentKind",
    alternative: "names, in a list",
    same: true,
    fast: (at) => segmentKind(at & 63),
    slow(at) {
      const flags = at & 63;
      let name = "NONE";
      if ((flags & 16) !== 0) name = "ACK";
      if ((flags & 1) !== 0) name = "FIN";
      if ((flags & 2) !== 0) name = (flags & 16) !== 0 ? "SYN ACK" : "SYN";
      if ((flags & 4) !== 0) name = "RST";
      return names.indexOf(name);
    },
  };
}

function macPair(): Pair {
  const fast = new DataView(new ArrayBuffer(64));
  const slow = new Uint8Array(64);
  const slowView = viewOf(slow);
  const macs = words(2 * CALLS);
  return {
    name: "setEthernetAddresses",
    alternative: "byte by byte",
    same: true,
    fast(at) {
      setEthernetAddresses(fast, 0, macs[at]!, at, macs[at + 1]!, at + 1);
      return fast.getInt32(0) ^ fast.getInt32(4) ^ fast.getInt32(8);
    },
    slow(at) {
      let to = 0;
      for (const [high, low] of [
        [macs[at]!, at],
        [macs[at + 1]!, at + 1],
      ] as const) {
        for (const shift of [24, 16, 8, 0]) slow[to++] = high >>> shift;
        slow[to++] = low >>> 8;
        slow[to++] = low;
      }
      return slowView.getInt32(0) ^ slowView.getInt32(4) ^ slowView.getInt32(8);
    },
  };
}

/** HalfSipHash-1-3 as halfsiphash.c has it: a loop over the words of the message. */
function slowFlowHash(k0: number, k1: number, message: readonly number[]): number {
  const v = [k0, k1, 0x6c796765 ^ k0, 0x74656462 ^ k1];
  const rotate = (word: number, bits: number): number => (word << bits) | (word >>> (32 - bits));
  const round = (): void => {
    v[0] = (v[0]! + v[1]!) | 0;
    v[1] = rotate(v[1]!, 5) ^ v[0];
    v[0] = rotate(v[0], 16);
    v[2] = (v[2]! + v[3]!) | 0;
    v[3] = rotate(v[3]!, 8) ^ v[2];
    v[0] = (v[0] + v[3]) | 0;
    v[3] = rotate(v[3], 7) ^ v[0];
    v[2] = (v[2] + v[1]) | 0;
    v[1] = rotate(v[1], 13) ^ v[2];
    v[2] = rotate(v[2], 16);
  };
  for (const word of [...message, (message.length * 4) << 24]) {
    v[3]! ^= word;
    round();
    v[0]! ^= word;
  }
  v[2]! ^= 0xff;
  for (let last = 0; last < 3; last++) round();
  return v[1]! ^ v[3]!;
}

function hashPair(): Pair {
  const keys = words(3 * CALLS);
  return {
    name: "flowHash",
    alternative: "halfsiphash.c's loop",
    same: true,
    fast: (at) => flowHash(1, 2, 6, keys[3 * at]!, keys[3 * at + 1]!, keys[3 * at + 2]!),
    slow: (at) => slowFlowHash(1, 2, [6, keys[3 * at]!, keys[3 * at + 1]!, keys[3 * at + 2]!]),
  };
}

export const WIRE_PAIRS: Readonly<Record<string, () => Pair>> = {
  hash: hashPair,
  "sum-20": () => sumPair(20),
  "sum-1460": () => sumPair(1460),
  "pseudo-sum": pseudoPair,
  difference: differencePair,
  partial: partialPair,
  "nat-checksum": natPair,
  "header-checksum": headerChecksumPair,
  ttl: ttlPair,
  tcp: tcpPair,
  udp: udpPair,
  kind: kindPair,
  mac: macPair,
};
