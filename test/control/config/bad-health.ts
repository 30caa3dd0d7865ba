import { type BadConfig, one } from "./config-text.ts";

/** Wrong values of what single types of health checks have, and keys of other types. */
const bad = (name: string, health: string, ...want: string[]): BadConfig => ({
  name: `health: ${name}`,
  given: one({ health }),
  want: want.map((text) => `gw.yaml:7:${text}`),
});

export const BAD_HEALTH: readonly BadConfig[] = [
  bad(
    "a key of another type names both",
    "{ type: dns, path: /, command: [/bin/true], tls: true }",
    '32: services[0].health.path: expected no "path" for type dns (gw.yaml:7:21), got one (only for http, https, http2)',
    '44: services[0].health.command: expected no "command" for type dns (gw.yaml:7:21), got one (only for exec)',
    '62: services[0].health.tls: expected no "tls" for type dns (gw.yaml:7:21), got one (only for http2, grpc, script)',
  ),
  bad(
    "a port for icmp",
    "{ type: icmp, port: 80 }",
    '33: services[0].health.port: expected no "port" for type icmp (gw.yaml:7:21), got one',
  ),
  bad(
    "a source for exec",
    "{ type: exec, command: [/bin/true], source: 10.20.0.1 }",
    '57: services[0].health.source: expected no "source" for type exec (gw.yaml:7:21), got one',
  ),
  bad(
    "exec without a command",
    "{ type: exec }",
    '13: services[0].health: expected the key "command" for type exec (gw.yaml:7:21), got none',
  ),
  bad(
    "a command that is a line",
    "{ type: exec, command: check.sh -v }",
    '36: services[0].health.command: expected a list: the absolute path of a program, and its parameters, got "check.sh -v"',
  ),
  bad(
    "a relative program",
    "{ type: exec, command: [bin/check, 7] }",
    '37: services[0].health.command[0]: expected the absolute path of a program, got "bin/check"',
    "48: services[0].health.command[1]: expected text (numbers in quotes), got 7",
  ),
  bad(
    "script without steps",
    "{ type: script }",
    '13: services[0].health: expected the key "steps" for type script (gw.yaml:7:21), got none',
  ),
  bad(
    "wrong steps, each at its place",
    "{ type: script, steps: [{ say: x }, { send: x, expect: y }, { expectHex: 0g }, { expectRegex: '(' }] }",
    '37: services[0].health.steps[0]: expected a step (send, sendHex, expect, expectHex, expectRegex), got "say"',
    "49: services[0].health.steps[1]: expected a map of one key (send, sendHex, expect, expectHex, expectRegex), got a map",
    '73: services[0].health.steps[2]: expected hex digits, two a byte, x for any digit for expectHex, got "0g"',
    '92: services[0].health.steps[3]: expected a regular expression (Invalid regular expression: /(/: Unterminated group), got "("',
  ),
  bad(
    "wrong values of http",
    "{ type: http, method: PUT, bodyMatches: '[', bodyBytes: 0, headers: { host: x } }",
    '35: services[0].health.method: expected GET, HEAD, OPTIONS or POST, got "PUT"',
    '53: services[0].health.bodyMatches: expected a regular expression (Invalid regular expression: /[/: Unterminated character class), got "["',
    "69: services[0].health.bodyBytes: expected a whole number from 1 to 1048576, got 0",
    '81: services[0].health.headers: expected no header host, which a check makes itself, got one (the key "host" is for it)',
  ),
  bad(
    "a header that would end the request",
    '{ type: http, headers: { x: "a\\r\\nb" } }',
    '36: services[0].health.headers: expected text as the value of x, got "a\\r\\nb"',
  ),
  bad(
    "two ways to say the same",
    "{ type: udp, send: a, sendHex: '61', expect: b, expectHex: '62' }",
    '44: services[0].health.sendHex: expected either "send" (gw.yaml:7:32) or "sendHex", got both',
    '72: services[0].health.expectHex: expected either "expect" (gw.yaml:7:58) or "expectHex", got both',
  ),
  bad(
    "a body where there is none",
    "{ type: http2, method: HEAD, bodyContains: ok }",
    '56: services[0].health.bodyContains: expected no "bodyContains" with method HEAD (gw.yaml:7:36), whose answers have no body, got one',
  ),
  bad(
    "keys of TLS without it",
    "{ type: grpc, verify: true }",
    '35: services[0].health.verify: expected no "verify" without tls: true, got one',
  ),
  bad(
    "keys of TLS without it, said",
    "{ type: http2, tls: false, serverName: a.example }",
    '52: services[0].health.serverName: expected no "serverName" without tls: true (gw.yaml:7:33), got one',
  ),
  bad(
    "authorities that nobody asks",
    "{ type: tls, caFile: /etc/ssl/ca.pem }",
    "34: services[0].health.caFile: expected verify: true with caFile, got false",
  ),
  bad(
    "wrong values of dns and icmp",
    "{ type: dns, query: a..b, queryType: ANY, rcode: [NOERROR, BAD] }",
    '33: services[0].health.query: expected a domain name, got "a..b"',
    '50: services[0].health.queryType: expected SOA, A, AAAA, NS, CNAME, MX, TXT, SRV or PTR, got "ANY"',
    '72: services[0].health.rcode[1]: expected NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP or REFUSED, got "BAD"',
  ),
  {
    name: "health: a user that the gateway cannot become any more",
    given: `user: headgate\n${one({ health: "{ type: exec, command: [/bin/true], user: nobody }" })}`,
    want: [
      "gw.yaml:8:55: services[0].health.user: expected the gateway's own user headgate (gw.yaml:1:7), which can become no other, got nobody",
    ],
  },
  {
    name: "health: a weight with two owners",
    given: one({
      agent: "{ port: 9000 }",
      health: "{ type: exec, command: [/bin/true], dynamicWeight: true }",
    }),
    want: [
      "gw.yaml:8:64: services[0].health.dynamicWeight: expected false with an agent (gw.yaml:7:12), got true",
    ],
  },
];
