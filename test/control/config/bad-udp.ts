import { type BadConfig, one } from "./config-text.ts";

/** Wrong values of `udp`, `quic` and `serverId`, and what contradicts itself among them. */
const NAMED = '[{ address: 10.20.0.11, port: 8080, serverId: "0a1b" }]';

export const BAD_UDP: readonly BadConfig[] = [
  {
    name: "udp: wrong values",
    given: one({ protocol: "udp", udp: "{ perPacket: yes, maxAge: 1ms }" }),
    want: [
      'gw.yaml:7:23: services[0].udp.perPacket: expected true or false, got "yes"',
      'gw.yaml:7:36: services[0].udp.maxAge: expected a duration from 10ms to 168h, or off, got "1ms"',
    ],
  },
  {
    name: "udp: of a service without UDP",
    given: one({ udp: "{ perPacket: true }" }),
    want: [
      "gw.yaml:7:10: services[0].udp: expected no udp for a service without protocol udp (gw.yaml:6:15), got one",
    ],
  },
  {
    name: "udp: an age where no flow gets old",
    given: one({ protocol: "udp", udp: "{ perPacket: true, maxAge: 5m }" }),
    want: [
      "gw.yaml:7:37: services[0].udp.maxAge: expected off with udp.perPacket (gw.yaml:7:23), which lets no flow grow old",
    ],
  },
  {
    name: "quic: wrong values",
    given: one({ protocol: "udp", quic: "{ serverIdBytes: 16, configRotation: 7 }" }),
    want: [
      "gw.yaml:7:28: services[0].quic.serverIdBytes: expected a whole number from 1 to 15, got 16",
      "gw.yaml:7:48: services[0].quic.configRotation: expected a whole number from 0 to 6, got 7",
    ],
  },
  {
    name: "quic: of a service without UDP",
    given: one({ quic: "{ serverIdBytes: 2 }" }),
    want: [
      "gw.yaml:7:11: services[0].quic: expected no quic for a service without protocol udp (gw.yaml:6:15), got one",
    ],
  },
  {
    name: "quic: a backend without a server ID",
    given: one({ protocol: "udp", quic: "{ serverIdBytes: 2 }" }),
    want: [
      "gw.yaml:8:16: services[0].backends[0]: expected a serverId of 4 hex digits (quic.serverIdBytes: 2), got none",
    ],
  },
  {
    name: "quic: a server ID of another length, no hex, one twice",
    given: one({
      protocol: "udp",
      quic: "{ serverIdBytes: 2 }",
      backends:
        '[{ address: 10.20.0.11, serverId: "0a" }, { address: 10.20.0.12, serverId: "0A1B" }, { address: 10.20.0.13, serverId: "0a1b" }, { address: 10.20.0.14, serverId: "0a1b" }]',
    }),
    want: [
      'gw.yaml:8:49: services[0].backends[0].serverId: expected a serverId of 4 hex digits (quic.serverIdBytes: 2), got "0a"',
      'gw.yaml:8:90: services[0].backends[1].serverId: expected hex digits, two a byte, got "0A1B"',
      "gw.yaml:8:176: services[0].backends[3].serverId: expected each serverId once, got 0a1b again (first at gw.yaml:8:133)",
    ],
  },
  {
    name: "quic: a server ID where nobody looks at it",
    given: one({ protocol: "udp", backends: NAMED }),
    want: [
      "gw.yaml:7:61: services[0].backends[0].serverId: expected no serverId in a service without quic",
    ],
  },
  {
    name: "quic: with datagrams scheduled one by one",
    given: one({
      protocol: "udp",
      udp: "{ perPacket: true }",
      quic: "{ serverIdBytes: 2 }",
      backends: NAMED,
    }),
    want: [
      "gw.yaml:8:11: services[0].quic: expected off with udp.perPacket, which keeps no connection together",
    ],
  },
];
