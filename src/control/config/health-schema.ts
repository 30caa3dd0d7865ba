import { optional, section, sectionOrWord, type ValueKind, withDefault } from "./fields.ts";
import {
  duration,
  fraction,
  hostAddress,
  integer,
  numberRange,
  oneOrMany,
  port,
  text,
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

export const healthSection = sectionOrWord(
  {
    type: withDefault(
      words(["tcp", "http"]),
      "tcp",
      "Connect, or ask for a path and look at the status",
    ),
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
    path: optional(
      text("a path that starts with /", /^\/[\x21-\x7e]*$/, { max: 1024 }),
      "http: path to ask for",
      "/",
    ),
    host: optional(
      text("a host name", /^[A-Za-z0-9._:[\]-]+$/, { max: 255 }),
      "http: Host header",
      "the backend's address",
    ),
    status: optional(statusRange, "http: what is a success", "200-399"),
  },
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
