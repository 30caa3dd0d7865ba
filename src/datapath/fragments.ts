import {
  FRAGMENT_TOKENS_BURST,
  FRAGMENT_TOKENS_PER_SECOND,
  FRAGMENTS_HELD_MAX,
  FRAGMENTS_HELD_OF_DATAGRAM_MAX,
} from "../base/limits.ts";
import {
  D_FROM,
  D_RESULT,
  D_USER,
  D_VNET,
  DESCRIPTOR_WORDS,
  FROM_SPARE,
  VNET_F_DATA_VALID,
} from "../device/device.ts";
import {
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_CREATED,
  F_REPLY_ADDR,
  F_STATE,
  F_VIP_ADDR,
  KEY_IPV6,
  KEY_PROTOCOL,
  ORIGINAL,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  STATE_FREE,
} from "../flow/flow-record.ts";
import {
  COVER_NEW,
  COVER_OVERLAP,
  createFragmentTable,
  FRAGMENT_AWAY,
  FRAGMENT_FLOW,
  FRAGMENT_OVERLAPPED,
  FRAGMENT_PASSED,
  FRAGMENT_REFUSED,
  FRAGMENT_WAITING,
  X_CREATED,
  X_DESTINATION,
  X_FLAGS_AND_ID,
  X_HELD_COUNT,
  X_KEY,
  X_PORTS,
  X_REFERENCE,
  X_SOURCE,
  X_STATE,
} from "../flow/fragments.ts";
import {
  A_FLAGS,
  A_IS_BACKEND,
  A_IS_HOST,
  A_IS_SNAT,
  A_IS_VIP,
  A_TCP_COUNT,
  A_UDP_COUNT,
} from "../service/bank.ts";
import { H_SECRET } from "../state/layout.ts";
import {
  IPV4_MORE_FRAGMENTS,
  IPV4_OFFSET_MASK,
  ipv4Destination,
  ipv4FragmentWord,
  ipv4HeaderBytes,
  ipv4Id,
  ipv4Protocol,
  ipv4Source,
  ipv4TotalBytes,
} from "../wire/ipv4.ts";
import {
  ipv6TotalBytes,
  WALK_FRAGMENT_AT,
  WALK_L4_AT,
  WALK_WORDS,
  walkExtensions,
} from "../wire/ipv6.ts";
import {
  checkTcp,
  TCP_HEADER_BYTES,
  TCP_MALFORMED,
  TCP_OK,
  tcpHeaderBytes,
  tcpPorts,
} from "../wire/tcp.ts";
import { checkUdpFirst, UDP_HEADER_BYTES, UDP_OK, udpChecksum } from "../wire/udp.ts";
import type { Addresses } from "./addresses.ts";
import {
  type Context,
  R_DESTINATION_FOLD,
  R_DESTINATION6,
  R_FLOW,
  R_FRAGMENT_AT,
  R_FRAGMENT_ID,
  R_FRAGMENT_TOKENS,
  R_FRAGMENT_TOKENS_TICK,
  R_HELD_TICK,
  R_L4_AT,
  R_NEEDS_FLOW,
  R_SOURCE_FOLD,
  R_SOURCE6,
  R_TICK,
  R_TX_COUNT,
} from "./context.ts";
import { C_DROPPED, C_DROPS, C_FORWARDED, C_HELD } from "./counters.ts";
import type { Flows } from "./flows.ts";
import type { Handover } from "./handover.ts";
import { createHeldFragments } from "./held-fragments.ts";
import type { Keys6 } from "./keys6.ts";
import { type Output, RELEASED } from "./output.ts";
import type { Owners } from "./owners.ts";
import type { Reply } from "./reply.ts";
import {
  DROP_BACKEND_GONE,
  DROP_FRAGMENT_DUPLICATE,
  DROP_FRAGMENT_MALFORMED,
  DROP_FRAGMENT_NOT_SUPPORTED,
  DROP_FRAGMENT_OVERLAP,
  DROP_FRAGMENT_RATE_LIMITED,
  DROP_FRAGMENT_REFUSED,
  DROP_FRAGMENT_TABLE_FULL,
  DROP_FRAGMENT_TIMEOUT,
  DROP_FRAGMENT_TINY,
  DROP_NOT_OURS,
  DROP_TCP_FLAGS_INVALID,
  DROP_TCP_HEADER_MALFORMED,
  DROP_UDP_CHECKSUM_MISSING,
  DROP_UDP_HEADER_MALFORMED,
  DROP_VNET_HEADER_INVALID,
  DROPPED,
  FORWARDED,
  HELD,
  PASSED,
} from "./verdict.ts";

