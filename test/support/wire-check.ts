/**
 * A slow walk over a frame that verifies, or makes right, every checksum in it. It shares nothing
 * with src/wire, so that each can be wrong without the other: headers are read byte by byte, sums
 * are plain sums of 16-bit words (RFC 1071).
 *
 * It knows Ethernet, IPv4, IPv6 and its extension headers (RFC 8200 4), TCP, UDP, ICMP and ICMPv6
 * with what they quote, and IP in IP and GUE variant 1 down to two headers deep. What it does not
 * know has no checksum for it. Of a fragment it looks at the IP header alone.
 */

export type Fault =
  | "IPv4 header checksum"
  | "inner IPv4 header checksum"
  | "quoted IPv4 header checksum"
  | "TCP checksum"
  | "UDP checksum"
  | "UDP without a checksum in IPv6"
  | "ICMP checksum"
  | "ICMPv6 checksum"
  | "shape";

export interface WireKind {
  /** 14 on Ethernet, 0 on TUN. */
  readonly link: number;
  /** virtio_net_hdr words as in a descriptor: NEEDS_CSUM says that a field holds a partial sum. */
  readonly vnet?: number;
  readonly csum?: number;
  /** AF_XDP: a transport field that holds the pseudo header's sum is as good as a whole one. */
  readonly silentPartial?: boolean;
  /** UDP port of GUE; its datagrams hold a packet, and may go without a checksum (RFC 6935). */
  readonly guePort?: number;
}

const DEPTH_MAX = 2;
const NEEDS_CSUM = 1;

/** Every fault of a frame; none when all is right, or when it is no IP. */
export function wireFaults(frame: Uint8Array, kind: WireKind): Fault[] {
  const walk = new Walk(frame, kind, false);
  walk.frame();
  return walk.faults;
}

/** Make every checksum right, in place, as far as the frame's shape lets it be found. */
export function repairChecksums(frame: Uint8Array, kind: WireKind): void {
  new Walk(frame, kind, true).frame();
}

class Walk {
  readonly faults: Fault[] = [];
  readonly #bytes: Uint8Array;
  readonly #kind: WireKind;
  readonly #repair: boolean;
  #depth = 0;
  #isQuote = false;

  constructor(bytes: Uint8Array, kind: WireKind, repair: boolean) {
    this.#bytes = bytes;
    this.#kind = kind;
    this.#repair = repair;
  }

  frame(): void {
    const { link } = this.#kind;
    const bytes = this.#bytes;
    if (bytes.length <= link) return;
    if (link === 0) {
      this.#packet(0, bytes.length, bytes[0]! >> 4);
      return;
    }
    const type = this.#u16(12);
    if (type === 0x0800) this.#packet(link, bytes.length, 4);
    if (type === 0x86dd) this.#packet(link, bytes.length, 6);
  }

