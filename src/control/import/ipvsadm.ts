import type { Draft, ImportOptions, ImportResult, Keys } from "./draft.ts";
import { quote } from "./draft.ts";
import { COMMANDS, type IpvsLine, readIpvsLine } from "./ipvsadm-line.ts";
import { finishImport } from "./print.ts";
import { lvsScheduler } from "./schedulers.ts";
import { startDraft } from "./top.ts";
import { type Endpoint, maskBits, parseEndpoint, timeoutText, wholeNumber } from "./values.ts";

/** What `ipvsadm -Sn` prints, as a configuration: docs/migration.md has the table. */

/** `ipvsadm -p` without a number (ipvsadm(8)). */
const PERSISTENT_SECONDS = 300;

const WEIGHT_MAX = 65_535;

interface Server {
  readonly line: number;
  readonly at: Endpoint;
  readonly options: ReadonlyMap<string, string>;
}

interface VirtualService {
  /** Line of -A or -E that says it last. */
  line: number;
  options: ReadonlyMap<string, string>;
  readonly protocol: "tcp" | "udp";
  readonly at: Endpoint;
  /** By address and port. */
  readonly servers: Map<string, Server>;
}

/**
 * Turn what `ipvsadm -Sn` prints, or a script of ipvsadm commands, into a configuration.
 *
 * @param text - whatever it is; what cannot be carried over is in the notes
 */
export function importIpvsadm(text: string, options: ImportOptions): ImportResult {
  const draft = startDraft(options);
  const services = new Map<string, VirtualService>();
  for (const [index, one] of text.split(/\r?\n/).entries()) {
    const line = readIpvsLine(one, index + 1);
    if (line !== null) runLine(draft, services, line);
  }
  for (const service of services.values()) draft.services.push(serviceOf(draft, service));
  return finishImport(draft);
}

/** Do to the services what the line would do to the kernel's. */
function runLine(draft: Draft, services: Map<string, VirtualService>, read: IpvsLine): void {
  const { line, options, unknown } = read;
  const commands = COMMANDS.filter((it) => options.has(it));
  const command = commands[0];
  if (command === undefined || commands.length > 1) {
    draft.note(line, `expected one of ipvsadm's commands (-A, -a, ...), got ${commands.length}`);
    return;
  }
  if (command === "set") {
    setTimeouts(draft, read);
    return;
  }
  for (const word of unknown) draft.note(line, `${quote(word)} is no option of ipvsadm`);
  if (command === "clear") {
    services.clear();
    return;
  }
  if (command.endsWith("-daemon")) {
    draft.note(line, "connection synchronisation between nodes is not carried over");
    return;
  }
  if (["restore", "save", "list", "zero"].includes(command)) {
    draft.note(line, `--${command} changes no service`);
    return;
  }
  const key = virtualOf(draft, read);
  if (key === null) return;
  const name = `${key.protocol} ${key.at.address.text} ${key.at.port}`;
  if (command === "delete-service") {
    if (!services.delete(name)) draft.note(line, "there is no such service");
  } else if (command.endsWith("-service")) {
    const known = services.get(name);
    if ((known !== undefined) !== (command === "edit-service")) {
      draft.note(line, known === undefined ? "there is no such service" : "the service is there");
    }
    if (known === undefined) services.set(name, { ...key, line, options, servers: new Map() });
    else if (command === "edit-service") Object.assign(known, { line, options });
  } else runServer(draft, services.get(name), command, read);
}

function runServer(
  draft: Draft,
  service: VirtualService | undefined,
  command: string,
  { line, options }: IpvsLine,
): void {
  if (service === undefined) {
    draft.note(line, "there is no such service");
    return;
  }
  const written = options.get("real-server") ?? "";
  const endpoint = parseEndpoint(written);
  if (endpoint === null) {
    draft.note(line, notNumeric("real server", written));
    return;
  }
  // A server without a port has the service's (ipvsadm(8), -r).
  const at = { ...endpoint, port: endpoint.port === 0 ? service.at.port : endpoint.port };
  const key = `${at.address.text} ${at.port}`;
  const isKnown = service.servers.has(key);
  if (isKnown === (command === "add-server")) {
    draft.note(line, isKnown ? "the server is there" : "there is no such server");
  }
  if (command === "delete-server") service.servers.delete(key);
  else if (isKnown !== (command === "add-server")) service.servers.set(key, { line, at, options });
}

