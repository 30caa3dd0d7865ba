import assert from "node:assert/strict";
import { test } from "node:test";
import { parse } from "yaml";
import { importIpvsadm } from "../../../src/control/import/ipvsadm.ts";
import { fitLimits } from "../../../src/control/import/room.ts";
import { startDraft } from "../../../src/control/import/top.ts";
import { assertNotes, imported, OPTIONS } from "./support.ts";

// What `ipvsadm -Sn` prints (ipvsadm 1.31), as a configuration.

/** A director with web, DNS and a tunnel, as `ipvsadm -Sn` prints it. */
const SAVED = `-A -t 203.0.113.10:80 -s wlc
-a -t 203.0.113.10:80 -r 10.20.0.11:8080 -m -w 10
-a -t 203.0.113.10:80 -r 10.20.0.12:8080 -m -w 0
-A -u 203.0.113.10:53 -s rr -o
-a -u 203.0.113.10:53 -r 10.20.0.21:53 -g -w 1
-A -t [2001:db8:ff::10]:443 -s mh -b mh-fallback,mh-port
-a -t [2001:db8:ff::10]:443 -r [2001:db8:2::11]:443 -i -w 1 --tun-type gue --tun-port 6081 --tun-csum
-A -t 203.0.113.11:0 -s wrr
-a -t 203.0.113.11:0 -r 10.20.0.31:0 -i -w 3
`;

test("every service and server of a saved table", () => {
  const { services, top, notes } = imported(importIpvsadm, SAVED, {
    tunnelSources: ["10.20.0.1", "2001:db8:2::1"],
  });
  assert.deepEqual(notes, []);
  assert.deepEqual(top, {
    version: 1,
    device: { type: "packet", interfaces: ["eth0"] },
    tunnel: {
      source: { ipv4: "10.20.0.1", ipv6: "2001:db8:2::1" },
      gue: { port: 6081, checksum: "computed" },
    },
  });
  assert.deepEqual(services, [
    {
      name: "tcp-203.0.113.10-80",
      vip: "203.0.113.10",
      port: 80,
      protocol: "tcp",
      mode: "nat",
      scheduler: "weighted-least-connections",
      backends: [
        { address: "10.20.0.11", port: 8080, weight: 10 },
        { address: "10.20.0.12", port: 8080, weight: 0 },
      ],
    },
    {
      name: "udp-203.0.113.10-53",
      vip: "203.0.113.10",
      port: 53,
      protocol: "udp",
      mode: "dsr",
      scheduler: "round-robin",
      udp: { perPacket: true },
      backends: [{ address: "10.20.0.21", weight: 1 }],
    },
    {
      name: "tcp-2001-db8-ff-10-443",
      vip: "2001:db8:ff::10",
      port: 443,
      protocol: "tcp",
      mode: "gue",
      scheduler: "maglev",
      backends: [{ address: "2001:db8:2::11", weight: 1 }],
    },
    {
      name: "tcp-203.0.113.11-any",
      vip: "203.0.113.11",
      port: "any",
      protocol: "tcp",
      mode: "ipip",
      scheduler: "weighted-round-robin",
      backends: [{ address: "10.20.0.31", weight: 3 }],
    },
  ]);
});

