import assert from "node:assert/strict";
import { test } from "node:test";
import { C_SYN_COOKIES_ACCEPTED } from "../../src/datapath/counters.ts";
import { flowsUsed } from "../../src/state/shards.ts";
import { ACK, ethernetFrame, SYN, tcpPacket } from "../support/frames.ts";
import { CLIENT_MAC, createMemoryGateway, GATEWAY_MACS } from "../support/memory-gateway.ts";
import { BACKEND, configOf, TCP } from "./admission-bench.ts";

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

for (const mode of ["nat", "full-nat"]) {
  test(`${mode}, three workers: the worker that owns a client answers, checks and splices`, () => {
    const gateway = createMemoryGateway({
      yaml: configOf({ mode, web: "synProxy: { mode: on }, outOfState: drop," }),
      size: { workers: 3 },
    });
    const sent = (side: number, frame: Uint8Array): Uint8Array[] => {
      for (const { device } of gateway.workers) device.sent.length = 0;
      gateway.device.inject(frame, side);
      gateway.settle();
      return gateway.workers.flatMap(({ device }) => device.sent.map(({ bytes }) => bytes));
    };
    const word = (frame: Uint8Array, at: number): number =>
      new DataView(frame.buffer, frame.byteOffset).getInt32(at);
    for (let port = 1; port <= 40; port++) {
      const tcp = { ...TCP, sourcePort: port };
      const [answer] = sent(0, ethernetFrame(tcpPacket({ ...tcp, flags: SYN, sequence: 7 }), link));
      const cookie = word(answer!, 38);
      const numbers = { sequence: 8, acknowledgement: cookie + 1 };
      const [syn] = sent(0, ethernetFrame(tcpPacket({ ...tcp, ...numbers }), link));
      const back = {
        source: BACKEND,
        sourcePort: 8080,
        destination: syn!.subarray(26, 30).join("."),
        destinationPort: syn![34]! * 256 + syn![35]!,
        flags: SYN | ACK,
        sequence: 100,
        acknowledgement: 8,
      };
      const fromBackend = { destination: GATEWAY_MACS[1], source: "02:00:0a:14:00:0b" };
      assert.equal(sent(1, ethernetFrame(tcpPacket(back), fromBackend)).length, 2);
      const [data] = sent(0, ethernetFrame(tcpPacket({ ...tcp, ...numbers, data: [1] }), link));
      assert.equal(word(data!, 42), 101, "in the backend's numbers");
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
