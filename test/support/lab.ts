import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import {
  type Exit,
  type Output,
  onExit,
  type RunningProcess,
  type RunOptions,
  run,
  runSync,
  type SpawnOptions,
  start,
} from "./processes.ts";
import { waitFor } from "./wait.ts";

/**
 * The lab of `lab/lib.sh`, for tests and benches: a client, a gateway and three backends, each a
 * network namespace of its own with no way out, with names of its own, so that labs run side by side.
 *
 *   const lab = createLab({ device: "packet" });
 *   t.after(() => lab.stop());
 *   await startWeb(lab);
 *   await lab.balance({ mode: "nat", services: [{ name: "web", protocol: "tcp", port: 80, backendPort: 8080 }] });
 *   const report = await httpLoad(lab, { requests: 100 });
 *
 *   two-arm:  client -- gw-client [gateway] gw-backend -- switch -- b1 b2 b3
 *   one-arm:  client, gateway (gw-lan), b1 b2 b3 -- switch
 */

export const LAB_CLIENT = "198.51.100.2";
export const LAB_VIP = "203.0.113.10";
export const LAB_SNAT = ["10.20.0.100", "10.20.0.101", "10.20.0.102", "10.20.0.103"] as const;
/** The same nodes over IPv6: every lab has both families. */
export const LAB_CLIENT6 = "2001:db8:1::2";
export const LAB_VIP6 = "2001:db8:ff::10";
export const LAB_SNAT6 = [
  "2001:db8:2::100",
  "2001:db8:2::101",
  "2001:db8:2::102",
  "2001:db8:2::103",
] as const;
export const LAB_BACKENDS6 = {
  b1: "2001:db8:2::11",
  b2: "2001:db8:2::12",
  b3: "2001:db8:2::13",
} as const;
export const LAB_BACKENDS = { b1: "10.20.0.11", b2: "10.20.0.12", b3: "10.20.0.13" } as const;

export type LabBackend = keyof typeof LAB_BACKENDS;
export type LabNode = "client" | "gateway" | "switch" | "router" | LabBackend;
/** What balances: the gateway on one of its devices, or the kernel's nftables in its place. */
export type LabDevice = "tun" | "packet" | "xdp" | "nftables";
export type LabMode = "nat" | "full-nat";

export const LAB_BACKEND_NAMES = Object.keys(LAB_BACKENDS) as LabBackend[];

/** For `test(name, { skip: SKIP_UNLESS_ROOT }, …)`. */
export const SKIP_UNLESS_ROOT: string | false =
  process.getuid?.() === 0 ? false : "needs root: it makes network namespaces";

/** The folder of this build: what was compiled together is tested together. */
const DIST = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
/** The project's root, wherever the build went. */
export const PROJECT_ROOT = path.resolve(DIST, "..");

/** A compiled program of the lab, such as `servers/udp-echo.js`. */
export function labProgram(name: string): string {
  return path.join(DIST, "lab", name);
}

/** The gateway's program: HEADGATE_MAIN, or that of this build. */
export function gatewayProgram(): string {
  return process.env["HEADGATE_MAIN"] ?? path.join(DIST, "src/main.js");
}

/** Node's flags that the program's first line names: it runs here as it does when called by its name. */
function gatewayFlags(): string[] {
  const [line = ""] = readFileSync(gatewayProgram(), "utf8").split("\n", 1);
  return line.split(" ").filter((word) => word.startsWith("--"));
}

/** Environment with which `lab/*.sh` use this build. */
export function labEnvironment(): Record<string, string> {
  return { HEADGATE_DIST: DIST, HEADGATE_MAIN: gatewayProgram() };
}

export interface LabOptions {
  readonly device: LabDevice;
  readonly arms?: 1 | 2;
  /** Checksum and segmentation offloads of every interface but the switch's. Default true. */
  readonly offloads?: boolean;
  /** ip_forward of the gateway. Default: what the device needs (packet and xdp false, others true). */
  readonly forward?: boolean;
  readonly rpFilter?: 0 | 1 | 2;
  /** MTU of the gateway's interface to the backends. */
  readonly backendMtu?: number;
  /** Two-arm: puts a router between client and gateway, whose way to the client has this MTU. */
  readonly clientPathMtu?: number;
}

