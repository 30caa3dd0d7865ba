import { addressBits } from "../base/address.ts";
import { type NativeGuard, openNativeGuard } from "../device/guard-native.ts";
import {
  type AddressEntry,
  compileGuard,
  type GuardEntries,
  type PortEntry,
  portEntries,
} from "./guard-entries.ts";

/** Room of the maps; nothing of it is taken before it is used. */
const ADDRESSES_MAX = 1 << 16;
const PORTS_MAX = 1 << 20;

/**
 * Make the maps of a guard.
 *
 * @param keeps - XDP: owned packets that no socket takes are dropped, not left to the kernel
 * @throws DeviceError - the kernel has no BPF of this kind, or refuses it
 */
export function openGuard(hook: "tcx" | "xdp", keeps: boolean): NativeGuard {
  return openNativeGuard(ADDRESSES_MAX, PORTS_MAX, hook, keeps);
}

/** What the maps hold, and the changes that make them hold something else. */
export function createEntries(native: NativeGuard): { write(wanted: GuardEntries): void } {
  const addresses = new Map<string, AddressEntry>();
  const ports = new Map<string, PortEntry>();

  function setPorts(key: string, entry: PortEntry): void {
    const { kind, protocol, address, port, bits } = entry;
    native.setPorts(kind, protocol, address.words, port, bits);
    ports.set(key, entry);
  }
  function removePorts(key: string, entry: PortEntry): void {
    const { kind, protocol, address, port, bits } = entry;
    native.removePorts(kind, protocol, address.words, port, bits);
    ports.delete(key);
  }
  function setAddress(key: string, entry: AddressEntry): void {
    native.setAddress(entry.address.words, bitsOf(entry), entry.flags);
    addresses.set(key, entry);
  }
  function removeAddress(key: string, entry: AddressEntry): void {
    native.removeAddress(entry.address.words, bitsOf(entry));
    addresses.delete(key);
  }

  return {
    write(wanted) {
      const next = compileGuard(wanted);
      const nextPorts = portEntries(next.ranges);
      // Ports count only for an address with its flag: they come before it and go after it. A call
      // that throws leaves what is noted here true, and the old entries in place. An address of its
      // own that goes may stay in a prefix: the prefix has to be there first.
      for (const [key, entry] of nextPorts) if (!ports.has(key)) setPorts(key, entry);
      for (const [key, entry] of next.addresses) {
        if (addresses.get(key)?.flags !== entry.flags) setAddress(key, entry);
      }
      for (const [key, entry] of [...addresses]) {
        if (!next.addresses.has(key)) removeAddress(key, entry);
      }
      for (const [key, entry] of [...ports]) if (!nextPorts.has(key)) removePorts(key, entry);
    },
  };
}

/** Of the mapped address: IPv4 has 96 bits before its own. */
function bitsOf({ address, prefixLength }: AddressEntry): number {
  return prefixLength + 128 - addressBits(address);
}
