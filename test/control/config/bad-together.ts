import { type BadConfig, one, top, two } from "./config-text.ts";

const SIX = { backends: "[{ address: '2001:db8:2::11' }]" };

/** Health checks, conflicts between keys, and several problems at once. */
export const BAD_TOGETHER: readonly BadConfig[] = [
  {
    name: "health: unknown type",
    given: one({ health: "{ type: smtp }" }),
    want: [
      'gw.yaml:7:21: services[0].health.type: expected tcp, tls, http, https, http2, grpc, udp, dns, icmp, exec or script, got "smtp"',
    ],
  },
  {
    name: "health: a word",
    given: one({ health: "tcp" }),
    want: ['gw.yaml:7:13: services[0].health: expected a map of keys, or none, got "tcp"'],
  },
  {
    name: "health: an interval that is too short",
    given: one({ health: "{ interval: 10ms }" }),
    want: [
      'gw.yaml:7:25: services[0].health.interval: expected a duration from 100ms to 1h, got "10ms"',
    ],
  },
  {
    name: "health: a timeout above the interval",
    given: one({ health: "{ interval: 1s, timeout: 2s }" }),
    want: [
      "gw.yaml:7:38: services[0].health.timeout: expected at most the interval of 1s (gw.yaml:7:25), got 2s",
    ],
  },
  {
    name: "health: a timeout above the default interval",
    given: one({ health: "{ timeout: 3s }" }),
    want: ["gw.yaml:7:24: services[0].health.timeout: expected at most the interval of 2s, got 3s"],
  },
  {
    name: "health: rise of 0",
    given: one({ health: "{ rise: 0 }" }),
    want: ["gw.yaml:7:21: services[0].health.rise: expected a whole number from 1 to 100, got 0"],
  },
  {
    name: "health: spread above 1",
    given: one({ health: "{ spread: 10 }" }),
    want: ["gw.yaml:7:23: services[0].health.spread: expected a number from 0 to 1, got 10"],
  },
  {
    name: "health: a path for tcp",
    given: one({ health: "{ type: tcp, path: /health }" }),
    want: [
      'gw.yaml:7:32: services[0].health.path: expected no "path" for type tcp (gw.yaml:7:21), got one (only for http, https, http2)',
    ],
  },
  {
    name: "health: a path without slash",
    given: one({ health: "{ type: http, path: health }" }),
    want: [
      'gw.yaml:7:33: services[0].health.path: expected a path that starts with /, got "health"',
    ],
  },
  {
    name: "health: a path that would end the request line",
    given: one({ health: '{ type: http, path: "/ HTTP/1.0\\r\\n" }' }),
    want: [
      'gw.yaml:7:33: services[0].health.path: expected a path that starts with /, got "/ HTTP/1.0\\r\\n"',
    ],
  },
  {
    name: "health: a status out of range",
    given: one({ health: "{ type: http, status: [200-299, 700] }" }),
    want: ["gw.yaml:7:45: services[0].health.status[1]: expected a range within 100-599, got 700"],
  },
  {
    name: "health: no port to check",
    given: one({
      port: "[80, 443]",
      health: "{ type: tcp }",
      backends: "[{ address: 10.20.0.11 }]",
    }),
    want: [
      "gw.yaml:7:13: services[0].health: expected a port to check for backends[0] (gw.yaml:8:16), got none: give health or the backend a port",
    ],
  },
  {
    name: "Between keys: a name twice",
    given: two({}, { name: "web", vip: "203.0.113.11" }),
    want: [
      'gw.yaml:8:11: services[1].name: expected a name that no other service has, got "web" again (first at gw.yaml:3:11)',
    ],
  },
  {
    name: "Between keys: one VIP twice",
    given: two({}, {}),
    want: [
      'gw.yaml:10:11: services[1].port: expected VIPs of equal precision not to overlap, got 203.0.113.10:80/tcp; service "web" has 80 there (gw.yaml:5:11)',
    ],
  },
  {
    name: "Between keys: one VIP twice, by a list",
    given: two({ port: "[80, 443]" }, { port: "[8443, 443]", vip: "[203.0.113.12, 203.0.113.10]" }),
    want: [
      'gw.yaml:10:18: services[1].port[1]: expected VIPs of equal precision not to overlap, got 203.0.113.10:443/tcp; service "web" has 443 there (gw.yaml:5:16)',
    ],
  },
  {
    name: "Between keys: one prefix twice, and one that is longer",
    given: two(
      { vip: "['2001:db8:ff::/64', '2001:db8:ff:1::/64']", ...SIX },
      { vip: "['2001:db8:ff:0::/64', '2001:db8:ff:1::/65']", ...SIX },
    ),
    want: [
      'gw.yaml:10:11: services[1].port: expected VIPs of equal precision not to overlap, got [2001:db8:ff::/64]:80/tcp; service "web" has 80 there (gw.yaml:5:11)',
    ],
  },
  {
    name: "Between keys: a backend of the other family in nat",
    given: one({ vip: "'2001:db8:ff::10'" }),
    want: [
      "gw.yaml:7:27: services[0].backends[0].address: expected an IPv6 address in mode nat, like the VIP 2001:db8:ff::10 (gw.yaml:4:10), got 10.20.0.11: full-nat translates between the families",
    ],
  },
  {
    name: "Between keys: a VIP of each family in nat",
    given: one({ vip: "[203.0.113.10, '2001:db8:ff::10']" }),
    want: [
      "gw.yaml:7:27: services[0].backends[0].address: expected an IPv6 address in mode nat, like the VIP 2001:db8:ff::10 (gw.yaml:4:25), got 10.20.0.11: full-nat translates between the families",
    ],
  },
  {
    name: "Between keys: a backend within the prefix of a VIP",
    given: one({ vip: "10.20.0.0/24" }),
    want: [
      'gw.yaml:7:27: services[0].backends[0].address: expected a backend that is no VIP or SNAT address, got 10.20.0.11, a VIP of service "web" 10.20.0.0/24 (gw.yaml:4:10)',
    ],
  },
  {
    name: "Between keys: ranges that overlap",
    given: two({ port: "8000-8099" }, { port: "8050-8150" }),
    want: [
      'gw.yaml:10:11: services[1].port: expected VIPs of equal precision not to overlap, got 203.0.113.10:8050-8150/tcp; service "web" has 8000-8099 there (gw.yaml:5:11)',
    ],
  },
  {
    name: "Between keys: any twice",
    given: two({ port: "any" }, { port: "any" }),
    want: [
      'gw.yaml:10:11: services[1].port: expected VIPs of equal precision not to overlap, got 203.0.113.10:any/tcp; service "web" has any there (gw.yaml:5:11)',
    ],
  },
  {
    name: "Between keys: the same backend twice",
    given: one({
      backends:
        "[{ address: 10.20.0.11, port: 80 }, { address: 10.20.0.12, port: 80 }, { address: 10.20.0.11, port: 80 }]",
    }),
    want: [
      "gw.yaml:7:86: services[0].backends[2]: expected each backend once, got 10.20.0.11:80 again (first at gw.yaml:7:16)",
    ],
  },
  {
    name: "Between keys: a backend that is a VIP",
    given: two(
      { vip: "[203.0.113.11, 203.0.113.10]" },
      { vip: "203.0.113.12", backends: "[{ address: 203.0.113.10, port: 80 }]" },
    ),
    want: [
      'gw.yaml:12:27: services[1].backends[0].address: expected a backend that is no VIP or SNAT address, got 203.0.113.10, a VIP of service "web" (gw.yaml:4:25)',
    ],
  },
  {
    name: "Between keys: a backend that is a SNAT address",
    given: top("snat: { addresses: [10.20.0.10-10.20.0.12] }"),
    want: [
      "gw.yaml:8:27: services[0].backends[0].address: expected a backend that is no VIP or SNAT address, got 10.20.0.11, a SNAT address (gw.yaml:2:21)",
    ],
  },
  {
    name: "Between keys: a SNAT address that is a VIP",
    given: top("snat: { addresses: [203.0.113.9-203.0.113.10] }"),
    want: [
      'gw.yaml:2:21: snat.addresses[0]: expected a SNAT address that is no VIP, got 203.0.113.10, a VIP of service "web" (gw.yaml:5:10)',
    ],
  },
  {
    name: "Between keys: a sorry server that is a VIP",
    given: one({ noBackend: "{ action: sorry, address: 203.0.113.10 }" }),
    want: [
      'gw.yaml:7:42: services[0].noBackend.address: expected a sorry server that is no VIP or SNAT address, got 203.0.113.10, a VIP of service "web" (gw.yaml:4:10)',
    ],
  },
  {
    name: "Between keys: a VIP from defaults twice",
    given:
      "device: { type: packet, interfaces: [eth0] }\ndefaults: { vip: 203.0.113.10, port: 80, protocol: tcp, backends: [] }\nservices:\n  - name: web\n  - name: api\n",
    want: [
      'gw.yaml:5:5: services[1].port: expected VIPs of equal precision not to overlap, got 203.0.113.10:80/tcp; service "web" has 80 there (gw.yaml:4:5)',
    ],
  },
  {
    name: "Between keys: more services than limits",
    given:
      "device: { type: packet, interfaces: [eth0] }\nlimits: { services: 1 }\nservices:\n  - name: web\n    vip: 203.0.113.10\n    port: 80\n    protocol: tcp\n    backends: [{ address: 10.20.0.11, port: 8080 }]\n  - name: api\n    vip: 203.0.113.11\n    port: 80\n    protocol: tcp\n    backends: [{ address: 10.20.0.11, port: 8080 }]\n",
    want: [
      "gw.yaml:12:15: services[1].protocol: expected at most 1 service slots in all services, got 2: limits.services is 1 (gw.yaml:2:21)",
    ],
  },
  {
    name: "Between keys: more backends than limits",
    given:
      "device: { type: packet, interfaces: [eth0] }\nlimits: { backends: 3 }\nservices:\n  - name: web\n    vip: 203.0.113.10\n    port: 80\n    protocol: tcp\n    backends: [{ address: 10.20.0.11, port: 8080 }]\n  - name: dns\n    vip: 203.0.113.10\n    port: 53\n    protocol: [tcp, udp]\n    backends: [{ address: 10.20.0.21 }, { address: 10.20.0.22 }]\n",
    want: [
      "gw.yaml:13:15: services[1].backends: expected at most 3 backend slots in all services, got 5: limits.backends is 3 (gw.yaml:2:21)",
    ],
  },
  {
    name: "Between keys: more table slots than limits",
    given:
      "device: { type: packet, interfaces: [eth0] }\nlimits: { hashSlots: 65792 }\nservices:\n  - name: web\n    vip: 203.0.113.10\n    port: 80\n    protocol: tcp\n    scheduler: sh\n    backends: [{ address: 10.20.0.11, port: 8080 }]\n  - name: api\n    vip: 203.0.113.10\n    port: 81\n    protocol: tcp\n    scheduler: mh\n    backends: [{ address: 10.20.0.11, port: 8080 }]\n  - name: dns\n    vip: 203.0.113.10\n    port: 82\n    protocol: tcp\n    scheduler: sh\n    backends: [{ address: 10.20.0.11, port: 8080 }]\n",
    want: [
      "gw.yaml:14:16: services[1].scheduler: expected at most 65792 table slots in all services, got 66049: limits.hashSlots is 65792 (gw.yaml:2:22)",
    ],
  },
  {
    name: "Between keys: more port intervals than limits",
    given:
      "device: { type: packet, interfaces: [eth0] }\nlimits: { services: 1 }\nservices:\n  - name: web\n    vip: 203.0.113.10\n    port: [100, 102, 104, 106, 108, 110, 112, 114, 116, 118, 120, 122, 124, 126, 128, 130, 132, 134, 136, 138, 140, 142, 144, 146, 148, 150, 152, 154, 156, 158, 160, 162, 164]\n    protocol: tcp\n    backends: [{ address: 10.20.0.11, port: 8080 }]\n",
    want: [
      "gw.yaml:4:3: services: expected at most 32 port intervals in all VIPs (32 a service), got 33: limits.services is 1 (gw.yaml:2:21)",
    ],
  },
  {
    name: "Everything at once, in the order of the file: five problems of three kinds",
    given:
      "version: 3\ndevice: { type: packet, interfaces: [eth0] }\nservices:\n  - name: web\n    vip: 203.0.113.10\n    port: 0\n    protocol: tcp\n    mode: full-nat\n    prt: 80\n    backends: [{ address: 10.20.0.11, port: 8080 }]\n  - name: web\n    vip: x\n    port: 80\n    protocol: tcp\n    backends: [{ address: 10.20.0.11, port: 8080 }]\n",
    want: [
      "gw.yaml:1:10: version: expected 1, got 3",
      'gw.yaml:6:11: services[0].port: expected 1-65535, a range, or "any", got 0',
      "gw.yaml:8:11: services[0].mode: expected snat.addresses for mode full-nat, got none",
      'gw.yaml:9:5: services[0].prt: expected a known key (the nearest is "port"), got "prt"',
      'gw.yaml:11:11: services[1].name: expected a name that no other service has, got "web" again (first at gw.yaml:4:11)',
      'gw.yaml:12:10: services[1].vip: expected an IPv4 or IPv6 address, or a prefix, got "x"',
    ],
  },
  {
    name: "Everything at once, in the order of the file: a duplicate key and a wrong value",
    given:
      "device: { type: packet, interfaces: [eth0] }\nlog: { level: info }\nlog: { level: loud }\nservices: []\n",
    want: [
      'gw.yaml:3:1: log: expected each key once, got "log" again (first at gw.yaml:2:1)',
      'gw.yaml:3:15: log.level: expected trace, debug, info, warn or error, got "loud"',
    ],
  },
];