export interface LabService {
  readonly name: string;
  readonly protocol: "tcp" | "udp" | readonly ("tcp" | "udp")[];
  readonly port: number;
  readonly backendPort: number;
  /** Family of its VIP, 4 unless said; "both": one VIP of each. */
  readonly family?: 4 | 6 | "both";
  /** Family of its backends; that of the VIP unless said (4 for "both"). */
  readonly backendFamily?: 4 | 6;
  /** All three unless said. */
  readonly backends?: readonly LabBackend[];
  /** More keys of the service, as in the configuration. */
  readonly more?: Readonly<Record<string, unknown>>;
}

export interface LabBalance {
  readonly mode: LabMode;
  readonly services: readonly LabService[];
  /** Default 1. */
  readonly workers?: number;
  /** More top-level keys of the configuration. */
  readonly more?: Readonly<Record<string, unknown>>;
}

export interface GatewayStart {
  /** False: returns without waiting until the gateway is ready. */
  readonly ready?: boolean;
  readonly env?: Readonly<Record<string, string>>;
  readonly nodeFlags?: readonly string[];
  /**
   * True: the process sees a bpf file system on /sys/fs/bpf, the same one for every gateway of this
   * lab, so that pins outlive it (`guard: persistent`). `ip netns exec` hides the host's.
   */
  readonly pins?: boolean;
}

export interface ApiAnswer {
  readonly status: number;
  readonly body: string;
}

/** A gateway process in the lab's gateway namespace. */
export interface GatewayProcess {
  readonly pid: number;
  readonly lines: readonly string[];
  /** The lines of `lines` that are JSON, parsed. */
  readonly log: readonly Record<string, unknown>[];
  readonly alive: boolean;
  readonly exited: Promise<Exit>;
  readonly socket: string;
  readonly configFile: string;
  readonly stateFile: string;
  /** Waits until /readyz says 200; throws with the last log lines when the process ends first. */
  waitReady(timeoutMs?: number): Promise<void>;
  /** Writes `config` (if given) over the configuration and asks for a reload over the socket. */
  reload(config?: string): Promise<ApiAnswer>;
  kill(signal?: NodeJS.Signals): void;
  stop(signal?: NodeJS.Signals, timeoutMs?: number): Promise<Exit>;
  waitLine(pattern: RegExp, timeoutMs?: number): Promise<string>;
  /** Asks the admin socket; throws when nobody answers. */
  api(method: "GET" | "POST", resource: string, body?: unknown): Promise<ApiAnswer>;
  /** GET, parsed; throws when the status is not 200. */
  get<T>(resource: string): Promise<T>;
  /** `headgate ARGS --socket …`, run in the gateway's namespace. */
  cli(args: readonly string[], options?: RunOptions): Promise<Output>;
}

export interface Lab {
  readonly id: string;
  readonly device: LabDevice;
  readonly arms: 1 | 2;
  /** Interfaces of the gateway: [to the client, to the backends], or the one of one-arm. */
  readonly interfaces: readonly string[];
  /** Folder for configuration, logs, sockets; goes with the lab. */
  readonly directory: string;
  /** Folder in shared memory: state file, files to serve; goes with the lab. */
  readonly memory: string;
  namespace(node: LabNode): string;
  exec(node: LabNode, argv: readonly string[], options?: RunOptions): Promise<Output>;
  execSync(node: LabNode, argv: readonly string[]): string;
  spawn(node: LabNode, argv: readonly string[], options?: SpawnOptions): RunningProcess;
  /** The configuration text for these services on this lab: small tables, so that it starts fast. */
  config(balance: LabBalance): string;
  startGateway(config: string, options?: GatewayStart): Promise<GatewayProcess>;
  /** Installs kernel DNAT (and SNAT in full-nat) for the services, in the gateway's place. */
  peerNftables(balance: LabBalance): void;
  /** `startGateway`, or `peerNftables` (null) when the lab's device is "nftables". */
  balance(balance: LabBalance, options?: GatewayStart): Promise<GatewayProcess | null>;
  /** A node's kernel counters by their `nstat` name, absolute. */
  counters(node: LabNode): Record<string, number>;
  /** Bad checksums that the kernels of client and backends have seen, by node and counter; {} is none. */
  checksumErrors(): Record<string, number>;
  /** Ends what was started in it and removes it. Safe to call twice. */
  stop(): Promise<void>;
}

