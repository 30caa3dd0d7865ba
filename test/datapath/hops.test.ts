import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type Address,
  addressBits,
  addressOf4,
  addressOf6,
  addressOfWords,
  isInPrefix,
  type Words6,
} from "../../src/base/address.ts";
import { createRandom, type Random } from "../../src/base/random.ts";
import {
  createContext,
  R_HOP_REQUESTS,
  R_HOPS,
  R_OUT_INTERFACE,
  R_OUT_MAC_HIGH,
  R_OUT_MAC_LOW,
  R_OUT_MTU,
} from "../../src/datapath/context.ts";
import { createHops, HOP_FOUND } from "../../src/datapath/hops.ts";
import { DROP_NO_NEIGHBOUR, DROP_NO_ROUTE } from "../../src/datapath/verdict.ts";
import { createMemoryDevice } from "../../src/device/memory.ts";
import {
  type Hop,
  type HopPlan,
  macHigh,
  macLow,
  writeHopTable,
} from "../../src/state/hop-table.ts";
import {
  HOP_REQUEST_WORDS,
  HOP_REQUESTS,
  planRegion,
  viewRegion,
  W_HOP_REQUEST_HEAD,
  W_HOP_REQUESTS,
} from "../../src/state/layout.ts";
import { GATEWAY_MACS } from "../support/memory-gateway.ts";

/**
 * Goal: the way to an address of either family is that of the longest prefix, and its neighbour's on
 * the route's interface; one that is not known is asked for.
 * Method: random plans, looked up in the table and by a plain walk over the plan.
 */

const ROUNDS = 60;
const LOOKS = 40;
const INTERFACES = GATEWAY_MACS.map((mac, index) => ({
  name: `eth${index}`,
  index: index + 1,
  mac,
  mtu: 1500,
}));

/** Few different words, so that prefixes nest and neighbours of two interfaces have one address. */
function randomAddress(random: Random): Address {
  if (random.below(2) === 0)
    return addressOf4((10 << 24) | (random.below(4) << 14) | random.below(4));
  const word = (): number => (random.below(3) === 0 ? random.below(3) << 30 : 0) | random.below(2);
  const words: Words6 = [0x20010db8, word(), word(), word()];
  return addressOf6(words);
}

function randomPlan(random: Random): HopPlan {
  const routes = new Map<string, HopPlan["routes"][number]>();
  for (let count = random.below(30); count > 0; count--) {
    const inside = randomAddress(random);
    const prefixLength = random.below(addressBits(inside) + 1);
    const address = masked(inside, prefixLength);
    const gateway = randomAddress(random);
    routes.set(`${address.text}/${prefixLength}`, {
      address,
      prefixLength,
      via: gateway.family === address.family && random.below(2) === 0 ? gateway : null,
      // 255: a route that leaves where the device is not.
      interface: [0, 1, 255][random.below(3)]!,
      mtu: 1280 + random.below(300),
    });
  }
  const neighbours = new Map<string, Hop>();
  for (let count = random.below(40); count > 0; count--) {
    const address = randomAddress(random);
    const index = random.below(2);
    // The IPv4 table has one neighbour an address, whatever its interface.
    const key = address.family === 4 ? address.text : `${address.text}/${index}`;
    neighbours.set(key, {
      address,
      interface: index,
      mtu: 1500,
      mac: `02:00:00:00:${count}0:0${index}`,
    });
  }
  return {
    backends: new Map(),
    neighbours: [...neighbours.values()],
    routes: [...routes.values()],
    interfaces: INTERFACES.map(({ mac, mtu }) => ({ mac, mtu, up: true })),
  };
}

function masked(address: Address, prefixLength: number): Address {
  const bits = prefixLength + 128 - addressBits(address);
  const words = address.words.map((word, index) => {
    const own = Math.min(32, Math.max(0, bits - 32 * index));
    return own === 0 ? 0 : word & (-1 << (32 - own));
  }) as [number, number, number, number];
  return addressOfWords(words);
}

