import type { Words6 } from "../base/address.ts";
import { assert } from "../base/assert.ts";
import { DeviceError } from "../base/errors.ts";
import { errnoName, isNativeFailure, nativeAddon } from "./native.ts";

/**
 * The guard of the addon (addon/guard.cc): a program and its maps. On the interfaces that it is
 * attached to it keeps the kernel from the packets that the maps name: as a TCX program it drops
 * the kernel's copy, as an XDP program it hands them to AF_XDP sockets. Addresses are four words in
 * host order, those of IPv4 mapped (::ffff:a.b.c.d).
 */
export interface NativeGuard {
  /**
   * File descriptor of the socket map, valid in every thread of the process while the guard is
   * open; -1 for TCX. The socket of a queue stands at ordinal * XDP_QUEUES_MAX + queue.
   */
  readonly sockets: number;
  /**
   * Insert or replace one address, or a prefix, with its GUARD_ flags.
   *
   * @param bits - of the prefix, counted on the 128 of the words: 96 more than IPv4's own length
   */
  setAddress(address: Words6, bits: number, flags: number): void;
  /** Removing what is not there is fine. */
  removeAddress(address: Words6, bits: number): void;
  /** Insert the ports whose first `bits` (0..16) bits are those of `port`. */
  setPorts(kind: number, protocol: number, address: Words6, port: number, bits: number): void;
  removePorts(kind: number, protocol: number, address: Words6, port: number, bits: number): void;
  /**
   * Put the program on an interface, before all others there.
   *
   * @param interfaceIndex - kernel index
   * @param pin - file below a bpf file system that keeps the program after this process, or "":
   *   the program goes with this process. What an earlier process pinned there is replaced, with no
   *   moment without a guard.
   * @param ordinal - XDP: place of the interface in the device's list, 0-15
   * @param generic - XDP: after the driver made an skb of the frame, not in the driver
   * @returns true when a pinned program was replaced
   */
  attach(interfaceIndex: number, pin: string, ordinal: number, generic: boolean): boolean;
  /** Releases everything that is not pinned. Closing twice is fine. */
  close(): void;
}

/** Where the program is attached; addon/guard.cc has the same numbers. */
const HOOKS = { tcx: 0, xdp: 1 } as const;

interface GuardAddon {
  createGuard(
    addressesMax: number,
    portsMax: number,
    hook: number,
    keeps: boolean,
  ): {
    readonly sockets: number;
    setAddress(...wordsBitsFlags: number[]): void;
    removeAddress(...wordsBits: number[]): void;
    setPorts(kind: number, protocol: number, ...wordsPortBits: number[]): void;
    removePorts(kind: number, protocol: number, ...wordsPortBits: number[]): void;
    attach(interfaceIndex: number, pin: string, ordinal: number, generic: number): number;
    close(): void;
  };
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
  if (name === "EINVAL" && syscall.includes("LINK")) {
    return ": the kernel has no TCX (Linux 6.6), or no XDP link (Linux 5.9)";
  }
  if (name === "ENOMEM") return ": free some memory";
  if (name === "ENOSYS") return ": the kernel has no bpf(2)";
  return "";
}

/**
 * Make the maps; nothing is attached yet.
 *
 * @param hook - TCX for AF_PACKET, XDP for AF_XDP
 * @param keeps - XDP: an owned packet that no socket takes is dropped, not left to the kernel
 * @throws DeviceError - syscall and errno say why (EPERM: no privilege; ENOSYS, EINVAL: the kernel
 *   has no BPF of this kind)
 */
export function openNativeGuard(
  addressesMax: number,
  portsMax: number,
  hook: keyof typeof HOOKS,
  keeps: boolean,
): NativeGuard {
  assert(addressesMax > 0 && portsMax > 0, "a guard has room for entries");
  const native = call(() => addon().createGuard(addressesMax, portsMax, HOOKS[hook], keeps));
  return {
    sockets: native.sockets,
    setAddress: (address, bits, flags) => call(() => native.setAddress(...address, bits, flags)),
    removeAddress: (address, bits) => call(() => native.removeAddress(...address, bits)),
    setPorts: (kind, protocol, address, port, bits) =>
      call(() => native.setPorts(kind, protocol, ...address, port, bits)),
    removePorts: (kind, protocol, address, port, bits) =>
      call(() => native.removePorts(kind, protocol, ...address, port, bits)),
    attach: (interfaceIndex, pin, ordinal, generic) =>
      call(() => native.attach(interfaceIndex, pin, ordinal, generic ? 1 : 0) !== 0),
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
