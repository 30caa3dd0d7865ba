import assert from "node:assert/strict";
import { test } from "node:test";
import * as counters from "../../src/datapath/counters.ts";
import {
  C_AFFINITY_CREATED,
  C_AFFINITY_EVICTED,
  C_AFFINITY_HITS,
  C_AFFINITY_MOVED,
} from "../../src/datapath/counters.ts";
import { countAffinity, listAffinity } from "../../src/flow/read-affinity.ts";
import {
  ADMIN_DISABLED,
  ADMIN_DRAINED,
  ADMIN_ENABLED,
  B_ADMIN,
  B_EJECTED,
  B_HEALTH,
  B_WEIGHT_OVERRIDE,
  EJECTED_YES,
  HEALTH_DOWN,
  HEALTH_UP,
} from "../../src/service/backend-slots.ts";
import { backendSlotWord, readBackendKey, usedBackendSlots } from "../../src/service/slots.ts";
import { takeOverAffinity } from "../../src/state/affinity-take-over.ts";
import { takeOverFlows } from "../../src/state/take-over.ts";
import { ACK, ethernetFrame, RST, SYN, tcpPacket, udpPacket } from "../support/frames.ts";
import { tcpPacket6 } from "../support/frames6.ts";
import { CLIENT_MAC, GATEWAY_MACS, type MemoryGatewayOptions } from "../support/memory-gateway.ts";
import { AdmissionBench, CLIENT, VIP } from "./admission-bench.ts";

/**
 * Goal: a client's new flows go to the backend that it has, across services of a group, until that one
 * takes no more flows or the time is over.
 * Method: SYNs and datagrams through a whole data plane on frames in memory.
 */

interface Options {
  readonly affinity?: string;
  readonly other?: string;
  /** Last numbers of the backends' addresses. */
  readonly web?: readonly number[];
  readonly tls?: readonly number[];
  readonly more?: string;
}

/** web on 80 and tls on 443, in one group unless the options say else. */
function configOf(options: Options = {}): string {
  const { affinity = "{ timeout: 60s, group: shop }", web = [11, 12, 13, 14], more = "" } = options;
  const { other = affinity, tls = web } = options;
  const backends = (hosts: readonly number[], port: number): string =>
    hosts.map((host) => `{ address: 10.20.0.${host}, port: ${port} }`).join(", ");
  return `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
services:
  - { name: web, vip: ${VIP}, port: 80, protocol: tcp, scheduler: rr, affinity: ${affinity}, ${more} health: { type: tcp },
      backends: [${backends(web, 8080)}] }
  - { name: tls, vip: ${VIP}, port: 443, protocol: tcp, scheduler: rr, affinity: ${other}, health: { type: tcp },
      backends: [${backends(tls, 8443)}] }
`;
}

class Bench extends AdmissionBench {
  private nextPort = 1;

  constructor(options: Partial<MemoryGatewayOptions> & { yaml: string }) {
    super(options);
    this.setAll(B_HEALTH, HEALTH_UP);
  }

  /** Open a connection, and have it answered. @returns "10.20.0.11:8080", or "" */
  open(client = CLIENT, port = 80, isAnswered = true): string {
    const sourcePort = (this.nextPort = (this.nextPort % 60_000) + 1);
    const key = { source: client, destination: VIP, sourcePort, destinationPort: port };
    const [sent] = this.client(tcpPacket({ ...key, flags: SYN }));
    if (sent === undefined) return "";
    const bytes = sent.bytes;
    const backend = [...bytes.subarray(30, 34)].join(".");
    const backendPort = (bytes[36]! << 8) | bytes[37]!;
    this.last = { client, sourcePort, backend, backendPort };
    if (isAnswered) {
      this.answer(SYN | ACK);
      this.client(tcpPacket({ ...key, flags: ACK, acknowledgement: 1 }));
    }
    return `${backend}:${backendPort}`;
  }

  private last = { client: "", sourcePort: 0, backend: "", backendPort: 0 };

  private answer(flags: number): void {
    const { client, sourcePort, backend, backendPort } = this.last;
    const reply = { source: backend, sourcePort: backendPort, destination: client };
    const numbers = { acknowledgement: 1, sequence: (flags & RST) === 0 ? 0 : 1 };
    this.backend(tcpPacket({ ...reply, destinationPort: sourcePort, flags, ...numbers }));
  }

  /** The backend ends the connection that was opened last; its flow is gone after that. */
  end(): void {
    this.answer(RST | ACK);
    for (let ms = 0; ms < 12_000; ms += 1000) this.pause(1000);
    assert.equal(this.live, 0);
  }

