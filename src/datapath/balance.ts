import { FULL_BACKEND_LOOKS, REPLY_TUPLE_TRIES } from "../base/limits.ts";
import { D_AT, D_BYTES, D_INTERFACE, D_VNET } from "../device/device.ts";
import {
  backendWordOf,
  F_ACK_ORIGINAL,
  F_ACK_REPLY,
  F_BACKEND,
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_CREATED,
  F_DELTA,
  F_EXPIRES,
  F_HOP_MAC_HIGH,
  F_HOP_MAC_LOW,
  F_REPLY_ADDR,
  F_STATE,
  F_VIP_ADDR,
  FLAG_ACTIVE,
  FLAG_ADOPTED,
  FLAG_AWAITS,
  FLAG_BY_BACKEND,
  FLAG_PROBE,
  KEY_IPV6,
  KEY_SLOW,
  MODE_DSR,
  MODE_FULL_NAT,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  protocolOf,
  replyKeyOf,
  STATE_CLOSE,
  STATE_SYN_RECV,
  STATE_SYN_SENT,
  STATE_TIME_WAIT,
  STATE_UDP_ONE_WAY,
} from "../flow/flow-record.ts";
import { INSERT_INDEX_FULL, INSERT_REPLY_TAKEN, INSERT_TABLE_FULL } from "../flow/flow-table.ts";
import { ONE_WAY_FIRST_STATE } from "../flow/tcp-one-way.ts";
import { addressWord6 } from "../scheduler/mix.ts";
import {
  B_ADDRESS,
  B_GENERATION,
  B_PORT,
  BF_CONNECTIONS,
  VF_CONNECTIONS,
  VF_DROPS,
} from "../service/backend-slots.ts";
import {
  ADMIT_BACKENDS,
  ADMIT_LIMITS,
  ADMIT_PACKETS,
  ADMIT_SYN_PROXY,
  BANK_EVICT,
  BANK_SNAT_ADDRESSES,
  BANK_SNAT_COUNT,
  BANK_SNAT_PORT_HIGH,
  BANK_SNAT_PORT_LOW,
  E_SLOT,
  NO_BACKEND,
  NO_BACKEND_RESET,
  NO_BACKEND_SORRY,
  OUT_OF_STATE_ADOPT,
  OUT_OF_STATE_RESET,
  S_ADMISSION,
  S_AFFINITY,
  S_BACKENDS_COUNT,
  S_MODE,
  S_NO_BACKEND,
  S_OUT_OF_STATE,
  S_QUIC,
  S_SORRY_SLOT,
  S_UDP_PER_PACKET,
  SERVICE_WORDS,
} from "../service/bank.ts";
import {
  BACKEND_RUN_BYTES,
  BACKEND_SLOT_BYTES,
  H_NODE_DRAINED,
  SERVICE_RUN_BYTES,
} from "../state/layout.ts";
import { add16, difference32 } from "../wire/checksum.ts";
import { sourceMacHigh, sourceMacLow } from "../wire/ethernet.ts";
import { ICMP_CODE_PORT_UNREACHABLE, ICMP_UNREACHABLE } from "../wire/icmp.ts";
import { TCP_ACK, TCP_RST, TCP_SYN, tcpFlags } from "../wire/tcp.ts";
import { ADMITTED, type Admission } from "./admit.ts";
import { createAffinity } from "./affinity.ts";
import {
  type Context,
  R_BANK,
  R_DESTINATION6,
  R_IS_IPV6,
  R_SERVICES,
  R_SOURCE6,
  R_TICK,
} from "./context.ts";
import { C_FLOWS_CREATED, C_FLOWS_EVICTED } from "./counters.ts";
import { createDraft6 } from "./draft6.ts";
import { type Flows, isActive } from "./flows.ts";
import type { Passive } from "./passive.ts";
import { createProbes, NO_PROBE, PROBE_OF_NOBODY } from "./probes.ts";
import type { Reply } from "./reply.ts";
import type { Stateless } from "./stateless.ts";
import type { SynProxy } from "./syn-proxy.ts";
import type { UdpFlows } from "./udp.ts";
import {
  DROP_FLOW_INDEX_FULL,
  DROP_FLOW_TABLE_FULL,
  DROP_NO_BACKEND,
  DROP_NODE_DRAINING,
  DROP_OUT_OF_STATE,
  DROP_PACKETS_LIMITED,
  DROP_REPLY_TUPLE_TAKEN,
  DROP_SNAT_PORTS_EXHAUSTED,
  DROPPED,
  REPLIED,
} from "./verdict.ts";

