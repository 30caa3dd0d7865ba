import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import { LINK_ETHERNET, writePcap } from "../../src/device/pcap.ts";
import {
  ACK,
  addressNumber,
  checksumFault,
  ethernetFrame,
  macBytes,
  PSH,
  SYN,
  slowSum,
  tcpPacket,
  udpPacket,
} from "../support/frames.ts";
import {
  backendMac,
  CLIENT_MAC,
  createMemoryGateway,
  GATEWAY_MACS,
  type MemoryGateway,
} from "../support/memory-gateway.ts";
import { run } from "../support/processes.ts";

/**
 * Goal: dsr changes two MACs and nothing else; ipip and gue put a right outer header before a packet
 * of which no byte changes.
 * Method: random packets of both protocols through the data plane in memory, with headroom and
 * without; each is compared with what this file expects, and all are written to a capture that tshark
 * and scapy decode: the inner packet as they dig it out, the outer lengths and checksums as they
 * compute them.
 */

const SEED = Number(process.env["SEED"] ?? 20_261_125);
const VIP = "203.0.113.10";
const BACKENDS = ["10.20.0.11", "10.20.0.12", "10.20.0.13"] as const;
const SOURCE = "10.20.0.1";

function yaml(mode: string, more = "", checksum = "zero"): string {
  return `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
tunnel: { source: { ipv4: ${SOURCE} }, gue: { port: 6080, checksum: ${checksum} } }
services:
  - name: all
    vip: ${VIP}
    port: any
    protocol: [tcp, udp]
    mode: ${mode}
    scheduler: sh
    ${more}
    backends: [${BACKENDS.map((address) => `{ address: ${address} }`).join(", ")}]
`;
}

/** A packet to the VIP whose every field that may vary does. */
function randomPacket(random: ReturnType<typeof createRandom>): Uint8Array {
  const below = (bound: number): number => random.below(bound);
  const length = below(8) === 0 ? 0 : below(1200);
  const data = Uint8Array.from({ length }, () => below(256));
  const to = {
    source: `198.51.${below(100)}.${1 + below(250)}`,
    destination: VIP,
    sourcePort: 1 + below(65_535),
    destinationPort: 1 + below(65_535),
    data,
    ip: {
      tos: below(256),
      id: below(65_536),
      ttl: 1 + below(255),
      fragmentWord: below(2) === 0 ? 0x4000 : 0,
      options: below(10) === 0 ? [1, 1, 1, 0] : [],
    },
  };
  if (below(2) === 0) return udpPacket({ ...to, checksum: below(4) === 0 ? "none" : "complete" });
  return tcpPacket({
    ...to,
    flags: below(3) === 0 ? SYN : below(2) === 0 ? ACK : ACK | PSH,
    sequence: below(2 ** 32),
    acknowledgement: below(2 ** 32),
    window: below(65_536),
  });
}

function two(bytes: Uint8Array, at: number): number {
  return bytes[at]! * 256 + bytes[at + 1]!;
}

/** What a frame to a backend must be, but for identification and GUE source port. */
function checkOuter(frame: Uint8Array, inner: Uint8Array, mode: string, computed: boolean): void {
  const gue = mode === "gue" ? 8 : 0;
  const outer = frame.subarray(14);
  assert.equal(frame.length, 14 + 20 + gue + inner.length, "no byte more than the headers");
  assert.equal(two(frame, 12), 0x0800);
  assert.deepEqual([...frame.subarray(6, 12)], macBytes(GATEWAY_MACS[1]));
  assert.equal(outer[0], 0x45);
  assert.equal(outer[1], inner[1], "TOS, ECN included");
  assert.equal(two(outer, 2), 20 + gue + inner.length);
  assert.equal(two(outer, 6), two(inner, 6) & 0x4000, "DF as inside");
  assert.equal(outer[8], 64);
  assert.equal(outer[9], gue === 0 ? 4 : 17);
  assert.equal(slowSum(outer.subarray(0, 20)), 0xffff);
  assert.equal([...outer.subarray(12, 16)].join("."), SOURCE);
  const backend = [...outer.subarray(16, 20)].join(".");
  assert.ok(BACKENDS.includes(backend as (typeof BACKENDS)[number]), backend);
  assert.deepEqual([...frame.subarray(0, 6)], macBytes(backendMac(addressNumber(backend))));
  assert.deepEqual(outer.subarray(20 + gue), inner, "the inner packet, byte by byte");
  if (gue === 0) return;
  assert.ok(two(outer, 20) >= 49_152);
  assert.equal(two(outer, 22), 6080);
  assert.equal(two(outer, 24), 8 + inner.length);
  assert.equal(two(outer, 26) !== 0, computed);
  assert.equal(checksumFault(frame, { linkHeaderBytes: 14 }), null);
}

