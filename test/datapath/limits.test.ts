import assert from "node:assert/strict";
import { test } from "node:test";
import { parseConfig } from "../../src/control/config/load.ts";
import { type Room, roomProblems } from "../../src/control/config/room-keys.ts";
import { clientHostBits, ownerPortMask } from "../../src/control/region-size.ts";
import { C_REFUSED } from "../../src/datapath/counters.ts";
import {
  REFUSED_BACKENDS,
  REFUSED_CONNECTIONS,
  REFUSED_SOURCE_RATE,
} from "../../src/datapath/verdict.ts";
import { OWNER_ADDRESS_ONLY, OWNER_PORT_COUNTS, ownerHostBits } from "../../src/flow/owner.ts";
import { H_SWEEP_REQUESTED } from "../../src/state/layout.ts";
import { ACK, RST, SYN, tcpPacket, udpPacket } from "../support/frames.ts";
import { tcpPacket6 } from "../support/frames6.ts";
import {
  AdmissionBench,
  BACKEND,
  CLIENT,
  configOf,
  lineOf,
  TCP,
  UDP,
  VIP,
} from "./admission-bench.ts";

const syn = (port: number, source: string = CLIENT): Uint8Array =>
  tcpPacket({ ...TCP, source, sourcePort: port, flags: SYN });
const limited = (limits: string): AdmissionBench =>
  new AdmissionBench({ yaml: configOf({ more: `limits: ${limits},` }) });

test("connections: new ones above the limit are refused, and let in when others have ended", () => {
  const bench = limited("{ connections: 3 }");
  for (let port = 1; port <= 3; port++) assert.equal(bench.client(syn(port)).length, 1);
  assert.deepEqual(bench.client(syn(4)), []);
  assert.equal(bench.client(syn(3)).length, 1, "a flow that is there goes on");
  assert.equal(bench.count("connections_limited"), 1);
  assert.equal(bench.counter(C_REFUSED + REFUSED_CONNECTIONS), 1);
  // Other services have limits of their own.
  assert.equal(bench.client(udpPacket({ ...UDP, data: [1] })).length, 1);
  const reply = { source: BACKEND, sourcePort: 8080, destination: CLIENT, destinationPort: 1 };
  bench.backend(tcpPacket({ ...reply, flags: RST | ACK, acknowledgement: 2 }));
  for (let ms = 0; ms < 12_000; ms += 500) bench.pause(500);
  assert.equal(bench.client(syn(4)).length, 1);
});

test("connections, refuse: reset answers", () => {
  const bench = limited("{ connections: 1, refuse: reset }");
  bench.client(syn(1));
  assert.match(lineOf(bench.client(syn(2))[0]!), /203\.0\.113\.10:80 > 198\.51\.100\.2:2 tcp.*R/);
  const datagram = { ...UDP, data: [1] };
  bench.client(udpPacket(datagram));
  const [unreachable] = bench.client(udpPacket({ ...datagram, sourcePort: 2 }));
  assert.match(lineOf(unreachable!), /icmp 3\/3/);
});

test("new flows by source: the burst, then the rate, for each prefix by itself", () => {
  const bench = limited("{ newPerSource: { rate: 10, burst: 4, prefix: { ipv4: 24 } } }");
  let port = 1;
  const opened = (source: string, tries: number): number => {
    let count = 0;
    for (let index = 0; index < tries; index++) count += bench.client(syn(port++, source)).length;
    return count;
  };
  assert.equal(opened("192.0.2.1", 3) + opened("192.0.2.200", 3), 4, "one prefix, one burst");
  assert.equal(opened("198.51.100.2", 6), 4);
  bench.pause(250);
  assert.equal(opened("192.0.2.3", 6), 2, "ten a second");
  assert.equal(bench.count("source_rate_limited"), 2 + 2 + 4);
  assert.equal(bench.counter(C_REFUSED + REFUSED_SOURCE_RATE), 8);
});

test("IPv6: lists and sources go by the address, not by what the flow table keeps of it", () => {
  const vip = "2001:db8:ff::10";
  const yaml = `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
services:
  - name: web
    vip: "${vip}"
    port: 80
    protocol: tcp
    access: { deny: ["2001:db8:1:bad::/64"] }
    limits: { newPerSource: { rate: 10, burst: 3 } }
    backends: [{ address: "2001:db8:2::11", port: 8080 }]
`;
  const bench = new AdmissionBench({ yaml });
  let port = 1;
  const opened = (source: string, tries: number): number => {
    let count = 0;
    for (let index = 0; index < tries; index++) {
      const ports = { sourcePort: port++, destinationPort: 80 };
      const syn = tcpPacket6({ source, destination: vip, ...ports, flags: SYN });
      count += bench.client(syn).length;
    }
    return count;
  };
  assert.equal(opened("2001:db8:1:bad::7", 4), 0);
  assert.equal(bench.count("access_denied"), 4);
  assert.equal(opened("2001:db8:1::1", 2) + opened("2001:db8:1::ffff", 2), 3, "one /64");
  assert.equal(opened("2001:db8:1:1::1", 4), 3, "another");
  assert.equal(bench.count("source_rate_limited"), 2);
});

