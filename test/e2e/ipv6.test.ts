import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import type { BackendRow, FlowList, Status } from "../../src/base/admin-types.ts";
import {
  createLab,
  LAB_BACKEND_NAMES,
  LAB_BACKENDS,
  LAB_BACKENDS6,
  LAB_CLIENT6,
  LAB_VIP,
  LAB_VIP6,
  type Lab,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import { httpLoad, startUdpEcho, startWeb, udpProbe } from "../support/servers.ts";

/**
 * Real servers over IPv6 through every device and mode: HTTP, datagrams of every size, ping, a
 * refused datagram, and a download over a narrow link that only ICMPv6 tells of.
 */

const WEB = { name: "web", protocol: "tcp", port: 80, backendPort: 8080, family: 6 } as const;
const ECHO = { name: "echo", protocol: "udp", port: 7000, backendPort: 7777, family: 6 } as const;
/** Nobody listens there. */
const SHUT = { name: "shut", protocol: "udp", port: 7001, backendPort: 7778, family: 6 } as const;
/** Between the families: full-nat alone. */
const BETWEEN = [
  { ...WEB, name: "web64", port: 81, backendFamily: 4 },
  { ...WEB, name: "web46", port: 82, family: 4, backendFamily: 6 },
  { ...ECHO, name: "echo64", port: 7064, backendFamily: 4 },
  { ...ECHO, name: "echo46", port: 7046, family: 4, backendFamily: 6 },
] as const;
const REQUESTS = 300;
const DATAGRAMS = 300;

const REFUSED = `
const socket = require("node:dgram").createSocket("udp6");
socket.on("error", (error) => { console.log(error.code); process.exit(0); });
socket.connect(7001, "${LAB_VIP6}", () => {
  socket.send("x");
  setInterval(() => socket.send("x"), 100);
});
setTimeout(() => { console.log("nothing"); process.exit(1); }, 5000);
`;

/** The answer to one request of curl's, in the client's namespace. */
async function curl(lab: Lab, url: string): Promise<string> {
  const { stdout } = await lab.exec("client", ["curl", "-gsS", "--max-time", "20", url]);
  return stdout;
}

/** The configuration with two services more: prefixes of either family, of which every port is a VIP. */
function withPrefixes(config: string): string {
  const parsed = JSON.parse(config) as {
    services: Record<string, unknown>[];
    snat?: { addresses: string[] };
  };
  const mode = parsed.services[0]!["mode"];
  const one = { port: "any", protocol: ["tcp", "udp"], mode, scheduler: "rr" };
  const six = LAB_BACKEND_NAMES.map((node) => ({ address: LAB_BACKENDS6[node] }));
  const four = LAB_BACKEND_NAMES.map((node) => ({ address: LAB_BACKENDS[node] }));
  parsed.services.push({ ...one, name: "any6", vip: "2001:db8:ff:1::/64", backends: six });
  parsed.services.push({ ...one, name: "any4", vip: "203.0.113.128/25", backends: four });
  return JSON.stringify(parsed);
}

/** By interface of the gateway: who asks it for frames of all groups, as solicitations are. */
function groupsTaken(lab: Lab): number[] {
  const argv = ["ip", "-d", "-j", "link", "show"];
  const links = JSON.parse(lab.execSync("gateway", argv)) as { ifname: string; allmulti: number }[];
  return lab.interfaces.map((name) => links.find(({ ifname }) => ifname === name)?.allmulti ?? -1);
}

/** Bytes of a file that came. */
async function download(lab: Lab, url: string): Promise<number> {
  const ask = [
    "curl",
    "-gsS",
    "--max-time",
    "20",
    "-o",
    "/dev/null",
    "-w",
    "%{size_download}",
    url,
  ];
  return Number((await lab.exec("client", ask)).stdout);
}

/** IPv6 clients of IPv4 backends, and the other way: HTTP, datagrams, and a download each. */
async function betweenFamilies(lab: Lab): Promise<void> {
  const sizes = [0, 1, 7, 1200];
  for (const [family, port, vip] of [
    [6, 81, `[${LAB_VIP6}]`],
    [4, 82, LAB_VIP],
  ] as const) {
    const report = await httpLoad(lab, { requests: 60, concurrency: 8, family, port });
    assert.deepEqual(report.failures, {});
    assert.deepEqual(report.bodies, { b1: 20, b2: 20, b3: 20 });
    const sees = family === 6 ? /^10\.20\.0\.10[0-3]\n$/ : /^2001:db8:2::10[0-3]\n$/;
    assert.match(await curl(lab, `http://${vip}:${port}/client`), sees);
    assert.equal(await download(lab, `http://${vip}:${port}/files/64K`), 64 * 1024);
    const echo = family === 6 ? 7064 : 7046;
    const echoed = await udpProbe(lab, { port: echo, count: 60, sockets: 3, family, sizes });
    assert.deepEqual(echoed, { sent: 60, equal: 60, different: 0, missing: 0 });
  }
}

for (const device of ["tun", "packet", "xdp"] as const) {
  for (const mode of ["nat", "full-nat"] as const) {
    test(`IPv6 ${mode} ${device}: HTTP, UDP, ping, errors, a narrow path`, {
      skip: SKIP_UNLESS_ROOT,
    }, async (t) => {
      const lab = createLab({ device, clientPathMtu: 1280 });
      t.after(() => lab.stop());
      writeFileSync(path.join(lab.memory, "64K"), randomBytes(64 * 1024));
      await startWeb(lab);
      await Promise.all(LAB_BACKEND_NAMES.map((node) => startUdpEcho(lab, node, 7777)));
      const services = [WEB, ECHO, SHUT, ...(mode === "full-nat" ? BETWEEN : [])];
      const gateway = await lab.startGateway(withPrefixes(lab.config({ mode, services })));

      if (device !== "tun") assert.deepEqual(groupsTaken(lab), [1, 1]);
      const report = await httpLoad(lab, { requests: REQUESTS, concurrency: 16, family: 6 });
      assert.deepEqual(report.failures, {});
      assert.deepEqual(report.bodies, { b1: 100, b2: 100, b3: 100 });
      const sees = mode === "nat" ? /^2001:db8:1::2\n$/ : /^2001:db8:2::10[0-3]\n$/;
      assert.match(await curl(lab, `http://[${LAB_VIP6}]/client`), sees);

      const probe = {
        port: 7000,
        count: DATAGRAMS,
        sockets: 6,
        family: 6,
        sizes: [0, 1, 7, 1200],
      } as const;
      // Any address of a prefix, any port: the packet's own is the backend's.
      assert.match(await curl(lab, "http://[2001:db8:ff:1:2:3:4:5]:8080/"), /^b[123]\n$/);
      assert.match(await curl(lab, "http://203.0.113.200:8080/"), /^b[123]\n$/);
      const echoed = await udpProbe(lab, probe);
      assert.deepEqual(echoed, { sent: DATAGRAMS, equal: DATAGRAMS, different: 0, missing: 0 });

      const ping = await lab.exec("client", [
        "ping",
        "-6",
        "-c",
        "3",
        "-i",
        "0.1",
        "-W",
        "2",
        LAB_VIP6,
      ]);
      assert.match(ping.stdout, /3 received/);
      const heard = await lab.exec("client", [process.execPath, "-e", REFUSED]);
      assert.equal(heard.stdout.trim(), "ECONNREFUSED");

      // The backend sends segments of 1,440 bytes; the router behind the gateway takes 1,280.
      assert.equal(await download(lab, `http://[${LAB_VIP6}]/files/64K`), 64 * 1024);

      if (mode === "full-nat") await betweenFamilies(lab);
      const list = await gateway.get<FlowList>(`/api/v1/flows?client=${LAB_CLIENT6}&limit=1`);
      assert.ok(list.total > 0);
      assert.match(list.flows[0]!.client, /^\[2001:db8:1::2\]:\d+$/);
      const rows = await gateway.get<BackendRow[]>("/api/v1/backends");
      const own = rows.filter(({ service }) => service === "web");
      assert.ok(own.every(({ address }) => address.startsWith("2001:db8:2::1")));
      const shown = await gateway.cli(["get", "flows", "--client", "2001:db8:1::/64"]);
      assert.match(shown.stdout, /\[2001:db8:ff::10\]:80/);
      assert.deepEqual(lab.checksumErrors(), {});
      const status = await gateway.get<Status>("/api/v1/status");
      assert.equal(status.frames.missed, 0);
      assert.deepEqual(await gateway.stop(), { code: 0, signal: null });
      assert.deepEqual(groupsTaken(lab), [0, 0]);
    });
  }
}