  slot(service: string, address: string): number {
    const slot = usedBackendSlots(this.gateway.views).find((it) => {
      const key = readBackendKey(this.gateway.views, it);
      return key?.service === service && key.address === address && !key.sorry;
    });
    assert.ok(slot !== undefined, `${service}/${address}`);
    return backendSlotWord(this.gateway.views, slot);
  }

  /** Change a word of a backend's slots, in one service or in all. */
  set(address: string, word: number, value: number, services = ["web", "tls"]): void {
    for (const service of services)
      this.gateway.views.i32[this.slot(service, address) + word] = value;
    this.gateway.publish();
  }

  setAll(word: number, value: number): void {
    const { views } = this.gateway;
    for (const slot of usedBackendSlots(views))
      views.i32[backendSlotWord(views, slot) + word] = value;
    this.gateway.publish();
  }

  get entries(): number {
    return [...countAffinity(this.gateway.views).values()].reduce((sum, it) => sum + it, 0);
  }
}

const addressOf = (backend: string): string => backend.split(":")[0]!;

test("new flows of a client go to its backend, in each service of the group at its own port", () => {
  const bench = new Bench({ yaml: configOf() });
  const first = bench.open();
  for (let again = 0; again < 5; again++) assert.equal(bench.open(), first);
  const tls = bench.open(CLIENT, 443);
  assert.equal(tls, first.replace("8080", "8443"));
  for (let again = 0; again < 5; again++) assert.equal(bench.open(CLIENT, 443), tls);
  assert.equal(bench.counter(C_AFFINITY_CREATED), 1);
  assert.equal(bench.counter(C_AFFINITY_HITS), 11);
  // Others are balanced as ever: round robin gives four clients the four backends.
  const others = new Set([3, 4, 5, 6].map((host) => bench.open(`198.51.100.${host}`)));
  assert.equal(others.size, 4);
  assert.equal(bench.entries, 5);
});

test("services without a group have clients of their own, their protocols together", () => {
  const yaml = `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
defaults: { affinity: { timeout: 60s }, scheduler: rr }
services:
  - { name: web, vip: ${VIP}, port: 443, protocol: [tcp, udp],
      backends: [{ address: 10.20.0.11 }, { address: 10.20.0.12 }, { address: 10.20.0.13 }] }
  - { name: dns, vip: ${VIP}, port: 53, protocol: udp, affinity: off,
      backends: [{ address: 10.20.0.11 }, { address: 10.20.0.12 }] }
`;
  const bench = new Bench({ yaml });
  const datagram = (source: string, sourcePort: number, destinationPort: number): string => {
    const key = { source, sourcePort, destination: VIP, destinationPort, data: [1] };
    return [...bench.client(udpPacket(key))[0]!.bytes.subarray(30, 34)].join(".");
  };
  bench.open("198.51.100.9", 443);
  const tcp = addressOf(bench.open(CLIENT, 443));
  assert.equal(datagram(CLIENT, 5, 443), tcp);
  assert.equal(datagram(CLIENT, 6, 443), tcp);
  const plain = new Set([1, 2].map((port) => datagram(CLIENT, port, 53)));
  assert.equal(plain.size, 2, "without affinity each flow is balanced");
});

test("the time runs from the end of the last flow, and not while one lives", () => {
  const bench = new Bench({ yaml: configOf() });
  const first = bench.open();
  for (let ms = 0; ms < 300_000; ms += 5000) bench.pause(5000);
  assert.equal(bench.live, 1);
  const entry = listAffinity(bench.gateway.views, {}, 1).entries[0]!;
  assert.deepEqual([entry.flows, entry.answered], [1, true]);
  bench.end();
  for (let ms = 0; ms < 40_000; ms += 1000) bench.pause(1000);
  assert.equal(bench.open(), first, "its minute is not over");
  bench.end();
  for (let ms = 0; ms < 75_000; ms += 1000) bench.pause(1000);
  assert.equal(bench.entries, 0);
  bench.open("198.51.100.9");
  const later = new Set([bench.open(), bench.open(), bench.open()]);
  assert.equal(later.size, 1);
});

test("a SYN that is never answered leaves nothing behind", () => {
  const bench = new Bench({ yaml: configOf() });
  for (let host = 1; host <= 50; host++) bench.open(`192.0.2.${host}`, 80, false);
  assert.equal(bench.entries, 50);
  for (let ms = 0; ms < 40_000; ms += 500) bench.pause(500);
  assert.equal(bench.live, 0);
  assert.equal(bench.entries, 0);
});

