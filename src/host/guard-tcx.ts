import { mkdirSync } from "node:fs";
import { HostError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { pinnedGuardInterface } from "../device/guard-native.ts";
import type { Guard } from "./guard.ts";
import type { GuardEntries } from "./guard-entries.ts";
import { createEntries, openGuard } from "./guard-maps.ts";
import { removeNftablesGuards } from "./guard-nftables.ts";
import { pinFolder, pinOf, removePin, removePins, requireBpfFileSystem } from "./guard-pins.ts";
import type { HostInterface } from "./interfaces.ts";

export interface GuardSettings {
  readonly interfaces: readonly HostInterface[];
  readonly mode: "process" | "persistent";
  readonly bpfFolder: string;
  readonly log?: Log | undefined;
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
  const native = openGuard("tcx", persistent);
  const pins = new Map<HostInterface, string>();
  // Interfaces with another process's pin: ours takes its place when it has its entries.
  const waiting: HostInterface[] = [];
  try {
    if (persistent) mkdirSync(pinFolder(bpfFolder, "tcx"), { recursive: true, mode: 0o700 });
    for (const entry of interfaces) {
      const pin = persistent ? pinOf(bpfFolder, "tcx", entry.name) : "";
      pins.set(entry, pin);
      if (persistent && pinnedGuardInterface(pin) === entry.index) waiting.push(entry);
      else native.attach(entry.index, pin, 0, false);
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
      native.attach(entry.index, pins.get(entry) as string, 0, false);
      settings.log?.info("guard_replaced", { interface: entry.name });
    }
    if (replaced) return;
    // Only now that this guard works may those of an earlier start go.
    replaced = true;
    removePins(bpfFolder, interfaces, persistent ? ["xdp"] : ["tcx", "xdp"]);
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
