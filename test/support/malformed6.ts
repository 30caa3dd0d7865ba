import type { DropReason } from "../../src/datapath/verdict.ts";
import { ACK, FIN, RST, SYN, URG } from "./frames.ts";
import { bytes6, icmp6, ipv6Packet, solicitation, tcp6, udp6 } from "./packets6.ts";

/**
 * Every kind of malformed IPv6 packet, one of each, and the one drop that it must be: as malformed.ts,
 * for a gateway with a TCP service on VIP_6:80 and a UDP service on VIP_6:53.
 */
export const VIP_6 = "2001:db8:ff::10";
export const CLIENT_6 = "2001:db8:1::2";

export interface Malformed6 {
  readonly name: string;
  readonly packet: Uint8Array;
  readonly reason: DropReason;
  /** Addressed to the VIP's solicited-node group: on Ethernet alone. */
  readonly isNeighbour?: boolean;
}

const ENDS = { source: CLIENT_6, destination: VIP_6 } as const;
const TCP = { ...ENDS, sourcePort: 40_000, destinationPort: 80, flags: SYN };
const UDP = { ...ENDS, sourcePort: 40_000, destinationPort: 53, data: [1, 2, 3] };
const HEADER = 40;

function patched(
  packet: Uint8Array,
  ...patches: readonly (readonly [number, number])[]
): Uint8Array {
  const changed = packet.slice();
  for (const [at, value] of patches) changed[at] = value;
  return changed;
}

function rows(reason: DropReason, packets: Readonly<Record<string, Uint8Array>>): Malformed6[] {
  return Object.entries(packets).map(([name, packet]) => ({ name, packet, reason }));
}

/** Extension headers before a good segment. */
function behind(...extensions: readonly (readonly [type: number, bytes: readonly number[]])[]) {
  return tcp6({ ...TCP, ip: { extensions } });
}

const PAD = [0, 0, 1, 4, 0, 0, 0, 0] as const;

function headers(): Malformed6[] {
  const valid = tcp6(TCP);
  const from = (source: string): Uint8Array => tcp6({ ...TCP, source });
  return [
    ...rows("frame_too_short", {
      "IPv6 header of 39 bytes": valid.slice(0, 39),
      "IPv6 header of 1 byte": valid.slice(0, 1),
    }),
    ...rows("ipv6_length_wrong", {
      "payload length one past the end": patched(valid, [5, valid.length - HEADER + 1]),
      "payload length 65535": patched(valid, [4, 0xff], [5, 0xff]),
      "cut in the TCP header": valid.slice(0, HEADER + 19),
      "cut behind the IPv6 header": valid.slice(0, HEADER),
    }),
    ...rows("ipv6_source_invalid", {
      "source ::1": from("::1"),
      "source of a group": from("ff02::1"),
      "source of the VIP's own group": from("ff02::1:ff00:10"),
    }),
  ];
}

function extensions(): Malformed6[] {
  return [
    ...rows("ipv6_extension_malformed", {
      "options longer than the packet": behind([60, [0, 99, 0, 0, 0, 0, 0, 0]]),
      "hop-by-hop longer than the packet": behind([0, [0, 255, 0, 0, 0, 0, 0, 0]]),
      "hop-by-hop behind another header": behind([60, PAD], [0, PAD]),
      "routing header longer than the packet": behind([43, [0, 200, 4, 0, 0, 0, 0, 0]]),
      "a header of 7 bytes": ipv6Packet({ ...ENDS, protocol: 60, payload: [6, 0, 1, 4, 0, 0, 0] }),
      "a header of 1 byte": ipv6Packet({ ...ENDS, protocol: 60, payload: [6] }),
      "a fragment header of 7 bytes": ipv6Packet({
        ...ENDS,
        protocol: 44,
        payload: [6, 0, 0, 0, 0, 0, 0],
      }),
    }),
    ...rows("ipv6_extensions_too_many", {
      "nine headers": behind(...Array.from({ length: 9 }, () => [60, PAD] as const)),
      "a hundred headers": behind(...Array.from({ length: 100 }, () => [60, PAD] as const)),
    }),
    ...rows("ipv6_routing_header", {
      "routing header of type 0": behind([43, [0, 2, 0, 1, 0, 0, 0, 0, ...bytes6("2001:db8::9")]]),
      "routing header of type 0 without segments": behind([43, [0, 0, 0, 0, 0, 0, 0, 0]]),
      "routing header with segments left": behind([
        43,
        [0, 2, 4, 1, 0, 0, 0, 0, ...bytes6("2001:db8::9")],
      ]),
    }),
  ];
}