// The rows of the table in docs/affinity.md.
const OUT: readonly (readonly [string, (bench: Bench, address: string) => void])[] = [
  ["drained", (bench, address) => bench.set(address, B_ADMIN, ADMIN_DRAINED)],
  ["weight 0", (bench, address) => bench.set(address, B_WEIGHT_OVERRIDE, 0)],
  ["disabled", (bench, address) => bench.set(address, B_ADMIN, ADMIN_DISABLED)],
  ["down", (bench, address) => bench.set(address, B_HEALTH, HEALTH_DOWN)],
  ["ejected", (bench, address) => bench.set(address, B_EJECTED, EJECTED_YES)],
  [
    "removed",
    (bench, address) => {
      const left = [11, 12, 13, 14].filter((host) => `10.20.0.${host}` !== address);
      bench.gateway.configure(configOf({ web: left }));
    },
  ],
];
for (const [what, takeOut] of OUT) {
  test(`a backend that is ${what}: its clients get another one and stay there`, () => {
    const bench = new Bench({ yaml: configOf() });
    const mine = addressOf(bench.open());
    const neighbour = "198.51.100.9";
    const theirs = bench.open(neighbour);
    takeOut(bench, mine);
    const next = bench.open();
    assert.notEqual(addressOf(next), mine);
    assert.notEqual(next, "");
    assert.equal(bench.open(CLIENT, 443), next.replace("8080", "8443"), "the group has moved");
    assert.equal(bench.counter(C_AFFINITY_MOVED), 1);
    assert.equal(bench.open(neighbour), theirs, "nobody else has");
    // It does not go back when the backend does.
    if (what === "removed") bench.gateway.configure(configOf());
    else {
      bench.set(mine, B_ADMIN, ADMIN_ENABLED);
      bench.set(mine, B_WEIGHT_OVERRIDE, -1);
      bench.set(mine, B_HEALTH, HEALTH_UP);
      bench.set(mine, B_EJECTED, 0);
    }
    for (let again = 0; again < 5; again++) assert.equal(bench.open(), next);
  });
}

test("a backend that is full: this flow goes to the next one, the client keeps its own", () => {
  const bench = new Bench({
    yaml: configOf({ more: "limits: { perBackend: { connections: 8 } }," }),
  });
  const first = bench.open();
  for (let flow = 1; flow < 8; flow++) assert.equal(bench.open(), first);
  assert.notEqual(bench.open(), first, "the ninth");
  assert.equal(bench.counter(C_AFFINITY_MOVED), 0);
  assert.equal(bench.open(CLIENT, 443), first.replace("8080", "8443"));
});

test("no backend at all: the sorry server is nobody's backend, and clients find theirs again", () => {
  const sorry = "noBackend: { action: sorry, address: 10.20.0.99, port: 80 },";
  const bench = new Bench({ yaml: configOf({ web: [11, 12], more: sorry }) });
  const first = bench.open();
  bench.setAll(B_HEALTH, HEALTH_DOWN);
  // Flows of the sorry server, to which this bench knows no way.
  bench.open();
  bench.open("198.51.100.77");
  assert.equal(bench.count("no_route"), 2);
  assert.equal(bench.entries, 1);
  bench.setAll(B_HEALTH, HEALTH_UP);
  assert.equal(bench.open(), first);
  assert.equal(bench.counter(C_AFFINITY_MOVED), 0);
});

test("a backup's clients move to the first tier once it is well, the others' have never left", () => {
  const yaml = configOf({ web: [11, 12] }).replaceAll(
    /(10\.20\.0\.12, port: \d+)/g,
    "$1, priority: 1",
  );
  const bench = new Bench({ yaml });
  assert.equal(bench.open(), "10.20.0.11:8080");
  bench.set("10.20.0.11", B_HEALTH, HEALTH_DOWN);
  for (let again = 0; again < 3; again++) assert.equal(bench.open(), "10.20.0.12:8080");
  assert.equal(bench.open(CLIENT, 443), "10.20.0.12:8443");
  bench.set("10.20.0.11", B_HEALTH, HEALTH_UP);
  assert.equal(bench.open(), "10.20.0.11:8080");
  assert.equal(bench.counter(C_AFFINITY_MOVED), 2);
});

