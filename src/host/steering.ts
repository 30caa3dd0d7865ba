import {
  createSteering as createNativeSteering,
  STEER_SNAT,
  STEER_VIP,
  type SteeringOptions,
} from "../device/steering-native.ts";

/** Divides frames among workers: the program, and its map, which follows the configuration. */
export interface Steering {
  /** What the workers' devices are opened with. */
  readonly programFd: number;
  /**
   * Say which addresses are VIPs and which SNAT addresses, int32 in host order; what was said before
   * and is not said now goes. A frame that comes meanwhile may go to the wrong worker, which hands
   * it over.
   *
   * @throws DeviceError when there are more than fit
   */
  update(vips: Iterable<number>, snat: Iterable<number>): void;
  /** Closing twice is fine. */
  close(): void;
}

/** As many addresses as the guard has room for. */
const ADDRESSES_MAX = 1 << 16;

/**
 * Load the steering program.
 *
 * @throws DeviceError - no privilege, or the kernel has no such BPF
 */
export function createSteering(options: Omit<SteeringOptions, "addressesMax">): Steering {
  const native = createNativeSteering({ ...options, addressesMax: ADDRESSES_MAX });
  let known: ReadonlyMap<number, number> = new Map();
  return {
    programFd: native.programFd,
    update(vips, snat) {
      const wanted = new Map<number, number>();
      for (const address of vips) wanted.set(address, STEER_VIP);
      for (const address of snat) wanted.set(address, (wanted.get(address) ?? 0) | STEER_SNAT);
      for (const address of known.keys()) if (!wanted.has(address)) native.set(address, 0);
      for (const [address, flags] of wanted) {
        if (known.get(address) !== flags) native.set(address, flags);
      }
      known = wanted;
    },
    close: native.close,
  };
}
