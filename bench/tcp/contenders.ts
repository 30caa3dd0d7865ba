import { existsSync, writeFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  LAB_BACKENDS,
  LAB_VIP,
  type Lab,
  type LabBalance,
  type LabDevice,
} from "../../test/support/lab.ts";
import { IPERF_PORT } from "../../test/support/servers.ts";
import { waitFor } from "../../test/support/wait.ts";
import { compileBench } from "../compile.ts";
import { C_PACKET, C_XDP, NFTABLES } from "../pps/contenders.ts";
import { BACKEND_SIDE, forwardProgram, GATEWAY_CPU, macOf } from "../traffic.ts";

/** What is measured by `lab-tcp`, each in the gateway's place, tuned as its own documents advise. */

/** Port of the request server. */
export const REQUEST_PORT = 7100;

export interface TcpStarted {
  /** Where the client shall connect to. */
  readonly address: string;
  /** Its processes; the kernel's work has none. */
  readonly pids: readonly number[];
}

export interface TcpContender {
  readonly name: string;
  readonly device: LabDevice;
  missing(): string | null;
  start(lab: Lab): Promise<TcpStarted>;
}

/**
 * What every namespace gets: all ports for connections, TIME-WAIT ports used again when time stamps
 * allow (net.ipv4.tcp_tw_reuse), and accept queues that a burst does not overrun. HAProxy ("Management
 * guide", section 5) and nginx ("Tuning NGINX for performance") both advise these.
 */
export const SYSCTLS = [
  "net.ipv4.ip_local_port_range=1024 65535",
  "net.ipv4.tcp_tw_reuse=1",
  "net.core.somaxconn=65535",
  "net.ipv4.tcp_max_syn_backlog=65535",
] as const;

const FLOW_CAPACITY = 524_288;

function tcpBalance(lab: Lab): LabBalance {
  const service = (name: string, port: number) =>
    ({ name, protocol: "tcp", port, backendPort: port, backends: ["b1"] }) as const;
  return {
    mode: "nat",
    // iperf3 has a control connection beside the streams: all of them go to one backend.
    services: [service("iperf", IPERF_PORT), service("request", REQUEST_PORT)],
    more: { flows: { capacity: FLOW_CAPACITY, stateFile: path.join(lab.memory, "state") } },
  };
}

function haproxyConfiguration(globals: readonly string[], options: readonly string[]): string {
  const listen = (name: string, port: number): string => `listen ${name}
  bind ${LAB_VIP}:${port} backlog 65535
  server b1 ${LAB_BACKENDS.b1}:${port}
`;
  return `global
  nbthread 1
  maxconn 4000
${globals.map((line) => `  ${line}\n`).join("")}defaults
  mode tcp
${options.map((line) => `  ${line}\n`).join("")}  option tcp-smart-accept
  option tcp-smart-connect
  timeout connect 5s
  timeout client 60s
  timeout server 60s
${listen("iperf", IPERF_PORT)}${listen("request", REQUEST_PORT)}`;
}

/**
 * HAProxy twice, as one would tune it to pass bytes on: with splice(2) and buffers that a server with
 * thousands of connections can afford; and with the buffers at which one stream was fastest here
 * (2 MiB a connection).
 */
export const HAPROXY_SPLICE = haproxyConfiguration(
  ["tune.bufsize 65536", "tune.pipesize 1048576"],
  ["option splice-auto"],
);
export const HAPROXY_BUFFERS = haproxyConfiguration(["tune.bufsize 1048576"], []);

const STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so";

/** nginx as a TCP proxy; `buffer` is one connection's, each way. */
export function nginxConfiguration(folder: string): string {
  const server = (port: number): string => `  server {
    listen ${LAB_VIP}:${port} reuseport backlog=65535 so_keepalive=off;
    proxy_pass ${LAB_BACKENDS.b1}:${port};
  }
`;
  return `load_module ${STREAM_MODULE};
daemon off;
master_process off;
worker_processes 1;
pid ${folder}/nginx.pid;
error_log ${folder}/nginx.log;
events { worker_connections 8192; multi_accept on; }
stream {
  access_log off;
  tcp_nodelay on;
  proxy_buffer_size 64k;
${server(IPERF_PORT)}${server(REQUEST_PORT)}}
`;
}

async function waitListening(lab: Lab, what: string): Promise<void> {
  await waitFor(`${what} to listen`, async () => {
    const { stdout } = await lab.exec("gateway", ["ss", "-Hltn", `sport = :${REQUEST_PORT}`]);
    return stdout.includes(`:${REQUEST_PORT}`);
  });
}

