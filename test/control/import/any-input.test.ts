import assert from "node:assert/strict";
import { test } from "node:test";
import { parse } from "yaml";
import { createRandom, type Random } from "../../../src/base/random.ts";
import { parseConfig } from "../../../src/control/config/load.ts";
import type { ImportOptions, ImportResult, Keys } from "../../../src/control/import/draft.ts";
import { importHaproxy } from "../../../src/control/import/haproxy.ts";
import { importIpvsadm } from "../../../src/control/import/ipvsadm.ts";
import { importKeepalived } from "../../../src/control/import/keepalived.ts";
import { OPTIONS } from "./support.ts";

// Goal: whatever a file says, what comes out is a configuration without an error, and every line of
// a service or a server is either in it or named.
// Method: files made of right and odd pieces from a seed, whole or with random edits.

const SEED = Number(process.env["HEADGATE_SEED"] ?? Date.now() % 1_000_000);
const FILES = 20;
const EDITED = 15;

function pick<T>(random: Random, list: readonly T[]): T {
  return list[random.below(list.length)]!;
}

/** One of them, or nothing. */
function maybe(random: Random, list: readonly string[]): string {
  return random.below(2) === 0 ? "" : ` ${pick(random, list)}`;
}

const VIPS = ["203.0.113.10", "203.0.113.11", "[2001:db8:ff::10]", "127.0.0.1", "[::1]", "0.0.0.0"];
const REAL = ["10.20.0.11", "10.20.0.12", "[2001:db8:2::11]", "203.0.113.10", "127.0.0.1"];
const PORTS = ["80", "0", "443", "65535", "8080"];

function ipvsFile(random: Random): string {
  const lines: string[] = [];
  const known: string[] = [];
  for (let count = 1 + random.below(8); count > 0; count--) {
    const service = `-${pick(random, ["t", "t", "u"])} ${pick(random, VIPS)}:${pick(random, PORTS)}`;
    if (known.includes(service)) continue;
    known.push(service);
    const scheduler = pick(random, "rr wrr lc wlc sh mh sed nq fo ovf twos dh lblc odd".split(" "));
    lines.push(
      `-A ${service} -s ${scheduler}${maybe(random, ["-p", "-p 360", "-p 99999999", "-o"])}${maybe(
        random,
        ["-M 255.255.255.0", "-M 64", "-M 255.0.255.0", "-b mh-port", "-b sh-port,sh-fallback"],
      )}`,
    );
    const servers = new Set<string>();
    for (let more = random.below(5); more > 0; more--) {
      servers.add(`${pick(random, REAL)}:${pick(random, PORTS)}`);
    }
    for (const server of servers) {
      const mode = pick(random, ["-m", "-g", "-i", "-i --tun-type gue --tun-port 6081"]);
      const weight = pick(random, ["0", "1", "10", "65535", "65536"]);
      const caps = maybe(random, ["-x 10 -y 5", "-x 0 -y 0", "-x 100"]);
      lines.push(`-a ${service} -r ${server} ${mode} -w ${weight}${caps}`);
    }
  }
  return `${lines.join("\n")}\n`;
}

function haFile(random: Random): string {
  const lines = ["defaults", "mode tcp", ...haSettings(random, 2)];
  for (let count = 1 + random.below(4); count > 0; count--) {
    const kind = pick(random, ["listen", "listen", "frontend"]);
    lines.push(`${kind} p${count}`);
    for (let binds = 1 + random.below(3); binds > 0; binds--) {
      const range = maybe(random, ["-90"]).trim();
      const vip = pick(random, [...VIPS, "*", ""]);
      lines.push(`bind ${vip}:${pick(random, ["80", "81", "443"])}${range === "-90" ? "" : range}`);
    }
    if (kind === "frontend")
      lines.push(`default_backend b${count}`, "maxconn 100", `backend b${count}`);
    lines.push(...haSettings(random, 4));
    for (let servers = random.below(5); servers > 0; servers--) {
      const options = `${maybe(random, ["check", "check inter 3s fall 9", "check port 9200"])}${maybe(
        random,
        ["backup", "disabled", "weight 256", "maxconn 7", "send-proxy", "slowstart 30s", "ssl"],
      )}${maybe(random, ["observe layer4 error-limit 5 on-error mark-down", "agent-check agent-port 9"])}`;
      lines.push(
        `server s${servers} ${pick(random, REAL)}:${pick(random, [...PORTS, "+5"])}${options}`,
      );
    }
  }
  return `${lines.join("\n")}\n`;
}

