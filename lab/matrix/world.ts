import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { ConfigError } from "../../src/base/errors.ts";
import { parseConfig } from "../../src/control/config/load.ts";
import {
  createLab,
  LAB_BACKEND_NAMES,
  LAB_BACKENDS,
  LAB_BACKENDS6,
  LAB_SNAT,
  LAB_SNAT6,
  type Lab,
  type LabBackend,
  labProgram,
  PROJECT_ROOT,
} from "../../test/support/lab.ts";
import { waitFor } from "../../test/support/wait.ts";
import type { LoadReport } from "../tools/http-load.ts";
import type { ProbeReport } from "../tools/udp-probe.ts";
import {
  CELLS,
  type Cell,
  type Device,
  impossible,
  isOneWay,
  type Outcome,
  type Row,
  serviceName,
  vipOf,
} from "./cells.ts";

/**
 * One lab for all cells of a device: one-arm, so that a backend reaches the client past the gateway
 * as well. Every cell is a service with a VIP of its own, TCP and UDP, on the three backends.
 *
 *   client, gateway, b1, b2, b3 -- switch
 *
 * In the one-way modes a backend has the VIP on its loopback interface, takes tunnels off (decap.py),
 * and answers by a route of its own for packets from a VIP.
 */
const TCP_PORT = 8080;
const UDP_PORT = 9000;
const FILE_BYTES = 65_536;
/** Cells that are asked at the same time. */
const AT_ONCE = 4;

export interface MatrixOptions {
  readonly device: Device;
  /** HTTP requests and datagrams of each cell. */
  readonly requests: number;
  readonly cells?: readonly Cell[];
  /**
   * Two arms, and a router before the client whose way on has this MTU. Backends then answer through
   * the gateway's kernel in the one-way modes.
   */
  readonly clientPathMtu?: number;
  /** Called with the lab when all cells were asked. */
  readonly look?: (lab: Lab) => void;
}

function serviceOf(cell: Cell): object {
  const backends = cell.backend === 4 ? LAB_BACKENDS : LAB_BACKENDS6;
  return {
    name: serviceName(cell),
    vip: vipOf(cell),
    port: [TCP_PORT, UDP_PORT],
    protocol: ["tcp", "udp"],
    mode: cell.mode,
    scheduler: "rr",
    backends: LAB_BACKEND_NAMES.map((node) => ({ address: backends[node] })),
  };
}

/** The configuration of these cells; JSON is YAML. */
function configOf(lab: Lab, cells: readonly Cell[]): string {
  const has = (test: (cell: Cell) => boolean): boolean => cells.some(test);
  const isTunnel = ({ mode }: Cell): boolean => mode === "ipip" || mode === "gue";
  const pools = [4, 6].flatMap((family) =>
    has(({ mode, backend }) => mode === "full-nat" && backend === family)
      ? [family === 4 ? `${LAB_SNAT[0]}-${LAB_SNAT.at(-1)}` : `${LAB_SNAT6[0]}-${LAB_SNAT6.at(-1)}`]
      : [],
  );
  // On AF_PACKET the source may be the host's, elsewhere it is an address of the gateway's own.
  const own = lab.device === "packet" ? "1" : "50";
  const source = {
    ...(has((cell) => isTunnel(cell) && cell.backend === 4) ? { ipv4: `10.20.0.${own}` } : {}),
    ...(has((cell) => isTunnel(cell) && cell.backend === 6) ? { ipv6: `2001:db8:2::${own}` } : {}),
  };
  return JSON.stringify({
    version: 1,
    device:
      lab.device === "tun"
        ? { type: "tun", name: "hg0" }
        : { type: lab.device, interfaces: lab.interfaces },
    flows: { capacity: 65_536, stateFile: path.join(lab.memory, "state") },
    limits: { services: 64, backends: 256, hashSlots: 524_288 },
    admin: { socket: path.join(lab.directory, "admin.sock") },
    ...(pools.length === 0 ? {} : { snat: { addresses: pools } }),
    ...(Object.keys(source).length === 0 ? {} : { tunnel: { source } }),
    services: cells.map(serviceOf),
  });
}

/** What the gateway has against a cell's configuration, or null. */
function refusal(lab: Lab, cell: Cell): string | null {
  try {
    parseConfig(configOf(lab, [cell]), "matrix.yaml");
    return null;
  } catch (error) {
    if (error instanceof ConfigError) return error.message.split("\n")[0]!;
    throw error;
  }
}

/** Addresses, routes and tunnels of a backend for the one-way cells. */
function prepareBackend(lab: Lab, node: LabBackend, cells: readonly Cell[]): void {
  const toClient = lab.arms === 1 ? ["", ""] : ["via 10.20.0.1 ", "via 2001:db8:2::1 "];
  const commands = [
    // The VIP is everybody's here: only the gateway may say where it is.
    "sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0",
    ...cells.filter(isOneWay).map((cell) => {
      const prefix = cell.vip === 4 ? "32" : "128 nodad";
      return `ip addr add ${vipOf(cell)}/${prefix} dev lo`;
    }),
    "ip rule add from 203.0.113.0/24 lookup 100",
    `ip route add 198.51.100.0/24 ${toClient[0]}dev eth0 table 100`,
    "ip -6 rule add from 2001:db8:ff::/64 lookup 100",
    `ip -6 route add 2001:db8:1::/64 ${toClient[1]}dev eth0 table 100`,
  ];
  for (const command of commands) lab.execSync(node, command.split(" "));
}

