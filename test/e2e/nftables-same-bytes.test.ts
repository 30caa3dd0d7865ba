import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import { createPcap, LINK_ETHERNET, openPcap } from "../../src/device/pcap.ts";
import { H_SECRET } from "../../src/state/layout.ts";
import {
  ACK,
  addressText,
  ethernetFrame,
  FIN,
  PSH,
  SYN,
  tcpPacket,
  udpPacket,
} from "../support/frames.ts";
import { gatewayProgram, labProgram, PROJECT_ROOT, SKIP_UNLESS_ROOT } from "../support/lab.ts";
import { createMemoryGateway, GATEWAY_MACS } from "../support/memory-gateway.ts";
import { run, start } from "../support/processes.ts";

/**
 * The same frames through the kernel's NAT (nftables) and through the fast path, and through a whole
 * gateway on AF_XDP.
 *
 *   client namespace -- veth -- kernel namespace (DNAT, SNAT) -- veth -- server namespace
 *
 * Random valid frames go in on one side; what comes out of the other is captured by libpcap and
 * compared with what the fast path makes of the same frames in memory. MACs are given the same
 * values on both, so whole frames compare. Documented differences: none.
 */
const CLIENT_PORTS = 400;
const VIP = "203.0.113.10";
const BACKEND = "10.20.0.11";
const BACKEND_MAC = "02:00:0a:14:00:0b";
const CLIENT_MAC = "02:00:00:00:01:02";

interface Flow {
  readonly protocol: "tcp" | "udp";
  readonly client: string;
  readonly clientPort: number;
  /** Where replies go: the client, or a SNAT address and port. */
  replyAddress: string;
  replyPort: number;
}

/** Random but valid: what a kernel's connection tracking takes for a connection. */
function randomBody(random: ReturnType<typeof createRandom>): {
  data: Uint8Array;
  ip: { tos: number; id: number; ttl: number; fragmentWord: number; options: number[] };
} {
  const sizes = [0, 1, 2, 7, 18, 64, 513, 1200, 1401];
  const data = Uint8Array.from({ length: sizes[random.below(sizes.length)]! }, () =>
    random.below(256),
  );
  return {
    data,
    ip: {
      tos: random.below(256),
      id: random.below(65_536),
      ttl: 2 + random.below(254),
      fragmentWord: random.below(2) === 0 ? 0x4000 : 0,
      options: random.below(8) === 0 ? [1, 1, 1, 0] : [],
    },
  };
}

function clientFrame(
  flow: Flow,
  random: ReturnType<typeof createRandom>,
  flags: number,
): Uint8Array {
  const { data, ip } = randomBody(random);
  const ends = {
    source: flow.client,
    sourcePort: flow.clientPort,
    destination: VIP,
    destinationPort: 80,
  };
  const packet =
    flow.protocol === "tcp"
      ? tcpPacket({
          ...ends,
          flags,
          sequence: random.next32(),
          acknowledgement: random.next32(),
          window: 1 + random.below(65_535),
          data: flags === SYN ? [] : data,
          ip,
        })
      : udpPacket({ ...ends, data, checksum: random.below(4) === 0 ? "none" : "complete", ip });
  return ethernetFrame(packet, { destination: GATEWAY_MACS[0], source: CLIENT_MAC, padTo: 60 });
}

function backendFrame(
  flow: Flow,
  random: ReturnType<typeof createRandom>,
  flags: number,
): Uint8Array {
  const { data, ip } = randomBody(random);
  const ends = {
    source: BACKEND,
    sourcePort: 8080,
    destination: flow.replyAddress,
    destinationPort: flow.replyPort,
  };
  const packet =
    flow.protocol === "tcp"
      ? tcpPacket({
          ...ends,
          flags,
          sequence: random.next32(),
          acknowledgement: random.next32(),
          window: 1 + random.below(65_535),
          data: flags === (SYN | ACK) ? [] : data,
          ip,
        })
      : udpPacket({ ...ends, data, checksum: random.below(4) === 0 ? "none" : "complete", ip });
  return ethernetFrame(packet, { destination: GATEWAY_MACS[1], source: BACKEND_MAC, padTo: 60 });
}