test("what cannot be carried over is named by its line", () => {
  const text = `# a comment, and an empty line

-A -f 7 -s rr
-a -f 7 -r 10.20.0.11:0 -g -w 1
-A --sctp-service 203.0.113.10:80
-A -t web.example:http -s rr
-a -t 203.0.113.10:80 -r 10.20.0.11:80
-A -t 203.0.113.10:80 -s lblc --pe sip
-a -t 203.0.113.10:80 -r 10.20.0.11:80 -m -w 70000
-a -t 203.0.113.10:80 -r 10.20.0.12:80 -g
-a -t 203.0.113.10:80 -r 10.20.0.13:80 -i --tun-type gre
-a -t 203.0.113.10:80 -r 203.0.113.10:80 -m
-a -t 203.0.113.10:80 -r [2001:db8:2::11]:80 -m
-a -t 203.0.113.10:80 -r 10.20.0.11:80 -m
-A -t 203.0.113.11:81 -s mh -M 255.255.255.0
-A -t 203.0.113.10:80
-A -t 127.0.0.1:80 -s rr
--start-daemon master --mcast-interface eth0
-A -D -t 203.0.113.10:80
-l -n
what is this
`;
  const { services, notes } = imported(importIpvsadm, text);
  assertNotes(notes, [
    /^3: firewall mark "7": /,
    /^4: firewall mark "7": /,
    /^5: SCTP is not balanced$/,
    /^6: expected a service in numbers \(ipvsadm -Sn\), got "web\.example:http"$/,
    /^7: there is no such service$/,
    /^8: scheduler "lblc": it chooses by destination, .* maglev, the default, stands in$/,
    /^8: --pe "sip": /,
    /^9: weight 70000: at most 65535, which it is now$/,
    /^10: real server 10\.20\.0\.12 forwards by dsr, the servers before it by nat: /,
    /^11: --tun-type "gre": tunnels are ipip and gue$/,
    /^12: backend 203\.0\.113\.10 of service tcp-203\.0\.113\.10-80 is left out: expected a backend that is no VIP/,
    /^13: backend 2001:db8:2::11 .* is left out: mode nat does not translate between IPv4 and IPv6/,
    /^14: the server is there$/,
    /^15: mh without mh-port hashes the client's address alone: /,
    /^15: -M means nothing without -p$/,
    /^16: the service is there$/,
    /^17: service tcp-127\.0\.0\.1-80 is left out: expected the IPv4 address of a host, got "127\.0\.0\.1"$/,
    /^18: connection synchronisation between nodes is not carried over$/,
    /^19: expected one of ipvsadm's commands \(-A, -a, \.\.\.\), got 2$/,
    /^20: --list changes no service$/,
    /^21: expected one of ipvsadm's commands \(-A, -a, \.\.\.\), got 0$/,
  ]);
  assert.deepEqual(services, [
    {
      name: "tcp-203.0.113.10-80",
      vip: "203.0.113.10",
      port: 80,
      protocol: "tcp",
      mode: "nat",
      backends: [{ address: "10.20.0.11", port: 80, weight: 65_535 }],
    },
    {
      name: "tcp-203.0.113.11-81",
      vip: "203.0.113.11",
      port: 81,
      protocol: "tcp",
      mode: "nat",
      scheduler: "source-hash",
      backends: [],
    },
  ]);
});

test("a script of ipvsadm commands: the last word counts, timeouts too", () => {
  const text = `ipvsadm -C
/sbin/ipvsadm --add-service --tcp-service=203.0.113.10:80 --scheduler rr
ipvsadm -at 203.0.113.10:80 -r10.20.0.11 -m
ipvsadm -a -t 203.0.113.10:80 -r 10.20.0.12 -m -w2
ipvsadm -e -t 203.0.113.10:80 -r 10.20.0.12:80 --masquerading --weight 7
ipvsadm -d -t 203.0.113.10:80 -r 10.20.0.11
ipvsadm -E -t 203.0.113.10:80 -s sh -b sh-port
ipvsadm -A -u 203.0.113.10:53
ipvsadm -D -u 203.0.113.10:53
ipvsadm --set 900 0 300
`;
  const { services, top, notes } = imported(importIpvsadm, text);
  assert.deepEqual(notes, []);
  assert.deepEqual(top["timeouts"], {
    tcp: { established: "15m" },
    udp: { oneWay: "5m", replied: "5m" },
  });
  assert.deepEqual(services, [
    {
      name: "tcp-203.0.113.10-80",
      vip: "203.0.113.10",
      port: 80,
      protocol: "tcp",
      mode: "nat",
      scheduler: "maglev",
      backends: [{ address: "10.20.0.12", port: 80, weight: 7 }],
    },
  ]);
});

