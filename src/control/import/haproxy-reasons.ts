/** Why lines of HAProxy's that are right there have no place here. */

const LOGGING = "logging: changes of state are logged here, one JSON line each";
const LAYER_7 = "layer 7: bytes of a connection are neither read nor changed here";
const PROCESS = "HAProxy's own process; see device, user, flows and limits of the configuration";
const SOCKETS = "sockets: connections end at the backend here, not at the gateway";
const STATISTICS = "statistics: headgate status, headgate get and /metrics";
const TLS = "TLS ends at the backend: it is passed through here";

/** Keywords, or their beginnings (those that end in `*`). */
const REASONS: readonly (readonly [keyword: string, reason: string])[] = [
  ["log*", LOGGING],
  ["unique-id*", LOGGING],
  ["option tcplog", LOGGING],
  ["option httplog", LOGGING],
  ["option log*", LOGGING],
  ["option dontlog*", LOGGING],
  ["option socket-stats", STATISTICS],
  ["option contstats", STATISTICS],
  ["stats*", STATISTICS],
  ["http*", LAYER_7],
  ["errorfile*", LAYER_7],
  ["errorloc*", LAYER_7],
  ["errorfiles", LAYER_7],
  ["cookie", LAYER_7],
  ["capture", LAYER_7],
  ["declare", LAYER_7],
  ["compression*", LAYER_7],
  ["filter", LAYER_7],
  ["redirect", LAYER_7],
  ["rsp*", LAYER_7],
  ["req*", LAYER_7],
  ["monitor*", LAYER_7],
  ["option http*", LAYER_7],
  ["option forwardfor", LAYER_7],
  ["option forwarded", LAYER_7],
  ["option abortonclose", LAYER_7],
  ["option checkcache", LAYER_7],
  ["option prefer-last-server", LAYER_7],
  ["option accept-invalid*", LAYER_7],
  ["timeout http*", LAYER_7],
  ["timeout tarpit", LAYER_7],
  ["tcp-request content", LAYER_7],
  ["tcp-request inspect-delay", LAYER_7],
  ["tcp-response*", LAYER_7],
  ["use-server", LAYER_7],
  [
    "timeout connect",
    "the client's own TCP tries again, and passive checks see who does not answer",
  ],
  ["retries", "the client's own TCP tries again, and passive checks see who does not answer"],
  ["retry-on", "the client's own TCP tries again, and passive checks see who does not answer"],
  ["option redispatch", "a SYN that comes again is balanced anew when its backend is down"],
  ["timeout queue", "there is no queue: a full backend's connections go to the next one"],
  ["fullconn", "there is no queue: a full backend's connections go to the next one"],
  ["option tcpka", "keepalives go through from end to end"],
  ["option clitcpka", "keepalives go through from end to end"],
  ["option srvtcpka", "keepalives go through from end to end"],
  ["clitcpka*", "keepalives go through from end to end"],
  ["srvtcpka*", "keepalives go through from end to end"],
  ["option tcp-smart*", SOCKETS],
  ["option splice*", SOCKETS],
  ["option nolinger", SOCKETS],
  ["option idle-close-on-response", SOCKETS],
  ["option independent-streams", SOCKETS],
  ["backlog", SOCKETS],
  ["max-keep-alive-queue", SOCKETS],
  ["option transparent", "set mode: nat, which shows the backend the client's address"],
  ["rate-limit*", "limits.newPerSource and limits.packetsPerSecond of a service are near it"],
  ["peers", "connections and affinity are not shared between nodes"],
  ["server-template", "its servers come from DNS: name their addresses"],
  ["use_backend", "one service has one set of backends: which one does not depend on a condition"],
  ["acl", "conditions are not carried over but those of a source address; see access"],
  ["bind-process", PROCESS],
  ["description", "there is no description: a comment does"],
  ["id", "a service has its name"],
  ["guid", "a service has its name"],
  ["email-alert*", "a change of state is one line of the log"],
  ["option external-check", "health.type exec does it"],
  ["external-check*", "health.type exec does it"],
  ["option mysql-check", "no such check: the backends are checked by connecting"],
  ["option pgsql-check", "no such check: the backends are checked by connecting"],
  ["option ldap-check", "no such check: the backends are checked by connecting"],
  ["option spop-check", "no such check: the backends are checked by connecting"],
  ["option log-health-checks", LOGGING],
  ["option allbackups", "without backup servers it means nothing"],
  ["load-server-state-from-file", "states are kept in the state file by themselves"],
  ["server-state*", "states are kept in the state file by themselves"],
  ["enabled", "a service is on when it is in the file"],
  ["ssl*", TLS],
  ["ca-base", TLS],
  ["crt-base", TLS],
  ["tune*", PROCESS],
  ["nb*", PROCESS],
  ["cpu-map", PROCESS],
  ["chroot", PROCESS],
  ["daemon", PROCESS],
  ["pidfile", PROCESS],
  ["user", PROCESS],
  ["group", PROCESS],
  ["uid", PROCESS],
  ["gid", PROCESS],
  ["ulimit-n", PROCESS],
  ["master-worker", PROCESS],
  ["maxconn", "flows.capacity bounds the flows of a gateway"],
];

/**
 * Why a line is not carried over.
 *
 * @param words - of the line
 */
export function haReason(words: readonly string[]): string {
  const [first = "", second = ""] = words[0] === "no" ? words.slice(1) : words;
  const both = `${first} ${second}`.trim();
  for (const [keyword, reason] of REASONS) {
    const isMatch = keyword.endsWith("*")
      ? both.startsWith(keyword.slice(0, -1))
      : both === keyword || first === keyword;
    if (isMatch) return reason;
  }
  return "Headgate has nothing like it";
}

const SERVER_REASONS: Readonly<Record<string, string>> = {
  ssl: "TLS to a backend is not begun here: the client's own goes through",
  "send-proxy":
    "no PROXY header is sent: switch it off at the server, which sees the client's address in mode nat",
  "send-proxy-v2":
    "no PROXY header is sent: switch it off at the server, which sees the client's address in mode nat",
  cookie: LAYER_7,
  sni: TLS,
  alpn: TLS,
  verify: TLS,
  "ca-file": TLS,
  crt: TLS,
  source:
    "the address that a backend sees is the mode's: nat the client's, full-nat one of snat.addresses",
  track: "give this service its own health",
  resolvers: "names are not resolved here",
  "init-addr": "names are not resolved here",
  minconn: "maxconn is all there is",
  maxqueue: "there is no queue",
  "on-marked-up": "flows stay with the backend that they have",
  "non-stick": "affinity is for all backends of a service",
  id: "a backend has its address and port",
  enabled: "it is",
  "agent-addr": "set check.address of the backend, which checks and agent share",
  namespace: "the gateway's own namespace is used",
};

/** Why a parameter of a server is not carried over. */
export function haServerReason(parameter: string): string {
  return Object.hasOwn(SERVER_REASONS, parameter)
    ? SERVER_REASONS[parameter]!
    : "a backend has nothing like it";
}
