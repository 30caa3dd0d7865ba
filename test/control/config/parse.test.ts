import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { stringify } from "yaml";
import { addressOf4 } from "../../../src/base/address.ts";
import { ConfigError, formatConfigProblem } from "../../../src/base/errors.ts";
import { effectiveConfig } from "../../../src/control/config/effective.ts";
import { configNotes, loadConfig, parseConfig } from "../../../src/control/config/load.ts";
import { needsIpv6, type ServiceDefinition } from "../../../src/service/definition.ts";
import { DEVICE, one, type ServiceText, service, top, two } from "./config-text.ts";

/** The only service of a file that has `keys`. */
function parsed(keys: ServiceText): ServiceDefinition {
  return parseConfig(one(keys), "gw.yaml").services[0]!;
}

/** `snat` is there for full-nat. */
function parsedFullNat(keys: ServiceText): ServiceDefinition {
  const text = `${DEVICE}snat: { addresses: [10.20.0.100] }\nservices:\n${service({ ...keys, mode: "full-nat" })}`;
  return parseConfig(text, "gw.yaml").services[0]!;
}

test("defaults are those of the design", () => {
  const { file, services, ...gateway } = parseConfig(one({}), "gw.yaml");
  assert.equal(file, "gw.yaml");
  assert.deepEqual(gateway, {
    device: {
      type: "packet",
      name: "hg0",
      routes: "auto",
      interfaces: ["eth0"],
      workers: 1,
      guard: "process",
      announce: true,
      replies: "last-hop",
      cpus: [],
      spinUs: 0,
      xdp: { mode: "auto", zeroCopy: "auto", busyPollUs: 0 },
    },
    user: null,
    log: { level: "info" },
    flows: {
      capacity: 1_048_576,
      stateFile: null,
      whenFull: "evict",
      ipv6: "auto",
      statelessAbove: null,
    },
    limits: {
      services: 1024,
      backends: 4096,
      hashSlots: 4_194_304,
      accessPrefixes: 131_072,
      sources: 65_536,
      affinity: 100_000,
    },
    health: { concurrent: 256 },
    probe: null,
    hash: { seed: "" },
    shutdown: { mode: "keep", timeoutMs: 30_000 },
    admin: { socket: "/run/headgate/admin.sock", http: null, tokenFile: null },
    snat: { addresses: [], ports: { low: 1024, high: 65_535 } },
    tunnel: { sourceIpv4: null, sourceIpv6: null, gue: { port: 6080, checksum: null } },
  });
  assert.deepEqual(services, [
    {
      name: "web",
      vips: [addressOf4(0xcb00710a)],
      ports: [{ low: 80, high: 80 }],
      protocols: ["tcp"],
      mode: "nat",
      scheduler: "maglev",
      policy: null,
      maxLoad: null,
      tableSize: 65_537,
      affinity: null,
      timeouts: {
        tcp: {
          synSent: 30_000,
          synReceived: 60_000,
          established: 7_440_000,
          finWait: 240_000,
          closeWait: 240_000,
          lastAck: 30_000,
          timeWait: 120_000,
          close: 10_000,
        },
        udp: { oneWay: 120_000, replied: 300_000 },
      },
      mtu: { tooBig: "icmp" },
      mss: "off",
      udp: { perPacket: false, maxAgeMs: null },
      quic: null,
      outOfState: "adopt",
      onIdle: "reset",
      existingFlows: {
        drained: "keep",
        removed: "drain",
        down: "keep",
        disabled: "reset",
        ejected: "keep",
        deadlineMs: 300_000,
      },
      noBackend: { action: "reset", sorry: null },
      minimumHealthy: { count: 1 },
      panicThreshold: 0,
      slowStart: null,
      ping: "healthy",
      access: {
        allow: null,
        allowFile: null,
        deny: [],
        denyFile: null,
        refuse: "drop",
        rules: null,
      },
      synProxy: {
        mode: "off",
        mss: null,
        windowScale: null,
        sack: null,
        timestamps: null,
        halfOpen: 1024,
      },
      limits: {
        connections: null,
        packetsPerSecond: null,
        newPerSource: null,
        backendConnections: null,
        refuse: "drop",
      },
      health: null,
      passive: null,
      agent: null,
      backends: [
        {
          address: addressOf4(0x0a14000b),
          port: 8080,
          weight: 1,
          priority: 0,
          maxConnections: null,
          serverId: null,
        },
      ],
    },
  ]);
});

test("a file may have no services, and stand for a device alone", () => {
  assert.deepEqual(parseConfig("device: { type: tun }\n", "gw.yaml").services, []);
});

