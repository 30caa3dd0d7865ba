import assert from "node:assert/strict";
import { test } from "node:test";
import { diffDefinitions } from "../../src/control/definition-diff.ts";
import { address, backend, gateway, service } from "./definitions.ts";

const EMPTY = { added: [], changed: [], removed: [] };

test("the same definition, parsed twice, has no difference", () => {
  assert.deepEqual(diffDefinitions(gateway([service("web")]), gateway([service("web")])), EMPTY);
});

test("services come and go with their backends and addresses", () => {
  const before = gateway([service("web")]);
  const dns = service("dns", {
    vips: [address("203.0.113.53")],
    backends: [backend("10.20.0.53")],
  });
  assert.deepEqual(diffDefinitions(before, gateway([dns])), {
    added: ["service dns", "backend dns/10.20.0.53", "address 203.0.113.53"],
    changed: [],
    removed: [
      "service web",
      "backend web/10.20.0.11:8080",
      "backend web/10.20.0.12:8080",
      "address 203.0.113.10",
    ],
  });
});

test("a service names the keys that changed, a backend its weights", () => {
  const after = service("web", {
    scheduler: "maglev",
    ping: "never",
    backends: [backend("10.20.0.11:8080", 5), backend("10.20.0.13:8080")],
  });
  assert.deepEqual(diffDefinitions(gateway([service("web")]), gateway([after])), {
    added: ["backend web/10.20.0.13:8080"],
    changed: ["service web: scheduler, ping", "backend web/10.20.0.11:8080: weight 1 -> 5"],
    removed: ["backend web/10.20.0.12:8080"],
  });
});

test("keys of the whole gateway, SNAT addresses included", () => {
  const after = gateway([service("web")], {
    log: { level: "debug" },
    snat: { addresses: [address("10.20.0.100")], ports: { low: 1024, high: 65535 } },
  });
  assert.deepEqual(diffDefinitions(gateway([service("web")]), after), {
    added: ["address 10.20.0.100"],
    changed: ["log", "snat"],
    removed: [],
  });
});

test("an address that two services share stays while one of them does", () => {
  const other = service("alt", { ports: [{ low: 81, high: 81 }] });
  const diff = diffDefinitions(gateway([service("web"), other]), gateway([other]));
  assert.deepEqual(
    diff.removed.filter((text) => text.startsWith("address")),
    [],
  );
});