test("quic: a connection ID comes first, and neither follows an entry nor makes one", () => {
  const yaml = `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
services:
  - { name: h3, vip: ${VIP}, port: 443, protocol: udp, scheduler: rr, affinity: { timeout: 1m },
      quic: { serverIdBytes: 2 }, udp: { maxAge: 30s },
      backends: [{ address: 10.20.0.11, serverId: "0a0b" }, { address: 10.20.0.12, serverId: "0a0c" }] }
`;
  const bench = new Bench({ yaml });
  let port = 1;
  const send = (data: number[], source = CLIENT, sourcePort = ++port): number => {
    const key = { source, sourcePort, destination: VIP, destinationPort: 443 };
    return bench.client(udpPacket({ ...key, data }))[0]!.bytes[33]!;
  };
  const idOf = (host: number): number[] => [0x40, 0, 0x0a, host, 1, 2, 3, 4];
  const mine = send([1]);
  const other = mine === 11 ? 12 : 11;
  assert.equal(send(idOf(other)), other);
  assert.equal(send(idOf(other), "198.51.100.77"), other);
  assert.equal(bench.entries, 1, "the other client has none");
  assert.equal(send([1]), mine);
  assert.equal(bench.counter(C_AFFINITY_HITS), 1);
  // A flow that gets too old is made anew, where its client is at home.
  for (let ms = 0; ms < 60_000; ms += 5000) {
    bench.pause(5000);
    assert.equal(send([1], CLIENT, 2), mine);
  }
});

test("a SYN that is answered by a cookie makes no entry", () => {
  const bench = new Bench({ yaml: configOf({ more: "synProxy: { mode: on }," }) });
  const key = { source: CLIENT, destination: VIP, sourcePort: 1, destinationPort: 80, flags: SYN };
  const [answer] = bench.client(tcpPacket(key));
  assert.equal(answer!.interface, 0, "back to the client");
  assert.equal(bench.entries, 0);
});

test("where the group's services differ, what only one has is remembered for that one alone", () => {
  // 11 and 12 are web's alone, 21 and 22 tls's; both have 15.
  const bench = new Bench({ yaml: configOf({ web: [11, 12, 15], tls: [21, 22, 15] }) });
  const seen = new Map<string, string>();
  for (let host = 1; host <= 30; host++) {
    const client = `198.51.100.${host}`;
    seen.set(client, bench.open(client));
    if (addressOf(seen.get(client)!) === "10.20.0.15") {
      assert.equal(addressOf(bench.open(client, 443)), "10.20.0.15", "both have it");
    }
  }
  assert.equal(new Set(seen.values()).size, 3);
  const other = new Map([...seen.keys()].map((client) => [client, bench.open(client, 443)]));
  assert.ok(new Set(other.values()).size === 3);
  for (let again = 0; again < 3; again++) {
    for (const [client, backend] of seen) assert.equal(bench.open(client), backend);
    for (const [client, backend] of other) assert.equal(bench.open(client, 443), backend);
  }
});

test("several ports at one address: each service keeps its own choice", () => {
  const yaml = configOf().replace(
    /backends: \[.*8080 \}\]/,
    "backends: [{ address: 10.20.0.11, port: 8080 }, { address: 10.20.0.11, port: 8081 }]",
  );
  const only = yaml.replace(
    /backends: \[.*8443 \}\]/,
    "backends: [{ address: 10.20.0.11, port: 8443 }]",
  );
  const bench = new Bench({ yaml: only });
  const seen = ["198.51.100.3", "198.51.100.4"].map(
    (client) => [client, bench.open(client)] as const,
  );
  assert.equal(new Set(seen.map(([, backend]) => backend)).size, 2);
  for (let again = 0; again < 3; again++) {
    for (const [client, backend] of seen) {
      assert.equal(bench.open(client), backend);
      assert.equal(bench.open(client, 443), "10.20.0.11:8443");
    }
  }
});

test("prefixes: a network's clients have one backend, in IPv4 and IPv6", () => {
  const affinity = "{ timeout: 60s, prefix: { ipv4: 24, ipv6: 56 } }";
  const bench = new Bench({ yaml: configOf({ affinity }) });
  const first = bench.open("198.51.100.2");
  assert.equal(bench.open("198.51.100.250"), first);
  assert.notEqual(bench.open("198.51.101.2"), first);
  const vip = "2001:db8:ff::10";
  const six = new Bench({
    yaml: configOf({ affinity })
      .replaceAll(VIP, `"${vip}"`)
      .replaceAll(/10\.20\.0\.(\d+)/g, '"2001:db8:2::$1"'),
  });
  const open6 = (source: string, sourcePort: number): string => {
    const key = { source, sourcePort, destination: vip, destinationPort: 80, flags: SYN };
    return Buffer.from(six.client(tcpPacket6(key))[0]!.bytes.subarray(38, 54)).toString("hex");
  };
  const backend = open6("2001:db8:1:101::5", 1);
  assert.equal(open6("2001:db8:1:1ff:9::5", 2), backend);
  assert.notEqual(open6("2001:db8:1:201::5", 3), backend);
  assert.equal(six.counter(C_AFFINITY_HITS), 1);
});

