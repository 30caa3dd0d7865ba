import { PrivilegeError } from "../base/errors.ts";
import { errnoName, isNativeFailure, nativeAddon } from "./native.ts";

/** What the kernel and the C library know of users and capabilities; see addon/privileges.cc. */

export interface NativeUser {
  readonly name: string;
  readonly uid: number;
  /** Its own group, and all that it is in. */
  readonly gid: number;
  readonly groups: readonly number[];
}

/**
 * Look a user up, by name or by number.
 *
 * @returns null when there is none
 */
export function findUser(who: string | number): NativeUser | null {
  return typeof who === "string" ? nativeAddon().findUser(who, 0) : nativeAddon().findUser("", who);
}

/**
 * Become a user for good, in every thread. The calling thread keeps some capabilities, for its children
 * too (ambient); every other thread loses all it has.
 *
 * @param keep - numbers of capabilities (include/uapi/linux/capability.h)
 * @throws PrivilegeError
 */
export function becomeUser(
  uid: number,
  gid: number,
  groups: readonly number[],
  keep: readonly number[],
): void {
  refusing(`cannot become user ${uid}`, () => nativeAddon().becomeUser(uid, gid, groups, keep));
}

/**
 * Take every capability that is not in `keep` out of what the calling thread may ever have.
 *
 * @throws PrivilegeError
 */
export function limitThread(keep: readonly number[]): void {
  refusing("cannot limit a thread's capabilities", () => nativeAddon().limitThread(keep));
}

/**
 * Leave the calling thread without any capability, and what it makes from now on: threads and programs.
 *
 * @throws PrivilegeError
 */
export function giveUpCapabilities(): void {
  refusing("cannot give up a thread's capabilities", () => nativeAddon().giveUpCapabilities());
}

/**
 * Run this program again in the place of the running one, as the same process with the same
 * arguments, unable to gain privileges and with no other capabilities than these. Only in the main
 * thread, before anything is opened.
 *
 * @throws PrivilegeError
 */
export function startAgain(
  keep: readonly number[],
  argv: readonly string[],
  environment: readonly string[],
): void {
  refusing("cannot start with fewer capabilities", () =>
    nativeAddon().startAgain(keep, argv, environment),
  );
}

/**
 * Start a child that inherits none of the capabilities that this thread keeps for its own children.
 *
 * @param start - has to start it before it returns
 * @returns what `start` returns
 */
export function withoutAmbient<T>(start: () => T): T {
  return nativeAddon().withoutAmbient(start);
}

function refusing(what: string, call: () => void): void {
  try {
    call();
  } catch (error) {
    if (!isNativeFailure(error)) throw error;
    const cause = `${error.syscall} ${error.subject}`.trim();
    throw new PrivilegeError(
      `${what} (${cause}: ${errnoName(error.errno)}); start headgate as root, with CAP_SETUID, ` +
        "CAP_SETGID and CAP_SETPCAP",
    );
  }
}
