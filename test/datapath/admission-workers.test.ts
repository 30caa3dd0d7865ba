import assert from "node:assert/strict";
import { test } from "node:test";
import { C_SYN_COOKIES_ACCEPTED } from "../../src/datapath/counters.ts";
import { flowsUsed } from "../../src/state/shards.ts";
import { ACK, ethernetFrame, SYN, tcpPacket } from "../support/frames.ts";
import { CLIENT_MAC, createMemoryGateway, GATEWAY_MACS } from "../support/memory-gateway.ts";
import { see6, type Tcp6, tcp6 } from "../support/packets6.ts";
import { BACKEND, configOf, SNAT, TCP } from "./admission-bench.ts";
import * as six from "./ipv6-bench.ts";

// Goal: several workers are one gateway. Method: every frame goes to worker 0's device first, so that
// most are handed over; what the workers did together is counted.

const link = { destination: GATEWAY_MACS[0], source: CLIENT_MAC };

test("three workers: the shares of `connections` are the limit", () => {
  const gateway = createMemoryGateway({
    yaml: configOf({ more: "limits: { connections: 30 }," }),
    size: { workers: 3 },
  });
  for (let port = 1; port <= 200; port++) {
    const syn = tcpPacket({ ...TCP, sourcePort: port, flags: SYN });
    gateway.device.inject(ethernetFrame(syn, link), 0);
    gateway.settle();
  }
  gateway.checkLaw();
  assert.equal(flowsUsed(gateway.views), 30);
  assert.equal(gateway.counters()["connections_limited"], 170);
});

const SIX = { client: six.CLIENT, vip: six.VIP, backend: six.BACKEND, snat: six.SNAT };
const FOUR = { client: TCP.source, vip: TCP.destination, backend: BACKEND, snat: SNAT };

for (const [mode, ends] of [
  ["nat", FOUR],
  ["full-nat", FOUR],
  ["nat", SIX],
  ["full-nat", SIX],
] as const) {
  const isIpv6 = ends === SIX;
  const name = `${mode}, IPv${isIpv6 ? 6 : 4}, three workers`;
  test(`${name}: the worker that owns a client answers, checks and splices`, () => {
    const gateway = createMemoryGateway({
      yaml: configOf({ ...ends, mode, web: "synProxy: { mode: on }, outOfState: drop," }),
      size: { workers: 3 },
    });
    const type = isIpv6 ? 0x86dd : 0x0800;
    const build = isIpv6 ? tcp6 : tcpPacket;
    const fromClient = (fields: Partial<Tcp6>): Uint8Array =>
      ethernetFrame(build({ ...TCP, source: ends.client, destination: ends.vip, ...fields }), {
        ...link,
        type,
      });
    /** Of the transport header. */
    const l4At = isIpv6 ? 54 : 34;
    const sent = (side: number, frame: Uint8Array): Uint8Array[] => {
      for (const { device } of gateway.workers) device.sent.length = 0;
      gateway.device.inject(frame, side);
      gateway.settle();
      return gateway.workers.flatMap(({ device }) => device.sent.map(({ bytes }) => bytes));
    };
    const word = (frame: Uint8Array, at: number): number =>
      new DataView(frame.buffer, frame.byteOffset).getInt32(at);
    for (let port = 1; port <= 40; port++) {
      const tcp = { sourcePort: port };
      const [answer] = sent(0, fromClient({ ...tcp, flags: SYN, sequence: 7 }));
      const cookie = word(answer!, l4At + 4);
      const numbers = { sequence: 8, acknowledgement: cookie + 1 };
      const [syn] = sent(0, fromClient({ ...tcp, ...numbers }));
      const back = {
        source: ends.backend,
        sourcePort: 8080,
        destination: isIpv6 ? see6(syn!.subarray(14)).source : syn!.subarray(26, 30).join("."),
        destinationPort: syn![l4At]! * 256 + syn![l4At + 1]!,
        flags: SYN | ACK,
        sequence: 100,
        acknowledgement: 8,
      };
      const fromBackend = { destination: GATEWAY_MACS[1], source: "02:00:0a:14:00:0b", type };
      assert.equal(sent(1, ethernetFrame(build(back), fromBackend)).length, 2);
      const [data] = sent(0, fromClient({ ...tcp, ...numbers, data: [1] }));
      assert.equal(word(data!, l4At + 8), 101, "in the backend's numbers");
    }
    gateway.checkLaw();
    assert.equal(flowsUsed(gateway.views), 40);
    const accepted = gateway.workers.map(({ views }) => {
      return views.f64[(views.layout.counters.at >> 3) + C_SYN_COOKIES_ACCEPTED]!;
    });
    assert.equal(
      accepted.reduce((sum, count) => sum + count, 0),
      40,
    );
    assert.ok(
      accepted.every((count) => count > 0),
      "each had its clients",
    );
  });
}
