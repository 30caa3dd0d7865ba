import assert from "node:assert/strict";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { createRandom, type Random } from "../../src/base/random.ts";
import { H_SECRET } from "../../src/state/layout.ts";
import { ACK, FIN, PSH, SYN } from "../support/frames.ts";
import { gatewayProgram, SKIP_UNLESS_ROOT } from "../support/lab.ts";
import { createMemoryGateway, GATEWAY_MACS } from "../support/memory-gateway.ts";
import { start } from "../support/processes.ts";
import { type Family, IPV4, IPV6 } from "./same-bytes-family.ts";
import { CLIENT_MAC, createSameBytesLab, type SameBytesLab } from "./same-bytes-lab.ts";

/**
 * The same frames through the kernel's NAT (nftables) and through the fast path, and through a whole
 * gateway on AF_XDP, in both families.
 *
 * Random valid frames go in on one side; what comes out of the other is captured by libpcap and
 * compared with what the fast path makes of the same frames in memory. MACs are given the same
 * values on both, so whole frames compare. Documented differences: none.
 */
const CLIENTS = 100;
const SECRET = [0x12345678, 0x0badcafe] as const;

type Mode = "nat" | "full-nat";

interface Case {
  readonly family: Family;
  /** Who handles the frames, beside the fast path in memory. */
  readonly peer: "nftables" | "xdp";
  readonly mode: Mode;
  readonly flows: number;
  readonly frames: number;
}

const CASES: readonly Case[] = (["nat", "full-nat"] as const).flatMap((mode) => [
  { family: IPV4, peer: "nftables", mode, flows: 400, frames: 10_000 },
  { family: IPV4, peer: "xdp", mode, flows: 400, frames: 10_000 },
  { family: IPV6, peer: "nftables", mode, flows: 200, frames: 3000 },
]);

interface Flow {
  readonly protocol: "tcp" | "udp";
  readonly client: string;
  readonly clientPort: number;
  /** Where replies go: the client, or a SNAT address and port. */
  replyAddress: string;
  replyPort: number;
}

function clientFrame(family: Family, flow: Flow, random: Random, flags: number): Uint8Array {
  const { client: source, clientPort: sourcePort, protocol } = flow;
  const ends = { source, sourcePort, destination: family.vip, destinationPort: 80 };
  const macs = { destination: GATEWAY_MACS[0], source: CLIENT_MAC };
  return family.frame(protocol, ends, flags, random, macs);
}

function backendFrame(family: Family, flow: Flow, random: Random, flags: number): Uint8Array {
  const { replyAddress: destination, replyPort: destinationPort, protocol } = flow;
  const ends = { source: family.backend, sourcePort: 8080, destination, destinationPort };
  const macs = { destination: GATEWAY_MACS[1], source: family.backendMac };
  return family.frame(protocol, ends, flags, random, macs);
}

function yaml(family: Family, mode: Mode, type: "packet" | "xdp" = "packet", more = ""): string {
  return `
version: 1
device: { type: ${type}, interfaces: [eth0, eth1] }
${more}
snat: { addresses: ["${family.snat}"], ports: 1024-65535 }
services:
  - name: all
    vip: "${family.vip}"
    port: 80
    protocol: [tcp, udp]
    mode: ${mode}
    scheduler: rr
    backends: [{ address: "${family.backend}", port: 8080 }]
`;
}

interface Passed {
  /** Frames of both directions, in order, with the side they come in on. */
  readonly input: readonly { readonly frame: Uint8Array; readonly side: 0 | 1 }[];
  /** What the fast path sends out of each side. */
  readonly output: readonly [Uint8Array[], Uint8Array[]];
  readonly flows: readonly Flow[];
}

function throughFastPath(
  { family, mode, flows: flowCount, frames }: Case,
  seed: number,
  secret: readonly [number, number],
): Passed {
  const random = createRandom(seed);
  const gateway = createMemoryGateway({ yaml: yaml(family, mode), slotBytes: 2048, secret });
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
  for (let index = 0; index < flowCount; index++) {
    const client = family.client(random.below(CLIENTS));
    const clientPort = 20_000 + index;
    const protocol = random.below(2) === 0 ? "tcp" : "udp";
    const reply = { replyAddress: client, replyPort: clientPort };
    const flow: Flow = { protocol, client, clientPort, ...reply };
    const source = family.sourceOf(push(clientFrame(family, flow, random, SYN), 0));
    flow.replyAddress = source.address;
    flow.replyPort = source.port;
    push(backendFrame(family, flow, random, SYN | ACK), 1);
    push(clientFrame(family, flow, random, ACK), 0);
    flows.push(flow);
  }
  while (input.length < frames) {
    const flow = flows[random.below(flows.length)]!;
    const flags = random.below(2) === 0 ? ACK : ACK | PSH;
    if (random.below(2) === 0) push(clientFrame(family, flow, random, flags), 0);
    else push(backendFrame(family, flow, random, flags), 1);
  }
  for (const flow of flows) push(clientFrame(family, flow, random, FIN | ACK), 0);
  gateway.checkLaw();
  gateway.close();
  return { input, output, flows };
}

