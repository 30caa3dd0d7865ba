import { type Address, addressBits } from "../base/address.ts";
import {
  createSteering as createNativeSteering,
  STEER_SNAT,
  STEER_VIP,
  type SteeringOptions,
} from "../device/steering-native.ts";

/** A VIP's address, or prefix. */
export interface SteeredAddress {
  readonly address: Address;
  readonly prefixLength?: number | undefined;
}

interface Entry {
  readonly address: Address;
  readonly bits: number;
  readonly flags: number;
}

/** Divides frames among workers: the program, and its map, which follows the configuration. */
export interface Steering {
  /** What the workers' devices are opened with. */
  readonly programFd: number;
  /**
   * Say which addresses are VIPs and which SNAT addresses; what was said before and is not said now
   * goes. A frame that comes meanwhile may go to the wrong worker, which hands it over.
   *
   * @throws DeviceError when there are more than fit
   */
  update(vips: Iterable<SteeredAddress>, snat: Iterable<Address>): void;
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
  let known: ReadonlyMap<string, Entry> = new Map();
  const set = ({ address, bits }: Entry, flags: number): void =>
    native.set(address.words, bits, flags);
  return {
    programFd: native.programFd,
    update(vips, snat) {
      const wanted = new Map<string, Entry>();
      const add = (address: Address, length: number, flag: number): void => {
        const bits = length + 128 - addressBits(address);
        const key = `${address.words.join("/")}/${bits}`;
        wanted.set(key, { address, bits, flags: (wanted.get(key)?.flags ?? 0) | flag });
      };
      for (const { address, prefixLength } of vips) {
        add(address, prefixLength ?? addressBits(address), STEER_VIP);
      }
      for (const address of snat) add(address, addressBits(address), STEER_SNAT);
      for (const [key, entry] of known) if (!wanted.has(key)) set(entry, 0);
      for (const [key, entry] of wanted) {
        if (known.get(key)?.flags !== entry.flags) set(entry, entry.flags);
      }
      known = wanted;
    },
    close: native.close,
  };
}
