import assert from "node:assert/strict";
import { test } from "node:test";
import { addressOf4 } from "../../src/base/address.ts";
import { EXIT, HeadgateError } from "../../src/base/errors.ts";
import { parseTarget } from "../../src/service/target.ts";

test("a target is a service and a backend of it", () => {
  const address = addressOf4(0x0a14000b);
  assert.deepEqual(parseTarget("web/10.20.0.11:8080"), { service: "web", address, port: 8080 });
  assert.deepEqual(parseTarget("web/10.20.0.11"), { service: "web", address, port: 0 });
  assert.equal(parseTarget("web/10.20.0.11:65535").port, 65_535);
  assert.equal(parseTarget("web/203.0.113.10:1").address.value, 0xcb00710a | 0);
});

test("IPv6 stands in brackets before a port, and with or without them alone", () => {
  const read = (text: string): string => {
    const { address, port } = parseTarget(text);
    return `${address.text} ${port}`;
  };
  assert.equal(read("web/[2001:db8:2::11]:8080"), "2001:db8:2::11 8080");
  assert.equal(read("web/[2001:db8:2::11]"), "2001:db8:2::11 0");
  assert.equal(read("web/2001:DB8:2:0::11"), "2001:db8:2::11 0");
  assert.equal(read("web/2001:db8:2::8080"), "2001:db8:2::8080 0");
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
    "web/[10.20.0.11:80",
    "web/[2001:db8:2::11]8080",
    "web/2001:db8:2::11%eth0",
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