test("packets: those of clients above the rate are dropped, those of backends are not counted", () => {
  const bench = limited("{ packetsPerSecond: 100 }");
  bench.client(syn(1));
  bench.pause(1001);
  const segment = tcpPacket({ ...TCP, sourcePort: 1, flags: ACK });
  let passed = 0;
  for (let index = 0; index < 50; index++) passed += bench.client(segment).length;
  assert.equal(passed, 10, "a tenth of a second's");
  assert.equal(bench.count("packets_limited"), 40);
  const reply = { source: BACKEND, sourcePort: 8080, destination: CLIENT, destinationPort: 1 };
  for (let index = 0; index < 20; index++) {
    assert.equal(bench.backend(tcpPacket({ ...reply, flags: SYN | ACK })).length, 1);
  }
  bench.pause(50);
  passed = 0;
  for (let index = 0; index < 50; index++) passed += bench.client(segment).length;
  assert.equal(passed, 5);
});

test("packets: a reload that brings the limit has the flows counted that were there", () => {
  const bench = new AdmissionBench({ yaml: configOf({}) });
  establish(bench, 1);
  const segment = tcpPacket({ ...TCP, sourcePort: 1, flags: ACK, sequence: 11 });
  for (let index = 0; index < 50; index++) assert.equal(bench.client(segment).length, 1);
  bench.gateway.configure(configOf({ more: "limits: { packetsPerSecond: 100 }," }));
  bench.gateway.views.i32[H_SWEEP_REQUESTED] = 1;
  bench.pause(1001);
  let passed = 0;
  for (let index = 0; index < 50; index++) passed += bench.client(segment).length;
  assert.equal(passed, 10);
  assert.equal(bench.count("packets_limited"), 40);
});

function establish(bench: AdmissionBench, port: number): void {
  const reply = { source: BACKEND, sourcePort: 8080, destination: CLIENT, destinationPort: port };
  bench.client(tcpPacket({ ...TCP, sourcePort: port, flags: SYN, sequence: 10 }));
  const answer = { ...reply, flags: SYN | ACK, sequence: 20, acknowledgement: 11 };
  bench.backend(tcpPacket(answer));
  const last = { ...TCP, sourcePort: port, flags: ACK, sequence: 11, acknowledgement: 21 };
  bench.client(tcpPacket(last));
}

test("perBackend: a full backend gets new flows again at three quarters, and meanwhile the next has them", () => {
  const yaml = `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
services:
  - name: web
    vip: ${VIP}
    port: 80
    protocol: tcp
    scheduler: sh
    limits: { perBackend: { connections: 8 } }
    backends: [{ address: ${BACKEND}, port: 8080 }, { address: 10.20.0.12, port: 8080 }]
`;
  const bench = new AdmissionBench({ yaml });
  const chosen = (port: number, source = CLIENT): string | null => {
    const [sent] = bench.client(syn(port, source));
    return sent === undefined ? null : sent.bytes.subarray(30, 34).join(".");
  };
  // Source hash: one client's flows all go to one backend, as long as it has room.
  const first = chosen(1)!;
  const other = first === BACKEND ? "10.20.0.12" : BACKEND;
  for (let port = 2; port <= 8; port++) assert.equal(chosen(port), first);
  for (let port = 9; port <= 16; port++) assert.equal(chosen(port), other, `port ${port}`);
  assert.equal(chosen(17), null, "both are full");
  assert.equal(bench.count("backends_full"), 1);
  assert.equal(bench.counter(C_REFUSED + REFUSED_BACKENDS), 1);
  const close = (port: number): void => {
    const reply = { source: first, sourcePort: 8080, destination: CLIENT, destinationPort: port };
    bench.backend(tcpPacket({ ...reply, flags: RST | ACK, acknowledgement: 2 }));
    for (let ms = 0; ms < 12_000; ms += 1000) bench.pause(1000);
  };
  close(1);
  assert.equal(chosen(18), null, "seven of eight are more than three quarters");
  close(2);
  assert.equal(chosen(19), first, "six are three quarters");
});