let labs = 0;

function namespaces(): string[] {
  return runSync(["ip", "netns", "list"], { check: false })
    .split("\n")
    .map((line) => line.split(" ")[0]!)
    .filter((name) => name !== "");
}

/** Removes the namespaces whose name starts with `prefix`, and ends what still runs in them. */
function removeNamespaces(prefix: string): void {
  for (const name of namespaces()) {
    if (!name.startsWith(prefix)) continue;
    for (const pid of runSync(["ip", "netns", "pids", name], { check: false }).split("\n")) {
      if (pid === "") continue;
      try {
        process.kill(Number(pid), "SIGKILL");
      } catch {
        // It ended between the two calls.
      }
    }
    runSync(["ip", "netns", "del", name], { check: false });
  }
}

/** Removes what labs left whose process is gone: killed with SIGKILL, it could not clean up. */
function sweep(): void {
  const gone = (owner: string | undefined): owner is string =>
    owner !== undefined && !existsSync(`/proc/${owner}`);
  for (const name of namespaces()) {
    const owner = /^hglab-(\d+)-/.exec(name)?.[1];
    if (gone(owner)) removeNamespaces(`hglab-${owner}-`);
  }
  for (const folder of [tmpdir(), "/dev/shm"]) {
    for (const name of readdirSync(folder)) {
      if (!gone(/^(?:hglab|headgate-test)-(\d+)[-.]/.exec(name)?.[1])) continue;
      const left = path.join(folder, name);
      runSync(["umount", "-q", path.join(left, "bpf")], { check: false });
      rmSync(left, { recursive: true, force: true });
    }
  }
}

