import type { z } from "zod";
import {
  ACCESS_PREFIXES_MAX,
  AFFINITY_MAX,
  BACKENDS_MAX,
  CPU_MAX,
  INTERFACES_MAX,
  SNAT_ADDRESSES_MAX,
  SOURCES_MAX,
  WORKERS_MAX,
} from "../../base/limits.ts";
import { CHECKS_AT_ONCE } from "../../service/definition.ts";
import { jsonOf, list, optional, section, sectionOrWord, withDefault } from "./fields.ts";
import {
  absolutePath,
  addressOfFamily,
  addressRange,
  autoOrBoolean,
  boolean,
  duration,
  httpEndpoint,
  integer,
  listOf,
  numberRange,
  offOr,
  port,
  probeRange,
  text,
  userName,
  words,
} from "./kinds.ts";
import { SERVICE_NAME, serviceKeys, timeouts } from "./service-schema.ts";

/**
 * Every key of a configuration file: what it may be, its default, and what it is for. The reading,
 * the messages, the JSON Schema and the table in docs/configuration.md all come from here.
 */

/** Top-level keys that only a restart takes over. */
export const RESTART_KEYS = ["device", "flows", "limits", "user", "admin", "probe"] as const;

const interfaceName = text("an interface name", /^[^\s/:]+$/, { max: 15 });

