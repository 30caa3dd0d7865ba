import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { measureGatewayResident } from "../../bench/conns/suite.ts";
import { type Results, readResults } from "../../bench/report.ts";
import { SKIP_UNLESS_ROOT } from "../support/lab.ts";

/** The suites of the lab with tiny sizes: frames and bytes arrive and are counted; no time is asked for. */

const PROGRAM = fileURLToPath(new URL("../../bench/run.js", import.meta.url));
const ROOT = { skip: SKIP_UNLESS_ROOT, timeout: 180_000 } as const;

function bench(t: { after(end: () => void): void }, ...args: string[]): Results {
  const folder = mkdtempSync(path.join(tmpdir(), "headgate-bench-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const json = path.join(folder, "figures.json");
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [PROGRAM, ...args, "--rounds", "1", "--json", json],
    // What else runs does not matter here: nobody looks at a rate.
    { encoding: "utf8", timeout: 170_000, env: { ...process.env, HEADGATE_BENCH_LOUD: "1" } },
  );
  assert.equal(status, 0, `${stdout}\n${stderr}`);
  return readResults(json);
}

test("lab-pps: generator, floors, kernel and gateway deliver frames", ROOT, (t) => {
  const only = "alone|nftables|C over|xdp";
  const cases = "60-byte UDP, 1 flow|1,500-byte UDP, 1,000 flows";
  const { "lab-pps": pps } = bench(
    t,
    "lab-pps",
    "--seconds",
    "0.1",
    "--only",
    only,
    "--cases",
    cases,
  );
  const rows = pps!.figures.results;
  assert.deepEqual(
    [...new Set(rows.map(({ contender }) => contender))],
    [
      "generator alone into XDP_DROP",
      "nftables DNAT",
      "C over AF_PACKET, no NAT",
      "C over AF_XDP, no NAT",
      "Headgate xdp, nat",
    ],
  );
  assert.equal(rows.length, 10);
  for (const { contender, samples } of rows) {
    assert.equal(samples.length, 1);
    const { flood } = samples[0]!;
    assert.ok(flood.deliveredRate > 0, contender);
    assert.ok(flood.loss >= 0 && flood.loss < 1, `${contender}: ${flood.loss}`);
  }
});

test("lab-tcp: bytes, connections and requests through a proxy and the gateway", ROOT, (t) => {
  const { "lab-tcp": tcp } = bench(t, "lab-tcp", "--seconds", "0.5", "--only", "splice|packet");
  const rows = tcp!.figures.results;
  assert.deepEqual(
    rows.map(({ contender }) => contender),
    ["HAProxy, splice", "Headgate packet, nat"],
  );
  for (const { contender, samples } of rows) {
    const [one] = samples;
    assert.deepEqual(
      one!.streams.map(({ streams }) => streams),
      [1, 32],
    );
    for (const { gigabits } of one!.streams) assert.ok(gigabits > 0, contender);
    for (const { perSecond, failed } of [one!.connections, one!.requests]) {
      assert.ok(perSecond > 0, contender);
      assert.equal(failed, 0, contender);
    }
  }
});

test("lab-conns: a gateway has the flows that were asked for", ROOT, async () => {
  const resident = await measureGatewayResident([0, 500]);
  assert.deepEqual(
    resident.map(({ flows }) => flows),
    [0, 500],
  );
  for (const { bytes, programBytes, mappedBytes } of resident) {
    assert.ok(programBytes > 1e6 && bytes > programBytes + 1e7 && mappedBytes > 1e7);
  }
});

test("soak: what is sent arrives, and samples are taken", ROOT, (t) => {
  const { soak } = bench(t, "soak", "--minutes", "0.03");
  const [one] = soak!.figures;
  assert.equal(one!.device, "xdp");
  assert.ok(one!.offered > 0 && one!.arrived > 0 && one!.arrived <= one!.offered);
  assert.ok(one!.samples.length >= 3);
  for (const sample of one!.samples) assert.ok(sample.residentBytes > 0);
});
