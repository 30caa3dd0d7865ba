import { QUIC_ROTATION_MAX, QUIC_SERVER_ID_BYTES_MAX } from "../../base/limits.ts";
import { prefix } from "./access-lists.ts";
import {
  list,
  optional,
  section,
  sectionOrWord,
  type ValueKind,
  valueOrSection,
  withDefault,
} from "./fields.ts";
import { agentSection, checkSection, healthSection } from "./health-schema.ts";
import {
  absolutePath,
  boolean,
  duration,
  fraction,
  hostAddress,
  integer,
  listOf,
  offOr,
  oneOrMany,
  port,
  portRange,
  prime,
  text,
  vipAddress,
  word,
  words,
} from "./kinds.ts";
import { backendCountOrPercent, percent } from "./pool-kinds.ts";

/** The keys of a service, which `defaults` may give for all of them. */

export const SERVICE_NAME = /^[a-z0-9](?:[a-z0-9./-]{0,126}[a-z0-9])?$/;

/** `maxLoad`: at 1 nearly every backend would be full, and above 10 hardly one ever is. */
const LOAD_MIN = 1.01;
const LOAD_MAX = 10;
/** Slots of a maglev table: below 251 it spreads badly, the largest is the Maglev paper's (5.3). */
const TABLE_SLOTS_MIN = 251;
const TABLE_SLOTS_MAX = 655_373;

/** Ticks are int32 milliseconds compared by difference: a week is far below half their range. */
const timeout = duration("10ms", "168h");

const tcpTimeouts = {
  synSent: withDefault(timeout, "30s", "SYN seen, no answer yet"),
  synReceived: withDefault(timeout, "60s", "SYN-ACK seen, handshake not done"),
  established: withDefault(timeout, "2h4m", "Connection open"),
  finWait: withDefault(timeout, "4m", "One side has closed"),
  closeWait: withDefault(timeout, "4m", "The other side has still to close"),
  lastAck: withDefault(timeout, "30s", "Both have closed, last ACK not seen"),
  timeWait: withDefault(timeout, "2m", "Closed in order"),
  close: withDefault(timeout, "10s", "Reset"),
};

const udpTimeouts = {
  oneWay: withDefault(timeout, "2m", "No reply seen yet"),
  replied: withDefault(timeout, "5m", "A reply was seen"),
};

export const timeouts = section(
  {
    tcp: section(tcpTimeouts, "By TCP state"),
    udp: section(udpTimeouts, "By UDP state"),
  },
  "When an idle flow ends",
);

const passive = sectionOrWord(
  {
    failures: withDefault(integer(1, 1000), 5, "New flows in a row that have to fail"),
    silence: withDefault(
      duration("20ms", "1m"),
      "100ms",
      "How long a backend has to leave every new flow unanswered; at least 8 times its mean latency",
    ),
    ejection: withDefault(
      duration("100ms", "24h"),
      "30s",
      "How long the first ejection lasts; the n-th n times as long",
    ),
    maximum: withDefault(duration("100ms", "24h"), "300s", "The longest ejection"),
    interval: withDefault(
      duration("100ms", "24h"),
      "10s",
      "Good time that makes the next ejection shorter by one step",
    ),
    ejectAtMost: withDefault(
      fraction(0, 1),
      0.1,
      "Share of the service's backends that may be ejected at once; one of several always may",
    ),
    activeCheckEnds: withDefault(
      boolean,
      true,
      "A health check that succeeds ends an ejection at once",
    ),
    answers: withDefault(
      boolean,
      false,
      "UDP: the backends answer every client, so that a flow without an answer has failed",
    ),
  },
  "off",
  "Passive checks: eject backends that new flows find dead (docs/passive.md); nat and full-nat only",
);

