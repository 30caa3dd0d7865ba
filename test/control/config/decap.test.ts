import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { ConfigError } from "../../../src/base/errors.ts";
import { parseDecapConfig } from "../../../src/control/config/decap-load.ts";
import { headgate } from "../../cli/fake-gateway.ts";

const folder = mkdtempSync(path.join(tmpdir(), "headgate-decap-"));
after(() => rmSync(folder, { recursive: true }));

const GOOD = `version: 1
decap:
  vip: [203.0.113.10, "2001:db8:ff::10"]
  accept: [10.20.0.0/24]
`;

test("defaults are filled in", () => {
  const definition = parseDecapConfig(GOOD, "d.yaml");
  const { vips, accept, ...rest } = definition;
  assert.deepEqual(
    vips.map(({ text }) => text),
    ["203.0.113.10", "2001:db8:ff::10"],
  );
  assert.deepEqual(
    accept.map(({ text }) => text),
    ["10.20.0.0/24"],
  );
  assert.deepEqual(rest, {
    file: "d.yaml",
    log: { level: "info" },
    name: "hgd0",
    protocols: ["ipip", "gue"],
    gue: { port: 6080, zeroChecksum: false },
    mtu: 1500,
    hideArp: true,
  });
});

test("every problem is found at its place", () => {
  const text = `version: 2
decap:
  nam: hgd0
  protocols: [ipip, vxlan]
  gue: { port: 0 }
  vip: [203.0.113.10, 127.0.0.1, "2001:db8::1%eth0"]
  accept: [10.20.0.1/24]
  mtu: 500
`;
  assert.throws(
    () => parseDecapConfig(text, "d.yaml"),
    (error: unknown) => {
      assert.ok(error instanceof ConfigError);
      assert.deepEqual(error.message.split("\n"), [
        "d.yaml:1:10: version: expected 1, got 2",
        'd.yaml:3:3: decap.nam: expected a known key (the nearest is "name"), got "nam"',
        'd.yaml:4:21: decap.protocols[1]: expected ipip or gue, got "vxlan"',
        "d.yaml:5:16: decap.gue.port: expected a port from 1 to 65535, got 0",
        'd.yaml:6:23: decap.vip[1]: expected the IPv4 address of a host, got "127.0.0.1"',
        'd.yaml:6:34: decap.vip[2]: expected an address without a zone, got "2001:db8::1%eth0"',
        'd.yaml:7:12: decap.accept[0]: expected no bit behind the prefix (10.20.0.0/24), got "10.20.0.1/24"',
        "d.yaml:8:8: decap.mtu: expected a whole number from 1280 to 65535, got 500",
      ]);
      return true;
    },
  );
});

const REFUSED: readonly (readonly [string, string])[] = [
  ["", 'd.yaml:1:1: expected the key "decap", got none'],
  ["version: 1\n", 'd.yaml:1:1: expected the key "decap", got none'],
  ["decap: {}\n", 'd.yaml:1:8: decap: expected the key "vip", got none'],
  ["decap: 7\n", "d.yaml:1:8: decap: expected a map of keys, got 7"],
  [
    "decap: { vip: [] }\n",
    "d.yaml:1:15: decap.vip: expected a list (each an IPv4 or IPv6 address), got an empty list",
  ],
  [
    'decap: { vip: ["2001:db8::1", "2001:DB8:0::1"] }\n',
    "d.yaml:1:31: decap.vip[1]: expected each VIP once, got 2001:db8::1 again (first at d.yaml:1:16)",
  ],
];
for (const [text, message] of REFUSED) {
  test(`refused: ${JSON.stringify(text)}`, () => {
    assert.throws(() => parseDecapConfig(text, "d.yaml"), { message });
  });
}

test("check knows both kinds of files, and decap its own", async () => {
  const good = path.join(folder, "good.yaml");
  const bad = path.join(folder, "bad.yaml");
  writeFileSync(good, GOOD);
  writeFileSync(bad, "decap: { vip: [203.0.113.10], mtu: 1 }\n");
  const ok = `${good}: ok (decapsulator of ipip and gue, 2 VIPs)\n`;
  assert.deepEqual(await headgate(["check", "-c", good]).then(({ code, out }) => [code, out]), [
    0,
    ok,
  ]);
  const checked = await headgate(["decap", "-c", good, "--check"]);
  assert.equal(checked.out, ok);
  assert.deepEqual(checked.actions, []);
  const refused = await headgate(["check", "-c", bad]);
  assert.equal(refused.code, 78);
  assert.equal(
    refused.err,
    `${bad}:1:36: decap.mtu: expected a whole number from 1280 to 65535, got 1\n`,
  );
  assert.deepEqual((await headgate(["decap", "-c", good])).actions, [`decap ${good}`]);
  assert.equal((await headgate(["decap"])).code, 2);
  assert.match((await headgate(["decap", "--schema"])).out, /"Headgate decapsulator"/);
});