interface Way {
  readonly code: number;
  readonly interface: number;
  readonly mtu: number;
  readonly mac: string;
  /** What is asked for, and on which interface. */
  readonly asked: string | null;
}

function slowWay(plan: HopPlan, address: Address): Way {
  const found = plan.routes
    .filter((route) => isInPrefix(address, route.address, route.prefixLength))
    .sort((a, b) => b.prefixLength - a.prefixLength)[0];
  const nowhere = { code: DROP_NO_ROUTE, interface: 0, mtu: 0, mac: "", asked: null };
  if (found === undefined) return nowhere;
  if (found.interface > 1) return { ...nowhere, interface: found.interface, mtu: found.mtu };
  const next = found.via ?? address;
  const neighbour = plan.neighbours.find(
    (one) =>
      one.address.text === next.text && (next.family === 4 || one.interface === found.interface),
  );
  if (neighbour === undefined) {
    const asked = `${next.text}/${found.interface}`;
    return { code: DROP_NO_NEIGHBOUR, interface: found.interface, mtu: found.mtu, mac: "", asked };
  }
  const mtu = Math.min(found.mtu, neighbour.mtu);
  const { mac, interface: index } = neighbour;
  return { code: HOP_FOUND, interface: index, mtu, mac: mac ?? "", asked: null };
}

test("the longest prefix and its neighbour, in both families", () => {
  const layout = planRegion({
    flowCapacity: 16,
    services: 4,
    backends: 8,
    hashSlots: 256,
    workers: 1,
  });
  const views = viewRegion(new ArrayBuffer(layout.bytes), layout);
  const { i32 } = views;
  const device = createMemoryDevice({
    linkHeaderBytes: 14,
    interfaces: INTERFACES,
    slots: 64,
    slotBytes: 256,
    inletSlots: 0,
    keepSent: false,
  });
  const context = createContext(device, views);
  const hops = createHops(context);
  const { registers } = context;
  registers[R_HOPS] = layout.hops[1].at >> 2;
  /** Where the address that is looked up lies: the table that is not in use. */
  const scratch = layout.hops[0].at >> 2;
  const random = createRandom(Number(process.env["HEADGATE_SEED"] ?? 1));
  const requested = (): string => {
    const head = i32[views.layout.workerWord + W_HOP_REQUEST_HEAD]! - 1;
    const row = HOP_REQUEST_WORDS * (head & (HOP_REQUESTS - 1));
    const at = views.layout.workerWord + W_HOP_REQUESTS + row;
    const words = [...i32.subarray(at + 1, at + 5)] as [number, number, number, number];
    return `${addressOfWords(words).text}/${i32[at]}`;
  };
  for (let round = 0; round < ROUNDS; round++) {
    const plan = randomPlan(random);
    assert.equal(writeHopTable(views, 1, plan), 0);
    for (let look = 0; look < LOOKS; look++) {
      const address = randomAddress(random);
      registers[R_HOP_REQUESTS] = 0;
      i32.set(address.words, scratch);
      const code = address.family === 4 ? hops.byRoute(address.value) : hops.byRoute6(scratch);
      const wanted = slowWay(plan, address);
      const text = `seed ${random.seed}, round ${round}: ${address.text}`;
      assert.equal(code, wanted.code, text);
      assert.equal(registers[R_OUT_INTERFACE], wanted.interface, text);
      assert.equal(registers[R_OUT_MTU], wanted.mtu, text);
      assert.equal(registers[R_HOP_REQUESTS], wanted.asked === null ? 0 : 1, text);
      if (wanted.asked !== null) assert.equal(requested(), wanted.asked, text);
      if (code !== HOP_FOUND) continue;
      assert.equal(registers[R_OUT_MAC_HIGH], macHigh(wanted.mac), text);
      assert.equal(registers[R_OUT_MAC_LOW], macLow(wanted.mac), text);
    }
  }
  device.close();
});