interface Sent {
  readonly inner: Uint8Array;
  readonly frame: Uint8Array;
}

/** Send random packets through, check each, and keep them. */
function sendRandom(
  gateway: MemoryGateway,
  mode: string,
  count: number,
  computed: boolean,
): Sent[] {
  const random = createRandom(SEED + count);
  const all: Sent[] = [];
  for (let index = 0; index < count; index++) {
    const inner = randomPacket(random);
    const padded = { destination: GATEWAY_MACS[0], source: CLIENT_MAC, padTo: 60 };
    gateway.device.inject(ethernetFrame(inner, padded), 0);
    gateway.datapath.runBatch(0);
    assert.equal(gateway.device.sent.length, 1, `seed ${SEED}: packet ${index} went on`);
    const frame = gateway.device.sent.pop()!.bytes;
    checkOuter(frame, inner, mode, computed);
    all.push({ inner, frame });
  }
  gateway.checkLaw();
  return all;
}

const PACKETS = 2500;
const CASES = [
  { mode: "ipip", headroomBytes: 48, checksum: "zero" },
  { mode: "ipip", headroomBytes: 0, checksum: "zero" },
  { mode: "gue", headroomBytes: 48, checksum: "zero" },
  { mode: "gue", headroomBytes: 0, checksum: "computed" },
] as const;

/**
 * scapy reads the outer headers and computes their lengths and checksums; what is behind them must be
 * the inner packet. (It is not asked to read the inner one: that is tshark's, and scapy is slow.)
 */
const SCAPY = `
import sys
from scapy.layers.inet import IP, UDP, in4_chksum
from scapy.utils import RawPcapReader, checksum
bad = seen = 0
for (frame, _), line in zip(RawPcapReader(sys.argv[1]), open(sys.argv[2])):
    inner = bytes.fromhex(line.strip())
    raw = frame[14:]
    outer = IP(raw[:20])
    ok = outer.ihl == 5 and outer.tos == inner[1] and outer.len == len(raw)
    ok = ok and checksum(raw[:10] + bytes(2) + raw[12:20]) == outer.chksum
    behind = raw[20:]
    if outer.proto == 17:
        udp = UDP(behind[:8])
        ok = ok and udp.len == len(behind)
        if udp.chksum != 0:
            made = in4_chksum(17, outer, behind[:6] + bytes(2) + behind[8:])
            ok = ok and (made or 0xffff) == udp.chksum
        behind = behind[8:]
    seen += 1
    bad += not (ok and behind == inner)
print(seen, bad)
`;

async function decode(folder: string, sent: readonly Sent[]): Promise<void> {
  const pcap = path.join(folder, "sent.pcap");
  const hex = path.join(folder, "sent.hex");
  writePcap(
    pcap,
    sent.map(({ frame }) => frame),
    LINK_ETHERNET,
  );
  writeFileSync(hex, sent.map(({ inner }) => `${Buffer.from(inner).toString("hex")}\n`).join(""));
  const script = path.join(folder, "decode.py");
  writeFileSync(script, SCAPY);
  const scapy = await run(["/usr/bin/python3", script, pcap, hex], { timeoutMs: 300_000 });
  assert.equal(scapy.stdout.trim(), `${sent.length} 0`, "scapy: packets, failures");
  await decodeWithTshark(pcap, sent);
}