const MSS_LOW = 64;
const MSS_HIGH = 65_495;
const segmentBytes = integer(MSS_LOW, MSS_HIGH);
const maximumSegment: ValueKind<"off" | "auto" | number> = {
  expects: `off, auto, or a whole number from ${MSS_LOW} to ${MSS_HIGH}`,
  json: { anyOf: [{ enum: ["off", "auto"] }, segmentBytes.json] },
  read: (input) => {
    if (input === "off" || input === "auto") return input;
    const read = segmentBytes.read(input);
    return typeof read === "number" ? read : undefined;
  },
};

const existingRule = words(["keep", "drain", "reset"]);

const udp = section(
  {
    perPacket: withDefault(
      boolean,
      false,
      "Schedule every datagram of a client by itself, for exchanges of one datagram each (DNS)",
    ),
    maxAge: withDefault(
      offOr(timeout),
      "off",
      "Balance a flow anew that is older, even while datagrams keep coming",
    ),
  },
  "UDP flows",
);

const quic = sectionOrWord(
  {
    serverIdBytes: withDefault(
      integer(1, QUIC_SERVER_ID_BYTES_MAX),
      8,
      "Bytes of a server ID in connection IDs, behind their first byte",
    ),
    configRotation: withDefault(
      integer(0, QUIC_ROTATION_MAX),
      0,
      "What the top three bits of a connection ID's first byte must be",
    ),
  },
  "off",
  "Route QUIC by the server ID in connection IDs (draft-ietf-quic-load-balancers, unencrypted)",
);

/** Flows at once: what a flow table can have. */
const flowCount = integer(1, 1 << 24);

const slowStart = sectionOrWord(
  {
    window: withDefault(duration("1s", "1h"), "30s", "Time until it has its whole weight"),
    minimumWeight: withDefault(percent(1, 99), "10%", "Share of its weight at first"),
  },
  "off",
  "A backend that comes up gets its weight in ten steps",
);

const backend = section(
  {
    address: optional(hostAddress, "Address of the backend", "required"),
    port: optional(port, "Port of the backend", "the packet's"),
    weight: withDefault(integer(0, 65_535), 1, "Share of new flows; 0 drains"),
    priority: withDefault(
      integer(0, 255),
      0,
      "Tier, 0 is the first: it takes flows while those before it have too few backends up",
    ),
    maxConnections: optional(
      flowCount,
      "Flows at once, like limits.perBackend",
      "limits.perBackend.connections",
    ),
    serverId: optional(
      text("hex digits, two a byte", /^(?:[0-9a-f]{2})+$/, { max: 2 * QUIC_SERVER_ID_BYTES_MAX }),
      "QUIC server ID that the backend puts into its connection IDs",
      "required with quic",
    ),
    check: checkSection,
  },
  "One backend",
  ["address"],
);

const refusal = words(["drop", "reset"]);

/** Prefixes that stand in the configuration itself; more belong into a file. */
const prefixes = listOf(prefix, { min: 0, max: 65_536, distinct: false });

const access = section(
  {
    allow: optional(prefixes, "Prefixes of clients that are admitted", "everybody"),
    allowFile: optional(
      absolutePath("a file with one prefix a line", 4000),
      "More of them; read again at every reload",
      "none",
    ),
    deny: withDefault(prefixes, [], "Prefixes of clients that are refused"),
    denyFile: optional(
      absolutePath("a file with one prefix a line", 4000),
      "More of them; read again at every reload",
      "none",
    ),
    refuse: withDefault(
      refusal,
      "drop",
      "What a new flow of a refused client gets; reset: RST, or port unreachable for UDP",
    ),
  },
  "Who may open flows: the longest prefix decides; with an allow list, nobody else",
);

const synProxy = section(
  {
    mode: withDefault(
      words(["off", "auto", "on"]),
      "off",
      "Answer SYNs by cookies: never, under pressure, always; nat and full-nat only",
    ),
    mss: optional(integer(88, 65_495), "MSS that clients are told", "the backends'"),
    windowScale: optional(
      offOr(integer(0, 14)),
      "Window scale that clients are told; off: none",
      "the backends'",
    ),
    sack: optional(boolean, "Offer selective acknowledgements", "as the backends do"),
    timestamps: optional(
      boolean,
      "Offer timestamps; without them a cookie keeps neither window scale nor SACK",
      "as the backends do",
    ),
    halfOpen: withDefault(
      integer(1, 1 << 24),
      1024,
      "auto: half-open flows of the service that begin it; it ends below half of them",
    ),
  },
  "SYN cookies (RFC 4987); auto also begins when three quarters of the flow table are in use",
);

