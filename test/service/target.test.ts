import assert from "node:assert/strict";
import { test } from "node:test";
import { EXIT, HeadgateError } from "../../src/base/errors.ts";
import { parseTarget } from "../../src/service/target.ts";

test("a target is a service and a backend of it", () => {
  const address = 0x0a14000b;
  assert.deepEqual(parseTarget("web/10.20.0.11:8080"), { service: "web", address, port: 8080 });
  assert.deepEqual(parseTarget("web/10.20.0.11"), { service: "web", address, port: 0 });
  assert.equal(parseTarget("web/10.20.0.11:65535").port, 65_535);
  assert.equal(parseTarget("web/203.0.113.10:1").address, 0xcb00710a | 0);
});

test("a name can hold slashes and dots: the last slash divides", () => {
  assert.equal(parseTarget("shop/eu.west/api/10.20.0.11:1").service, "shop/eu.west/api");
});

test("what is no target", () => {
  const wrong = [
    "",
    "web",
    "web/",
    "/10.20.0.11:80",
    "10.20.0.11:80",
    "web/10.20.0.11:",
    "web/10.20.0.11:0",
    "web/10.20.0.11:080",
    "web/10.20.0.11:65536",
    "web/10.20.0.11:80:80",
    "web/10.20.0.11:-1",
    "web/10.20.0.11:8e1",
    "web/10.20.0.11:80 ",
    "web/10.20.0",
    "web/10.20.0.011:80",
    "web/10.20.0.256:80",
    "web/backend-1:80",
    "web/10.20.0.11/80",
  ];
  for (const text of wrong) {
    assert.throws(
      () => parseTarget(text),
      (error) =>
        error instanceof HeadgateError &&
        error.exitCode === EXIT.usage &&
        error.message.endsWith(`got ${JSON.stringify(text)}`),
      text,
    );
  }
});
