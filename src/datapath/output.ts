import { assert } from "../base/assert.ts";
import { BATCH_FRAMES_MAX, OUT_FRAMES_MAX } from "../base/limits.ts";
import {
  D_AT,
  D_BYTES,
  D_CSUM,
  D_FROM,
  D_INTERFACE,
  D_RESULT,
  D_USER,
  D_VNET,
  DESCRIPTOR_WORDS,
  FROM_SPARE,
  HEADROOM_BYTES,
  TX_FAILED,
} from "../device/device.ts";
import { HT_INTERFACES } from "../state/hop-table.ts";
import { ETHERTYPE_IPV4, setEthernetAddresses, setEtherType } from "../wire/ethernet.ts";
import { type Context, R_HOPS, R_SPARES, R_TX_COUNT } from "./context.ts";

/** D_USER of a sent frame on which no received frame's verdict hangs. */
export const ORIGINATED = -1;

/**
 * D_USER of a frame that was a held copy is RELEASED - its verdict: nothing received in this batch
 * hangs on it, and it is counted when it is sent.
 */
export const RELEASED = -2;

/**
 * Bytes before the IP header in a spare: the link header, and enough before it that the IP header
 * is 4-byte aligned and the outer header of a tunnel has room.
 */
const SPARE_HEADROOM = 64;
assert(SPARE_HEADROOM >= HEADROOM_BYTES + 14, "a spare has the headroom of a received frame");

/** The list of frames to send. */
export interface Output {
  /** Send the received frame in descriptor `rxWord`, as it lies in memory, out of `egress`. */
  sendReceived(rxWord: number, egress: number): void;
  /**
   * Byte offset of the IP header of a free spare, or -1: none left in this batch. Its EtherType is
   * IPv4; the MACs are the caller's (setLink).
   */
  takeSpare(): number;
  /** Spares that this batch can still take. */
  sparesLeft(): number;
  /**
   * Make room for `spares` more spares and frames, if need be by sending what is listed: a GSO packet
   * becomes more frames than a batch has spares.
   *
   * @returns false when a whole empty batch has not so many
   */
  reserve(spares: number): boolean;
  /** Who sends what is listed, before the batch is over, and empties the list and the spares. */
  onFull(send: () => void): void;
  /** Bytes that fit in a spare from the IP header on. */
  readonly spareBytes: number;
  /**
   * Send the spare taken last.
   *
   * @param rxWord - descriptor whose verdict hangs on it, or ORIGINATED
   */
  sendSpare(ipAt: number, ipBytes: number, egress: number, rxWord: number): void;
  /** Write the Ethernet header before `ipAt`, source: the interface's own MAC. Nothing on TUN. */
  setLink(ipAt: number, egress: number, macHigh: number, macLow: number): void;
}

export function createOutput(context: Context): Output {
  const { device, view, rx, tx, i32, link, registers } = context;
  const { spareAt, spareBytes } = device;
  const sparesMax = Math.min(device.spareCount, BATCH_FRAMES_MAX);

  let sendListed = (): void => {};

  function reserve(spares: number): boolean {
    const room = Math.min(sparesLeft(), OUT_FRAMES_MAX - registers[R_TX_COUNT]!);
    if (room >= spares) return true;
    if (spares > sparesMax) return false;
    sendListed();
    return sparesLeft() >= spares;
  }

  function sendReceived(rxWord: number, egress: number): void {
    const count = registers[R_TX_COUNT]!;
    const word = count * DESCRIPTOR_WORDS;
    tx[word + D_AT] = rx[rxWord + D_AT]!;
    tx[word + D_BYTES] = rx[rxWord + D_BYTES]!;
    tx[word + D_INTERFACE] = egress;
    tx[word + D_VNET] = rx[rxWord + D_VNET]!;
    tx[word + D_CSUM] = rx[rxWord + D_CSUM]!;
    tx[word + D_FROM] = (rxWord / DESCRIPTOR_WORDS) | 0;
    tx[word + D_RESULT] = TX_FAILED;
    tx[word + D_USER] = rxWord;
    registers[R_TX_COUNT] = count + 1;
  }

  function takeSpare(): number {
    const taken = registers[R_SPARES]!;
    if (taken >= sparesMax) return -1;
    registers[R_SPARES] = taken + 1;
    const ipAt = spareAt + taken * spareBytes + SPARE_HEADROOM;
    // What was in the spare before may have been ARP.
    if (link !== 0) setEtherType(view, ipAt - link, ETHERTYPE_IPV4);
    return ipAt;
  }

  function sparesLeft(): number {
    return sparesMax - registers[R_SPARES]!;
  }

  function sendSpare(ipAt: number, ipBytes: number, egress: number, rxWord: number): void {
    const count = registers[R_TX_COUNT]!;
    const word = count * DESCRIPTOR_WORDS;
    tx[word + D_AT] = ipAt - link;
    tx[word + D_BYTES] = ipBytes + link;
    tx[word + D_INTERFACE] = egress;
    tx[word + D_VNET] = 0;
    tx[word + D_CSUM] = 0;
    tx[word + D_FROM] = FROM_SPARE;
    tx[word + D_RESULT] = TX_FAILED;
    tx[word + D_USER] = rxWord;
    registers[R_TX_COUNT] = count + 1;
  }

  function setLink(ipAt: number, egress: number, macHigh: number, macLow: number): void {
    if (link === 0) return;
    const own = registers[R_HOPS]! + HT_INTERFACES + 4 * egress;
    setEthernetAddresses(view, ipAt - link, macHigh, macLow, i32[own + 1]!, i32[own + 2]!);
  }

  return {
    sendReceived,
    takeSpare,
    sparesLeft,
    reserve,
    onFull(send) {
      sendListed = send;
    },
    spareBytes: spareBytes - SPARE_HEADROOM,
    sendSpare,
    setLink,
  };
}
