import assert from "node:assert/strict";
import { writeSync } from "node:fs";
import { after, afterEach, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { DeviceError } from "../../src/base/errors.ts";
import {
  D_AT,
  D_BYTES,
  D_CSUM,
  D_INTERFACE,
  D_RESULT,
  D_VNET,
  DESCRIPTOR_WORDS,
  TX_FAILED,
  TX_FULL,
  TX_SENT,
  TX_TOO_BIG,
  VNET_F_NEEDS_CSUM,
  VNET_GSO_TCPV4,
} from "../../src/device/device.ts";
import type { NativeFrameDevice } from "../../src/device/frame-device.ts";
import { openPacket } from "../../src/device/packet.ts";
import { createWake } from "../../src/device/wake.ts";
import {
  A_MAC,
  B_MAC,
  collectUntil,
  descriptorCount,
  ip,
  isInside,
  makePair,
  mappingCount,
  type Pair,
  type Peer,
  pump,
  run,
  runInside,
  settledDescriptors,
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

/** A program for `node -e` that sends `count` UDP datagrams of `bytes` bytes. */
const udpSender = (address: string, count: number, bytes: number): string => `
  const client = require("node:dgram").createSocket("udp4");
  let left = ${count};
  const send = () => {
    if (left === 0) return client.close();
    left -= 1;
    client.send(Buffer.alloc(${bytes}, left), 9, "${address}", send);
  };
  send();`;

/** Kernel counter of a peer's e0. */
function counter(peer: Peer, name: "rx" | "tx"): number {
  const [link] = JSON.parse(peer.run("ip", "-json", "-s", "link", "show", "dev", "e0"));
  return link.stats64[name].packets;
}

function insideTests(): void {
  const wake = createWake();
  let pair: Pair;
  before(async () => {
    pair = await makePair();
  });
  after(() => pair.close());

  // A test that fails must not leave its device to the next one.
  let last: WeakRef<NativeFrameDevice> | undefined;
  afterEach(() => last?.deref()?.close());
  const open = (interfaces: readonly string[] = ["in0", "in1"]): NativeFrameDevice => {
    const device = openPacket({ interfaces, wakeFd: wake.fd });
    last = new WeakRef(device);
    return device;
  };
  const setOffloads = (hosts: "on" | "off", gateway: "on" | "off"): void => {
    for (const peer of [pair.a, pair.b]) {
      peer.run("ethtool", "-K", "e0", "tx", hosts, "tso", hosts, "gso", hosts);
    }
    for (const name of ["in0", "in1"]) {
      run("ethtool", "-K", name, "tx", gateway, "tso", gateway, "gso", gateway);
    }
  };
  const setMtu = (bytes: number): void => {
    for (const name of ["in0", "in1"]) ip(`link set ${name} mtu ${bytes}`);
    for (const peer of [pair.a, pair.b]) peer.run("ip", "link", "set", "e0", "mtu", `${bytes}`);
  };
  /** Out of the other interface. */
  const across = (device: NativeFrameDevice) => (word: number) => {
    device.batch.tx[word + D_INTERFACE] = device.batch.rx[word + D_INTERFACE]! ^ 1;
  };
  /** A frame of zeros with an Ethernet header, in spare `index`, as descriptor `slot` of tx. */
  const fillSpare = (
    device: NativeFrameDevice,
    slot: number,
    bytes: number,
    interfaceIndex: number,
  ): number => {
    const at = device.spareAt + slot * device.spareBytes;
    const frame = new Uint8Array(device.memory, at, bytes);
    frame.fill(0);
    const mac = (interfaceIndex === 0 ? A_MAC : B_MAC).split(":");
    for (let i = 0; i < 6; i += 1) frame[i] = Number.parseInt(mac[i]!, 16);
    frame[6] = 2;
    // An ethertype that nobody listens to (IEEE 802 local experimental 1).
    frame[12] = 0x88;
    frame[13] = 0xb5;
    const word = slot * DESCRIPTOR_WORDS;
    device.batch.tx.fill(0, word, word + DESCRIPTOR_WORDS);
    device.batch.tx[word + D_AT] = at;
    device.batch.tx[word + D_BYTES] = bytes;
    device.batch.tx[word + D_INTERFACE] = interfaceIndex;
    return word;
  };

  /** A TCP packet of 2,026 bytes that the kernel may cut into segments of `size`. */
  const fillGso = (device: NativeFrameDevice, slot: number, size: number): number => {
    const word = fillSpare(device, slot, 2040, 1);
    const { tx } = device.batch;
    const view = new DataView(device.memory, tx[word + D_AT]!);
    view.setUint16(12, 0x0800);
    view.setUint16(14, 0x4500);
    view.setUint16(16, 2026);
    view.setUint16(22, (64 << 8) | 6);
    view.setInt32(26, 0x0a000001);
    view.setInt32(30, 0x0a000002);
    view.setUint8(34 + 12, 5 << 4);
    tx[word + D_VNET] = VNET_F_NEEDS_CSUM | (VNET_GSO_TCPV4 << 8) | (size << 16);
    tx[word + D_CSUM] = 34 | (16 << 16);
    return word;
  };

  test("it has the shape of a FrameDevice and knows its interfaces", () => {
    const device = open();
    assert.equal(device.type, "packet");
    assert.equal(device.linkHeaderBytes, 14);
    const shown = JSON.parse(run("ip", "-json", "link", "show"));
    for (const [i, name] of ["in0", "in1"].entries()) {
      const link = shown.find((entry: { ifname: string }) => entry.ifname === name);
      assert.deepEqual(
        { ...device.interfaces[i] },
        {
          name,
          index: link.ifindex,
          mac: link.address,
          mtu: 1500,
        },
      );
    }
    assert.ok(device.spareCount >= 64);
    assert.ok(device.spareBytes >= 2048);
    assert.equal(device.spareAt % 4, 0);
    device.close();
  });

  test("ping across two interfaces: every frame once, aligned, none of ours back", async () => {
    const device = open();
    const ping = pair.a.start("ping", "-c", "20", "-i", "0.02", "-W", "5", "10.0.0.2");
    const seen = await pump(device, ping.done, across(device));
    assert.match(seen.value, /20 packets transmitted, 20 received/);
    assert.equal(seen.received, 40);
    assert.equal(seen.sent, 40);
    assert.equal(seen.misaligned, 0);
    assert.equal(device.statistics().calls, seen.calls, "two native calls a batch, not more");
    assert.equal(device.statistics().missed, 0);
    device.close();
  });

  for (const [hosts, gateway] of [
    ["on", "on"],
    ["off", "off"],
    ["on", "off"],
  ] as const) {
    test(`64 MiB over TCP, offloads of the hosts ${hosts}, ours ${gateway}: equal, no bad checksum`, async () => {
      setOffloads(hosts, gateway);
      const device = open();
      const receiver = pair.b.start(process.execPath, "-e", tcpReceiver(5001));
      await waitListening(pair.b.run, 5001);
      const sender = pair.a.start(process.execPath, "-e", tcpSender("10.0.0.2", 5001, 64 << 20));
      const { rx } = device.batch;
      let wrongStart = 0;
      const forward = across(device);
      const seen = await pump(device, Promise.all([receiver.done, sender.done]), (word) => {
        // The transport header follows 14 bytes of Ethernet and 20 of IP; TCP's sum is at 16.
        const isPartial = (rx[word + D_VNET]! & VNET_F_NEEDS_CSUM) !== 0;
        if (isPartial && rx[word + D_CSUM] !== (34 | (16 << 16))) wrongStart += 1;
        forward(word);
      });
      const [received, sent] = seen.value;
      assert.equal(received, sent);
      assert.match(received, /^67108864 /);
      assert.equal(seen.misaligned, 0);
      assert.equal(wrongStart, 0);
      assert.equal(seen.sent, seen.received);
      if (hosts === "on") {
        assert.ok(seen.bytesMax > 60_000, `the largest frame has ${seen.bytesMax} bytes`);
        assert.ok(seen.gso > 500, `${seen.gso} GSO frames`);
        assert.equal(seen.partial, seen.received);
      } else {
        assert.equal(seen.bytesMax, 1514);
        assert.equal(seen.partial, 0);
        assert.equal(seen.gso, 0);
      }
      for (const peer of [pair.a, pair.b]) {
        assert.match(peer.run("nstat", "-az", "TcpInCsumErrors"), /TcpInCsumErrors\s+0 /);
      }
      device.close();
      setOffloads("on", "on");
    });
  }

  test("frames of a batch leave in order, small and large in turn", async () => {
    setMtu(9000);
    const device = open();
    // B sees the frames' numbers in the order that they came, by a capture of its own.
    const capture = pair.b.start(
      "tcpdump",
      "-i",
      "e0",
      "-nn",
      "-c",
      "60",
      "-x",
      "ether proto 0x88b5",
    );
    await new Promise((resolve) => capture.child.stderr?.once("data", resolve));
    const view = new DataView(device.memory);
    for (let i = 0; i < 60; i += 1) {
      // Every third is larger than a slot of the send ring, and goes another way.
      const word = fillSpare(device, i, i % 3 === 2 ? 4000 : 64, 1);
      view.setUint16(device.batch.tx[word + D_AT]! + 14, i);
    }
    assert.equal(device.transmit(60), 60);
    const lines = (await capture.done).match(/0x0000: {2}[0-9a-f]{4}/g) ?? [];
    assert.deepEqual(
      lines.map((line) => Number.parseInt(line.slice(-4), 16)),
      Array.from({ length: 60 }, (_, i) => i),
    );
    device.close();
    setMtu(1500);
  });

  test("jumbo frames: larger than a slot, received and sent whole", async () => {
    setMtu(9000);
    const device = open();
    assert.equal(device.interfaces[0]?.mtu, 9000);
    assert.ok(device.spareBytes >= 9014);
    const ping = pair.a.start(
      "ping",
      "-c",
      "10",
      "-i",
      "0.02",
      "-s",
      "8900",
      "-W",
      "5",
      "10.0.0.2",
    );
    const seen = await pump(device, ping.done, across(device));
    assert.match(seen.value, /10 received/);
    assert.equal(seen.received, 20);
    assert.equal(seen.bytesMax, 8942);
    device.close();
    setMtu(1500);
  });

  test("over the MTU is too big; a GSO frame counts by its segments", () => {
    const device = open();
    const { tx } = device.batch;
    const fits = fillSpare(device, 0, 1514, 1);
    const over = fillSpare(device, 1, 1515, 1);
    const gsoFits = fillGso(device, 2, 1460);
    const gsoOver = fillGso(device, 3, 1461);
    assert.equal(device.transmit(4), 2);
    assert.equal(tx[fits + D_RESULT], TX_SENT);
    assert.equal(tx[over + D_RESULT], TX_TOO_BIG);
    assert.equal(tx[gsoFits + D_RESULT], TX_SENT);
    assert.equal(tx[gsoOver + D_RESULT], TX_TOO_BIG);
    device.close();
  });

  test("what the kernel refuses is one failed frame; those around it are sent", () => {
    const device = open();
    const { tx } = device.batch;
    const already = counter(pair.b, "rx");
    for (let i = 0; i < 9; i += 1) fillSpare(device, i, 100, 1);
    for (const i of [0, 4, 8]) {
      // A checksum that would start behind the frame: EINVAL, TP_STATUS_WRONG_FORMAT.
      tx[i * DESCRIPTOR_WORDS + D_VNET] = VNET_F_NEEDS_CSUM;
      tx[i * DESCRIPTOR_WORDS + D_CSUM] = 500 | (16 << 16);
    }
    for (let round = 0; round < 300; round += 1) assert.equal(device.transmit(9), 6);
    for (let i = 0; i < 9; i += 1) {
      assert.equal(tx[i * DESCRIPTOR_WORDS + D_RESULT], i % 4 === 0 ? TX_FAILED : TX_SENT);
    }
    assert.equal(counter(pair.b, "rx") - already, 1800);
    device.close();
  });

  test("a wrong descriptor is a refused frame, never more", () => {
    const device = open();
    const { tx } = device.batch;
    const wrong: readonly [number, number, number][] = [
      [-1, 60, 0],
      [0, 60, 0],
      [device.memory.byteLength - 10, 60, 0],
      [0x7fffffff, 0x7fffffff, 0],
      [device.spareAt, 0, 0],
      [device.spareAt, 13, 0],
      [device.spareAt, 60, 2],
      [device.spareAt, 60, -1],
      [device.spareAt, 60, 0x7fffffff],
    ];
    tx.fill(0);
    for (const [i, [at, bytes, index]] of wrong.entries()) {
      tx[i * DESCRIPTOR_WORDS + D_AT] = at;
      tx[i * DESCRIPTOR_WORDS + D_BYTES] = bytes;
      tx[i * DESCRIPTOR_WORDS + D_INTERFACE] = index;
      tx[i * DESCRIPTOR_WORDS + D_VNET] = 1 | (1 << 8) | (1400 << 16);
    }
    assert.equal(device.transmit(wrong.length), 0);
    for (let i = 0; i < wrong.length; i += 1) {
      assert.equal(tx[i * DESCRIPTOR_WORDS + D_RESULT], TX_FAILED);
    }
    assert.throws(() => device.transmit(129), /expected a count of 0-128/);
    device.close();
  });

  test("a send queue that is full: every frame is sent or TX_FULL, and the sent ones arrive", async () => {
    run(
      "tc",
      "qdisc",
      "add",
      "dev",
      "in1",
      "root",
      "tbf",
      "rate",
      "8mbit",
      "burst",
      "4kb",
      "limit",
      "20kb",
    );
    const device = open();
    const { tx } = device.batch;
    const already = counter(pair.b, "rx");
    for (let i = 0; i < 64; i += 1) {
      fillSpare(device, i, 60 + i * 10, 1);
      tx.copyWithin((64 + i) * DESCRIPTOR_WORDS, i * DESCRIPTOR_WORDS, (i + 1) * DESCRIPTOR_WORDS);
    }
    let sent = 0;
    let full = 0;
    for (let round = 0; round < 10; round += 1) {
      const accepted = device.transmit(128);
      let counted = 0;
      for (let i = 0; i < 128; i += 1) {
        const result = tx[i * DESCRIPTOR_WORDS + D_RESULT]!;
        if (result === TX_SENT) counted += 1;
        else {
          assert.equal(result, TX_FULL);
          full += 1;
        }
      }
      assert.equal(accepted, counted);
      sent += accepted;
    }
    assert.ok(full > 500, `${full} refused`);
    assert.equal(sent + full, 1280);
    const arrived = (): number => counter(pair.b, "rx") - already;
    for (let i = 0; i < 100 && arrived() !== sent; i += 1) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.equal(arrived(), sent);
    run("tc", "qdisc", "del", "dev", "in1", "root");
    device.close();
  });

  test("what does not fit the ring is missed, the rest is received", () => {
    const device = open();
    pair.a.run(process.execPath, "-e", udpSender("10.0.0.2", 6000, 18));
    let received = 0;
    for (let count = device.receive(0); count > 0; count = device.receive(0)) received += count;
    const { missed } = device.statistics();
    assert.ok(missed > 0);
    assert.equal(received + missed, 6000);
    // And it goes on.
    pair.a.run(process.execPath, "-e", udpSender("10.0.0.2", 100, 18));
    assert.equal(device.receive(0) + device.receive(0), 100);
    assert.equal(device.statistics().missed, missed);
    device.close();
  });

  test("one interface's flood does not shut the other out of a batch", () => {
    const device = open();
    pair.a.run(process.execPath, "-e", udpSender("10.0.0.2", 1000, 18));
    pair.b.run(process.execPath, "-e", udpSender("10.0.0.1", 1000, 18));
    const { rx } = device.batch;
    const perInterface = [0, 0];
    for (let batch = 0; batch < 10; batch += 1) {
      assert.equal(device.receive(0), 64);
      for (let i = 0; i < 64; i += 1) perInterface[rx[i * DESCRIPTOR_WORDS + D_INTERFACE]!]! += 1;
    }
    assert.deepEqual(perInterface, [320, 320]);
    device.close();
  });

  test("tagged frames and frames for others are left to the kernel, and counted", () => {
    const device = open();
    // Seven frames with the tag of VLAN 5 (IEEE 802.1Q), as no socket but a packet socket makes.
    pair.a.run(
      "python3",
      "-c",
      `import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("e0", 0))
for i in range(7):
    s.send(bytes.fromhex("${B_MAC}${A_MAC}".replace(":", "")) + b"\\x81\\x00\\x00\\x05\\x88\\xb5" + bytes(60))`,
    );
    pair.a.run("ip", "neigh", "add", "10.0.0.77", "lladdr", "02:00:00:00:00:77", "dev", "e0");
    pair.a.run(process.execPath, "-e", udpSender("10.0.0.77", 5, 18));
    pair.a.run(process.execPath, "-e", udpSender("10.0.0.2", 3, 18));
    let received = 0;
    for (let i = 0; i < 5; i += 1) received += device.receive(0);
    assert.equal(received, 3);
    assert.equal(device.statistics().skipped, 12);
    assert.equal(device.statistics().missed, 0);
    device.close();
  });

  test("one interface, both ways (one-arm)", async () => {
    const device = open(["in0"]);
    // A is answered by us: addresses change places, and the echo becomes a reply.
    const view = new DataView(device.memory);
    const ping = pair.a.start("ping", "-c", "5", "-i", "0.02", "-W", "5", "10.0.0.2");
    const seen = await pump(device, ping.done, (word) => {
      const at = device.batch.tx[word + D_AT]!;
      for (let i = 0; i < 6; i += 1) {
        const byte = view.getUint8(at + i);
        view.setUint8(at + i, view.getUint8(at + 6 + i));
        view.setUint8(at + 6 + i, byte);
      }
      const source = view.getInt32(at + 26);
      view.setInt32(at + 26, view.getInt32(at + 30));
      view.setInt32(at + 30, source);
      view.setUint8(at + 34, 0);
      const sum = view.getUint16(at + 36) + 0x0800;
      view.setUint16(at + 36, (sum & 0xffff) + (sum >>> 16));
    });
    assert.match(seen.value, /5 received/);
    assert.equal(seen.received, 5);
    device.close();
  });

  test("down: frames are refused and nothing comes; up: it goes on", async () => {
    const device = open();
    const { tx } = device.batch;
    const send = (): number => {
      const word = fillSpare(device, 0, 60, 1);
      device.transmit(1);
      return tx[word + D_RESULT]!;
    };
    const sendBig = (): number => {
      const word = fillGso(device, 0, 1000);
      device.transmit(1);
      return tx[word + D_RESULT]!;
    };
    assert.equal(send(), TX_SENT);
    assert.equal(sendBig(), TX_SENT);
    for (let round = 0; round < 3; round += 1) {
      ip("link set in1 down");
      for (let i = 0; i < 5; i += 1) assert.equal(device.receive(20), 0);
      assert.equal(send(), TX_FAILED);
      assert.equal(sendBig(), TX_FAILED);
      ip("link set in1 up");
      // Neither the first small nor the first big frame after it is lost to the old error.
      assert.equal(send(), TX_SENT);
      assert.equal(sendBig(), TX_SENT);
      const ping = pair.a.start("ping", "-c", "3", "-i", "0.02", "-W", "5", "10.0.0.2");
      const seen = await pump(device, ping.done, across(device));
      assert.match(seen.value, /3 received/);
    }
    device.close();
  });

  test("the MTU is followed", () => {
    const device = open();
    ip("link set in1 mtu 1400");
    for (let i = 0; i < 100 && device.interfaces[1]?.mtu !== 1400; i += 1) device.receive(50);
    assert.equal(device.interfaces[1]?.mtu, 1400);
    const word = fillSpare(device, 0, 1415, 1);
    device.transmit(1);
    assert.equal(device.batch.tx[word + D_RESULT], TX_TOO_BIG);
    ip("link set in1 mtu 1500");
    device.close();
  });

  test("deleted: receive says that it is gone", async () => {
    ip("link add in7 type veth peer name in8");
    ip("link set in7 up");
    const device = open(["in0", "in7"]);
    ip("link del in7");
    assert.throws(
      () => {
        for (let i = 0; i < 50; i += 1) device.receive(50);
      },
      (error: unknown) => {
        assert.ok(error instanceof DeviceError);
        assert.match(error.message, /in0, in7 is gone .*ENODEV/);
        return true;
      },
    );
    device.close();
  });

  test("what cannot be opened is one sentence with what to do", () => {
    ip("link add in7 type veth peer name in8");
    assert.throws(() => open(["in9"]), /in9.*ENODEV.*no such interface here/);
    assert.throws(() => open(["in0", "in7"]), /ENETDOWN.*it is down; run "ip link set dev in7 up"/);
    assert.throws(() => open(["lo"]), /lo.*not an Ethernet interface/);
    ip("link del in7");
    const device = open(["in1"]);
    assert.throws(() => open(["in0", "in1"]), /EADDRINUSE.*already takes its frames/);
    device.close();
    open(["in0", "in1"]).close();
  });

  test("without the privilege: one sentence, exit code 77", () => {
    const program = `
      const { openPacket } = await import(${module("packet")});
      const { createWake } = await import(${module("wake")});
      try { openPacket({ interfaces: ["in0"], wakeFd: createWake().fd }); }
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
    assert.match(text, /^PrivilegeError 77 cannot open interface in0 .*EPERM.*CAP_NET_RAW/);
  });

  test("CAP_NET_RAW alone is enough", () => {
    const program = `
      const { openPacket } = await import(${module("packet")});
      const { createWake } = await import(${module("wake")});
      openPacket({ interfaces: ["in0"], wakeFd: createWake().fd }).receive(0);
      console.log("open"); process.exit();`;
    const text = run(
      "setpriv",
      "--bounding-set=-net_admin",
      "--inh-caps=-net_admin",
      process.execPath,
      "--input-type=module",
      "-e",
      program,
    );
    assert.equal(text, "open\n");
  });

  test("another thread's wake ends a wait", { timeout: 20_000 }, async () => {
    const device = open();
    const waker = new Worker(
      `const { workerData } = require("node:worker_threads");
       setTimeout(() => require("node:fs").writeSync(workerData, new BigUint64Array([1n])), 200);`,
      { eval: true, workerData: wake.fd },
    );
    assert.equal(device.receive(60_000), 0);
    await new Promise((resolve) => waker.once("exit", resolve));
    assert.equal(device.receive(10), 0);
    writeSync(wake.fd, new BigUint64Array([3n]));
    assert.equal(device.receive(60_000), 0);
    device.close();
  });

  test("use after close is an error; closing twice is not; views have length 0", () => {
    const device = open();
    const view = new Uint8Array(device.memory);
    device.close();
    device.close();
    assert.equal(view.length, 0);
    assert.equal(device.batch.rx.length, 0);
    assert.throws(() => device.receive(0), /receive on interfaces in0, in1, which is closed/);
    assert.throws(() => device.transmit(0), /which is closed/);
    assert.throws(() => structuredClone(device), { name: "DataCloneError" });
  });

  test(`opening and closing ${rounds} times leaves no descriptor and no mapping`, async () => {
    const one = ["in0"];
    open(one).close();
    const descriptors = await settledDescriptors();
    const mappings = mappingCount();
    for (let i = 0; i < rounds; i += 1) open(one).close();
    assert.equal(await settledDescriptors(), descriptors);
    assert.ok(mappingCount() <= mappings + 20, "the collector's own mappings aside");
  });

  test("a device that nobody refers to is closed by the collector", async () => {
    const descriptors = await settledDescriptors();
    (() => {
      open().receive(0);
    })();
    assert.ok(descriptorCount() > descriptors);
    await collectUntil(() => descriptorCount() === descriptors);
    assert.equal(await settledDescriptors(), descriptors);
    open().close();
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
         const { openPacket } = await import(${module("packet")});
         const device = openPacket({ interfaces: ["in0", "in1"], wakeFd: ${wake.fd} });
         device.receive(0);
         parentPort.postMessage("open");
         parentPort.once("message", () => { ${statement} });`,
        { eval: true, execArgv: ["--input-type=module"] },
      );
      await new Promise((resolve, reject) => {
        worker.once("message", resolve);
        worker.once("error", reject);
      });
      assert.throws(() => open(), /EADDRINUSE/);
      const ended = new Promise((resolve) => worker.once("exit", resolve));
      worker.postMessage("end");
      if (ending.startsWith("is terminated")) {
        await new Promise((resolve) => setTimeout(resolve, 50));
        await worker.terminate();
      }
      await ended;
      assert.equal(await settledDescriptors(), descriptors);
      open().close();
    });
  }
}
