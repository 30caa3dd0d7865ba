import { type BadConfig, one } from "./config-text.ts";

/** Wrong values of a service, its addresses and its ports. */
export const BAD_SERVICES: readonly BadConfig[] = [
  {
    name: "A service: no name",
    given: one({ name: null }),
    want: ['gw.yaml:3:5: services[0]: expected the key "name", got none'],
  },
  {
    name: "A service: a name in capitals",
    given: one({ name: "Web" }),
    want: [
      'gw.yaml:3:11: services[0].name: expected a name of a-z 0-9 . / - that starts and ends with a letter or digit, got "Web"',
    ],
  },
  {
    name: "A service: a name that ends in a dash",
    given: one({ name: "web-" }),
    want: [
      'gw.yaml:3:11: services[0].name: expected a name of a-z 0-9 . / - that starts and ends with a letter or digit, got "web-"',
    ],
  },
  {
    name: "A service: no vip, port, protocol",
    given: one({ vip: null, port: null, protocol: null }),
    want: [
      'gw.yaml:3:5: services[0]: expected the key "vip", got none',
      'gw.yaml:3:5: services[0]: expected the key "port", got none',
      'gw.yaml:3:5: services[0]: expected the key "protocol", got none',
    ],
  },
  {
    name: "access: a prefix with bits behind it, one that is none, an unknown word",
    given: one({
      access: "{ allow: [10.0.0.1/8], deny: [10.0.0.0/33, '2001:db8::/32'], refuse: rst }",
    }),
    want: [
      'gw.yaml:7:23: services[0].access.allow[0]: expected no bit behind the prefix (10.0.0.0/8), got "10.0.0.1/8"',
      'gw.yaml:7:43: services[0].access.deny[0]: expected a prefix, such as 198.51.100.0/24 or 2001:db8::/32, got "10.0.0.0/33"',
      'gw.yaml:7:82: services[0].access.refuse: expected drop or reset, got "rst"',
    ],
  },
  {
    name: "synProxy: SACK and a scale without the timestamps that keep them",
    given: one({ synProxy: "{ mode: on, timestamps: false, sack: true, windowScale: 7 }" }),
    want: [
      "gw.yaml:7:52: services[0].synProxy.sack: expected timestamps, which keep it in a cookie, got false (gw.yaml:7:39)",
      "gw.yaml:7:71: services[0].synProxy.windowScale: expected timestamps, which keep it in a cookie, got false (gw.yaml:7:39)",
    ],
  },
  {
    name: "synProxy: without TCP",
    given: one({ protocol: "udp", synProxy: "{ mode: auto }" }),
    want: [
      "gw.yaml:7:23: services[0].synProxy.mode: expected off without protocol tcp (gw.yaml:6:15), got auto",
    ],
  },
  {
    name: "limits: of 0, and a burst that is no number",
    given: one({ limits: "{ connections: 0, newPerSource: { burst: many } }" }),
    want: [
      "gw.yaml:7:28: services[0].limits.connections: expected a whole number from 1 to 16777216, got 0",
      'gw.yaml:7:54: services[0].limits.newPerSource.burst: expected a whole number from 1 to 1000000, got "many"',
    ],
  },
  {
    name: "A service: no backends",
    given: one({ backends: null }),
    want: ['gw.yaml:3:5: services[0]: expected the key "backends", got none'],
  },
  {
    name: "A service: a service that is a word",
    given: "device: { type: packet, interfaces: [eth0] }\nservices: [web]\n",
    want: ['gw.yaml:2:12: services[0]: expected a map of keys, got "web"'],
  },
  {
    name: "A service: services as a map",
    given: "device: { type: packet, interfaces: [eth0] }\nservices: { name: web }\n",
    want: ["gw.yaml:2:11: services: expected a list, got a map"],
  },
  {
    name: "A service: unknown protocol",
    given: one({ protocol: "sctp" }),
    want: ['gw.yaml:6:15: services[0].protocol: expected tcp or udp, got "sctp"'],
  },
  {
    name: "A service: a protocol twice",
    given: one({ protocol: "[tcp, tcp]" }),
    want: [
      'gw.yaml:6:21: services[0].protocol[1]: expected each once, got "tcp" again (first at [0])',
    ],
  },
  {
    name: "A service: a backend port in dsr",
    given: one({ mode: "dsr" }),
    want: [
      "gw.yaml:8:45: services[0].backends[0].port: expected no port, or 80 with mode dsr, as the service has (gw.yaml:5:11), got 8080",
    ],
  },
  {
    name: "A service: a backend port with a range in dsr",
    given: one({ mode: "dsr", port: "80-81", backends: "[{ address: 10.20.0.11, port: 80 }]" }),
    want: [
      "gw.yaml:8:45: services[0].backends[0].port: expected no port with mode dsr, as the service has (gw.yaml:5:11), got 80",
    ],
  },
  {
    name: "A service: ipip without a source",
    given: one({ mode: "ipip", backends: "[{ address: 10.20.0.11 }]" }),
    want: [
      "gw.yaml:7:11: services[0].mode: expected tunnel.source.ipv4 for mode ipip and 10.20.0.11 (gw.yaml:8:16), got none",
    ],
  },
  {
    name: "A service: the port of a sorry server in dsr",
    given: one({
      mode: "dsr",
      noBackend: "{ action: sorry, address: 10.20.0.19, port: 81 }",
      backends: "[{ address: 10.20.0.11 }]",
    }),
    want: [
      "gw.yaml:8:60: services[0].noBackend.port: expected no port, or 80 with mode dsr, as the service has (gw.yaml:5:11), got 81",
    ],
  },
  {
    name: "A service: tooBig fragment in nat",
    given: one({ mtu: "{ tooBig: fragment }" }),
    want: [
      "gw.yaml:7:20: services[0].mtu.tooBig: expected icmp with mode nat, got fragment (only ipip and gue have an outer packet)",
    ],
  },
  {
    name: "A service: mss without tcp",
    given: one({ protocol: "udp", mss: "auto" }),
    want: [
      "gw.yaml:7:10: services[0].mss: expected off for a service without tcp (gw.yaml:6:15), got auto",
    ],
  },
  {
    name: "A service: mss too small",
    given: one({ mss: "40" }),
    want: [
      "gw.yaml:7:10: services[0].mss: expected off, auto, or a whole number from 64 to 65495, got 40",
    ],
  },
  {
    name: "A service: unknown mode",
    given: one({ mode: "masq" }),
    want: ['gw.yaml:7:11: services[0].mode: expected nat, full-nat, dsr, ipip or gue, got "masq"'],
  },
  {
    name: "A service: unknown scheduler",
    given: one({ scheduler: "fastest" }),
    want: [
      'gw.yaml:7:16: services[0].scheduler: expected round-robin (rr), weighted-round-robin (wrr), least-connections (lc), weighted-least-connections (wlc), source-hash (sh), maglev (mh), shortest-expected-delay (sed), never-queue (nq), rendezvous (hrw), power-of-two (twos), random, failover (fo), overflow (ovf) or least-latency (ll), or a map, got "fastest"',
    ],
  },
  {
    name: "A service: a table that is no prime",
    given: one({ tableSize: "65536" }),
    want: ["gw.yaml:7:16: services[0].tableSize: expected a prime from 251 to 655373, got 65536"],
  },
  {
    name: "A service: a table that is too small",
    given: one({ tableSize: "7" }),
    want: ["gw.yaml:7:16: services[0].tableSize: expected a prime from 251 to 655373, got 7"],
  },
  {
    name: "A service: timeout of 0",
    given: one({ timeouts: "{ udp: { oneWay: 0s } }" }),
    want: [
      'gw.yaml:7:32: services[0].timeouts.udp.oneWay: expected a duration from 10ms to 168h, got "0s"',
    ],
  },
  {
    name: "A service: adopt with round robin",
    given: one({ scheduler: "rr", outOfState: "adopt" }),
    want: [
      'gw.yaml:8:17: services[0].outOfState: expected reset or drop with scheduler round-robin (gw.yaml:7:16), got "adopt" (only source-hash, maglev without maxLoad, rendezvous and failover, outside full-nat)',
    ],
  },
  {
    name: "A service: adopt with a bound on loads",
    given: one({ scheduler: "mh", maxLoad: "1.25", outOfState: "adopt" }),
    want: [
      'gw.yaml:9:17: services[0].outOfState: expected reset or drop with scheduler maglev and maxLoad (gw.yaml:8:14), got "adopt" (only source-hash, maglev without maxLoad, rendezvous and failover, outside full-nat)',
    ],
  },
  {
    name: "A service: a bound on loads with another scheduler",
    given: one({ scheduler: "hrw", maxLoad: "1.25" }),
    want: [
      "gw.yaml:8:14: services[0].maxLoad: expected off with scheduler rendezvous (gw.yaml:7:16), got 1.25 (only for maglev)",
    ],
  },
  {
    name: "A service: a bound on loads that is none",
    given: one({ maxLoad: "1" }),
    want: ["gw.yaml:7:14: services[0].maxLoad: expected a number from 1.01 to 10, or off, got 1"],
  },
  {
    name: "A service: adopt in full-nat",
    given:
      "device: { type: packet, interfaces: [eth0] }\nsnat: { addresses: [10.20.0.100] }\nservices:\n  - name: web\n    vip: 203.0.113.10\n    port: 80\n    protocol: tcp\n    mode: full-nat\n    outOfState: adopt\n    backends: [{ address: 10.20.0.11, port: 8080 }]\n",
    want: [
      'gw.yaml:9:17: services[0].outOfState: expected reset or drop with mode full-nat (gw.yaml:8:11), got "adopt" (only source-hash, maglev without maxLoad, rendezvous and failover, outside full-nat)',
    ],
  },
  {
    name: "A service: adopt from defaults where it cannot be",
    given:
      "device: { type: packet, interfaces: [eth0] }\ndefaults: { outOfState: adopt }\nservices:\n  - name: web\n    vip: 203.0.113.10\n    port: 80\n    protocol: tcp\n    scheduler: lc\n    backends: [{ address: 10.20.0.11, port: 8080 }]\n",
    want: [
      'gw.yaml:4:5: services[0].outOfState: expected reset or drop with scheduler least-connections (gw.yaml:8:16), got "adopt" (only source-hash, maglev without maxLoad, rendezvous and failover, outside full-nat)',
    ],
  },
  {
    name: "A service: full-nat without addresses",
    given: one({ mode: "full-nat" }),
    want: ["gw.yaml:7:11: services[0].mode: expected snat.addresses for mode full-nat, got none"],
  },
  {
    name: "A service: full-nat with an empty pool",
    given:
      "device: { type: packet, interfaces: [eth0] }\nsnat: { ports: 2000-3000 }\nservices:\n  - name: web\n    vip: 203.0.113.10\n    port: 80\n    protocol: tcp\n    mode: full-nat\n    backends: [{ address: 10.20.0.11, port: 8080 }]\n",
    want: [
      "gw.yaml:8:11: services[0].mode: expected snat.addresses for mode full-nat, got none (gw.yaml:2:7)",
    ],
  },
  {
    name: "A service: an unknown rule for flows",
    given: one({ existingFlows: "{ down: kill }" }),
    want: [
      'gw.yaml:7:28: services[0].existingFlows.down: expected keep, drain or reset, got "kill"',
    ],
  },
  {
    name: "A service: sorry without an address",
    given: one({ noBackend: "{ action: sorry }" }),
    want: [
      'gw.yaml:7:16: services[0].noBackend: expected the key "address" for action sorry, got none',
    ],
  },
  {
    name: "A service: a sorry server that is not asked for",
    given: one({ noBackend: "{ action: drop, address: 10.20.0.99, port: 80 }" }),
    want: [
      'gw.yaml:7:41: services[0].noBackend.address: expected no "address" for action drop, got one (only for sorry)',
      'gw.yaml:7:59: services[0].noBackend.port: expected no "port" for action drop, got one (only for sorry)',
    ],
  },
  {
    name: "A service: a sorry server that is a backend",
    given: one({ noBackend: "{ action: sorry, address: 10.20.0.11, port: 8080 }" }),
    want: [
      "gw.yaml:7:16: services[0].noBackend: expected each backend once, got 10.20.0.11:8080 again (first at gw.yaml:8:16)",
    ],
  },
  {
    name: "A service: ping as a boolean",
    given: one({ ping: "true" }),
    want: ["gw.yaml:7:11: services[0].ping: expected always, healthy or never, got true"],
  },
  {
    name: "Addresses: VIP that looks octal",
    given: one({ vip: "203.0.113.010" }),
    want: [
      'gw.yaml:4:10: services[0].vip: expected an IPv4 address without leading zeros, got "203.0.113.010"',
    ],
  },
  {
    name: "Addresses: VIP with three parts",
    given: one({ vip: "203.0.113" }),
    want: [
      'gw.yaml:4:10: services[0].vip: expected an IPv4 or IPv6 address, or a prefix, got "203.0.113"',
    ],
  },
  {
    name: "Addresses: VIP with a large part",
    given: one({ vip: "203.0.113.256" }),
    want: [
      'gw.yaml:4:10: services[0].vip: expected an IPv4 or IPv6 address, or a prefix, got "203.0.113.256"',
    ],
  },
  {
    name: "Addresses: VIP in IPv6 and in brackets",
    given: one({ vip: "'[2001:db8:ff::10]'" }),
    want: [
      'gw.yaml:4:10: services[0].vip: expected an IPv6 address without brackets, got "[2001:db8:ff::10]"',
    ],
  },
  {
    name: "Addresses: VIP with a zone",
    given: one({ vip: "'fe80::1%eth0'" }),
    want: ['gw.yaml:4:10: services[0].vip: expected an address without a zone, got "fe80::1%eth0"'],
  },
  {
    name: "Addresses: VIP mapped into IPv6",
    given: one({ vip: "'::ffff:203.0.113.10'" }),
    want: [
      'gw.yaml:4:10: services[0].vip: expected an address that is not IPv4-mapped, got "::ffff:203.0.113.10"',
    ],
  },
  {
    name: "Addresses: VIP mapped into IPv6, in hexadecimal",
    given: one({ vip: "'0:0:0:0:0:FFFF:cb00:710a'" }),
    want: [
      'gw.yaml:4:10: services[0].vip: expected an address that is not IPv4-mapped, got "0:0:0:0:0:FFFF:cb00:710a"',
    ],
  },
  {
    name: "Addresses: VIP prefix that is too long",
    given: one({ vip: "203.0.113.0/33" }),
    want: ['gw.yaml:4:10: services[0].vip: expected a prefix of 8-32 bits, got "203.0.113.0/33"'],
  },
  {
    name: "Addresses: VIP prefix with bits behind it",
    given: one({ vip: "'2001:db8:ff::10/64'" }),
    want: [
      'gw.yaml:4:10: services[0].vip: expected no bits behind the prefix (2001:db8:ff::/64), got "2001:db8:ff::10/64"',
    ],
  },
  {
    name: "Addresses: VIP prefix of nearly everything",
    given: one({ vip: "64.0.0.0/2" }),
    want: ['gw.yaml:4:10: services[0].vip: expected a prefix of 8-32 bits, got "64.0.0.0/2"'],
  },
  ...["::", "::1", "fe80::1", "ff02::1", "::203.0.113.10"].map((vip) => ({
    name: `Addresses: ${vip} as VIP`,
    given: one({ vip: `'${vip}'` }),
    want: [`gw.yaml:4:10: services[0].vip: expected the IPv6 address of a host, got "${vip}"`],
  })),
  {
    name: "Addresses: multicast VIP",
    given: one({ vip: "224.0.0.1" }),
    want: ['gw.yaml:4:10: services[0].vip: expected the IPv4 address of a host, got "224.0.0.1"'],
  },
  {
    name: "Addresses: loopback backend",
    given: one({ backends: "[{ address: 127.0.0.1 }]" }),
    want: [
      'gw.yaml:7:27: services[0].backends[0].address: expected the IPv4 address of a host, got "127.0.0.1"',
    ],
  },
  {
    name: "Addresses: a name as backend",
    given: one({ backends: "[{ address: web1.example.net }]" }),
    want: [
      'gw.yaml:7:27: services[0].backends[0].address: expected an IPv4 or IPv6 address, got "web1.example.net"',
    ],
  },
  {
    name: "Addresses: no VIP in the list",
    given: one({ vip: "[]" }),
    want: [
      "gw.yaml:4:10: services[0].vip: expected an IPv4 or IPv6 address, or a prefix, or a list, got an empty list",
    ],
  },
  {
    name: "Addresses: a VIP twice",
    given: one({ vip: "[203.0.113.10, 203.0.113.11, 203.0.113.10]" }),
    want: [
      "gw.yaml:4:39: services[0].vip[2]: expected each address once, got 203.0.113.10 again (first at gw.yaml:4:11)",
    ],
  },
  {
    name: "Ports: port 0 in a list, as the design shows",
    given:
      "# line 1\n\n\n\n\n\n\ndevice: { type: packet, interfaces: [eth0] }\nservices:\n - name: web\n   vip: 203.0.113.10\n   protocol: tcp\n   mode: nat\n   port: [0, 443]\n   backends: []\n",
    want: ['gw.yaml:14:11: services[0].port[0]: expected 1-65535, a range, or "any", got 0'],
  },
  {
    name: "Ports: port 0",
    given: one({ port: "0" }),
    want: ['gw.yaml:5:11: services[0].port: expected 1-65535, a range, or "any", got 0'],
  },
  {
    name: "Ports: port 65536",
    given: one({ port: "65536" }),
    want: ['gw.yaml:5:11: services[0].port: expected 1-65535, a range, or "any", got 65536'],
  },
  {
    name: "Ports: a port with a fraction",
    given: one({ port: "80.5" }),
    want: ['gw.yaml:5:11: services[0].port: expected 1-65535, a range, or "any", got 80.5'],
  },
  {
    name: "Ports: a range upside down",
    given: one({ port: "8099-8000" }),
    want: [
      'gw.yaml:5:11: services[0].port: expected a range with its lower end first, got "8099-8000"',
    ],
  },
  {
    name: "Ports: a range beyond the end",
    given: one({ port: "65000-66000" }),
    want: [
      'gw.yaml:5:11: services[0].port: expected 1-65535, a range, or "any", got "65000-66000"',
    ],
  },
  {
    name: "Ports: another word",
    given: one({ port: "all" }),
    want: ['gw.yaml:5:11: services[0].port: expected 1-65535, a range, or "any", got "all"'],
  },
  {
    name: "Ports: an empty list",
    given: one({ port: "[]" }),
    want: [
      'gw.yaml:5:11: services[0].port: expected 1-65535, a range, or "any", or a list, got an empty list',
    ],
  },
  {
    name: "Ports: a list in a list",
    given: one({ port: "[[80]]" }),
    want: ['gw.yaml:5:12: services[0].port[0]: expected 1-65535, a range, or "any", got a list'],
  },
  {
    name: "Ports: a port twice",
    given: one({ port: "[80, 443, 80]" }),
    want: [
      "gw.yaml:5:21: services[0].port[2]: expected ports of one service not to overlap, got 80 and 80 (gw.yaml:5:12)",
    ],
  },
  {
    name: "Ports: a port within a range of the same service",
    given: one({ port: "[8000-8099, 8080]" }),
    want: [
      "gw.yaml:5:23: services[0].port[1]: expected ports of one service not to overlap, got 8080 and 8000-8099 (gw.yaml:5:12)",
    ],
  },
  {
    name: "Ports: a backend's port as a range",
    given: one({ backends: "[{ address: 10.20.0.11, port: 8000-8099 }]" }),
    want: [
      'gw.yaml:7:45: services[0].backends[0].port: expected a port from 1 to 65535, got "8000-8099"',
    ],
  },
];