const limits = section(
  {
    connections: optional(flowCount, "Flows at once", "no limit"),
    packetsPerSecond: optional(
      integer(1, 1_000_000_000),
      "Packets of clients a second; what is above is dropped",
      "no limit",
    ),
    newPerSource: sectionOrWord(
      {
        rate: withDefault(integer(1, 1_000_000), 100, "New flows a second"),
        burst: optional(integer(1, 1_000_000), "New flows at once", "the rate"),
        prefix: section(
          {
            ipv4: withDefault(integer(1, 32), 32, "Bits of an IPv4 client address that count"),
            ipv6: withDefault(integer(1, 128), 64, "Bits of an IPv6 client address that count"),
          },
          "What one source is",
        ),
      },
      "off",
      "New flows of one source",
    ),
    perBackend: section(
      {
        connections: optional(
          flowCount,
          "Flows at once; a backend that has them gets new ones again at three quarters",
          "no limit",
        ),
      },
      "Limits of each backend",
    ),
    refuse: withDefault(
      refusal,
      "drop",
      "What a new flow above a limit gets; reset: RST, or port unreachable for UDP",
    ),
  },
  "Limits of the service; with several workers each has its share",
);

const affinity = sectionOrWord(
  {
    key: withDefault(words(["client-address"]), "client-address", "What belongs together"),
    prefix: section(
      {
        ipv4: withDefault(integer(1, 32), 32, "Bits of an IPv4 client address that count"),
        ipv6: withDefault(integer(1, 128), 128, "Bits of an IPv6 client address that count"),
      },
      "Clients of one network as one",
    ),
    timeout: withDefault(
      timeout,
      "5m",
      "How long after its last flow has begun and ended; never while one lives",
    ),
    group: optional(
      text("a group name", SERVICE_NAME, { max: 128 }),
      "Services of one group share a client's backend, told by its address",
      "the service alone",
    ),
  },
  "off",
  "New flows of a client go to the backend that it has: see docs/affinity.md",
);

const schedulerWord = word(
  {
    "round-robin": "round-robin",
    rr: "round-robin",
    "weighted-round-robin": "weighted-round-robin",
    wrr: "weighted-round-robin",
    "least-connections": "least-connections",
    lc: "least-connections",
    "weighted-least-connections": "weighted-least-connections",
    wlc: "weighted-least-connections",
    "source-hash": "source-hash",
    sh: "source-hash",
    maglev: "maglev",
    mh: "maglev",
    "shortest-expected-delay": "shortest-expected-delay",
    sed: "shortest-expected-delay",
    "never-queue": "never-queue",
    nq: "never-queue",
    rendezvous: "rendezvous",
    hrw: "rendezvous",
    "power-of-two": "power-of-two",
    twos: "power-of-two",
    random: "random",
    failover: "failover",
    fo: "failover",
    overflow: "overflow",
    ovf: "overflow",
    "least-latency": "least-latency",
    ll: "least-latency",
  },
  "scheduler",
);

/** `scheduler` as a map. */
function policyKeys() {
  return {
    module: optional(
      text("a path of a TypeScript file that ends in .ts", /^[^\0]+\.ts$/, { max: 4000 }),
      "The policy's module; relative to the folder of this file",
      "required in the map",
    ),
    fallback: withDefault(
      schedulerWord,
      "maglev",
      "Scheduler before the policy has answered, while it fails, and that its weights go to",
    ),
    shadow: withDefault(
      boolean,
      false,
      "The fallback decides; the policy is only compared with it",
    ),
    timeout: withDefault(duration("10ms", "1s"), "500ms", "Longest that an answer may take"),
    interval: withDefault(duration("100ms", "1h"), "1s", "Time between two calls without a change"),
  };
}

