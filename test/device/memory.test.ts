import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { BATCH_FRAMES_MAX, OUT_FRAMES_MAX } from "../../src/base/limits.ts";
import {
  D_AT,
  D_BYTES,
  D_CSUM,
  D_FROM,
  D_INTERFACE,
  D_RESULT,
  D_VNET,
  DESCRIPTOR_WORDS,
  FROM_SPARE,
  TX_FAILED,
  TX_FULL,
  TX_SENT,
  TX_TOO_BIG,
  VNET_GSO_TCPV4,
} from "../../src/device/device.ts";
import { createMemoryDevice, type MemoryDevice } from "../../src/device/memory.ts";

const INTERFACES = [
  { name: "m0", index: 1, mac: "02:00:00:00:00:01", mtu: 1500 },
  { name: "m1", index: 2, mac: "02:00:00:00:00:02", mtu: 100 },
];

function create(options: { linkHeaderBytes?: number; slots?: number } = {}): MemoryDevice {
  return createMemoryDevice({ linkHeaderBytes: 14, interfaces: INTERFACES, ...options });
}

/** Send received frame `index` out of `egress`. */
function queue(device: MemoryDevice, place: number, index: number, egress: number): void {
  const { rx, tx } = device.batch;
  for (const word of [D_AT, D_BYTES, D_VNET, D_CSUM]) {
    tx[place * DESCRIPTOR_WORDS + word] = rx[index * DESCRIPTOR_WORDS + word]!;
  }
  tx[place * DESCRIPTOR_WORDS + D_INTERFACE] = egress;
  tx[place * DESCRIPTOR_WORDS + D_FROM] = index;
  tx[place * DESCRIPTOR_WORDS + D_RESULT] = TX_FAILED;
}

function frame(length: number, fill: number): Uint8Array {
  return new Uint8Array(length).fill(fill);
}

for (const linkHeaderBytes of [0, 14]) {
  test(`frames come out as they went in, IP header aligned (${linkHeaderBytes} bytes of link)`, () => {
    const device = create({ linkHeaderBytes });
    for (let index = 0; index < 3; index++) {
      device.inject(frame(20 + index, index + 1), index % 2, { vnet: index, csum: 10 * index });
    }
    assert.equal(device.receive(0), 3);
    const bytes = new Uint8Array(device.memory);
    for (let index = 0; index < 3; index++) {
      const descriptor = device.batch.rx.subarray(index * DESCRIPTOR_WORDS);
      const at = descriptor[D_AT]!;
      assert.equal((at + linkHeaderBytes) % 4, 0);
      assert.deepEqual(bytes.slice(at, at + descriptor[D_BYTES]!), frame(20 + index, index + 1));
      assert.equal(descriptor[D_INTERFACE], index % 2);
      assert.equal(descriptor[D_VNET], index);
      assert.equal(descriptor[D_CSUM], 10 * index);
      queue(device, index, index, 0);
    }
    assert.equal(device.transmit(3), 3);
    assert.deepEqual(
      device.sent,
      [0, 1, 2].map((index) => ({
        bytes: frame(20 + index, index + 1),
        interface: 0,
        vnet: index,
        csum: 10 * index,
      })),
    );
    assert.equal(device.sentFrames(), 3);
    assert.equal(device.sentBytes(), 63);
    assert.deepEqual(device.statistics(), { missed: 0, calls: 2 });
    assert.equal(device.receive(0), 0);
  });
}

test("a batch has at most BATCH_FRAMES_MAX frames, in order, round the ring many times", () => {
  const device = create({ slots: 100 });
  const bytes = new Uint8Array(device.memory);
  let injected = 0;
  let received = 0;
  for (let round = 0; round < 50; round++) {
    while (device.room() > 0) device.inject(frame(60, injected++ % 251), 0);
    const waiting = device.waiting();
    const count = device.receive(0);
    assert.equal(count, Math.min(waiting, BATCH_FRAMES_MAX));
    assert.equal(device.waiting(), waiting - count);
    for (let index = 0; index < count; index++) {
      const at = device.batch.rx[index * DESCRIPTOR_WORDS + D_AT]!;
      assert.equal(bytes[at], received++ % 251);
    }
  }
  assert.ok(received > 1000);
});

test("frames handed out stay until the next receive, though others come in", () => {
  const device = create({ slots: 64 });
  for (let index = 0; index < 64; index++) device.inject(frame(60, 7), 0);
  assert.equal(device.receive(0), 64);
  assert.equal(device.room(), 0);
  assert.throws(() => device.inject(frame(60, 8), 0), /the ring has room/);
  assert.equal(device.receive(0), 0);
  assert.equal(device.room(), 64);
});

test("a spare is sent with what was written into it", () => {
  const device = create();
  assert.ok(device.spareCount >= OUT_FRAMES_MAX);
  const at = device.spareAt + (device.spareCount - 1) * device.spareBytes;
  assert.ok(at + device.spareBytes <= device.memory.byteLength);
  new Uint8Array(device.memory).fill(9, at, at + 42);
  device.batch.tx.set([at, 42, 1, 0, 0, FROM_SPARE]);
  assert.equal(device.transmit(1), 1);
  assert.deepEqual(device.sent[0]!.bytes, frame(42, 9));
  assert.equal(device.sent[0]!.interface, 1);
});