function notNumeric(what: string, written: string): string {
  return `expected a ${what} in numbers (ipvsadm -Sn), got ${quote(written)}`;
}

/** The service that a line is about; null, with a note, where we have none of its kind. */
function virtualOf(
  draft: Draft,
  { line, options }: IpvsLine,
): Pick<VirtualService, "protocol" | "at"> | null {
  if (options.has("fwmark-service")) {
    const mark = quote(options.get("fwmark-service")!);
    const why = `firewall mark ${mark}: a service here has addresses and ports (lists and ranges of both), not a mark`;
    draft.note(line, why);
    return null;
  }
  if (options.has("sctp-service")) {
    draft.note(line, "SCTP is not balanced");
    return null;
  }
  const protocol = options.has("udp-service") ? "udp" : "tcp";
  const written = options.get(`${protocol}-service`);
  if (written === undefined) {
    draft.note(line, "expected a service (-t or -u), got none");
    return null;
  }
  const at = parseEndpoint(written);
  if (at !== null) return { protocol, at };
  draft.note(line, notNumeric("service", written));
  return null;
}

/** `--set TCP TCPFIN UDP`, in seconds; 0 leaves one as it is. */
function setTimeouts(draft: Draft, { line, unknown }: IpvsLine): void {
  const seconds = unknown.map((word) => wholeNumber(word, 1_000_000));
  if (seconds.length !== 3 || seconds.includes(null)) {
    draft.note(line, "expected three numbers of seconds behind --set");
    return;
  }
  const [tcp, fin, udp] = seconds.map((it) => (it === 0 ? null : timeoutText(it! * 1000)));
  const timeouts: Keys = {};
  if (tcp || fin) {
    timeouts["tcp"] = { ...(tcp && { established: tcp }), ...(fin && { finWait: fin }) };
  }
  if (udp) timeouts["udp"] = { oneWay: udp, replied: udp };
  if (Object.keys(timeouts).length > 0) draft.set(draft.top, "timeouts", timeouts, line);
}

function serviceOf(draft: Draft, service: VirtualService): Keys {
  const { protocol, at, line, options } = service;
  const port = at.port === 0 ? "any" : at.port;
  const keys: Keys = draft.from(line, {
    name: draft.nameFor(`${protocol}-${at.address.text}-${port}`),
    vip: at.address.text,
    port,
    protocol,
  });
  const mode = modeOf(draft, service);
  keys["mode"] = mode.name;
  setScheduler(draft, keys, service);
  setPersistence(draft, keys, service);
  if (options.has("ops")) {
    if (protocol === "udp") draft.set(keys, "udp", { perPacket: true }, line);
    else draft.note(line, "--ops: only datagrams are scheduled one by one");
  }
  if (options.has("pe")) {
    draft.note(line, `--pe ${quote(options.get("pe")!)}: persistence is by client address alone`);
  }
  keys["backends"] = mode.servers.map((server) => backendOf(draft, service, server, mode.name));
  return keys;
}

/** A service has one mode here: that of its first server. Servers of another one are left out. */
function modeOf(draft: Draft, { servers }: VirtualService): { name: string; servers: Server[] } {
  const all = [...servers.values()];
  const modes = all.map((server) => forwardOf(draft, server));
  const name = modes.find((mode) => mode !== null) ?? "nat";
  const kept = all.filter((server, index) => {
    const mode = modes[index];
    if (mode !== name && mode !== null) {
      const why = `forwards by ${mode}, the servers before it by ${name}: a service has one mode`;
      draft.note(server.line, `real server ${server.at.address.text} ${why}`);
    }
    return mode === name;
  });
  for (const { options, line } of kept) if (name === "gue") setGue(draft, options, line);
  return { name, servers: kept };
}

/** ipvsadm's default is -g. */
function forwardOf(draft: Draft, { options, line }: Server): string | null {
  if (options.has("masquerading")) return "nat";
  if (!options.has("ipip")) return "dsr";
  const type = options.get("tun-type") ?? "ipip";
  if (type === "ipip" || type === "gue") return type;
  draft.note(line, `--tun-type ${quote(type)}: tunnels are ipip and gue`);
  return null;
}

