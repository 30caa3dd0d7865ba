import assert from "node:assert/strict";
import { chmodSync, copyFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { makeCertificates } from "../health/certificates.ts";
import { createLab, type Lab, labProgram, SKIP_UNLESS_ROOT } from "../support/lab.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Health checks of every type against real servers of backends, by a gateway that has given up root's
 * rights: b1 is well, b2 is there but sick in the way of each type, b4 is an address that nobody has.
 */

interface Row {
  readonly service: string;
  readonly address: string;
  readonly state: string;
  readonly reason: string;
}

const B1 = "10.20.0.11";
const B2 = "10.20.0.12";
const NOWHERE = "10.20.0.99";
/** Behind a router (b3) that has no way to it, and says so. */
const UNREACHABLE = "10.30.0.9";

/** By type: the port of the servers, its keys, and why b2 is down. */
function types(script: string, caFile: string): Record<string, [number, object, RegExp]> {
  return {
    tcp: [9007, {}, /^connect ECONNREFUSED$/],
    tls: [9001, { verify: true, caFile, serverName: "shop.example" }, /^certificate has expired$/],
    https: [9002, { bodyContains: "well" }, /^status 200, body without "well"$/],
    http2: [9003, { tls: false }, /^status 503$/],
    script: [
      9004,
      { steps: [{ send: "PING\r\n" }, { expect: "+PONG" }] },
      /^closed by the backend at step 2 \(expect "\+PONG"\), got "-LOADING/,
    ],
    grpc: [9005, {}, /^NOT_SERVING$/],
    udp: [9006, { send: "are you there" }, /ECONNREFUSED$/],
    dns: [9053, {}, /^SERVFAIL$/],
    exec: [
      80,
      { command: [script, "b2 is sick"], dynamicWeight: true },
      /^exit code 1: b2 is sick$/,
    ],
    icmp: [80, {}, /^timeout after 800ms$/],
  };
}

/** Is well for b1 only, and only for a process that has no rights at all. */
const SCRIPT = `#!/bin/sh
grep -q '^CapEff:.0000000000000000$' /proc/self/status || { echo 'has capabilities'; exit 1; }
grep -q '^CapAmb:.0000000000000000$' /proc/self/status || { echo 'inherits capabilities'; exit 1; }
[ "$(id -u)" = 65534 ] || { echo 'is root'; exit 1; }
[ "$HEADGATE_SERVICE $HEADGATE_ADDRESS $HEADGATE_PORT" = 'exec 10.20.0.11 80' ] && exit 52
echo "$1"
exit 1
`;

function configOf(lab: Lab, checked: Record<string, [number, object, RegExp]>): string {
  const services = [{ name: "tcp", protocol: "tcp" as const, port: 80, backendPort: 80 }];
  const config = JSON.parse(lab.config({ mode: "nat", services, more: { user: "nobody" } }));
  const timing = { interval: "800ms", timeout: "800ms", rise: 1, fall: 2 };
  config.services = Object.entries(checked).map(([type, [port, keys]], index) => ({
    name: type,
    vip: "203.0.113.10",
    port: 1000 + index,
    protocol: type === "udp" || type === "dns" ? "udp" : "tcp",
    mode: "nat",
    scheduler: "rr",
    health: { type, ...timing, ...keys },
    backends: [
      { address: B1, port, weight: 10 },
      { address: type === "icmp" ? NOWHERE : B2, port, weight: 10 },
    ],
  }));
  config.services.push({
    name: "udp-unreachable",
    vip: "203.0.113.11",
    port: 1000,
    protocol: "udp",
    mode: "nat",
    scheduler: "rr",
    health: { type: "udp", ...timing },
    backends: [{ address: UNREACHABLE, port: 9006 }],
  });
  config.services.push({
    name: "icmp6",
    vip: "2001:db8:ff::10",
    port: 1000,
    protocol: "tcp",
    mode: "nat",
    scheduler: "rr",
    health: { type: "icmp", ...timing },
    backends: [{ address: "2001:db8:2::11", port: 80 }],
  });
  return JSON.stringify(config);
}

async function startServers(lab: Lab, certificates: ReturnType<typeof makeCertificates>) {
  const program = path.join(labProgram(""), "..", "test", "support", "health-servers-main.js");
  const nodes = [
    ["b1", "well", certificates.soon],
    ["b2", "sick", certificates.expired],
  ] as const;
  for (const [node, mode, { key, cert }] of nodes) {
    const [keyFile, certificateFile] = ["key", "pem"].map((end) =>
      path.join(lab.directory, `${node}.${end}`),
    ) as [string, string];
    writeFileSync(keyFile, key);
    writeFileSync(certificateFile, cert);
    const server = lab.spawn(node, [process.execPath, program, mode, keyFile, certificateFile]);
    await server.waitLine(/^ready/);
  }
}

test("nobody's gateway checks by every type", { skip: SKIP_UNLESS_ROOT }, async (t) => {
  const certificates = makeCertificates();
  t.after(() => certificates.remove());
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  chmodSync(lab.directory, 0o755);
  // What ping_group_range would allow is not what is tested.
  lab.execSync("gateway", ["sysctl", "-qw", "net.ipv4.ping_group_range=1 0"]);
  // One ICMP error a second and destination is the usual limit; these checks come faster.
  for (const node of ["b2", "b3"] as const) {
    lab.execSync(node, ["sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv4.ip_forward=1"]);
  }
  lab.execSync("b3", ["ip", "route", "add", "unreachable", "10.30.0.0/24"]);
  lab.execSync("gateway", ["ip", "route", "add", "10.30.0.0/24", "via", "10.20.0.13"]);
  const script = path.join(lab.directory, "check.sh");
  writeFileSync(script, SCRIPT, { mode: 0o755 });
  const caFile = path.join(lab.directory, "ca.pem");
  copyFileSync(certificates.caFile, caFile);
  await startServers(lab, certificates);

  const checked = types(script, caFile);
  const gateway = await lab.startGateway(configOf(lab, checked));
  const rows = (): Promise<Row[]> => gateway.get<Row[]>("/api/v1/backends");
  const isWell = ({ address }: Row): boolean => address === B1 || address.includes(":");
  await waitFor("who is well to be up, and who is not to be down", async () =>
    // A state is shown before its reason is.
    (await rows()).every((row) => row.state === (isWell(row) ? "up" : "down") && row.reason !== ""),
  ).catch(() => undefined);
  const found = await rows();
  for (const [type, [, , reason]] of Object.entries(checked)) {
    const [well, sick] = found.filter(({ service }) => service === type);
    assert.equal(well?.state, "up", `${type}: ${well?.reason}`);
    assert.equal(sick?.state, "down", `${type}: ${sick?.reason}`);
    assert.match(sick!.reason, reason, type);
  }
  // Linux keeps this one from sockets that do not ask for it.
  const unreachable = found.find(({ service }) => service === "udp-unreachable");
  assert.equal(`${unreachable?.state} ${unreachable?.reason}`, "down recvmsg EHOSTUNREACH");
  const six = found.find(({ service }) => service === "icmp6");
  assert.equal(six?.state, "up", six?.reason);

  // What checks say beside up and down.
  const weights = gateway.log.filter(({ event }) => event === "backend_check_weight");
  assert.deepEqual(
    weights.map(({ service, backend, weight_percent }) => [service, backend, weight_percent]),
    [["exec", `${B1}:80`, 50]],
  );
  const warned = gateway.log.filter(({ event }) => event === "certificate_expires");
  assert.deepEqual(
    warned.map(({ service, backend }) => `${service} ${backend}`).toSorted(),
    [`https ${B1}:9002`, `https ${B2}:9002`, `tls ${B1}:9001`],
    "once for each, though many checks have seen it",
  );
  const { body } = await gateway.api("GET", "/metrics");
  const line = new RegExp(
    `^headgate_health_certificate_expiry_timestamp_seconds\\{service="tls",backend="${B1}:9001",protocol="tcp"\\} (\\d+)`,
    "m",
  );
  const expiry = Number(line.exec(body)?.[1]);
  assert.ok(expiry > Date.now() / 1000 && expiry < Date.now() / 1000 + 4 * 86_400, `${expiry}`);
  assert.equal((await gateway.stop()).code, 0, gateway.lines.slice(-5).join("\n"));
});
