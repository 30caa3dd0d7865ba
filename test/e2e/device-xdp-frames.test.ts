import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { DeviceError } from "../../src/base/errors.ts";
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
  TX_SENT,
  TX_TOO_BIG,
  VNET_F_NEEDS_CSUM,
} from "../../src/device/device.ts";
import { createWake } from "../../src/device/wake.ts";
import { openXdp, receiveQueues, type XdpDevice, type XdpOptions } from "../../src/device/xdp.ts";
import { createSocketGuard } from "../../src/host/guard.ts";
import type { XdpGuard } from "../../src/host/guard-xdp.ts";
import { addressOf } from "../support/frames.ts";
import {
  collectUntil,
  ip,
  isInside,
  makePair,
  mappingCount,
  type Pair,
  pump,
  run,
  runInside,
  settledDescriptors,
} from "./device-world.ts";

/** Goal: the AF_XDP device holds the contract of src/device/device.ts, on real wires. */

const file = fileURLToPath(import.meta.url);
const XDP_MODULE = JSON.stringify(new URL("../../src/device/xdp.js", import.meta.url).href);

/** Fewer in the sanitizer build. */
const rounds = Math.min(50, Number(process.env["HEADGATE_TEST_ROUNDS"] ?? 50));

if (isInside) insideTests();
else runInside(file);

