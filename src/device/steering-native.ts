import type { Words6 } from "../base/address.ts";
import { assert } from "../base/assert.ts";
import { DeviceError } from "../base/errors.ts";
import { errnoName, isNativeFailure, nativeAddon } from "./native.ts";

/**
 * The program that says which worker a frame is for (addon/steering.cc), and its map of addresses.
 * The kernel runs it for every frame of an AF_PACKET group or a TUN device that it was given to.
 */
export interface Steering {
  /** Descriptor of the program, valid in every thread of the process. */
  readonly programFd: number;
  /**
   * Say what an address is, or a prefix.
   *
   * @param address - four words in host order; IPv4 mapped (::ffff:a.b.c.d)
   * @param bits - of the 128; fewer for a prefix
   * @param flags - STEER_ flags; 0: nothing
   * @throws DeviceError when the map is full, or the steering is closed
   */
  set(address: Words6, bits: number, flags: number): void;
  /** What was given the program keeps it. Closing twice is fine. */
  close(): void;
}

/** Flags of an address: addon/steering.cc has the same numbers. */
export const STEER_VIP = 1;
export const STEER_SNAT = 2;

export interface SteeringOptions {
  /** Secret of the region: flow/owner.ts hashes with the same. */
  readonly key: readonly [number, number];
  /** Bits of the client's port that count. */
  readonly portMask: number;
  /** Bits at the end of the client's address that do not: ownerHostBits() of flow/owner.ts. */
  readonly hostBits: number;
  readonly workers: number;
  /** Addresses that fit. */
  readonly addressesMax: number;
}

interface SteeringAddon {
  createSteering(
    key0: number,
    key1: number,
    portMask: number,
    workers: number,
    addressesMax: number,
    hostBits: number,
  ): {
    readonly programFd: number;
    set(...wordsBitsFlags: number[]): void;
    close(): void;
  };
}

function call<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!isNativeFailure(error)) throw error;
    const { errno, syscall, subject } = error;
    const name = errnoName(errno);
    throw new DeviceError(
      `steering: ${syscall} failed with ${name} for ${subject}${advice(name)}`,
      syscall,
      errno,
    );
  }
}

function advice(name: string): string {
  if (name === "E2BIG") return ": more VIP and SNAT addresses than there is room for";
  if (name === "EPERM" || name === "EACCES") return ": needs root, or CAP_BPF and CAP_NET_ADMIN";
  return ": the kernel cannot divide frames among workers; set device.workers to 1";
}

/**
 * Load the program; its map is empty.
 *
 * @throws DeviceError - no privilege, or the kernel has no such BPF
 */
export function createSteering(options: SteeringOptions): Steering {
  const { key, portMask, hostBits, workers, addressesMax } = options;
  assert(workers >= 1 && addressesMax >= 1, "steering has workers, and room for addresses");
  const addon = nativeAddon() as unknown as SteeringAddon;
  const native = call(() =>
    addon.createSteering(key[0], key[1], portMask, workers, addressesMax, hostBits),
  );
  return {
    programFd: native.programFd,
    set: (address, bits, flags) => call(() => native.set(...address, bits, flags)),
    close: () => native.close(),
  };
}