function transports(): Malformed6[] {
  const segment = tcp6({ ...TCP, data: [1, 2, 3, 4, 5, 6, 7, 8] });
  const datagram = udp6(UDP);
  const of = (protocol: number, payload: ArrayLike<number>): Uint8Array =>
    ipv6Packet({ ...ENDS, protocol, payload });
  const flags = (set: number): Uint8Array => tcp6({ ...TCP, flags: set });
  return [
    ...rows("tcp_header_malformed", {
      "TCP of 0 bytes": of(6, []),
      "TCP of 19 bytes": of(6, segment.slice(HEADER, HEADER + 19)),
      "TCP data offset 4": patched(segment, [HEADER + 12, 0x40]),
      "TCP data offset 0": patched(segment, [HEADER + 12, 0]),
      "TCP data offset past the end": patched(segment, [HEADER + 12, 0x80]),
    }),
    ...rows("tcp_flags_invalid", {
      "no flags": flags(0),
      "FIN alone": flags(FIN),
      "SYN and FIN": flags(SYN | FIN),
      "SYN and RST": flags(SYN | RST),
      "RST and FIN": flags(RST | FIN | ACK),
      "all flags": flags(FIN | SYN | RST | 8 | ACK | URG),
    }),
    ...rows("udp_header_malformed", {
      "UDP of 0 bytes": of(17, []),
      "UDP of 7 bytes": of(17, datagram.slice(HEADER, HEADER + 7)),
      "UDP length 7": patched(datagram, [HEADER + 5, 7]),
      "UDP length 0 (a jumbogram's)": patched(datagram, [HEADER + 5, 0]),
      "UDP length one past the end": patched(datagram, [HEADER + 5, datagram.length - HEADER + 1]),
    }),
    ...rows("udp_checksum_missing", { "UDP without a checksum": udp6({ ...UDP, noSum: true }) }),
  ];
}

function messages(): Malformed6[] {
  const quote = tcp6({
    ...TCP,
    source: VIP_6,
    destination: CLIENT_6,
    sourcePort: 80,
    destinationPort: 40_000,
  });
  const about = (data: ArrayLike<number>): Uint8Array => icmp6({ ...ENDS, type: 1, code: 4, data });
  const echo = icmp6({ ...ENDS, type: 128, data: [1, 2, 3] });
  const of = (payload: ArrayLike<number>): Uint8Array =>
    ipv6Packet({ ...ENDS, protocol: 58, payload });
  return [
    ...rows("icmp_header_malformed", {
      "ICMPv6 of 0 bytes": of([]),
      "ICMPv6 of 7 bytes": of(echo.slice(HEADER, HEADER + 7)),
    }),
    ...rows("icmp_checksum_wrong", {
      "ICMPv6 checksum wrong": patched(echo, [HEADER + 3, echo[HEADER + 3]! ^ 1]),
      "ICMPv6 checksum 0": patched(echo, [HEADER + 2, 0], [HEADER + 3, 0]),
    }),
    ...rows("icmp_quote_malformed", {
      "an error that quotes nothing": about([]),
      "a quote of 39 bytes": about(quote.slice(0, 39)),
      "a quote without ports": about(quote.slice(0, HEADER + 3)),
      "a quote of version 4": about(patched(quote, [0, 0x40])),
    }),
  ];
}

function neighbours(): Malformed6[] {
  const target = bytes6(VIP_6);
  const broken: Readonly<Record<string, Uint8Array>> = {
    "solicitation with hop limit 64": solicitation(CLIENT_6, VIP_6, { ip: { hopLimit: 64 } }),
    "solicitation with code 1": solicitation(CLIENT_6, VIP_6, { code: 1 }),
    "solicitation with an option of length 0": solicitation(CLIENT_6, VIP_6, {
      data: [...target, 1, 0, 0, 0, 0, 0, 0, 0],
    }),
    "solicitation with an option past the end": solicitation(CLIENT_6, VIP_6, {
      data: [...target, 1, 2, 0, 0, 0, 0, 0, 0],
    }),
    "solicitation from :: with a link-layer address": solicitation("::", VIP_6, {
      data: [...target, 1, 1, 2, 0, 0, 0, 1, 2],
    }),
  };
  return rows("neighbour_malformed", broken).map((row) => ({ ...row, isNeighbour: true }));
}

export const MALFORMED_6: readonly Malformed6[] = [
  ...headers(),
  ...extensions(),
  ...transports(),
  ...messages(),
  ...neighbours(),
];
