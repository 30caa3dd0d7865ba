import { D_AT, D_BYTES } from "../device/device.ts";
import {
  backendSlotOf,
  F_BACKEND,
  F_CREATED,
  F_STATE,
  FLAG_BY_BACKEND,
  FLAG_PROBE,
  GENERATION_MASK,
  generationOf,
  STATE_UDP_ONE_WAY,
} from "../flow/flow-record.ts";
import {
  B_DEADLINE,
  B_EXISTING,
  B_GENERATION,
  B_SERVICE,
  BACKEND_WORDS,
  EXISTING_DEADLINE,
  EXISTING_KEEP,
  EXISTING_MOVE_LATER,
} from "../service/backend-slots.ts";
import {
  BANK_BACKENDS_AT,
  ENTRY_WORDS,
  Q_ID,
  Q_SLOT,
  QUIC_ENTRY_WORDS,
  S_BACKENDS_COUNT,
  S_QUIC,
  S_QUIC_COUNT,
  S_QUIC_FIRST,
  S_UDP_MAX_AGE_MS,
  S_UDP_PER_PACKET,
  SERVICE_WORDS,
} from "../service/bank.ts";
import { H_NODE_DRAINED } from "../state/layout.ts";
import { quicServerIdAt, quicServerIdWord } from "../wire/quic.ts";
import { UDP_HEADER_BYTES, udpLength } from "../wire/udp.ts";
import { type Context, R_BANK, R_SERVICES, R_TICK } from "./context.ts";

/**
 * When a UDP flow gets another backend, and QUIC's connection IDs (docs/udp.md).
 *
 * A UDP flow has no end that one could see, and a client that keeps sending keeps it alive. So what is
 * done to it is done here: at the client's next datagram it is balanced anew, silently, as long as a
 * backend is there to take it.
 */
export interface UdpFlows {
  /** Whether the flow ends with this datagram of its client, which then begins another one. */
  mustMove(flowWord: number, backendWord: number): boolean;
  /** The same for a flow without a datagram at hand: its age, or that its service has none such. */
  isOver(flowWord: number, backendWord: number): boolean;
  /**
   * @param serviceWord - of the service's record
   * @returns slot of the backend whose server ID the datagram's connection ID has and that still
   *   takes its packets; -1: none, or the service does not look
   */
  quicSlot(rxWord: number, l4At: number, serviceWord: number): number;
  /** Whether the datagram is of a connection that another backend than the flow's has. */
  isOthers(rxWord: number, l4At: number, flowWord: number, backendWord: number): boolean;
}

export function createUdpFlows(context: Context): UdpFlows {
  const { i32, layout, registers, rx, view } = context;
  const slots = layout.backendSlots.at >> 2;

  function serviceOf(backend: number): number {
    return registers[R_SERVICES]! + i32[backend + B_SERVICE]! * SERVICE_WORDS;
  }

  function isForeign(flowWord: number, backend: number): boolean {
    return (
      (i32[backend + B_GENERATION]! & GENERATION_MASK) !== generationOf(i32[flowWord + F_BACKEND]!)
    );
  }

  /** Somebody takes new flows: without, a flow that was closed would be worse off. */
  function canOpen(service: number): boolean {
    return i32[service + S_BACKENDS_COUNT] !== 0 && i32[H_NODE_DRAINED] === 0;
  }

  function isOver(flowWord: number, backend: number): boolean {
    if (isForeign(flowWord, backend)) return false;
    const service = serviceOf(backend);
    if (!canOpen(service)) return false;
    if (i32[service + S_UDP_PER_PACKET] !== 0) {
      return (i32[flowWord + F_STATE]! & FLAG_BY_BACKEND) === 0;
    }
    const most = i32[service + S_UDP_MAX_AGE_MS]!;
    return most !== 0 && ((registers[R_TICK]! - i32[flowWord + F_CREATED]!) | 0) >= most;
  }

  function mustMove(flowWord: number, backend: number): boolean {
    // Its slot is another backend's by now, and so may be the service that it names.
    if (isForeign(flowWord, backend)) return true;
    if (isOver(flowWord, backend)) return true;
    const existing = i32[backend + B_EXISTING]!;
    if (existing === EXISTING_KEEP || !canOpen(serviceOf(backend))) return false;
    if ((i32[flowWord + F_STATE]! & FLAG_PROBE) !== 0) return false;
    if (existing !== EXISTING_DEADLINE && existing !== EXISTING_MOVE_LATER) return true;
    if ((i32[flowWord + F_STATE]! & 0xff) === STATE_UDP_ONE_WAY) return true;
    return ((registers[R_TICK]! - i32[backend + B_DEADLINE]!) | 0) >= 0;
  }

  /** Sign of entry's ID - the datagram's, both as unsigned words. */
  function compare(entry: number, idAt: number, idBytes: number): number {
    for (let index = 0; 4 * index < idBytes; index++) {
      const ours = i32[entry + Q_ID + index]! >>> 0;
      const theirs = quicServerIdWord(view, idAt, idBytes, index) >>> 0;
      if (ours !== theirs) return ours < theirs ? -1 : 1;
    }
    return 0;
  }

  function slotOfId(serviceWord: number, idAt: number, idBytes: number): number {
    const bank = registers[R_BANK]!;
    const first =
      bank + (i32[bank + BANK_BACKENDS_AT]! >> 2) + i32[serviceWord + S_QUIC_FIRST]! * ENTRY_WORDS;
    let low = 0;
    let high = i32[serviceWord + S_QUIC_COUNT]! - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      const entry = first + middle * QUIC_ENTRY_WORDS;
      const order = compare(entry, idAt, idBytes);
      if (order === 0) return i32[entry + Q_SLOT]!;
      if (order < 0) low = middle + 1;
      else high = middle - 1;
    }
    return -1;
  }

  function quicSlot(rxWord: number, l4At: number, serviceWord: number): number {
    const quic = i32[serviceWord + S_QUIC]!;
    if (quic === 0) return -1;
    const at = l4At + UDP_HEADER_BYTES;
    // Of a datagram in fragments only the first one is here.
    const inFrame = rx[rxWord + D_AT]! + rx[rxWord + D_BYTES]! - at;
    const bytes = Math.min(udpLength(view, l4At) - UDP_HEADER_BYTES, inFrame);
    const idBytes = quic & 0xff;
    const idAt = quicServerIdAt(view, at, bytes, quic >>> 8, idBytes);
    if (idAt < 0) return -1;
    const slot = slotOfId(serviceWord, idAt, idBytes);
    return slot >= 0 && takesConnections(slots + slot * BACKEND_WORDS) ? slot : -1;
  }

  /** A backend that is drained has its connections until they are over; one that is down has none. */
  function takesConnections(backend: number): boolean {
    const existing = i32[backend + B_EXISTING]!;
    if (existing === EXISTING_KEEP) return true;
    if (existing !== EXISTING_DEADLINE && existing !== EXISTING_MOVE_LATER) return false;
    return ((registers[R_TICK]! - i32[backend + B_DEADLINE]!) | 0) < 0;
  }

  function isOthers(rxWord: number, l4At: number, flowWord: number, backend: number): boolean {
    const slot = quicSlot(rxWord, l4At, serviceOf(backend));
    return slot >= 0 && slot !== backendSlotOf(i32[flowWord + F_BACKEND]!);
  }

  return { mustMove, isOver, quicSlot, isOthers };
}
