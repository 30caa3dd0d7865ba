import type { Random } from "../../src/base/random.ts";
import { addressText, ethernetFrame, SYN, tcpPacket, udpPacket } from "../support/frames.ts";
import { frameOf, see6, tcp6, udp6 } from "../support/packets6.ts";

/**
 * What of the same-bytes test is of a family: its addresses, its random packets, and the words that
 * nftables and ip have for it.
 */
export interface Ends {
  readonly source: string;
  readonly sourcePort: number;
  readonly destination: string;
  readonly destinationPort: number;
}

export interface Family {
  readonly version: 4 | 6;
  readonly vip: string;
  readonly backend: string;
  readonly backendMac: string;
  /** The SNAT pool, as the configuration has it. */
  readonly snat: string;
  /** Text of the client of this number, below 100. */
  client(number: number): string;
  /** A random frame that a kernel's connection tracking takes for one of a connection. */
  frame(
    protocol: "tcp" | "udp",
    ends: Ends,
    flags: number,
    random: Random,
    macs: { readonly source: string; readonly destination: string },
  ): Uint8Array;
  /** Source address and port of a frame. */
  sourceOf(frame: Uint8Array): { readonly address: string; readonly port: number };
  /** Not what the kernel says on its own account: ARP, router and listener discovery. */
  isTraffic(frame: Uint8Array): boolean;
  /** Commands in the kernel's namespace: addresses of eth0 and eth1, and to forward. */
  readonly kernelAddresses: readonly string[];
  readonly forwards: string;
}

const SIZES = [0, 1, 2, 7, 18, 64, 513, 1200, 1401];

function randomData(random: Random): Uint8Array {
  return Uint8Array.from({ length: SIZES[random.below(SIZES.length)]! }, () => random.below(256));
}

/** What of a TCP segment is random; one that opens a connection has no data. */
function randomSegment(random: Random, flags: number) {
  return {
    flags,
    sequence: random.next32(),
    acknowledgement: random.next32(),
    ...((flags & SYN) === 0 ? {} : { data: [] }),
  };
}

export const IPV4: Family = {
  version: 4,
  vip: "203.0.113.10",
  backend: "10.20.0.11",
  backendMac: "02:00:0a:14:00:0b",
  snat: "10.20.0.100-10.20.0.103",
  client: (number) => `198.51.100.${2 + number}`,
  frame(protocol, ends, flags, random, macs) {
    const ip = {
      tos: random.below(256),
      id: random.below(65_536),
      ttl: 2 + random.below(254),
      fragmentWord: random.below(2) === 0 ? 0x4000 : 0,
      options: random.below(8) === 0 ? [1, 1, 1, 0] : [],
    };
    const all = { ...ends, data: randomData(random), ip };
    const window = 1 + random.below(65_535);
    const packet =
      protocol === "tcp"
        ? tcpPacket({ ...all, window, ...randomSegment(random, flags) })
        : udpPacket({ ...all, checksum: random.below(4) === 0 ? "none" : "complete" });
    return ethernetFrame(packet, { ...macs, padTo: 60 });
  },
  sourceOf(frame) {
    const view = new DataView(frame.buffer, frame.byteOffset + 14);
    const port = view.getUint16((view.getUint8(0) & 0xf) * 4);
    return { address: addressText(view.getUint32(12)), port };
  },
  isTraffic: (frame) => frame[12] === 8 && frame[13] === 0,
  kernelAddresses: ["198.51.100.1/24 dev eth0", "10.20.0.1/24 dev eth1"],
  forwards: [
    "ip_forward=1",
    "conf.all.rp_filter=0",
    "conf.eth0.rp_filter=0",
    "conf.eth1.rp_filter=0",
  ]
    .map((each) => `net.ipv4.${each}`)
    .join(" "),
};

const PADDED_HOP_BY_HOP: [number, number[]] = [60, [0, 0, 1, 4, 0, 0, 0, 0]];

export const IPV6: Family = {
  version: 6,
  vip: "2001:db8:ff::10",
  backend: "2001:db8:2::11",
  backendMac: "02:00:00:00:00:11",
  snat: "2001:db8:2::100-2001:db8:2::103",
  client: (number) => `2001:db8:1::${(2 + number).toString(16)}`,
  frame(protocol, ends, flags, random, macs) {
    const ip = {
      trafficClass: random.below(256),
      flowLabel: random.below(0x100000),
      hopLimit: 2 + random.below(254),
      extensions: random.below(8) === 0 ? [PADDED_HOP_BY_HOP] : [],
    };
    const all = { ...ends, data: randomData(random), ip };
    const packet =
      protocol === "tcp" ? tcp6({ ...all, ...randomSegment(random, flags) }) : udp6(all);
    return frameOf(packet, macs);
  },
  sourceOf(frame) {
    const { source, sourcePort } = see6(frame.subarray(14));
    return { address: source, port: sourcePort };
  },
  isTraffic: (frame) => frame[12] === 0x86 && frame[20] !== 58 && frame[20] !== 0,
  kernelAddresses: ["2001:db8:1::1/64 dev eth0 nodad", "2001:db8:2::1/64 dev eth1 nodad"],
  forwards: "net.ipv6.conf.all.forwarding=1",
};
