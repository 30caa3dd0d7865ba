import assert from "node:assert/strict";
import { test } from "node:test";
import { ConfigError, EXIT } from "../../../src/base/errors.ts";
import { parseConfig } from "../../../src/control/config/load.ts";
import { BAD_AFFINITY } from "./bad-affinity.ts";
import { BAD_HEALTH } from "./bad-health.ts";
import { BAD_PASSIVE } from "./bad-passive.ts";
import { BAD_POOLS } from "./bad-pools.ts";
import { BAD_PROBE } from "./bad-probe.ts";
import { BAD_SECTIONS } from "./bad-sections.ts";
import { BAD_SERVICES } from "./bad-services.ts";
import { BAD_TOGETHER } from "./bad-together.ts";
import { BAD_UDP } from "./bad-udp.ts";

// Goal: a person who reads the message can mend the file without looking anything up.
// Method: one wrong file a row, and the exact text of everything that is said about it.
for (const { name, given, want } of [
  ...BAD_SECTIONS,
  ...BAD_SERVICES,
  ...BAD_POOLS,
  ...BAD_UDP,
  ...BAD_AFFINITY,
  ...BAD_PASSIVE,
  ...BAD_PROBE,
  ...BAD_HEALTH,
  ...BAD_TOGETHER,
]) {
  test(`refused: ${name}`, () => {
    assert.throws(
      () => parseConfig(given, "gw.yaml"),
      (error: unknown) => {
        assert.ok(error instanceof ConfigError, String(error));
        assert.deepEqual(error.message.split("\n"), want);
        assert.equal(error.exitCode, EXIT.configuration);
        return true;
      },
    );
  });
}

test("at least 60 kinds of bad configuration are known", () => {
  assert.ok(BAD_SECTIONS.length + BAD_SERVICES.length + BAD_TOGETHER.length >= 60);
});