async function startServers(lab: Lab, node: LabBackend, cells: readonly Cell[]): Promise<void> {
  const own = path.join(lab.directory, `nginx-${node}`);
  mkdirSync(own, { recursive: true });
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((kind) => `${kind}_temp_path ${own}/${kind};`)
    .join(" ");
  writeFileSync(
    `${own}/nginx.conf`,
    `daemon off; master_process off; pid ${own}/pid;
events { worker_connections 1024; }
http {
  access_log off; default_type text/plain; ${temporary}
  server {
    listen ${TCP_PORT}; listen [::]:${TCP_PORT};
    location = / { return 200 "${node}\\n"; }
    location /files/ { alias ${lab.memory}/; }
  }
}
`,
  );
  lab.spawn(node, ["nginx", "-e", `${own}/error.log`, "-c", `${own}/nginx.conf`]);
  const addresses = [LAB_BACKENDS[node], LAB_BACKENDS6[node], ...cells.filter(isOneWay).map(vipOf)];
  const echo = lab.spawn(node, [
    process.execPath,
    labProgram("servers/udp-echo.js"),
    addresses.join(","),
    String(UDP_PORT),
  ]);
  if (cells.some(({ mode }) => mode === "ipip" || mode === "gue")) {
    const tool = path.join(PROJECT_ROOT, "lab/tools/decap.py");
    const decap = lab.spawn(node, ["python3", tool, "decap0"]);
    await decap.waitLine(/^ready/);
  }
  await waitFor(`the servers of ${node}`, async () => {
    const { stdout } = await lab.exec(node, ["ss", "-Hltn", `sport = :${TCP_PORT}`]);
    return stdout.includes(`:${TCP_PORT}`);
  });
  await echo.waitLine(new RegExp(`^listening ${addresses.at(-1)} `));
}

/** What a client gets through the cell's VIP: answers of all backends, a file, datagrams. */
async function ask(lab: Lab, cell: Cell, requests: number, sha256: string): Promise<Outcome> {
  const host = cell.vip === 4 ? vipOf(cell) : `[${vipOf(cell)}]`;
  const client = async (...argv: string[]): Promise<string> => {
    try {
      return (await lab.exec("client", argv, { check: false, timeoutMs: 20_000 })).stdout;
    } catch {
      return ""; // it took too long; what is missing is said below
    }
  };
  const fail = (reason: string): Outcome => ({
    result: "FAIL",
    reason: `${serviceName(cell)}, ${lab.device}: ${reason}`,
  });
  const load = await client(
    process.execPath,
    labProgram("tools/http-load.js"),
    ...["--target", `${host}:${TCP_PORT}`, "--requests", String(requests)],
    ...["--concurrency", "3", "--timeout", "5000"],
  );
  const report = JSON.parse(load || "{}") as Partial<LoadReport>;
  if (report.ok !== requests) return fail(`HTTP: ${load || "no answer in 20 s"}`);
  const names = Object.keys(report.bodies ?? {}).sort();
  if (names.join() !== LAB_BACKEND_NAMES.join()) return fail(`answers of ${names.join(", ")} only`);
  const file = path.join(lab.memory, `got-${serviceName(cell)}`);
  const url = `http://${host}:${TCP_PORT}/files/content`;
  const sum = (
    await client("sh", "-c", 'curl -sS -m 20 -o "$0" "$1" && sha256sum <"$0"', file, url)
  ).split(" ")[0];
  if (sum !== sha256) return fail(`a file of ${FILE_BYTES} bytes came as ${sum || "nothing"}`);
  const probe = await client(
    process.execPath,
    labProgram("tools/udp-probe.js"),
    ...["--target", `${host}:${UDP_PORT}`, "--count", String(requests), "--sockets", "3"],
    ...["--sizes", "0,1,64,1200"],
  );
  const { equal = 0 } = JSON.parse(probe || "{}") as Partial<ProbeReport>;
  return equal === requests ? { result: "pass" } : fail(`UDP: ${probe || "no answer in 20 s"}`);
}

/** Every cell of one device. Makes a lab, and removes it. */
export async function runMatrix(options: MatrixOptions): Promise<Row[]> {
  const { clientPathMtu, device, requests } = options;
  const lab = createLab(
    clientPathMtu === undefined ? { device, arms: 1 } : { device, forward: true, clientPathMtu },
  );
  try {
    const rows: Row[] = [];
    const cells: Cell[] = [];
    for (const cell of options.cells ?? CELLS) {
      const why = impossible(cell, device);
      const refused = refusal(lab, cell);
      if (why !== null) {
        // What cannot be has to be refused, too.
        const outcome: Outcome =
          refused === null
            ? { result: "FAIL", reason: `the configuration is accepted, but ${why}` }
            : { result: "not possible", reason: why };
        rows.push({ cell, device, outcome });
      } else if (refused !== null) {
        rows.push({ cell, device, outcome: { result: "FAIL", reason: refused } });
      } else {
        cells.push(cell);
      }
    }
    const content = randomBytes(FILE_BYTES);
    writeFileSync(path.join(lab.memory, "content"), content);
    const sha256 = createHash("sha256").update(content).digest("hex");
    for (const node of LAB_BACKEND_NAMES) prepareBackend(lab, node, cells);
    await Promise.all(LAB_BACKEND_NAMES.map((node) => startServers(lab, node, cells)));
    await lab.startGateway(configOf(lab, cells));
    const waiting = cells.slice();
    const asker = async (): Promise<void> => {
      for (let cell = waiting.shift(); cell !== undefined; cell = waiting.shift()) {
        rows.push({ cell, device, outcome: await ask(lab, cell, requests, sha256) });
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, asker));
    options.look?.(lab);
    return rows;
  } finally {
    await lab.stop();
  }
}
