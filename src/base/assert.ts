/**
 * Stop the process when an invariant is broken. Never compiled out: a gateway that goes on with a
 * broken table sends packets to the wrong host.
 *
 * @param condition - what must hold
 * @param message - the invariant, as a sentence that is true when all is well
 * @throws AssertionError - always when `condition` is false; nobody may catch it on the data plane
 */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** A broken invariant: a defect of the program, never of its input. */
export class AssertionError extends Error {
  override readonly name = "AssertionError";
  constructor(message: string) {
    super(`invariant broken: ${message}`);
  }
}

/** Marks a branch that the types say cannot be reached. */
export function unreachable(value: never): never {
  throw new AssertionError(`unreachable value ${String(value)}`);
}