const SCHEDULERS: readonly (readonly [string, string])[] = [
  ["rr", "round-robin"],
  ["round-robin", "round-robin"],
  ["wrr", "weighted-round-robin"],
  ["lc", "least-connections"],
  ["wlc", "weighted-least-connections"],
  ["sh", "source-hash"],
  ["mh", "maglev"],
  ["sed", "shortest-expected-delay"],
  ["nq", "never-queue"],
  ["hrw", "rendezvous"],
  ["twos", "power-of-two"],
  ["random", "random"],
  ["fo", "failover"],
  ["ovf", "overflow"],
  ["maglev", "maglev"],
  ["least-latency", "least-latency"],
  ["ll", "least-latency"],
];
for (const [written, meant] of SCHEDULERS) {
  test(`scheduler ${written} is ${meant}; outOfState follows it and the mode`, () => {
    const isAlike = ["source-hash", "maglev", "rendezvous", "failover"].includes(meant);
    const nat = parsed({ scheduler: written });
    assert.equal(nat.scheduler, meant);
    assert.equal(nat.outOfState, isAlike ? "adopt" : "reset");
    assert.equal(parsedFullNat({ scheduler: written }).outOfState, "reset");
    assert.equal(parsed({ scheduler: written, outOfState: "drop" }).outOfState, "drop");
  });
}

test("maxLoad makes maglev a scheduler that counts: nothing is adopted", () => {
  const bounded = parsed({ scheduler: "mh", maxLoad: "1.25" });
  assert.deepEqual(
    [bounded.scheduler, bounded.maxLoad, bounded.outOfState],
    ["bounded-maglev", 1.25, "reset"],
  );
  const plain = parsed({ scheduler: "mh", maxLoad: "off" });
  assert.deepEqual([plain.scheduler, plain.maxLoad, plain.outOfState], ["maglev", null, "adopt"]);
});

test("ports: numbers, ranges, any, lists; sorted", () => {
  const ports = (text: string) => parsed({ port: text }).ports.map((it) => `${it.low}-${it.high}`);
  assert.deepEqual(ports("443"), ["443-443"]);
  assert.deepEqual(ports('"80"'), ["80-80"]);
  assert.deepEqual(ports("8000-8099"), ["8000-8099"]);
  assert.deepEqual(ports("any"), ["1-65535"]);
  assert.deepEqual(ports('[443, "8000-8099", 80]'), ["80-80", "443-443", "8000-8099"]);
  assert.deepEqual(ports("[65535, 1]"), ["1-1", "65535-65535"]);
});

test("an exact port beats a range, a range beats any: none of them overlap", () => {
  const { services } = parseConfig(
    `${DEVICE}services:\n${service({ port: "443" })}${service({ name: "b", port: "400-500" })}${service({ name: "c", port: "any" })}`,
    "gw.yaml",
  );
  assert.equal(services.length, 3);
});

test("the same port of another protocol or address is another VIP", () => {
  assert.equal(parseConfig(two({}, { protocol: "udp" }), "gw.yaml").services.length, 2);
  assert.equal(parseConfig(two({}, { vip: "203.0.113.11" }), "gw.yaml").services.length, 2);
});

test("one address may be a backend twice, by port or by service", () => {
  const backends = "[{ address: 10.20.0.11, port: 80 }, { address: 10.20.0.11 }]";
  assert.deepEqual(
    parsed({ backends }).backends.map((it) => it.port),
    [80, 0],
  );
  assert.equal(parseConfig(two({}, { port: "81" }), "gw.yaml").services.length, 2);
});

test("SNAT ranges are written out in order", () => {
  const text = "snat: { addresses: [10.20.0.254-10.20.1.1, 10.20.0.100], ports: 2000-2999 }";
  const { snat } = parseConfig(`device: { type: tun }\n${text}\n`, "gw.yaml");
  assert.deepEqual(
    snat.addresses.map((it) => it.text),
    ["10.20.0.254", "10.20.0.255", "10.20.1.0", "10.20.1.1", "10.20.0.100"],
  );
  assert.deepEqual(snat.ports, { low: 2000, high: 2999 });
});

test("admin.http: IPv4, or IPv6 in brackets; others than loopback with a token", () => {
  const http = (text: string) =>
    parseConfig(`device: { type: tun }\nadmin: { ${text} }\n`, "gw.yaml").admin.http;
  assert.deepEqual(http("http: 127.0.0.1:9105"), { address: "127.0.0.1", port: 9105 });
  assert.deepEqual(http('http: "[::1]:9105"'), { address: "::1", port: 9105 });
  assert.deepEqual(http("http: 0.0.0.0:9105, tokenFile: /etc/headgate/token"), {
    address: "0.0.0.0",
    port: 9105,
  });
  assert.equal(http("http: off"), null);
});

