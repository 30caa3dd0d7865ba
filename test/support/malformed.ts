import type { DropReason } from "../../src/datapath/verdict.ts";
import { VNET_F_NEEDS_CSUM, VNET_GSO_TCPV4, VNET_GSO_UDP_L4 } from "../../src/device/device.ts";
import type { VnetWords } from "../../src/device/memory.ts";
import {
  ACK,
  addressBytes,
  arpPacket,
  ethernetFrame,
  FIN,
  GATEWAY_MAC,
  icmpEcho,
  icmpError,
  ipv4Packet,
  PSH,
  RST,
  SYN,
  type TcpFields,
  tcpPacket,
  tcpSegment,
  type UdpFields,
  URG,
  udpDatagram,
  udpPacket,
  withHeaderChecksum,
} from "./frames.ts";

/**
 * Every kind of malformed frame, one of each, and the one drop that it must be.
 *
 * All are for a gateway with a TCP service on VIP:TCP_PORT and a UDP service on VIP:UDP_PORT, and
 * with no host address at VIP; on AF_PACKET the gateway leaves other people's broken frames alone.
 * They come from CLIENT unless the source is what is wrong.
 */

export const VIP = "203.0.113.10";
export const TCP_PORT = 80;
export const UDP_PORT = 53;
export const CLIENT = "198.51.100.2";
export const CLIENT_PORT = 40_000;

export interface MalformedFrame {
  readonly name: string;
  /** With its Ethernet header; on TUN without the first 14 bytes. */
  readonly frame: Uint8Array;
  readonly reason: DropReason;
  /** What is wrong is there on TUN too. */
  readonly onTun: boolean;
  /** virtio_net_hdr on Ethernet; on TUN csum_start is 14 less. */
  readonly words?: VnetWords;
}

const ENDS = { source: CLIENT, destination: VIP } as const;
const TCP: TcpFields = { ...ENDS, sourcePort: CLIENT_PORT, destinationPort: TCP_PORT, flags: SYN };
const UDP: UdpFields = {
  ...ENDS,
  sourcePort: CLIENT_PORT,
  destinationPort: UDP_PORT,
  data: [1, 2, 3],
};

/** A change of one byte at an offset. */
type Patch = readonly [at: number, value: number];

function patched(bytes: Uint8Array, ...patches: readonly Patch[]): Uint8Array {
  const changed = bytes.slice();
  for (const [at, value] of patches) changed[at] = value;
  return changed;
}

interface Row {
  readonly name: string;
  readonly packet: Uint8Array;
  readonly reason: DropReason;
  readonly words?: VnetWords;
}

/** Rows that break the IPv4 header; the header checksum is right again unless it is the fault. */
function ipv4Rows(): Row[] {
  const valid = tcpPacket(TCP);
  const optionRow = (name: string, reason: DropReason, options: readonly number[]): Row => ({
    name,
    packet: tcpPacket({ ...TCP, ip: { options } }),
    reason,
  });
  const sourceRow = (source: string): Row => ({
    name: `source ${source}`,
    packet: tcpPacket({ ...TCP, source }),
    reason: "ipv4_source_invalid",
  });
  const hop = addressBytes("192.0.2.1");
  return [
    { name: "IPv4 header of 19 bytes", packet: valid.slice(0, 19), reason: "frame_too_short" },
    {
      name: "IHL 4, below the minimum",
      packet: withHeaderChecksum(patched(valid, [0, 0x44])),
      reason: "ipv4_header_malformed",
    },
    {
      name: "IHL 15, past the end",
      packet: withHeaderChecksum(patched(valid, [0, 0x4f])),
      reason: "ipv4_header_malformed",
    },
    {
      name: "version 5",
      packet: withHeaderChecksum(patched(valid, [0, 0x55])),
      reason: "ipv4_header_malformed",
    },
    {
      name: "header checksum wrong by one",
      packet: patched(valid, [11, valid[11]! ^ 1]),
      reason: "ipv4_checksum_wrong",
    },
    {
      name: "header checksum 0",
      packet: patched(valid, [10, 0], [11, 0]),
      reason: "ipv4_checksum_wrong",
    },
    {
      name: "header checksum of a header with options left wrong",
      packet: patched(tcpPacket({ ...TCP, ip: { options: [1, 1, 1, 0] } }), [20, 0]),
      reason: "ipv4_checksum_wrong",
    },
    {
      name: "total length below the header",
      packet: withHeaderChecksum(patched(valid, [3, 19])),
      reason: "ipv4_length_wrong",
    },
    {
      name: "total length one past the end",
      packet: withHeaderChecksum(patched(valid, [3, valid.length + 1])),
      reason: "ipv4_length_wrong",
    },
    {
      name: "total length 65535",
      packet: withHeaderChecksum(patched(valid, [2, 0xff], [3, 0xff])),
      reason: "ipv4_length_wrong",
    },
    optionRow("loose source route", "ipv4_options_source_route", [131, 7, 4, ...hop, 0]),
    optionRow("strict source route", "ipv4_options_source_route", [137, 7, 4, ...hop, 0]),
    optionRow("source route after others", "ipv4_options_source_route", [
      ...[1, 7, 4, 4],
      ...[1, 131, 7, 4],
      ...hop,
    ]),
    optionRow("option of length 0", "ipv4_header_malformed", [7, 0, 0, 0]),
    optionRow("option of length 1", "ipv4_header_malformed", [7, 1, 0, 0]),
    optionRow("option past the header", "ipv4_header_malformed", [7, 5, 4, 0]),
    optionRow("option without a length", "ipv4_header_malformed", [1, 1, 1, 7]),
    ...["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.254"].map(sourceRow),
    ...["224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"].map(sourceRow),
  ];
}

