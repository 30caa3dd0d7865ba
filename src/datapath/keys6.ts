import { foldAddress6 } from "../flow/flow-hash.ts";
import { KEY_IPV6, ORIGINAL, X_BACKEND, X_CLIENT } from "../flow/flow-record.ts";
import { ownerWord6 } from "../flow/owner.ts";
import { H_OWNER_HOST_BITS, H_SECRET } from "../state/layout.ts";
import { IPV6_SOURCE_AT } from "../wire/ipv6.ts";
import {
  type Context,
  R_DESTINATION_FOLD,
  R_DESTINATION6,
  R_SOURCE_FOLD,
  R_SOURCE6,
} from "./context.ts";

/** The addresses of an IPv6 packet as keys of flows: R_SOURCE6, R_DESTINATION6 and their folds. */
export interface Keys6 {
  /** Read the addresses of the header at `ipAt` into the registers. */
  load(ipAt: number): void;
  /**
   * The flow of the packet whose addresses are loaded.
   *
   * @param ports - source << 16 | destination
   * @returns row << 1 | direction, or -1
   */
  find(protocol: number, ports: number): number;
  /** The flow of the packet that would answer it: addresses and ports turned round. */
  findTurned(protocol: number, ports: number): number;
  /** The addresses as ownerOfClient() takes them. */
  sourceOwner(): number;
  destinationOwner(): number;
}

export function createKeys6(context: Context): Keys6 {
  const { i32, layout, registers, table, view } = context;

  function load(ipAt: number): void {
    const from = ipAt + IPV6_SOURCE_AT;
    for (let word = 0; word < 8; word++) {
      registers[R_SOURCE6 + word] = view.getInt32(from + 4 * word);
    }
    registers[R_SOURCE_FOLD] = fold(R_SOURCE6);
    registers[R_DESTINATION_FOLD] = fold(R_DESTINATION6);
  }

  function fold(register: number): number {
    return foldAddress6(
      i32[H_SECRET]!,
      i32[H_SECRET + 1]!,
      registers[register]!,
      registers[register + 1]!,
      registers[register + 2]!,
      registers[register + 3]!,
    );
  }

  /** Whether the flow that was found by folds has these addresses in full. */
  function isWhole(reference: number, source: number, destination: number): boolean {
    const side = (reference & 1) === ORIGINAL ? X_CLIENT : X_BACKEND;
    const from = table.extensionWord(reference >> 1) + side;
    for (let word = 0; word < 4; word++) {
      if (i32[from + word] !== registers[source + word]) return false;
      if (i32[from + 4 + word] !== registers[destination + word]) return false;
    }
    return true;
  }

  function find(protocol: number, ports: number): number {
    if (!layout.ipv6) return -1;
    const source = registers[R_SOURCE_FOLD]!;
    const destination = registers[R_DESTINATION_FOLD]!;
    const reference = table.find(protocol | KEY_IPV6, source, destination, ports);
    return reference >= 0 && isWhole(reference, R_SOURCE6, R_DESTINATION6) ? reference : -1;
  }

  function findTurned(protocol: number, ports: number): number {
    if (!layout.ipv6) return -1;
    const source = registers[R_SOURCE_FOLD]!;
    const destination = registers[R_DESTINATION_FOLD]!;
    const back = (ports << 16) | (ports >>> 16);
    const reference = table.find(protocol | KEY_IPV6, destination, source, back);
    return reference >= 0 && isWhole(reference, R_DESTINATION6, R_SOURCE6) ? reference : -1;
  }

  function owner(register: number): number {
    return ownerWord6(
      registers[register]!,
      registers[register + 1]!,
      registers[register + 2]!,
      registers[register + 3]!,
      i32[H_OWNER_HOST_BITS]!,
    );
  }

  return {
    load,
    find,
    findTurned,
    sourceOwner: () => owner(R_SOURCE6),
    destinationOwner: () => owner(R_DESTINATION6),
  };
}