test("a reload and a new process: clients stay; what died with the process counts anew", () => {
  const bench = new Bench({ yaml: configOf() });
  const clients = Array.from({ length: 200 }, (_, host) => `198.51.100.${host + 1}`);
  const before = new Map(clients.map((client) => [client, bench.open(client)]));
  // Another name in the middle, another order, another backend: numbers and slots shift.
  bench.gateway.configure(
    configOf({ web: [10, 11, 12, 13, 14, 15] }).replace(
      "services:",
      `services:
  - { name: aaa, vip: ${VIP}, port: 81, protocol: tcp, affinity: { timeout: 1m }, backends: [] }`,
    ),
  );
  for (const [client, backend] of before) assert.equal(bench.open(client), backend);
  assert.equal(bench.counter(C_AFFINITY_MOVED), 0);
  assert.equal(bench.counter(C_AFFINITY_EVICTED), 0);
  const { views } = bench.gateway;
  const seen = listAffinity(views, {}, 1000).entries;
  takeOverFlows(views);
  assert.deepEqual(takeOverAffinity(views, bench.now), {
    affinityKept: 200,
    affinityDropped: 0,
    affinityNoRoom: 0,
  });
  assert.deepEqual(listAffinity(views, {}, 1000).entries, seen, "flows counted, nothing lost");
});

test("100,000 clients, against a Map: each stays, through a drain and a new process", () => {
  const clients = 100_000;
  const yaml = `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
services:
  - { name: dns, vip: ${VIP}, port: 53, protocol: udp, scheduler: rr, affinity: { timeout: 1h },
      backends: [${[11, 12, 13, 14, 15].map((host) => `{ address: 10.20.0.${host} }`).join(", ")}] }
`;
  const size = { affinity: clients, flowCapacity: 1 << 16 };
  const { gateway } = new AdmissionBench({ yaml, size });
  const bytes = gateway.views.u8.length;
  let port = 1;
  /** One datagram of every client, from a port of its own. @returns backends by client */
  const all = (): Uint8Array => {
    const backends = new Uint8Array(clients);
    port++;
    for (let first = 0; first < clients; first += 50) {
      gateway.device.sent.length = 0;
      for (let id = first; id < first + 50; id++) {
        const source = (0x64000000 + id * 7) | 0;
        const key = { source, sourcePort: port, destination: VIP, destinationPort: 53, data: [1] };
        const frame = ethernetFrame(udpPacket(key), {
          destination: GATEWAY_MACS[0],
          source: CLIENT_MAC,
        });
        gateway.device.inject(frame, 0, { vnet: 0, csum: 0 });
      }
      gateway.datapath.runBatch(0);
      assert.equal(gateway.device.sent.length, 50);
      gateway.device.sent.forEach((sent, index) => {
        backends[first + index] = sent.bytes[33]!;
      });
    }
    return backends;
  };
  const have = all();
  assert.deepEqual([...new Set(have)].sort(), [11, 12, 13, 14, 15]);
  const drained = usedBackendSlots(gateway.views).find(
    (slot) => readBackendKey(gateway.views, slot)?.address === "10.20.0.13",
  )!;
  gateway.views.i32[backendSlotWord(gateway.views, drained) + B_ADMIN] = ADMIN_DRAINED;
  gateway.publish();
  const moved = all();
  for (let id = 0; id < clients; id++) {
    if (have[id] === 13) assert.notEqual(moved[id], 13);
    else assert.equal(moved[id], have[id], `client ${id}`);
  }
  takeOverFlows(gateway.views);
  assert.equal(takeOverAffinity(gateway.views, 0).affinityKept, clients);
  gateway.views.i32[backendSlotWord(gateway.views, drained) + B_ADMIN] = ADMIN_ENABLED;
  gateway.publish();
  assert.deepEqual(all(), moved, "nobody comes back or goes");
  assert.equal([...countAffinity(gateway.views).values()][0], clients);
  assert.equal(gateway.views.u8.length, bytes);
  const counter = (index: number): number =>
    gateway.views.f64[(gateway.views.layout.counters.at >> 3) + index]!;
  assert.deepEqual([counter(C_AFFINITY_CREATED), counter(C_AFFINITY_EVICTED)], [clients, 0]);
});

test("counters have places of their own", () => {
  const places = Object.entries(counters)
    .filter(([name]) => /^C_/.test(name) && name !== "C_DROPS" && name !== "C_REFUSED")
    .map(([, place]) => place);
  assert.equal(new Set(places).size, places.length);
});
