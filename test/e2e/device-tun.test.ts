import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { writeSync } from "node:fs";
import { afterEach, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { DeviceError, EXIT } from "../../src/base/errors.ts";
import {
  D_AT,
  D_BYTES,
  D_INTERFACE,
  D_RESULT,
  D_VNET,
  DESCRIPTOR_WORDS,
  TX_FAILED,
  TX_SENT,
} from "../../src/device/device.ts";
import type { NativeFrameDevice } from "../../src/device/frame-device.ts";
import { openTun } from "../../src/device/tun.ts";
import { createWake } from "../../src/device/wake.ts";
import {
  collectUntil,
  ip,
  isInside,
  mappingCount,
  pump,
  run,
  runInside,
  settledDescriptors,
  start,
  tcpReceiver,
  tcpSender,
  waitListening,
} from "./device-world.ts";

const file = fileURLToPath(import.meta.url);
const module = (name: string): string =>
  JSON.stringify(new URL(`../../src/device/${name}.js`, import.meta.url).href);

/** Fewer in the sanitizer build. */
const rounds = Number(process.env["HEADGATE_TEST_ROUNDS"] ?? 200);

if (isInside) insideTests();
else runInside(file);

/**
 * Turns a packet round: what the host sends to 10.99.0.2 comes back to it from there. Addresses
 * change places, so every checksum stays right, a partial one too.
 */
function reflector(device: NativeFrameDevice): (word: number) => void {
  const view = new DataView(device.memory);
  const { tx } = device.batch;
  return (word) => {
    const at = tx[word + D_AT]!;
    if (view.getUint8(at) >> 4 !== 4) return;
    const source = view.getInt32(at + 12);
    view.setInt32(at + 12, view.getInt32(at + 16));
    view.setInt32(at + 16, source);
    if (view.getUint8(at + 9) === 1 && view.getUint8(at + 20) === 8) {
      // Echo request into reply: type 8 becomes 0, so the sum loses 0x0800 (RFC 1624).
      view.setUint8(at + 20, 0);
      const sum = view.getUint16(at + 22) + 0x0800;
      view.setUint16(at + 22, (sum & 0xffff) + (sum >>> 16));
    }
  };
}

function insideTests(): void {
  // No packet comes of itself.
  run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1");
  const wake = createWake();
  // A test that fails must not leave its device to the next one.
  let last: WeakRef<NativeFrameDevice> | undefined;
  afterEach(() => last?.deref()?.close());
  const open = (name = "hg0"): NativeFrameDevice => {
    const device = openTun({ name, wakeFd: wake.fd });
    last = new WeakRef(device);
    return device;
  };
  const openWithAddress = (): NativeFrameDevice => {
    const device = open();
    ip("addr add 10.99.0.1/24 dev hg0");
    return device;
  };

  test("it is up, has a long queue and the shape of a FrameDevice", () => {
    const device = open();
    assert.equal(device.type, "tun");
    assert.equal(device.linkHeaderBytes, 0);
    assert.equal(device.interfaces.length, 1);
    const [link] = device.interfaces;
    assert.equal(link?.name, "hg0");
    assert.equal(link?.mac, "");
    assert.equal(link?.mtu, 1500);
    const shown = JSON.parse(run("ip", "-json", "link", "show", "dev", "hg0"))[0];
    assert.equal(shown.ifindex, link?.index);
    assert.equal(shown.txqlen, 10000);
    assert.ok(shown.flags.includes("UP"));
    assert.equal(device.batch.rx.length, 64 * DESCRIPTOR_WORDS);
    assert.equal(device.batch.tx.length, 128 * DESCRIPTOR_WORDS);
    assert.ok(device.spareCount >= 64);
    assert.ok(device.spareBytes >= 2048);
    assert.equal(device.spareAt % 4, 0);
    assert.ok(device.spareAt + device.spareCount * device.spareBytes <= device.memory.byteLength);
    device.close();
    assert.equal(spawnSync("ip", ["link", "show", "dev", "hg0"]).status, 1, "it goes at close");
  });

  test("ping round trips, aligned", async () => {
    const device = openWithAddress();
    const ping = start("ping", "-c", "10", "-i", "0.02", "-W", "5", "10.99.0.2");
    const seen = await pump(device, ping.done, reflector(device));
    assert.match(seen.value, /10 packets transmitted, 10 received/);
    assert.equal(seen.received, 10);
    assert.equal(seen.sent, 10);
    assert.equal(seen.misaligned, 0);
    assert.equal(device.statistics().calls, seen.calls, "two native calls a batch, not more");
    device.close();
  });

  test("TCP comes in GSO packets with partial checksums, and goes back whole", async () => {
    const device = openWithAddress();
    const receiver = start(process.execPath, "-e", tcpReceiver(5001));
    await waitListening(run, 5001);
    const sender = start(process.execPath, "-e", tcpSender("10.99.0.2", 5001, 64 << 20));
    const both = Promise.all([receiver.done, sender.done]);
    const seen = await pump(device, both, reflector(device));
    const [received, sent] = seen.value;
    assert.equal(received, sent);
    assert.match(received, /^67108864 /);
    assert.ok(seen.bytesMax > 60_000, `the largest packet has ${seen.bytesMax} bytes`);
    assert.ok(seen.gso > 500, `${seen.gso} GSO packets`);
    assert.ok(seen.partial > seen.received / 2, `${seen.partial} partial checksums`);
    assert.equal(seen.misaligned, 0);
    assert.equal(device.statistics().missed, 0);
    const errors = run("nstat", "-az", "TcpInCsumErrors").match(/TcpInCsumErrors\s+(\d+)/)?.[1];
    assert.equal(errors, "0");
    device.close();
  });

  test("UDP datagrams round trip, 0 bad", async () => {
    const device = openWithAddress();
    const echo = start(
      process.execPath,
      "-e",
      `const server = require("node:dgram").createSocket("udp4");
       server.on("message", (data, from) => server.send(data, from.port, from.address));
       server.bind(5002, () => {
         const client = require("node:dgram").createSocket("udp4");
         let sent = 0, back = 0;
         const next = () => { client.send(Buffer.alloc(1 + sent * 7, sent), 5002, "10.99.0.2"); sent += 1; };
         client.on("message", (data) => {
           if (data.length === 1 + back * 7 && data.every((byte) => byte === (back & 255))) back += 1;
           if (sent < 200) return next();
           console.log("back " + back);
           client.close(); server.close();
         });
         next();
       });`,
    );
    const seen = await pump(device, echo.done, reflector(device));
    assert.match(seen.value, /back 200/);
    assert.equal(seen.received, seen.sent);
    device.close();
  });

  test("down: nothing comes and frames are refused; up: it goes on", async () => {
    const device = openWithAddress();
    const view = new DataView(device.memory);
    const { tx } = device.batch;
    const sendSpare = (): number => {
      // An IPv4 header is enough for the device; the host drops what is behind it.
      for (let i = 0; i < 28; i += 4) view.setInt32(device.spareAt + i, 0);
      view.setUint16(device.spareAt, 0x4500);
      tx.fill(0, 0, DESCRIPTOR_WORDS);
      tx[D_AT] = device.spareAt;
      tx[D_BYTES] = 28;
      device.transmit(1);
      return tx[D_RESULT]!;
    };
    assert.equal(sendSpare(), TX_SENT);
    ip("link set hg0 down");
    for (let i = 0; i < 5; i += 1) assert.equal(device.receive(20), 0);
    assert.equal(sendSpare(), TX_FAILED);
    ip("link set hg0 up");
    assert.equal(sendSpare(), TX_SENT);
    const ping = start("ping", "-c", "3", "-i", "0.02", "-W", "5", "10.99.0.2");
    const seen = await pump(device, ping.done, reflector(device));
    assert.match(seen.value, /3 received/);
    device.close();
  });

  test("deleted: receive says that it is gone", () => {
    const device = open();
    ip("link del hg0");
    assert.throws(
      () => {
        for (let i = 0; i < 50; i += 1) device.receive(50);
      },
      (error: unknown) => {
        assert.ok(error instanceof DeviceError);
        assert.match(error.message, /hg0 is gone .*ENODEV/);
        assert.equal(error.errno, 19);
        return true;
      },
    );
    device.close();
  });

  test("the MTU is followed", async () => {
    const device = open();
    ip("link set hg0 mtu 1400");
    for (let i = 0; i < 100 && device.interfaces[0]?.mtu !== 1400; i += 1) device.receive(50);
    assert.equal(device.interfaces[0]?.mtu, 1400);
    // Never more than a spare holds, however large it is set.
    ip("link set hg0 mtu 9000");
    for (let i = 0; i < 100 && device.interfaces[0]?.mtu === 1400; i += 1) device.receive(50);
    assert.ok((device.interfaces[0]?.mtu ?? 0) < device.spareBytes);
    assert.ok((device.interfaces[0]?.mtu ?? 0) > 1400);
    device.close();
  });

  test("what does not fit the queue is missed, the rest is received", async () => {
    const device = openWithAddress();
    ip("link set hg0 txqueuelen 100");
    run(
      process.execPath,
      "-e",
      `const client = require("node:dgram").createSocket("udp4");
       let left = 300;
       for (let i = 0; i < 300; i += 1) {
         client.send("x", 9, "10.99.0.2", () => { left -= 1; if (left === 0) client.close(); });
       }`,
    );
    let received = 0;
    for (let count = device.receive(0); count > 0; count = device.receive(0)) received += count;
    const { missed } = device.statistics();
    assert.equal(received, 100);
    assert.equal(missed, 200);
    device.close();
    assert.equal(device.statistics().missed, 200, "the last figures stay after close");
  });

  test("a wrong descriptor is a refused frame, never more", () => {
    const device = openWithAddress();
    const { tx } = device.batch;
    const wrong: readonly [number, number, number][] = [
      [-1, 60, 0],
      [0, 60, 0],
      [device.memory.byteLength - 10, 60, 0],
      [0x7fffffff, 0x7fffffff, 0],
      [device.spareAt, 0, 0],
      [device.spareAt, -5, 0],
      [device.spareAt, 60, 1],
      [device.spareAt, 60, -1],
    ];
    tx.fill(0);
    for (const [i, [at, bytes, index]] of wrong.entries()) {
      tx[i * DESCRIPTOR_WORDS + D_AT] = at;
      tx[i * DESCRIPTOR_WORDS + D_BYTES] = bytes;
      tx[i * DESCRIPTOR_WORDS + D_INTERFACE] = index;
      // A GSO header makes the device look into the frame, which must not reach beyond it.
      tx[i * DESCRIPTOR_WORDS + D_VNET] = 1 | (1 << 8) | (1400 << 16);
    }
    assert.equal(device.transmit(wrong.length), 0);
    for (let i = 0; i < wrong.length; i += 1) {
      assert.equal(tx[i * DESCRIPTOR_WORDS + D_RESULT], TX_FAILED);
    }
    assert.throws(() => device.transmit(129), /expected a count of 0-128/);
    assert.throws(() => device.transmit(-1), /expected a count of 0-128/);
    device.close();
  });

  test("use after close is an error; closing twice is not; views have length 0", () => {
    const device = open();
    const view = new Uint8Array(device.memory);
    device.close();
    device.close();
    assert.equal(view.length, 0);
    assert.equal(device.memory.byteLength, 0);
    assert.equal(device.batch.rx.length, 0);
    assert.equal(device.batch.tick.length, 0);
    assert.throws(() => device.receive(0), /receive on TUN device hg0, which is closed/);
    assert.throws(() => device.transmit(0), /transmit on TUN device hg0, which is closed/);
    assert.equal(device.interfaces[0]?.mtu, 1500);
  });

  test("a second open of the name says that it is held", () => {
    const device = open();
    assert.throws(
      () => open(),
      (error: unknown) => {
        assert.ok(error instanceof DeviceError);
        assert.match(error.message, /TUN device hg0 .*EBUSY.*another process holds this device/);
        return true;
      },
    );
    device.close();
    open().close();
  });

  test("an interface of that name which is no TUN is left alone", () => {
    ip("link add hg7 type veth peer name hg8");
    assert.throws(() => open("hg7"), /EINVAL.*choose another device\.name/);
    ip("link del hg7");
  });

  test("without the privilege: one sentence, exit code 77", () => {
    const program = `
      const { openTun } = await import(${module("tun")});
      const { createWake } = await import(${module("wake")});
      try { openTun({ name: "hg3", wakeFd: createWake().fd }); }
      catch (error) { console.log(error.name, error.exitCode, error.message); process.exit(); }`;
    const text = run(
      "setpriv",
      "--bounding-set=-net_admin,-net_raw",
      "--inh-caps=-net_admin,-net_raw",
      process.execPath,
      "--input-type=module",
      "-e",
      program,
    );
    assert.match(text, /^PrivilegeError 77 cannot open TUN device hg3 .*EPERM.*CAP_NET_ADMIN/);
    assert.equal(EXIT.noPrivilege, 77);
  });

  test("without /dev/net/tun: one sentence that names the cure", () => {
    const program = `
      const { openTun } = await import(${module("tun")});
      const { createWake } = await import(${module("wake")});
      try { openTun({ name: "hg3", wakeFd: createWake().fd }); }
      catch (error) { console.log(error.name, error.message); process.exit(); }`;
    const text = run(
      "unshare",
      "--mount",
      "sh",
      "-c",
      'mount -t tmpfs none /dev/net && exec "$@"',
      "sh",
      process.execPath,
      "--input-type=module",
      "-e",
      program,
    );
    assert.match(text, /^DeviceError cannot open TUN device hg3 .*ENOENT.*modprobe tun/);
  });

  test("the device goes with a process that is killed", async () => {
    const child = spawn(
      process.execPath,
      [
        "--input-type=module",
        "-e",
        `const { openTun } = await import(${module("tun")});
         const { createWake } = await import(${module("wake")});
         const device = openTun({ name: "hg4", wakeFd: createWake().fd });
         console.log("open");
         for (;;) device.receive(1000);`,
      ],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    await new Promise((resolve) => child.stdout.once("data", resolve));
    ip("link show dev hg4");
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
    assert.equal(spawnSync("ip", ["link", "show", "dev", "hg4"]).status, 1);
  });

  test("another thread's wake ends a wait", { timeout: 20_000 }, async () => {
    const device = open();
    const waker = new Worker(
      `const { workerData } = require("node:worker_threads");
       setTimeout(() => require("node:fs").writeSync(workerData, new BigUint64Array([1n])), 200);`,
      { eval: true, workerData: wake.fd },
    );
    // Without the wake this would outlast the test's time.
    assert.equal(device.receive(60_000), 0);
    await new Promise((resolve) => waker.once("exit", resolve));
    // It is taken: the next wait is a wait again, and a wake before it ends it at once.
    assert.equal(device.receive(10), 0);
    writeSync(wake.fd, new BigUint64Array([3n]));
    assert.equal(device.receive(60_000), 0);
    device.close();
  });

  test("the tick is CLOCK_MONOTONIC in milliseconds", () => {
    const device = open();
    const now = (): number => Number(BigInt.asIntN(32, process.hrtime.bigint() / 1_000_000n));
    const before = now();
    device.receive(0);
    const tick = device.batch.tick[0]!;
    assert.ok(((tick - before) | 0) >= 0 && ((now() - tick) | 0) >= 0);
    device.transmit(0);
    assert.ok(((device.batch.tick[0]! - tick) | 0) >= 0);
    device.close();
  });

  test(`opening and closing ${rounds} times leaves no descriptor and no mapping`, async () => {
    open().close();
    const descriptors = await settledDescriptors();
    const mappings = mappingCount();
    for (let i = 0; i < rounds; i += 1) open().close();
    assert.equal(await settledDescriptors(), descriptors);
    assert.ok(mappingCount() <= mappings + 20, "the collector's own mappings aside");
  });

  test("a device that nobody refers to is closed by the collector", async () => {
    const descriptors = await settledDescriptors();
    (() => {
      open().receive(0);
    })();
    await collectUntil(() => spawnSync("ip", ["link", "show", "dev", "hg0"]).status !== 0);
    assert.equal(await settledDescriptors(), descriptors);
    open().close();
  });

  test("memory stays while a view of it does, though the device is forgotten", async () => {
    const words = (() => new Int32Array(open("hg6").memory))();
    await collectUntil(() => false);
    words[5000] = 5;
    assert.equal(words[5000], 5);
  });

  for (const [ending, statement] of [
    ["ends", "parentPort.close();"],
    ["exits", "process.exit(0);"],
    ["is terminated while it waits", "for (;;) device.receive(100);"],
  ] as const) {
    test(`a thread that ${ending} leaves nothing open`, async () => {
      const descriptors = await settledDescriptors();
      const worker = new Worker(
        `import { parentPort } from "node:worker_threads";
         const { openTun } = await import(${module("tun")});
         const device = openTun({ name: "hg5", wakeFd: ${wake.fd} });
         device.receive(0);
         parentPort.postMessage("open");
         parentPort.once("message", () => { ${statement} });`,
        { eval: true, execArgv: ["--input-type=module"] },
      );
      await new Promise((resolve, reject) => {
        worker.once("message", resolve);
        worker.once("error", reject);
      });
      ip("link show dev hg5");
      const ended = new Promise((resolve) => worker.once("exit", resolve));
      worker.postMessage("end");
      if (ending.startsWith("is terminated")) {
        await new Promise((resolve) => setTimeout(resolve, 50));
        await worker.terminate();
      }
      await ended;
      assert.equal(spawnSync("ip", ["link", "show", "dev", "hg5"]).status, 1);
      assert.equal(await settledDescriptors(), descriptors);
    });
  }

  test("a device cannot be handed to another thread", () => {
    const device = open();
    assert.throws(() => structuredClone(device), { name: "DataCloneError" });
    device.close();
  });
}
