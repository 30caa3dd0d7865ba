import { type BadConfig, one, top, two } from "./config-text.ts";

/** Wrong values of `affinity`, and what contradicts itself about it. */
export const BAD_AFFINITY: readonly BadConfig[] = [
  {
    name: "affinity: a wrong prefix, time and group",
    given: one({ affinity: "{ prefix: { ipv4: 33, ipv6: 0 }, timeout: 1ms, group: A B }" }),
    want: [
      "gw.yaml:7:33: services[0].affinity.prefix.ipv4: expected a whole number from 1 to 32, got 33",
      "gw.yaml:7:43: services[0].affinity.prefix.ipv6: expected a whole number from 1 to 128, got 0",
      'gw.yaml:7:57: services[0].affinity.timeout: expected a duration from 10ms to 168h, got "1ms"',
      'gw.yaml:7:69: services[0].affinity.group: expected a group name, got "A B"',
    ],
  },
  {
    name: "affinity: another word, another key",
    given: two({ affinity: "on" }, { port: "81", affinity: "{ key: cookie }" }),
    want: [
      'gw.yaml:7:15: services[0].affinity: expected a map of keys, or off, got "on"',
      'gw.yaml:13:22: services[1].affinity.key: expected client-address, got "cookie"',
    ],
  },
  {
    name: "affinity: a group that does not agree",
    given: two(
      { affinity: "{ group: shop, timeout: 5m }" },
      { port: "443", affinity: "{ group: shop, timeout: 6m, prefix: { ipv4: 24, ipv6: 64 } }" },
    ),
    want: [
      'gw.yaml:13:39: services[1].affinity.timeout: expected 5m, as in service "web" of the same group (gw.yaml:7:15), got 6m',
      'gw.yaml:13:59: services[1].affinity.prefix.ipv4: expected 32, as in service "web" of the same group (gw.yaml:7:15), got 24',
      'gw.yaml:13:69: services[1].affinity.prefix.ipv6: expected 128, as in service "web" of the same group (gw.yaml:7:15), got 64',
    ],
  },
  {
    name: "affinity: of a service that schedules every datagram",
    given: one({
      protocol: "[tcp, udp]",
      udp: "{ perPacket: true }",
      affinity: "{ timeout: 5m }",
    }),
    want: [
      "gw.yaml:8:15: services[0].affinity: expected off with udp.perPacket (gw.yaml:7:23), which keeps no client together",
    ],
  },
  {
    name: "limits.affinity: too many",
    given: top("limits: { affinity: 2000000 }"),
    want: ["gw.yaml:2:21: limits.affinity: expected a whole number from 1 to 1048576, got 2000000"],
  },
];
