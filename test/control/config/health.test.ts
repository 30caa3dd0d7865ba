import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { stringify } from "yaml";
import { formatConfigProblem } from "../../../src/base/errors.ts";
import { healthFileProblems } from "../../../src/control/config/health-files.ts";
import { configNotes, effectiveConfig, parseConfig } from "../../../src/control/config/load.ts";
import type { HealthDefinition } from "../../../src/service/health-definition.ts";
import { one } from "./config-text.ts";

const parsed = (health: string): HealthDefinition =>
  parseConfig(one({ health }), "gw.yaml").services[0]!.health!;

/** What a type has of its own. */
function question(health: string): Record<string, unknown> {
  const common = parsed("{ type: tcp }");
  return Object.fromEntries(
    Object.entries(parsed(health)).filter(([key]) => key === "type" || !(key in common)),
  );
}

const TLS = { serverName: null, verify: false, caFile: null, expiryWarningMs: 1_209_600_000 };
const HTTP = {
  method: "GET",
  path: "/",
  host: null,
  headers: {},
  status: [{ low: 200, high: 399 }],
  body: null,
  bodyBytes: 65_536,
};

test("every type has its defaults", () => {
  assert.deepEqual(question("{}"), { type: "tcp" });
  assert.deepEqual(question("{ type: tls }"), { type: "tls", tls: TLS });
  assert.deepEqual(question("{ type: http }"), { type: "http", ...HTTP });
  assert.deepEqual(question("{ type: https }"), { type: "https", ...HTTP, tls: TLS });
  assert.deepEqual(question("{ type: http2 }"), { type: "http2", ...HTTP, tls: TLS });
  assert.deepEqual(question("{ type: http2, tls: false }"), { type: "http2", ...HTTP, tls: null });
  assert.deepEqual(question("{ type: grpc }"), {
    type: "grpc",
    grpcService: "",
    host: null,
    tls: null,
  });
  assert.deepEqual(question("{ type: udp }"), { type: "udp", sendHex: "", expectHex: null });
  assert.deepEqual(question("{ type: dns }"), {
    type: "dns",
    query: ".",
    queryType: "SOA",
    rcode: ["NOERROR"],
    answers: [],
  });
  assert.deepEqual(question("{ type: icmp }"), { type: "icmp", payloadBytes: 56 });
  assert.deepEqual(question("{ type: exec, command: [/bin/true] }"), {
    type: "exec",
    command: ["/bin/true"],
    user: null,
    dynamicWeight: false,
  });
  assert.deepEqual(question("{ type: script, steps: [{ expect: SSH- }] }"), {
    type: "script",
    steps: [{ kind: "expect", text: "SSH-" }],
    tls: null,
  });
});

test("what is written is what is checked", () => {
  assert.deepEqual(question("{ type: udp, send: \"a\\n\", expectHex: 'C0 fX xx' }"), {
    type: "udp",
    sendHex: "610a",
    expectHex: "c0fxxx",
  });
  assert.deepEqual(
    question("{ type: http, headers: { X-Token: a }, bodyContains: well, status: 200 }"),
    {
      type: "http",
      ...HTTP,
      headers: { "x-token": "a" },
      status: [{ low: 200, high: 200 }],
      body: { kind: "contains", text: "well" },
    },
  );
  const verified =
    "{ type: tls, verify: true, caFile: /etc/ca.pem, serverName: a.example, expiryWarning: 0s }";
  assert.deepEqual(question(verified)["tls"], {
    serverName: "a.example",
    verify: true,
    caFile: "/etc/ca.pem",
    expiryWarningMs: 0,
  });
});

test("icmp needs no port", () => {
  const text = one({
    port: "any",
    health: "{ type: icmp }",
    backends: "[{ address: 10.20.0.11 }]",
  });
  assert.equal(parseConfig(text, "gw.yaml").services[0]!.health!.port, 0);
});

const anyText = fc.string({ minLength: 1, maxLength: 20 });
const hex = fc.constantFrom("00", "c0ffee", "0A0b");
const tlsKeys = {
  serverName: fc.constantFrom("a.example", "x"),
  verify: fc.constant(true),
  caFile: fc.constant("/etc/ca.pem"),
  expiryWarning: fc.constantFrom("0s", "48h"),
};
const some = (keys: Record<string, fc.Arbitrary<unknown>>, requiredKeys = ["type"]) =>
  fc.record(keys, { requiredKeys }).map((it) => ("caFile" in it ? { ...it, verify: true } : it));
