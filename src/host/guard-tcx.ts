import { mkdirSync, readdirSync, readlinkSync, rmdirSync, statfsSync, unlinkSync } from "node:fs";
import path from "node:path";
import { HostError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { type NativeGuard, openNativeGuard, pinnedGuardInterface } from "../device/guard-native.ts";
import type { Guard } from "./guard.ts";
import { compileGuard, type GuardEntries, type PortEntry, portEntries } from "./guard-entries.ts";
import { removeNftablesGuards } from "./guard-nftables.ts";
import type { HostInterface } from "./interfaces.ts";

/** Where a bpf file system is mounted on every system that mounts one. */
export const BPF_FOLDER = "/sys/fs/bpf";

/** Magic number of the bpf file system (include/uapi/linux/magic.h, BPF_FS_MAGIC). */
const BPF_FS_MAGIC = 0xcafe4a11;

/** Room of the maps; nothing of it is taken before it is used. */
const ADDRESSES_MAX = 1 << 16;
const PORTS_MAX = 1 << 20;

export interface GuardSettings {
  readonly interfaces: readonly HostInterface[];
  readonly mode: "process" | "persistent";
  readonly bpfFolder: string;
  readonly log?: Log | undefined;
}

/**
 * Pins of this network namespace lie in a folder of their own: the bpf file system is not divided by
 * namespaces, and interface names repeat.
 */
export function pinFolder(bpfFolder: string): string {
  const inode = /\[(\d+)\]/.exec(readlinkSync("/proc/self/ns/net"))?.[1] ?? "unknown";
  return path.join(bpfFolder, "headgate", inode);
}

/** The bpf file system keeps names with a dot for itself (kernel/bpf/inode.c, bpf_lookup). */
function pinOf(bpfFolder: string, interfaceName: string): string {
  return path.join(pinFolder(bpfFolder), interfaceName.replaceAll(".", "%2e"));
}

function requireBpfFileSystem(folder: string): void {
  let type = 0;
  try {
    type = statfsSync(folder).type >>> 0;
  } catch {
    // Told below: no folder, no file system.
  }
  if (type !== BPF_FS_MAGIC) {
    throw new HostError(
      `device.guard: persistent needs a bpf file system on ${folder}; ` +
        `run \`mount -t bpf bpf ${folder}\` (systemd mounts it at boot)`,
    );
  }
}

/**
 * A guard by TCX.
 *
 * @throws DeviceError - the kernel has no TCX or refuses it
 * @throws HostError - persistent, and no bpf file system on `bpfFolder`
 */
export async function createTcxGuard(settings: GuardSettings): Promise<Guard> {
  const { interfaces, mode, bpfFolder } = settings;
  const persistent = mode === "persistent";
  if (persistent) requireBpfFileSystem(bpfFolder);
  const native = openNativeGuard(ADDRESSES_MAX, PORTS_MAX);
  const pins = new Map<HostInterface, string>();
  // Interfaces with another process's pin: ours takes its place when it has its entries.
  const waiting: HostInterface[] = [];
  try {
    if (persistent) mkdirSync(pinFolder(bpfFolder), { recursive: true, mode: 0o700 });
    for (const entry of interfaces) {
      const pin = persistent ? pinOf(bpfFolder, entry.name) : "";
      pins.set(entry, pin);
      if (persistent && pinnedGuardInterface(pin) === entry.index) waiting.push(entry);
      else native.attach(entry.index, pin);
    }
  } catch (error) {
    native.close();
    throw error;
  }

  const entries = createEntries(native);
  let replaced = false;
  let closed = false;

  async function update(wanted: GuardEntries): Promise<void> {
    if (closed) throw new HostError("the guard is closed");
    entries.write(wanted);
    for (let entry = waiting.shift(); entry !== undefined; entry = waiting.shift()) {
      native.attach(entry.index, pins.get(entry) as string);
      settings.log?.info("guard_replaced", { interface: entry.name });
    }
    if (replaced) return;
    // Only now that this guard works may those of an earlier start go.
    replaced = true;
    if (!persistent) await removeReplacedPins(settings);
    await removeNftablesGuards(interfaces.map(({ name }) => name));
  }

  async function close(options: { readonly remove?: boolean } = {}): Promise<void> {
    if (closed) return;
    closed = true;
    if (persistent && options.remove === true) for (const pin of pins.values()) removePin(pin);
    native.close();
  }

  return { kind: "tcx", update, close };
}

/** What the maps hold, and the changes that make them hold something else. */
function createEntries(native: NativeGuard): { write(wanted: GuardEntries): void } {
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

/** Remove the pins of this namespace's interfaces that an earlier start left. */
export async function removeReplacedPins(settings: GuardSettings): Promise<void> {
  for (const { name } of settings.interfaces) removePin(pinOf(settings.bpfFolder, name));
}

/** @returns whether there was one */
function removePin(pin: string): boolean {
  try {
    unlinkSync(pin);
    return true;
  } catch {
    return false;
  }
}

/**
 * Remove the pinned guards of this network namespace, and those whose interface is gone.
 *
 * @returns what was removed, one sentence each
 */
export function removePinnedGuards(bpfFolder: string = BPF_FOLDER): string[] {
  const removed: string[] = [];
  const all = path.join(bpfFolder, "headgate");
  const own = pinFolder(bpfFolder);
  for (const folder of foldersOf(all)) {
    for (const name of readdirSync(folder)) {
      const pin = path.join(folder, name);
      if (folder !== own && pinnedGuardInterface(pin) !== 0) continue;
      if (removePin(pin)) removed.push(`guard on ${name} (${pin})`);
    }
    removeEmptyFolder(folder);
  }
  removeEmptyFolder(all);
  return removed;
}

function foldersOf(folder: string): string[] {
  try {
    return readdirSync(folder).map((name) => path.join(folder, name));
  } catch {
    return [];
  }
}

function removeEmptyFolder(folder: string): void {
  try {
    rmdirSync(folder);
  } catch {
    // Not there, or still in use by another namespace.
  }
}
