import { assert } from "../base/assert.ts";
import { DeviceError } from "../base/errors.ts";
import { errnoName, isNativeFailure, nativeAddon } from "./native.ts";

/**
 * The TCX guard of the addon (addon/guard.cc): a program and its two maps. It drops the kernel's
 * copy of the packets that the maps name, on the interfaces that it is attached to.
 */
export interface NativeGuard {
  /** Insert or replace one address (int32, host order) with its GUARD_ flags. */
  setAddress(address: number, flags: number): void;
  /** Removing what is not there is fine. */
  removeAddress(address: number): void;
  /** Insert the ports whose first `bits` (0..16) bits are those of `port`. */
  setPorts(kind: number, protocol: number, address: number, port: number, bits: number): void;
  removePorts(kind: number, protocol: number, address: number, port: number, bits: number): void;
  /**
   * Put the program on an interface, before all others there.
   *
   * @param interfaceIndex - kernel index
   * @param pin - file below a bpf file system that keeps the program after this process, or "":
   *   the program goes with this process. What an earlier process pinned there is replaced, with no
   *   moment without a guard.
   * @returns true when a pinned program was replaced
   */
  attach(interfaceIndex: number, pin: string): boolean;
  /** Releases everything that is not pinned. Closing twice is fine. */
  close(): void;
}

interface GuardAddon {
  createGuard(addressesMax: number, portsMax: number): NativeGuard;
  guardPinned(path: string): number;
}

function addon(): GuardAddon {
  return nativeAddon() as unknown as GuardAddon;
}

/** Run one native call; a failed system call becomes a DeviceError with its errno and what to do. */
function call<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!isNativeFailure(error)) throw error;
    const { errno, syscall, subject } = error;
    throw new DeviceError(
      `guard: ${syscall} failed with ${errnoName(errno)} for ${subject}${advice(errnoName(errno), syscall)}`,
      syscall,
      errno,
    );
  }
}

function advice(name: string, syscall: string): string {
  if (name === "E2BIG" || (name === "ENOSPC" && syscall.includes("MAP"))) {
    return ": more addresses or ports than the guard has room for; use fewer services";
  }
  if (name === "EPERM" || name === "EACCES") return ": needs root, or CAP_BPF and CAP_NET_ADMIN";
  if (name === "EINVAL" && syscall.includes("LINK")) return ": the kernel has no TCX (Linux 6.6)";
  if (name === "ENOSYS") return ": the kernel has no bpf(2)";
  return "";
}

/**
 * Make the maps and load the program; nothing is attached yet.
 *
 * @throws DeviceError - syscall and errno say why (EPERM: no privilege; ENOSYS, EINVAL: the kernel
 *   has no BPF of this kind)
 */
export function openNativeGuard(addressesMax: number, portsMax: number): NativeGuard {
  assert(addressesMax > 0 && portsMax > 0, "a guard has room for entries");
  const native = call(() => addon().createGuard(addressesMax, portsMax));
  return {
    setAddress: (address, flags) => call(() => native.setAddress(address, flags)),
    removeAddress: (address) => call(() => native.removeAddress(address)),
    setPorts: (kind, protocol, address, port, bits) =>
      call(() => native.setPorts(kind, protocol, address, port, bits)),
    removePorts: (kind, protocol, address, port, bits) =>
      call(() => native.removePorts(kind, protocol, address, port, bits)),
    attach: (interfaceIndex, pin) => call(() => native.attach(interfaceIndex, pin)),
    close: () => native.close(),
  };
}

/**
 * Ask where a pinned guard is.
 *
 * @returns kernel index of its interface; 0: that interface is gone; -1: nothing is pinned there
 * @throws DeviceError - the file is there but is no guard, or no privilege
 */
export function pinnedGuardInterface(path: string): number {
  return call(() => addon().guardPinned(path));
}