function flagsName(flags: number): string {
  const names = [..."FSRPAU"].filter((_, index) => ((flags >> index) & 1) === 1);
  return names.length === 0 ? "none" : names.join("");
}

function tcpRows(): Row[] {
  const segment = tcpSegment({ ...TCP, data: [1, 2, 3, 4, 5, 6, 7, 8] });
  const inPacket = (payload: Uint8Array): Uint8Array =>
    ipv4Packet({ ...ENDS, protocol: 6, payload });
  const malformed = (name: string, payload: Uint8Array): Row => ({
    name,
    packet: inPacket(payload),
    reason: "tcp_header_malformed",
  });
  const flags = [
    0,
    PSH,
    FIN,
    FIN | PSH | URG,
    URG,
    SYN | FIN,
    SYN | FIN | ACK,
    SYN | RST,
    SYN | RST | ACK,
    SYN | ACK | URG,
    RST | FIN,
    RST | FIN | ACK,
    RST | URG,
    RST | ACK | URG,
    FIN | SYN | RST | PSH | ACK | URG,
  ];
  return [
    malformed("TCP segment of 0 bytes", new Uint8Array(0)),
    malformed("TCP segment of 19 bytes", segment.slice(0, 19)),
    malformed("TCP data offset 4", patched(segment, [12, 0x40])),
    malformed("TCP data offset 0", patched(segment, [12, 0x00])),
    malformed("TCP data offset past the end", patched(segment, [12, 0x80])),
    ...flags.map(
      (set): Row => ({
        name: `TCP flags ${flagsName(set)}`,
        packet: tcpPacket({ ...TCP, flags: set }),
        reason: "tcp_flags_invalid",
      }),
    ),
  ];
}

function udpRows(): Row[] {
  const datagram = udpDatagram(UDP);
  const row = (name: string, payload: Uint8Array): Row => ({
    name,
    packet: ipv4Packet({ ...ENDS, protocol: 17, payload }),
    reason: "udp_header_malformed",
  });
  return [
    row("UDP datagram of 0 bytes", new Uint8Array(0)),
    row("UDP datagram of 7 bytes", datagram.slice(0, 7)),
    row("UDP length 7", patched(datagram, [5, 7])),
    row("UDP length 0", patched(datagram, [5, 0])),
    row("UDP length one past the end", patched(datagram, [5, datagram.length + 1])),
  ];
}

function icmpRows(): Row[] {
  const quote = tcpPacket({ ...TCP, source: VIP, destination: CLIENT });
  const row = (name: string, reason: DropReason, payload: Uint8Array): Row => ({
    name,
    packet: ipv4Packet({ ...ENDS, protocol: 1, payload }),
    reason,
  });
  const about = (bytes: ArrayLike<number>): Uint8Array =>
    icmpError({ type: 3, code: 1, quote: bytes });
  const quoteRow = (name: string, bytes: ArrayLike<number>): Row =>
    row(name, "icmp_quote_malformed", about(bytes));
  const valid = about(quote);
  const withOptions = tcpPacket({ ...TCP, ip: { options: [1, 1, 1, 0] } });
  return [
    row("ICMP message of 0 bytes", "icmp_header_malformed", new Uint8Array(0)),
    row("ICMP message of 7 bytes", "icmp_header_malformed", valid.slice(0, 7)),
    row("ICMP checksum wrong", "icmp_checksum_wrong", patched(valid, [3, valid[3]! ^ 1])),
    row("ICMP checksum 0", "icmp_checksum_wrong", patched(valid, [2, 0], [3, 0])),
    quoteRow("ICMP error that quotes nothing", []),
    quoteRow("ICMP quote one byte short", quote.slice(0, 27)),
    quoteRow("ICMP quote with options one byte short", withOptions.slice(0, 31)),
    quoteRow("ICMP quote of version 6", patched(quote, [0, 0x65])),
    quoteRow("ICMP quote with IHL 4", patched(quote, [0, 0x44])),
    quoteRow("ICMP quote of a later fragment", patched(quote, [6, 0], [7, 3])),
  ];
}

/** csum_start on Ethernet: link header and an IPv4 header of 20 bytes. */
const L4_START = 34;

