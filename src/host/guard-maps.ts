import { type NativeGuard, openNativeGuard } from "../device/guard-native.ts";
import { compileGuard, type GuardEntries, type PortEntry, portEntries } from "./guard-entries.ts";

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
  const addresses = new Map<number, number>();
  const ports = new Map<string, PortEntry>();

  function setPorts(key: string, entry: PortEntry): void {
    native.setPorts(entry.kind, entry.protocol, entry.address, entry.port, entry.bits);
    ports.set(key, entry);
  }
  function removePorts(key: string, entry: PortEntry): void {
    native.removePorts(entry.kind, entry.protocol, entry.address, entry.port, entry.bits);
    ports.delete(key);
  }
  function setAddress(address: number, flags: number): void {
    native.setAddress(address, flags);
    addresses.set(address, flags);
  }
  function removeAddress(address: number): void {
    native.removeAddress(address);
    addresses.delete(address);
  }

  return {
    write(wanted) {
      const next = compileGuard(wanted);
      const nextPorts = portEntries(next.ranges);
      // Ports count only for an address with its flag: they come before it and go after it. A call
      // that throws leaves what is noted here true, and the old entries in place.
      for (const [key, entry] of nextPorts) if (!ports.has(key)) setPorts(key, entry);
      for (const [address, flags] of next.addresses) {
        if (addresses.get(address) !== flags) setAddress(address, flags);
      }
      for (const address of [...addresses.keys()]) {
        if (!next.addresses.has(address)) removeAddress(address);
      }
      for (const [key, entry] of [...ports]) if (!nextPorts.has(key)) removePorts(key, entry);
    },
  };
}
