import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { PROBE_SOURCE_OFFSET } from "../../src/datapath/probes.ts";
import {
  ADMIN_DISABLED,
  B_ADMIN,
  B_EXISTING,
  B_HEALTH,
  EXISTING_RESET,
  HEALTH_DOWN,
} from "../../src/service/backend-slots.ts";
import { assignSlots, backendSlotWord } from "../../src/service/slots.ts";
import { H_NODE_DRAINED, H_SWEEP_REQUESTED } from "../../src/state/layout.ts";
import {
  ACK,
  addressNumber,
  addressText,
  ethernetFrame,
  FIN,
  SYN,
  tcpPacket,
} from "../support/frames.ts";
import {
  backendMac,
  CLIENT_MAC,
  createMemoryGateway,
  GATEWAY_MACS,
  type MemoryGateway,
} from "../support/memory-gateway.ts";

/**
 * Goal: what comes in by the probe's interface goes to the backend that its source names, and to no
 * other, whatever would keep a client away; what comes in elsewhere is a client's.
 * Method: the second interface of the gateway in memory is the probe's, as the configuration names one.
 */

const PROBE_MAC = "02:00:00:00:99:01";
const BACKENDS = ["10.20.0.11", "10.20.0.12", "10.20.0.13"];
const RANGE = addressNumber("198.18.0.0");

function world(t: TestContext, more = "", workers = 1): MemoryGateway {
  const gateway = createMemoryGateway({
    size: { workers },
    yaml: `
version: 1
device: { type: packet, interfaces: [eth0] }
probe: {}
services:
  - { name: web, vip: 203.0.113.10, port: 80, protocol: tcp, health: { through: path }, ${more}
      backends: [${BACKENDS.map((address) => `{ address: ${address}, port: 8080 }`).join(", ")}] }
  - { name: other, vip: 203.0.113.10, port: 81, protocol: tcp, health: { through: path },
      backends: [{ address: 10.20.0.14, port: 8080 }] }
`,
  });
  t.after(() => gateway.close());
  return gateway;
}

/** Slot of a backend, by its address. */
function slotOf({ views, definition }: MemoryGateway, address: string): number {
  const { services } = assignSlots(views, definition, 0);
  const all = services.flatMap(({ backends }) => backends);
  return all.find((one) => one.definition.address.text === address)!.slot;
}

function sourceOf(slot: number): string {
  return addressText((RANGE + PROBE_SOURCE_OFFSET + slot) | 0);
}

/** Destination of what the gateway sends for a segment; "" for nothing. */
function sent(
  gateway: MemoryGateway,
  source: string,
  flags: number,
  { ingress = 1, port = 80, sourcePort = 4000, worker = 0 } = {},
): string {
  const ends = { source, sourcePort, destination: "203.0.113.10", destinationPort: port };
  const packet = tcpPacket({ ...ends, flags, sequence: 7, acknowledgement: 0 });
  const macs = {
    destination: GATEWAY_MACS[ingress]!,
    source: ingress === 1 ? PROBE_MAC : CLIENT_MAC,
  };
  gateway.workers[worker]!.device.inject(ethernetFrame(packet, macs), ingress);
  gateway.settle();
  gateway.checkLaw();
  return gateway.workers
    .flatMap(({ device }) => device.sent.splice(0))
    .map(({ bytes }) => {
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      return addressText(view.getInt32(30));
    })
    .join(" ");
}

test("every backend gets the probes of its number, on every worker", (t) => {
  for (const workers of [1, 4]) {
    const gateway = world(t, "", workers);
    for (let round = 0; round < 40; round++) {
      const address = BACKENDS[round % 3]!;
      const options = { sourcePort: 4000 + round, worker: round % workers };
      const source = sourceOf(slotOf(gateway, address));
      assert.equal(sent(gateway, source, SYN, options), address);
      assert.equal(sent(gateway, source, ACK, options), address, "and what follows");
    }
  }
});

test("its state, the node's and the lists of clients keep no probe away", (t) => {
  const gateway = world(t, "access: { deny: [0.0.0.0/0] }, limits: { connections: 1 },");
  const slot = slotOf(gateway, "10.20.0.12");
  const { i32 } = gateway.views;
  const at = backendSlotWord(gateway.views, slot);
  i32[at + B_HEALTH] = HEALTH_DOWN;
  i32[at + B_ADMIN] = ADMIN_DISABLED;
  i32[at + B_EXISTING] = EXISTING_RESET;
  gateway.publish();
  i32[H_NODE_DRAINED] = 1;
  for (let sourcePort = 1; sourcePort <= 5; sourcePort++) {
    assert.equal(sent(gateway, sourceOf(slot), SYN, { sourcePort }), "10.20.0.12");
    assert.equal(sent(gateway, sourceOf(slot), ACK, { sourcePort }), "10.20.0.12", "not reset");
  }
  // Nor does the sweep that ends its clients' flows.
  i32[H_SWEEP_REQUESTED] = i32[H_SWEEP_REQUESTED]! + 1;
  for (let batch = 0; batch < 200; batch++) gateway.datapath.runBatch(0);
  assert.equal(sent(gateway, sourceOf(slot), FIN | ACK, { sourcePort: 1 }), "10.20.0.12");
});

test("a number that is no backend of the service is nobody's", (t) => {
  const gateway = world(t);
  const foreign = slotOf(gateway, "10.20.0.14");
  for (const source of [sourceOf(foreign), sourceOf(200), sourceOf(-1), "198.18.255.255"]) {
    assert.equal(sent(gateway, source, SYN), "", source);
  }
  assert.equal(gateway.counters()["no_backend"], 4);
  assert.equal(sent(gateway, sourceOf(foreign), SYN, { port: 81 }), "10.20.0.14");
});

test("the same source on another interface is a client like any other", (t) => {
  const gateway = world(t, "scheduler: rr,");
  const source = sourceOf(slotOf(gateway, "10.20.0.12"));
  const targets = [1, 2, 3].map((sourcePort) =>
    sent(gateway, source, SYN, { sourcePort, ingress: 0 }),
  );
  assert.deepEqual(targets.toSorted(), BACKENDS);
});

test("a reply goes back to the probe's interface and MAC", (t) => {
  const gateway = world(t);
  const source = sourceOf(slotOf(gateway, "10.20.0.13"));
  assert.equal(sent(gateway, source, SYN), "10.20.0.13");
  const ends = {
    source: "10.20.0.13",
    sourcePort: 8080,
    destination: source,
    destinationPort: 4000,
  };
  const packet = tcpPacket({ ...ends, flags: SYN | ACK, sequence: 1, acknowledgement: 8 });
  const mac = backendMac(addressNumber("10.20.0.13"));
  const { device } = gateway;
  device.inject(ethernetFrame(packet, { destination: GATEWAY_MACS[1]!, source: mac }), 1);
  gateway.settle();
  const [reply] = device.sent.splice(0);
  assert.equal(reply?.interface, 1);
  assert.equal(Buffer.from(reply!.bytes.subarray(0, 6)).toString("hex"), "020000009901");
});