function vnetRows(): Row[] {
  const tcp = tcpPacket({ ...TCP, checksum: "partial" });
  const udp = udpPacket({ ...UDP, checksum: "partial" });
  const icmp = ipv4Packet({ ...ENDS, protocol: 1, payload: icmpEcho() });
  const row = (name: string, packet: Uint8Array, vnet: number, csum: number): Row => ({
    name,
    packet,
    reason: "vnet_header_invalid",
    words: { vnet, csum },
  });
  const gso = (type: number, size: number): number =>
    VNET_F_NEEDS_CSUM | (type << 8) | (size << 16);
  const tcpCsum = L4_START | (16 << 16);
  const udpCsum = L4_START | (6 << 16);
  return [
    row("csum_start before the transport header", tcp, VNET_F_NEEDS_CSUM, tcpCsum - 4),
    row("csum_start past the end", tcp, VNET_F_NEEDS_CSUM, 0xffff | (16 << 16)),
    row("csum_offset of UDP in TCP", tcp, VNET_F_NEEDS_CSUM, udpCsum),
    row("csum_offset of TCP in UDP", udp, VNET_F_NEEDS_CSUM, tcpCsum),
    row("partial checksum of ICMP", icmp, VNET_F_NEEDS_CSUM, udpCsum),
    row("GSO of ICMP", icmp, VNET_GSO_TCPV4 << 8, 0),
    row("GSO of segments of 0 bytes", tcp, gso(VNET_GSO_TCPV4, 0), tcpCsum),
    row("GSO type of TCP in UDP", udp, gso(VNET_GSO_TCPV4, 1000), udpCsum),
    row("GSO type of UDP in TCP", tcp, gso(VNET_GSO_UDP_L4, 1000), tcpCsum),
  ];
}

/** Frames that are broken before there is a packet, and ARP: not on TUN. */
function ethernetRows(gatewayMac: string): MalformedFrame[] {
  const valid = ethernetFrame(tcpPacket(TCP), { destination: gatewayMac });
  const arp = arpPacket({ senderAddress: CLIENT, targetAddress: VIP });
  const short = (name: string, frame: Uint8Array): MalformedFrame => ({
    name,
    frame,
    reason: "frame_too_short",
    onTun: false,
  });
  const arpRow = (name: string, packet: Uint8Array): MalformedFrame => ({
    name,
    frame: ethernetFrame(packet, { destination: "ff:ff:ff:ff:ff:ff", type: 0x0806 }),
    reason: "arp_malformed",
    onTun: false,
  });
  return [
    short("frame of 1 byte", valid.slice(0, 1)),
    short("frame of 13 bytes", valid.slice(0, 13)),
    arpRow("ARP of 0 bytes", new Uint8Array(0)),
    arpRow("ARP of 27 bytes", arp.slice(0, 27)),
    arpRow("ARP for hardware type 6", patched(arp, [1, 6])),
    arpRow("ARP for protocol type 0x86dd", patched(arp, [2, 0x86], [3, 0xdd])),
    arpRow("ARP with hardware addresses of 8 bytes", patched(arp, [4, 8])),
    arpRow("ARP with protocol addresses of 16 bytes", patched(arp, [5, 16])),
    arpRow("ARP from a group address", patched(arp, [8, 0x01])),
    arpRow("ARP from the broadcast address", arpFromBroadcast()),
  ];
}

function arpFromBroadcast(): Uint8Array {
  return arpPacket({
    senderMac: "ff:ff:ff:ff:ff:ff",
    senderAddress: CLIENT,
    targetAddress: VIP,
  });
}

/**
 * The list.
 *
 * @param gatewayMac - destination of the frames: the MAC of the interface that they come in on
 */
export function malformedFrames(gatewayMac: string = GATEWAY_MAC): MalformedFrame[] {
  const rows = [...ipv4Rows(), ...tcpRows(), ...udpRows(), ...icmpRows(), ...vnetRows()];
  return [
    ...ethernetRows(gatewayMac),
    {
      name: "Ethernet frame without a packet",
      frame: ethernetFrame([], { destination: gatewayMac }),
      reason: "frame_too_short",
      onTun: false,
    },
    ...rows.map(({ name, packet, reason, words }): MalformedFrame => {
      const frame = ethernetFrame(packet, { destination: gatewayMac });
      return { name, frame, reason, onTun: true, ...(words === undefined ? {} : { words }) };
    }),
  ];
}

/** The frame and its virtio_net_hdr words as they are on a TUN device. */
export function onTun(malformed: MalformedFrame): { frame: Uint8Array; words: VnetWords } {
  const { vnet, csum } = malformed.words ?? { vnet: 0, csum: 0 };
  const start = Math.max(0, (csum & 0xffff) - 14);
  return { frame: malformed.frame.slice(14), words: { vnet, csum: (csum & ~0xffff) | start } };
}

export const MALFORMED: readonly MalformedFrame[] = malformedFrames();
