import { existsSync, readFileSync, writeFileSync } from "node:fs";
import type { Address } from "../base/address.ts";
import { HostError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { listAddresses } from "./interfaces.ts";
import { ipBatch } from "./ip-json.ts";

/**
 * The backend's side of tunnels: the TUN device's addresses and settings, and the host's.
 *
 *   addresses    each VIP that the host has not yet (on its loopback, say), on the device; they go
 *                with it
 *   rp_filter    off on the device: clients are reached through other interfaces
 *   arp          a host answers ARP for every address it has, on every interface (arp_ignore 0), and
 *                would take the VIPs away from the gateway on a segment that both are on. `hide` raises
 *                arp_ignore to 1 and arp_announce to 2 for all interfaces, and puts the old values back
 *                at the end (Documentation/networking/ip-sysctl.rst). IPv6 answers for an address on its
 *                own interface only
 */

export interface DecapHost {
  /** Put settings back. Called twice is fine. */
  close(): void;
}

export interface DecapHostOptions {
  /** Name of the device; it exists and is down. */
  readonly device: string;
  readonly vips: readonly Address[];
  readonly hideArp: boolean;
  readonly log: Log;
}

/** Of these the higher of `all` and the interface's own counts. */
const ARP_SETTINGS = [
  ["arp_ignore", 1],
  ["arp_announce", 2],
] as const;

/**
 * Prepare the host and bring the device up.
 *
 * @throws HostError - a setting cannot be written or an address not be added; nothing stays changed
 */
export async function prepareDecapHost(options: DecapHostOptions): Promise<DecapHost> {
  const { device, vips, hideArp, log } = options;
  const restore: (() => void)[] = [];
  const close = (): void => {
    for (let step = restore.pop(); step !== undefined; step = restore.pop()) step();
  };
  try {
    if (hideArp) {
      for (const [name, value] of ARP_SETTINGS) raise(`ipv4/conf/all/${name}`, value, restore, log);
    }
    letSourcesPass(device, log);
    const hasIpv6 = vips.some(({ family }) => family === 6);
    prepareIpv6(device, hasIpv6);
    const known = new Set((await listAddresses()).map(({ address }) => address.text));
    const missing = vips.filter(({ text }) => !known.has(text));
    await addAll(device, missing, hasIpv6);
    log.info("addresses", {
      device,
      added: missing.map(({ text }) => text),
      found: vips.filter(({ text }) => known.has(text)).map(({ text }) => text),
    });
  } catch (error) {
    close();
    throw error;
  }
  return { close };
}

const settingFile = (name: string): string => `/proc/sys/net/${name}`;

function read(name: string): number {
  try {
    return Number(readFileSync(settingFile(name), "utf8"));
  } catch (error) {
    throw new HostError(`cannot read the setting net.${name.replaceAll("/", ".")}`, {
      cause: error,
    });
  }
}

function write(name: string, value: number): void {
  try {
    writeFileSync(settingFile(name), String(value));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const key = `net.${name.replaceAll("/", ".")}`;
    throw new HostError(
      `cannot set ${key} to ${value} (${code}); run \`sysctl -w ${key}=${value}\` on this host, or ` +
        "give the container a writable /proc/sys/net",
      { cause: error },
    );
  }
}

function raise(name: string, value: number, restore: (() => void)[], log: Log): void {
  const old = read(name);
  if (old >= value) return;
  write(name, value);
  log.info("setting", { name: `net.${name.replaceAll("/", ".")}`, was: old, is: value });
  restore.push(() => {
    // What somebody else has set meanwhile is theirs.
    if (read(name) === value) write(name, old);
  });
}

/** The larger of `all` and the device's own value counts: under `all=1` the loose filter is larger. */
function letSourcesPass(device: string, log: Log): void {
  const all = read("ipv4/conf/all/rp_filter");
  write(`ipv4/conf/${device}/rp_filter`, all === 1 ? 2 : 0);
  if (all === 0) return;
  log.warn("reverse_path_filter", {
    reason:
      `net.ipv4.conf.all.rp_filter is ${all}, so ${device} filters loosely: packets of clients that ` +
      "this host has no route to are dropped; `sysctl -w net.ipv4.conf.all.rp_filter=0` turns that off",
  });
}

/** A device that nobody reads needs no router solicitations; with VIPs of IPv6 it needs IPv6. */
function prepareIpv6(device: string, isNeeded: boolean): void {
  const name = `ipv6/conf/${device}/disable_ipv6`;
  if (!existsSync(settingFile(name))) {
    if (isNeeded) throw new HostError("decap.vip has IPv6 addresses, and the kernel has no IPv6");
    return;
  }
  write(name, isNeeded ? 0 : 1);
  if (isNeeded) write(`ipv6/conf/${device}/accept_ra`, 0);
}

async function addAll(device: string, vips: readonly Address[], hasIpv6: boolean): Promise<void> {
  const lines = [
    ...(hasIpv6 ? [`link set dev ${device} addrgenmode none`] : []),
    `link set dev ${device} up`,
    ...vips.map(({ family, text }) =>
      family === 4
        ? `address add ${text}/32 dev ${device}`
        : `address add ${text}/128 dev ${device} nodad`,
    ),
  ];
  const { failures } = await ipBatch(lines);
  const [failure] = failures;
  if (failure === undefined) return;
  throw new HostError(`\`ip ${lines[failure.line] ?? ""}\` failed: ${failure.reason}`);
}