  #u16(at: number): number {
    return this.#bytes[at]! * 256 + this.#bytes[at + 1]!;
  }

  #fault(fault: Fault): void {
    if (!this.faults.includes(fault)) this.faults.push(fault);
  }

  /** Too short to be read on: a fault, but for a quote. */
  #cut(): void {
    if (!this.#isQuote) this.#fault("shape");
  }

  /** Sum of 16-bit words, not folded. */
  #sum(at: number, end: number): number {
    const bytes = this.#bytes;
    let sum = 0;
    for (let index = at; index < end; index += 2) {
      sum += bytes[index]! * 256 + (index + 1 < end ? bytes[index + 1]! : 0);
    }
    return sum;
  }

  #fold(sum: number): number {
    let folded = sum;
    while (folded > 0xffff) folded = (folded % 0x10000) + Math.floor(folded / 0x10000);
    return folded;
  }

  #write(at: number, value: number): void {
    this.#bytes[at] = value >> 8;
    this.#bytes[at + 1] = value & 0xff;
  }

  /** A field whose words, its own included, sum to all ones over `at` to `end` and `more`. */
  #whole(at: number, end: number, more: number, fieldAt: number, fault: Fault): void {
    if (!this.#repair) {
      if (this.#fold(this.#sum(at, end) + more) !== 0xffff) this.#fault(fault);
      return;
    }
    this.#write(fieldAt, 0);
    const value = 0xffff - this.#fold(this.#sum(at, end) + more);
    this.#write(fieldAt, value === 0 && fault === "UDP checksum" ? 0xffff : value);
  }

  #packet(at: number, end: number, version: number): void {
    if (version === 4) this.#ipv4(at, end);
    else if (version === 6) this.#ipv6(at, end);
    else this.#fault("shape");
  }

  #ipv4(at: number, end: number): void {
    const bytes = this.#bytes;
    const headerBytes = at < end ? (bytes[at]! & 15) * 4 : 0;
    if (end - at < 20 || bytes[at]! >> 4 !== 4 || headerBytes < 20 || at + headerBytes > end) {
      this.#fault("shape");
      return;
    }
    const total = this.#u16(at + 2);
    const packetEnd = at + total;
    const l4At = at + headerBytes;
    const whole = total >= headerBytes && packetEnd <= end;
    if (!whole && !this.#isQuote) this.#fault("shape");
    const fragment = this.#u16(at + 6) & 0x3fff;
    if (this.#isQuote && (fragment & 0x1fff) === 0) this.#quotedInner(bytes[at + 9]!, l4At, end);
    if (whole && fragment === 0) {
      this.#transport(bytes[at + 9]!, l4At, packetEnd, this.#sum(at + 12, at + 20), 4);
    }
    const fault = this.#isQuote
      ? "quoted IPv4 header checksum"
      : this.#depth === 0
        ? "IPv4 header checksum"
        : "inner IPv4 header checksum";
    this.#whole(at, l4At, 0, at + 10, fault);
  }

  #ipv6(at: number, end: number): void {
    const bytes = this.#bytes;
    if (end - at < 40 || bytes[at]! >> 4 !== 6) {
      this.#fault("shape");
      return;
    }
    const packetEnd = at + 40 + this.#u16(at + 4);
    if (packetEnd > end) {
      if (!this.#isQuote) this.#fault("shape");
      return;
    }
    let next = bytes[at + 6]!;
    let here = at + 40;
    // Hop-by-hop, routing, destination options, authentication, fragment (RFC 8200 4, RFC 4302).
    while ([0, 43, 60, 51, 44].includes(next)) {
      if (here + 8 > packetEnd) {
        this.#fault("shape");
        return;
      }
      // Still under way by a routing header: the checksum is for the last destination.
      if (next === 43 && bytes[here + 3] !== 0) return;
      if (next === 44 && (this.#u16(here + 2) & 0xfff9) !== 0) return;
      const size =
        next === 44 ? 8 : next === 51 ? (bytes[here + 1]! + 2) * 4 : (bytes[here + 1]! + 1) * 8;
      next = bytes[here]!;
      here += size;
      if (here > packetEnd) {
        this.#fault("shape");
        return;
      }
    }
    this.#transport(next, here, packetEnd, this.#sum(at + 8, at + 40), 6);
  }

  /** The partial sum stands in the field at `fieldAt`, if the virtio header says so. */
  #isPartial(l4At: number, fieldAt: number): boolean {
    const { vnet = 0, csum = 0 } = this.#kind;
    if ((vnet & NEEDS_CSUM) === 0 || this.#isQuote) return false;
    return (csum & 0xffff) === l4At && l4At + (csum >>> 16) === fieldAt;
  }

  #transport(protocol: number, at: number, end: number, addresses: number, family: 4 | 6): void {
    if (protocol === 6) this.#tcp(at, end, addresses);
    else if (protocol === 17) this.#udp(at, end, addresses, family);
    else if (protocol === 1 && family === 4) this.#icmp(at, end);
    else if (protocol === 58 && family === 6) this.#icmpv6(at, end, addresses);
    else if (protocol === 4 || protocol === 41) this.#inner(at, end, protocol === 4 ? 4 : 6);
  }

  /** A tunnel's packet that is quoted: the header of what it carried, as far as it is there. */
  #quotedInner(protocol: number, l4At: number, end: number): void {
    if (this.#depth > 0) return;
    const isGue = protocol === 17 && l4At + 8 <= end && this.#u16(l4At + 2) === this.#kind.guePort;
    const at = isGue ? l4At + 8 : l4At;
    if ((protocol !== 4 && !isGue) || at >= end || this.#bytes[at]! >> 4 !== 4) return;
    this.#depth++;
    this.#ipv4(at, end);
    this.#depth--;
  }

  #inner(at: number, end: number, version: number): void {
    if (this.#depth + 1 >= DEPTH_MAX || this.#isQuote) return;
    this.#depth++;
    const known = this.faults.includes("shape");
    this.#packet(at, end, version);
    this.#depth--;
    // What a tunnel carries may look like a packet and be none: only its sums count.
    const shape = this.faults.indexOf("shape");
    if (!known && shape >= 0) this.faults.splice(shape, 1);
  }

  #summed(at: number, end: number, pseudo: number, fieldAt: number, fault: Fault): void {
    const field = this.#u16(fieldAt);
    if (this.#isPartial(at, fieldAt)) {
      const expected = this.#fold(pseudo);
      if (this.#repair) this.#write(fieldAt, expected);
      else if (field !== expected) this.#fault(fault);
      return;
    }
    if (this.#kind.silentPartial === true && !this.#repair && field === this.#fold(pseudo)) return;
    this.#whole(at, end, pseudo, fieldAt, fault);
  }

  #tcp(at: number, end: number, addresses: number): void {
    if (end - at < 20) {
      this.#cut();
      return;
    }
    this.#summed(at, end, addresses + 6 + (end - at), at + 16, "TCP checksum");
  }

  #udp(at: number, end: number, addresses: number, family: 4 | 6): void {
    const length = end - at < 8 ? 0 : this.#u16(at + 4);
    if (length < 8 || at + length > end) {
      this.#cut();
      return;
    }
    const isGue = this.#u16(at + 2) === this.#kind.guePort;
    if (isGue && length > 8 && this.#bytes[at + 8]! >> 6 === 1) {
      this.#inner(at + 8, at + length, this.#bytes[at + 8]! >> 4);
    }
    // A partial sum is never 0, and whoever completes it goes to the end of the packet.
    const isPartial = this.#isPartial(at, at + 6);
    if (isPartial && at + length !== end) {
      this.#fault("UDP checksum");
      return;
    }
    if (this.#u16(at + 6) === 0 && !isPartial) {
      // RFC 768: none. RFC 8200 8.1: not in IPv6, tunnels apart.
      if (family === 4 || isGue) return;
      if (!this.#repair) {
        this.#fault("UDP without a checksum in IPv6");
        return;
      }
    }
    this.#summed(at, at + length, addresses + 17 + length, at + 6, "UDP checksum");
  }

  #icmp(at: number, end: number): void {
    if (end - at < 8) {
      this.#cut();
      return;
    }
    if ([3, 4, 5, 11, 12].includes(this.#bytes[at]!)) this.#quote(at + 8, end, 4);
    // What a quoted message says is cut off, as a rule.
    if (!this.#isQuote) this.#whole(at, end, 0, at + 2, "ICMP checksum");
  }

  #icmpv6(at: number, end: number, addresses: number): void {
    if (end - at < 8) {
      this.#cut();
      return;
    }
    if (this.#bytes[at]! < 128) this.#quote(at + 8, end, 6);
    if (this.#isQuote) return;
    this.#whole(at, end, addresses + 58 + (end - at), at + 2, "ICMPv6 checksum");
  }

  /** A quoted packet: its IP header; what follows is as the network left it. */
  #quote(at: number, end: number, version: number): void {
    if (this.#isQuote || this.#depth > 0) return;
    this.#isQuote = true;
    const faults = this.faults.length;
    if (version === 4) this.#ipv4(at, end);
    // A transport checksum in a quote is nobody's promise (RFC 5508 REQ-4 d): only the header counts.
    const header = this.faults.includes("quoted IPv4 header checksum");
    this.faults.length = faults;
    if (header) this.#fault("quoted IPv4 header checksum");
    this.#isQuote = false;
  }
}