function insideTests(): void {
  const wake = createWake();
  let pair: Pair;
  let guard: XdpGuard;
  before(async () => {
    pair = await makePair();
    guard = await createSocketGuard({
      interfaces: ["in0", "in1"],
      mode: "process",
      xdpMode: "native",
    });
    // Everything between A and B is ours.
    const snat = ["10.0.0.1", "10.0.0.2"].map(addressOf);
    await guard.update({ vips: [], backends: [], snat, hosts: [] });
  });
  after(async () => {
    await guard.close();
    pair.close();
  });

  // A test that fails must not leave its device to the next one.
  let last: WeakRef<XdpDevice> | undefined;
  afterEach(() => last?.deref()?.close());
  const optionsFor = (in1Queues: readonly number[] = [0]): XdpOptions => ({
    interfaces: [
      { name: "in0", queues: [0], generic: false },
      { name: "in1", queues: in1Queues, generic: false },
    ],
    wakeFd: wake.fd,
    socketMap: guard.sockets,
  });
  const open = (in1Queues?: readonly number[]): XdpDevice => {
    const device = openXdp(optionsFor(in1Queues));
    last = new WeakRef(device);
    return device;
  };
  /** Out of the other interface, the checksum of UDP as the sender's kernel left it: partial. */
  const across = (device: XdpDevice) => (word: number) => {
    const { rx, tx } = device.batch;
    tx[word + D_INTERFACE] = rx[word + D_INTERFACE]! ^ 1;
    tx[word + D_FROM] = word / DESCRIPTOR_WORDS;
    const frame = new DataView(device.memory, rx[word + D_AT]!, rx[word + D_BYTES]!);
    if (frame.getUint16(12) !== 0x0800 || frame.getUint8(23) !== 17) return;
    tx[word + D_VNET] = VNET_F_NEEDS_CSUM;
    tx[word + D_CSUM] = 34 | (6 << 16);
  };
  const fillSpare = (device: XdpDevice, slot: number, bytes: number, egress: number): number => {
    const word = slot * DESCRIPTOR_WORDS;
    const at = device.spareAt + slot * device.spareBytes + 18;
    new Uint8Array(device.memory, at, Math.max(bytes, 14)).fill(0).set([0x88, 0xb5], 12);
    device.batch.tx.fill(0, word, word + DESCRIPTOR_WORDS);
    device.batch.tx[word + D_AT] = at;
    device.batch.tx[word + D_BYTES] = bytes;
    device.batch.tx[word + D_INTERFACE] = egress;
    device.batch.tx[word + D_FROM] = FROM_SPARE;
    return word;
  };
  const toB = (kind: "rx" | "tx"): number => {
    const [link] = JSON.parse(pair.b.run("ip", "-json", "-s", "link", "show", "dev", "e0"));
    return link.stats64[kind].packets;
  };

  test("it has the shape of a FrameDevice", () => {
    const device = open();
    assert.deepEqual([device.type, device.linkHeaderBytes], ["xdp", 14]);
    assert.deepEqual(
      device.interfaces.map(({ name, mtu }) => [name, mtu]),
      [
        ["in0", 1500],
        ["in1", 1500],
      ],
    );
    assert.equal(device.spareAt % 4, 0);
    assert.ok(device.spareCount >= 64 && device.spareBytes >= 2048);
    assert.deepEqual([device.zeroCopy, device.txMetadata], [false, true]);
    assert.equal(receiveQueues("in0"), 1);
  });

  test("ping across two interfaces: every frame once, aligned, two native calls a batch", async () => {
    const device = open();
    const ping = pair.a.start("ping", "-c", "20", "-i", "0.02", "-W", "5", "10.0.0.2");
    const seen = await pump(device, ping.done, across(device));
    assert.match(seen.value, /20 packets transmitted, 20 received/);
    assert.deepEqual([seen.received, seen.sent, seen.misaligned], [40, 40, 0]);
    const { calls, missed } = device.statistics();
    assert.ok(calls <= seen.calls, `${calls} native calls, at most ${seen.calls}`);
    assert.equal(missed, 0);
  });

  for (const [how, queues] of [
    ["AF_XDP", [0]],
    ["AF_PACKET, where it owns no queue", []],
  ] as const) {
    test(`partial UDP checksums are completed through ${how}`, async () => {
      const device = open(queues);
      run("ethtool", "-K", "in1", "tx", "off");
      const server = pair.b.start("timeout", "20", "socat", "-u", "UDP-RECV:9", "STDOUT");
      const text = "a datagram of odd length: 3";
      const sender = pair.a.start(
        "sh",
        "-c",
        `sleep 0.3; for n in 1 2 3; do printf '%s' '${text}' | socat -u STDIN UDP:10.0.0.2:9; done; sleep 0.2`,
      );
      const seen = await pump(device, sender.done, across(device));
      assert.deepEqual([seen.received, seen.sent], [3, 3]);
      server.child.kill();
      const output = await server.done.catch((error: Error) => error.message);
      assert.equal(output.split(text).length - 1, 3, output);
      const statistics = pair.b.run("nstat", "-asz", "UdpInCsumErrors");
      assert.match(statistics, /UdpInCsumErrors +0 /);
    });
  }

  test("a device without any queue still sends", () => {
    const device = openXdp({
      ...optionsFor(),
      interfaces: [
        { name: "in0", queues: [], generic: false },
        { name: "in1", queues: [], generic: false },
      ],
    });
    last = new WeakRef(device);
    const before = toB("rx");
    for (let slot = 0; slot < 3; slot++) fillSpare(device, slot, 60, 1);
    assert.equal(device.receive(1), 0);
    assert.equal(device.transmit(3), 3);
    assert.equal(toB("rx"), before + 3);
  });

  test("spares leave; what cannot leave has its result, and is not sent", () => {
    const device = open();
    const before = toB("rx");
    const { tx } = device.batch;
    const sizes = [60, 1514, 1515, 13];
    for (const [slot, bytes] of sizes.entries()) fillSpare(device, slot, bytes, 1);
    fillSpare(device, sizes.length, 60, 2);
    assert.equal(device.transmit(sizes.length + 1), 2);
    assert.deepEqual(
      [0, 1, 2, 3, 4].map((slot) => tx[slot * DESCRIPTOR_WORDS + D_RESULT]),
      [TX_SENT, TX_SENT, TX_TOO_BIG, TX_FAILED, TX_FAILED],
    );
    assert.equal(toB("rx"), before + 2);
    for (let batch = 0; batch < 100; batch++) {
      for (let slot = 0; slot < 128; slot++) fillSpare(device, slot % 64, 60, 1);
      assert.equal(device.transmit(64), 64);
      device.receive(0);
    }
    assert.equal(toB("rx"), before + 2 + 6400, "every chunk comes back");
  });

  test("an interface that is down refuses frames, and sends again when it is up", () => {
    const device = open();
    ip("link set in1 down");
    const word = fillSpare(device, 0, 60, 1);
    for (let times = 0; times < 10; times++) assert.equal(device.transmit(1), 0);
    assert.equal(device.batch.tx[word + D_RESULT], TX_FAILED);
    ip("link set in1 up");
    const before = toB("rx");
    assert.equal(device.transmit(1), 1);
    assert.equal(toB("rx"), before + 1, "one, and not those that were refused");
  });

  test("the MTU is followed, as far as a chunk holds", async () => {
    const device = open();
    ip("link set in1 mtu 1400");
    const until = Date.now() + 5000;
    while (device.interfaces[1]!.mtu !== 1400 && Date.now() < until) device.receive(20);
    assert.equal(device.interfaces[1]!.mtu, 1400);
    fillSpare(device, 0, 1414, 1);
    fillSpare(device, 1, 1415, 1);
    device.transmit(2);
    assert.equal(device.batch.tx[D_RESULT], TX_SENT);
    assert.equal(device.batch.tx[DESCRIPTOR_WORDS + D_RESULT], TX_TOO_BIG);
    ip("link set in1 mtu 1500");
  });

  test("a wake ends the wait, and the tick moves", () => {
    const device = open();
    const before = device.batch.tick[0]!;
    wake.wake();
    assert.equal(device.receive(60_000), 0);
    device.receive(30);
    assert.ok(((device.batch.tick[0]! - before) | 0) >= 25);
  });

  test("every queue of an interface has its socket, and a device has the queues it is given", async () => {
    const peer = pair.a;
    const queues = "numrxqueues 2 numtxqueues 2";
    run("sh", "-c", `ip link add q0 ${queues} type veth peer name q1 ${queues} netns ${peer.pid}`);
    ip("link set q0 up");
    peer.run("sh", "-c", "ip link set q1 up; ip addr add 10.0.1.1/24 dev q1");
    const [link] = JSON.parse(run("ip", "-json", "link", "show", "dev", "q0"));
    peer.run("ip", "neigh", "add", "10.0.1.2", "lladdr", link.address, "dev", "q1");
    assert.equal(receiveQueues("q0"), 2);
    const two = await createSocketGuard({ interfaces: ["q0"], mode: "process", xdpMode: "native" });
    const snat = [addressOf("10.0.1.2")];
    await two.update({ vips: [], backends: [], snat, hosts: [] });
    const openQueues = (...numbers: number[]): XdpDevice =>
      openXdp({
        interfaces: [{ name: "q0", queues: numbers, generic: false }],
        wakeFd: wake.fd,
        socketMap: two.sockets,
      });
    const flows = 100;
    const program = `const c = require("node:dgram").createSocket("udp4"); let left = ${flows};
      c.bind(0, "10.0.1.1", () => { for (let p = 1; p <= ${flows}; p++)
        c.send("x", 2000 + p, "10.0.1.2", () => { if (--left === 0) c.close(); }); });`;
    const count = async (devices: readonly XdpDevice[]): Promise<number[]> => {
      const sender = peer.start(process.execPath, "-e", program);
      const found = devices.map(() => 0);
      let ended = false;
      const done = sender.done.then(() => {
        ended = true;
      });
      while (!ended) {
        for (const [index, device] of devices.entries()) found[index]! += device.receive(5);
        await new Promise((resolve) => setImmediate(resolve));
      }
      await done;
      for (const [index, device] of devices.entries()) found[index]! += device.receive(5);
      return found;
    };
    const both = openQueues(0, 1);
    assert.deepEqual(await count([both]), [flows]);
    both.close();
    // Two devices, one queue each, as two workers have them.
    const devices = [openQueues(0), openQueues(1)];
    const [first = 0, second = 0] = await count(devices);
    assert.equal(first + second, flows);
    assert.ok(first > 0 && second > 0, `${first} and ${second}`);
    for (const device of devices) device.close();
    await two.close();
    ip("link del q0");
  });

  test("a queue that is taken, and one that is not there", () => {
    const device = open();
    assert.throws(() => openXdp(optionsFor()), {
      name: "DeviceError",
      message: /bind\(AF_XDP\) in0 queue 0: EBUSY\): another process has an AF_XDP socket/,
    });
    device.close();
    assert.throws(() => open([7]), { message: /in1 queue 7: EINVAL\): there is no such queue/ });
    assert.throws(() => open([64]), { message: /queue 64 is beyond the 64 that type xdp takes/ });
    assert.throws(() => openXdp({ ...optionsFor(), interfaces: [] }), DeviceError);
    open().close();
  });

  test("closing detaches the memory, and everything after is a DeviceError", () => {
    const device = open();
    const view = new Uint8Array(device.memory);
    device.close();
    device.close();
    assert.equal(view.length, 0);
    assert.throws(() => device.receive(0), { name: "DeviceError", message: /which is closed/ });
    assert.throws(() => device.transmit(0), DeviceError);
    assert.equal(device.statistics().missed, 0);
    const again = open();
    assert.throws(() => again.transmit(129), { message: /expected a count of 0-128/ });
    assert.throws(() => again.transmit(-1), DeviceError);
  });

  test(`opening ${rounds} times leaves no descriptor and no mapping`, async () => {
    open().close();
    const descriptors = await settledDescriptors();
    const mappings = mappingCount();
    for (let round = 0; round < rounds; round += 1) open().close();
    assert.equal(await settledDescriptors(), descriptors);
    assert.ok(mappingCount() <= mappings + 8, `${mappings} mappings became ${mappingCount()}`);
  });

  test("what nobody refers to any more is released by the collector", async () => {
    const descriptors = await settledDescriptors();
    (() => openXdp(optionsFor()))();
    await collectUntil(() => false);
    assert.equal(await settledDescriptors(), descriptors);
  });

  test("a thread that ends releases its device", async () => {
    for (let round = 0; round < 3; round++) {
      const worker = new Worker(
        `const { parentPort, workerData } = require("node:worker_threads");
         import(${XDP_MODULE}).then(({ openXdp }) => {
           globalThis.device = openXdp(workerData);
           parentPort.postMessage(device.receive(1));
           setInterval(() => device.receive(1), 5);
         });`,
        { eval: true, workerData: optionsFor() },
      );
      assert.equal(await new Promise((resolve) => worker.once("message", resolve)), 0);
      await worker.terminate();
    }
    open().close();
  });
}
