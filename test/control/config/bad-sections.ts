import { type BadConfig, one, top } from "./config-text.ts";

/** Files that are no YAML, unknown keys, and wrong values outside services. */
export const BAD_SECTIONS: readonly BadConfig[] = [
  {
    name: "The document: empty file",
    given: "",
    want: ['gw.yaml:1:1: expected the key "device", got an empty file'],
  },
  {
    name: "The document: a comment only",
    given: "# nothing\n",
    want: ['gw.yaml:1:1: expected the key "device", got an empty file'],
  },
  {
    name: "The document: a list instead of a map",
    given: "- a\n- b\n",
    want: ["gw.yaml:1:1: expected a map of keys, got a list"],
  },
  {
    name: "The document: a word instead of a map",
    given: "headgate\n",
    want: ['gw.yaml:1:1: expected a map of keys, got "headgate"'],
  },
  {
    name: "The document: an open bracket",
    given: "device: { type: packet\n",
    want: [
      "gw.yaml:2:1: expected valid YAML, got an error: Flow map in block collection must be sufficiently indented and end with a }",
    ],
  },
  {
    name: "The document: a tab as indent",
    given: "device:\n\ttype: packet\n",
    want: ["gw.yaml:2:1: expected valid YAML, got an error: Tabs are not allowed as indentation"],
  },
  {
    name: "The document: two documents",
    given: "device: { type: tun }\n---\ndevice: { type: tun }\n",
    want: ["gw.yaml:2:1: expected one YAML document, got several"],
  },
  {
    name: "The document: an unknown tag",
    given: "device: !!binary aGVhZGdhdGU=\n",
    want: [
      "gw.yaml:1:9: expected valid YAML, got an error: Unresolved tag: tag:yaml.org,2002:binary",
    ],
  },
  {
    name: "The document: an alias of nothing",
    given: "device: *unknown\n",
    want: [
      "gw.yaml:1:1: expected valid YAML, got an error: Unresolved alias (the anchor must be set before the alias): unknown",
    ],
  },
  {
    name: "The document: a duplicate key",
    given: "device: { type: tun }\nlog: { level: info }\ndevice: { type: tun }\n",
    want: [
      'gw.yaml:3:1: device: expected each key once, got "device" again (first at gw.yaml:1:1)',
    ],
  },
  {
    name: "The document: a duplicate key in a service",
    given: one({ vip: "203.0.113.10", "port ": "443" }),
    want: [
      'gw.yaml:7:5: services[0].port: expected each key once, got "port" again (first at gw.yaml:5:5)',
    ],
  },
  {
    name: "The document: a map as key",
    given: "device: { type: tun }\n? { a: b }\n: 5\n",
    want: ["gw.yaml:2:3: expected a word as key, got a list or a map"],
  },
  {
    name: "The document: a merge key",
    given: "device: { type: tun }\n<<: { log: 5 }\n",
    want: ['gw.yaml:2:1: <<: expected a known key (the nearest is "log"), got "<<"'],
  },
  {
    name: "The document: only services",
    given: "services: []\n",
    want: ['gw.yaml:1:1: expected the key "device", got none'],
  },
  {
    name: "The document: another version",
    given: top("version: 2"),
    want: ["gw.yaml:2:10: version: expected 1, got 2"],
  },
  {
    name: "Unknown keys name the nearest one: at the top",
    given: top("sevices: []"),
    want: ['gw.yaml:2:1: sevices: expected a known key (the nearest is "services"), got "sevices"'],
  },
  {
    name: "Unknown keys name the nearest one: letters swapped",
    given: top("flows: { capcaity: 5 }"),
    want: [
      'gw.yaml:2:10: flows.capcaity: expected a known key (the nearest is "capacity"), got "capcaity"',
    ],
  },
  {
    name: "Unknown keys name the nearest one: wrong case",
    given: one({ tablesize: "65537" }),
    want: [
      'gw.yaml:7:5: services[0].tablesize: expected a known key (the nearest is "tableSize"), got "tablesize"',
    ],
  },
  {
    name: "Unknown keys name the nearest one: in a backend",
    given: one({ backends: "[{ address: 10.20.0.11, wieght: 5 }]" }),
    want: [
      'gw.yaml:7:39: services[0].backends[0].wieght: expected a known key (the nearest is "weight"), got "wieght"',
    ],
  },
  {
    name: "Unknown keys name the nearest one: in health",
    given: one({ health: "{ type: tcp, intervall: 2s }" }),
    want: [
      'gw.yaml:7:26: services[0].health.intervall: expected a known key (the nearest is "interval"), got "intervall"',
    ],
  },
  {
    name: "Unknown keys name the nearest one: in timeouts of a service",
    given: one({ timeouts: "{ tcp: { estblished: 1h } }" }),
    want: [
      'gw.yaml:7:24: services[0].timeouts.tcp.estblished: expected a known key (the nearest is "established"), got "estblished"',
    ],
  },
  {
    name: "Unknown keys name the nearest one: a key of the prototype",
    given: top("__proto__: { a: 1 }"),
    want: [
      'gw.yaml:2:1: __proto__: expected a known key (the nearest is "probe"), got "__proto__"',
    ],
  },
  {
    name: "Unknown keys name the nearest one: two at once",
    given: top("log: { lvel: info, colour: true }"),
    want: [
      'gw.yaml:2:8: log.lvel: expected a known key (the nearest is "level"), got "lvel"',
      'gw.yaml:2:20: log.colour: expected a known key (the nearest is "level"), got "colour"',
    ],
  },
  {
    name: "Unknown keys name the nearest one: a name in defaults",
    given: top("defaults: { name: web }"),
    want: ['gw.yaml:2:13: defaults.name: expected a known key (the nearest is "mode"), got "name"'],
  },
  {
    name: "device: no type",
    given: "device: { interfaces: [eth0] }\n",
    want: ['gw.yaml:1:9: device: expected the key "type", got none'],
  },
  {
    name: "device: unknown type",
    given: "device: { type: dpdk }\n",
    want: ['gw.yaml:1:17: device.type: expected tun, packet or xdp, got "dpdk"'],
  },
  {
    name: "device: xdp without interfaces",
    given: "device: { type: xdp }\n",
    want: ['gw.yaml:1:9: device: expected the key "interfaces", got none'],
  },
  {
    name: "device: keys of xdp on packet",
    given: "device: { type: packet, interfaces: [eth0], xdp: { mode: generic } }\n",
    want: ['gw.yaml:1:50: device.xdp: expected no "xdp" for type packet, got one (only for xdp)'],
  },
  {
    name: "device: xdp with wrong values",
    given:
      "device: { type: xdp, interfaces: [eth0], xdp: { mode: fast, zeroCopy: on, busyPoll: -1 }, spin: 1s }\n",
    want: [
      'gw.yaml:1:55: device.xdp.mode: expected auto, native or generic, got "fast"',
      'gw.yaml:1:71: device.xdp.zeroCopy: expected auto, off or require, got "on"',
      "gw.yaml:1:85: device.xdp.busyPoll: expected a whole number from 0 to 10000, got -1",
      'gw.yaml:1:97: device.spin: expected a whole number from 0 to 10000, got "1s"',
    ],
  },
  {
    name: "device: processors that are twice there, or not one a worker",
    given: "device: { type: packet, interfaces: [eth0], workers: 2, cpus: [1, 1] }\n",
    want: ["gw.yaml:1:67: device.cpus[1]: expected each once, got 1 again (first at [0])"],
  },
  {
    name: "device: fewer processors than workers",
    given: "device: { type: packet, interfaces: [eth0], workers: 2, cpus: [1] }\n",
    want: [
      "gw.yaml:1:63: device.cpus: expected a processor for each of 2 workers (device.workers), got 1",
    ],
  },
  {
    name: "device: packet without interfaces",
    given: "device: { type: packet }\n",
    want: ['gw.yaml:1:9: device: expected the key "interfaces", got none'],
  },
  {
    name: "device: no interface in the list",
    given: "device: { type: packet, interfaces: [] }\n",
    want: [
      "gw.yaml:1:37: device.interfaces: expected a list (each an interface name), got an empty list",
    ],
  },
  {
    name: "device: an interface twice",
    given: "device: { type: packet, interfaces: [eth0, eth1, eth0] }\n",
    want: [
      'gw.yaml:1:50: device.interfaces[2]: expected each once, got "eth0" again (first at [0])',
    ],
  },
  {
    name: "device: an interface as a word",
    given: "device: { type: packet, interfaces: eth0 }\n",
    want: ['gw.yaml:1:37: device.interfaces: expected a list (each an interface name), got "eth0"'],
  },
  {
    name: "device: an interface name with 16 letters",
    given: "device: { type: packet, interfaces: [abcdefghijklmnop] }\n",
    want: [
      'gw.yaml:1:38: device.interfaces[0]: expected an interface name, got "abcdefghijklmnop"',
    ],
  },
  {
    name: "device: interfaces on tun",
    given: "device: { type: tun, interfaces: [eth0] }\n",
    want: [
      'gw.yaml:1:34: device.interfaces: expected no "interfaces" for type tun, got one (only for packet, xdp)',
    ],
  },
  {
    name: "device: routes on packet",
    given: "device: { type: packet, interfaces: [eth0], routes: auto }\n",
    want: [
      'gw.yaml:1:53: device.routes: expected no "routes" for type packet, got one (only for tun)',
    ],
  },
  {
    name: "device: too many workers",
    given: "device: { type: tun, workers: 17 }\n",
    want: ["gw.yaml:1:31: device.workers: expected a whole number from 1 to 16, got 17"],
  },
  {
    name: "device: no worker",
    given: "device: { type: tun, workers: 0 }\n",
    want: ["gw.yaml:1:31: device.workers: expected a whole number from 1 to 16, got 0"],
  },
  {
    name: "device: fewer SNAT ports than workers",
    given:
      "device: { type: tun, workers: 3 }\nsnat: { addresses: [10.20.0.100], ports: 2000-2001 }\n",
    want: [
      "gw.yaml:2:42: snat.ports: expected a port for each of 3 workers (device.workers), got 2",
    ],
  },
  {
    name: "device: announce as text",
    given: "device: { type: tun, announce: yes }\n",
    want: ['gw.yaml:1:32: device.announce: expected true or false, got "yes"'],
  },
  {
    name: "device: nothing",
    given: "device:\nservices: []\n",
    want: ["gw.yaml:1:1: device: expected a map of keys, got nothing"],
  },
  {
    name: "The other sections: user is no name",
    given: top("user: [headgate]"),
    want: ["gw.yaml:2:7: user: expected a user name, UID or UID:GID, got a list"],
  },
  {
    name: "The other sections: user is a number below 0",
    given: top("user: -5"),
    want: ["gw.yaml:2:7: user: expected a user name, UID or UID:GID, got -5"],
  },
  {
    name: "The other sections: user is a group by name",
    given: top('user: "65534:nogroup"'),
    want: ['gw.yaml:2:7: user: expected a user name, UID or UID:GID, got "65534:nogroup"'],
  },
  {
    name: "The other sections: tunnel with another checksum",
    given: top("tunnel: { source: { ipv4: 10.20.0.1 }, gue: { port: 6080, checksum: full } }"),
    want: ['gw.yaml:2:69: tunnel.gue.checksum: expected zero or computed, got "full"'],
  },
  {
    name: "The other sections: a tunnel source that is a VIP",
    given: top("tunnel: { source: { ipv4: 203.0.113.10 } }"),
    want: [
      'gw.yaml:2:27: tunnel.source.ipv4: expected a tunnel source that is no VIP, got 203.0.113.10, a VIP of service "web" (gw.yaml:5:10)',
    ],
  },
  {
    name: "The other sections: a tunnel source of the other family",
    given: top("tunnel: { source: { ipv4: 2001:db8::1 } }"),
    want: ['gw.yaml:2:27: tunnel.source.ipv4: expected an IPv4 address, got "2001:db8::1"'],
  },
  {
    name: "The other sections: tunnel with a wrong port",
    given: top("tunnel: { gue: { port: 0 } }"),
    want: ["gw.yaml:2:24: tunnel.gue.port: expected a port from 1 to 65535, got 0"],
  },
  {
    name: "The other sections: log level",
    given: top("log: { level: verbose }"),
    want: ['gw.yaml:2:15: log.level: expected trace, debug, info, warn or error, got "verbose"'],
  },
  {
    name: "The other sections: capacity above 2^24",
    given: top("flows: { capacity: 16777217 }"),
    want: [
      "gw.yaml:2:20: flows.capacity: expected a whole number from 1 to 16777216, got 16777217",
    ],
  },
  {
    name: "The other sections: capacity with a fraction",
    given: top("flows: { capacity: 1.5 }"),
    want: ["gw.yaml:2:20: flows.capacity: expected a whole number from 1 to 16777216, got 1.5"],
  },
  {
    name: "The other sections: capacity not a number",
    given: top("flows: { capacity: .nan }"),
    want: ["gw.yaml:2:20: flows.capacity: expected a whole number from 1 to 16777216, got NaN"],
  },
  {
    name: "The other sections: a state file by relative path",
    given: top("flows: { stateFile: run/state }"),
    want: [
      'gw.yaml:2:21: flows.stateFile: expected the absolute path of a file on tmpfs, at most 4000 bytes, got "run/state"',
    ],
  },
  {
    name: "The other sections: a socket path that is too long",
    given: top(
      "admin: { socket: /run/sssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss }",
    ),
    want: [
      'gw.yaml:2:18: admin.socket: expected the absolute path of a socket, at most 107 bytes, got "/run/ssssssssssssssssssssssssssssssssssssssssssssssssssss…"',
    ],
  },
  {
    name: "The other sections: http without port",
    given: top("admin: { http: 127.0.0.1 }"),
    want: ['gw.yaml:2:16: admin.http: expected off or ADDRESS:PORT, got "127.0.0.1"'],
  },
  {
    name: "The other sections: http on port 0",
    given: top("admin: { http: '127.0.0.1:0' }"),
    want: ['gw.yaml:2:16: admin.http: expected off or ADDRESS:PORT, got "127.0.0.1:0"'],
  },
  {
    name: "The other sections: http for everyone without a token",
    given: top("admin: { http: 0.0.0.0:9105 }"),
    want: [
      "gw.yaml:2:16: admin.http: expected admin.tokenFile for an address that is not loopback, got none",
    ],
  },
  {
    name: "The other sections: http on IPv6 without brackets",
    given: top("admin: { http: '::1:9105' }"),
    want: ['gw.yaml:2:16: admin.http: expected off or ADDRESS:PORT, got "::1:9105"'],
  },
  {
    name: "The other sections: a duration without a unit",
    given: top("shutdown: { timeout: 30 }"),
    want: [
      "gw.yaml:2:22: shutdown.timeout: expected a duration from 0s to 168h, such as 500ms, 2s or 2h4m, got 30",
    ],
  },
  {
    name: "The other sections: a duration with a fraction",
    given: top("shutdown: { timeout: 1.5s }"),
    want: [
      'gw.yaml:2:22: shutdown.timeout: expected a duration from 0s to 168h, such as 500ms, 2s or 2h4m, got "1.5s"',
    ],
  },
  {
    name: "The other sections: a duration with units out of order",
    given: top("shutdown: { timeout: 4m2h }"),
    want: [
      'gw.yaml:2:22: shutdown.timeout: expected a duration from 0s to 168h, such as 500ms, 2s or 2h4m, got "4m2h"',
    ],
  },
  {
    name: "The other sections: a duration that is too long",
    given: top("shutdown: { timeout: 169h }"),
    want: ['gw.yaml:2:22: shutdown.timeout: expected a duration from 0s to 168h, got "169h"'],
  },
  {
    name: "The other sections: a seed that is a number",
    given: top("hash: { seed: 5 }"),
    want: ["gw.yaml:2:15: hash.seed: expected a text of at most 256 characters, got 5"],
  },
  {
    name: "The other sections: SNAT range upside down",
    given: top("snat: { addresses: [10.20.0.103-10.20.0.100] }"),
    want: [
      'gw.yaml:2:21: snat.addresses[0]: expected a range with its lower end first, got "10.20.0.103-10.20.0.100"',
    ],
  },
  {
    name: "The other sections: SNAT range too large",
    given: top("snat: { addresses: [10.20.0.0-10.20.255.255] }"),
    want: ["gw.yaml:2:21: snat.addresses[0]: expected at most 256 addresses, got 65536"],
  },
  {
    name: "The other sections: SNAT ranges too large together",
    given: top("snat: { addresses: [10.30.0.0-10.30.0.199, 10.31.0.0-10.31.0.199] }"),
    want: ["gw.yaml:2:20: snat.addresses: expected at most 256 addresses in all, got 400"],
  },
  {
    name: "The other sections: SNAT ports upside down",
    given: top("snat: { ports: 9000-8000 }"),
    want: ['gw.yaml:2:16: snat.ports: expected a range with its lower end first, got "9000-8000"'],
  },
  {
    name: "The other sections: SNAT port 0",
    given: top("snat: { ports: 0-65535 }"),
    want: ['gw.yaml:2:16: snat.ports: expected a range within 1-65535, got "0-65535"'],
  },
  {
    name: "The other sections: a SNAT address twice",
    given: top("snat: { addresses: [10.20.0.100-10.20.0.103, 10.20.0.102] }"),
    want: [
      "gw.yaml:2:46: snat.addresses[1]: expected each address once, got 10.20.0.102 again (first at gw.yaml:2:21)",
    ],
  },
];
