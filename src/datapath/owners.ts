import { D_RESULT } from "../device/device.ts";
import { ownerOfClient, ownerOfSnatPort } from "../flow/owner.ts";
import { A_FLAGS, A_IS_SNAT, A_IS_VIP } from "../service/bank.ts";
import {
  H_FLOWS_SCATTERED,
  H_OWNER_HOST_BITS,
  H_OWNER_PORT_MASK,
  H_SECRET,
} from "../state/layout.ts";
import type { Addresses } from "./addresses.ts";
import type { Context } from "./context.ts";

/**
 * Which worker a frame without a flow here is for (flow/owner.ts): asked only after a look-up has
 * found nothing, so that what was steered well never pays for it.
 *
 * A frame is handed on once, to its owner. The exception are replies to SNAT addresses while flows
 * are scattered (H_FLOWS_SCATTERED): those go round, from the owner of the port to the worker behind
 * it, until one has the flow or all have looked.
 */
export interface Owners {
  /**
   * @param flags - A_… flags of the destination; 0: not known
   * @param ports - source << 16 | destination
   * @returns 0..workers - 1; this worker's number: there is nobody else to ask
   */
  ofPacket(
    rxWord: number,
    flags: number,
    source: number,
    destination: number,
    ports: number,
  ): number;
  /**
   * The worker for the first fragment of a datagram, whoever it was that handed it on. With ports 0 it
   * is the datagram's keeper: by addresses alone, since only the first one has ports. The kernel's
   * steering agrees (addon/steering.cc).
   */
  ofFirst(flags: number, source: number, destination: number, ports: number): number;
  /** The same for an ICMP error: addresses and ports of the packet that it quotes. */
  ofQuote(rxWord: number, source: number, destination: number, ports: number): number;
  /** The same where the A_… flags of the quoted source are known; addresses as ownerOfClient() has them. */
  ofQuoteFrom(
    rxWord: number,
    flags: number,
    source: number,
    destination: number,
    ports: number,
  ): number;
}

export function createOwners(context: Context, addresses: Addresses): Owners {
  const { i32, layout, rx } = context;
  const { worker, workers } = layout;

  function client(rxWord: number, address: number, port: number): number {
    // Only one worker can own it: who was handed it is that one, or they do not agree on a bank.
    if (rx[rxWord + D_RESULT] !== 0) return worker;
    return byClient(address, port);
  }

  function snatPort(rxWord: number, port: number): number {
    const owner = ownerOfSnatPort(port, workers);
    if (rx[rxWord + D_RESULT] === 0 && owner !== worker) return owner;
    if (i32[H_FLOWS_SCATTERED] === 0) return worker;
    const next = worker + 1 >= workers ? 0 : worker + 1;
    return next === owner ? worker : next;
  }

  function ofPacket(
    rxWord: number,
    flags: number,
    source: number,
    destination: number,
    ports: number,
  ): number {
    if ((flags & A_IS_VIP) !== 0) return client(rxWord, source, ports >>> 16);
    if ((flags & A_IS_SNAT) !== 0) return snatPort(rxWord, ports & 0xffff);
    return client(rxWord, destination, ports & 0xffff);
  }

  function ofQuote(rxWord: number, source: number, destination: number, ports: number): number {
    const entry = addresses.find(source);
    const flags = entry < 0 ? 0 : i32[entry + A_FLAGS]!;
    return ofQuoteFrom(rxWord, flags, source, destination, ports);
  }

  function ofQuoteFrom(
    rxWord: number,
    flags: number,
    source: number,
    destination: number,
    ports: number,
  ): number {
    if ((flags & A_IS_VIP) !== 0) return client(rxWord, destination, ports & 0xffff);
    if ((flags & A_IS_SNAT) !== 0) return snatPort(rxWord, ports >>> 16);
    return client(rxWord, source, ports >>> 16);
  }

  function byClient(address: number, port: number): number {
    const mask = i32[H_OWNER_PORT_MASK]!;
    const hostBits = i32[H_OWNER_HOST_BITS]!;
    const k1 = i32[H_SECRET + 1]!;
    return ownerOfClient(i32[H_SECRET]!, k1, address, port, mask, workers, hostBits);
  }

  function ofFirst(flags: number, source: number, destination: number, ports: number): number {
    if ((flags & A_IS_VIP) !== 0) return byClient(source, ports >>> 16);
    if ((flags & A_IS_SNAT) !== 0) return ownerOfSnatPort(ports & 0xffff, workers);
    return byClient(destination, ports & 0xffff);
  }

  return { ofPacket, ofFirst, ofQuote, ofQuoteFrom };
}