type Mode = "nat" | "full-nat";
/** Who handles the frames, beside the fast path in memory. */
type Peer = "nftables" | "xdp";

function yaml(mode: Mode, type: "packet" | "xdp" = "packet", more = ""): string {
  return `
version: 1
device: { type: ${type}, interfaces: [eth0, eth1] }
${more}
snat: { addresses: [10.20.0.100-10.20.0.103], ports: 1024-65535 }
services:
  - name: all
    vip: ${VIP}
    port: 80
    protocol: [tcp, udp]
    mode: ${mode}
    scheduler: rr
    backends: [{ address: ${BACKEND}, port: 8080 }]
`;
}

/** Frames of both directions, in order, with the side they come in on, and what the fast path sends. */
function throughFastPath(
  mode: Mode,
  seed: number,
  frames: number,
  secret: readonly [number, number],
): {
  input: { frame: Uint8Array; side: 0 | 1 }[];
  output: [Uint8Array[], Uint8Array[]];
  flows: Flow[];
} {
  const random = createRandom(seed);
  const gateway = createMemoryGateway({ yaml: yaml(mode), slotBytes: 2048, secret });
  const flows: Flow[] = [];
  const input: { frame: Uint8Array; side: 0 | 1 }[] = [];
  const output: [Uint8Array[], Uint8Array[]] = [[], []];
  const push = (frame: Uint8Array, side: 0 | 1): Uint8Array => {
    input.push({ frame, side });
    gateway.device.sent.length = 0;
    gateway.device.inject(frame, side);
    gateway.datapath.runBatch(0);
    assert.equal(gateway.device.sent.length, 1, JSON.stringify(gateway.counters()));
    const sent = gateway.device.sent[0]!;
    output[sent.interface as 0 | 1].push(sent.bytes);
    return sent.bytes;
  };
  for (let index = 0; index < CLIENT_PORTS; index++) {
    const client = `198.51.100.${2 + random.below(100)}`;
    const clientPort = 20_000 + index;
    const protocol = random.below(2) === 0 ? "tcp" : "udp";
    const flow: Flow = {
      protocol,
      client,
      clientPort,
      replyAddress: client,
      replyPort: clientPort,
    };
    const sent = push(clientFrame(flow, random, SYN), 0);
    const view = new DataView(sent.buffer, sent.byteOffset + 14);
    const l4At = (view.getUint8(0) & 0xf) * 4;
    flow.replyAddress = addressText(view.getUint32(12));
    flow.replyPort = view.getUint16(l4At);
    push(backendFrame(flow, random, SYN | ACK), 1);
    push(clientFrame(flow, random, ACK), 0);
    flows.push(flow);
  }
  while (input.length < frames) {
    const flow = flows[random.below(flows.length)]!;
    const flags = random.below(2) === 0 ? ACK : ACK | PSH;
    if (random.below(2) === 0) push(clientFrame(flow, random, flags), 0);
    else push(backendFrame(flow, random, flags), 1);
  }
  for (const flow of flows) push(clientFrame(flow, random, FIN | ACK), 0);
  gateway.checkLaw();
  gateway.close();
  return { input, output, flows };
}

/** nftables rules with the very SNAT addresses and ports that the fast path chose. */
function rules(mode: Mode, flows: readonly Flow[]): string {
  const snat = (protocol: string): string => {
    const elements = flows
      .filter((flow) => flow.protocol === protocol)
      .map(
        (flow) => `${flow.client} . ${flow.clientPort} : ${flow.replyAddress} . ${flow.replyPort}`,
      );
    return `ip protocol ${protocol} snat ip to ip saddr . ${protocol} sport map { ${elements.join(", ")} }`;
  };
  return `
table ip peer {
  chain pre {
    type nat hook prerouting priority dstnat;
    ip daddr ${VIP} tcp dport 80 dnat to ${BACKEND}:8080
    ip daddr ${VIP} udp dport 80 dnat to ${BACKEND}:8080
  }
  ${
    mode === "full-nat"
      ? `chain post {
    type nat hook postrouting priority srcnat;
    ${snat("tcp")}
    ${snat("udp")}
  }`
      : ""
  }
}
`;
}

