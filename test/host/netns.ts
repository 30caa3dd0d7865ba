import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { onExit, runSync } from "../support/processes.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Small topologies for the tests of src/host: a gateway with a cable to a client and one to a
 * backend, each in a namespace of its own, with fixed MACs and neighbours, so that nothing moves on
 * the wires but what a test sends.
 *
 *   client c0 --- gc gateway gb --- b0 backend
 */

export const SKIP_UNLESS_ROOT: string | false =
  process.getuid?.() === 0 ? false : "needs root: it makes network namespaces";

export const CLIENT = "198.51.100.2";
export const GATEWAY_TO_CLIENT = "198.51.100.1";
export const GATEWAY_TO_BACKEND = "10.20.0.1";
export const BACKEND = "10.20.0.11";
export const BACKEND_ANY = "10.20.0.12";
/** A router on the backend's side. */
export const ROUTER = "10.20.0.13";
export const SNAT = "10.20.0.100";
export const VIP = "203.0.113.10";

/** The same over IPv6, for topologies that have it. */
export const NODES6 = {
  client: "2001:db8:1::2",
  toClient: "2001:db8:1::1",
  toBackend: "2001:db8:2::1",
  backend: "2001:db8:2::11",
  backendAny: "2001:db8:2::12",
  router: "2001:db8:2::13",
  snat: "2001:db8:2::100",
  vip: "2001:db8:ff::10",
} as const;

export const MACS = {
  c0: "02:00:00:00:0c:00",
  gc: "02:00:00:00:0a:0c",
  gb: "02:00:00:00:0a:0b",
  b0: "02:00:00:00:0b:00",
} as const;
export type Port = keyof typeof MACS;

let made = 0;

/** A program in a namespace that is talked to: lines in, lines out. */
export interface Program {
  readonly processId: number;
  /** Everything it has printed, errors included. */
  readonly lines: readonly string[];
  write(line: string): void;
  /** The first line from number `from` on that matches; throws when the program ends before. */
  line(pattern: RegExp, from?: number): Promise<string>;
  kill(): Promise<void>;
}

function startProgram(argv: readonly string[]): Program {
  const [command = "", ...args] = argv;
  const child: ChildProcessWithoutNullStreams = spawn(command, args);
  const forget = onExit(() => child.kill("SIGKILL"));
  const lines: string[] = [];
  let ended = false;
  const closed = once(child, "close").then(() => {
    ended = true;
    forget();
  });
  child.stdin.on("error", () => {});
  for (const stream of [child.stdout, child.stderr]) {
    let rest = "";
    stream.setEncoding("utf8");
    stream.on("data", (text: string) => {
      const parts = (rest + text).split("\n");
      rest = parts.pop() ?? "";
      lines.push(...parts);
    });
  }
  return {
    processId: child.pid ?? 0,
    lines,
    write: (line) => {
      child.stdin.write(`${line}\n`);
    },
    async line(pattern, from = 0) {
      const found = await waitFor(`a line like ${pattern}`, () => {
        const line = lines.slice(from).find((text) => pattern.test(text));
        return line ?? (ended ? { lines } : null);
      });
      if (typeof found === "string") return found;
      throw new Error(`${argv.join(" ")} ended without ${pattern}:\n${lines.join("\n")}`);
    },
    async kill() {
      child.kill("SIGKILL");
      await closed;
    },
  };
}

export interface Topology {
  readonly client: string;
  readonly gateway: string;
  readonly backend: string;
  /** Run a command line in the gateway (or another namespace); throws when it fails. */
  exec(command: string, namespace?: string): string;
  /** Start a program there; ended with the topology. */
  spawn(argv: readonly string[], namespace?: string): Program;
  stop(): Promise<void>;
}

/** Run a command line in a namespace; plain words, split at blanks. */
function execIn(namespace: string, command: string): string {
  return runSync(["ip", "netns", "exec", namespace, ...command.split(" ")]);
}

/**
 * @param forward - ip_forward of the gateway
 * @param ipv6 - both families; the kernels then say some things of their own (multicast reports)
 */