function haSettings(random: Random, count: number): string[] {
  return Array.from({ length: random.below(count + 1) }, () =>
    pick(random, [
      "balance source",
      "balance random",
      "balance first",
      "balance uri",
      "hash-balance-factor 150",
      "timeout client 0",
      "timeout server 30d",
      "timeout check 1us",
      "option httpchk OPTIONS * HTTP/1.1",
      "http-check send meth GET uri /x hdr Host a.b body {}",
      "http-check expect status 200,301-399",
      "option tcp-check",
      'tcp-check send "PING\\r\\n"',
      "tcp-check expect string +PONG",
      "option ssl-hello-chk",
      "option allbackups",
      "stick-table type ip size 1m expire 30m",
      "stick on src",
      "stick on src,ipmask(24)",
      "tcp-request connection reject if { src 10.0.0.0/8 }",
      "tcp-request connection reject unless { src 192.0.2.1 198.51.100.0/24 }",
      "retries 3",
    ]),
  );
}

function kaFile(random: Random): string {
  const lines = ["vrrp_instance V {", "}"];
  for (let count = 1 + random.below(5); count > 0; count--) {
    lines.push(`virtual_server ${bare(pick(random, VIPS))} ${pick(random, PORTS)} {`);
    const settings = [
      "lb_algo wrr",
      "lb_algo dh",
      "lb_kind DR",
      "lb_kind TUN",
      "protocol UDP",
      "persistence_timeout 99",
      "ops",
      "quorum 2",
      "delay_loop 0.01",
      "sorry_server 10.20.0.99 80",
    ];
    for (let more = random.below(5); more > 0; more--) lines.push(pick(random, settings));
    for (let servers = random.below(4); servers > 0; servers--) {
      const checks = ["TCP_CHECK {\n}", "MISC_CHECK {\nmisc_path /bin/true\n}", "SMTP_CHECK {\n}"];
      const check = maybe(random, [...checks, "UDP_CHECK {\npayload zz\n}", "weight 0"]);
      lines.push(`real_server ${bare(pick(random, REAL))} ${pick(random, PORTS)} {`, `${check}\n}`);
    }
    lines.push("}");
  }
  return `${lines.join("\n")}\n`;
}

const PIECES = [
  "",
  " ",
  "\n",
  ":",
  "-",
  "#",
  '"',
  "'",
  "\\",
  "0",
  "99999",
  "\0",
  "é",
  "\u2028",
  "[",
  "]",
  "{",
  "/",
  "%",
  "*",
  "&",
];

function edited(random: Random, text: string): string {
  let result = text;
  for (let count = 1 + random.below(12); count > 0; count--) {
    const at = random.below(result.length + 1);
    result = result.slice(0, at) + pick(random, PIECES) + result.slice(at + random.below(4));
  }
  return result;
}

function options(random: Random): ImportOptions {
  return {
    ...OPTIONS,
    device: pick(random, ["packet", "xdp", "tun"]),
    snat: pick(random, [[], ["10.20.0.100"], ["10.20.0.100-10.20.0.103", "2001:db8:2::100"]]),
    tunnelSources: pick(random, [[], ["10.20.0.1"], ["10.20.0.1", "2001:db8:2::1"]]),
    vips: pick(random, [[], ["203.0.113.12"], ["203.0.113.12", "2001:db8:ff::12"]]),
  };
}