/** A whole gateway in the kernel's namespace, and the secret by which it chooses ports. */
async function startGateway(
  namespace: string,
  directory: string,
  mode: Mode,
): Promise<{ readonly stop: () => Promise<unknown>; readonly secret: readonly [number, number] }> {
  const state = `/dev/shm/headgate-test-${process.pid}-same.${mode}`;
  const file = path.join(directory, "headgate.yaml");
  const more = [
    `flows: { capacity: 1024, stateFile: ${state} }`,
    "limits: { services: 4, backends: 8, hashSlots: 66000 }",
    `admin: { socket: ${directory}/admin.sock }`,
  ];
  writeFileSync(file, yaml(mode, "xdp", more.join("\n")));
  const argv = [process.execPath, gatewayProgram(), "run", "-c", file];
  const child = start(["ip", "netns", "exec", namespace, ...argv]);
  await child.waitLine(/"event":"started"/);
  const words = new Int32Array(new Uint8Array(readFileSync(state).subarray(0, 4096)).buffer);
  return {
    secret: [words[H_SECRET]!, words[H_SECRET + 1]!],
    stop: async () => {
      await child.stop("SIGTERM");
      rmSync(state, { force: true });
    },
  };
}

const PEERS = ["nftables", "xdp"] as const satisfies Peer[];
const MODES = ["nat", "full-nat"] as const satisfies Mode[];
const CASES = PEERS.flatMap((peer) => MODES.map((mode) => ({ peer, mode })));

