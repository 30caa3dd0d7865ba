import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import type { DropList, Status } from "../../src/base/admin-types.ts";
import {
  ACK,
  FIN,
  icmpEcho,
  icmpError,
  ipv4Packet,
  SYN,
  tcpPacket,
  tcpSegment,
  udpDatagram,
} from "../support/frames.ts";
import { createLab, LAB_CLIENT, LAB_VIP, labProgram, SKIP_UNLESS_ROOT } from "../support/lab.ts";
import { httpLoad, startWeb } from "../support/servers.ts";
import { waitFor } from "../support/wait.ts";

/** Packets that no stack builds, sent by npm's raw-socket over a real wire: one drop each, named. */

const ENDS = { source: LAB_CLIENT, destination: LAB_VIP };
const TCP = { ...ENDS, sourcePort: 40_000, destinationPort: 80 };
const UDP = { ...ENDS, sourcePort: 40_000, destinationPort: 53 };

function ip(protocol: number, payload: Uint8Array, more = {}): Uint8Array {
  return ipv4Packet({ ...ENDS, protocol, payload, ...more });
}

function changed(bytes: Uint8Array, at: number, value: number): Uint8Array {
  const copy = bytes.slice();
  copy[at] = value;
  return copy;
}

const ODD: readonly (readonly [reason: string, packet: Uint8Array])[] = [
  ["tcp_flags_invalid", tcpPacket({ ...TCP, flags: SYN | FIN })],
  ["tcp_flags_invalid", tcpPacket({ ...TCP, flags: 0 })],
  ["tcp_header_malformed", ip(6, changed(tcpSegment({ ...TCP, flags: SYN }), 12, 0x40))],
  ["tcp_header_malformed", ip(6, tcpSegment({ ...TCP, flags: SYN }).slice(0, 12))],
  ["udp_header_malformed", ip(17, changed(udpDatagram({ ...UDP, data: [1] }), 5, 200))],
  ["udp_header_malformed", ip(17, Uint8Array.of(1, 2, 3, 4))],
  ["icmp_checksum_wrong", ip(1, changed(icmpEcho(), 9, 0xee))],
  ["icmp_header_malformed", ip(1, Uint8Array.of(8, 0, 0))],
  ["icmp_quote_malformed", ip(1, icmpError({ type: 3, code: 1, quote: [0x45, 0, 0] }))],
  [
    "icmp_no_flow",
    ip(
      1,
      icmpError({
        type: 3,
        code: 1,
        quote: tcpPacket({ ...TCP, source: LAB_VIP, destination: LAB_CLIENT }),
      }),
    ),
  ],
  ["icmp_type_not_handled", ip(1, changed(icmpEcho(), 0, 13), {})],
  ["fragment_not_supported", ip(47, new Uint8Array(24), { fragmentWord: 100 })],
  ["fragment_malformed", ip(17, udpDatagram({ ...UDP, data: [1] }), { fragmentWord: 0x2000 })],
  ["fragment_tiny", ip(6, new Uint8Array(16), { fragmentWord: 0x2000 })],
  ["fragment_tiny", ip(6, new Uint8Array(16), { fragmentWord: 1 })],
  ["fragment_timeout", ip(17, new Uint8Array(16), { fragmentWord: 100 })],
  [
    "ipv4_options_source_route",
    tcpPacket({ ...TCP, flags: SYN, ip: { options: [131, 7, 4, 10, 0, 0, 1, 0] } }),
  ],
  ["no_service", tcpPacket({ ...TCP, destinationPort: 81, flags: SYN })],
  ["no_service", ip(47, Uint8Array.of(0, 0, 8, 0))],
  ["out_of_state", tcpPacket({ ...TCP, flags: ACK })],
];

/** An echo request whose type was changed needs its checksum again. */
function withIcmpChecksum(packet: Uint8Array): Uint8Array {
  const copy = packet.slice();
  copy.set([0, 0], 22);
  let sum = 0;
  for (let at = 20; at < copy.length; at += 2) sum += copy[at]! * 256 + (copy[at + 1] ?? 0);
  sum = (sum % 0xffff) ^ 0xffff;
  copy.set([sum >>> 8, sum & 0xff], 22);
  return copy;
}

for (const device of ["packet", "tun", "xdp"] as const) {
  test(`${device}: every odd packet is one named drop, and the books balance`, {
    skip: SKIP_UNLESS_ROOT,
  }, async (t) => {
    const lab = createLab({ device });
    t.after(() => lab.stop());
    await startWeb(lab);
    const gateway = await lab.startGateway(
      lab.config({
        mode: "nat",
        services: [
          {
            name: "web",
            protocol: "tcp",
            port: 80,
            backendPort: 8080,
            more: { scheduler: "rr", outOfState: "drop" },
          },
          { name: "dns", protocol: "udp", port: 53, backendPort: 5353 },
        ],
      }),
    );
    // A source route never reaches a TUN: the kernel refuses it.
    const odd = ODD.filter(
      ([reason, packet]) =>
        device !== "tun" || (reason !== "ipv4_options_source_route" && packet.length > 0),
    );
    const packets = odd.map(([reason, packet]) =>
      Buffer.from(reason === "icmp_type_not_handled" ? withIcmpChecksum(packet) : packet).toString(
        "hex",
      ),
    );
    const sender = path.join(labProgram(""), "..", "test", "support", "odd-sender-main.js");
    await lab.exec("client", [process.execPath, sender, LAB_VIP, ...packets]);
    const expected: Record<string, number> = {};
    for (const [reason] of odd) expected[reason] = (expected[reason] ?? 0) + 1;
    const drops = async (): Promise<Record<string, number>> => {
      const list = JSON.parse(
        (await gateway.cli(["get", "drops", "-o", "json"])).stdout,
      ) as DropList;
      return Object.fromEntries(
        list.reasons
          .filter(({ reason }) => reason in expected)
          .map(({ reason, count }) => [reason, count]),
      );
    };
    const sum = (counts: Record<string, number>): number =>
      Object.values(counts).reduce((total, count) => total + count, 0);
    await waitFor("the drops", async () => sum(await drops()) >= odd.length);
    assert.deepEqual(await drops(), expected);
    const load = await httpLoad(lab, { requests: 100, concurrency: 8 });
    assert.equal(load.ok, 100, "and real clients go on");
    const { frames } = JSON.parse((await gateway.cli(["status", "-o", "json"])).stdout) as Status;
    assert.equal(
      frames.received,
      frames.forwarded + frames.replied + frames.passed + frames.consumed + frames.dropped,
    );
  });
}