/** nftables rules with the very SNAT addresses and ports that the fast path chose. */
function rules({ family, mode }: Case, flows: readonly Flow[]): string {
  const ip = family.version === 4 ? "ip" : "ip6";
  const backend = family.version === 4 ? family.backend : `[${family.backend}]`;
  const snat = (protocol: string): string => {
    const elements = flows
      .filter((flow) => flow.protocol === protocol)
      .map(
        (flow) => `${flow.client} . ${flow.clientPort} : ${flow.replyAddress} . ${flow.replyPort}`,
      );
    return `meta l4proto ${protocol} snat ${ip} to ${ip} saddr . ${protocol} sport map { ${elements.join(", ")} }`;
  };
  const post = `chain post {
    type nat hook postrouting priority srcnat;
    ${snat("tcp")}
    ${snat("udp")}
  }`;
  return `
table ${ip} peer {
  chain pre {
    type nat hook prerouting priority dstnat;
    ${ip} daddr ${family.vip} tcp dport 80 dnat to ${backend}:8080
    ${ip} daddr ${family.vip} udp dport 80 dnat to ${backend}:8080
  }
  ${mode === "full-nat" ? post : ""}
}
`;
}

/** A whole gateway in the kernel's namespace, and the secret by which it chooses ports. */
async function startGateway(lab: SameBytesLab, { family, mode }: Case) {
  const state = `/dev/shm/headgate-test-${process.pid}-same.${mode}`;
  const file = path.join(lab.directory, "headgate.yaml");
  const more = [
    `flows: { capacity: 1024, stateFile: ${state} }`,
    "limits: { services: 4, backends: 8, hashSlots: 66000 }",
    `admin: { socket: ${lab.directory}/admin.sock }`,
  ];
  writeFileSync(file, yaml(family, mode, "xdp", more.join("\n")));
  const argv = [process.execPath, gatewayProgram(), "run", "-c", file];
  const child = start(["ip", "netns", "exec", lab.kernel, ...argv]);
  await child.waitLine(/"event":"started"/);
  const words = new Int32Array(new Uint8Array(readFileSync(state).subarray(0, 4096)).buffer);
  return {
    secret: [words[H_SECRET]!, words[H_SECRET + 1]!] as const,
    stop: async () => {
      await child.stop("SIGTERM");
      rmSync(state, { force: true });
    },
  };
}

function loadRules(lab: SameBytesLab, one: Case, flows: readonly Flow[]): void {
  lab.inKernel(`sysctl -qw ${one.family.forwards}`);
  writeFileSync(path.join(lab.directory, "rules.nft"), rules(one, flows));
  lab.inKernel(`nft -f ${lab.directory}/rules.nft`);
  // Sequence numbers are random here, so the window check has to be off.
  const keys = ["tcp_be_liberal=1", "tcp_ignore_invalid_rst=1"];
  lab.inKernel(`sysctl -qw ${keys.map((key) => `net.netfilter.nf_conntrack_${key}`).join(" ")}`);
}

/**
 * All first frames, all second ones, all third ones: then every connection stands, and the order
 * between the two sides does not matter any more.
 */
async function replayAll(lab: SameBytesLab, { input }: Passed, flows: number): Promise<void> {
  const handshakes = input.slice(0, 3 * flows);
  for (const phase of [0, 1, 2]) {
    const frames = handshakes.filter((_, index) => index % 3 === phase).map((one) => one.frame);
    await lab.replay(phase === 1 ? 1 : 0, frames);
  }
  const rest = input.slice(handshakes.length);
  for (const side of [0, 1] as const) {
    const frames = rest.filter((one) => one.side === side).map((one) => one.frame);
    await lab.replay(side, frames);
  }
}

const sortedHex = (frames: readonly Uint8Array[]): string[] =>
  frames.map((frame) => Buffer.from(frame).toString("hex")).sort();

for (const one of CASES) {
  const { family, peer, mode, frames } = one;
  const title = `IPv${family.version} ${mode}: ${frames} random frames leave ${peer} and the fast path with the same bytes`;
  test(title, { skip: SKIP_UNLESS_ROOT, timeout: 120_000 }, async () => {
    const seed = Number(process.env["HEADGATE_SEED"] ?? Date.now() & 0x3fffffff);
    console.log(`seed ${seed}`);
    const tag = `hgn${process.pid}${family.version}${peer[0]}${mode[0]}`;
    const lab = createSameBytesLab(tag, family);
    let gateway: Awaited<ReturnType<typeof startGateway>> | null = null;
    try {
      if (peer === "xdp") gateway = await startGateway(lab, one);
      const passed = throughFastPath(one, seed, gateway?.secret ?? SECRET);
      if (peer === "nftables") loadRules(lab, one, passed.flows);
      lab.addClients(new Set(passed.flows.map(({ client }) => client)));
      await lab.observe();
      await replayAll(lab, passed, one.flows);
      const captured = await lab.captured();
      for (const side of [0, 1] as const) {
        const expected = passed.output[side];
        assert.equal(captured[side].length, expected.length, `frames that left on side ${side}`);
        assert.deepEqual(sortedHex(captured[side]), sortedHex(expected));
      }
      const compared = captured[0].length + captured[1].length;
      console.log(
        `IPv${family.version} ${mode} ${peer}: ${passed.input.length} frames in, ${compared} compared`,
      );
    } finally {
      await gateway?.stop();
      lab.stop();
    }
  });
}
