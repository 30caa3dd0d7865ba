import { isRefused4 } from "../admission/access-table.ts";
import { PROTOCOL_TCP } from "../flow/flow-record.ts";
import { ADMIT_ACCESS, ADMIT_ACCESS_RESETS, S_ACCESS_4, S_ADMISSION } from "../service/bank.ts";
import { ICMP_CODE_PORT_UNREACHABLE, ICMP_UNREACHABLE } from "../wire/icmp.ts";
import { type Context, R_ACCESS } from "./context.ts";
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
      const table = registers[R_ACCESS]! + i32[serviceWord + S_ACCESS_4]!;
      if (isRefused4(i32, table, client)) {
        const resets = (asks & ADMIT_ACCESS_RESETS) !== 0;
        return refuse(rxWord, ipAt, protocol, vip, REFUSED_ACCESS, DROP_ACCESS_DENIED, resets);
      }
    }
    return ADMITTED;
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
