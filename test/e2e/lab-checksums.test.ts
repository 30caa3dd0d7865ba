import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createLab, type Lab, type LabNode, SKIP_UNLESS_ROOT } from "../support/lab.ts";
import { run } from "../support/processes.ts";
import { httpLoad, startUdpEcho, startWeb, udpProbe, writeContent } from "../support/servers.ts";

/**
 * What leaves the gateway has right checksums: said by the receiving kernels (which verify only
 * what comes without offloads) and by a capture at both ends, read by tshark.
 */

const FILE_BYTES = 4 * 1024 * 1024;
const SERVICES = [
  { name: "web", protocol: "tcp", port: 80, backendPort: 8080 },
  { name: "echo", protocol: "udp", port: 7000, backendPort: 7777, backends: ["b1"] },
] as const;

/** Captures a node's IPv4 frames into a file while `traffic` runs. */
async function capture(lab: Lab, node: LabNode, traffic: () => Promise<void>): Promise<string> {
  const file = path.join(lab.memory, `${node}.pcap`);
  const tcpdump = lab.spawn(node, [
    ...["tcpdump", "-i", "eth0", "-n", "-s", "0", "-B", "65536", "-U", "-c", "200000"],
    ...["-Z", "root", "-w", file, "ip"],
  ]);
  await tcpdump.waitLine(/listening on/);
  await traffic();
  await sleep(300); // what the kernel still holds back for tcpdump
  await tcpdump.stop("SIGINT");
  const lost = tcpdump.lines.find((line) => / packets dropped by kernel/.test(line));
  assert.match(lost ?? "", /^0 packets dropped/);
  return file;
}

/** What tshark says of one frame; "" where the frame has no such field. */
interface SeenFrame {
  readonly protocol: "tcp" | "udp" | "icmp";
  readonly sourcePort: string;
  readonly icmp: string;
  readonly bad: boolean;
}

const STATUS_BAD = "0"; // tshark: 0 bad, 1 good, 2 not verified

/** Reads a capture with every checksum verified, also of packets that ICMP errors quote. */
async function readCapture(file: string): Promise<SeenFrame[]> {
  const checks = ["ip", "tcp", "udp"].flatMap((name) => ["-o", `${name}.check_checksum:TRUE`]);
  const status = ["ip", "tcp", "udp", "icmp"].map((name) => `${name}.checksum.status`);
  const sums = ["tcp.checksum", "tcp.checksum_calculated"];
  const fields = ["udp.srcport", "tcp.srcport", "icmp.type", "icmp.code", ...sums, ...status];
  const { stdout } = await run(
    [
      ...["tshark", "-n", "-r", file, ...checks, "-T", "fields", "-E", "occurrence=a"],
      ...fields.flatMap((field) => ["-e", field]),
    ],
    { timeoutMs: 60_000 },
  );
  return stdout
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [udp = "", tcp = "", type = "", code = "", sum, calculated, ...statuses] =
        line.split("\t");
      // Linux writes a TCP sum of 0 as all ones (skb_checksum_help, CSUM_MANGLED_0), which is the same
      // number and is accepted; tshark calls it bad. One frame in 65,536 of the lab's own hosts.
      const isMangledZero = sum === "0xffff" && calculated === "0x0000";
      return {
        protocol: type !== "" ? "icmp" : tcp !== "" ? "tcp" : "udp",
        sourcePort: tcp + udp,
        icmp: `${type}/${code}`,
        bad: !isMangledZero && statuses.join().split(",").includes(STATUS_BAD),
      };
    });
}

async function traffic(lab: Lab): Promise<void> {
  const web = await httpLoad(lab, { requests: 300 });
  assert.deepEqual(web.failures, {});
  const echo = await udpProbe(lab, { port: 7000, count: 200 });
  assert.equal(echo.equal, 200);
  await lab.exec("client", ["ping", "-c3", "-i0.05", "-W2", "-n", "203.0.113.10"]);
  // No such port: the backend's ICMP error quotes a datagram that the gateway has rewritten.
  await lab.exec("client", ["bash", "-c", "echo x >/dev/udp/203.0.113.10/7001; sleep 0.2"]);
  const { stdout } = await lab.exec("client", [
    "curl",
    "-sS",
    "-o",
    "/dev/null",
    "-w",
    "%{size_download}",
    "http://203.0.113.10/files/some",
  ]);
  assert.equal(Number(stdout), FILE_BYTES);
}

