import { readFileSync, statfsSync, statSync } from "node:fs";
import path from "node:path";
import { isInPrefix } from "../../base/address.ts";
import { type ConfigProblem, HeadgateError } from "../../base/errors.ts";
import { XDP_MTU_MAX } from "../../device/xdp.ts";
import { listAddresses, listInterfaces } from "../../host/interfaces.ts";
import { requirePrivileges } from "../../host/privileges.ts";
import type { Address, GatewayDefinition } from "../../service/definition.ts";
import { planRegion } from "../../state/layout.ts";
import { defaultStateFile } from "../../state/region.ts";
import { regionSizeOf } from "../region-size.ts";
import { healthFileProblems } from "./health-files.ts";
import { problemOf } from "./load.ts";
import type { KeyPath } from "./source.ts";

/** What a host is asked before a gateway starts on it. */
export interface HostFacts {
  readonly interfaces: readonly {
    readonly name: string;
    /** Set up, and with a carrier. */
    readonly isUp: boolean;
    /** Bytes. */
    readonly mtu: number;
    /** Of both families. */
    readonly addresses: readonly Address[];
    /** The kernel has IPv6 on it. */
    readonly hasIpv6: boolean;
  }[];
  /** Why the process may not do what the device needs; null when it may. */
  readonly missingPrivilege: string | null;
  readonly stateFile: {
    readonly path: string;
    readonly isTmpfs: boolean;
    readonly freeBytes: number;
    /** Size of the file that is there already; 0 for none. */
    readonly presentBytes: number;
  } | null;
  /** net.ipv4.ip_forward of this network namespace. */
  readonly forwards: boolean;
  /** net.ipv6.conf.all.forwarding. */
  readonly forwards6: boolean;
}

/**
 * Ask the host that a configuration is for: interfaces, privilege, room for the state, addresses
 * that conflict, forwarding for TUN.
 *
 * @returns every problem, in the file's order; empty when the gateway would start
 * @throws HostError when the host cannot be asked (no `ip` command)
 */
export async function checkHost(definition: GatewayDefinition): Promise<ConfigProblem[]> {
  const problems = hostProblems(definition, await readHostFacts(definition));
  return [...problems, ...healthFileProblems(definition)].toSorted(
    (a, b) => a.line - b.line || a.column - b.column,
  );
}

/** Compare a configuration with what is known of the host. */
export function hostProblems(definition: GatewayDefinition, facts: HostFacts): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  const report = (at: KeyPath, message: string): void => {
    problems.push(problemOf(definition, at, message));
  };
  checkInterfaces(definition, facts, report);
  if (facts.missingPrivilege !== null) report(["device", "type"], facts.missingPrivilege);
  if (definition.device.type === "tun" && definition.device.routes === "auto" && !facts.forwards) {
    const message =
      "expected net.ipv4.ip_forward 1 for tun with routes: auto, got 0: run `sysctl -w net.ipv4.ip_forward=1`";
    report(["device", "routes"], message);
  }
  checkIpv6(definition, facts, report);
  checkRoom(definition, facts, report);
  checkHostAddresses(definition, facts, report);
  return problems.toSorted((a, b) => a.line - b.line || a.column - b.column);
}

type Report = (at: KeyPath, message: string) => void;

function checkInterfaces(definition: GatewayDefinition, facts: HostFacts, report: Report): void {
  const { type, interfaces } = definition.device;
  if (type === "tun") return;
  for (const [index, name] of interfaces.entries()) {
    const at = ["device", "interfaces", index];
    const found = facts.interfaces.find((it) => it.name === name);
    if (found === undefined) {
      const names = facts.interfaces.map((it) => it.name).join(", ");
      report(at, `expected an interface of this host (${names}), got ${JSON.stringify(name)}`);
    } else if (!found.isUp) {
      const message = `expected an interface that is up, got ${JSON.stringify(name)}, which is down or has no carrier`;
      report(at, message);
    }
    if (type === "xdp" && found !== undefined && found.mtu > XDP_MTU_MAX) {
      const message = `expected an MTU of at most ${XDP_MTU_MAX} for type xdp, got ${found.mtu}: run \`ip link set dev ${name} mtu 1500\``;
      report(at, message);
    }
  }
}

/** What IPv6 addresses of the configuration need of the kernel. */
function checkIpv6(definition: GatewayDefinition, facts: HostFacts, report: Report): void {
  if (!hasIpv6Addresses(definition)) return;
  const { type, routes, interfaces } = definition.device;
  if (type === "tun") {
    if (routes !== "auto" || facts.forwards6) return;
    const message =
      "expected net.ipv6.conf.all.forwarding 1 for tun with routes: auto and IPv6 addresses, got 0: run `sysctl -w net.ipv6.conf.all.forwarding=1`";
    report(["device", "routes"], message);
    return;
  }
  for (const [index, name] of interfaces.entries()) {
    if (facts.interfaces.find((it) => it.name === name)?.hasIpv6 !== false) continue;
    const message = `expected an interface with IPv6 for the IPv6 addresses, got ${JSON.stringify(name)} without: the kernel cannot find neighbours on it; run \`sysctl -w net.ipv6.conf.${name}.disable_ipv6=0\` (its MTU has to be at least 1280)`;
    report(["device", "interfaces", index], message);
  }
}

function hasIpv6Addresses({ services, snat }: GatewayDefinition): boolean {
  const isSix = ({ family }: Address): boolean => family === 6;
  return (
    snat.addresses.some(isSix) ||
    services.some(
      ({ vips, backends }) => vips.some(isSix) || backends.some(({ address }) => isSix(address)),
    )
  );
}

