import { HostError } from "../base/errors.ts";
import { type Log, reasonOf } from "../base/log.ts";
import type { GuardEntries } from "./guard-entries.ts";
import { createNftablesGuard } from "./guard-nftables.ts";
import { BPF_FOLDER, removePins } from "./guard-pins.ts";
import { createTcxGuard } from "./guard-tcx.ts";
import { createXdpGuard, type XdpGuard, type XdpMode } from "./guard-xdp.ts";
import { findInterfaces } from "./interfaces.ts";

export type { GuardEntries } from "./guard-entries.ts";

export type GuardKind = "tcx" | "nftables" | "xdp";

export interface GuardOptions {
  /** Names of the gateway's interfaces. */
  readonly interfaces: readonly string[];
  /** `process`: goes with this process, however it ends. `persistent`: stays until removed. */
  readonly mode: "process" | "persistent";
  /** Only this means; default: the environment variable HEADGATE_GUARD, or TCX before nftables. */
  readonly kind?: Exclude<GuardKind, "xdp"> | undefined;
  /** Where the bpf file system is mounted (`persistent` with TCX). */
  readonly bpfFolder?: string | undefined;
  readonly log?: Log | undefined;
}

/** Keeps the kernel from handling the packets that the gateway takes (design 1.9). */
export interface Guard {
  readonly kind: GuardKind;
  /**
   * Guard these entries from now on. What stays is guarded at every moment; new entries are there
   * before old ones go. In `persistent` mode the first call takes the place of the guard that an
   * earlier process left.
   *
   * @throws HostError, DeviceError - the kernel refused; what was guarded before still is
   */
  update(entries: GuardEntries): Promise<void>;
  /**
   * Let go. A `process` guard is gone then; a `persistent` one stays, unless `remove` is set.
   * Closing twice is fine.
   */
  close(options?: { readonly remove?: boolean }): Promise<void>;
}

/**
 * Put a guard on the interfaces: TCX where the kernel has it (Linux 6.6), else nftables. It guards
 * nothing before the first update().
 *
 * @throws HostError - an interface does not exist, no bpf file system for a persistent guard, or
 *   neither means works: the message has both reasons
 */
export async function createGuard(options: GuardOptions): Promise<Guard> {
  const interfaces = await findInterfaces(options.interfaces);
  const kind = options.kind ?? kindOfEnvironment();
  const settings = {
    interfaces,
    mode: options.mode,
    bpfFolder: options.bpfFolder ?? BPF_FOLDER,
    log: options.log,
  };
  let refused = "";
  if (kind !== "nftables") {
    try {
      return await createTcxGuard(settings);
    } catch (error) {
      // A missing mount is the operator's to mend, not a reason for other means.
      if (kind === "tcx" || error instanceof HostError) throw error;
      refused = reasonOf(error);
      options.log?.warn("guard_fallback", { kind: "nftables", reason: refused });
    }
  }
  try {
    const guard = await createNftablesGuard(settings);
    return {
      ...guard,
      update: async (entries) => {
        await guard.update(entries);
        removePins(settings.bpfFolder, interfaces);
      },
    };
  } catch (error) {
    const also = refused === "" ? "" : ` (and TCX: ${refused})`;
    throw new HostError(`no guard for the interfaces: ${reasonOf(error)}${also}`, { cause: error });
  }
}

/**
 * Put the XDP program of AF_XDP sockets on the interfaces: it hands them what the gateway owns, and
 * all else to the kernel.
 *
 * @throws HostError - an interface does not exist, has another XDP program, or cannot have one
 */
export async function createSocketGuard(
  options: Omit<GuardOptions, "kind"> & { readonly xdpMode: XdpMode },
): Promise<XdpGuard> {
  return createXdpGuard({
    interfaces: await findInterfaces(options.interfaces),
    mode: options.mode,
    bpfFolder: options.bpfFolder ?? BPF_FOLDER,
    log: options.log,
    xdpMode: options.xdpMode,
  });
}

function kindOfEnvironment(): Exclude<GuardKind, "xdp"> | undefined {
  const value = process.env["HEADGATE_GUARD"];
  if (value === undefined || value === "") return undefined;
  if (value === "tcx" || value === "nftables") return value;
  throw new HostError(`HEADGATE_GUARD: expected "tcx" or "nftables", got ${JSON.stringify(value)}`);
}