function proxy(
  name: string,
  missing: () => string | null,
  command: (lab: Lab) => string[],
): TcpContender {
  return {
    name,
    device: "nftables",
    missing,
    async start(lab) {
      lab.execSync("gateway", ["ip", "addr", "add", `${LAB_VIP}/32`, "dev", "lo"]);
      const { pid } = lab.spawn("gateway", command(lab));
      await waitListening(lab, name);
      return { address: LAB_VIP, pids: [pid] };
    },
  };
}

function haproxy(name: string, configuration: string): TcpContender {
  return proxy(
    name,
    () => null,
    (lab) => {
      const file = path.join(lab.directory, "haproxy.cfg");
      writeFileSync(file, configuration);
      return ["haproxy", "-db", "-f", file];
    },
  );
}

const NGINX = proxy(
  "nginx stream",
  () =>
    existsSync(STREAM_MODULE)
      ? null
      : "its stream module is not installed; `--install` installs Debian's libnginx-mod-stream",
  (lab) => {
    const file = path.join(lab.directory, "nginx-stream.conf");
    writeFileSync(file, nginxConfiguration(lab.directory));
    return ["nginx", "-e", path.join(lab.directory, "nginx.log"), "-c", file];
  },
);

/** As docs/tuning.md advises where the delay of a wake-up counts: the worker looks before it sleeps. */
export const SPIN_US = 50;

function headgate(device: "tun" | "packet" | "xdp"): TcpContender {
  return {
    name: `Headgate ${device}, nat`,
    device,
    missing: () => null,
    async start(lab) {
      const plain = JSON.parse(lab.config(tcpBalance(lab))) as { device: object };
      const config = { ...plain, device: { ...plain.device, spin: SPIN_US } };
      const gateway = await lab.startGateway(JSON.stringify(config));
      return { address: LAB_VIP, pids: [gateway.pid] };
    },
  };
}

/**
 * A forwarder that changes nothing in a frame stands between two hosts that take each other for the
 * gateway: each has the other's MAC as its router's.
 */
function faceEachOther(lab: Lab): void {
  const { node, interface: name } = BACKEND_SIDE;
  const backendMac = macOf(lab, node, name);
  const clientMac = macOf(lab, "client", "eth0");
  const neighbour = ["ip", "neigh", "replace"];
  lab.execSync("client", [...neighbour, "198.51.100.1", "lladdr", backendMac, "dev", "eth0"]);
  lab.execSync(node, [...neighbour, "10.20.0.1", "lladdr", clientMac, "dev", name]);
}

const C_OVER_PACKET: TcpContender = {
  name: C_PACKET,
  device: "packet",
  missing: () => null,
  async start(lab) {
    const program = compileBench("packet-io/forward.cc", "bench-forward");
    const words = ["forward", "v2", "ring-bypass", "gw-client", "gw-backend", "900"];
    const { pid } = lab.spawn("gateway", [program, ...words]);
    await sleep(300);
    faceEachOther(lab);
    return { address: LAB_BACKENDS.b1, pids: [pid] };
  },
};

const C_OVER_XDP: TcpContender = {
  name: C_XDP,
  device: "packet",
  missing: () => null,
  async start(lab) {
    // It does not complete partial checksums, so that both ends have to send whole ones.
    lab.execSync("client", ["ethtool", "-K", "eth0", "tx", "off"]);
    lab.execSync(BACKEND_SIDE.node, ["ethtool", "-K", BACKEND_SIDE.interface, "tx", "off"]);
    const words = ["gw-client", "gw-backend", String(GATEWAY_CPU), "900"];
    const forwarder = lab.spawn("gateway", [forwardProgram(), ...words]);
    await forwarder.waitLine(/^ready$/);
    faceEachOther(lab);
    return { address: LAB_BACKENDS.b1, pids: [forwarder.pid] };
  },
};

export const TCP_CONTENDERS: readonly TcpContender[] = [
  {
    name: "kernel ip_forward, no NAT",
    device: "nftables",
    missing: () => null,
    start: async () => ({ address: LAB_BACKENDS.b1, pids: [] }),
  },
  {
    name: NFTABLES,
    device: "nftables",
    missing: () => null,
    async start(lab) {
      lab.peerNftables(tcpBalance(lab));
      return { address: LAB_VIP, pids: [] };
    },
  },
  haproxy("HAProxy, splice", HAPROXY_SPLICE),
  haproxy("HAProxy, 1 MiB buffers", HAPROXY_BUFFERS),
  NGINX,
  C_OVER_PACKET,
  C_OVER_XDP,
  headgate("tun"),
  headgate("packet"),
  headgate("xdp"),
];