export const fileSchema = section(
  {
    version: withDefault(integer(1, 1), 1, "Version of this format"),
    device: section(
      {
        type: optional(
          words(["tun", "packet", "xdp"]),
          "TUN device, AF_PACKET sockets or AF_XDP sockets",
          "required",
        ),
        name: optional(interfaceName, "tun: name of the device", "hg0"),
        routes: optional(
          words(["auto", "none"]),
          "tun: routes and rules made by the gateway, or by you",
          "auto",
        ),
        interfaces: optional(
          listOf(interfaceName, { min: 1, max: INTERFACES_MAX, distinct: true }),
          "packet, xdp: one interface (one-arm) or several",
          "required for packet and xdp",
        ),
        workers: withDefault(
          integer(1, WORKERS_MAX),
          1,
          "Data-plane threads, at most one a processor",
        ),
        cpus: withDefault(
          listOf(integer(0, CPU_MAX), { min: 0, max: WORKERS_MAX, distinct: true }),
          [],
          "Processors that the workers stay on, one each in their order; none: where the kernel puts them",
        ),
        guard: withDefault(
          words(["process", "persistent"]),
          "process",
          "packet, xdp: what keeps the kernel away from our packets goes with the process, or stays",
        ),
        announce: withDefault(boolean, true, "packet, xdp: answer ARP; false for a standby"),
        replies: withDefault(
          words(["last-hop", "route"]),
          "last-hop",
          "packet, xdp: replies go back the way the flow came, or by the host's routes",
        ),
        spin: withDefault(
          integer(0, 10_000),
          0,
          "Microseconds that a worker looks for frames before it sleeps, after it had some",
        ),
        xdp: section(
          {
            mode: withDefault(
              words(["auto", "native", "generic"]),
              "auto",
              "XDP program in the driver, after it, or in the driver where that can",
            ),
            zeroCopy: withDefault(
              words(["auto", "off", "require"]),
              "auto",
              "Frames without a copy between driver and gateway",
            ),
            busyPoll: withDefault(
              integer(0, 10_000),
              0,
              "Microseconds of SO_BUSY_POLL: the worker drives the driver's queue itself; 0 is off",
            ),
          },
          "xdp: how the interfaces are driven",
        ),
      },
      "Where frames come from",
      ["type"],
    ),
    user: optional(
      userName,
      "User to become once everything is open, before the first frame is handled",
      "stays root",
    ),
    log: section(
      {
        level: withDefault(
          words(["trace", "debug", "info", "warn", "error"]),
          "info",
          "Lowest level that is logged",
        ),
      },
      "Log on standard error",
    ),
    flows: section(
      {
        capacity: withDefault(
          integer(1, 1 << 24),
          1_048_576,
          "Flows at once; about 100 bytes each",
        ),
        stateFile: optional(
          absolutePath("a file on tmpfs", 4000),
          "File of all data-plane state",
          "/run/headgate/state where /run is tmpfs, else /dev/shm/headgate/state",
        ),
        whenFull: withDefault(
          words(["evict", "drop"]),
          "evict",
          "evict: a half-open, then a closed flow makes room; established ones never do",
        ),
        ipv6: withDefault(
          autoOrBoolean,
          "auto",
          "Room for IPv6 flows, 64 bytes each more: auto takes it where an address of the configuration is IPv6",
        ),
        statelessAbove: withDefault(
          offOr(integer(1, 10_000_000)),
          "off",
          "New flows a second from which on services with a hash scheduler and a one-way mode go on without flows",
        ),
      },
      "The flow table",
    ),
    limits: section(
      {
        services: withDefault(
          integer(1, 65_535),
          1024,
          "Service slots: one per service and protocol",
        ),
        backends: withDefault(
          integer(1, BACKENDS_MAX),
          4096,
          "Backend slots: one per service, protocol and backend; also sorry servers and removed backends with flows",
        ),
        hashSlots: withDefault(
          integer(256, 1 << 26),
          4_194_304,
          "Slots of all scheduler tables together",
        ),
        accessPrefixes: withDefault(
          integer(1, ACCESS_PREFIXES_MAX),
          131_072,
          "Prefixes of all access lists together, once per protocol of their service; 64 bytes each",
        ),
        sources: withDefault(
          integer(4, SOURCES_MAX),
          65_536,
          "Sources that limits.newPerSource of services tells apart at once; 16 bytes each",
        ),
        affinity: withDefault(
          integer(1, AFFINITY_MAX),
          100_000,
          "Clients that affinity remembers at once; 68 to 170 bytes each, and 4 a flow, where a service has it at the start",
        ),
      },
      "Room taken at start",
    ),
    health: section(
      {
        concurrent: withDefault(
          integer(1, 4096),
          CHECKS_AT_ONCE,
          "Checks and agents that are asked at once; the rest wait their turn",
        ),
      },
      "Health checks of all services",
    ),
    probe: sectionOrWord(
      {
        interface: withDefault(
          text("an interface name of at most 12 bytes", /^[^\s/:%]+$/, { max: 12 }),
          "hgprobe",
          "Name of the host's end of a veth pair that the gateway makes; its own end is NAME-gw",
        ),
        ipv4: withDefault(
          probeRange,
          "198.18.0.0/16",
          "Source addresses of these checks, one a backend slot: nobody else's, and backends answer to them as to any client",
        ),
      },
      "off",
      "packet, xdp: health checks with through: path come in as clients do",
    ),
    hash: section(
      {
        seed: withDefault(
          text("a text of at most 256 characters", /^[^\0]*$/, { min: 0, max: 256 }),
          "",
          "The same on every node of a fleet, so that hash schedulers choose the same",
        ),
      },
      "Scheduling hash",
    ),
    shutdown: section(
      {
        mode: withDefault(
          words(["keep", "drain"]),
          "keep",
          "SIGTERM: leave flows to the next process, or wait for them to end",
        ),
        timeout: withDefault(duration("0s", "168h"), "30s", "drain: how long to wait"),
      },
      "What SIGTERM and SIGINT do",
    ),
    admin: section(
      {
        // sun_path has 108 bytes with its zero (unix(7)).
        socket: withDefault(
          absolutePath("a socket", 107),
          "/run/headgate/admin.sock",
          "Unix socket of the commands",
        ),
        http: withDefault(
          httpEndpoint,
          "off",
          "HTTP address of metrics; any but a loopback one needs tokenFile",
        ),
        tokenFile: optional(
          absolutePath("a file", 4000),
          "File with the bearer token that HTTP asks for",
          "none",
        ),
      },
      "Administration",
    ),
    snat: section(
      {
        addresses: withDefault(
          listOf(addressRange, { min: 0, max: SNAT_ADDRESSES_MAX, distinct: false }),
          [],
          `Source addresses of full-nat; at most ${SNAT_ADDRESSES_MAX} in all`,
        ),
        ports: withDefault(numberRange(1, 65_535), "1024-65535", "Source ports of full-nat"),
      },
      "Pool of full-nat",
    ),
    tunnel: section(
      {
        source: section(
          {
            ipv4: optional(
              addressOfFamily(4),
              "Outer IPv4 source; on tun no address of the host",
              "required for ipip and gue with IPv4 backends",
            ),
            ipv6: optional(
              addressOfFamily(6),
              "Outer IPv6 source, likewise",
              "required for ipip and gue with IPv6 backends",
            ),
          },
          "Outer source addresses",
        ),
        gue: section(
          {
            port: withDefault(port, 6080, "UDP port of GUE"),
            checksum: optional(
              words(["zero", "computed"]),
              "Outer UDP checksum",
              "zero over IPv4, computed over IPv6",
            ),
          },
          "Generic UDP encapsulation",
        ),
      },
      "Tunnels: modes ipip and gue",
    ),
    timeouts,
    defaults: section(serviceKeys(), "Any service key, for all services that do not say it"),
    services: list(
      section(
        {
          name: optional(
            text(
              "a name of a-z 0-9 . / - that starts and ends with a letter or digit",
              SERVICE_NAME,
              { max: 128 },
            ),
            "Unique and stable: counters and overrides belong to it",
            "required",
          ),
          ...serviceKeys(),
        },
        "One service",
        ["name"],
      ),
      "The services",
    ),
  },
  "Headgate configuration",
  ["device"],
);

/** A parsed file with its defaults; lists have holes where an entry was wrong. */
export type FileValues = z.output<typeof fileSchema>;
export type ServiceValues = FileValues["services"][number];

/**
 * The configuration as JSON Schema (draft 2020-12), for editors:
 * `# yaml-language-server: $schema=./headgate.schema.json`.
 */
export function jsonSchema(): Record<string, unknown> {
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "Headgate configuration",
    ...jsonOf(fileSchema),
  };
}