/** tshark follows IP in IP by itself; GUE is UDP to a port that it is told of (fou: an IP packet). */
async function decodeWithTshark(pcap: string, sent: readonly Sent[]): Promise<void> {
  const { stdout } = await run(
    [
      ...["tshark", "-n", "-r", pcap, "-T", "fields", "-E", "separator=;", "-E", "occurrence=a"],
      ...["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"],
      ...["-o", "ip.defragment:FALSE", "-d", "udp.port==6080,ip"],
      ...["ip.checksum.status", "ip.dsfield", "ip.len", "ip.src"].flatMap((field) => ["-e", field]),
    ],
    { timeoutMs: 300_000 },
  );
  const lines = stdout.split("\n").filter((line) => line !== "");
  assert.equal(lines.length, sent.length);
  let failures = 0;
  for (const [index, line] of lines.entries()) {
    // Behind the inner header random ports and data may look like one more tunnel.
    const [status, tos, lengths, sources] = line.split(";").map((it) => it.split(","));
    const { inner, frame } = sent[index]!;
    const ok =
      status?.slice(0, 2).join() === "1,1" &&
      tos?.[0] === tos?.[1] &&
      Number(lengths?.[0]) === frame.length - 14 &&
      Number(lengths?.[1]) === inner.length &&
      sources?.[1] === [...inner.subarray(12, 16)].join(".");
    if (!ok && failures++ === 0) console.log(line);
  }
  assert.equal(failures, 0, "tshark's failures");
}

test("10,000 random packets: inner byte-identical, outer right, by tshark and scapy too", async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "headgate-encapsulate-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const all = CASES.flatMap(({ mode, headroomBytes, checksum }) => {
    const gateway = createMemoryGateway({
      yaml: yaml(mode, "", checksum),
      size: { flowCapacity: 16_384 },
      headroomBytes,
    });
    const sent = sendRandom(gateway, mode, PACKETS, checksum === "computed");
    gateway.close();
    return sent;
  });
  assert.equal(all.length, 10_000);
  await decode(folder, all);
});

test("dsr: both MACs, and not a byte of the packet", () => {
  const gateway = createMemoryGateway({ yaml: yaml("dsr"), size: { flowCapacity: 4096 } });
  const random = createRandom(SEED);
  for (let index = 0; index < 1000; index++) {
    const packet = randomPacket(random);
    const frame = ethernetFrame(packet, { destination: GATEWAY_MACS[0], source: CLIENT_MAC });
    gateway.device.inject(frame, 0);
    gateway.datapath.runBatch(0);
    const sent = gateway.device.sent.pop()!;
    assert.equal(sent.interface, 1);
    assert.deepEqual(sent.bytes.subarray(12), frame.subarray(12), `seed ${SEED}, ${index}`);
    assert.deepEqual([...sent.bytes.subarray(6, 12)], macBytes(GATEWAY_MACS[1]));
    assert.equal(sent.bytes[0], 2);
    assert.equal(sent.bytes[1], 0);
    const to = BACKENDS.map((address) => macBytes(backendMac(addressNumber(address))).join());
    assert.ok(to.includes([...sent.bytes.subarray(0, 6)].join()));
  }
  gateway.checkLaw();
  gateway.close();
});

test("gue: one flow has one source port, and flows have many", () => {
  const gateway = createMemoryGateway({ yaml: yaml("gue"), headroomBytes: 48 });
  const ports = new Set<number>();
  for (let flow = 0; flow < 200; flow++) {
    const fields = { source: "198.51.100.2", destination: VIP, destinationPort: 53 } as const;
    const packet = udpPacket({ ...fields, sourcePort: 1024 + flow, data: [flow] });
    const seen = new Set<number>();
    for (let again = 0; again < 3; again++) {
      gateway.device.inject(ethernetFrame(packet, { destination: GATEWAY_MACS[0] }), 0);
      gateway.datapath.runBatch(0);
      seen.add(two(gateway.device.sent.pop()!.bytes, 34));
    }
    assert.equal(seen.size, 1);
    for (const port of seen) ports.add(port);
  }
  assert.ok(ports.size > 190, `${ports.size} source ports of 200 flows`);
  gateway.close();
});