/** The answer of `open` when there is a flow; otherwise it is a verdict, which is never negative. */
export const OPENED = -1;
/** Likewise, when the packet goes on without a flow: by the row of stateless.ts. */
export const STATELESS = -2;

/** A packet to a VIP that no flow knows. */
export interface Balancer {
  /**
   * Make a flow for it, or decide what happens instead.
   *
   * @param client - int32; of an IPv6 packet (R_IS_IPV6) its fold, and `vip` too
   * @param ports - source << 16 | destination
   * @param flag - 0, or FLAG_BY_BACKEND: the client's tuple has a flow to another backend, which stays
   * @returns OPENED, with the row in `opened[0]`, STATELESS, or the packet's verdict
   */
  open(
    rxWord: number,
    ipAt: number,
    l4At: number,
    protocol: number,
    client: number,
    vip: number,
    ports: number,
    service: number,
    flag: number,
  ): number;
  readonly opened: Int32Array;
}

export function createBalancer(
  context: Context,
  flows: Flows,
  admission: Admission,
  synProxy: SynProxy,
  reply: Reply,
  udp: UdpFlows,
  stateless: Stateless,
  passive: Passive,
  countersAt: number,
): Balancer {
  const { f64, i32, layout, link, registers, rx, scheduler, snatPorts, table, view } = context;
  const { draft } = table;
  const slots = layout.backendSlots.at >> 2;
  const backendRuns = layout.backendRuns.at >> 3;
  const serviceRuns = layout.serviceRuns.at >> 3;
  const opened = new Int32Array(1);
  const draft6 = createDraft6(context);
  const affinity = createAffinity(context, countersAt);
  const remembers = context.affinity.exists;
  const probes = createProbes(context);

  /** The IPv6 address at a register as the schedulers know it. */
  function schedulerWord(register: number): number {
    return addressWord6(
      registers[register]!,
      registers[register + 1]!,
      registers[register + 2]!,
      registers[register + 3]!,
    );
  }

  function countDrop(service: number, verdict: number): number {
    const at = serviceRuns + service * (SERVICE_RUN_BYTES >> 3) + VF_DROPS;
    f64[at] = f64[at]! + 1;
    return verdict;
  }

  /** A segment that begins no connection, for a flow that is not there: `outOfState`. */
  function outOfState(rxWord: number, ipAt: number, flags: number, policy: number): number {
    if ((flags & TCP_RST) === 0 && policy === OUT_OF_STATE_RESET)
      return reply.answerReset(rxWord, ipAt);
    return DROPPED | (DROP_OUT_OF_STATE << 8);
  }

  function noBackend(
    rxWord: number,
    ipAt: number,
    protocol: number,
    vip: number,
    policy: number,
  ): number {
    if (policy !== NO_BACKEND_RESET) return DROPPED | (DROP_NO_BACKEND << 8);
    return protocol === PROTOCOL_TCP
      ? reply.answerReset(rxWord, ipAt)
      : reply.answerIcmpError(rxWord, ipAt, vip, ICMP_UNREACHABLE, ICMP_CODE_PORT_UNREACHABLE, 0);
  }

  /**
   * What a segment without a flow is, in this order: a SYN, an ACK with a cookie of ours, or one for
   * `outOfState`.
   *
   * @returns START_…, or a verdict
   */
  function startOf(
    rxWord: number,
    ipAt: number,
    l4At: number,
    serviceWord: number,
    service: number,
  ): number {
    const flags = tcpFlags(view, l4At);
    const kind = flags & (TCP_SYN | TCP_ACK | TCP_RST);
    if (kind === TCP_SYN) return START_BEGINS;
    if (
      kind === TCP_ACK &&
      (i32[serviceWord + S_ADMISSION]! & ADMIT_SYN_PROXY) !== 0 &&
      synProxy.accepts(rxWord, ipAt, l4At, serviceWord, service)
    ) {
      return START_BRINGS_COOKIE;
    }
    const policy = i32[serviceWord + S_OUT_OF_STATE]!;
    if (policy === OUT_OF_STATE_ADOPT && (flags & TCP_SYN) === 0) {
      if ((flags & TCP_RST) === 0) return START_ADOPTS;
      if (stateless.mayHaveBegun(serviceWord)) return START_ENDS;
    }
    return outOfState(rxWord, ipAt, flags, policy);
  }

  function open(
    rxWord: number,
    ipAt: number,
    l4At: number,
    protocol: number,
    client: number,
    vip: number,
    ports: number,
    service: number,
    flag: number,
  ): number {
    const serviceWord = registers[R_SERVICES]! + service * SERVICE_WORDS;
    const mode = i32[serviceWord + S_MODE]!;
    const oneWay = mode >= MODE_DSR;
    const tcp = protocol === PROTOCOL_TCP;
    const start = tcp ? startOf(rxWord, ipAt, l4At, serviceWord, service) : START_BEGINS;
    if (start >= 0) return countDrop(service, start);
    let flags = flag;
    let slot = probes.slotOf(rxWord, serviceWord, service, client);
    if (slot === PROBE_OF_NOBODY) return countDrop(service, DROPPED | (DROP_NO_BACKEND << 8));
    const isProbe = slot !== NO_PROBE;
    if (isProbe) flags = tcp ? FLAG_PROBE : FLAG_PROBE | (KEY_SLOW << 8);
    else if (i32[H_NODE_DRAINED] !== 0) {
      return countDrop(service, DROPPED | (DROP_NODE_DRAINING << 8));
    }
    if (!tcp && !isProbe) {
      slot = udp.quicSlot(rxWord, l4At, serviceWord);
      if (i32[serviceWord + S_UDP_PER_PACKET] !== 0) flags = FLAG_BY_BACKEND;
      // Whatever its connection ID may change is not for the fast lane.
      if (flags !== 0 || i32[serviceWord + S_QUIC] !== 0) flags |= KEY_SLOW << 8;
    }
    // Who may come is said of clients: a health check comes in any case, and takes nobody's share.
    const asks = isProbe ? 0 : i32[serviceWord + S_ADMISSION]!;
    if (asks !== 0) {
      const admitted = admission.admit(rxWord, ipAt, protocol, client, vip, serviceWord);
      if (admitted !== ADMITTED) return countDrop(service, admitted);
      if (start === START_BEGINS && tcp && answersSyn(asks, serviceWord, service)) {
        const answered = synProxy.answer(rxWord, ipAt, l4At, serviceWord, service);
        return answered === REPLIED ? answered : countDrop(service, answered);
      }
      if ((asks & (ADMIT_LIMITS | ADMIT_PACKETS)) !== 0) {
        const limited = limit(rxWord, ipAt, protocol, client, vip, serviceWord, service);
        if (limited !== ADMITTED) return countDrop(service, limited);
      }
    }

    const isIpv6 = registers[R_IS_IPV6] !== 0;
    const sticks = remembers && slot < 0 && i32[serviceWord + S_AFFINITY] !== 0;
    let entry = sticks ? affinity.find(serviceWord, client) : NO_BACKEND;
    if (slot < 0) {
      if (entry === NO_BACKEND) {
        entry = scheduler.pick(
          registers[R_BANK]!,
          serviceWord,
          service,
          isIpv6 ? schedulerWord(R_SOURCE6) : client,
          ports >>> 16,
          isIpv6 ? schedulerWord(R_DESTINATION6) : vip,
          ports & 0xffff,
          protocol,
        );
      }
      if (entry !== NO_BACKEND) slot = i32[entry + E_SLOT]!;
      if ((asks & ADMIT_BACKENDS) !== 0 && slot >= 0 && admission.isFull(serviceWord, slot)) {
        entry = roomElsewhere(entry, serviceWord, client, vip, ports, protocol);
        if (entry === NO_BACKEND) {
          return countDrop(service, admission.refuseFull(rxWord, ipAt, protocol, vip, serviceWord));
        }
        slot = i32[entry + E_SLOT]!;
      }
    }
    if (slot < 0) {
      const policy = i32[serviceWord + S_NO_BACKEND]!;
      if (policy === NO_BACKEND_SORRY) slot = i32[serviceWord + S_SORRY_SLOT]!;
      if (slot < 0) return countDrop(service, noBackend(rxWord, ipAt, protocol, vip, policy));
    }

    draft[F_CLIENT_ADDR] = client;
    draft[F_VIP_ADDR] = vip;
    draft[F_CLIENT_VIP_PORTS] = ports;
    draft[F_CREATED] = registers[R_TICK]!;
    draft[F_ACK_ORIGINAL] = 0;
    // What it is for a flow that awaits an answer: passive.ts. A health check judges for itself, and
    // would eject for longer a backend that it finds well again.
    const awaits = start !== START_ADOPTS && start !== START_ENDS && !oneWay && !isProbe;
    draft[F_ACK_REPLY] = awaits ? passive.stamp() : 0;
    draft[F_HOP_MAC_HIGH] = link === 0 ? 0 : sourceMacHigh(view, rx[rxWord + D_AT]!);
    draft[F_HOP_MAC_LOW] =
      link === 0
        ? 0xffff
        : (sourceMacLow(view, rx[rxWord + D_AT]!) << 16) | rx[rxWord + D_INTERFACE]!;
    // An adopted flow is not established before the client has sent once more: a flood of stray
    // segments then fills the table with flows that go soon, and that may be evicted.
    const firstState = oneWay ? ONE_WAY_FIRST_STATE : STATE_SYN_SENT;
    let word = STATE_UDP_ONE_WAY;
    if (tcp) word = start === START_ADOPTS ? STATE_SYN_RECV | FLAG_ADOPTED : firstState;
    if (start === START_ENDS) word = STATE_CLOSE;
    // Whoever counts connections sees it at once: a burst of SYNs does not all go to one backend.
    if (isActive(word & 0xff)) word |= FLAG_ACTIVE;
    word |= flags;
    const isSlow = oneWay || start === START_BRINGS_COOKIE || (asks & ADMIT_PACKETS) !== 0;
    if (isSlow) word |= KEY_SLOW << 8;
    if (awaits) word |= FLAG_AWAITS;
    draft[F_STATE] = word | (protocol << 8) | (mode << 16);

    let failure = insert(slot, serviceWord, service, client, ports, protocol);
    if (failure === INSERT_REPLY_TAKEN && entry !== NO_BACKEND) {
      failure = insertElsewhere(entry, serviceWord, service, client, ports, protocol);
    }
    if (failure >= 0) {
      // A sorry server is no client's backend.
      if (sticks && entry !== NO_BACKEND) affinity.keep(serviceWord, client, failure, entry);
      return start === START_BRINGS_COOKIE ? synProxy.begin(l4At, opened[0]!) : OPENED;
    }
    if (failure === WITHOUT_FLOW) return STATELESS;
    return countDrop(service, DROPPED | (dropOf(failure) << 8));
  }

  /** Whether a SYN gets a cookie: not where there is nobody to connect to, which is said at once. */
  function answersSyn(asks: number, serviceWord: number, service: number): boolean {
    return (
      (asks & ADMIT_SYN_PROXY) !== 0 &&
      i32[serviceWord + S_BACKENDS_COUNT] !== 0 &&
      synProxy.answers(serviceWord, service)
    );
  }

  function limit(
    rxWord: number,
    ipAt: number,
    protocol: number,
    client: number,
    vip: number,
    serviceWord: number,
    service: number,
  ): number {
    const asks = i32[serviceWord + S_ADMISSION]!;
    if ((asks & ADMIT_PACKETS) !== 0) {
      const segment = rx[rxWord + D_VNET]! >>> 16;
      const packets = segment === 0 ? 1 : Math.ceil(rx[rxWord + D_BYTES]! / segment);
      if (!admission.takePackets(serviceWord, service, packets)) {
        return DROPPED | (DROP_PACKETS_LIMITED << 8);
      }
    }
    if ((asks & ADMIT_LIMITS) === 0) return ADMITTED;
    return admission.limit(rxWord, ipAt, protocol, client, vip, serviceWord, service);
  }

  /** The scheduler's next choice that has room, so that a hash's other choices stay; NO_BACKEND. */
  function roomElsewhere(
    entry: number,
    serviceWord: number,
    client: number,
    vip: number,
    ports: number,
    protocol: number,
  ): number {
    const most = otherChoices(serviceWord, FULL_BACKEND_LOOKS);
    let next = entry;
    for (let look = 1; look <= most; look++) {
      next = nextChoice(next, look, serviceWord, client, vip, ports, protocol);
      if (!admission.isFull(serviceWord, i32[next + E_SLOT]!)) return next;
    }
    return NO_BACKEND;
  }

  /** Attempts that reach every other backend, at most `bound`; none where there is no other one. */
  function otherChoices(serviceWord: number, bound: number): number {
    const count = i32[serviceWord + S_BACKENDS_COUNT]!;
    return count < 2 ? 0 : Math.min(count, bound);
  }

  /** The scheduler's choice after `entry` for a flow that this one cannot take. */
  function nextChoice(
    entry: number,
    attempt: number,
    serviceWord: number,
    client: number,
    vip: number,
    ports: number,
    protocol: number,
  ): number {
    const isIpv6 = registers[R_IS_IPV6] !== 0;
    return scheduler.next(
      registers[R_BANK]!,
      serviceWord,
      entry,
      attempt,
      isIpv6 ? schedulerWord(R_SOURCE6) : client,
      ports >>> 16,
      isIpv6 ? schedulerWord(R_DESTINATION6) : vip,
      ports & 0xffff,
      protocol,
    );
  }

  function dropOf(failure: number): number {
    if (failure === INSERT_TABLE_FULL) return DROP_FLOW_TABLE_FULL;
    if (failure === INSERT_INDEX_FULL) return DROP_FLOW_INDEX_FULL;
    if (failure === SNAT_EXHAUSTED) return DROP_SNAT_PORTS_EXHAUSTED;
    return DROP_REPLY_TUPLE_TAKEN;
  }

  /**
   * Two VIPs can meet on one backend port with one client port: the reply tuple is then taken, and
   * the flow goes to another backend of the service (design section 2).
   */
  function insertElsewhere(
    entry: number,
    serviceWord: number,
    service: number,
    client: number,
    ports: number,
    protocol: number,
  ): number {
    const most = otherChoices(serviceWord, REPLY_TUPLE_TRIES);
    const vip = draft[F_VIP_ADDR]!;
    let next = entry;
    let failure = INSERT_REPLY_TAKEN;
    for (let attempt = 1; attempt <= most; attempt++) {
      next = nextChoice(next, attempt, serviceWord, client, vip, ports, protocol);
      const slot = i32[next + E_SLOT]!;
      const isLimited = (i32[serviceWord + S_ADMISSION]! & ADMIT_BACKENDS) !== 0;
      if (isLimited && admission.isFull(serviceWord, slot)) continue;
      failure = insert(slot, serviceWord, service, client, ports, protocol);
      if (failure !== INSERT_REPLY_TAKEN) return failure;
    }
    return failure;
  }

  /** Fill in the backend's half of the draft, and insert. Returns the row, or an INSERT_ code. */
  function insert(
    slot: number,
    serviceWord: number,
    service: number,
    client: number,
    ports: number,
    protocol: number,
  ): number {
    const backend = slots + slot * (BACKEND_SLOT_BYTES >> 2);
    const address = i32[backend + B_ADDRESS]!;
    const ownPort = i32[backend + B_PORT]!;
    const port = ownPort === 0 ? ports & 0xffff : ownPort;
    const backendAndGeneration = backendWordOf(slot, i32[backend + B_GENERATION]!);
    if ((draft[F_STATE]! & FLAG_BY_BACKEND) !== 0) {
      const key = registers[R_IS_IPV6] === 0 ? protocol : protocol | KEY_IPV6;
      const vip = draft[F_VIP_ADDR]!;
      const row = table.findByBackend(key, client, vip, ports, backendAndGeneration);
      if (row >= 0 && (registers[R_IS_IPV6] === 0 || draft6.isOf(row)))
        return again(row, backend, serviceWord);
    }
    draft[F_BACKEND] = backendAndGeneration;
    draft[F_EXPIRES] =
      (registers[R_TICK]! + flows.timeoutMs(backend, draft[F_STATE]! & 0xff, draft[F_STATE]!)) | 0;
    if (address === 0 || registers[R_IS_IPV6] !== 0) {
      if (!draft6.fill(backend, port, serviceWord, ports, protocol)) return SNAT_EXHAUSTED;
      return insertDraft(slot, service);
    }
    let replyAddress = client;
    let replyPort = ports >>> 16;
    if (i32[serviceWord + S_MODE] === MODE_FULL_NAT) {
      const bank = registers[R_BANK]!;
      const found = snatPorts.pick(
        protocol,
        client,
        draft[F_VIP_ADDR]!,
        ports,
        address,
        port,
        bank + BANK_SNAT_ADDRESSES,
        i32[bank + BANK_SNAT_COUNT]!,
        i32[bank + BANK_SNAT_PORT_LOW]!,
        i32[bank + BANK_SNAT_PORT_HIGH]!,
      );
      if (found === 0) return SNAT_EXHAUSTED;
      replyAddress = snatPorts.result[0]!;
      replyPort = snatPorts.result[1]!;
    }
    const replyPorts = (port << 16) | replyPort;
    draft[F_BACKEND_ADDR] = address;
    draft[F_REPLY_ADDR] = replyAddress;
    draft[F_BACKEND_REPLY_PORTS] = replyPorts;
    const addresses = add16(
      difference32(client, replyAddress),
      difference32(draft[F_VIP_ADDR]!, address),
    );
    draft[F_DELTA] = (addresses << 16) | add16(addresses, difference32(ports, replyPorts));

    return insertDraft(slot, service);
  }

  /** Insert the draft, which is whole. Returns the row, an INSERT_ code, or WITHOUT_FLOW. */
  function insertDraft(slot: number, service: number): number {
    const isOver = (draft[F_STATE]! & 0xff) === STATE_CLOSE;
    // Without a flow the next packet of a health check would be nobody's.
    const isProbe = (draft[F_STATE]! & FLAG_PROBE) !== 0;
    const serviceWord = registers[R_SERVICES]! + service * SERVICE_WORDS;
    if (isOver || (!isProbe && !stateless.makesFlow(serviceWord))) {
      stateless.hold();
      return WITHOUT_FLOW;
    }
    const evicts = table.isFull() && i32[registers[R_BANK]! + BANK_EVICT] !== 0;
    if (evicts) table.prepareEviction(registers[R_TICK]!);
    let row = table.insert();
    if (row === INSERT_REPLY_TAKEN && freeClosing()) row = table.insert();
    if (row === INSERT_TABLE_FULL && evicts) {
      const victim = table.evict(registers[R_TICK]!);
      if (victim >= 0) {
        flows.close(victim);
        f64[countersAt + C_FLOWS_EVICTED] = f64[countersAt + C_FLOWS_EVICTED]! + 1;
        row = table.insertChosen();
      }
    }
    if (row < 0) return row;
    opened[0] = row;
    flows.opened(table.word(row));
    if ((draft[F_STATE]! & FLAG_AWAITS) !== 0) passive.sent(table.word(row));
    f64[countersAt + C_FLOWS_CREATED] = f64[countersAt + C_FLOWS_CREATED]! + 1;
    const backendAt = backendRuns + slot * (BACKEND_RUN_BYTES >> 3) + BF_CONNECTIONS;
    f64[backendAt] = f64[backendAt]! + 1;
    const serviceAt = serviceRuns + service * (SERVICE_RUN_BYTES >> 3) + VF_CONNECTIONS;
    f64[serviceAt] = f64[serviceAt]! + 1;
    return row;
  }

  /** The client's flow to this backend is there. One datagram more waits for an answer. */
  function again(row: number, backend: number, serviceWord: number): number {
    const flowWord = table.word(row);
    const state = i32[flowWord + F_STATE]! & 0xff;
    const isPerPacket = i32[serviceWord + S_UDP_PER_PACKET] !== 0;
    flows.enter(flowWord, backend, isPerPacket ? STATE_UDP_ONE_WAY : state);
    if (isPerPacket) {
      i32[flowWord + F_STATE] = i32[flowWord + F_STATE]! | FLAG_AWAITS;
      i32[flowWord + F_ACK_REPLY] = passive.stamp();
      passive.sent(flowWord);
    }
    opened[0] = row;
    return row;
  }

  /**
   * A flow that only waits for stray segments gives its reply tuple up to a new one; and so does one
   * of this client's tuple that was found by another key than the new one will be.
   */
  function freeClosing(): boolean {
    const protocol = protocolOf(draft[F_STATE]!);
    const holder = table.find(
      replyKeyOf(draft[F_STATE]!),
      draft[F_BACKEND_ADDR]!,
      draft[F_REPLY_ADDR]!,
      draft[F_BACKEND_REPLY_PORTS]!,
    );
    if (holder < 0) return false;
    const flowWord = table.word(holder >> 1);
    const state = i32[flowWord + F_STATE]! & 0xff;
    const isSame =
      protocol === PROTOCOL_UDP &&
      i32[flowWord + F_CLIENT_ADDR] === draft[F_CLIENT_ADDR] &&
      i32[flowWord + F_VIP_ADDR] === draft[F_VIP_ADDR] &&
      i32[flowWord + F_CLIENT_VIP_PORTS] === draft[F_CLIENT_VIP_PORTS] &&
      ((i32[flowWord + F_STATE]! ^ draft[F_STATE]!) & FLAG_BY_BACKEND) !== 0;
    if (!isSame && state !== STATE_TIME_WAIT && state !== STATE_CLOSE) return false;
    flows.close(holder >> 1);
    return true;
  }

  return { open, opened };
}

/** How a packet without a flow begins one; no verdict is negative. */
const START_BEGINS = -1;
const START_ADOPTS = -2;
const START_BRINGS_COOKIE = -3;
/** A RST for a connection that may have begun without a flow: it goes on, and makes none. */
const START_ENDS = -4;

/** Beside the INSERT_ codes of the flow table. */
const SNAT_EXHAUSTED = -16;
const WITHOUT_FLOW = -17;
