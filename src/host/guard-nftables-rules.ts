import { type Address, addressBits, isInPrefix } from "../base/address.ts";
import {
  type AddressEntry,
  type CompiledGuard,
  compileGuard,
  GUARD_BACKEND,
  GUARD_HOST,
  GUARD_VIP,
  GUARD_WHOLE,
  type GuardEntries,
  PORTS_OF_BACKEND,
  PORTS_OF_VIP,
  type PortRangeEntry,
} from "./guard-entries.ts";

/** What the nftables guard says to the kernel: its table, sets and rules, and the sets' elements. */

/** Sets of addresses, by the flag that puts an address into them. */
const ADDRESS_SETS: readonly (readonly [name: string, flag: number])[] = [
  ["whole", GUARD_WHOLE],
  ["vips", GUARD_VIP],
  ["hosts", GUARD_HOST],
  ["backends", GUARD_BACKEND],
];
const PORT_SETS: readonly (readonly [name: string, kind: number])[] = [
  ["vip_ports", PORTS_OF_VIP],
  ["backend_ports", PORTS_OF_BACKEND],
];

/** What differs between the families. */
interface FamilyText {
  readonly family: 4 | 6;
  /** Behind the names of sets and of the chain. */
  readonly suffix: string;
  readonly ip: string;
  readonly icmp: string;
  readonly errors: string;
  readonly laterFragment: string;
  /** Places in a packet that an ICMP error quotes, from the ICMP header on. */
  readonly quoted: {
    readonly source: string;
    readonly destination: string;
    readonly protocol: string;
    readonly sourcePort: string;
    readonly destinationPort: string;
    /** A header of the usual length, and no later fragment. */
    readonly header: string;
    readonly whole: string;
  };
}

const IPV4: FamilyText = {
  family: 4,
  suffix: "",
  ip: "ip",
  icmp: "icmp",
  errors: "{ destination-unreachable, source-quench, redirect, time-exceeded, parameter-problem }",
  laterFragment: "ip frag-off & 0x1fff != 0",
  quoted: {
    source: "@th,160,32",
    destination: "@th,192,32",
    protocol: "@th,136,8",
    sourcePort: "@th,224,16",
    destinationPort: "@th,240,16",
    header: "@th,64,8 0x45",
    whole: "@th,112,16 & 0x1fff == 0",
  },
};

const IPV6: FamilyText = {
  family: 6,
  suffix: "6",
  ip: "ip6",
  icmp: "icmpv6",
  errors: "{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem }",
  laterFragment: "frag frag-off != 0",
  quoted: {
    source: "@th,128,128",
    destination: "@th,256,128",
    protocol: "@th,112,8",
    sourcePort: "@th,384,16",
    destinationPort: "@th,400,16",
    header: "@th,64,4 6",
    // A fragment header would stand where the protocol is looked for.
    whole: "@th,64,4 6",
  },
};

/**
 * The table, its sets and its chains. What an ICMP error quotes has no names in nftables: it is
 * compared as raw bits behind the ICMP header (@th), which needs sets of their own (`quoted_…`), and
 * is looked at when the quoted IPv4 header has no options, the IPv6 one no extension headers.
 */
export function tableCommands(
  table: string,
  interfaces: readonly string[],
  owned: boolean,
): string[] {
  const devices = interfaces.map((name) => JSON.stringify(name)).join(", ");
  const rule = (text: string): string => `add rule netdev ${table} ingress ${text}`;
  return [
    `add table netdev ${table}${owned ? " { flags owner; }" : ""}`,
    ...setCommands(table, IPV4),
    ...setCommands(table, IPV6),
    `add chain netdev ${table} ingress6`,
    ...familyRules(IPV6).map((text) => `add rule netdev ${table} ingress6 ${text}`),
    `add chain netdev ${table} ingress { type filter hook ingress devices = { ${devices} } ` +
      "priority -500; policy accept; }",
    rule("meta pkttype { broadcast, multicast } accept"),
    rule("ether type vlan accept"),
    rule("meta protocol ip6 goto ingress6"),
    rule("meta protocol != ip accept"),
    ...familyRules(IPV4).map(rule),
  ];
}

function setCommands(table: string, { family, suffix, quoted }: FamilyText): string[] {
  const set = (name: string, definition: string): string =>
    `add set netdev ${table} ${name}${suffix} { ${definition}; flags interval; }`;
  const ports = `${quoted.source} . ${quoted.protocol} . ${quoted.sourcePort}`;
  return [
    ...ADDRESS_SETS.flatMap(([name]) => [
      set(name, `type ipv${family}_addr`),
      set(`quoted_${name}`, `typeof ${quoted.source}`),
    ]),
    ...PORT_SETS.flatMap(([name]) => [
      set(name, `type ipv${family}_addr . inet_proto . inet_service`),
      set(`quoted_${name}`, `typeof ${ports}`),
    ]),
  ];
}

