import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import type { Keys } from "../../../src/control/import/draft.ts";
import { importHaproxy } from "../../../src/control/import/haproxy.ts";
import { haDuration, haWords } from "../../../src/control/import/haproxy-lines.ts";
import { assertNotes, imported } from "./support.ts";

// The TCP part of HAProxy's configuration. HAProxy itself says whether the files here are right.

const folder = mkdtempSync(path.join(tmpdir(), "headgate-haproxy-"));
after(() => rmSync(folder, { recursive: true }));

/** @throws when HAProxy does not take it */
function right(text: string): string {
  const file = path.join(folder, "haproxy.cfg");
  writeFileSync(file, text);
  execFileSync("haproxy", ["-q", "-c", "-f", file], {
    env: { ...process.env, PATH: `${process.env["PATH"]}:/usr/sbin` },
    stdio: "pipe",
  });
  return text;
}

const SITE = `global
    log /dev/log local0
    chroot /var/lib/haproxy
    maxconn 4000
    spread-checks 5

defaults
    mode tcp
    log global
    option tcplog
    timeout connect 5s
    timeout client 50s
    timeout server 1m
    retries 3

frontend web
    bind 203.0.113.10:80,203.0.113.10:8000-8099
    bind 203.0.113.11:443 name second
    maxconn 2000
    acl office src 10.0.0.0/8 192.168.1.1
    tcp-request connection reject if !office
    tcp-request connection reject if { src 10.9.0.0/16 }
    default_backend app

backend app
    balance leastconn
    timeout server-fin 20s
    default-server inter 3s fall 2 rise 3
    server a 10.20.0.11:8080 check weight 10
    server b 10.20.0.12:8080 check weight 5
    server c 10.20.0.13:8080 check disabled weight 7
    server s 10.20.0.14:443 ssl verify none

listen db from-nothing
    bind *:3306
    timeout tunnel 1h
    balance source
    server m 10.20.0.31:+1000 check port 9200

listen www
    mode http
    timeout http-request 5s
    bind :8080
    server w 10.20.0.41:80
`.replace(" from-nothing", "");

test("frontends with their backends, and listens", () => {
  const { services, top, notes } = imported(importHaproxy, right(SITE), {
    snat: ["10.20.0.100-10.20.0.103"],
    vips: ["203.0.113.12"],
  });
  assert.deepEqual(top["snat"], { addresses: ["10.20.0.100-10.20.0.103"] });
  const app = {
    protocol: "tcp",
    mode: "full-nat",
    scheduler: "weighted-least-connections",
    timeouts: { tcp: { established: "50s", finWait: "20s", closeWait: "20s" } },
    access: { allow: ["10.0.0.0/8", "192.168.1.1/32"], deny: ["10.9.0.0/16"], refuse: "reset" },
    limits: { connections: 2000 },
    health: { type: "tcp", interval: "3s", timeout: "3s", rise: 3, fall: 2, spread: 0.05 },
    backends: [
      { address: "10.20.0.11", port: 8080, weight: 10 },
      { address: "10.20.0.12", port: 8080, weight: 5 },
      { address: "10.20.0.13", port: 8080, weight: 0 },
    ],
  };
  assert.deepEqual(services, [
    { name: "web", vip: "203.0.113.10", port: [80, "8000-8099"], ...app },
    { name: "web-2", vip: "203.0.113.11", port: 443, ...app },
    {
      name: "db",
      vip: "203.0.113.12",
      port: 3306,
      protocol: "tcp",
      mode: "full-nat",
      scheduler: "source-hash",
      timeouts: { tcp: { established: "1h" } },
      health: {
        type: "tcp",
        interval: "2s",
        timeout: "2s",
        rise: 2,
        fall: 3,
        spread: 0.05,
        port: 9200,
      },
      backends: [{ address: "10.20.0.31", port: 4306, weight: 1 }],
    },
  ]);
  assertNotes(notes, [
    /^2: global "log \/dev\/log": logging: /,
    /^3: global "chroot \/var\/lib\/haproxy": HAProxy's own process/,
    /^4: global "maxconn 4000": flows\.capacity /,
    /^9: "log global": logging: /,
    /^10: "option tcplog": logging: /,
    /^11: "timeout connect": the client's own TCP tries again/,
    /^14: "retries 3": the client's own TCP tries again/,
    /^31: server "c" is disabled: weight 0 \(it was 7\)$/,
    /^32: server "s" is left out: TLS to a backend is not begun here/,
    /^40: listen "www" \(lines 40-44\) is left out: it is of mode "http", which is layer 7$/,
  ]);
});