async function bring(lab: Lab): Promise<void> {
  writeContent(path.join(lab.memory, "some"), FILE_BYTES);
  await startWeb(lab);
  await startUdpEcho(lab, "b1", 7777);
}

for (const device of ["tun", "packet", "xdp"] as const) {
  for (const mode of ["nat", "full-nat"] as const) {
    for (const offloads of [true, false]) {
      const title = `checksums ${mode} ${device}, offloads ${offloads ? "on" : "off"}: none bad`;
      test(title, { skip: SKIP_UNLESS_ROOT }, async (t) => {
        const lab = createLab({ device, offloads });
        t.after(() => lab.stop());
        await bring(lab);
        await lab.startGateway(
          lab.config({
            mode,
            services: [
              ...SERVICES,
              { name: "closed", protocol: "udp", port: 7001, backendPort: 7001, backends: ["b1"] },
            ],
          }),
        );
        if (offloads) {
          await traffic(lab);
        } else {
          // With offloads a capture sees the sender's partial checksums; without, all are whole.
          let atBackend = "";
          const atClient = await capture(lab, "client", async () => {
            atBackend = await capture(lab, "b1", () => traffic(lab));
          });
          const received = await readCapture(atBackend);
          assert.ok(received.filter((frame) => frame.protocol === "tcp").length >= 100 * 8);
          assert.deepEqual(
            received.filter((frame) => frame.bad),
            [],
          );

          const answered = await readCapture(atClient);
          assert.ok(answered.filter((frame) => frame.protocol === "tcp").length >= 300 * 8);
          const echoed = (frame: SeenFrame): boolean =>
            frame.protocol === "udp" && frame.sourcePort === "7000";
          assert.equal(answered.filter(echoed).length, 200);
          assert.equal(answered.filter((frame) => frame.icmp === "0/0").length, 3, "pings");
          assert.equal(answered.filter((frame) => frame.icmp === "3/3").length, 1, "closed port");
          assert.deepEqual(
            answered.filter((frame) => frame.bad),
            [],
          );
        }
        assert.deepEqual(lab.checksumErrors(), {});
      });
    }
  }
}

test("a wrong checksum would be seen, by kernel and capture", {
  skip: SKIP_UNLESS_ROOT,
}, async (t) => {
  const lab = createLab({ device: "nftables", offloads: false });
  t.after(() => lab.stop());
  await bring(lab);
  await lab.balance({ mode: "nat", services: SERVICES });
  const file = await capture(lab, "client", () => traffic(lab));
  assert.equal((await readCapture(file)).filter((frame) => frame.bad).length, 0);
  const bytes = readFileSync(file);
  bytes[bytes.length - 1]! ^= 1; // the last byte of the last packet
  writeFileSync(file, bytes);
  assert.equal((await readCapture(file)).filter((frame) => frame.bad).length, 1);

  assert.deepEqual(lab.checksumErrors(), {});
  lab.execSync("gateway", [
    "nft",
    "add",
    "chain",
    "ip",
    "headgate_peer",
    "break",
    "{ type filter hook postrouting priority 300; }",
  ]);
  lab.execSync("gateway", [
    "nft",
    "add",
    "rule",
    "ip",
    "headgate_peer",
    "break",
    "udp",
    "dport",
    "7777",
    "udp",
    "checksum",
    "set",
    "0x1234",
  ]);
  await lab.exec("client", ["bash", "-c", "echo x >/dev/udp/203.0.113.10/7000; sleep 0.2"]);
  assert.deepEqual(lab.checksumErrors(), { "b1.UdpInCsumErrors": 1 });
});