function familyRules({ suffix, ip, icmp, errors, laterFragment, quoted }: FamilyText): string[] {
  const { source, destination, protocol, sourcePort, destinationPort, header, whole } = quoted;
  const quotes = `${icmp} type ${errors} ${header}`;
  const of = (name: string): string => `@${name}${suffix}`;
  return [
    // A host's address in a prefix is judged by its ports.
    `${ip} daddr ${of("whole")} ${ip} daddr != ${of("hosts")} drop`,
    // A later fragment has no ports; from a backend it may follow a reply.
    `${laterFragment} meta l4proto { tcp, udp } ${ip} daddr != ${of("hosts")} ` +
      `${ip} saddr ${of("backends")} drop`,
    `${laterFragment} accept`,
    `${ip} daddr ${of("vips")} ${icmp} type echo-request drop`,
    `meta l4proto { tcp, udp } ${ip} daddr . meta l4proto . th dport ${of("vip_ports")} drop`,
    `meta l4proto { tcp, udp } ${ip} daddr != ${of("hosts")} ` +
      `${ip} saddr . meta l4proto . th sport ${of("backend_ports")} drop`,
    `${quotes} ${source} ${of("quoted_whole")} ${source} != ${of("quoted_hosts")} drop`,
    `${quotes} ${whole} ${source} . ${protocol} . ${sourcePort} ${of("quoted_vip_ports")} drop`,
    `${quotes} ${whole} ${source} != ${of("quoted_hosts")} ` +
      `${destination} . ${protocol} . ${destinationPort} ${of("quoted_backend_ports")} drop`,
  ];
}

/** Elements by set: what the rules look up. */
export type Elements = ReadonlyMap<string, ReadonlySet<string>>;

export function elementsOf(entries: GuardEntries): Elements {
  const compiled = compileGuard(entries);
  return new Map([...familyElements(compiled, IPV4), ...familyElements(compiled, IPV6)]);
}

function familyElements(
  { addresses, ranges }: CompiledGuard,
  { family, suffix }: FamilyText,
): [string, ReadonlySet<string>][] {
  const elements: [string, ReadonlySet<string>][] = [];
  const entries = [...addresses.values()].filter(({ address }) => address.family === family);
  for (const [name, flag] of ADDRESS_SETS) {
    const members = withoutCovered(entries.filter(({ flags }) => (flags & flag) !== 0));
    elements.push([`${name}${suffix}`, new Set(members.map(prefixText))]);
    elements.push([`quoted_${name}${suffix}`, new Set(members.map(rawRange))]);
  }
  for (const [name, kind] of PORT_SETS) {
    const members = ranges.filter(
      (range) => range.kind === kind && range.address.family === family,
    );
    const rest = ({ protocol, low, high }: PortRangeEntry): string =>
      `${protocol} . ${low === high ? low : `${low}-${high}`}`;
    const text = (range: PortRangeEntry): string => `${range.address.text} . ${rest(range)}`;
    const quoted = (range: PortRangeEntry): string => `${raw(range.address)} . ${rest(range)}`;
    elements.push([`${name}${suffix}`, new Set(members.map(text))]);
    elements.push([`quoted_${name}${suffix}`, new Set(members.map(quoted))]);
  }
  return elements;
}

/** Elements of an interval set must not overlap. */
function withoutCovered(entries: readonly AddressEntry[]): AddressEntry[] {
  const prefixes = entries.filter((one) => one.prefixLength < addressBits(one.address));
  return entries.filter(
    (one) =>
      !prefixes.some(
        (wide) =>
          wide.prefixLength < one.prefixLength &&
          isInPrefix(one.address, wide.address, wide.prefixLength),
      ),
  );
}

function prefixText({ address, prefixLength }: AddressEntry): string {
  const isPrefix = prefixLength < addressBits(address);
  return isPrefix ? `${address.text}/${prefixLength}` : address.text;
}

/** Numbers, as raw bits are compared with: an address, or the first and last of a prefix. */
function rawRange({ address, prefixLength }: AddressEntry): string {
  const bits = addressBits(address);
  if (prefixLength === bits) return raw(address);
  const rest = (1n << BigInt(bits - prefixLength)) - 1n;
  const first = BigInt(raw(address));
  return `0x${first.toString(16)}-0x${(first | rest).toString(16)}`;
}

function raw({ family, value, words }: Address): string {
  if (family === 4) return `0x${(value >>> 0).toString(16)}`;
  return `0x${words.map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("")}`;
}
