import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import { createPcap, LINK_ETHERNET, openPcap } from "../../src/device/pcap.ts";
import { ACK, FIN, PSH, SYN } from "../support/frames.ts";
import { labProgram, PROJECT_ROOT, SKIP_UNLESS_ROOT } from "../support/lab.ts";
import { createMemoryGateway, GATEWAY_MACS } from "../support/memory-gateway.ts";
import { frameOf, see6, tcp6, udp6 } from "../support/packets6.ts";
import { run, start } from "../support/processes.ts";

/**
 * As nftables-same-bytes.test.ts, over IPv6: the same frames through the kernel's NAT66 and through the
 * fast path in memory leave with the same bytes. Documented differences: none.
 */
const CLIENT_PORTS = 200;
const FRAMES = 3000;
const VIP = "2001:db8:ff::10";
const BACKEND = "2001:db8:2::11";
const BACKEND_MAC = "02:00:00:00:00:11";
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
function randomBody(random: ReturnType<typeof createRandom>) {
  const sizes = [0, 1, 2, 7, 18, 64, 513, 1200, 1401];
  const data = Uint8Array.from({ length: sizes[random.below(sizes.length)]! }, () =>
    random.below(256),
  );
  const pad: [number, number[]] = [60, [0, 0, 1, 4, 0, 0, 0, 0]];
  return {
    data,
    ip: {
      trafficClass: random.below(256),
      flowLabel: random.below(0x100000),
      hopLimit: 2 + random.below(254),
      extensions: random.below(8) === 0 ? [pad] : [],
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
      ? tcp6({
          ...ends,
          flags,
          sequence: random.next32(),
          acknowledgement: random.next32(),
          data: flags === SYN ? [] : data,
          ip,
        })
      : udp6({ ...ends, data, ip });
  return frameOf(packet, { destination: GATEWAY_MACS[0], source: CLIENT_MAC });
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
      ? tcp6({
          ...ends,
          flags,
          sequence: random.next32(),
          acknowledgement: random.next32(),
          data: flags === (SYN | ACK) ? [] : data,
          ip,
        })
      : udp6({ ...ends, data, ip });
  return frameOf(packet, { destination: GATEWAY_MACS[1], source: BACKEND_MAC });
}

type Mode = "nat" | "full-nat";

function yaml(mode: Mode): string {
  return `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
snat: { addresses: ['2001:db8:2::100-2001:db8:2::103'], ports: 1024-65535 }
services:
  - name: all
    vip: '${VIP}'
    port: 80
    protocol: [tcp, udp]
    mode: ${mode}
    scheduler: rr
    backends: [{ address: '${BACKEND}', port: 8080 }]
`;
}

/** Frames of both directions, in order, with the side they come in on, and what the fast path sends. */
function throughFastPath(
  mode: Mode,
  seed: number,
  frames: number,
): {
  input: { frame: Uint8Array; side: 0 | 1 }[];
  output: [Uint8Array[], Uint8Array[]];
  flows: Flow[];
} {
  const random = createRandom(seed);
  const gateway = createMemoryGateway({ yaml: yaml(mode) });
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
    const client = `2001:db8:1::${(2 + random.below(100)).toString(16)}`;
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
    const seen = see6(sent.subarray(14));
    flow.replyAddress = seen.source;
    flow.replyPort = seen.sourcePort;
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
    return `meta l4proto ${protocol} snat ip6 to ip6 saddr . ${protocol} sport map { ${elements.join(", ")} }`;
  };
  return `
table ip6 peer {
  chain pre {
    type nat hook prerouting priority dstnat;
    ip6 daddr ${VIP} tcp dport 80 dnat to [${BACKEND}]:8080
    ip6 daddr ${VIP} udp dport 80 dnat to [${BACKEND}]:8080
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

for (const mode of ["nat", "full-nat"] as const) {
  test(`${mode}: ${FRAMES} random IPv6 frames leave nftables and the fast path with the same bytes`, {
    skip: SKIP_UNLESS_ROOT,
    timeout: 120_000,
  }, async () => {
    const seed = Number(process.env["HEADGATE_SEED"] ?? Date.now() & 0x3fffffff);
    console.log(`seed ${seed}`);
    const tag = `hgn${process.pid}6${mode === "nat" ? "n" : "f"}`;
    const directory = mkdtempSync(path.join(os.tmpdir(), "headgate-nft-"));
    const sh = (command: string): string =>
      execFileSync("sh", ["-ec", command], { encoding: "utf8" });
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
        const disabled = namespace === names.kernel ? 0 : 1;
        sh(
          `ip netns exec ${namespace} sysctl -qw net.ipv6.conf.${device}.disable_ipv6=${disabled} net.ipv6.conf.${device}.accept_dad=0`,
        );
      }
      sh(`ip -n ${names.kernel} addr add 2001:db8:1::1/64 dev eth0 nodad`);
      sh(`ip -n ${names.kernel} addr add 2001:db8:2::1/64 dev eth1 nodad`);
      const k = `ip netns exec ${names.kernel}`;
      sh(
        `ip -n ${names.kernel} neigh replace ${BACKEND} lladdr ${BACKEND_MAC} dev eth1 nud permanent`,
      );
      const { input, output, flows } = throughFastPath(mode, seed, FRAMES);
      sh(`${k} sysctl -qw net.ipv6.conf.all.forwarding=1`);
      writeFileSync(path.join(directory, "rules.nft"), rules(mode, flows));
      sh(`${k} nft -f ${directory}/rules.nft`);
      // Sequence numbers are random here, so the window check has to be off.
      sh(
        `${k} sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=1 net.netfilter.nf_conntrack_tcp_ignore_invalid_rst=1`,
      );
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
          // What the kernel says on its own account: router and listener discovery.
          .filter((bytes) => bytes[12] === 0x86 && bytes[20] !== 58 && bytes[20] !== 0);
        assert.equal(captured.length, output[side].length, `frames that left on side ${side}`);
        assert.deepEqual(hex(captured), hex(output[side]));
      }
      console.log(
        `${mode}: ${input.length} frames in, ${output[0].length + output[1].length} compared`,
      );
    } finally {
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
