import assert from "node:assert/strict";
import { test } from "node:test";
import { formatConfigProblem } from "../../../src/base/errors.ts";
import { parseConfig } from "../../../src/control/config/load.ts";
import { ipv6Problems, restartProblems } from "../../../src/control/config/restart-keys.ts";
import { one, service, top } from "./config-text.ts";

const BEFORE = `device: { type: packet, interfaces: [eth0] }
flows: { capacity: 1000 }
admin: { http: 127.0.0.1:9105 }
services:
${service()}`;

const CASES: readonly {
  readonly name: string;
  readonly edit: readonly [string, string];
  readonly want: readonly string[];
}[] = [
  { name: "nothing", edit: ["", ""], want: [] },
  { name: "a comment", edit: ["services:", "# more\nservices:"], want: [] },
  { name: "a default that is written out", edit: ["[eth0]", "[eth0], workers: 1"], want: [] },
  { name: "a service", edit: ["port: 80\n", "port: 81\n"], want: [] },
  {
    name: "log, hash, shutdown, snat",
    edit: [
      "services:",
      "log: { level: debug }\nhash: { seed: a }\nshutdown: { mode: drain }\nsnat: { ports: 5-6 }\nservices:",
    ],
    want: [],
  },
  {
    name: "an interface more",
    edit: ["[eth0]", "[eth0, eth1]"],
    want: [
      'gw.yaml:1:37: device.interfaces: expected ["eth0"], as it is running, got ["eth0","eth1"]: a restart is needed to change it',
    ],
  },
  {
    name: "another capacity",
    edit: ["1000", "2000"],
    want: [
      "gw.yaml:2:20: flows.capacity: expected 1000, as it is running, got 2000: a restart is needed to change it",
    ],
  },
  {
    name: "a key that falls back to its default",
    edit: ["admin: { http: 127.0.0.1:9105 }\n", ""],
    want: [
      'gw.yaml:1:1: admin.http: expected "127.0.0.1:9105", as it is running, got "off": a restart is needed to change it',
    ],
  },
  {
    name: "limits, and a state file",
    edit: [
      "{ capacity: 1000 }",
      "{ capacity: 1000, stateFile: /dev/shm/s }\nlimits: { services: 8 }",
    ],
    want: [
      'gw.yaml:2:37: flows.stateFile: expected the default, as it is running, got "/dev/shm/s": a restart is needed to change it',
      "gw.yaml:3:21: limits.services: expected 1024, as it is running, got 8: a restart is needed to change it",
    ],
  },
  {
    name: "another device",
    edit: ["{ type: packet, interfaces: [eth0] }", "{ type: tun, guard: persistent }"],
    want: [
      'gw.yaml:1:17: device.type: expected "packet", as it is running, got "tun": a restart is needed to change it',
      'gw.yaml:1:9: device.interfaces: expected ["eth0"], as it is running, got the default: a restart is needed to change it',
      'gw.yaml:1:29: device.guard: expected "process", as it is running, got "persistent": a restart is needed to change it',
      'gw.yaml:1:9: device.name: expected the default, as it is running, got "hg0": a restart is needed to change it',
      'gw.yaml:1:9: device.routes: expected the default, as it is running, got "auto": a restart is needed to change it',
    ],
  },
];

for (const { name, edit, want } of CASES) {
  test(`reload that changes ${name}`, () => {
    const before = parseConfig(BEFORE, "gw.yaml");
    const after = parseConfig(BEFORE.replace(...edit), "gw.yaml");
    assert.deepEqual(restartProblems(before, after).map(formatConfigProblem), want);
  });
}

test("a gateway without room for IPv6 flows refuses the first IPv6 address, at its place", () => {
  const six = parseConfig(
    one({ vip: "'2001:db8:ff::10'", backends: "[{ address: '2001:db8:2::11' }]" }),
    "gw.yaml",
  );
  assert.deepEqual(ipv6Problems(six, true), []);
  assert.deepEqual(ipv6Problems(parseConfig(one({}), "gw.yaml"), false), []);
  const [problem] = ipv6Problems(six, false);
  assert.match(
    formatConfigProblem(problem!),
    /^gw\.yaml:4:10: services\[0\]\.vip: .*a restart is needed/,
  );
  const pool = parseConfig(top("snat: { addresses: ['2001:db8:2::100'] }\n"), "gw.yaml");
  assert.match(formatConfigProblem(ipv6Problems(pool, false)[0]!), /snat\.addresses/);
});
