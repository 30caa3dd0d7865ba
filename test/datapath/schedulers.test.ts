import assert from "node:assert/strict";
import { test } from "node:test";
import { SYN, tcpPacket, udpPacket } from "../support/frames.ts";
import { tcpPacket6 } from "../support/frames6.ts";
import { AdmissionBench, CLIENT, VIP } from "./admission-bench.ts";

/**
 * Goal: schedulers that count see a flow from its first packet on, so that a burst is spread before
 * any backend has answered, over both families; UDP without answers too.
 */

const VIP6 = "2001:db8:ff::10";
const WEIGHTS = [3, 2, 1];

function benchOf(scheduler: string): AdmissionBench {
  const list = (prefix: string): string =>
    WEIGHTS.map(
      (weight, at) => `{ address: "${prefix}${11 + at}", port: 8080, weight: ${weight} }`,
    ).join(", ");
  return new AdmissionBench({
    yaml: `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
defaults: { scheduler: ${scheduler}, tableSize: 251 }
services:
  - { name: web, vip: ${VIP}, port: 80, protocol: [tcp, udp], backends: [${list("10.20.0.")}] }
  - { name: six, vip: "${VIP6}", port: 80, protocol: tcp, backends: [${list("2001:db8:2::")}] }
`,
  });
}

/** How many of the packets each backend got; those to none at the end. */
function countsOf(bench: AdmissionBench, packets: readonly Uint8Array[]): number[] {
  const counts = [0, 0, 0, 0];
  for (const packet of packets) {
    const [sent] = bench.client(packet);
    const isIpv6 = packet[0]! >>> 4 === 6;
    const last = sent?.bytes[isIpv6 ? 14 + 39 : 14 + 19] ?? 0;
    // ::11 to ::13 are written in hexadecimal.
    const at = [11, 12, 13].indexOf(isIpv6 ? last - 6 : last);
    counts[at < 0 ? 3 : at]!++;
  }
  return counts;
}

const times = (count: number, one: (port: number) => Uint8Array): Uint8Array[] =>
  Array.from({ length: count }, (_, index) => one(1000 + index));
const ends = (sourcePort: number) => ({
  ...{ source: CLIENT, destination: VIP, sourcePort, destinationPort: 80 },
});
const ends6 = (port: number) => ({ ...ends(port), source: "2001:db8:1::2", destination: VIP6 });

for (const [scheduler, wanted] of [
  ["lc", [20, 20, 20, 0]],
  ["wlc", [30, 20, 10, 0]],
  ["sed", [30, 20, 10, 0]],
  ["nq", [30, 20, 10, 0]],
  ["ovf", [4, 3, 2, 51]],
] as const) {
  test(`${scheduler}: a burst of SYNs is spread before any handshake is done`, () => {
    const bench = benchOf(scheduler);
    const syns = times(60, (port) => tcpPacket({ ...ends(port), flags: SYN }));
    assert.deepEqual(countsOf(bench, syns), wanted);
    const syns6 = times(60, (port) => tcpPacket6({ ...ends6(port), flags: SYN }));
    assert.deepEqual(countsOf(bench, syns6), wanted);
  });
}

test("sed and nq: UDP flows that nobody answers do not all go to one backend", () => {
  for (const scheduler of ["sed", "nq"]) {
    const datagrams = times(1500, (port) => udpPacket({ ...ends(port), data: [1] }));
    const [one, two, three] = countsOf(benchOf(scheduler), datagrams);
    // 256 of them weigh as much as the connection to come, so the lightest waits for 512 and 256.
    assert.ok(one! > two! && two! > three! && three! > 0, `${scheduler}: ${one} ${two} ${three}`);
  }
});

test("maglev with maxLoad: a burst of SYNs of one worker stays within the bound", () => {
  const bench = benchOf("maglev, maxLoad: 1.25");
  const counts = [0, 0, 0];
  for (let flow = 0; flow < 300; flow++) {
    const [at] = countsOf(bench, [tcpPacket({ ...ends(1000 + flow), flags: SYN })]).flatMap(
      (count, index) => (count === 0 ? [] : [index]),
    );
    counts[at!]!++;
    const bound = Math.ceil((1.25 * (flow + 1) * WEIGHTS[at!]!) / 6);
    assert.ok(counts[at!]! <= bound, `flow ${flow}: ${counts}`);
  }
});
