import assert from "node:assert/strict";
import { test } from "node:test";
import { flowEndpoints, NO_FLOW_ENDPOINTS } from "../../src/control/flow-endpoints.ts";
import { ownershipOf } from "../../src/control/ownership.ts";
import { F_VERSION, PROTOCOL_UDP } from "../../src/flow/flow-record.ts";
import type { GatewayDefinition } from "../../src/service/definition.ts";
import { address, backend, gateway, service } from "./definitions.ts";
import { addFlow, memoryRegion } from "./region.ts";

// Goal: whatever a definition or a live flow needs is owned, and nothing else.

function text(definitions: GatewayDefinition[], flows = NO_FLOW_ENDPOINTS) {
  const { vips, backends, snat } = ownershipOf(definitions, flows);
  return {
    vips: vips.map((vip) => `${vip.protocol} ${vip.address.text} ${vip.low}-${vip.high}`),
    backends: backends.map((one) => `${one.protocol} ${one.address.text}:${one.port}`),
    snat: snat.map((one) => one.text),
  };
}

const WEB = service("web", { backends: [backend("10.20.0.11:8080")] });

test("a nat service: each VIP, port range and protocol; its backends' ports", () => {
  const dns = service("dns", {
    vips: [address("203.0.113.53"), address("203.0.113.54")],
    ports: [
      { low: 53, high: 53 },
      { low: 8000, high: 8099 },
    ],
    protocols: ["tcp", "udp"],
    backends: [backend("10.20.0.53:53")],
  });
  assert.deepEqual(text([gateway([dns])]), {
    vips: [
      "6 203.0.113.53 53-53",
      "6 203.0.113.53 8000-8099",
      "17 203.0.113.53 53-53",
      "17 203.0.113.53 8000-8099",
      "6 203.0.113.54 53-53",
      "6 203.0.113.54 8000-8099",
      "17 203.0.113.54 53-53",
      "17 203.0.113.54 8000-8099",
    ],
    backends: ["6 10.20.0.53:53", "17 10.20.0.53:53"],
    snat: [],
  });
});

test("a backend without a port has the service's ports, or any where they are many", () => {
  const few = service("few", {
    ports: [{ low: 80, high: 82 }],
    backends: [backend("10.20.0.11")],
  });
  assert.deepEqual(text([gateway([few])]).backends, [
    "6 10.20.0.11:80",
    "6 10.20.0.11:81",
    "6 10.20.0.11:82",
  ]);
  const any = service("any", {
    ports: [{ low: 1, high: 65535 }],
    backends: [backend("10.20.0.11")],
  });
  assert.deepEqual(text([gateway([any])]).backends, ["6 10.20.0.11:0"]);
});

test("the sorry server of a nat service answers too; full-nat backends answer to SNAT addresses", () => {
  const sorry = service("web", {
    backends: [],
    noBackend: { action: "sorry", sorry: { address: address("10.20.0.99"), port: 81 } },
  });
  assert.deepEqual(text([gateway([sorry])]).backends, ["6 10.20.0.99:81"]);
  const full = gateway([service("web", { mode: "full-nat" })], {
    snat: { addresses: [address("10.20.0.100")], ports: { low: 1024, high: 65535 } },
  });
  assert.deepEqual(text([full]), {
    vips: ["6 203.0.113.10 80-80"],
    backends: [],
    snat: ["10.20.0.100"],
  });
});

test("two definitions hold together, what they share once", () => {
  const other = service("alt", {
    vips: [address("203.0.113.11")],
    backends: [backend("10.20.0.11:8080"), backend("10.20.0.12:8080")],
  });
  assert.deepEqual(text([gateway([WEB]), gateway([WEB, other])]), {
    vips: ["6 203.0.113.10 80-80", "6 203.0.113.11 80-80"],
    backends: ["6 10.20.0.11:8080", "6 10.20.0.12:8080"],
    snat: [],
  });
});

test("flows keep what left the configuration, and add nothing that is in it", () => {
  const views = memoryRegion();
  const flow = { slot: 0, vip: "203.0.113.10", vipPort: 80, backend: "10.20.0.11" };
  addFlow(views, { ...flow, backendPort: 8080 });
  assert.deepEqual(text([gateway([WEB])], flowEndpoints(views)), text([gateway([WEB])]));
  addFlow(views, { ...flow, vipPort: 81, backendPort: 9090 });
  addFlow(views, { ...flow, protocol: PROTOCOL_UDP, backendPort: 8080 });
  addFlow(views, { ...flow, vip: "203.0.113.200", backendPort: 8080, snat: "10.20.0.103" });
  assert.deepEqual(text([gateway([WEB])], flowEndpoints(views)), {
    vips: [
      "6 203.0.113.10 80-80",
      "6 203.0.113.10 81-81",
      "17 203.0.113.10 80-80",
      "6 203.0.113.200 80-80",
    ],
    backends: ["6 10.20.0.11:8080", "6 10.20.0.11:9090", "17 10.20.0.11:8080"],
    snat: ["10.20.0.103"],
  });
});

test("a flow that is being written is left out", () => {
  const views = memoryRegion();
  addFlow(views, {
    slot: 0,
    vip: "203.0.113.10",
    vipPort: 80,
    backend: "10.20.0.11",
    backendPort: 80,
  });
  views.i32[(views.layout.flows.at >> 2) + F_VERSION] = 3;
  assert.equal(flowEndpoints(views).vips.length, 0);
});

test("a definition with ranges covers the flows in them", () => {
  const views = memoryRegion();
  const any = service("any", {
    ports: [{ low: 1, high: 65535 }],
    backends: [backend("10.20.0.11")],
  });
  for (const port of [1, 80, 65535]) {
    addFlow(views, {
      slot: 0,
      vip: "203.0.113.10",
      vipPort: port,
      backend: "10.20.0.11",
      backendPort: port,
    });
  }
  assert.deepEqual(text([gateway([any])], flowEndpoints(views)), text([gateway([any])]));
});
