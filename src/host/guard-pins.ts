import { readdirSync, readlinkSync, rmdirSync, statfsSync, unlinkSync } from "node:fs";
import path from "node:path";
import { HostError } from "../base/errors.ts";
import { pinnedGuardInterface } from "../device/guard-native.ts";

/** Pinned guards: files of a bpf file system, each of which keeps a program on an interface. */

/** Where a bpf file system is mounted on every system that mounts one. */
export const BPF_FOLDER = "/sys/fs/bpf";

/** Magic number of the bpf file system (include/uapi/linux/magic.h, BPF_FS_MAGIC). */
const BPF_FS_MAGIC = 0xcafe4a11;

/** A pin holds a program of one of these kinds. */
export type PinKind = "tcx" | "xdp";
const PIN_KINDS: readonly PinKind[] = ["tcx", "xdp"];

/**
 * Pins of this network namespace lie in folders of their own, one a kind: the bpf file system is not
 * divided by namespaces, and interface names repeat.
 */
export function pinFolder(bpfFolder: string, kind: PinKind): string {
  const inode = /\[(\d+)\]/.exec(readlinkSync("/proc/self/ns/net"))?.[1] ?? "unknown";
  return path.join(bpfFolder, "headgate", kind === "tcx" ? inode : `${inode}-${kind}`);
}

/** The bpf file system keeps names with a dot for itself (kernel/bpf/inode.c, bpf_lookup). */
export function pinOf(bpfFolder: string, kind: PinKind, interfaceName: string): string {
  return path.join(pinFolder(bpfFolder, kind), interfaceName.replaceAll(".", "%2e"));
}

/** @throws HostError when no bpf file system is mounted there */
export function requireBpfFileSystem(folder: string): void {
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

/** Remove the pins of these kinds that an earlier start left on these interfaces. */
export function removePins(
  bpfFolder: string,
  interfaces: readonly { readonly name: string }[],
  kinds: readonly PinKind[] = PIN_KINDS,
): void {
  for (const kind of kinds) {
    for (const { name } of interfaces) removePin(pinOf(bpfFolder, kind, name));
  }
}

/** @returns whether there was one */
export function removePin(pin: string): boolean {
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
  const own = PIN_KINDS.map((kind) => pinFolder(bpfFolder, kind));
  for (const folder of foldersOf(all)) {
    for (const name of readdirSync(folder)) {
      const pin = path.join(folder, name);
      if (!own.includes(folder) && pinnedGuardInterface(pin) !== 0) continue;
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
