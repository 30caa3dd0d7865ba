import assert from "node:assert/strict";
import { test } from "node:test";
import { CELLS, DEVICES, impossible, type Row, renderMatrix } from "../../lab/matrix/cells.ts";
import { runMatrix } from "../../lab/matrix/world.ts";
import { SKIP_UNLESS_ROOT } from "../support/lab.ts";

/** `npm run lab -- matrix` in a small form: every cell, with few requests. */

for (const device of DEVICES) {
  test(`every mode with both families over ${device}`, { skip: SKIP_UNLESS_ROOT }, async () => {
    const rows = await runMatrix({ device, requests: 6 });
    assert.equal(rows.length, CELLS.length);
    for (const { cell, outcome } of rows) {
      const expected = impossible(cell, device) === null ? "pass" : "not possible";
      assert.equal(outcome.result, expected, JSON.stringify(outcome));
    }
  });
}

test("the table names each reason once", () => {
  const [first, second] = CELLS;
  const rows: Row[] = [
    { cell: first!, device: "tun", outcome: { result: "pass" } },
    { cell: second!, device: "tun", outcome: { result: "not possible", reason: "it is so" } },
    { cell: first!, device: "xdp", outcome: { result: "not possible", reason: "it is so" } },
    { cell: second!, device: "xdp", outcome: { result: "FAIL", reason: "it broke" } },
  ];
  const lines = renderMatrix(rows).split("\n");
  assert.equal(lines[0], "mode      VIP   backends  tun               xdp");
  assert.equal(lines[1], "nat       IPv4  IPv4      pass              not possible [1]");
  assert.equal(lines[2], "nat       IPv4  IPv6      not possible [1]  FAIL [2]");
  assert.deepEqual(lines.slice(-2), ["[1] it is so", "[2] it broke"]);
});