export function createTopology(forward: boolean, ipv6 = false): Topology {
  made += 1;
  const id = `hgH-${process.pid}-${made}`;
  const names = { client: `${id}-c`, gateway: `${id}-g`, backend: `${id}-b` };
  const { client, gateway, backend } = names;
  const programs: Program[] = [];
  const topology: Topology = {
    ...names,
    exec: (command, namespace = gateway) => execIn(namespace, command),
    spawn(argv, namespace = gateway) {
      const program = startProgram(["ip", "netns", "exec", namespace, ...argv]);
      programs.push(program);
      return program;
    },
    async stop() {
      await Promise.all(programs.map((program) => program.kill()));
      for (const name of Object.values(names)) {
        runSync(["ip", "netns", "del", name], { check: false });
      }
    },
  };
  for (const name of Object.values(names)) {
    runSync(["ip", "netns", "add", name]);
    execIn(name, "ip link set lo up");
    // Nothing but what a test sends: no router solicitations, no multicast reports.
    if (!ipv6) execIn(name, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    else
      execIn(name, "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0");
  }
  execIn(
    gateway,
    "sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=100000 " +
      "net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0 " +
      `net.ipv4.ip_forward=${forward ? 1 : 0}`,
  );
  cable(gateway, "gc", client, "c0");
  cable(gateway, "gb", backend, "b0");
  execIn(gateway, `ip addr add ${GATEWAY_TO_CLIENT}/24 dev gc`);
  execIn(gateway, `ip addr add ${GATEWAY_TO_BACKEND}/24 dev gb`);
  execIn(client, `ip addr add ${CLIENT}/24 dev c0`);
  execIn(client, `ip route add default via ${GATEWAY_TO_CLIENT}`);
  for (const address of [BACKEND, BACKEND_ANY, ROUTER]) {
    execIn(backend, `ip addr add ${address}/24 dev b0`);
    neighbour(gateway, address, "gb", MACS.b0);
  }
  neighbour(gateway, CLIENT, "gc", MACS.c0);
  neighbour(gateway, SNAT, "gb", MACS.b0);
  neighbour(client, GATEWAY_TO_CLIENT, "c0", MACS.gc);
  neighbour(backend, GATEWAY_TO_BACKEND, "b0", MACS.gb);
  execIn(backend, `ip route add default via ${GATEWAY_TO_BACKEND}`);
  // Without a guard the kernel would forward what is for the VIP to there.
  execIn(gateway, `ip route add ${VIP}/32 via ${BACKEND}`);
  if (ipv6) addIpv6(topology, forward);
  return topology;
}

/** Addresses, routes and neighbours of IPv6. */
function addIpv6({ client, gateway, backend }: Topology, forward: boolean): void {
  const { toClient, toBackend, router, snat, vip } = NODES6;
  execIn(
    gateway,
    "sysctl -qw net.ipv6.icmp.ratelimit=0 net.ipv6.conf.all.accept_redirects=0 " +
      `net.ipv6.conf.all.forwarding=${forward ? 1 : 0}`,
  );
  execIn(gateway, `ip addr add ${toClient}/64 dev gc nodad`);
  execIn(gateway, `ip addr add ${toBackend}/64 dev gb nodad`);
  execIn(client, `ip addr add ${NODES6.client}/64 dev c0 nodad`);
  execIn(client, `ip route add default via ${toClient}`);
  for (const address of [NODES6.backend, NODES6.backendAny, router]) {
    execIn(backend, `ip addr add ${address}/64 dev b0 nodad`);
    neighbour(gateway, address, "gb", MACS.b0);
  }
  execIn(backend, `ip route add default via ${toBackend}`);
  neighbour(gateway, NODES6.client, "gc", MACS.c0);
  neighbour(gateway, snat, "gb", MACS.b0);
  neighbour(client, toClient, "c0", MACS.gc);
  neighbour(backend, toBackend, "b0", MACS.gb);
  execIn(gateway, `ip route add ${vip}/128 via ${NODES6.backend}`);
}

function cable(from: string, port: Port, to: string, otherPort: Port): void {
  execIn(
    from,
    `ip link add ${port} address ${MACS[port]} type veth peer name ${otherPort} netns ${to}`,
  );
  execIn(to, `ip link set ${otherPort} address ${MACS[otherPort]} up`);
  execIn(from, `ip link set ${port} up`);
}

function neighbour(namespace: string, address: string, port: string, mac: string): void {
  execIn(namespace, `ip neigh replace ${address} lladdr ${mac} dev ${port} nud permanent`);
}

/** Prints every frame that comes in, and sends those that it is given, both as hex. */
const WIRE_PROGRAM = `
import os, select, socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.setsockopt(263, 23, 1)  # SOL_PACKET, PACKET_IGNORE_OUTGOING
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
wire.bind((sys.argv[1], 0))
print("listening", flush=True)
rest = b""
while True:
    ready, _, _ = select.select([wire, sys.stdin], [], [])
    if wire in ready:
        print("in " + wire.recv(65536).hex(), flush=True)
    if sys.stdin in ready:
        data = os.read(0, 65536)
        if not data: break
        rest += data
        *lines, rest = rest.split(b"\\n")
        for line in lines:
            wire.send(bytes.fromhex(line.decode()))
`;

export interface Wire {
  /** IPv4 frames (hex) that came in since the last clear(). */
  received(): readonly string[];
  /** Frames of both families, without those to IPv6 groups: the kernels' own. */
  receivedAll(): readonly string[];
  clear(): void;
  /** Send frames out of the port, in order. */
  send(frames: readonly Uint8Array[]): void;
}

/** An AF_PACKET socket on a port. */
export async function openWire(topology: Topology, namespace: string, port: Port): Promise<Wire> {
  const program = topology.spawn(["python3", "-u", "-c", WIRE_PROGRAM, port], namespace);
  await program.line(/^listening$/);
  let from = program.lines.length;
  return {
    received: () =>
      program.lines
        .slice(from)
        .filter((line) => line.startsWith("in ") && line.slice(3 + 24, 3 + 28) === "0800")
        .map((line) => line.slice(3)),
    receivedAll: () =>
      program.lines
        .slice(from)
        .filter((line) => line.startsWith("in ") && !line.startsWith("in 3333"))
        .map((line) => line.slice(3)),
    clear() {
      from = program.lines.length;
    },
    send: (frames) => {
      for (const frame of frames) program.write(Buffer.from(frame).toString("hex"));
    },
  };
}

/** A counter of /proc/net/snmp, such as `Icmp InDestUnreachs`. */
export function snmp(topology: Topology, table: string, name: string): number {
  const lines = topology
    .exec("cat /proc/net/snmp")
    .split("\n")
    .filter((line) => line.startsWith(`${table}: `))
    .map((line) => line.split(" "));
  const at = lines[0]?.indexOf(name) ?? -1;
  if (at < 0) throw new Error(`no counter ${table} ${name}`);
  return Number(lines[1]?.[at]);
}

/** True once a process has ended, reaped or not. */
export function isGone(processId: number): boolean {
  try {
    const status = readFileSync(`/proc/${processId}/stat`, "utf8");
    return status.slice(status.lastIndexOf(")") + 2).startsWith("Z");
  } catch {
    return true;
  }
}

export async function waitGone(processId: number): Promise<void> {
  await waitFor(`process ${processId} to end`, () => isGone(processId));
}