test("without --snat a service is nat, and says what that asks of the backends", () => {
  const text = right(`defaults
    mode tcp
    timeout client 0
listen a
    bind 203.0.113.10:80
    server a 10.20.0.11:8080 id 7
listen b
    bind 203.0.113.11:80
    source 0.0.0.0 usesrc clientip
    server a 10.20.0.11:8080
`);
  const plain = imported(importHaproxy, text);
  assert.deepEqual(
    plain.services.map(({ mode }) => mode),
    ["nat", "nat"],
  );
  assert.deepEqual(
    plain.services.map(({ timeouts }) => timeouts),
    [undefined, undefined],
  );
  assertNotes(plain.notes, [
    /^4: "a" is mode nat: backends see the client's address and must answer by way of the gateway; --snat makes it full-nat$/,
    /^6: "id": a backend has its address and port$/,
  ]);
  const pooled = imported(importHaproxy, text, { snat: ["10.20.0.100"] });
  assert.deepEqual(
    pooled.services.map(({ mode }) => mode),
    ["full-nat", "nat"],
  );
});

/** A `listen` with these lines. */
function listen(...lines: string[]): string {
  const own = lines.map((line) => `    ${line}\n`).join("");
  return `defaults\n    mode tcp\nlisten one\n${own}`;
}

const BALANCE: readonly (readonly [line: string, scheduler: string | undefined])[] = [
  ["balance roundrobin", "weighted-round-robin"],
  ["balance static-rr", "weighted-round-robin"],
  ["balance leastconn", "weighted-least-connections"],
  ["balance source", "source-hash"],
  ["balance hash src", "source-hash"],
  ["balance hash src,ipmask(24)", "maglev"],
  ["balance first", "failover"],
  ["balance random", "power-of-two"],
  ["balance random(2)", "power-of-two"],
  ["balance random(1)", "random"],
  ["timeout tunnel 1h", "weighted-round-robin"],
];
for (const [line, scheduler] of BALANCE) {
  test(`${line}: ${scheduler}`, () => {
    const text = right(listen(line, "bind 203.0.113.10:80", "server a 10.20.0.11:80"));
    const { services, notes } = imported(importHaproxy, text, { snat: ["10.20.0.100"] });
    assert.deepEqual(notes, []);
    assert.equal(services[0]?.["scheduler"], scheduler);
  });
}

test("what a bind may be", () => {
  const text = right(
    listen(
      "bind 203.0.113.10:80",
      "bind ipv4@203.0.113.11:80",
      "bind ipv6@2001:db8:ff::10:443",
      "bind [2001:db8:ff::11]:443 v6only",
      "bind :::8443",
      "bind *:9000",
      "bind /run/one.sock",
      "bind 203.0.113.12:81,[2001:db8:ff::12]:81 accept-proxy backlog 10 process 1",
      "server a 10.20.0.11:80",
      "server b 2001:db8:2::11:80",
    ),
  );
  const { services, notes } = imported(importHaproxy, text, {
    snat: ["10.20.0.100", "2001:db8:2::100"],
    vips: ["203.0.113.13", "2001:db8:ff::13"],
  });
  assert.deepEqual(
    services.map(({ vip, port }) => [vip, port]),
    [
      [["203.0.113.10", "203.0.113.11"], 80],
      [["2001:db8:ff::10", "2001:db8:ff::11"], 443],
      ["2001:db8:ff::13", 8443],
      ["203.0.113.13", 9000],
      [["203.0.113.12", "2001:db8:ff::12"], 81],
    ],
  );
  assert.deepEqual(services[0]?.["backends"], [
    { address: "10.20.0.11", port: 80, weight: 1 },
    { address: "2001:db8:2::11", port: 80, weight: 1 },
  ]);
  assertNotes(notes, [
    /^10: bind "\/run\/one\.sock" is left out: it is no TCP port of an address$/,
    /^11: "accept-proxy": a service has nothing like it$/,
  ]);
});

test("an address of the other family goes where nothing translates", () => {
  const text = right(
    listen("bind 203.0.113.10:80", "bind 2001:db8:ff::10:80", "server a 10.20.0.11:80"),
  );
  const { services, notes } = imported(importHaproxy, text);
  assert.deepEqual(
    services.map(({ vip }) => vip),
    ["203.0.113.10"],
  );
  assert.match(
    notes.join("\n"),
    /VIP 2001:db8:ff::10 of service one is left out: .* full-nat does$/m,
  );
});