/** The commands that make the topology, in order, as [node, command]. */
function topology(options: LabOptions, id: string): [LabNode, string][] {
  const oneArm = options.arms === 1;
  const toClient = oneArm ? "gw-lan" : "gw-client";
  const toBackends = oneArm ? "gw-lan" : "gw-backend";
  const commands: [LabNode, string][] = [];
  const on = (node: LabNode, command: string): void => {
    commands.push([node, command]);
  };
  const cable = (node: LabNode, port: string, other: LabNode, otherPort: string): void => {
    on(node, `ip link add ${port} type veth peer name ${otherPort} netns ${id}-${other}`);
    on(node, `ip link set ${port} up`);
    on(other, `ip link set ${otherPort} up`);
  };
  const plug = (node: LabNode, port: string): void => {
    cable(node, port, "switch", `to-${node}`);
    on("switch", `ip link set to-${node} master br0`);
  };

  on("switch", "ip link add br0 type bridge forward_delay 0 mcast_snooping 0");
  on("switch", "ip link set br0 up");
  plug("gateway", toBackends);
  if (options.clientPathMtu !== undefined) {
    // Only the router's route is narrow: the client offers an MSS for 1500, and what does not fit
    // is answered with ICMP to the VIP.
    const mtu = options.clientPathMtu;
    cable("router", "r-client", "client", "eth0");
    cable("gateway", toClient, "router", "r-gateway");
    on("client", `ip addr add ${LAB_CLIENT}/25 dev eth0`);
    on("client", `ip addr add ${LAB_CLIENT6}/112 dev eth0 nodad`);
    on("router", "ip addr add 198.51.100.1/25 dev r-client");
    on("router", "ip addr add 198.51.100.130/25 dev r-gateway");
    on("router", "ip addr add 2001:db8:1::1/112 dev r-client nodad");
    on("router", "ip addr add 2001:db8:1::1:2/112 dev r-gateway nodad");
    on("gateway", `ip addr add 198.51.100.129/25 dev ${toClient}`);
    on("gateway", `ip addr add 2001:db8:1::1:1/112 dev ${toClient} nodad`);
    on("router", "ip route add default via 198.51.100.129");
    on("router", "ip route add default via 2001:db8:1::1:1");
    on("router", `ip route replace 198.51.100.0/25 dev r-client mtu ${mtu}`);
    // No link of IPv6 is narrower than 1280 (RFC 8200 section 5). A router of IPv6 heeds the MTU of
    // a route only when it is locked, and takes the route of the smaller metric.
    on(
      "router",
      `ip -6 route replace 2001:db8:1::/112 dev r-client metric 64 mtu lock ${Math.max(1280, mtu)}`,
    );
    on("gateway", "ip route add 198.51.100.0/25 via 198.51.100.130");
    on("gateway", "ip route add 2001:db8:1::/112 via 2001:db8:1::1:2");
    const forward = "net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0";
    on("router", `sysctl -qw ${forward} net.ipv6.conf.all.forwarding=1`);
  } else {
    if (oneArm) plug("client", "eth0");
    else cable("gateway", toClient, "client", "eth0");
    on("client", `ip addr add ${LAB_CLIENT}/24 dev eth0`);
    on("client", `ip addr add ${LAB_CLIENT6}/64 dev eth0 nodad`);
    on("gateway", `ip addr add 198.51.100.1/24 dev ${toClient}`);
    on("gateway", `ip addr add 2001:db8:1::1/64 dev ${toClient} nodad`);
  }
  on("client", "ip route add default via 198.51.100.1");
  on("client", "ip route add default via 2001:db8:1::1");
  on("gateway", `ip addr add 10.20.0.1/24 dev ${toBackends}`);
  on("gateway", `ip addr add 2001:db8:2::1/64 dev ${toBackends} nodad`);
  on("gateway", `ip link set ${toBackends} mtu ${options.backendMtu ?? 1500}`);
  for (const node of LAB_BACKEND_NAMES) {
    plug(node, "eth0");
    on(node, `ip addr add ${LAB_BACKENDS[node]}/24 dev eth0`);
    on(node, `ip addr add ${LAB_BACKENDS6[node]}/64 dev eth0 nodad`);
    on(node, "ip route add default via 10.20.0.1");
    on(node, "ip route add default via 2001:db8:2::1");
  }

  // One segment with two subnets: the kernel would tell hosts of a shorter way past the gateway.
  const forward = (options.forward ?? !["packet", "xdp"].includes(options.device)) ? 1 : 0;
  const keys = [`net.ipv4.ip_forward=${forward}`, `net.ipv6.conf.all.forwarding=${forward}`];
  for (const name of ["all", "default", toClient, toBackends]) {
    keys.push(`net.ipv4.conf.${name}.rp_filter=${options.rpFilter ?? 0}`);
    keys.push(`net.ipv4.conf.${name}.send_redirects=0`);
  }
  on("gateway", `sysctl -qw ${keys.join(" ")}`);
  if (options.device === "tun") {
    // TUN owns routes, not links: for SNAT addresses out of the backends' own subnet the gateway's
    // kernel has to answer ARP and neighbour solicitations. A subnet routed to the gateway needs none of it.
    on("gateway", `sysctl -qw net.ipv4.neigh.${toBackends}.proxy_delay=0`);
    const proxy = `net.ipv6.conf.${toBackends}.proxy_ndp=1`;
    on("gateway", `sysctl -qw ${proxy} net.ipv6.neigh.${toBackends}.proxy_delay=0`);
    for (const address of [...LAB_SNAT, ...LAB_SNAT6])
      on("gateway", `ip neigh add proxy ${address} dev ${toBackends}`);
  }
  if (options.offloads === false) {
    const off = "tx off rx off sg off tso off gso off gro off";
    const ports: [LabNode, string][] = [
      ["client", "eth0"],
      ["gateway", toBackends],
    ];
    if (!oneArm) ports.push(["gateway", toClient]);
    for (const node of LAB_BACKEND_NAMES) ports.push([node, "eth0"]);
    for (const [node, port] of ports) on(node, `ethtool -K ${port} ${off}`);
  }
  return commands;
}

/** The nftables rules that do what `balance` says; the kernel has no way between the families. */
function nftablesRules(balance: LabBalance): string {
  return nftablesTable(balance, 4) + nftablesTable(balance, 6);
}

