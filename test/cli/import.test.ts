import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { EXIT } from "../../src/base/errors.ts";
import { headgate } from "./fake-gateway.ts";

// `headgate import …`: the configuration on standard output, what is missing in it on standard error.

const folder = mkdtempSync(path.join(tmpdir(), "headgate-import-"));
after(() => rmSync(folder, { recursive: true }));

function file(name: string, text: string): string {
  const full = path.join(folder, name);
  writeFileSync(full, text);
  return full;
}

const SAVED = "-A -t 203.0.113.10:80 -s rr\n-a -t 203.0.113.10:80 -r 10.20.0.11:8080 -m -w 1\n";
const WHOLE = file("whole.txt", SAVED);
const PART = file("part.txt", `${SAVED}-A -f 7 -s rr\n`);
const PROXY = file(
  "haproxy.cfg",
  "listen web\n  bind *:80\n  balance source\n  server a 10.20.0.11:8080\n",
);

test("all carried over: nothing on standard error, and check takes the output", async () => {
  const { code, out, err } = await headgate(["import", "ipvsadm", WHOLE, "--exit-code"]);
  assert.deepEqual([code, err], [EXIT.done, ""]);
  assert.match(out, /^# Made of .*whole\.txt by headgate import\.\n\nversion: 1\n/);
  const made = await headgate(["check", "-c", file("made.yaml", out)]);
  assert.match(made.out, /made\.yaml: ok \(1 service, 1 backend\)\n$/);
});

test("a line that is not carried over is named; --exit-code makes it 3", async () => {
  const plain = await headgate(["import", "ipvsadm", PART]);
  assert.equal(plain.code, EXIT.done);
  assert.match(plain.err, /^.*part\.txt:3: firewall mark "7": .*\n$/);
  assert.match(plain.out, /^services:\n {2}- name: tcp-203\.0\.113\.10-80$/m);
  const differs = await headgate(["import", "ipvsadm", PART, "--exit-code"]);
  assert.equal(differs.code, EXIT.differs);
  assert.equal(differs.out, plain.out);
});

test("what the other program's file cannot say comes from options", async () => {
  const { code, out, err } = await headgate([
    ...[
      "import",
      "haproxy",
      PROXY,
      "--device",
      "xdp",
      "--interface",
      "eth1",
      "--interface",
      "eth2",
    ],
    ...["--vip", "203.0.113.10", "--vip", "203.0.113.11", "--snat", "10.20.0.100-10.20.0.103"],
  ]);
  assert.deepEqual([code, err], [EXIT.done, ""]);
  assert.match(out, /^device: \{ type: xdp, interfaces: \[ eth1, eth2 \] \}$/m);
  assert.match(out, /^ {4}vip: \[ 203\.0\.113\.10, 203\.0\.113\.11 \]$/m);
  assert.match(out, /^ {4}mode: full-nat$/m);
});

const REFUSED: readonly (readonly [string[], number, RegExp])[] = [
  [["import"], EXIT.usage, /^Usage: headgate import/],
  [["import", "nginx", WHOLE], EXIT.usage, /unknown command 'nginx'/],
  [["import", "ipvsadm"], EXIT.usage, /missing required argument 'file'/],
  [["import", "ipvsadm", path.join(folder, "none")], EXIT.failed, /none cannot be read: ENOENT\n$/],
  [["import", "ipvsadm", WHOLE, "--snat", "a-b"], EXIT.usage, /expected an address or a range/],
  [["import", "ipvsadm", WHOLE, "--vip", "web"], EXIT.usage, /expected an address, got "web"/],
  [["import", "ipvsadm", WHOLE, "--interface", "a b"], EXIT.usage, /expected an interface name/],
];
for (const [argv, want, message] of REFUSED) {
  test(`headgate ${argv.slice(0, 2).join(" ")} … ${argv.slice(3).join(" ")}: exit ${want}`, async () => {
    const { code, out, err } = await headgate(argv);
    assert.deepEqual([code, out], [want, ""]);
    assert.match(err, message);
  });
}