test("HTTP checks, and a proxy that nothing can be made of", () => {
  const text = right(
    `defaults\n    mode tcp\n    option httpchk GET /health\n    timeout check 500ms\n` +
      "frontend alone\n    bind 203.0.113.10:80\n    use_backend b if { src 10.0.0.1 }\n" +
      "frontend off\n    bind 203.0.113.11:80\n    default_backend c\n    disabled\n" +
      "backend b\n    server a 10.20.0.11:80 check\n" +
      "backend c\n    server a 10.20.0.11:80 check\n" +
      "listen d\n    bind 203.0.113.12:80\n    server a 10.20.0.11:80 check inter 100ms fall 1\n" +
      "    server b 10.20.0.12:80\n    server c 10.20.0.13:80 check fall 2 inter 100ms\n",
  );
  const { services, notes } = imported(importHaproxy, text, { snat: ["10.20.0.100"] });
  assert.deepEqual(
    services.map(({ name, health }) => [name, health]),
    [
      [
        "d",
        {
          type: "http",
          path: "/health",
          interval: "100ms",
          timeout: "100ms",
          rise: 2,
          fall: 1,
        },
      ],
    ],
  );
  assertNotes(notes, [
    /^5: frontend "alone" \(lines 5-7\) is left out: it has no default_backend$/,
    /^7: "use_backend b": one service has one set of backends/,
    /^8: frontend "off" \(lines 8-11\) is left out: it is disabled$/,
    /^12: backend "b" \(lines 12-13\) is left out: no service has it: /,
    /^14: backend "c" \(lines 14-15\) is left out: no service has it: /,
    /^19: server "b" has check now too: it is for all backends of a service$/,
    /^20: server "c": fall is 1, as at "a": it is for all backends of a service$/,
  ]);
});

test("backups, caps, slow start and bounded loads", () => {
  const servers = [
    "server a 10.20.0.11:80 weight 10 maxconn 100",
    "server b 10.20.0.12:80 backup",
    "server c 10.20.0.13:80 backup slowstart 30s",
  ];
  const one = (...lines: string[]) => {
    const text = right(listen("bind 203.0.113.10:80", ...lines, ...servers));
    return imported(importHaproxy, text, { snat: ["10.20.0.100"] });
  };
  const [a, b, c] = [
    { address: "10.20.0.11", port: 80, weight: 10, maxConnections: 100 },
    { address: "10.20.0.12", port: 80, weight: 1 },
    { address: "10.20.0.13", port: 80, weight: 1 },
  ];
  const plain = one();
  assert.deepEqual(plain.services[0]?.["backends"], [
    a,
    { ...b, priority: 1 },
    { ...c, priority: 2 },
  ]);
  assert.deepEqual(plain.services[0]?.["slowStart"], { window: "30s" });
  assertNotes(plain.notes, [
    /^5: server "a": slowStart is 30s, for all backends of a service$/,
    /^6: server "b": slowStart is 30s, for all backends of a service$/,
  ]);
  const together = one(
    "option allbackups",
    "balance hash src,ipmask(24)",
    "hash-balance-factor 150",
  );
  assert.deepEqual(together.services[0]?.["backends"], [
    a,
    { ...b, priority: 1 },
    { ...c, priority: 1 },
  ]);
  assert.equal(together.services[0]?.["maxLoad"], 1.5);
  // `first` fills them in their order, whatever their weights.
  const first = one("balance first");
  assert.deepEqual(first.services[0]?.["backends"], [
    { ...a, weight: 3 },
    { ...b, weight: 2 },
    { ...c, weight: 1 },
  ]);
  assert.match(first.notes.join("\n"), /slowStart of service one is left out: expected off with/);
});

const CHECKS: readonly (readonly [name: string, lines: readonly string[], health: object])[] = [
  ["httpchk alone", ["option httpchk"], { type: "http", method: "OPTIONS", path: "/" }],
  ["httpchk of a path", ["option httpchk /up"], { type: "http", method: "OPTIONS", path: "/up" }],
  [
    "httpchk with a header behind its version",
    ["option httpchk HEAD /up HTTP/1.1\\r\\nHost:\\ www.example.com"],
    { type: "http", method: "HEAD", path: "/up", host: "www.example.com" },
  ],
  [
    "http-check send and expect",
    [
      "option httpchk",
      "http-check send meth GET uri /up ver HTTP/1.1 hdr Host www hdr X-Check yes",
      "http-check expect status 200,301-399",
    ],
    {
      type: "http",
      path: "/up",
      host: "www",
      headers: { "x-check": "yes" },
      status: [200, "301-399"],
    },
  ],
  [
    "http-check expect string",
    ["option httpchk GET /up", "http-check expect string all\\ good"],
    { type: "http", path: "/up", status: "100-599", bodyContains: "all good" },
  ],
  ["ssl-hello-chk", ["option ssl-hello-chk"], { type: "tls" }],
  ["tcp-check without steps", ["option tcp-check"], { type: "tcp" }],
  [
    "tcp-check",
    [
      "option tcp-check",
      "tcp-check connect",
      "tcp-check send PING\\r\\n",
      "tcp-check expect string +PONG",
      "tcp-check send-binary 0d0a",
      "tcp-check expect rstring ^-ERR",
    ],
    {
      type: "script",
      steps: [
        { send: "PING\r\n" },
        { expect: "+PONG" },
        { sendHex: "0d0a" },
        { expectRegex: "^-ERR" },
      ],
    },
  ],
  [
    "redis-check",
    ["option redis-check"],
    { type: "script", steps: [{ send: "*1\r\n$4\r\nPING\r\n" }, { expect: "+PONG\r\n" }] },
  ],
];
for (const [name, lines, wanted] of CHECKS) {
  test(`check: ${name}`, () => {
    const text = right(listen("bind 203.0.113.10:80", ...lines, "server a 10.20.0.11:80 check"));
    const { services, notes } = imported(importHaproxy, text, { snat: ["10.20.0.100"] });
    const { interval, timeout, rise, fall, ...health } = services[0]!["health"] as Keys;
    assert.deepEqual([interval, timeout, rise, fall], ["2s", "2s", 2, 3]);
    assert.deepEqual(health, wanted);
    assert.deepEqual(notes, []);
  });
}

