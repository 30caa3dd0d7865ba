import assert from "node:assert/strict";
import { test } from "node:test";
import { CELLS, impossible } from "../../lab/matrix/cells.ts";
import { runMatrix } from "../../lab/matrix/world.ts";
import { SKIP_UNLESS_ROOT } from "../support/lab.ts";

/**
 * Every mode and family over a hop of 1,280 bytes between gateway and client, whose router says so to
 * the VIP: 64 KiB come down through each, so each backend has heard of it.
 */
for (const device of ["packet", "tun"] as const) {
  test(`64 KiB over a hop of 1,280 bytes, ${device}`, { skip: SKIP_UNLESS_ROOT }, async (t) => {
    const cells = CELLS.filter((cell) => impossible(cell, device) === null);
    let fragFails: Record<string, number> = {};
    const rows = await runMatrix({
      device,
      requests: 3,
      cells,
      clientPathMtu: 1280,
      look(lab) {
        const {
          IpFragFails = 0,
          Ip6FragFails = 0,
          Icmp6OutPktTooBigs = 0,
        } = lab.counters("router");
        fragFails = { 4: IpFragFails, 6: Math.max(Ip6FragFails, Icmp6OutPktTooBigs) };
      },
    });
    const passed = { 4: 0, 6: 0 };
    for (const { cell, outcome } of rows) {
      assert.equal(outcome.result, "pass", JSON.stringify(outcome));
      passed[cell.vip]++;
    }
    t.diagnostic(`too large for the router: ${JSON.stringify(fragFails)}`);
    // Each cell has a VIP of its own, and a path of its own to be discovered.
    for (const family of [4, 6] as const) {
      assert.ok(fragFails[family]! >= passed[family], `${JSON.stringify({ fragFails, passed })}`);
    }
  });
}
