import { isRefused4, isRefused6 } from "../admission/access-table.ts";
import { PROTOCOL_TCP } from "../flow/flow-record.ts";
import {
  ADMIT_ACCESS,
  ADMIT_ACCESS_RESETS,
  S_ACCESS_4,
  S_ACCESS_6,
  S_ADMISSION,
} from "../service/bank.ts";
import { ICMP_CODE_PORT_UNREACHABLE, ICMP_UNREACHABLE } from "../wire/icmp.ts";
import { type Context, R_ACCESS, R_IS_IPV6, R_SOURCE6 } from "./context.ts";
import { C_REFUSED } from "./counters.ts";
import type { Reply } from "./reply.ts";
import { DROP_ACCESS_DENIED, DROPPED, REFUSED_ACCESS } from "./verdict.ts";

/**
 * Who may open a flow: access lists and limits of a service, asked before a backend is chosen. A
 * flow that is there is never asked again.
 */
export interface Admission {
  /**
   * @param serviceWord - first word of the service in the bank, whose S_ADMISSION is not 0
   * @param vip - the packet's destination: where a refusal comes from
   * @returns ADMITTED, or the packet's verdict
   */
  admit(
    rxWord: number,
    ipAt: number,
    protocol: number,
    client: number,
    vip: number,
    serviceWord: number,
    service: number,
  ): number;
}

/** No verdict is negative. */
export const ADMITTED = -1;

export function createAdmission(context: Context, reply: Reply, countersAt: number): Admission {
  const { f64, i32, registers } = context;

  function admit(
    rxWord: number,
    ipAt: number,
    protocol: number,
    client: number,
    vip: number,
    serviceWord: number,
    _service: number,
  ): number {
    const asks = i32[serviceWord + S_ADMISSION]!;
    if ((asks & ADMIT_ACCESS) !== 0) {
      if (isRefused(serviceWord, client)) {
        const resets = (asks & ADMIT_ACCESS_RESETS) !== 0;
        return refuse(rxWord, ipAt, protocol, vip, REFUSED_ACCESS, DROP_ACCESS_DENIED, resets);
      }
    }
    return ADMITTED;
  }

  function isRefused(serviceWord: number, client: number): boolean {
    const first = registers[R_ACCESS]!;
    if (registers[R_IS_IPV6] === 0) {
      return isRefused4(i32, first + i32[serviceWord + S_ACCESS_4]!, client);
    }
    return isRefused6(
      i32,
      first + i32[serviceWord + S_ACCESS_6]!,
      registers[R_SOURCE6]!,
      registers[R_SOURCE6 + 1]!,
      registers[R_SOURCE6 + 2]!,
      registers[R_SOURCE6 + 3]!,
    );
  }

  function refuse(
    rxWord: number,
    ipAt: number,
    protocol: number,
    vip: number,
    refusal: number,
    reason: number,
    resets: boolean,
  ): number {
    const at = countersAt + C_REFUSED + refusal;
    f64[at] = f64[at]! + 1;
    if (!resets) return DROPPED | (reason << 8);
    if (protocol === PROTOCOL_TCP) return reply.answerReset(rxWord, ipAt);
    return reply.answerIcmpError(
      rxWord,
      ipAt,
      vip,
      ICMP_UNREACHABLE,
      ICMP_CODE_PORT_UNREACHABLE,
      0,
    );
  }

  return { admit };
}