const type = fc.constant;
const httpKeys = {
  method: fc.constantFrom("GET", "OPTIONS", "POST"),
  path: fc.constantFrom("/", "/health"),
  headers: fc.constantFrom({}, { "X-Token": "a b" }),
  bodyMatches: fc.constantFrom("^ok$", "a|b"),
  bodyBytes: fc.integer({ min: 1, max: 1 << 20 }),
};

const anyHealth = fc.oneof(
  some({ type: type("tls"), ...tlsKeys }),
  some({ type: type("http"), ...httpKeys }),
  some({ type: type("https"), ...httpKeys, ...tlsKeys }),
  some({ type: type("http2"), tls: fc.constant(true), ...httpKeys, ...tlsKeys }),
  some({ type: type("http2"), tls: fc.constant(false), bodyContains: anyText }, ["type", "tls"]),
  some({ type: type("grpc"), grpcService: fc.constantFrom("", "a.B") }),
  some({ type: type("grpc"), tls: fc.constant(true), ...tlsKeys }, ["type", "tls"]),
  some({ type: type("udp"), send: anyText, expectHex: hex }),
  some({ type: type("udp"), sendHex: hex, expect: anyText }),
  some({
    type: type("dns"),
    query: fc.constantFrom(".", "a.example", "_x._tcp.a.example."),
    queryType: fc.constantFrom("A", "TXT"),
    rcode: fc.constantFrom("NXDOMAIN", ["NOERROR", "REFUSED"]),
    answers: fc.uniqueArray(anyText, { minLength: 1, maxLength: 3 }),
  }),
  some({ type: type("icmp"), payloadBytes: fc.integer({ min: 16, max: 1400 }) }),
  some(
    {
      type: type("exec"),
      command: fc.array(anyText, { maxLength: 3 }).map((parts) => ["/bin/check", ...parts]),
      user: fc.constantFrom("nobody", "65534:65534"),
      dynamicWeight: fc.boolean(),
    },
    ["type", "command"],
  ),
  some(
    {
      type: type("script"),
      tls: fc.boolean(),
      steps: fc.array(
        fc.oneof(
          fc.record({ send: anyText }),
          fc.record({ sendHex: hex }),
          fc.record({ expect: anyText }),
          fc.record({ expectHex: hex }),
          fc.record({ expectRegex: fc.constant("^a+") }),
        ),
        { minLength: 1, maxLength: 4 },
      ),
    },
    ["type", "steps"],
  ),
);

test("a definition written out is read as the same", () => {
  fc.assert(
    fc.property(anyHealth, (health) => {
      const text = one({ health: JSON.stringify(health) });
      const first = parseConfig(text, "gw.yaml");
      const second = parseConfig(stringify(effectiveConfig(first)), "gw.yaml");
      assert.deepEqual(second.services[0]!.health, first.services[0]!.health);
    }),
    { numRuns: 300 },
  );
});

test("programs, users and files of a configuration have to be on the host", (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "headgate-health-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const plain = path.join(folder, "plain");
  writeFileSync(plain, "no certificate", { mode: 0o644 });
  const problems = (health: string): string[] =>
    healthFileProblems(parseConfig(one({ health }), "gw.yaml")).map(formatConfigProblem);
  assert.deepEqual(problems("{ type: exec, command: [/bin/true], user: nobody }"), []);
  assert.deepEqual(problems(`{ type: exec, command: [${plain}] }`), [
    `gw.yaml:7:37: services[0].health.command[0]: expected a program that can be run (${plain}), got EACCES`,
  ]);
  assert.deepEqual(problems("{ type: exec, command: [/nonexistent] }"), [
    "gw.yaml:7:37: services[0].health.command[0]: expected a program that can be run (/nonexistent), got ENOENT",
  ]);
  assert.match(
    problems("{ type: exec, command: [/bin/true], user: nosuch }")[0]!,
    /^gw.yaml:7:55: services\[0\].health.user: expected a user of this host, got .*no user nosuch/,
  );
  assert.deepEqual(problems("{ type: tls, verify: true, caFile: /nonexistent.pem }"), [
    "gw.yaml:7:48: services[0].health.caFile: expected a PEM file of certificates (/nonexistent.pem), got ENOENT",
  ]);
});

test("a program that would run as root is noted", () => {
  const notes = (top: string, health: string): string[] =>
    configNotes(parseConfig(`${top}${one({ health })}`, "gw.yaml")).map(({ message }) => message);
  const exec = "{ type: exec, command: [/bin/true] }";
  const root = 'service "web" runs /bin/true as root: give health a user';
  assert.ok(notes("", exec).includes(root));
  assert.ok(!notes("", "{ type: exec, command: [/bin/true], user: nobody }").includes(root));
  assert.ok(!notes("user: nobody\n", exec).includes(root));
});