test("defaults and top-level timeouts stand below what a service says", () => {
  const { services } = parseConfig(
    `${DEVICE}timeouts: { tcp: { close: 1s, timeWait: 1s, lastAck: 1s } }
defaults:
  protocol: [tcp, udp]
  timeouts: { tcp: { close: 2s, timeWait: 2s } }
  existingFlows: { down: reset, deadline: 1m }
  noBackend: { action: sorry, address: 10.20.0.99 }
  health: { type: http, path: /health, interval: 5s }
services:
${service({
  timeouts: "{ tcp: { close: 3s } }",
  existingFlows: "{ deadline: 2m }",
  noBackend: "{ action: drop }",
  health: "{ interval: 3s }",
})}${service({ name: "b", port: "81", health: "{ type: tcp }" })}${service({ name: "c", port: "82", health: "none" })}`,
    "gw.yaml",
  );
  const [a, b, c] = services;
  assert.deepEqual(a?.protocols, ["tcp"]);
  const { close, timeWait, lastAck, finWait } = a!.timeouts.tcp;
  assert.deepEqual([close, timeWait, lastAck, finWait], [3000, 2000, 1000, 240_000]);
  assert.equal(a?.existingFlows.down, "reset");
  assert.equal(a?.existingFlows.deadlineMs, 120_000);
  assert.deepEqual(a?.noBackend, { action: "drop", sorry: null }, "taken whole");
  assert.equal(b?.noBackend.sorry?.address.text, "10.20.0.99");
  assert.equal(b?.noBackend.sorry?.port, 0);
  assert.equal(a?.health?.type, "http");
  assert.equal(a?.health?.type === "http" && a.health.path, "/health");
  assert.equal(a?.health?.intervalMs, 3000);
  assert.equal(b?.health?.type, "tcp", "another type takes nothing over");
  assert.equal(b?.health?.intervalMs, 2000);
  assert.equal(c?.health, null);
});

test("health: defaults, statuses, and which port is checked", () => {
  const health = (keys: ServiceText) => parsed({ health: "{ type: http }", ...keys }).health;
  assert.deepEqual(health({}), {
    type: "http",
    intervalMs: 2000,
    fastIntervalMs: 2000,
    downIntervalMs: 2000,
    timeoutMs: 1000,
    rise: 2,
    fall: 3,
    spread: 0.1,
    port: 0,
    source: null,
    through: "direct",
    method: "GET",
    path: "/",
    host: null,
    headers: {},
    status: [{ low: 200, high: 399 }],
    body: null,
    bodyBytes: 65_536,
  });
  assert.equal(health({ health: "{ interval: 300ms }" })?.timeoutMs, 300);
  const chosen = health({ health: "{ type: http, status: [204, 300-399] }" });
  assert.deepEqual(chosen?.type === "http" && chosen.status, [
    { low: 204, high: 204 },
    { low: 300, high: 399 },
  ]);
  const portless = "[{ address: 10.20.0.11 }]";
  assert.equal(health({ backends: portless })?.port, 80, "the service has just this one");
  assert.equal(health({ backends: portless, port: "any", health: "{ port: 8081 }" })?.port, 8081);
});

test("anchors and aliases work; problems stand where the text is", () => {
  const text = `${DEVICE}services:
  - &web
    name: web
    vip: 203.0.113.10
    port: 80
    protocol: tcp
    backends: &pool [{ address: 10.20.0.11 }]
  - name: api
    vip: 203.0.113.11
    port: 80
    protocol: tcp
    backends: *pool
`;
  const { services } = parseConfig(text, "gw.yaml");
  assert.deepEqual(services[1]?.backends, services[0]?.backends);
  assert.throws(
    () => parseConfig(text.replace("10.20.0.11", "10.20.0.300"), "gw.yaml"),
    /gw\.yaml:8:33: services\[1\]\.backends\[0\]\.address: expected an IPv4 or IPv6 address/,
  );
});

test("an alias that expands for ever is refused in bounded time", () => {
  const bomb = Array.from({ length: 40 }, (_, level) =>
    level === 0 ? "a0: &a0 [x, x]" : `a${level}: &a${level} [*a${level - 1}, *a${level - 1}]`,
  ).join("\n");
  assert.throws(() => parseConfig(bomb, "gw.yaml"), ConfigError);
  assert.throws(() => parseConfig("device: &d [*d]\n", "gw.yaml"), ConfigError);
});

