import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { labEnvironment, PROJECT_ROOT, SKIP_UNLESS_ROOT } from "../support/lab.ts";
import { run } from "../support/processes.ts";

/** Every scenario of the lab, and the demo, on every device: as a user runs them. */

const SCENARIOS: readonly (readonly [name: string, ...more: string[]])[] = [
  ["round-robin"],
  ["round-robin", "--arms", "1"],
  ["round-robin", "--mode", "full-nat"],
  ["backend-dies"],
  ["drain"],
  ["reload-under-load"],
  ["tls-passthrough"],
  ["full-nat-one-arm"],
  ["path-mtu"],
  ["path-mtu", "--mode", "full-nat"],
  ["tunnels"],
];

/** They are about changes that control makes, and long, or have a test of their own on every device. */
const WITHOUT_XDP = ["drain", "reload-under-load", "tunnels"];

/** Runs a script of the lab to its end; on failure the whole of what it printed is the message. */
async function script(argv: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await run(
    ["bash", path.join(PROJECT_ROOT, "lab", argv[0]!), ...argv.slice(1)],
    { env: labEnvironment(), timeoutMs: 120_000, check: false },
  );
  assert.equal(code, 0, `${argv.join(" ")}\n${stderr}\n${stdout}`);
  return stdout;
}

for (const device of ["tun", "packet", "xdp"]) {
  for (const [name, ...more] of SCENARIOS) {
    if (device === "xdp" && WITHOUT_XDP.includes(name)) continue;
    const title = [name, ...more].join(" ");
    test(`scenario ${title}, ${device}`, { skip: SKIP_UNLESS_ROOT }, async () => {
      const printed = await script(["lab.sh", name, "--device", device, ...more]);
      assert.match(printed, new RegExp(`^PASS  ${name} \\(${device}`, "m"));
      assert.match(printed, /^ok {4}/m);
    });
  }

  test(`the demo, ${device}`, { skip: SKIP_UNLESS_ROOT }, async () => {
    const printed = await script(["demo-run.sh", device]);
    assert.match(printed, /^ok {4}200 requests, 0 failed$/m);
    assert.match(printed, /^demo: done\. 400 requests, 0 failed/m);
  });
}
