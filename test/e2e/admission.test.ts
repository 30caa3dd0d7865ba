import assert from "node:assert/strict";
import { test } from "node:test";
import type { BackendRow, DropList, Status } from "../../src/base/admin-types.ts";
import {
  createLab,
  type GatewayProcess,
  LAB_VIP,
  LAB_VIP6,
  type Lab,
  type LabBackend,
  type LabService,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import {
  httpLoad,
  startNginx,
  startTcpEcho,
  startUdpEcho,
  startWeb,
  WEB_PORT,
} from "../support/servers.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Goal: access lists, limits, and forwarding without state, as real clients and servers meet them, in
 * both families.
 * Method: one lab for what is refused, with a second address at the client; one for one-way services
 * above their rate of new flows.
 */

const FAMILIES = [4, 6] as const;
type Family = (typeof FAMILIES)[number];

const VIPS = { 4: LAB_VIP, 6: LAB_VIP6 } as const;
/** The client's own address, and a second one that lists name. */
const CLIENT = { 4: "198.51.100.2", 6: "2001:db8:1::2" } as const;
const OTHER = { 4: "198.51.100.3", 6: "2001:db8:1::3" } as const;

/** What curl ends with. */
const CURL_OK = 0;
const CURL_REFUSED = 7;
const CURL_TIMEOUT = 28;

const ALLOW_PORT = 81;
const DROP_PORT = 82;
const UDP_DENY_PORT = 83;
const CAP_PORT = 84;
const ALL_PORT = 85;
const SOURCE_PORT = 86;
const RATE_PORT = 87;
const CAP = 8;

/** The same service in both families. */
function both(service: Omit<LabService, "family">): LabService[] {
  return FAMILIES.map((family) => ({ ...service, name: `${service.name}${family}`, family }));
}

const RESET = { refuse: "reset" };
const ONE = ["b1"] as const;
const QUICK_CLOSE = { tcp: { close: "50ms" } };
const SERVICES: readonly LabService[] = [
  ...both({
    name: "allow",
    protocol: "tcp",
    port: ALLOW_PORT,
    backendPort: WEB_PORT,
    more: {
      access: {
        ...RESET,
        allow: ["198.51.100.0/24", "2001:db8:1::/64"],
        deny: [`${OTHER[4]}/32`, `${OTHER[6]}/128`],
      },
    },
  }),
  ...both({
    name: "drop",
    protocol: "tcp",
    port: DROP_PORT,
    backendPort: WEB_PORT,
    more: { access: { deny: [`${OTHER[4]}/32`, `${OTHER[6]}/128`] } },
  }),
  ...both({
    name: "datagrams",
    protocol: "udp",
    port: UDP_DENY_PORT,
    backendPort: 7000,
    more: { access: { ...RESET, deny: ["0.0.0.0/0", "::/0"] } },
  }),
  ...both({
    name: "cap",
    protocol: "tcp",
    port: CAP_PORT,
    backendPort: 7001,
    backends: ONE,
    more: { limits: { ...RESET, perBackend: { connections: CAP } }, timeouts: QUICK_CLOSE },
  }),
  ...both({
    name: "all",
    protocol: "tcp",
    port: ALL_PORT,
    backendPort: 7001,
    backends: ONE,
    more: { limits: { ...RESET, connections: 3 }, timeouts: QUICK_CLOSE },
  }),
  ...both({
    name: "source",
    protocol: "tcp",
    port: SOURCE_PORT,
    backendPort: WEB_PORT,
    more: {
      limits: { ...RESET, newPerSource: { rate: 1, burst: 5, prefix: { ipv6: 128 } } },
    },
  }),
  ...both({
    name: "rate",
    protocol: "udp",
    port: RATE_PORT,
    backendPort: 7000,
    backends: ONE,
    more: { limits: { packetsPerSecond: 100 } },
  }),
];

/** curl's exit code for a page of the VIP, asked from an address of the client's. */
async function curl(
  lab: Lab,
  family: Family,
  port: number,
  from: string,
  connectSeconds = 20,
): Promise<number | null> {
  const host = family === 4 ? LAB_VIP : `[${LAB_VIP6}]`;
  const { code } = await lab.exec(
    "client",
    [
      ...[
        "curl",
        "-sS",
        "-o",
        "/dev/null",
        "-m",
        "30",
        "--connect-timeout",
        String(connectSeconds),
      ],
      ...["--interface", from, `http://${host}:${port}/`],
    ],
    { check: false },
  );
  return code;
}

/** Sends a datagram from one of the client's addresses and says what the socket hears. */
const DATAGRAM = `
const [host, port, from] = process.argv.slice(1);
const socket = require("node:dgram").createSocket(host.includes(":") ? "udp6" : "udp4");
socket.on("error", (error) => { console.log(error.code); process.exit(0); });
socket.bind(0, from, () => socket.connect(Number(port), host, () => {
  const send = () => socket.send("x");
  send();
  setInterval(send, 100);
}));
setTimeout(() => { console.log("nothing"); process.exit(1); }, 10000);
`;

/**
 * Holds connections: SIGUSR2 opens one and says "open", or what it ended with; SIGHUP resets the oldest
 * and says "reset".
 */
const HOLDER = `
const [host, port] = process.argv.slice(1);
const held = [];
process.on("SIGUSR2", () => {
  const socket = require("node:net").connect(Number(port), host);
  socket.once("error", (error) => console.log(error.code));
  socket.once("connect", () => { held.push(socket); console.log("open"); });
});
process.on("SIGHUP", () => { held.shift().resetAndDestroy(); console.log("reset"); });
console.log("ready");
setInterval(() => {}, 60000);
`;

interface Holder {
  /** Opens a connection. @returns "open", or the error's code */
  open(): Promise<string>;
  reset(): Promise<string>;
}

async function startHolder(lab: Lab, family: Family, port: number): Promise<Holder> {
  const argv = [process.execPath, "-e", HOLDER, VIPS[family], String(port)];
  const child = lab.spawn("client", argv);
  await child.waitLine(/^ready/);
  const ask = async (signal: NodeJS.Signals): Promise<string> => {
    const before = child.lines.length;
    child.kill(signal);
    return waitFor(`an answer to ${signal}`, () => child.lines[before]);
  };
  return { open: () => ask("SIGUSR2"), reset: () => ask("SIGHUP") };
}

async function dropsOf(gateway: GatewayProcess, reason: string): Promise<number> {
  const { reasons } = await gateway.get<DropList>("/api/v1/drops");
  return reasons.find((row) => row.reason === reason)!.count;
}

/** New flows that were refused, whatever they were answered. */
async function refused(gateway: GatewayProcess, reason: string): Promise<number> {
  const { body } = await gateway.api("GET", "/metrics");
  return body
    .split("\n")
    .filter((line) => line.startsWith("headgate_flows_refused_total{"))
    .filter((line) => line.includes(`reason="${reason}"`))
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
}

async function backendsOf(gateway: GatewayProcess, service: string): Promise<BackendRow[]> {
  return gateway.get<BackendRow[]>(`/api/v1/backends?service=${service}`);
}

async function flowsOf(gateway: GatewayProcess, service: string): Promise<number> {
  const rows = await backendsOf(gateway, service);
  return rows.reduce((sum, { active, inactive }) => sum + active + inactive, 0);
}

async function checkAccess(lab: Lab, family: Family): Promise<void> {
  const answers = [
    await curl(lab, family, ALLOW_PORT, CLIENT[family]),
    await curl(lab, family, ALLOW_PORT, OTHER[family]),
    await curl(lab, family, DROP_PORT, CLIENT[family]),
    await curl(lab, family, DROP_PORT, OTHER[family], 1.5),
  ];
  assert.deepEqual(answers, [CURL_OK, CURL_REFUSED, CURL_OK, CURL_TIMEOUT], `IPv${family}`);
  const argv = [process.execPath, "-e", DATAGRAM, VIPS[family], String(UDP_DENY_PORT)];
  const heard = await lab.exec("client", [...argv, CLIENT[family]]);
  assert.equal(heard.stdout.trim(), "ECONNREFUSED", `IPv${family}`);
}

/** A backend that is full gets connections again at three quarters of its limit, not before. */
async function checkBackendLimit(lab: Lab, gateway: GatewayProcess, family: Family): Promise<void> {
  const holder = await startHolder(lab, family, CAP_PORT);
  const service = `cap${family}`;
  for (let count = 0; count < CAP; count++) assert.equal(await holder.open(), "open");
  assert.equal(await holder.open(), "ECONNREFUSED", `${service}: the ninth of ${CAP}`);
  for (const left of [CAP - 1, CAP - 2]) {
    assert.equal(await holder.reset(), "reset");
    await waitFor(`${left} flows`, async () => (await flowsOf(gateway, service)) === left);
    const wanted = left > (CAP * 3) / 4 ? "ECONNREFUSED" : "open";
    assert.equal(await holder.open(), wanted, `${service}: with ${left}`);
  }
}

async function checkServiceLimit(lab: Lab, gateway: GatewayProcess, family: Family): Promise<void> {
  const holder = await startHolder(lab, family, ALL_PORT);
  const service = `all${family}`;
  for (let count = 0; count < 3; count++) assert.equal(await holder.open(), "open");
  assert.equal(await holder.open(), "ECONNREFUSED", service);
  assert.equal(await holder.reset(), "reset");
  await waitFor("two flows", async () => (await flowsOf(gateway, service)) === 2);
  assert.equal(await holder.open(), "open", service);
}

/** A client that opens too many is refused, its neighbour is not. */
async function checkSourceLimit(lab: Lab, gateway: GatewayProcess, family: Family): Promise<void> {
  const before = await refused(gateway, "source_rate");
  const load = await httpLoad(lab, { family, port: SOURCE_PORT, requests: 40, concurrency: 1 });
  assert.ok(load.ok >= 5 && load.failed > 0, JSON.stringify(load));
  assert.deepEqual(Object.keys(load.failures), ["connect ECONNREFUSED"]);
  assert.equal((await refused(gateway, "source_rate")) - before, load.failed);
  assert.equal(await curl(lab, family, SOURCE_PORT, OTHER[family]), CURL_OK, `IPv${family}`);
}

/** Every datagram of a burst is forwarded or counted, and not all are forwarded. */
async function checkPacketLimit(lab: Lab, gateway: GatewayProcess, family: Family): Promise<void> {
  const sent = 400;
  const limitedBefore = await dropsOf(gateway, "packets_limited");
  const script = `
const [host, port, count] = process.argv.slice(1);
const socket = require("node:dgram").createSocket(host.includes(":") ? "udp6" : "udp4");
socket.connect(Number(port), host, () => {
  let left = Number(count);
  const send = () => left-- > 0 ? socket.send("x", send) : socket.close();
  send();
});`;
  const argv = [process.execPath, "-e", script, VIPS[family], String(RATE_PORT), String(sent)];
  await lab.exec("client", argv);
  const limited = await waitFor("every datagram to be accounted for", async () => {
    const dropped = (await dropsOf(gateway, "packets_limited")) - limitedBefore;
    const [row] = await backendsOf(gateway, `rate${family}`);
    return row!.packetsIn + dropped === sent ? dropped : undefined;
  });
  assert.ok(limited > 0 && limited < sent, `${limited} of ${sent} are above the limit`);
}

test("who gets in: lists, limits of flows, sources, backends and packets", {
  skip: SKIP_UNLESS_ROOT,
}, async (t) => {
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  lab.execSync("client", ["ip", "addr", "add", `${OTHER[4]}/24`, "dev", "eth0"]);
  // Deprecated (preferred_lft 0): used by who asks for it, and by nobody else.
  const six = [`${OTHER[6]}/64`, "dev", "eth0", "nodad", "preferred_lft", "0"];
  lab.execSync("client", ["ip", "addr", "add", ...six]);
  await Promise.all([startWeb(lab), startTcpEcho(lab), startUdpEcho(lab, "b1", 7000)]);
  const gateway = await lab.startGateway(lab.config({ mode: "nat", services: SERVICES }));
  await Promise.all(
    FAMILIES.flatMap((family) => [
      checkAccess(lab, family),
      checkBackendLimit(lab, gateway, family),
      checkServiceLimit(lab, gateway, family),
    ]),
  );
  // Of each family one SYN with a RST, one at least that nobody answered, one datagram.
  assert.ok((await refused(gateway, "access")) >= 6);
  assert.ok((await refused(gateway, "backends")) >= 2 * 2);
  assert.ok((await refused(gateway, "connections")) >= 2);
  for (const family of FAMILIES) {
    await checkSourceLimit(lab, gateway, family);
    await checkPacketLimit(lab, gateway, family);
  }
  assert.deepEqual(lab.checksumErrors(), {});
});

const REQUESTS = 120;

/** Servers that hold the VIPs themselves, as dsr asks for. */
async function startOneWayServer(lab: Lab, node: LabBackend): Promise<void> {
  lab.execSync(node, ["ip", "addr", "add", `${LAB_VIP}/32`, "dev", "lo"]);
  lab.execSync(node, ["ip", "addr", "add", `${LAB_VIP6}/128`, "dev", "lo", "nodad"]);
  lab.execSync(node, [
    ...["sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2"],
    ...["net.ipv4.conf.all.rp_filter=0"],
  ]);
  await startNginx(lab, node, lab.memory, [LAB_VIP, `[${LAB_VIP6}]`]);
}

test("above statelessAbove a one-way service goes on without flows, and nothing is lost", {
  skip: SKIP_UNLESS_ROOT,
}, async (t) => {
  const lab = createLab({ device: "packet", forward: true });
  t.after(() => lab.stop());
  await Promise.all((["b1", "b2"] as const).map((node) => startOneWayServer(lab, node)));
  const parsed = JSON.parse(
    lab.config({
      mode: "nat",
      services: both({
        name: "web",
        protocol: "tcp",
        port: WEB_PORT,
        backendPort: WEB_PORT,
        backends: ["b1", "b2"],
        more: { scheduler: "maglev", tableSize: 251 },
      }),
    }),
  );
  for (const service of parsed.services) service.mode = "dsr";
  parsed.flows.statelessAbove = 1;
  const gateway = await lab.startGateway(JSON.stringify(parsed));
  for (const family of FAMILIES) {
    const load = await httpLoad(lab, {
      family,
      port: WEB_PORT,
      requests: REQUESTS,
      concurrency: 8,
    });
    assert.deepEqual([load.failed, Object.keys(load.bodies).sort()], [0, ["b1", "b2"]]);
  }
  const { flows } = await gateway.get<Status>("/api/v1/status");
  assert.ok(
    flows.statelessPackets > 2 * REQUESTS,
    `${flows.statelessPackets} packets without a flow`,
  );
  assert.ok(flows.created < 2 * REQUESTS, `${flows.created} flows for ${2 * REQUESTS} connections`);
  await gateway.waitLine(/"event":"stateless_begun"/);
  assert.deepEqual(lab.checksumErrors(), {});
});