test("what the device refuses has its result in the descriptor", () => {
  const device = create();
  for (let index = 0; index < 3; index++) device.inject(frame(60, index), 0);
  device.receive(0);
  for (const refusal of [TX_FULL, TX_TOO_BIG, TX_FAILED]) {
    device.sent.length = 0;
    for (let index = 0; index < 3; index++) queue(device, index, index, 0);
    device.refuse(refusal, 2);
    assert.equal(device.transmit(3), 1);
    const results = [0, 1, 2].map((place) => device.batch.tx[place * DESCRIPTOR_WORDS + D_RESULT]);
    assert.deepEqual(results, [refusal, refusal, TX_SENT]);
    assert.equal(device.sent.length, 1);
    assert.equal(device.sent[0]!.bytes[0], 2);
  }
});

test("a frame over the MTU is too big on Ethernet, unless it is GSO, and never on TUN", () => {
  const gso = { vnet: (VNET_GSO_TCPV4 << 8) | (40 << 16), csum: 0 };
  const rows = [
    { linkHeaderBytes: 14, length: 114, words: undefined, result: TX_SENT },
    { linkHeaderBytes: 14, length: 115, words: undefined, result: TX_TOO_BIG },
    { linkHeaderBytes: 14, length: 115, words: gso, result: TX_SENT },
    { linkHeaderBytes: 0, length: 115, words: undefined, result: TX_SENT },
  ];
  for (const { linkHeaderBytes, length, words, result } of rows) {
    const device = create({ linkHeaderBytes });
    device.inject(frame(length, 1), 0, words);
    device.receive(0);
    queue(device, 0, 0, 1);
    assert.equal(device.transmit(1), result === TX_SENT ? 1 : 0);
    assert.equal(device.batch.tx[D_RESULT], result);
  }
});

test("a descriptor that no kernel would take is a broken invariant", () => {
  const device = create();
  device.inject(frame(60, 1), 0);
  device.receive(0);
  const at = device.batch.rx[D_AT]!;
  const rows: [number[], RegExp][] = [
    [[at, 14, 0, 0, 0, 0], /more than a link header/],
    [[-1, 60, 0, 0, 0, 0], /more than a link header/],
    [[at, device.memory.byteLength, 0, 0, 0, 0], /lies in the device's memory/],
    [[at, 60, 2, 0, 0, 0], /names an interface/],
    [[at, 60, 0, 0, 0, 1], /from a received one or from a spare/],
    [[at, 60, 0, 0, 0, FROM_SPARE], /from a received one or from a spare/],
    [[device.spareAt, 60, 0, 0, 0, 0], /from a received one or from a spare/],
  ];
  for (const [descriptor, message] of rows) {
    device.batch.tx.set(descriptor);
    assert.throws(() => device.transmit(1), message);
  }
  assert.throws(() => device.transmit(OUT_FRAMES_MAX + 1), /invariant broken/);
  assert.throws(() => device.inject(frame(60, 1), 2), /names an interface/);
  assert.throws(() => device.inject(frame(2045, 1), 0), /fits into a slot/);
});

test("tick, missed and close", () => {
  const device = create();
  device.setTick(2 ** 31 + 5);
  assert.equal(device.batch.tick[0], -(2 ** 31) + 5);
  device.lose(3);
  assert.equal(device.statistics().missed, 3);
  const view = new Uint8Array(device.memory);
  device.close();
  device.close();
  assert.equal(view.length, 0);
  assert.throws(() => device.receive(0), {
    code: "HEADGATE_DEVICE",
    message: /receive: .* closed/,
  });
  assert.throws(() => device.transmit(0), {
    code: "HEADGATE_DEVICE",
    message: /transmit: .* closed/,
  });
});

test("without keepSent a frame costs no allocation", () => {
  const device = createMemoryDevice({
    linkHeaderBytes: 14,
    interfaces: INTERFACES,
    slots: 64,
    keepSent: false,
  });
  const bytes = frame(60, 1);
  const run = (batches: number): void => {
    for (let batch = 0; batch < batches; batch++) {
      for (let index = 0; index < BATCH_FRAMES_MAX; index++) device.inject(bytes, 0);
      const count = device.receive(0);
      for (let index = 0; index < count; index++) {
        const from = index * DESCRIPTOR_WORDS;
        device.batch.tx[from + D_AT] = device.batch.rx[from + D_AT]!;
        device.batch.tx[from + D_BYTES] = 60;
        device.batch.tx[from + D_FROM] = index;
      }
      device.transmit(count);
      device.receive(0);
    }
  };
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  run(3000);
  // V8 also allocates while it compiles; the least of several rounds is what the frames cost.
  const rounds = Array.from({ length: 5 }, () => {
    collect();
    const before = process.memoryUsage().heapUsed;
    run(2000);
    return process.memoryUsage().heapUsed - before;
  });
  const grown = Math.min(...rounds);
  assert.equal(device.sentFrames(), 13_000 * BATCH_FRAMES_MAX);
  assert.equal(device.sent.length, 0);
  assert.ok(
    grown < 2000 * BATCH_FRAMES_MAX,
    `${grown} bytes for ${2000 * BATCH_FRAMES_MAX} frames`,
  );
});