test("brackets as deep as a file can have them are refused", () => {
  assert.throws(() => parseConfig("[".repeat(100_000), "gw.yaml"), ConfigError);
  assert.throws(
    () => parseConfig(`a: ${"[".repeat(20_000)}${"]".repeat(20_000)}`, "gw.yaml"),
    ConfigError,
  );
});

test("a service that nobody checks, or without backends, is a note", () => {
  const definition = parseConfig(
    two({ health: "{ type: tcp }", backends: "[]" }, { port: "81" }),
    "gw.yaml",
  );
  assert.deepEqual(configNotes(definition).map(formatConfigProblem), [
    'gw.yaml:3:5: services[0]: service "web" has no backends: new flows get noBackend (reset)',
    'gw.yaml:9:5: services[1]: service "api" has no health: its backends always count as up',
  ]);
  assert.deepEqual(configNotes(parseConfig(one({ health: "{ type: tcp }" }), "gw.yaml")), []);
});

test("more workers than processors are a note, as many are none", () => {
  const notesOf = (workers: number): string[] => {
    const text = one({ health: "{ type: tcp }" }).replace(
      "type: packet",
      `type: packet, workers: ${workers}`,
    );
    const definition = parseConfig(text, "gw.yaml");
    assert.equal(definition.device.workers, workers);
    return configNotes(definition).map(formatConfigProblem);
  };
  const processors = availableParallelism();
  assert.deepEqual(notesOf(Math.min(processors, 16)), []);
  if (processors >= 16) return;
  const [note, ...others] = notesOf(processors + 1);
  assert.deepEqual(others, []);
  assert.match(note!, new RegExp(`device.workers: ${processors + 1} workers share ${processors} `));
});

test("loadConfig reads a file, and says which one it cannot read", () => {
  const folder = mkdtempSync(path.join(tmpdir(), "headgate-config-"));
  try {
    const file = path.join(folder, "gw.yaml");
    assert.throws(() => loadConfig(file), {
      name: "ConfigError",
      message: `${file}:1:1: expected a file that can be read, got ENOENT`,
    });
    assert.throws(() => loadConfig(folder), /expected a file that can be read, got EISDIR/);
    writeFileSync(file, one({}));
    assert.equal(loadConfig(file).file, file);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("a thousand services with fifty backends each parse, and fit into raised limits", () => {
  const services = Array.from({ length: 1000 }, (_, index) => {
    const backends = Array.from(
      { length: 50 },
      (__, number) => `{ address: 10.${21 + (index >> 8)}.${index & 255}.${number + 1}, port: 80 }`,
    );
    return service({
      name: `s${index}`,
      port: String(1000 + index),
      scheduler: "wlc",
      backends: `[${backends.join(", ")}]`,
    });
  });
  const text = `${DEVICE}limits: { backends: 50000 }\nservices:\n${services.join("")}`;
  const definition = parseConfig(text, "gw.yaml");
  assert.equal(definition.services.length, 1000);
  assert.equal(definition.services[999]?.backends[49]?.address.text, "10.24.231.50");
});

test("IPv6: written in any way, kept as RFC 5952 has it, and given back", () => {
  const definition = parseConfig(
    one({
      vip: "['2001:DB8:00ff:0::10', '2001:db8:ff:1::/64']",
      backends: "[{ address: '2001:db8:2:0:0:0:0:11', port: 80 }]",
    }),
    "gw.yaml",
  );
  const [service] = definition.services;
  assert.deepEqual(
    service?.vips.map(({ text, prefixLength }) => [text, prefixLength]),
    [
      ["2001:db8:ff::10", undefined],
      ["2001:db8:ff:1::/64", 64],
    ],
  );
  assert.equal(service?.backends[0]?.address.text, "2001:db8:2::11");
  assert.ok(needsIpv6(definition));
  const again = parseConfig(stringify(effectiveConfig(definition)), "gw.yaml");
  assert.deepEqual(again, definition);
});

test("a pool of both families, and its neighbours as one range", () => {
  const pool =
    "snat: { addresses: [10.20.0.100-10.20.0.103, '2001:db8:2::ffff-2001:db8:2::1:1'] }\n";
  const definition = parseConfig(top(pool), "gw.yaml");
  assert.deepEqual(definition.snat.addresses.map(({ text }) => text).slice(3), [
    "10.20.0.103",
    "2001:db8:2::ffff",
    "2001:db8:2::1:0",
    "2001:db8:2::1:1",
  ]);
  assert.deepEqual(effectiveConfig(definition)["snat"], {
    addresses: ["10.20.0.100-10.20.0.103", "2001:db8:2::ffff-2001:db8:2::1:1"],
    ports: "1024-65535",
  });
});
