/**
 * ECN at the end of a tunnel (RFC 6040 section 4.2, figure 4): what the inner packet's two bits become,
 * by what they are and what the outer header's are.
 */

/** RFC 3168 section 5. */
export const NOT_ECT = 0;
export const ECT_1 = 1;
export const ECT_0 = 2;
export const CE = 3;

/** The packet has to be dropped. */
export const ECN_DROP = -1;

/** [inner << 2 | outer]; -1: drop. */
const OUTGOING = new Int8Array([
  NOT_ECT,
  NOT_ECT,
  NOT_ECT,
  ECN_DROP, // Not-ECT inside
  ECT_1,
  ECT_1,
  ECT_1,
  CE, // ECT(1) inside
  ECT_0,
  ECT_1,
  ECT_0,
  CE, // ECT(0) inside
  CE,
  CE,
  CE,
  CE, // CE inside
]);

/**
 * The ECN field of a packet that leaves a tunnel.
 *
 * @param inner - TOS or traffic class of the inner header: its two lowest bits count
 * @param outer - the same of the outer header
 * @returns 0..3, or ECN_DROP
 */
export function ecnAfterTunnel(inner: number, outer: number): number {
  return OUTGOING[((inner & 3) << 2) | (outer & 3)]!;
}
