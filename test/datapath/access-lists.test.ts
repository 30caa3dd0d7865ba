import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { ConfigError } from "../../src/base/errors.ts";
import { parseConfig } from "../../src/control/config/load.ts";
import { C_REFUSED } from "../../src/datapath/counters.ts";
import { REFUSED_ACCESS } from "../../src/datapath/verdict.ts";
import { ACK, SYN, tcpPacket, udpPacket } from "../support/frames.ts";
import { AdmissionBench, CLIENT, configOf, lineOf, TCP, UDP } from "./admission-bench.ts";

const syn = (source: string): Uint8Array => tcpPacket({ ...TCP, source, flags: SYN });
const datagram = (source: string): Uint8Array => udpPacket({ ...UDP, source, data: [1] });

test("a client in a deny list opens no flow; the longest prefix decides", () => {
  const more = `access: { allow: [0.0.0.0/0, 198.51.100.128/25], deny: [198.51.100.0/24] },`;
  const bench = new AdmissionBench({ yaml: configOf({ more }) });
  for (const packet of [syn(CLIENT), datagram(CLIENT)]) assert.deepEqual(bench.client(packet), []);
  assert.equal(bench.count("access_denied"), 2);
  assert.equal(bench.counter(C_REFUSED + REFUSED_ACCESS), 2);
  assert.equal(bench.live, 0);
  for (const source of ["198.51.100.130", "192.0.2.1"]) {
    assert.equal(bench.client(syn(source)).length, 1, source);
    assert.equal(bench.client(datagram(source)).length, 1, source);
  }
});

test("with an allow list nobody else is admitted, also when it is empty", () => {
  const bench = new AdmissionBench({
    yaml: configOf({ more: "access: { allow: [192.0.2.0/24] }," }),
  });
  assert.deepEqual(bench.client(syn(CLIENT)), []);
  assert.equal(bench.client(syn("192.0.2.77")).length, 1);
  bench.gateway.configure(configOf({ more: "access: { allow: [] }," }));
  assert.deepEqual(bench.client(syn("192.0.2.78")), []);
  assert.equal(bench.count("access_denied"), 2);
});

test("refuse: reset answers: RST for a SYN, port unreachable for a datagram", () => {
  const more = `access: { deny: [${CLIENT}], refuse: reset },`;
  const bench = new AdmissionBench({ yaml: configOf({ more }) });
  const [reset] = bench.client(syn(CLIENT));
  assert.match(lineOf(reset!), /203\.0\.113\.10:80 > 198\.51\.100\.2:40000 tcp.*R/);
  const [unreachable] = bench.client(datagram(CLIENT));
  assert.match(lineOf(unreachable!), /^203\.0\.113\.10 > 198\.51\.100\.2 icmp 3\/3/);
  assert.equal(bench.count("replied"), 2);
  assert.equal(bench.counter(C_REFUSED + REFUSED_ACCESS), 2);
});

test("a flow that is there goes on when its client is denied, and the next one is refused", () => {
  const bench = new AdmissionBench({ yaml: configOf() });
  assert.equal(bench.client(syn(CLIENT)).length, 1);
  bench.gateway.configure(configOf({ more: `access: { deny: [${CLIENT}] },` }));
  assert.equal(bench.client(tcpPacket({ ...TCP, flags: SYN })).length, 1, "the SYN again");
  assert.deepEqual(bench.client(tcpPacket({ ...TCP, sourcePort: 40_001, flags: SYN })), []);
  assert.equal(bench.count("access_denied"), 1);
  // Adopted segments are new flows.
  assert.deepEqual(bench.client(tcpPacket({ ...TCP, sourcePort: 40_002, flags: ACK })).length, 1);
});

test("lists change with a reload while banks that keep them share a buffer", () => {
  const bench = new AdmissionBench({ yaml: configOf({ more: "access: { deny: [10.0.0.0/8] }," }) });
  for (let round = 0; round < 6; round++) {
    const denied = `192.0.2.${round}`;
    bench.gateway.configure(configOf({ more: `access: { deny: [${denied}] },` }));
    // What health and weights cause: the same lists, banks of their own.
    for (let again = 0; again < round; again++) bench.gateway.publish();
    assert.deepEqual(bench.client(syn(denied)), [], denied);
    const [other] = bench.client(syn(`192.0.2.${100 + round}`));
    assert.ok(other !== undefined);
  }
});

test("a file has one prefix a line; what is wrong in it is an error with file and line", () => {
  const folder = mkdtempSync(path.join(tmpdir(), "headgate-lists-"));
  try {
    const file = path.join(folder, "deny");
    writeFileSync(file, `# drop list\n\n${CLIENT}  # one\n2001:db8::/32\n`);
    const yaml = configOf({ more: `access: { denyFile: ${file} },` });
    const bench = new AdmissionBench({ yaml });
    assert.deepEqual(bench.client(syn(CLIENT)), []);
    const before = parseConfig(yaml, "gw.yaml").services[0]!.access;
    assert.equal(before.rules!.count, 2);
    writeFileSync(file, `${CLIENT}\n`);
    const after = parseConfig(yaml, "gw.yaml").services[0]!.access;
    assert.notEqual(JSON.stringify(before), JSON.stringify(after), "a reload sees the difference");
    for (const [text, message] of [
      ["10.0.0.0/8\n10.0.0.1/8\n", `${file}:2: expected no bit behind the prefix (10.0.0.0/8)`],
      ["x\n", `${file}:1: expected a prefix`],
      [null, "expected a file that can be read, got ENOENT"],
    ] as const) {
      if (text === null) rmSync(file);
      else writeFileSync(file, text);
      assert.throws(
        () => parseConfig(yaml, "gw.yaml"),
        (error: unknown) =>
          error instanceof ConfigError &&
          error.problems[0]!.path === "services[0].access.denyFile" &&
          error.problems[0]!.message.startsWith(message),
      );
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});