for (const { peer, mode } of CASES) {
  test(`${mode}: 10,000 random frames leave ${peer} and the fast path with the same bytes`, {
    skip: SKIP_UNLESS_ROOT,
    timeout: 120_000,
  }, async () => {
    const seed = Number(process.env["HEADGATE_SEED"] ?? Date.now() & 0x3fffffff);
    console.log(`seed ${seed}`);
    const tag = `hgn${process.pid}${peer[0]}${mode === "nat" ? "n" : "f"}`;
    const directory = mkdtempSync(path.join(os.tmpdir(), "headgate-nft-"));
    const sh = (command: string): string =>
      execFileSync("sh", ["-ec", command], { encoding: "utf8" });
    let gateway: Awaited<ReturnType<typeof startGateway>> | null = null;
    const names = { client: `${tag}c`, kernel: `${tag}k`, server: `${tag}s` };
    try {
      for (const name of Object.values(names))
        sh(`ip netns add ${name}; ip -n ${name} link set lo up`);
      sh(`ip -n ${names.client} link add eth0 type veth peer name eth0 netns ${names.kernel}`);
      sh(`ip -n ${names.server} link add eth0 type veth peer name eth1 netns ${names.kernel}`);
      sh(`ip -n ${names.client} link set eth0 address ${CLIENT_MAC} up`);
      sh(`ip -n ${names.server} link set eth0 address ${BACKEND_MAC} up`);
      sh(`ip -n ${names.kernel} link set eth0 address ${GATEWAY_MACS[0]} up`);
      sh(`ip -n ${names.kernel} link set eth1 address ${GATEWAY_MACS[1]} up`);
      for (const [namespace, device] of [
        [names.client, "eth0"],
        [names.server, "eth0"],
        [names.kernel, "eth0"],
        [names.kernel, "eth1"],
      ]) {
        sh(
          `ip netns exec ${namespace} ethtool -K ${device} tx off gro off >/dev/null 2>&1 || true`,
        );
        sh(`ip netns exec ${namespace} sysctl -qw net.ipv6.conf.${device}.disable_ipv6=1`);
      }
      sh(`ip -n ${names.kernel} addr add 198.51.100.1/24 dev eth0`);
      sh(`ip -n ${names.kernel} addr add 10.20.0.1/24 dev eth1`);
      const k = `ip netns exec ${names.kernel}`;
      sh(
        `ip -n ${names.kernel} neigh replace ${BACKEND} lladdr ${BACKEND_MAC} dev eth1 nud permanent`,
      );
      let secret: readonly [number, number] = [0x12345678, 0x0badcafe];
      if (peer === "xdp") {
        gateway = await startGateway(names.kernel, directory, mode);
        secret = gateway.secret;
      }
      const { input, output, flows } = throughFastPath(mode, seed, 10_000, secret);
      if (peer === "nftables") {
        sh(
          `${k} sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0 net.ipv4.conf.eth1.rp_filter=0`,
        );
        writeFileSync(path.join(directory, "rules.nft"), rules(mode, flows));
        sh(`${k} nft -f ${directory}/rules.nft`);
        // Sequence numbers are random here, so the window check has to be off.
        sh(
          `${k} sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=1 net.netfilter.nf_conntrack_tcp_ignore_invalid_rst=1`,
        );
      }
      for (const client of new Set(flows.map((flow) => flow.client))) {
        sh(
          `ip -n ${names.kernel} neigh replace ${client} lladdr ${CLIENT_MAC} dev eth0 nud permanent`,
        );
      }
      // The kernels at both ends must not answer what was never theirs.
      for (const name of [names.client, names.server]) {
        sh(
          `ip netns exec ${name} nft 'table netdev quiet { chain in { type filter hook ingress device "eth0" priority 0; policy drop; }; }'`,
        );
      }
      const observe = (name: string, file: string, source: string) =>
        start([
          "ip",
          "netns",
          "exec",
          name,
          process.execPath,
          path.join(labProgram(""), "..", "test", "support", "observer-main.js"),
          "eth0",
          file,
          `ether src ${source}`,
          String(64 << 20),
        ]);
      const files = [
        path.join(directory, "client.pcap"),
        path.join(directory, "server.pcap"),
      ] as const;
      const observers = [
        observe(names.client, files[0], GATEWAY_MACS[0]),
        observe(names.server, files[1], GATEWAY_MACS[1]),
      ];
      await Promise.all(observers.map((observer) => observer.waitLine(/^ready$/)));

      const replay = async (side: 0 | 1, frames: readonly Uint8Array[]): Promise<void> => {
        const file = path.join(directory, "in.pcap");
        const writer = createPcap(file, LINK_ETHERNET);
        for (const frame of frames) writer.write(frame, 0n);
        writer.close();
        const name = side === 0 ? names.client : names.server;
        const replayer = path.join(PROJECT_ROOT, "lab/tools/replay.py");
        await run(["ip", "netns", "exec", name, "/usr/bin/python3", replayer, file, "eth0"], {
          timeoutMs: 60_000,
        });
      };
      // All first frames, all second ones, all third ones: then every connection stands, and the
      // order between the two sides does not matter any more.
      const handshakes = input.slice(0, 3 * CLIENT_PORTS);
      for (const phase of [0, 1, 2]) {
        const frames = handshakes.filter((_, index) => index % 3 === phase).map((one) => one.frame);
        await replay(phase === 1 ? 1 : 0, frames);
      }
      for (const side of [0, 1] as const) {
        await replay(
          side,
          input
            .slice(handshakes.length)
            .filter((one) => one.side === side)
            .map((one) => one.frame),
        );
      }
      await new Promise((resolve) => setTimeout(resolve, 300));
      for (const observer of observers)
        assert.equal((await observer.stop("SIGTERM")).code, 0, observer.lines.join("\n"));
      const hex = (frames: Iterable<Uint8Array>): string[] =>
        [...frames].map((frame) => Buffer.from(frame).toString("hex")).sort();
      for (const side of [0, 1] as const) {
        const captured = [...openPcap(files[side])]
          .map((frame) => frame.bytes)
          .filter((bytes) => bytes[12] === 8 && bytes[13] === 0);
        assert.equal(captured.length, output[side].length, `frames that left on side ${side}`);
        assert.deepEqual(hex(captured), hex(output[side]));
      }
      console.log(
        `${mode} ${peer}: ${input.length} frames in, ${output[0].length + output[1].length} compared`,
      );
    } finally {
      await gateway?.stop();
      for (const name of Object.values(names)) {
        try {
          sh(`ip netns del ${name}`);
        } catch {
          // It was never made.
        }
      }
      rmSync(directory, { recursive: true, force: true });
    }
  });
}