/**
 * Fragments of TCP and UDP (docs/fragments.md).
 *
 * The first fragment has the ports: it is handled as a whole packet is, and what becomes of it is
 * noted under source, destination, protocol and identification (flow/fragments.ts). Those behind it
 * follow, with their addresses changed and nothing else: ports and the transport checksum are in the
 * first one alone, and the checksum of the whole takes the same difference as ever. One that comes
 * before the first waits as a copy, for a while (RFC 4787 REQ-14).
 *
 * With several workers the fragments of a datagram meet at one that their addresses say, its keeper
 * (Owners.ofFirst): it has the table and the copies, and hands all of them on to the worker that
 * the first one's ports say, in the order in which they came.
 */
export interface FragmentPath {
  /** A fragment with a checked IPv4 header. @returns its verdict */
  process(rxWord: number, ipAt: number): number;
  /**
   * A fragment with a checked IPv6 header, whose addresses are loaded (Keys6), and whose fragment header
   * is at R_FRAGMENT_AT and what lies behind it at R_L4_AT.
   *
   * @param protocol - what its fragment header says comes next
   * @param end - byte offset behind the packet
   */
  process6(rxWord: number, ipAt: number, protocol: number, end: number): number;
  /** Once a batch: copies that can go on or whose time is over. */
  run(): void;
}

/** What fragments need of process.ts and process6.ts. */
export interface WholePackets {
  /** Handle a packet as if it were whole; R_FLOW is its flow when it is FORWARDED. */
  transport(rxWord: number, ipAt: number, l4At: number, protocol: number): number;
  transport6(rxWord: number, ipAt: number, l4At: number, protocol: number): number;
  /** Send a packet by flow R_FLOW. */
  follow(rxWord: number, ipAt: number, protocol: number, flow: number): number;
  pass(rxWord: number): number;
}

/** Bytes of payload that an IPv4 packet of the largest length can have; an IPv6 one has all of it. */
const PAYLOAD_MAX = 65_535 - 20;
const PAYLOAD6_MAX = 65_535;

/** The fragment at hand, family by family alike. */
const V_KEEPER = 0; // 1: this worker is its keeper
const V_OURS = 1; // 1: its addresses say that the guard owns it
const V_IPV6 = 2;
const V_FLAGS = 3; // A_… of its destination
const V_KEY = 4; // protocol, and KEY_IPV6
const V_SOURCE = 5; // addresses as keys: of IPv6 their folds
const V_DESTINATION = 6;
const V_ID = 7;
const V_FIRST = 8; // offset in units of eight bytes
const V_PAYLOAD = 9; // bytes
const V_LAST = 10; // 1: no more fragments
const V_L4_AT = 11;
const V_WORDS = 12;