/** Every key that a service has and `defaults` may give, in the order of the documentation. */
export function serviceKeys() {
  return {
    vip: optional(oneOrMany(vipAddress), "Virtual addresses", "required"),
    port: optional(oneOrMany(portRange), "Virtual ports", "required"),
    protocol: optional(oneOrMany(words(["tcp", "udp"]), true), "Protocols", "required"),
    mode: withDefault(
      words(["nat", "full-nat", "dsr", "ipip", "gue"]),
      "nat",
      "How packets reach the backends: see docs/forwarding.md",
    ),
    mtu: section(
      {
        tooBig: withDefault(
          words(["icmp", "fragment"]),
          "icmp",
          "ipip and gue: ICMP to the client where a packet may not be split (DF, IPv6), or fragments of the outer packet for all",
        ),
      },
      "Packets that are too large for the way to the backend",
    ),
    mss: withDefault(
      maximumSegment,
      "off",
      "Lower the TCP segment size that SYN and SYN-ACK ask for; auto: to what both ways and the outer header leave",
    ),
    scheduler: valueOrSection(
      schedulerWord,
      "maglev",
      policyKeys(),
      "Which backend a new flow goes to; see docs/schedulers.md; a map: a policy in TypeScript, see docs/policy.md",
    ),
    maxLoad: withDefault(
      offOr(fraction(LOAD_MIN, LOAD_MAX)),
      "off",
      "maglev with bounded loads: a backend's share of the flows by weight, times this, is the most it gets",
    ),
    tableSize: withDefault(
      prime(TABLE_SLOTS_MIN, TABLE_SLOTS_MAX),
      65_537,
      "Slots of the maglev table; best at least 100 times the backends",
    ),
    affinity,
    timeouts,
    udp,
    quic,
    outOfState: optional(
      words(["adopt", "reset", "drop"]),
      "TCP segments that belong to no flow; adopt only where every node chooses alike (source-hash, maglev without maxLoad, rendezvous, failover), outside full-nat",
      "adopt for source-hash, maglev without maxLoad, rendezvous and failover outside full-nat, else reset",
    ),
    onIdle: withDefault(
      words(["reset", "silent"]),
      "reset",
      "An established flow that expires: RST to both ends, or nothing",
    ),
    existingFlows: section(
      {
        drained: withDefault(existingRule, "keep", "Flows of a backend that is drained"),
        removed: withDefault(existingRule, "drain", "Flows of a backend that a reload removed"),
        down: withDefault(existingRule, "keep", "Flows of a backend whose checks fail"),
        disabled: withDefault(existingRule, "reset", "Flows of a backend that is disabled"),
        ejected: withDefault(
          existingRule,
          "keep",
          "Flows of a backend that passive checks ejected",
        ),
        deadline: withDefault(duration("0s", "168h"), "5m", "drain: time until they are reset"),
      },
      "What happens to flows that a backend has",
    ),
    noBackend: section(
      {
        action: withDefault(
          words(["reset", "drop", "panic", "sorry"]),
          "reset",
          "panic uses all backends, sorry the one named here",
        ),
        address: optional(hostAddress, "sorry: address of the sorry server", "required for sorry"),
        port: optional(port, "sorry: its port", "the packet's"),
      },
      "What a new flow gets when no backend takes it",
    ),
    minimumHealthy: withDefault(
      backendCountOrPercent,
      1,
      "Backends up (percent: of the first tier) without which the next tier takes flows too",
    ),
    panicThreshold: withDefault(
      percent(0, 100),
      "0%",
      "Share of backends up below which all take flows that no operator took out (Envoy: 50%)",
    ),
    slowStart,
    ping: withDefault(
      words(["always", "healthy", "never"]),
      "healthy",
      "Answer ICMP echo to the VIP address; healthy: while a backend is up",
    ),
    access,
    synProxy,
    limits,
    health: healthSection,
    passive,
    agent: agentSection,
    backends: list(backend, "The backends; may be empty", "required"),
  };
}
