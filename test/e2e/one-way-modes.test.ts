import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import type { Status } from "../../src/base/admin-types.ts";
import {
  createLab,
  LAB_BACKENDS,
  LAB_SNAT,
  LAB_VIP,
  type Lab,
  type LabBackend,
  PROJECT_ROOT,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import type { RunningProcess } from "../support/processes.ts";
import { startNginx, writeContent } from "../support/servers.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Goal: dsr, ipip and gue carry real TCP to real servers that hold the VIP and answer straight, with
 * offloads on: GSO packets are segmented, packets that do not fit are announced to the client, and
 * errors about what the servers send reach them.
 * Method: one lab a device, with a router whose way to the client takes 1280 bytes. The servers'
 * answers go by the gateway's host as through any router. The backends take the tunnels off with a
 * program of the lab's own (python), which also judges the outer headers.
 */

const WEB = 8080;
const SINK = 9000;
/** 64 MiB where GSO packets come in and have to be segmented, once. */
const UP_BYTES = { tun: 8 << 20, packet: 64 << 20, xdp: 8 << 20 } as const;
const DOWN_BYTES = 65_536;
const MODES = { tun: ["ipip", "gue"], packet: ["dsr", "ipip", "gue"], xdp: ["dsr", "ipip", "gue"] };

interface Seen {
  readonly ipip: number;
  readonly gue: number;
  readonly faults: number;
  readonly largest: number;
  readonly sources: number;
}

/** The VIP is on the loopback of the backends, and they do not answer ARP for it. */
async function startBackend(lab: Lab, node: LabBackend): Promise<RunningProcess> {
  lab.execSync(node, ["ip", "addr", "add", `${LAB_VIP}/32`, "dev", "lo"]);
  lab.execSync(node, [
    ...["sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2"],
    ...["net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"],
  ]);
  const tool = path.join(PROJECT_ROOT, "lab/tools/decap.py");
  const decap = lab.spawn(node, ["/usr/bin/python3", tool, "decap0"]);
  const sink = path.join(PROJECT_ROOT, "dist/lab/servers/hash-sink.js");
  const server = lab.spawn(node, [process.execPath, sink, "0.0.0.0", `${SINK}`]);
  await Promise.all([
    startNginx(lab, node, lab.memory, [LAB_VIP]),
    decap.waitLine(/^ready/),
    server.waitLine(/^listening/),
  ]);
  return decap;
}

/** On AF_PACKET the source may be the host's, elsewhere it is an address of the gateway's own. */
function sourceOf(lab: Lab): string {
  return lab.device === "packet" ? "10.20.0.1" : LAB_SNAT[3];
}

/** What a router between gateway and backends would say of an outer packet of GUE that was too large. */
async function sayTooBig(lab: Lab, mtu: number): Promise<void> {
  const script = `
import socket, struct, sys
def total(data):
    value = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while value > 0xffff: value = (value & 0xffff) + (value >> 16)
    return ~value & 0xffff
source, backends, mtu = sys.argv[1], sys.argv[2:-1], int(sys.argv[-1])
out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
for backend in backends:
    quote = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 1500, 1, 0x4000, 63, 17, 0,
        socket.inet_aton(source), socket.inet_aton(backend)) + struct.pack("!HHHH", 50000, 6080, 1480, 0)
    head = struct.pack("!BBHHH", 3, 4, 0, 0, mtu)
    head = struct.pack("!BBHHH", 3, 4, total(head + quote), 0, mtu)
    out.sendto(head + quote, (source, 0))
    import time; time.sleep(0.05)
`;
  const argv = ["/usr/bin/python3", "-c", script, sourceOf(lab), LAB_BACKENDS.b1, LAB_BACKENDS.b2];
  await lab.exec("b3", [...argv, `${mtu}`]);
}

function config(lab: Lab, mode: string): string {
  const common = { protocol: "tcp", backends: ["b1", "b2"] } as const;
  const parsed = JSON.parse(
    lab.config({
      mode: "nat",
      services: [
        { ...common, name: "web", port: WEB, backendPort: WEB },
        {
          ...common,
          name: "sink",
          protocol: ["tcp", "udp"] as const,
          port: SINK,
          backendPort: SINK,
        },
      ],
    }),
  );
  for (const service of parsed.services) service.mode = mode;
  parsed.tunnel = { source: { ipv4: sourceOf(lab) } };
  return JSON.stringify(parsed);
}

for (const device of ["packet", "xdp", "tun"] as const) {
  const title = `one-way modes on ${device}: ${MODES[device].join(", ")} to real servers, over 1280 bytes`;
  test(title, { skip: SKIP_UNLESS_ROOT }, async (t) => {
    const lab = createLab({ device, forward: true, clientPathMtu: 1280 });
    t.after(() => lab.stop());
    const decaps = await Promise.all(
      (["b1", "b2"] as const).map((node) => startBackend(lab, node)),
    );
    const down = writeContent(path.join(lab.memory, "down"), DOWN_BYTES);
    const up = writeContent(path.join(lab.memory, "up"), UP_BYTES[device]);
    const gateway = await lab.startGateway(config(lab, MODES[device][0]!));
    for (const [index, mode] of MODES[device].entries()) {
      if (index > 0) {
        const answer = await gateway.reload(config(lab, mode));
        assert.equal(answer.status, 200, answer.body);
      }
      // What a download has taught a server would make its SYN-ACK ask for less than fits.
      for (const node of ["client", "b1", "b2"] as const) {
        lab.execSync(node, ["ip", "route", "flush", "cache"]);
      }
      const names = new Set<string>();
      for (let request = 0; request < 6; request++) {
        const url = `http://${LAB_VIP}:${WEB}/`;
        names.add((await lab.exec("client", ["curl", "-sS", "-m", "20", url])).stdout.trim());
      }
      assert.deepEqual([...names].sort(), ["b1", "b2"], mode);
      const upload = `socat -b 131072 -t 60 - TCP:${LAB_VIP}:${SINK} <"$1"`;
      const argv = ["bash", "-c", upload, "up", path.join(lab.memory, "up")];
      const sent = await lab.exec("client", argv, { timeoutMs: 120_000 });
      assert.equal(sent.stdout.trim(), up, `${mode}: ${UP_BYTES[device]} bytes up`);
      const route = lab.execSync("client", ["ip", "route", "get", LAB_VIP]);
      const left = { dsr: 0, ipip: 1480, gue: 1472 }[mode as "dsr" | "ipip" | "gue"];
      if (left !== 0) assert.match(route, new RegExp(`mtu ${left}\\b`), `${mode}: ${route}`);
      const seen = await lab.exec("client", [
        ...["bash", "-c"],
        `curl -sS --fail -m 60 http://${LAB_VIP}:${WEB}/client; curl -sS --fail -m 60 http://${LAB_VIP}:${WEB}/files/down | sha256sum`,
      ]);
      const [address, hash] = seen.stdout.split("\n");
      assert.equal(address, "198.51.100.2", `${mode}: the server sees the client`);
      assert.equal(hash?.split(" ")[0], down, `${mode}: ${DOWN_BYTES} bytes over 1280`);
    }
    await sayTooBig(lab, 1400);
    lab.execSync("client", ["ip", "route", "flush", "cache"]);
    const packets = `head -c 4000 /dev/zero | socat -u -b 1472 - UDP:${LAB_VIP}:${SINK},ip-mtu-discover=2`;
    await waitFor("the client to hear of the tunnel's path", async () => {
      await lab.exec("client", ["bash", "-c", packets], { check: false });
      return lab.execSync("client", ["ip", "route", "get", LAB_VIP]).includes("mtu 1372");
    });
    const status = await gateway.get<Status>("/api/v1/status");
    // AF_XDP has no GSO packets; elsewhere the uploads came in some, and left in segments of ours.
    if (device !== "xdp") assert.ok(status.frames.originated > 1000, JSON.stringify(status.frames));
    assert.deepEqual(lab.checksumErrors(), {});
    await checkDecaps(decaps);
    assert.deepEqual(await gateway.stop(), { code: 0, signal: null });
  });
}

async function checkDecaps(decaps: readonly RunningProcess[]): Promise<void> {
  for (const decap of decaps) {
    await decap.stop("SIGTERM");
    const seen = JSON.parse(decap.lines.at(-1)!) as Seen;
    const text = JSON.stringify(seen);
    assert.ok(seen.ipip > 10 && seen.gue > 10, text);
    assert.equal(seen.faults, 0, text);
    assert.ok(seen.largest <= 1480, text);
  }
}
