import assert from "node:assert/strict";
import { test } from "node:test";
import { ConfigError, EXIT, formatConfigProblem } from "../../src/base/errors.ts";

test("a configuration problem is printed as compilers print theirs", () => {
  const problem = {
    file: "gw.yaml",
    line: 14,
    column: 11,
    path: "services[0].port[0]",
    message: 'expected 1-65535, a range, or "any", got 0',
  };
  assert.equal(
    formatConfigProblem(problem),
    'gw.yaml:14:11: services[0].port[0]: expected 1-65535, a range, or "any", got 0',
  );
  const error = new ConfigError([problem, { ...problem, path: "", line: 1 }]);
  assert.equal(error.exitCode, EXIT.configuration);
  assert.equal(error.message.split("\n").length, 2);
  assert.match(error.message, /gw\.yaml:1:11: expected/);
});