function nftablesTable(balance: LabBalance, family: 4 | 6): string {
  const services = balance.services.filter((service) => isOfFamily(service, family));
  const [ip, vip, backends] =
    family === 4 ? ["ip", LAB_VIP, LAB_BACKENDS] : ["ip6", LAB_VIP6, LAB_BACKENDS6];
  const rules = services.map((service) => {
    const protocols = [service.protocol].flat().join(", ");
    const targets = (service.backends ?? LAB_BACKEND_NAMES).map(
      (node, index) => `${index} : ${backends[node as LabBackend]} . ${service.backendPort}`,
    );
    return (
      `    ${ip} daddr ${vip} meta l4proto { ${protocols} } th dport ${service.port} ` +
      `dnat ${ip} to numgen inc mod ${targets.length} map { ${targets.join(", ")} }`
    );
  });
  const [net, pool] = family === 4 ? ["10.20.0.0/24", LAB_SNAT] : ["2001:db8:2::/64", LAB_SNAT6];
  const source =
    balance.mode === "nat"
      ? ""
      : `  chain post {
    type nat hook postrouting priority srcnat
    ${ip} daddr ${net} ct status dnat snat ${ip} to ${pool[0]}-${pool.at(-1)}
  }
`;
  return `table ${ip} headgate_peer {
  chain pre {
    type nat hook prerouting priority dstnat
${rules.join("\n")}
  }
${source}}
`;
}

function isOfFamily(service: LabService, wanted: 4 | 6): boolean {
  const { family = 4 } = service;
  return (family === wanted || family === "both") && isBackend6(service) === (wanted === 6);
}

function vipsOf({ family = 4 }: LabService): string | string[] {
  if (family === "both") return [LAB_VIP, LAB_VIP6];
  return family === 4 ? LAB_VIP : LAB_VIP6;
}

function isBackend6({ family, backendFamily }: LabService): boolean {
  return (backendFamily ?? family) === 6;
}

/** The pools of the families that the backends have. */
function snatOf({ services }: LabBalance): string[] {
  const pools: string[] = [];
  if (!services.every(isBackend6)) pools.push(`${LAB_SNAT[0]}-${LAB_SNAT.at(-1)}`);
  if (services.some(isBackend6)) pools.push(`${LAB_SNAT6[0]}-${LAB_SNAT6.at(-1)}`);
  return pools;
}

function ask(socket: string, method: string, resource: string, body?: unknown): Promise<ApiAnswer> {
  return new Promise((resolve, reject) => {
    const text = body === undefined ? "" : JSON.stringify(body);
    const asked = request(
      {
        socketPath: socket,
        method,
        path: resource,
        timeout: 10_000,
        agent: false,
        headers: {
          host: "headgate",
          connection: "close",
          ...(text === "" ? {} : { "content-type": "application/json" }),
          "content-length": Buffer.byteLength(text),
        },
      },
      (answer) => {
        let received = "";
        answer.setEncoding("utf8");
        answer.on("data", (chunk: string) => {
          received += chunk;
        });
        answer.on("end", () => resolve({ status: answer.statusCode ?? 0, body: received }));
        answer.on("error", reject);
      },
    );
    asked.on("timeout", () => asked.destroy(new Error(`${method} ${resource}: no answer in 10 s`)));
    asked.on("error", reject);
    asked.end(text);
  });
}

