import { mkdirSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import { DeviceError, HostError } from "../base/errors.ts";
import { type NativeGuard, pinnedGuardInterface } from "../device/guard-native.ts";
import { ERRNO } from "../device/native.ts";
import type { Guard } from "./guard.ts";
import type { GuardEntries } from "./guard-entries.ts";
import { createEntries, openGuard } from "./guard-maps.ts";
import { removeNftablesGuards } from "./guard-nftables.ts";
import { pinFolder, pinOf, removePin, removePins, requireBpfFileSystem } from "./guard-pins.ts";
import type { GuardSettings } from "./guard-tcx.ts";
import type { HostInterface } from "./interfaces.ts";
import { ipJson } from "./ip-json.ts";

/**
 * The guard of AF_XDP: an XDP program on every interface. It is the way of the gateway's packets as
 * well as the kernel's fence: what it takes goes to the socket of the queue (design 1.9).
 *
 * While no gateway runs, the sockets are gone: a program that is pinned (`persistent`) then drops
 * what is owned, so that the kernel resets no flow before the next gateway is there.
 */
export interface XdpGuard extends Guard {
  readonly kind: "xdp";
  /** File descriptor of the socket map, valid in every thread until the guard is closed. */
  readonly sockets: number;
  /** By place in the list of interfaces: true where the program runs outside of the driver. */
  readonly generic: readonly boolean[];
}

/** Where the program runs: in the driver, after it, or in the driver where that has XDP. */
export type XdpMode = "auto" | "native" | "generic";

/** Sockets of a process that was killed, and its links, can be there for a moment. */
const BUSY_TIMEOUT_MS = 2000;
const BUSY_POLL_MS = 50;

/** Attach modes as `ip -json link` gives them (include/uapi/linux/if_link.h, XDP_ATTACHED_SKB). */
const ATTACHED_GENERIC = 2;

/**
 * @throws HostError - an interface has another XDP program or cannot have one, or persistent and no
 *   bpf file system on `bpfFolder`
 * @throws DeviceError - the kernel has no XDP, or refuses the program
 */
export async function createXdpGuard(
  settings: GuardSettings & { readonly xdpMode: XdpMode },
): Promise<XdpGuard> {
  const { interfaces, mode, bpfFolder, xdpMode, log } = settings;
  const persistent = mode === "persistent";
  if (persistent) requireBpfFileSystem(bpfFolder);
  const native = openGuard("xdp", persistent);
  const generic: boolean[] = [];
  const pins = new Map<HostInterface, string>();
  // Interfaces with another process's pin: ours takes its place when it has its entries.
  const waiting: number[] = [];
  try {
    if (persistent) mkdirSync(pinFolder(bpfFolder, "xdp"), { recursive: true, mode: 0o700 });
    for (const [ordinal, entry] of interfaces.entries()) {
      const pin = pinOf(bpfFolder, "xdp", entry.name);
      pins.set(entry, pin);
      const isPinned = pinnedGuardInterface(pin) === entry.index;
      const pinnedGeneric = isPinned && (await isAttachedGeneric(entry));
      if (isPinned && (xdpMode === "auto" || (xdpMode === "generic") === pinnedGeneric)) {
        waiting.push(ordinal);
        generic.push(pinnedGeneric);
      } else {
        // A pinned program of the mode that is no longer wanted cannot be replaced in place.
        removePin(pin);
        generic.push(await attach(native, entry, persistent ? pin : "", ordinal, settings));
      }
      const isGeneric = generic[ordinal] === true;
      log?.info("xdp_attached", {
        interface: entry.name,
        mode: isGeneric ? "generic" : "native",
      });
      if (isGeneric) log?.warn("xdp_generic", { interface: entry.name, reason: limits(entry) });
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
    for (let ordinal = waiting.shift(); ordinal !== undefined; ordinal = waiting.shift()) {
      const entry = interfaces[ordinal]!;
      const pin = pins.get(entry)!;
      native.attach(entry.index, pin, ordinal, false);
      // The link is ours now: without its pin it goes with this process.
      if (!persistent) removePin(pin);
      log?.info("guard_replaced", { interface: entry.name });
    }
    if (replaced) return;
    // Only now that this guard works may those of an earlier start go.
    replaced = true;
    removePins(bpfFolder, interfaces, ["tcx"]);
    await removeNftablesGuards(interfaces.map(({ name }) => name));
  }

  async function close(options: { readonly remove?: boolean } = {}): Promise<void> {
    if (closed) return;
    closed = true;
    if (persistent && options.remove === true) for (const pin of pins.values()) removePin(pin);
    native.close();
  }

  return { kind: "xdp", sockets: native.sockets, generic, update, close };
}

/** @returns whether the program runs in generic mode */
async function attach(
  native: NativeGuard,
  entry: HostInterface,
  pin: string,
  ordinal: number,
  settings: GuardSettings & { readonly xdpMode: XdpMode },
): Promise<boolean> {
  const { xdpMode, log } = settings;
  if (xdpMode !== "generic") {
    try {
      await attachWhenFree(native, entry, pin, ordinal, false);
      return false;
    } catch (error) {
      if (!(error instanceof DeviceError)) throw error;
      if (xdpMode === "native") throw refusedError(entry, error);
      log?.info("xdp_not_native", { interface: entry.name, reason: error.message });
    }
  }
  try {
    await attachWhenFree(native, entry, pin, ordinal, true);
    return true;
  } catch (error) {
    throw error instanceof DeviceError ? refusedError(entry, error) : error;
  }
}

/** @throws HostError when another program is there, and stays */
async function attachWhenFree(
  native: NativeGuard,
  entry: HostInterface,
  pin: string,
  ordinal: number,
  generic: boolean,
): Promise<void> {
  const giveUpAt = performance.now() + BUSY_TIMEOUT_MS;
  for (;;) {
    try {
      native.attach(entry.index, pin, ordinal, generic);
      return;
    } catch (error) {
      const errno = error instanceof DeviceError ? error.errno : 0;
      // EEXIST: a program in the other mode.
      if (errno !== ERRNO.EBUSY && errno !== ERRNO.EEXIST) throw error;
      if (performance.now() >= giveUpAt) throw takenError(entry, error);
    }
    await pause(BUSY_POLL_MS);
  }
}

/** What an operator has to know of generic mode: its program runs after GRO. */
function limits({ name }: HostInterface): string {
  return (
    "the XDP program runs after the kernel made an skb: slower, and what the kernel has put together " +
    `to more than one MTU is lost; run \`ethtool -K ${name} gro off\`, and on a veth also ` +
    "`ethtool -K PEER tso off gso off` for its other end"
  );
}

function takenError({ name }: HostInterface, cause: unknown): HostError {
  return new HostError(
    `interface ${name} has an XDP program already; \`ip -d link show dev ${name}\` shows it. Stop ` +
      `the program that holds it (another gateway?), or run \`ip link set dev ${name} xdp off\``,
    { cause },
  );
}

/** What the kernel's refusal of an XDP program on an interface means. */
function refusedError({ name, mtu }: HostInterface, cause: DeviceError): DeviceError {
  let advice = "";
  if (cause.errno === ERRNO.EOPNOTSUPP) {
    advice = "its driver has no native XDP; use device.xdp.mode: generic, or auto";
  } else if (cause.errno === ERRNO.ERANGE || cause.errno === ERRNO.EINVAL) {
    advice =
      `its driver takes no XDP program with its settings; its MTU is ${mtu} (1500 always does; ` +
      `\`ip link set dev ${name} mtu 1500\`), and LRO must be off (\`ethtool -K ${name} lro off\`)`;
  }
  return new DeviceError(
    `no XDP program on interface ${name}: ${cause.message}${advice === "" ? "" : `: ${advice}`}`,
    cause.syscall,
    cause.errno,
  );
}

async function isAttachedGeneric(entry: HostInterface): Promise<boolean> {
  const [link] = await ipJson(["link", "show", "dev", entry.name]);
  const xdp = link?.["xdp"] as { readonly mode?: number } | undefined;
  return xdp?.mode === ATTACHED_GENERIC;
}
