import assert from "node:assert/strict";
import { test } from "node:test";
import { type HostFacts, NO_INTERFACE, planHops } from "../../src/host/hop-planner.ts";
import { addressOf } from "../support/frames.ts";

const INTERFACES = [
  { name: "eth0", index: 2, mac: "02:00:00:00:00:01", mtu: 1500 },
  { name: "eth1", index: 3, mac: "02:00:00:00:00:02", mtu: 9000 },
];
const TUN = [{ name: "hg0", index: 9, mac: "", mtu: 1500 }];

const BACKEND = addressOf("10.0.0.2");
const ROUTER = addressOf("10.0.0.254");
const FAR = addressOf("192.0.2.7");

const FACTS: HostFacts = {
  links: [
    ...INTERFACES,
    ...TUN,
    { name: "eth2", index: 4, mac: "02:00:00:00:00:03", mtu: 1280 },
  ].map((link) => ({ ...link, up: link.name !== "eth1" })),
  routes: [
    { address: addressOf("203.0.113.10"), prefixLength: 32, via: null, interface: "hg0", mtu: 0 },
    { address: addressOf("0.0.0.0"), prefixLength: 0, via: ROUTER, interface: "eth0", mtu: 1400 },
    { address: addressOf("10.0.0.0"), prefixLength: 24, via: null, interface: "eth1", mtu: 0 },
    { address: addressOf("10.2.0.0"), prefixLength: 16, via: null, interface: "eth2", mtu: 0 },
    { address: addressOf("10.3.0.0"), prefixLength: 16, via: null, interface: "", mtu: 0 },
  ],
  paths: new Map([
    [BACKEND.text, { via: null, interface: "eth1", mtu: 0 }],
    [FAR.text, { via: ROUTER, interface: "eth0", mtu: 1400 }],
    [addressOf("10.2.0.1").text, { via: null, interface: "eth2", mtu: 0 }],
    [addressOf("10.3.0.1").text, { unreachable: "Network is unreachable" }],
  ]),
  neighbours: [
    { address: BACKEND, interface: "eth1", mac: "02:00:00:00:00:aa", confirmed: false },
    { address: ROUTER, interface: "eth1", mac: "02:00:00:00:00:bb", confirmed: true },
    { address: FAR, interface: "eth0", mac: null, confirmed: false },
    { address: BACKEND, interface: "eth2", mac: "02:00:00:00:00:cc", confirmed: true },
  ],
};

test("backends: on the link, behind a router that is not resolved, and without a way", () => {
  const backends = new Map([
    [0, BACKEND],
    [1, FAR],
    [2, addressOf("10.2.0.1")],
    [3, addressOf("10.3.0.1")],
    [4, addressOf("10.3.0.1")],
  ]);
  const plan = planHops(INTERFACES, backends, FACTS);
  assert.deepEqual(
    [...plan.backends],
    [
      [0, { address: BACKEND, interface: 1, mtu: 9000, mac: "02:00:00:00:00:aa" }],
      // The router's MAC is known on another interface only.
      [1, { address: ROUTER, interface: 0, mtu: 1400, mac: null }],
    ],
  );
  assert.deepEqual(plan.unreachable, [
    {
      address: addressOf("10.2.0.1"),
      reason: "its route leaves through eth2, which is not in device.interfaces",
    },
    { address: addressOf("10.3.0.1"), reason: "Network is unreachable" },
  ]);
});

test("neighbours: those that are resolved on the device's interfaces", () => {
  const { neighbours } = planHops(INTERFACES, new Map(), FACTS);
  assert.deepEqual(neighbours, [
    { address: BACKEND, interface: 1, mtu: 9000, mac: "02:00:00:00:00:aa" },
    { address: ROUTER, interface: 1, mtu: 9000, mac: "02:00:00:00:00:bb" },
  ]);
});

test("routes: longest first; one that the device cannot take hides the wider one", () => {
  const { routes } = planHops(INTERFACES, new Map(), FACTS);
  assert.deepEqual(
    routes.map(({ prefixLength, interface: index, mtu }) => [prefixLength, index, mtu]),
    [
      [32, NO_INTERFACE, 1500],
      [24, 1, 9000],
      [16, NO_INTERFACE, 1280],
      [16, NO_INTERFACE, 0],
      [0, 0, 1400],
    ],
  );
});

test("interfaces: as they are now, and as they were while the host does not know them", () => {
  const { interfaces } = planHops(INTERFACES, new Map(), FACTS);
  assert.deepEqual(interfaces, [
    { mtu: 1500, mac: "02:00:00:00:00:01", up: true },
    { mtu: 9000, mac: "02:00:00:00:00:02", up: false },
  ]);
  const gone = planHops(INTERFACES, new Map(), { ...FACTS, links: [] });
  assert.deepEqual(gone.interfaces, [
    { mtu: 1500, mac: "02:00:00:00:00:01", up: false },
    { mtu: 9000, mac: "02:00:00:00:00:02", up: false },
  ]);
});

test("TUN: the MTU of each way, all on interface 0, without the device's own routes", () => {
  const plan = planHops(TUN, new Map([[0, BACKEND]]), FACTS);
  assert.deepEqual(
    [...plan.backends],
    [[0, { address: BACKEND, interface: 0, mtu: 9000, mac: "02:00:00:00:00:aa" }]],
  );
  assert.deepEqual(
    plan.routes.map(({ prefixLength, interface: index, mtu }) => [prefixLength, index, mtu]),
    [
      [24, 0, 9000],
      [16, 0, 1280],
      [16, NO_INTERFACE, 0],
      [0, 0, 1400],
    ],
  );
});