for (const scheduler of ["maglev", "hrw", "sh"]) {
  test(`perBackend: a full backend's flows go to all others, alike on every node (${scheduler})`, () => {
    const listed = [11, 12, 13, 14].map((host) => `{ address: 10.20.0.${host}, port: 8080 }`);
    const nodes = [listed, listed.toReversed()].map((list) => {
      const yaml = `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
services:
  - name: web
    vip: ${VIP}
    port: 80
    protocol: tcp
    scheduler: ${scheduler}
    limits: { perBackend: { connections: 20 } }
    backends: [${list.join(", ")}]
`;
      const bench = new AdmissionBench({ yaml });
      return Array.from({ length: 80 }, (_, index) => {
        const [sent] = bench.client(syn(1000 + index, `198.51.100.${1 + (index % 7)}`));
        return sent?.bytes.subarray(30, 34).join(".") ?? "none";
      });
    });
    assert.deepEqual(nodes[1], nodes[0]);
    const counts = new Map<string, number>();
    for (const to of nodes[0]!) counts.set(to, (counts.get(to) ?? 0) + 1);
    assert.deepEqual([...counts.values()], [20, 20, 20, 20], "nobody is left out");
  });
}

test("maxConnections: each backend has its own, others what the service says; overflow goes on", () => {
  const yaml = `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
services:
  - name: web
    vip: ${VIP}
    port: 80
    protocol: tcp
    scheduler: rr
    backends:
      - { address: ${BACKEND}, port: 8080, maxConnections: 2 }
      - { address: 10.20.0.12, port: 8080, maxConnections: 4 }
      - { address: 10.20.0.13, port: 8080 }
`;
  const bench = new AdmissionBench({ yaml });
  const counts = new Map<string, number>();
  for (let port = 1; port <= 30; port++) {
    const [sent] = bench.client(syn(port));
    const to = sent!.bytes.subarray(30, 34).join(".");
    counts.set(to, (counts.get(to) ?? 0) + 1);
  }
  assert.deepEqual(Object.fromEntries(counts), {
    [BACKEND]: 2,
    "10.20.0.12": 4,
    "10.20.0.13": 24,
  });
  assert.equal(bench.count("backends_full"), 0);
});

test("with workers a client's flows lie together where sources are counted; a reload cannot change that", () => {
  const two = (more: string): string =>
    configOf({ more }).replace("[eth0, eth1]", "[eth0, eth1], workers: 2");
  const without = parseConfig(two(""), "gw.yaml");
  const withSources = parseConfig(two("limits: { newPerSource: { rate: 5 } },"), "gw.yaml");
  assert.equal(ownerPortMask(without), OWNER_PORT_COUNTS);
  assert.equal(ownerPortMask(withSources), OWNER_ADDRESS_ONLY);
  const room: Room = { splices: true, affinity: true, clientsTogether: null };
  const together = { ipv4: 32, ipv6: 64 };
  const [problem] = roomProblems(room, withSources);
  assert.equal(problem!.path, "services[0].limits.newPerSource");
  assert.match(problem!.message, /a restart is needed/);
  assert.deepEqual(roomProblems(room, without), []);
  assert.deepEqual(roomProblems({ ...room, clientsTogether: together }, withSources), []);
  const shorter = parseConfig(two("affinity: { prefix: { ipv4: 24 } },"), "gw.yaml");
  assert.equal(ownerPortMask(shorter), OWNER_ADDRESS_ONLY);
  assert.equal(clientHostBits(shorter), ownerHostBits(24, 128));
  assert.equal(clientHostBits(withSources), ownerHostBits(32, 64));
  const paths = (given: Partial<Room>): string[] =>
    roomProblems({ ...room, ...given }, shorter).map(({ path }) => path);
  assert.deepEqual(paths({ clientsTogether: { ipv4: 24, ipv6: 128 } }), []);
  assert.deepEqual(paths({ clientsTogether: together }).slice(0, 1), [
    "services[0].affinity.prefix.ipv4",
  ]);
  assert.deepEqual(paths({ clientsTogether: null }).slice(0, 1), ["services[0].affinity"]);
  const noTable = roomProblems({ ...room, affinity: false, clientsTogether: null }, shorter);
  assert.match(noTable[0]!.message, /a restart is needed to make room for its clients/);
  const proxied = parseConfig(configOf({ web: "synProxy: { mode: auto }," }), "gw.yaml");
  assert.deepEqual(
    roomProblems({ ...room, splices: false, clientsTogether: together }, proxied).map(
      ({ path }) => path,
    ),
    ["services[0].synProxy.mode"],
  );
});