function gatewayProcess(lab: Lab, child: RunningProcess, configFile: string): GatewayProcess {
  const socket = path.join(lab.directory, "admin.sock");
  const self: GatewayProcess = {
    pid: child.pid,
    lines: child.lines,
    get log() {
      return child.lines.flatMap((line) => {
        if (!line.startsWith("{")) return [];
        try {
          return [JSON.parse(line) as Record<string, unknown>];
        } catch {
          return []; // cut off by the end of the process
        }
      });
    },
    get alive() {
      return child.alive;
    },
    exited: child.exited,
    socket,
    configFile,
    stateFile: path.join(lab.memory, "state"),
    async waitReady(timeoutMs = 20_000) {
      await waitFor(
        "the gateway to get ready",
        async () => !child.alive || (await ask(socket, "GET", "/readyz")).status === 200,
        { timeoutMs },
      ).catch((error: unknown) => {
        throw new Error(`${String(error)}\n${child.lines.slice(-20).join("\n")}`);
      });
      if (!child.alive) {
        throw new Error(`the gateway ended at start\n${child.lines.slice(-20).join("\n")}`);
      }
    },
    reload(config) {
      if (config !== undefined) writeFileSync(configFile, config);
      return ask(socket, "POST", "/api/v1/reload");
    },
    kill: (signal) => child.kill(signal),
    stop: (signal, timeoutMs) => child.stop(signal, timeoutMs),
    waitLine: (pattern, timeoutMs) => child.waitLine(pattern, timeoutMs),
    api: (method, resource, body) => ask(socket, method, resource, body),
    async get<T>(resource: string): Promise<T> {
      const answer = await ask(socket, "GET", resource);
      if (answer.status !== 200) {
        throw new Error(`GET ${resource}: ${answer.status} ${answer.body}`);
      }
      return JSON.parse(answer.body) as T;
    },
    cli: (args, options) =>
      lab.exec(
        "gateway",
        [process.execPath, gatewayProgram(), ...args, "--socket", socket],
        options,
      ),
  };
  return self;
}

/**
 * Makes a lab. Throws when a command fails (what was made until then is removed). Everything in it
 * ends with `stop()`, and in any case with this process.
 */