export function createFragmentPath(
  context: Context,
  addresses: Addresses,
  owners: Owners,
  handover: Handover,
  flows: Flows,
  keys: Keys6,
  output: Output,
  reply: Reply,
  whole: WholePackets,
  countersAt: number,
): FragmentPath {
  const { f64, i32, layout, link, registers, rx, table, tx, view } = context;
  const { worker, workers } = layout;
  const fragments = createFragmentTable(i32[H_SECRET]!, i32[H_SECRET + 1]!);
  const { words } = fragments;
  const held = createHeldFragments(context, output.spareBytes);
  const burst = FRAGMENT_TOKENS_BURST * 1000;
  registers[R_FRAGMENT_TOKENS] = burst;
  const saved = new Int32Array(DESCRIPTOR_WORDS);
  const now = new Int32Array(V_WORDS);
  const walked = new Int32Array(WALK_WORDS);
  forgetFormer();

  /** Copies that a process before this one held are lost. */
  function forgetFormer(): void {
    const lost = f64[countersAt + C_HELD]!;
    if (lost === 0) return;
    add(C_HELD, -lost);
    add(C_DROPPED, lost);
    add(C_DROPS + DROP_FRAGMENT_TIMEOUT, lost);
  }

  function add(counter: number, amount: number): void {
    f64[countersAt + counter] = f64[countersAt + counter]! + amount;
  }

  function drop(reason: number): number {
    return DROPPED | (reason << 8);
  }

  function takeToken(): boolean {
    const tick = registers[R_TICK]!;
    const elapsed = (tick - registers[R_FRAGMENT_TOKENS_TICK]!) | 0;
    if (elapsed !== 0) {
      registers[R_FRAGMENT_TOKENS_TICK] = tick;
      const isLong = elapsed < 0 || elapsed > 1000;
      const gained = isLong ? burst : elapsed * FRAGMENT_TOKENS_PER_SECOND;
      registers[R_FRAGMENT_TOKENS] = Math.min(registers[R_FRAGMENT_TOKENS]! + gained, burst);
    }
    const tokens = registers[R_FRAGMENT_TOKENS]!;
    if (tokens < 1000) return false;
    registers[R_FRAGMENT_TOKENS] = tokens - 1000;
    return true;
  }

  function entryOf6(register: number): number {
    return addresses.find6(
      registers[register]!,
      registers[register + 1]!,
      registers[register + 2]!,
      registers[register + 3]!,
    );
  }

  /** Fill in what the addresses say. @param to - entry of the destination @param from - of the source */
  function place(protocol: number, to: number, from: number): void {
    const flags = to < 0 ? 0 : i32[to + A_FLAGS]!;
    const isTo = (flags & (A_IS_VIP | A_IS_SNAT)) !== 0;
    const isFrom = !isTo && (flags & A_IS_HOST) === 0 && isBackend(from, protocol);
    now[V_FLAGS] = flags;
    now[V_OURS] = isTo || isFrom ? 1 : 0;
    now[V_KEEPER] = 1;
  }

  function isBackend(entry: number, protocol: number): boolean {
    if (entry < 0 || (i32[entry + A_FLAGS]! & A_IS_BACKEND) === 0) return false;
    return i32[entry + (protocol === PROTOCOL_TCP ? A_TCP_COUNT : A_UDP_COUNT)] !== 0;
  }

  function process(rxWord: number, ipAt: number): number {
    const protocol = ipv4Protocol(view, ipAt);
    const source = ipv4Source(view, ipAt);
    const destination = ipv4Destination(view, ipAt);
    place(protocol, addresses.find(destination), addresses.find(source));
    const word = ipv4FragmentWord(view, ipAt);
    const headerBytes = ipv4HeaderBytes(view, ipAt);
    now[V_IPV6] = 0;
    now[V_KEY] = protocol;
    now[V_SOURCE] = source;
    now[V_DESTINATION] = destination;
    now[V_ID] = ipv4Id(view, ipAt);
    now[V_FIRST] = word & IPV4_OFFSET_MASK;
    now[V_LAST] = (word & IPV4_MORE_FRAGMENTS) === 0 ? 1 : 0;
    now[V_PAYLOAD] = ipv4TotalBytes(view, ipAt) - headerBytes;
    now[V_L4_AT] = ipAt + headerBytes;
    return processPlaced(rxWord, ipAt, protocol);
  }

  function process6(rxWord: number, ipAt: number, protocol: number, end: number): number {
    const to = entryOf6(R_DESTINATION6);
    place(protocol, to, entryOf6(R_SOURCE6));
    const headerAt = registers[R_FRAGMENT_AT]!;
    const word = view.getUint16(headerAt + 2);
    now[V_IPV6] = 1;
    now[V_KEY] = protocol | KEY_IPV6;
    now[V_SOURCE] = registers[R_SOURCE_FOLD]!;
    now[V_DESTINATION] = registers[R_DESTINATION_FOLD]!;
    now[V_ID] = view.getInt32(headerAt + 4);
    now[V_FIRST] = word >>> 3;
    now[V_LAST] = (word & 1) === 0 ? 1 : 0;
    now[V_L4_AT] = registers[R_L4_AT]!;
    now[V_PAYLOAD] = end - registers[R_L4_AT]!;
    return processPlaced(rxWord, ipAt, protocol);
  }

  function processPlaced(rxWord: number, ipAt: number, protocol: number): number {
    if (protocol !== PROTOCOL_TCP && protocol !== PROTOCOL_UDP) {
      // An echo request in fragments would have to be put together to be answered.
      const kinds = now[V_FLAGS]! & (A_IS_VIP | A_IS_SNAT | A_IS_HOST);
      const isRefused = kinds !== 0 && (kinds & A_IS_HOST) === 0;
      return isRefused ? drop(DROP_FRAGMENT_NOT_SUPPORTED) : whole.pass(rxWord);
    }
    const reason = faultOf(rxWord, protocol);
    if (reason !== 0) return now[V_OURS] === 0 ? whole.pass(rxWord) : drop(reason);
    if (workers !== 1 && now[V_OURS] !== 0) {
      const keeper = ownerOf(0);
      if (keeper !== worker) {
        // Whom the keeper hands a fragment has its flow.
        if (rx[rxWord + D_RESULT] === 0) return handover.send(rxWord, keeper);
        now[V_KEEPER] = 0;
      }
    }
    const entry = fragments.find(
      now[V_KEY]!,
      now[V_SOURCE]!,
      now[V_DESTINATION]!,
      now[V_ID]!,
      registers[R_TICK]!,
    );
    return now[V_FIRST] === 0
      ? processFirst(rxWord, ipAt, protocol, entry)
      : processLater(rxWord, ipAt, protocol, entry);
  }

  /** Worker for the ports of the first fragment; with ports 0 the datagram's keeper. */
  function ownerOf(ports: number): number {
    const flags = now[V_FLAGS]!;
    return now[V_IPV6] === 0
      ? owners.ofFirst(flags, now[V_SOURCE]!, now[V_DESTINATION]!, ports)
      : owners.ofFirst(flags, keys.sourceOwner(), keys.destinationOwner(), ports);
  }

  /** 0, or the reason for which no fragment of an honest sender is like this one. */
  function faultOf(rxWord: number, protocol: number): number {
    const payload = now[V_PAYLOAD]!;
    const offset = 8 * now[V_FIRST]!;
    const most = now[V_IPV6] === 0 ? PAYLOAD_MAX : PAYLOAD6_MAX;
    if (payload <= 0 || offset + payload > most) return DROP_FRAGMENT_MALFORMED;
    // RFC 791 section 3.2, RFC 8200 section 4.5: all but the last are multiples of eight bytes.
    if (now[V_LAST] === 0 && (payload & 7) !== 0) return DROP_FRAGMENT_MALFORMED;
    // RFC 3128, RFC 1858 section 4.2: it would lie over the flags of the first one's header.
    if (protocol === PROTOCOL_TCP && offset === 8) return DROP_FRAGMENT_TINY;
    // A sender that leaves a checksum to its device does not send in fragments.
    if ((rx[rxWord + D_VNET]! & ~VNET_F_DATA_VALID) !== 0) return DROP_VNET_HEADER_INVALID;
    return 0;
  }

  /** 0, or what is wrong with the transport header that the first fragment must have whole. */
  function faultOfFirst(protocol: number): number {
    const l4At = now[V_L4_AT]!;
    const payload = now[V_PAYLOAD]!;
    if (protocol === PROTOCOL_UDP) {
      if (payload < UDP_HEADER_BYTES) return DROP_FRAGMENT_TINY;
      if (checkUdpFirst(view, l4At, payload) !== UDP_OK) return DROP_UDP_HEADER_MALFORMED;
      // RFC 8200 section 8.1: no datagram goes without.
      const isBare = now[V_IPV6] !== 0 && udpChecksum(view, l4At) === 0;
      return isBare ? DROP_UDP_CHECKSUM_MISSING : 0;
    }
    // RFC 1858 section 4.1, RFC 7112, and more: nothing is decided on half a header.
    if (payload < TCP_HEADER_BYTES) return DROP_FRAGMENT_TINY;
    if (tcpHeaderBytes(view, l4At) > payload) return DROP_FRAGMENT_TINY;
    const tcp = checkTcp(view, l4At, payload);
    if (tcp === TCP_OK) return 0;
    return tcp === TCP_MALFORMED ? DROP_TCP_HEADER_MALFORMED : DROP_TCP_FLAGS_INVALID;
  }

  /** An entry for a datagram that has none. @returns its first word, or -1: too many begin */
  function begin(): number {
    if (now[V_KEEPER] !== 0 && !takeToken()) return -1;
    const tick = registers[R_TICK]!;
    const key = now[V_KEY]!;
    const source = now[V_SOURCE]!;
    const destination = now[V_DESTINATION]!;
    const id = now[V_ID]!;
    const entry = fragments.choose(key, source, destination, id, tick);
    discard(entry, DROP_FRAGMENT_TABLE_FULL);
    fragments.begin(entry, key, source, destination, id, tick);
    words[entry + X_FLAGS_AND_ID] = now[V_FLAGS]! | (reply.nextId() << 16);
    return entry;
  }

  function findFlow(protocol: number, ports: number): number {
    if (now[V_IPV6] !== 0) return keys.find(protocol, ports);
    return table.find(protocol, now[V_SOURCE]!, now[V_DESTINATION]!, ports);
  }

  function processFirst(rxWord: number, ipAt: number, protocol: number, found: number): number {
    const fault = faultOfFirst(protocol);
    if (fault !== 0) return now[V_OURS] === 0 ? whole.pass(rxWord) : drop(fault);
    const l4At = now[V_L4_AT]!;
    const ports = tcpPorts(view, l4At);
    // A reply of a backend that the configuration no longer has: its flow alone knows of it.
    if (now[V_OURS] === 0 && findFlow(protocol, ports) < 0) return whole.pass(rxWord);
    const entry = found >= 0 ? found : begin();
    if (entry < 0) return drop(DROP_FRAGMENT_RATE_LIMITED);
    const covered = cover(entry);
    if (covered !== 0) return covered;
    if (workers !== 1 && now[V_KEEPER] !== 0 && now[V_OURS] !== 0) {
      const owner = ownerOf(ports);
      if (owner !== worker) {
        words[entry + X_STATE] = FRAGMENT_AWAY;
        words[entry + X_REFERENCE] = owner;
        const handed = handover.send(rxWord, owner);
        release(entry);
        return handed;
      }
    }
    useId(entry);
    registers[R_NEEDS_FLOW] = 1;
    const verdict =
      now[V_IPV6] === 0
        ? whole.transport(rxWord, ipAt, l4At, protocol)
        : whole.transport6(rxWord, ipAt, l4At, protocol);
    registers[R_NEEDS_FLOW] = 0;
    registers[R_FRAGMENT_ID] = 0;
    if (verdict === FORWARDED) {
      const flow = registers[R_FLOW]!;
      words[entry + X_STATE] = FRAGMENT_FLOW;
      words[entry + X_REFERENCE] = flow;
      words[entry + X_CREATED] = i32[table.word(flow >> 1) + F_CREATED]!;
      words[entry + X_PORTS] = ports;
    } else {
      words[entry + X_STATE] = verdict === PASSED ? FRAGMENT_PASSED : FRAGMENT_REFUSED;
    }
    release(entry);
    return verdict;
  }

  function processLater(rxWord: number, ipAt: number, protocol: number, found: number): number {
    let entry = found;
    if (entry < 0) {
      if (now[V_OURS] === 0) return whole.pass(rxWord);
      if (now[V_KEEPER] === 0) return drop(DROP_FRAGMENT_REFUSED);
      if (held.count() === FRAGMENTS_HELD_MAX) return drop(DROP_FRAGMENT_TABLE_FULL);
      entry = begin();
      if (entry < 0) return drop(DROP_FRAGMENT_RATE_LIMITED);
    }
    const covered = cover(entry);
    if (covered !== 0) return covered;
    if (words[entry + X_STATE] === FRAGMENT_WAITING) {
      if (words[entry + X_HELD_COUNT]! >= FRAGMENTS_HELD_OF_DATAGRAM_MAX) {
        return drop(DROP_FRAGMENT_TABLE_FULL);
      }
      return held.add(words, entry, rxWord) ? HELD : drop(DROP_FRAGMENT_TABLE_FULL);
    }
    const verdict = deliver(rxWord, ipAt, protocol, entry);
    freeIfComplete(entry);
    return verdict;
  }

  /** @returns 0, or the drop of a fragment that is not new; an overlap is the end of the datagram */
  function cover(entry: number): number {
    if (words[entry + X_STATE] === FRAGMENT_OVERLAPPED) return drop(DROP_FRAGMENT_OVERLAP);
    const units = (now[V_PAYLOAD]! + 7) >>> 3;
    const covered = fragments.cover(entry, now[V_FIRST]!, units, now[V_LAST] !== 0);
    if (covered === COVER_NEW) return 0;
    if (covered !== COVER_OVERLAP) return drop(DROP_FRAGMENT_DUPLICATE);
    // RFC 5722 section 4: silently, with those that have come and those that will.
    words[entry + X_STATE] = FRAGMENT_OVERLAPPED;
    discard(entry, DROP_FRAGMENT_OVERLAP);
    return drop(DROP_FRAGMENT_OVERLAP);
  }

  function freeIfComplete(entry: number): void {
    if (words[entry + X_HELD_COUNT] === 0 && fragments.isComplete(entry)) fragments.free(entry);
  }

  /** The way of a later fragment whose first one has come. */
  function deliver(rxWord: number, ipAt: number, protocol: number, entry: number): number {
    const state = words[entry + X_STATE]!;
    const reference = words[entry + X_REFERENCE]!;
    if (state === FRAGMENT_AWAY) return handover.send(rxWord, reference);
    if (state === FRAGMENT_PASSED) {
      // The kernel's copy is gone where the guard takes every later fragment.
      const isTaken = link !== 0 && now[V_OURS] !== 0 && (now[V_FLAGS]! & A_IS_HOST) === 0;
      return isTaken ? drop(DROP_NOT_OURS) : whole.pass(rxWord);
    }
    if (state !== FRAGMENT_FLOW) return drop(DROP_FRAGMENT_REFUSED);
    const flowWord = table.word(reference >> 1);
    if (!isSameFlow(flowWord, reference & 1, entry)) return drop(DROP_FRAGMENT_REFUSED);
    if (flows.mustEnd(flowWord, flows.backendWord(flowWord))) return drop(DROP_BACKEND_GONE);
    useId(entry);
    const verdict = whole.follow(rxWord, ipAt, protocol, reference);
    registers[R_FRAGMENT_ID] = 0;
    return verdict;
  }

  /**
   * Translated fragments get an identification of ours: several senders are one after translation, and
   * numbers that each of them is careful with would meet (RFC 6864 section 5.3). IPv6's have 32 bits.
   */
  function useId(entry: number): void {
    registers[R_FRAGMENT_ID] = (words[entry + X_FLAGS_AND_ID]! >>> 16) | 0x10000;
  }

  /** The row has not become another flow's since. */
  function isSameFlow(flowWord: number, direction: number, entry: number): boolean {
    const isOriginal = direction === ORIGINAL;
    return (
      (i32[flowWord + F_STATE]! & 0xff) !== STATE_FREE &&
      i32[flowWord + F_CREATED] === words[entry + X_CREATED] &&
      i32[flowWord + (isOriginal ? F_CLIENT_VIP_PORTS : F_BACKEND_REPLY_PORTS)] ===
        words[entry + X_PORTS] &&
      i32[flowWord + (isOriginal ? F_CLIENT_ADDR : F_BACKEND_ADDR)] === words[entry + X_SOURCE] &&
      i32[flowWord + (isOriginal ? F_VIP_ADDR : F_REPLY_ADDR)] === words[entry + X_DESTINATION]
    );
  }

  /** Send what an entry holds, as far as there are spares; the rest goes with the next batch. */
  function release(entry: number): void {
    const protocol = words[entry + X_KEY]! & KEY_PROTOCOL;
    const isSix = (words[entry + X_KEY]! & KEY_IPV6) !== 0;
    for (let slot = held.oldest(words, entry); slot >= 0; slot = held.oldest(words, entry)) {
      const ipAt = output.takeSpare();
      if (ipAt < 0) return;
      // Whoever sends a frame reads its descriptor: for a moment the first one is the copy's.
      for (let word = 0; word < DESCRIPTOR_WORDS; word++) saved[word] = rx[word]!;
      held.restore(slot, 0, ipAt);
      held.dropOldest(words, entry);
      if (isSix) locate6(ipAt);
      const before = registers[R_TX_COUNT]!;
      settle(deliver(0, ipAt, protocol, entry), before);
      for (let word = 0; word < DESCRIPTOR_WORDS; word++) rx[word] = saved[word]!;
    }
    freeIfComplete(entry);
  }

  /** Where the headers of a copy are: each has been walked when it came. */
  function locate6(ipAt: number): void {
    walkExtensions(view, ipAt, ipAt + ipv6TotalBytes(view, ipAt), walked);
    registers[R_FRAGMENT_AT] = walked[WALK_FRAGMENT_AT]!;
    registers[R_L4_AT] = walked[WALK_L4_AT]!;
  }

  /** A copy has its verdict. One that is sent is counted with what the device says of it. */
  function settle(verdict: number, before: number): void {
    add(C_HELD, -1);
    let isSent = false;
    for (let index = before; index < registers[R_TX_COUNT]!; index++) {
      const word = index * DESCRIPTOR_WORDS;
      if (tx[word + D_USER] !== 0) continue;
      tx[word + D_FROM] = FROM_SPARE;
      tx[word + D_USER] = RELEASED - verdict;
      isSent = true;
    }
    if (isSent) return;
    add(C_FORWARDED + (verdict & 0xff), 1);
    if ((verdict & 0xff) === DROPPED) add(C_DROPS + (verdict >>> 8), 1);
  }

  /** Drop all that an entry holds. */
  function discard(entry: number, reason: number): void {
    while (held.oldest(words, entry) >= 0) discardOldest(entry, reason);
  }

  function discardOldest(entry: number, reason: number): void {
    held.dropOldest(words, entry);
    add(C_HELD, -1);
    add(C_DROPPED, 1);
    add(C_DROPS + reason, 1);
  }

  function run(): void {
    const tick = registers[R_TICK]!;
    if (held.count() === 0 || registers[R_HELD_TICK] === tick) return;
    registers[R_HELD_TICK] = tick;
    for (let slot = 0; slot < FRAGMENTS_HELD_MAX; slot++) {
      const entry = held.entryOf(slot);
      if (entry < 0) continue;
      if (words[entry + X_STATE] !== FRAGMENT_WAITING) {
        now[V_OURS] = 1;
        now[V_FLAGS] = words[entry + X_FLAGS_AND_ID]! & 0xffff;
        release(entry);
        continue;
      }
      if (!held.isOver(slot)) continue;
      // The list is in the order of time, so those before it are over too.
      while (held.entryOf(slot) === entry) discardOldest(entry, DROP_FRAGMENT_TIMEOUT);
      if (words[entry + X_HELD_COUNT] === 0) fragments.free(entry);
    }
  }

  return { process, process6, run };
}
