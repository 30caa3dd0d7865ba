import { type BadConfig, DEVICE, one, service, top } from "./config-text.ts";

const withProbe = (keys: Parameters<typeof service>[0], probe = "{}", device = DEVICE): string =>
  `${device}probe: ${probe}\nservices:\n${service({ health: "{ through: path }", ...keys })}`;
const POOL = "snat: { addresses: [10.20.0.100] }\n";

/** When and where health checks go, and agents. */
export const BAD_PROBE: readonly BadConfig[] = [
  {
    name: "health: a timeout above the fast interval",
    given: one({ health: "{ timeout: 1s, fastInterval: 500ms, downInterval: 200ms }" }),
    want: [
      "gw.yaml:7:24: services[0].health.timeout: expected at most the fastInterval of 500ms (gw.yaml:7:42), got 1s",
      "gw.yaml:7:24: services[0].health.timeout: expected at most the downInterval of 200ms (gw.yaml:7:63), got 1s",
    ],
  },
  {
    name: "health: through a path that is not there",
    given: one({ health: "{ through: path }" }),
    want: ["gw.yaml:7:24: services[0].health.through: expected direct without probe, got path"],
  },
  {
    name: "health: too few checks at once",
    given: top("health: { concurrent: 0 }"),
    want: ["gw.yaml:2:23: health.concurrent: expected a whole number from 1 to 4096, got 0"],
  },
  {
    name: "probe: a word",
    given: top("probe: on"),
    want: ['gw.yaml:2:8: probe: expected a map of keys, or off, got "on"'],
  },
  {
    name: "probe: sources that are too few",
    given: top("probe: { ipv4: 198.18.0.0/24 }"),
    want: ['gw.yaml:2:16: probe.ipv4: expected an IPv4 prefix of 16 bits, got "198.18.0.0/24"'],
  },
  {
    name: "probe: on tun",
    given: withProbe({}, "{}", "device: { type: tun }\n"),
    want: [
      "gw.yaml:2:8: probe: expected off with device.type tun (gw.yaml:1:17), where checks through the data path are not possible: what the gateway's own host sends to a VIP would come back from the device as a packet with the host's own source, which the kernel drops",
    ],
  },
  {
    name: "probe: replies by route",
    given: withProbe({}, "{}", "device: { type: packet, interfaces: [eth0], replies: route }\n"),
    want: [
      "gw.yaml:2:8: probe: expected off with device.replies route (gw.yaml:1:54): a check has no route back",
    ],
  },
  {
    name: "probe: more backend slots than sources",
    given: withProbe({}, "{}", `${DEVICE}limits: { backends: 70000 }\n`),
    want: [
      "gw.yaml:2:21: limits.backends: expected at most 65534 with probe (gw.yaml:3:8), which has a source for each, got 70000",
    ],
  },
  {
    name: "probe: sources among the backends",
    given: withProbe({}, "{ ipv4: 10.20.0.0/16 }"),
    want: [
      "gw.yaml:9:27: services[0].backends[0].address: expected an address outside 10.20.0.0/16, the sources of probe.ipv4 (gw.yaml:2:16), got 10.20.0.11",
    ],
  },
  {
    name: "path: TCP to a service without",
    given: withProbe({ protocol: "udp" }),
    want: [
      "gw.yaml:8:24: services[0].health.through: expected direct for type tcp in a service without protocol tcp (gw.yaml:7:15), got path",
    ],
  },
  {
    name: "path: only an IPv6 VIP",
    given: withProbe({ vip: "'2001:db8:ff::10'", mode: "full-nat" }, "{}", `${DEVICE}${POOL}`),
    want: [
      "gw.yaml:9:24: services[0].health.through: expected direct without an IPv4 VIP (gw.yaml:6:10), since checks come from IPv4, got path",
    ],
  },
  {
    name: "path: a port that is not the VIP's, a source, a place of a backend's own",
    given: withProbe({
      health: "{ through: path, port: 8080, source: 10.20.0.1 }",
      backends: "[{ address: 10.20.0.11, check: { port: 9 } }]",
    }),
    want: [
      "gw.yaml:8:36: services[0].health.port: expected a port of the VIP (gw.yaml:6:11), got 8080",
      "gw.yaml:8:50: services[0].health.source: expected no source for checks through the data path (gw.yaml:8:24), got one",
      "gw.yaml:9:54: services[0].backends[0].check.port: expected no port for checks through the data path (gw.yaml:8:24), got one",
    ],
  },
  {
    name: "path: no port of the VIP said",
    given: withProbe({ port: "8000-8099" }),
    want: [
      "gw.yaml:8:13: services[0].health: expected a port of the VIP (gw.yaml:6:11) to check, got none",
    ],
  },
  {
    name: "agent: no port",
    given: one({ agent: "{ interval: 1s }" }),
    want: [
      "gw.yaml:8:16: services[0].backends[0]: expected a check.agentPort, since agent has no port (gw.yaml:7:12), got none",
    ],
  },
  {
    name: "agent: a port without an agent",
    given: one({ backends: "[{ address: 10.20.0.11, port: 80, check: { agentPort: 7 } }]" }),
    want: [
      "gw.yaml:7:69: services[0].backends[0].check.agentPort: expected no agentPort in a service without agent",
    ],
  },
  {
    name: "agent: a timeout above the interval",
    given: one({ agent: "{ port: 7, timeout: 3s }" }),
    want: ["gw.yaml:7:32: services[0].agent.timeout: expected at most the interval of 2s, got 3s"],
  },
];