/** The port of GUE and its checksum are the gateway's here, not a server's. */
function setGue(draft: Draft, options: ReadonlyMap<string, string>, line: number): void {
  const tunnel = (draft.top["tunnel"] ??= {}) as Keys;
  const gue = (tunnel["gue"] ??= {}) as Keys;
  const once = (key: string, value: unknown): void => {
    if (gue[key] === undefined) draft.set(gue, key, value, line);
    else if (gue[key] !== value) {
      const why = `GUE ${key} ${value}: one gateway has one, and a server before has ${gue[key]}`;
      draft.note(line, why);
    }
  };
  once("port", wholeNumber(options.get("tun-port"), WEIGHT_MAX) ?? 6080);
  if (options.has("tun-remcsum")) draft.note(line, "--tun-remcsum: there is no remote checksum");
  else once("checksum", options.has("tun-csum") ? "computed" : "zero");
}

function setScheduler(draft: Draft, keys: Keys, { options, line }: VirtualService): void {
  const name = options.get("scheduler") ?? "wlc";
  const flags = (options.get("sched-flags") ?? "").split(",");
  const hasPort = flags.includes(`${name}-port`) || flags.includes("flag-2");
  const { scheduler, note } = lvsScheduler(name, hasPort, options.has("persistent"));
  if (note !== null) draft.note(line, note);
  if (scheduler !== null) draft.set(keys, "scheduler", scheduler, line);
}

/** `-p [SECONDS]` and `-M MASK`. */
function setPersistence(draft: Draft, keys: Keys, service: VirtualService): void {
  const { options, line, at } = service;
  if (!options.has("persistent")) {
    if (options.has("netmask")) draft.note(line, "-M means nothing without -p");
    return;
  }
  const written = options.get("persistent")!;
  const seconds = written === "" ? PERSISTENT_SECONDS : wholeNumber(written, 4_000_000_000);
  if (seconds === null) {
    draft.note(line, `-p ${quote(written)}: expected seconds`);
    return;
  }
  const affinity: Keys = { timeout: timeoutText(seconds * 1000) };
  const mask = options.get("netmask");
  if (mask !== undefined) {
    const { family } = at.address;
    const bits = maskBits(mask, family);
    if (bits === null || bits === 0) draft.note(line, `-M ${quote(mask)}: expected a prefix`);
    else if (bits !== (family === 4 ? 32 : 128)) affinity["prefix"] = { [`ipv${family}`]: bits };
  }
  draft.set(keys, "affinity", affinity, line);
}

function backendOf(draft: Draft, service: VirtualService, server: Server, mode: string): Keys {
  const { line, at, options } = server;
  const backend: Keys = draft.from(line, { address: at.address.text });
  // Only masquerading changes a port; -g and -i send packets to the port that they have.
  if (mode === "nat" && at.port !== 0) backend["port"] = at.port;
  else if (at.port !== 0 && at.port !== service.at.port) {
    draft.note(line, `port ${at.port} means nothing with ${mode}: packets keep their port`);
  }
  const written = options.get("weight") ?? "1";
  const weight = wholeNumber(written, 0x7fff_ffff);
  if (weight === null) draft.note(line, `-w ${quote(written)}: expected a weight; it is 1`);
  else if (weight > WEIGHT_MAX) {
    draft.note(line, `weight ${weight}: at most ${WEIGHT_MAX}, which it is now`);
  }
  backend["weight"] = Math.min(WEIGHT_MAX, weight ?? 1);
  setThresholds(draft, backend, server);
  return backend;
}

/** -x and -y: we admit again at three quarters, which is what -x without -y does (ip_vs_ctl.c). */
function setThresholds(draft: Draft, backend: Keys, { line, options }: Server): void {
  const upper = wholeNumber(options.get("u-threshold"), 0x7fff_ffff) ?? 0;
  const lower = wholeNumber(options.get("l-threshold"), 0x7fff_ffff) ?? 0;
  if (upper > 0) draft.set(backend, "maxConnections", upper, line);
  if (lower > 0 && lower !== Math.floor((upper * 3) / 4)) {
    draft.note(line, `-y ${lower}: a server gets connections again at three quarters of -x`);
  }
}