export function createLab(options: LabOptions): Lab {
  if (options.arms === 1 && options.clientPathMtu !== undefined) {
    throw new TypeError("clientPathMtu needs two arms");
  }
  sweep();
  labs += 1;
  const id = `hglab-${process.pid}-${labs}`;
  const arms = options.arms ?? 2;
  const directory = mkdtempSync(path.join(tmpdir(), `${id}.`));
  const memory = mkdtempSync(`/dev/shm/headgate-test-${process.pid}-${labs}.`);
  const processes = new Set<RunningProcess>();
  const nodes: LabNode[] = ["client", "gateway", "switch", ...LAB_BACKEND_NAMES];
  if (options.clientPathMtu !== undefined) nodes.push("router");

  const namespace = (node: LabNode): string => `${id}-${node}`;
  const inNode = (node: LabNode, argv: readonly string[]): string[] => [
    "ip",
    "netns",
    "exec",
    namespace(node),
    ...argv,
  ];
  const pinFolder = path.join(directory, "bpf");
  /** Has argv run with the lab's own bpf file system on /sys/fs/bpf. */
  const withPins = (argv: readonly string[]): string[] => {
    if (!existsSync(pinFolder)) {
      mkdirSync(pinFolder);
      runSync(["mount", "-t", "bpf", "bpf", pinFolder]);
    }
    return ["sh", "-c", 'mount --bind "$0" /sys/fs/bpf && exec "$@"', pinFolder, ...argv];
  };
  const remove = (): void => {
    for (const child of processes) child.kill("SIGKILL");
    removeNamespaces(`${id}-`);
    if (existsSync(pinFolder)) runSync(["umount", pinFolder], { check: false });
    rmSync(directory, { recursive: true, force: true });
    rmSync(memory, { recursive: true, force: true });
  };
  const forget = onExit(remove);

  const lab: Lab = {
    id,
    device: options.device,
    arms,
    interfaces: arms === 1 ? ["gw-lan"] : ["gw-client", "gw-backend"],
    directory,
    memory,
    namespace,
    exec: (node, argv, how) => run(inNode(node, argv), how),
    execSync: (node, argv) => runSync(inNode(node, argv)),
    spawn(node, argv, how = {}) {
      const child = start(inNode(node, argv), { name: `[${node}] ${argv.join(" ")}`, ...how });
      processes.add(child);
      return child;
    },
    config(balance) {
      const { workers = 1 } = balance;
      const device =
        options.device === "tun"
          ? { type: "tun", name: "hg0", workers }
          : { type: options.device, interfaces: lab.interfaces, workers };
      const services = balance.services.map((service) => ({
        name: service.name,
        vip: vipsOf(service),
        port: service.port,
        protocol: service.protocol,
        mode: balance.mode,
        scheduler: "rr",
        ...service.more,
        backends: (service.backends ?? LAB_BACKEND_NAMES).map((node) => ({
          address: (isBackend6(service) ? LAB_BACKENDS6 : LAB_BACKENDS)[node],
          port: service.backendPort,
        })),
      }));
      // JSON is YAML; nobody has to read this one.
      return JSON.stringify(
        {
          version: 1,
          device,
          flows: { capacity: 65536, stateFile: path.join(memory, "state") },
          limits: { services: 64, backends: 256, hashSlots: 524288 },
          admin: { socket: path.join(directory, "admin.sock") },
          ...(balance.mode === "nat" ? {} : { snat: { addresses: snatOf(balance) } }),
          ...balance.more,
          services,
        },
        null,
        2,
      );
    },
    async startGateway(config, how = {}) {
      const configFile = path.join(directory, "headgate.yaml");
      writeFileSync(configFile, config);
      const argv = [process.execPath, ...gatewayFlags(), ...(how.nodeFlags ?? [])];
      argv.push(gatewayProgram(), "run", "-c", configFile);
      const child = lab.spawn("gateway", how.pins === true ? withPins(argv) : argv, {
        name: "headgate",
        ...(how.env === undefined ? {} : { env: how.env }),
      });
      const gateway = gatewayProcess(lab, child, configFile);
      if (how.ready !== false) await gateway.waitReady();
      return gateway;
    },
    peerNftables(balance) {
      // The host's own address: the kernel answers its pings, as a gateway does.
      lab.execSync("gateway", ["ip", "addr", "add", `${LAB_VIP}/32`, "dev", "lo"]);
      lab.execSync("gateway", ["ip", "addr", "add", `${LAB_VIP6}/128`, "dev", "lo"]);
      if (balance.mode === "full-nat") {
        // The kernel answers ARP for its own addresses; its NAT gives replies their way back.
        const port = lab.interfaces.at(-1)!;
        for (const address of LAB_SNAT) {
          lab.execSync("gateway", ["ip", "addr", "add", `${address}/32`, "dev", port]);
        }
        for (const address of LAB_SNAT6) {
          const argv = ["ip", "addr", "add", `${address}/128`, "dev", port, "nodad"];
          lab.execSync("gateway", argv);
        }
      }
      runSync(inNode("gateway", ["nft", "-f", "-"]), { input: nftablesRules(balance) });
    },
    async balance(balance, how) {
      if (options.device !== "nftables") return lab.startGateway(lab.config(balance), how);
      lab.peerNftables(balance);
      return null;
    },
    counters(node) {
      const text = lab.execSync(node, ["nstat", "-asz", "-j"]);
      return (JSON.parse(text) as { kernel: Record<string, number> }).kernel;
    },
    checksumErrors() {
      const found: Record<string, number> = {};
      for (const node of ["client", ...LAB_BACKEND_NAMES] as const) {
        const counters = lab.counters(node);
        for (const name of [
          "TcpInCsumErrors",
          "UdpInCsumErrors",
          "IcmpInCsumErrors",
          "IpExtInCsumErrors",
        ]) {
          const count = counters[name];
          if (count === undefined) throw new Error(`${node}: the kernel has no counter ${name}`);
          if (count !== 0) found[`${node}.${name}`] = count;
        }
      }
      return found;
    },
    async stop() {
      await Promise.all([...processes].map((child) => child.stop().catch(() => undefined)));
      remove();
      forget();
    },
  };

  try {
    for (const node of nodes) {
      runSync(["ip", "netns", "add", namespace(node)]);
      // No duplicate address detection: link-local addresses are good at once, too. The names of
      // interfaces to come have these settings from `default`.
      const settings = ["net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0"];
      runSync([...inNode(node, ["sysctl", "-qw"]), ...settings]);
      runSync(["ip", "-n", namespace(node), "link", "set", "lo", "up"]);
    }
    for (const [node, command] of topology(options, id)) {
      const argv = command.split(" ");
      runSync(
        argv[0] === "ip" ? ["ip", "-n", namespace(node), ...argv.slice(1)] : inNode(node, argv),
      );
    }
  } catch (error) {
    remove();
    forget();
    throw error;
  }
  return lab;
}
