/**
 * Every operating error of the gateway: a class with a stable code, and the exit code that the
 * command line gives for it. Packet input is never an error (it is a verdict), and a broken
 * invariant is an assertion.
 */

/** Exit codes of the `headgate` command (docs: README, "Exit codes"). */
export const EXIT = {
  done: 0,
  failed: 1,
  usage: 2,
  differs: 3,
  noGateway: 69,
  alreadyRunning: 75,
  noPrivilege: 77,
  configuration: 78,
} as const;

export type ErrorCode =
  | "HEADGATE_CONFIG"
  | "HEADGATE_DEVICE"
  | "HEADGATE_STATE"
  | "HEADGATE_STATE_IN_USE"
  | "HEADGATE_ALREADY_RUNNING"
  | "HEADGATE_PRIVILEGE"
  | "HEADGATE_HOST"
  | "HEADGATE_NO_GATEWAY"
  | "HEADGATE_NOT_FOUND"
  | "HEADGATE_USAGE";

export class HeadgateError extends Error {
  override readonly name: string = "HeadgateError";
  readonly code: ErrorCode;
  readonly exitCode: number;
  constructor(code: ErrorCode, message: string, exitCode: number, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.exitCode = exitCode;
  }
}

/** One finding in a configuration file; lines and columns count from 1. */
export interface ConfigProblem {
  readonly file: string;
  readonly line: number;
  readonly column: number;
  /** The key's path, for example `services[0].port[0]`; empty for the whole document. */
  readonly path: string;
  /** "expected …, got …". */
  readonly message: string;
}

/** Renders a problem the way compilers do: `gw.yaml:14:11: services[0].port[0]: expected …, got 0`. */
export function formatConfigProblem(problem: ConfigProblem): string {
  const place = `${problem.file}:${problem.line}:${problem.column}`;
  return problem.path === ""
    ? `${place}: ${problem.message}`
    : `${place}: ${problem.path}: ${problem.message}`;
}

/** A configuration that cannot be used; carries every problem found, in the file's order. */
export class ConfigError extends HeadgateError {
  override readonly name = "ConfigError";
  readonly problems: readonly ConfigProblem[];
  constructor(problems: readonly ConfigProblem[]) {
    super("HEADGATE_CONFIG", problems.map(formatConfigProblem).join("\n"), EXIT.configuration);
    this.problems = problems;
  }
}

/** A system call on a device failed; the message names operation, errno and what to do. */
export class DeviceError extends HeadgateError {
  override readonly name = "DeviceError";
  readonly syscall: string;
  /** Positive errno value, or 0 when no system call failed. */
  readonly errno: number;
  constructor(message: string, syscall: string, errno: number, exitCode: number = EXIT.failed) {
    super("HEADGATE_DEVICE", message, exitCode);
    this.syscall = syscall;
    this.errno = errno;
  }
}

/** The state file cannot be made, taken over or locked. */
export class StateError extends HeadgateError {
  override readonly name = "StateError";
  constructor(message: string, options?: ErrorOptions) {
    super("HEADGATE_STATE", message, EXIT.failed, options);
  }
}

/** Another gateway holds the state file or the admin socket. */
export class AlreadyRunningError extends HeadgateError {
  override readonly name = "AlreadyRunningError";
  constructor(message: string) {
    super("HEADGATE_ALREADY_RUNNING", message, EXIT.alreadyRunning);
  }
}

/** A privilege is missing; the message says which and how to get it. */
export class PrivilegeError extends HeadgateError {
  override readonly name = "PrivilegeError";
  constructor(message: string) {
    super("HEADGATE_PRIVILEGE", message, EXIT.noPrivilege);
  }
}

/** Something on the host (interface, route, kernel feature, command) is not as needed. */
export class HostError extends HeadgateError {
  override readonly name = "HostError";
  constructor(message: string, options?: ErrorOptions) {
    super("HEADGATE_HOST", message, EXIT.failed, options);
  }
}

/** The admin socket does not answer. */
export class NoGatewayError extends HeadgateError {
  override readonly name = "NoGatewayError";
  constructor(message: string, options?: ErrorOptions) {
    super("HEADGATE_NO_GATEWAY", message, EXIT.noGateway, options);
  }
}
