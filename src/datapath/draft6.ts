import { foldAddress6 } from "../flow/flow-hash.ts";
import {
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_DELTA,
  F_REPLY_ADDR,
  F_STATE,
  F_VIP_ADDR,
  KEY_ANY_IPV6,
  KEY_IPV6,
  KEY_ORIGINAL_IPV6,
  KEY_REPLY_IPV6,
  MODE_DSR,
  MODE_FULL_NAT,
  X_BACKEND,
  X_CLIENT,
  X_REPLY,
  X_VIP,
} from "../flow/flow-record.ts";
import { B_ADDRESS, B_ADDRESS6 } from "../service/backend-slots.ts";
import {
  BANK_SNAT_ADDRESSES,
  BANK_SNAT_COUNT,
  BANK_SNAT_PORT_HIGH,
  BANK_SNAT_PORT_LOW,
  BANK_SNAT6_ADDRESSES,
  BANK_SNAT6_COUNT,
  BANK_SNAT6_FOLDS,
  S_MODE,
} from "../service/bank.ts";
import { H_SECRET } from "../state/layout.ts";
import { add16, difference32, fold } from "../wire/checksum.ts";
import { type Context, R_BANK, R_DESTINATION6, R_IS_IPV6, R_SOURCE6 } from "./context.ts";

/** The backend's half of a draft in which either side is IPv6: addresses, ports, differences. */
export interface Draft6 {
  /**
   * @param backend - first word of the backend's slot
   * @param port - of the backend
   * @param ports - client << 16 | VIP
   * @returns false: no SNAT address and port is free
   */
  fill(
    backend: number,
    port: number,
    serviceWord: number,
    ports: number,
    protocol: number,
  ): boolean;
  /** Whether client and VIP of a flow that was found by folds are those of the packet at hand. */
  isOf(row: number): boolean;
}

export function createDraft6(context: Context): Draft6 {
  const { i32, registers, snatPorts, table } = context;
  const { draft, draftExtension } = table;

  function copy(from: Int32Array, at: number, to: number): void {
    for (let word = 0; word < 4; word++) draftExtension[to + word] = from[at + word]!;
  }

  function map(address: number, to: number): void {
    draftExtension[to] = 0;
    draftExtension[to + 1] = 0;
    draftExtension[to + 2] = 0xffff;
    draftExtension[to + 3] = address;
  }

  function foldOf(at: number): number {
    return foldAddress6(
      i32[H_SECRET]!,
      i32[H_SECRET + 1]!,
      draftExtension[at]!,
      draftExtension[at + 1]!,
      draftExtension[at + 2]!,
      draftExtension[at + 3]!,
    );
  }

  /** Sum of an address's words; of a mapped one those of the IPv4 address alone. */
  function sum(at: number, six: boolean): number {
    let total = 0;
    for (let word = six ? 0 : 3; word < 4; word++) {
      const value = draftExtension[at + word]!;
      total += (value >>> 16) + (value & 0xffff);
    }
    return fold(total);
  }

  function fill(
    backend: number,
    port: number,
    serviceWord: number,
    ports: number,
    protocol: number,
  ): boolean {
    const original6 = registers[R_IS_IPV6] !== 0;
    const reply6 = i32[backend + B_ADDRESS] === 0;
    const key = (original6 ? KEY_ORIGINAL_IPV6 : 0) | (reply6 ? KEY_REPLY_IPV6 : 0);
    // Another backend may have been tried before, of the other family.
    draft[F_STATE] = (draft[F_STATE]! & ~(KEY_ANY_IPV6 << 8)) | (key << 8);
    if (original6) {
      copy(registers, R_SOURCE6, X_CLIENT);
      copy(registers, R_DESTINATION6, X_VIP);
    } else {
      map(draft[F_CLIENT_ADDR]!, X_CLIENT);
      map(draft[F_VIP_ADDR]!, X_VIP);
    }
    if (reply6) copy(i32, backend + B_ADDRESS6, X_BACKEND);
    else map(i32[backend + B_ADDRESS]!, X_BACKEND);
    draft[F_BACKEND_ADDR] = reply6 ? foldOf(X_BACKEND) : i32[backend + B_ADDRESS]!;
    let replyPort = ports >>> 16;
    if (i32[serviceWord + S_MODE] === MODE_FULL_NAT) {
      replyPort = pickSnat(reply6, protocol, ports, port);
      if (replyPort === 0) return false;
    } else if (i32[serviceWord + S_MODE]! >= MODE_DSR && original6 !== reply6) {
      // A tunnel between the families: no reply comes here, and its address has to be of the backend's.
      copy(draftExtension, X_BACKEND, X_REPLY);
      draft[F_REPLY_ADDR] = draft[F_BACKEND_ADDR]!;
    } else {
      copy(draftExtension, X_CLIENT, X_REPLY);
      draft[F_REPLY_ADDR] = draft[F_CLIENT_ADDR]!;
    }
    const replyPorts = (port << 16) | replyPort;
    draft[F_BACKEND_REPLY_PORTS] = replyPorts;
    const before = add16(sum(X_CLIENT, original6), sum(X_VIP, original6));
    const after = add16(sum(X_REPLY, reply6), sum(X_BACKEND, reply6));
    const addresses = add16(~before & 0xffff, after);
    draft[F_DELTA] = (addresses << 16) | add16(addresses, difference32(ports, replyPorts));
    return true;
  }

  /** @returns the port, 0 when there is none; the address is in the draft */
  function pickSnat(reply6: boolean, protocol: number, ports: number, port: number): number {
    const bank = registers[R_BANK]!;
    const found = snatPorts.pick(
      reply6 ? protocol | KEY_IPV6 : protocol,
      draft[F_CLIENT_ADDR]!,
      draft[F_VIP_ADDR]!,
      ports,
      draft[F_BACKEND_ADDR]!,
      port,
      bank + (reply6 ? BANK_SNAT6_FOLDS : BANK_SNAT_ADDRESSES),
      i32[bank + (reply6 ? BANK_SNAT6_COUNT : BANK_SNAT_COUNT)]!,
      i32[bank + BANK_SNAT_PORT_LOW]!,
      i32[bank + BANK_SNAT_PORT_HIGH]!,
    );
    if (found === 0) return 0;
    draft[F_REPLY_ADDR] = snatPorts.result[0]!;
    if (reply6) copy(i32, bank + BANK_SNAT6_ADDRESSES + 4 * snatPorts.result[2]!, X_REPLY);
    else map(snatPorts.result[0]!, X_REPLY);
    return snatPorts.result[1]!;
  }

  function isOf(row: number): boolean {
    const extension = table.extensionWord(row);
    for (let word = 0; word < 4; word++) {
      if (i32[extension + X_CLIENT + word] !== registers[R_SOURCE6 + word]) return false;
      if (i32[extension + X_VIP + word] !== registers[R_DESTINATION6 + word]) return false;
    }
    return true;
  }

  return { fill, isOf };
}