test("check-ssl is a check over TLS", () => {
  const text = right(
    listen(
      "bind 203.0.113.10:443",
      "option httpchk GET /up",
      "server a 10.20.0.11:443 check check-ssl check-sni www.example.com verify none",
    ),
  );
  const { services } = imported(importHaproxy, text, { snat: ["10.20.0.100"] });
  const { type, path: asked, serverName } = services[0]!["health"] as Keys;
  assert.deepEqual([type, asked, serverName], ["https", "/up", "www.example.com"]);
});

test("stick on src is affinity; a table that others use is a group", () => {
  const text = right(
    "defaults\n    mode tcp\n" +
      "listen a\n    bind 203.0.113.10:80\n    stick-table type ip size 1m expire 30m\n    stick on src\n" +
      "    server a 10.20.0.11:80\n" +
      "listen B_c\n    bind 203.0.113.10:443\n    stick match src table a\n    server a 10.20.0.11:443\n" +
      "listen d\n    bind 203.0.113.10:444\n    stick-table type ip size 1k\n    stick on src,ipmask(24)\n" +
      "listen e\n    bind 203.0.113.10:445\n    stick-table type ip size 1k expire 1m\n",
  );
  const { services, notes } = imported(importHaproxy, text, { snat: ["10.20.0.100"] });
  assert.deepEqual(
    services.map(({ affinity }) => affinity),
    [
      { timeout: "30m", group: "a" },
      { timeout: "30m", group: "a" },
      { timeout: "168h", prefix: { ipv4: 24 } },
      undefined,
    ],
  );
  assertNotes(notes, [
    /^15: stick without expire: a week is the longest$/,
    /^18: stick-table without stick on src: it only counts$/,
  ]);
});

test("agents, checks at another place, and intervals by state", () => {
  const text = right(
    listen(
      "bind 203.0.113.10:80",
      "default-server inter 3s fastinter 1s downinter 10s agent-inter 5s",
      "server a 10.20.0.11:80 check port 9200 agent-check agent-port 9",
      'server b 10.20.0.12:80 check port 9201 addr 10.99.0.12 agent-check agent-port 10 agent-send "b\\n"',
      "server c 10.20.0.13:80 check agent-check agent-port 9",
    ),
  );
  const { services, notes } = imported(importHaproxy, text, { snat: ["10.20.0.100"] });
  const [{ health, agent, backends }] = services as [(typeof services)[0]];
  assert.deepEqual(health, {
    ...{ type: "tcp", interval: "3s", timeout: "1s", fastInterval: "1s", downInterval: "10s" },
    ...{ rise: 2, fall: 3, port: 9200 },
  });
  assert.deepEqual(agent, { port: 9, interval: "5s", timeout: "5s" });
  assert.deepEqual(backends, [
    { address: "10.20.0.11", port: 80, weight: 1 },
    {
      ...{ address: "10.20.0.12", port: 80, weight: 1 },
      check: { address: "10.99.0.12", port: 9201, agentPort: 10 },
    },
    { address: "10.20.0.13", port: 80, weight: 1, check: { port: 80 } },
  ]);
  assertNotes(notes, [
    /^7: server "b": agent-send is the default, as at "a": it is for all backends of a service$/,
  ]);
});

test("words: quotes, escapes, comments; durations", () => {
  assert.deepEqual(haWords(`a 'b c' "d # e" f\\ g \\x41\\r # h`), [
    "a",
    "b c",
    "d # e",
    "f g",
    "A\r",
  ]);
  assert.deepEqual(haWords(`a ""`), ["a", ""]);
  assert.deepEqual(haWords("   # only a comment"), []);
  assert.equal(haWords(`a "b`), null);
  assert.deepEqual(
    ["5", "5us", "5ms", "5s", "5m", "5h", "5d", "5w", "", undefined].map(haDuration),
    [5, 0.005, 5, 5000, 300_000, 18_000_000, 432_000_000, null, null, null],
  );
});