function checkRoom(definition: GatewayDefinition, facts: HostFacts, report: Report): void {
  const { stateFile } = facts;
  if (stateFile === null) {
    const message = "expected a file that this user may look at, got EACCES: run it as root";
    report(["flows", "stateFile"], message);
    return;
  }
  const { bytes } = planRegion(regionSizeOf(definition));
  if (!stateFile.isTmpfs) {
    const message = `expected a file on tmpfs, got ${stateFile.path}, which is on another file system`;
    report(["flows", "stateFile"], message);
  }
  // A file of the same size is taken over as it is; of any other, a new one is made beside it.
  if (stateFile.presentBytes === bytes || stateFile.freeBytes >= bytes) return;
  const message = `expected room for the state of ${bytes} bytes at ${stateFile.path}, got ${stateFile.freeBytes} bytes free`;
  report(["flows", "capacity"], message);
}

function checkHostAddresses(definition: GatewayDefinition, facts: HostFacts, report: Report): void {
  const owners = new Map<string, string>();
  for (const { name, addresses } of facts.interfaces) {
    for (const { text } of addresses) owners.set(text, name);
  }
  const foreign = (at: KeyPath, what: string, address: Address): void => {
    const owner = owners.get(address.text);
    if (owner === undefined) return;
    const message = `expected ${what} that is no address of this host, got ${address.text}, which ${owner} has`;
    report(at, message);
  };
  for (const address of definition.snat.addresses) {
    foreign(["snat", "addresses"], "a SNAT address", address);
  }
  // On packet the gateway sees what comes to an address of the host; elsewhere errors about tunnels
  // would miss it, and a packet from such an address would come back in as a martian (tun).
  const { sourceIpv4, sourceIpv6 } = definition.tunnel;
  if (definition.device.type !== "packet") {
    const what = `a tunnel source (device type ${definition.device.type})`;
    if (sourceIpv4 !== null) foreign(["tunnel", "source", "ipv4"], what, sourceIpv4);
    if (sourceIpv6 !== null) foreign(["tunnel", "source", "ipv6"], what, sourceIpv6);
  }
  const { probe } = definition;
  if (probe != null) {
    for (const { addresses } of facts.interfaces) {
      for (const address of addresses) {
        if (!isInPrefix(address, probe.ipv4, 16)) continue;
        report(
          ["probe", "ipv4"],
          `expected a range without addresses of this host, got one that has ${address.text}`,
        );
      }
    }
  }
  for (const [index, service] of definition.services.entries()) {
    const at = ["services", index];
    if (service.health?.through === "path") {
      const what = "a VIP that is checked through the data path (health.through)";
      for (const vip of service.vips) foreign([...at, "vip"], what, vip);
    }
    if (definition.device.type === "tun") {
      for (const vip of service.vips) foreign([...at, "vip"], "a VIP (device type tun)", vip);
    }
    for (const [number, { address }] of service.backends.entries()) {
      foreign([...at, "backends", number, "address"], "a backend", address);
    }
    const { sorry } = service.noBackend;
    if (sorry !== null) foreign([...at, "noBackend", "address"], "a sorry server", sorry.address);
  }
}

async function readHostFacts(definition: GatewayDefinition): Promise<HostFacts> {
  const [links, addresses] = await Promise.all([listInterfaces(), listAddresses()]);
  return {
    interfaces: links.map(({ name, up, mtu }) => ({
      name,
      isUp: up,
      mtu,
      addresses: addresses.filter((it) => it.interface === name).map((it) => it.address),
      hasIpv6: readIpv6Setting(`${name}/disable_ipv6`) === "0",
    })),
    missingPrivilege: missingPrivilege(definition.device.type),
    stateFile: readRoom(definition.flows.stateFile ?? defaultStateFile(isTmpfs)),
    forwards: readFileSync("/proc/sys/net/ipv4/ip_forward", "utf8").trim() === "1",
    forwards6: readIpv6Setting("all/forwarding") === "1",
  };
}

/** "" where the kernel has no IPv6, or none on the interface. */
function readIpv6Setting(name: string): string {
  try {
    return readFileSync(`/proc/sys/net/ipv6/conf/${name}`, "utf8").trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
}

function missingPrivilege(type: GatewayDefinition["device"]["type"]): string | null {
  try {
    requirePrivileges(type);
    return null;
  } catch (error) {
    if (error instanceof HeadgateError) return error.message;
    throw error;
  }
}

/** statfs f_type of tmpfs and ramfs (include/uapi/linux/magic.h). */
const TMPFS_MAGIC = 0x01021994;
const RAMFS_MAGIC = 0x858458f6;

function isTmpfs(folder: string): boolean {
  const { type } = statfsSync(folder);
  return type >>> 0 === TMPFS_MAGIC || type >>> 0 === RAMFS_MAGIC;
}

/** @returns null when this user may not look */
function readRoom(file: string): HostFacts["stateFile"] {
  try {
    return lookAtRoom(file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EACCES") return null;
    throw error;
  }
}

function lookAtRoom(file: string): HostFacts["stateFile"] {
  // Folders that are not there yet will be made on the file system of their nearest parent.
  let folder = path.dirname(file);
  while (statSync(folder, { throwIfNoEntry: false }) === undefined) folder = path.dirname(folder);
  const { bavail, bsize } = statfsSync(folder);
  return {
    path: file,
    isTmpfs: isTmpfs(folder),
    freeBytes: bavail * bsize,
    presentBytes: statSync(file, { throwIfNoEntry: false })?.size ?? 0,
  };
}