test("persistence, and the masks that make clients of a network one", () => {
  const text = `-A -t 203.0.113.10:80 -s rr -p 360
-A -t 203.0.113.11:80 -s rr -p -M 255.255.255.0
-A -t [2001:db8:ff::10]:80 -s mh -p 10800 -M 64
-A -t 203.0.113.12:80 -s rr -p 360 -M 255.0.255.0
-A -u 203.0.113.13:53 -s rr -p 60 -o
`;
  const { services, notes } = imported(importIpvsadm, text);
  assert.deepEqual(
    services.map(({ affinity }) => affinity),
    [
      { timeout: "6m" },
      { timeout: "5m", prefix: { ipv4: 24 } },
      { timeout: "3h", prefix: { ipv6: 64 } },
      { timeout: "6m" },
      undefined,
    ],
  );
  assert.equal(services[2]?.["scheduler"], "maglev");
  assertNotes(notes, [
    /^4: -M "255\.0\.255\.0": expected a prefix$/,
    /^5: affinity of service udp-203\.0\.113\.13-53 is left out: expected off with udp\.perPacket/,
  ]);
});

test("every scheduler that does not choose by destination, and thresholds", () => {
  const words = "rr wrr lc wlc sh mh sed nq fo ovf twos".split(" ");
  const lines = words.map((word, index) => {
    const vip = `203.0.113.${10 + index}:80`;
    const flags = word === "mh" ? " -b mh-port" : "";
    const server = `-a -t ${vip} -r 10.20.0.11:80 -m -w 1 -x 100 -y 75`;
    return `-A -t ${vip} -s ${word}${flags}\n${server}\n`;
  });
  const { services, notes } = imported(importIpvsadm, lines.join(""));
  assert.deepEqual(notes, []);
  assert.deepEqual(
    services.map(({ scheduler }) => scheduler),
    [
      ...["round-robin", "weighted-round-robin"],
      ...["least-connections", "weighted-least-connections", "source-hash", "maglev"],
      ...["shortest-expected-delay", "never-queue", "failover", "overflow", "power-of-two"],
    ],
  );
  for (const { backends } of services) {
    assert.deepEqual(backends, [
      { address: "10.20.0.11", port: 80, weight: 1, maxConnections: 100 },
    ]);
  }
  const other =
    "-A -t 203.0.113.10:80 -s rr\n-a -t 203.0.113.10:80 -r 10.20.0.11:80 -m -x 9 -y 2\n";
  assertNotes(imported(importIpvsadm, other).notes, [/^2: -y 2: .* three quarters of -x$/]);
});

test("a tunnel without an outer source address says which option gives it", () => {
  const text = "-A -t 203.0.113.10:80 -s rr\n-a -t 203.0.113.10:80 -r 10.20.0.11:80 -i -w 1\n";
  const { services, notes } = imported(importIpvsadm, text);
  assertNotes(notes, [
    /^1: service .* is left out: .* got none: --tunnel-source says it$/,
    /^2: backend 10\.20\.0\.11 goes with service .*, which is left out$/,
  ]);
  assert.deepEqual(services, []);
});

/** So many services, each with a maglev table and one server. */
function many(count: number): string {
  const lines = Array.from({ length: count }, (_, index) => {
    const vip = `203.0.${113 + (index >> 8)}.${index & 255}:80`;
    return `-A -t ${vip} -s mh -b mh-port\n-a -t ${vip} -r 10.20.0.11:8080 -m -w 1\n`;
  });
  return lines.join("");
}

test("room for many tables is asked for", () => {
  const { services, top, notes } = imported(importIpvsadm, many(70));
  assert.deepEqual(notes, []);
  assert.equal(services.length, 70);
  assert.deepEqual(top["limits"], { hashSlots: 70 * 65_537 });
});

test("room for more services than a gateway has by default is asked for, with smaller tables", () => {
  const draft = startDraft(OPTIONS);
  for (let index = 0; index < 1100; index++) {
    draft.services.push({ protocol: ["tcp", "udp"], scheduler: "maglev", backends: [{}, {}] });
  }
  fitLimits(draft);
  assert.deepEqual(draft.top["limits"], {
    services: 2750,
    backends: 8250,
    hashSlots: 2200 * 4093,
  });
  assert.deepEqual(draft.top["defaults"], { tableSize: 4093 });
});

test("notes stand as comments on top of the configuration", () => {
  const { text } = importIpvsadm("-A -f 1\n", { ...OPTIONS, file: "save\u001b.txt" });
  assert.match(
    text,
    /^# Made of save\?\.txt by headgate import\.\n# Not carried over, .*\n# {3}save\?\.txt:1: firewall mark "1": /,
  );
  assert.deepEqual((parse(text) as { services: unknown }).services, []);
});