/** Lines that the result has or names: `at` says which services and backends a line is about. */
function assertEachLine(
  text: string,
  result: ImportResult,
  isCarried: (line: string) => boolean,
): void {
  const noted = new Set(
    result.notes.flatMap(({ line, message }) => {
      const [, first, last] = /\(lines (\d+)-(\d+)\) is left out/.exec(message) ?? [];
      const count = first === undefined ? 1 : Number(last) - Number(first) + 1;
      return Array.from({ length: count }, (_, index) => line + index);
    }),
  );
  for (const [index, line] of text.split("\n").entries()) {
    if (noted.has(index + 1) || isCarried(line)) continue;
    assert.fail(
      `line ${index + 1} is neither carried over nor named: ${line}\n${text}\n${result.text}`,
    );
  }
}

/** Every VIP and every address of a backend in a configuration. */
function addressesOf(text: string): { vips: Set<string>; backends: Set<string> } {
  const { services } = parse(text) as { services: Keys[] };
  return {
    vips: new Set(services.flatMap(({ vip }) => [vip as string].flat())),
    backends: new Set(
      services.flatMap(({ backends }) =>
        (backends as Keys[]).map(({ address }) => String(address)),
      ),
    ),
  };
}

const bare = (host: string): string => host.replace(/^\[(.*)\]$/, "$1");

test(`ipvsadm: ${FILES} files are configurations, and no line is lost (seed ${SEED})`, () => {
  for (let index = 0; index < FILES; index++) {
    const random = createRandom(SEED + index);
    const text = ipvsFile(random);
    const result = importIpvsadm(text, options(random));
    parseConfig(result.text, `seed ${SEED + index}`);
    const { vips, backends } = addressesOf(result.text);
    assertEachLine(text, result, (line) => {
      const [, vip = ""] = /^-A -[tu] (.*):\d+ /.exec(line) ?? [];
      const [, real = ""] = /^-a -[tu] .*:\d+ -r (.*):\d+ /.exec(line) ?? [];
      return line === "" || vips.has(bare(vip)) || backends.has(bare(real));
    });
  }
});

test(`haproxy: ${FILES} files are configurations, and no line is lost (seed ${SEED})`, () => {
  for (let index = 0; index < FILES; index++) {
    const random = createRandom(SEED + index);
    const text = haFile(random);
    const result = importHaproxy(text, options(random));
    parseConfig(result.text, `seed ${SEED + index}`);
    const { backends } = addressesOf(result.text);
    assertEachLine(text, result, (line) => {
      const [, real] = /^server \S+ (\S+):\+?\d+/.exec(line) ?? [];
      return real === undefined || backends.has(bare(real));
    });
  }
});

test(`keepalived: ${FILES} files are configurations, and no line is lost (seed ${SEED})`, () => {
  for (let index = 0; index < FILES; index++) {
    const random = createRandom(SEED + index);
    const text = kaFile(random);
    const result = importKeepalived(text, options(random));
    parseConfig(result.text, `seed ${SEED + index}`);
    const { vips, backends } = addressesOf(result.text);
    assertEachLine(text, result, (line) => {
      const [, keyword, address = ""] = /^(virtual|real)_server (\S+) /.exec(line) ?? [];
      return keyword === undefined || (keyword === "real" ? backends : vips).has(address);
    });
  }
});

const EDITS: readonly (readonly [string, (random: Random) => string, typeof importIpvsadm])[] = [
  ["ipvsadm", ipvsFile, importIpvsadm],
  ["haproxy", haFile, importHaproxy],
  ["keepalived", kaFile, importKeepalived],
];
for (const [name, make, run] of EDITS) {
  test(`${name}: ${EDITED} damaged files are configurations (seed ${SEED})`, () => {
    for (let index = 0; index < EDITED; index++) {
      const random = createRandom(SEED + 1000 + index);
      const text = edited(random, make(random));
      const result = run(text, options(random));
      parseConfig(result.text, `seed ${SEED + index}`);
      const lines = text.split("\n").length;
      for (const { line } of result.notes) assert.ok(line >= 1 && line <= lines, `line ${line}`);
    }
  });
}
