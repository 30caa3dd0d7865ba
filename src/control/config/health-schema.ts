import { GRPC_SERVICE_BYTES_MAX } from "../../health/grpc-messages.ts";
import { DNS_QUERY_TYPES, DNS_RCODES, HEALTH_TYPES } from "../../service/health-definition.ts";
import { optional, section, sectionOrWord, type ValueKind, withDefault } from "./fields.ts";
import {
  anyText,
  commandLine,
  headerMap,
  hexText,
  regularExpression,
  scriptSteps,
} from "./health-kinds.ts";
import {
  absolutePath,
  boolean,
  duration,
  fraction,
  hostAddress,
  integer,
  listOf,
  numberRange,
  oneOrMany,
  port,
  text,
  userName,
  words,
} from "./kinds.ts";

/** Health checks of a service; which keys belong to which type: health-check.ts. */

const statusRange: ValueKind<readonly { low: number; high: number }[]> = (() => {
  const ranges = oneOrMany(numberRange(100, 599));
  return {
    expects: "a status from 100 to 599 or a range; one or a list",
    json: ranges.json,
    read: (input) => ranges.read(input) as ReturnType<typeof statusRange.read>,
  };
})();

const hostName = text("a host name", /^[A-Za-z0-9._:[\]-]+$/, { max: 255 });

/** When checks go, and where: for every type. */
const commonKeys = {
  type: withDefault(words(HEALTH_TYPES), "tcp", "What a check does: see docs/health.md"),
  interval: withDefault(duration("100ms", "1h"), "2s", "Time between two checks"),
  timeout: optional(
    duration("10ms", "1h"),
    "How long an answer may take; at most the interval",
    "1s, or the interval if that is shorter",
  ),
  fastInterval: optional(
    duration("100ms", "1h"),
    "The same while its health changes: starting, or after a result that speaks against it",
    "the interval",
  ),
  downInterval: optional(duration("100ms", "1h"), "The same while it is down", "the interval"),
  rise: withDefault(integer(1, 100), 2, "Successes until a backend that was down is up"),
  fall: withDefault(integer(1, 100), 3, "Failures until a backend is down"),
  spread: withDefault(fraction(0, 1), 0.1, "Share of the interval by which checks are spread"),
  port: optional(port, "Port to check", "the backend's; the service's if it has just one"),
  source: optional(hostAddress, "Source address of the checks", "the host's choice"),
  through: withDefault(
    words(["direct", "path"]),
    "direct",
    "To the backend, or to the VIP as a client, where the connection is given to this backend (probe)",
  ),
};

const httpKeys = {
  method: optional(
    words(["GET", "HEAD", "OPTIONS", "POST"]),
    "http, https, http2: method of the request, which has no body",
    "GET",
  ),
  path: optional(
    text("a path that starts with /", /^\/[\x21-\x7e]*$/, { max: 1024 }),
    "http, https, http2: path to ask for",
    "/",
  ),
  host: optional(
    hostName,
    "http, https: Host header; http2, grpc: :authority",
    "the backend's address",
  ),
  headers: optional(headerMap, "http, https, http2: more headers", "none"),
  status: optional(statusRange, "http, https, http2: what is a success", "200-399"),
  bodyContains: optional(anyText, "http, https, http2: text that the body has to hold", "any body"),
  bodyMatches: optional(
    regularExpression,
    "http, https, http2: regular expression that the body has to match",
    "any body",
  ),
  bodyBytes: optional(
    integer(1, 1 << 20),
    "http, https, http2: bytes of the body that are read",
    "65536",
  ),
};

const tlsKeys = {
  tls: optional(boolean, "http2, grpc, script: over TLS", "true for http2, else false"),
  serverName: optional(
    text("a host name", /^[A-Za-z0-9._-]+$/, { max: 253 }),
    "With TLS: name to ask for (SNI), which verify looks for in the certificate",
    "none is asked for; verify looks for the backend's address",
  ),
  verify: optional(boolean, "With TLS: a certificate that is not good is a failure", "false"),
  caFile: optional(
    absolutePath("a PEM file", 4000),
    "With TLS: who may have signed the certificate; read again at a reload",
    "the authorities that Node trusts",
  ),
  expiryWarning: optional(
    duration("0s", "87600h"),
    "With TLS: log a certificate that ends within this time; 0s: never",
    "336h",
  ),
};

const otherKeys = {
  grpcService: optional(
    text("the name of a gRPC service", /^[\x21-\x7e]*$/, { min: 0, max: GRPC_SERVICE_BYTES_MAX }),
    "grpc: service to ask for",
    "the server as a whole",
  ),
  send: optional(anyText, "udp: text of the datagram", "an empty datagram"),
  sendHex: optional(hexText(false), "udp: the same in hex", "an empty datagram"),
  expect: optional(anyText, "udp: what an answer begins with", "no answer is needed"),
  expectHex: optional(hexText(true), "udp: the same in hex", "no answer is needed"),
  query: optional(
    text("a domain name", /^(?:\.|[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?)$/, { max: 253 }),
    "dns: name to ask for",
    ".",
  ),
  queryType: optional(words(DNS_QUERY_TYPES), "dns: type of the records", "SOA"),
  rcode: optional(oneOrMany(words(DNS_RCODES), true), "dns: codes that are a success", "NOERROR"),
  answers: optional(
    listOf(anyText, { min: 1, max: 64, distinct: true }),
    "dns: records that have to be among the answers",
    "any",
  ),
  payloadBytes: optional(integer(16, 1400), "icmp: bytes behind the header", "56"),
  command: optional(commandLine, "exec: program and parameters", "required for exec"),
  user: optional(userName, "exec: whom to run it as", "whom the gateway runs as"),
  dynamicWeight: optional(
    boolean,
    "exec: exit codes from 2 are up, with (code - 2) percent of the weight",
    "false",
  ),
  steps: optional(
    scriptSteps,
    "script: what to send and to expect, in turn",
    "required for script",
  ),
};

export const healthSection = sectionOrWord(
  { ...commonKeys, ...httpKeys, ...tlsKeys, ...otherKeys },
  "none",
  "Health checks, from the host's own stack; left out or none: always up",
);

export const agentSection = sectionOrWord(
  {
    port: optional(port, "Port of the backends' agents", "each backend's check.agentPort"),
    interval: withDefault(duration("100ms", "1h"), "2s", "Time between two questions"),
    timeout: optional(
      duration("10ms", "1h"),
      "How long the line may take; at most the interval",
      "1s, or the interval if that is shorter",
    ),
    send: optional(
      text("a text of at most 256 characters", /^[^\0]*$/, { max: 256 }),
      "Sent as it is before the line is read",
      "nothing",
    ),
  },
  "none",
  "Agents of the backends, one line a connection (HAProxy's agent-check): weight, drain, maint, down",
);

/** Where one backend is checked; an address of its own may lie in a management network. */
export const checkSection = section(
  {
    address: optional(hostAddress, "Address that checks and agent are at", "the backend's"),
    port: optional(port, "Port to check", "health.port, or as that says"),
    agentPort: optional(port, "Port of its agent", "agent.port"),
  },
  "Where this backend is checked",
);
