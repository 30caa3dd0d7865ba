import type { AccessTables } from "./access-buffers.ts";
import { ADMIT_ACCESS, ADMIT_ACCESS_RESETS, S_ACCESS_4, S_ACCESS_6, S_ADMISSION } from "./bank.ts";
import type { AssignedService } from "./slots.ts";

/**
 * The words of a bank's service that admission reads (S_ADMISSION and what follows).
 *
 * @param word - first word of the service
 * @param access - its access tables, when it has lists
 */
export function writeAdmission(
  i32: Int32Array,
  word: number,
  service: AssignedService,
  access: AccessTables | undefined,
): void {
  const { definition } = service;
  let flags = 0;
  if (access !== undefined) {
    flags |= ADMIT_ACCESS;
    i32[word + S_ACCESS_4] = access.four;
    i32[word + S_ACCESS_6] = access.six;
  }
  if (definition.access.refuse === "reset") flags |= ADMIT_ACCESS_RESETS;
  // What no service asks for costs a new flow one comparison with 0.
  i32[word + S_ADMISSION] = access === undefined ? 0 : flags;
}
