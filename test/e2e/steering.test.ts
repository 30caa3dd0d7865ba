import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { formatIpv6, type Words6 } from "../../src/base/address.ts";
import { createRandom, type Random } from "../../src/base/random.ts";
import {
  D_AT,
  D_BYTES,
  D_FROM,
  D_INTERFACE,
  DESCRIPTOR_WORDS,
  FROM_SPARE,
} from "../../src/device/device.ts";
import type { NativeFrameDevice } from "../../src/device/frame-device.ts";
import { openPacket } from "../../src/device/packet.ts";
import { openTun } from "../../src/device/tun.ts";
import { createWake } from "../../src/device/wake.ts";
import { ownerHostBits, ownerOfClient, ownerOfSnatPort, ownerWord6 } from "../../src/flow/owner.ts";
import { createSteering, type Steering } from "../../src/host/steering.ts";
import { withFragmentWord } from "../support/fragments.ts";
import {
  addressOf,
  arpPacket,
  ethernetFrame,
  icmpEcho,
  icmpError,
  ipv4Packet,
  tcpPacket,
  udpPacket,
} from "../support/frames.ts";
import {
  DESTINATION_OPTIONS,
  type Extension,
  fragmentHeader,
  icmpPacket6,
  ipv6Packet,
  tcpPacket6,
  udpPacket6,
} from "../support/frames6.ts";
import { ip, isInside, run, runInside } from "./device-world.ts";

/**
 * Goal: the kernel's program gives every frame to the worker that flow/owner.ts names.
 * Method: frames of every kind with random addresses and ports, sent over a veth to the devices of
 * several workers; each frame carries its number, and each device says which came to it.
 */

const KEY = [0x5eed5eed, -0x12345678] as const;
const VIP = "203.0.113.10";
const SNAT = "10.20.0.100";
const BACKEND = "10.20.0.11";
const OUT_MAC = "02:00:00:00:00:0a";
const IN_MAC = "02:00:00:00:00:0b";

interface Numbered {
  readonly packet: Uint8Array;
  readonly owner: number;
  readonly kind: string;
}

/** A packet of a random kind, and its owner by owner.ts. `number` is its IPv4 identification. */
function randomPacket(
  random: Random,
  number: number,
  workers: number,
  portMask: number,
  hostBits = 0,
): Numbered {
  const client = (0xc6336400 + 1 + random.below(250)) | 0;
  const [clientPort, snatPort] = [1024 + random.below(60_000), 1024 + random.below(60_000)];
  const make = random.below(2) === 0 ? tcpPacket : udpPacket;
  const ipFields = { id: number, ...(random.below(4) === 0 ? { options: [1, 1, 1, 1] } : {}) };
  const l4 = (source: string | number, sourcePort: number, to: string | number, toPort: number) =>
    make({ source, sourcePort, destination: to, destinationPort: toPort, ip: ipFields });
  const byClient = ownerOfClient(KEY[0], KEY[1], client, clientPort, portMask, workers, hostBits);
  // Fragments go by their addresses alone: as if the port were 0.
  const byAddress = ownerOfClient(KEY[0], KEY[1], client, 0, portMask, workers, hostBits);
  const fragmentOf = withFragmentWord;
  const bySnat = ownerOfSnatPort(snatPort, workers);
  const quoted = (source: string | number, quote: Uint8Array): Uint8Array =>
    ipv4Packet({
      source: BACKEND,
      destination: source,
      protocol: 1,
      payload: icmpError({ type: 3, code: 3, quote: quote.subarray(0, 32) }),
      id: number,
    });
  const other = (protocol: number, payload: ArrayLike<number>, fragmentWord = 0x4000): Uint8Array =>
    ipv4Packet({ source: client, destination: VIP, protocol, payload, fragmentWord, id: number });
  const kinds: readonly (readonly [string, () => Uint8Array, number])[] = [
    ["original", () => l4(client, clientPort, VIP, 80), byClient],
    ["nat reply", () => l4(BACKEND, 8080, client, clientPort), byClient],
    ["full-nat reply", () => l4(BACKEND, 8080, SNAT, snatPort), bySnat],
    ["error about VIP to client", () => quoted(VIP, l4(VIP, 80, client, clientPort)), byClient],
    ["error about client", () => quoted(client, l4(client, clientPort, BACKEND, 80)), byClient],
    ["error about SNAT", () => quoted(SNAT, l4(SNAT, snatPort, BACKEND, 80)), bySnat],
    ["echo", () => other(1, icmpEcho()), 0],
    ["other protocol", () => other(47, new Uint8Array(20)), 0],
    ["later fragment", () => other(17, new Uint8Array(20), 0x00b9), byAddress],
    ["first fragment", () => fragmentOf(l4(client, clientPort, VIP, 80), 0x2000), byAddress],
    ["first fragment of a reply", () => fragmentOf(l4(BACKEND, 80, client, 9), 0x2000), byAddress],
    ["fragment to SNAT", () => fragmentOf(l4(BACKEND, 8080, SNAT, snatPort), 0x2000), 0],
    [
      "error about a first fragment",
      () => quoted(VIP, fragmentOf(l4(VIP, 80, client, clientPort), 0x2000)),
      byClient,
    ],
    ["later fragment, other protocol", () => other(47, new Uint8Array(20), 0x00b9), 0],
  ];
  const [kind, build, owner] = kinds[random.below(kinds.length)]!;
  return { kind, packet: build(), owner };
}

const VIP6 = "2001:db8:ff::10";
const SNAT6 = "2001:db8:2::100";
const BACKEND6 = "2001:db8:2::11";
/** VIPs that are prefixes. */
const PREFIX6 = { address: "2001:db8:ff:1::", length: 64, inside: "2001:db8:ff:1:2:3:4:5" };
const PREFIX4 = { address: "192.0.2.0", length: 24, inside: "192.0.2.200" };

/** The same of IPv6, and of prefixes; `number` is its flow label (IPv4: identification). */
function randomPacket6(
  random: Random,
  number: number,
  workers: number,
  portMask: number,
  hostBits = 0,
): Numbered {
  const words: Words6 = [0x20010db8, random.next32(), random.next32(), random.next32()];
  const client = formatIpv6(words);
  const [clientPort, snatPort] = [1024 + random.below(60_000), 1024 + random.below(60_000)];
  const make = random.below(2) === 0 ? tcpPacket6 : udpPacket6;
  // Up to eight extension headers are walked.
  const extensions: Extension[] = Array.from({ length: random.below(5) }, () =>
    random.below(2) === 0
      ? { type: DESTINATION_OPTIONS }
      : { type: DESTINATION_OPTIONS, body: [1, 12, ...new Array<number>(12).fill(0)] },
  );
  // An atomic fragment is whole; others go by their addresses alone, as if the port were 0.
  if (random.below(3) === 0) extensions.push(fragmentHeader(0, false));
  const ipFields = { flowLabel: number, extensions };
  const l4 = (source: string, sourcePort: number, to: string, toPort: number): Uint8Array =>
    make({ source, sourcePort, destination: to, destinationPort: toPort, ip: ipFields });
  const folded = ownerWord6(...words, hostBits);
  const byPort = (word: number, port: number): number =>
    ownerOfClient(KEY[0], KEY[1], word, port, portMask, workers, hostBits);
  const byClient = byPort(folded, clientPort);
  const byAddress = byPort(folded, 0);
  const bySnat = ownerOfSnatPort(snatPort, workers);
  const quoted = (destination: string, quote: Uint8Array): Uint8Array =>
    icmpPacket6({ source: BACKEND6, destination, type: 1, data: quote, ip: ipFields });
  const other = (protocol: number, more: readonly Extension[] = []): Uint8Array =>
    ipv6Packet({
      source: client,
      destination: VIP6,
      protocol,
      payload: new Uint8Array(20),
      extensions: more,
      flowLabel: number,
    });
  const four = (0xc6336400 + 1 + random.below(250)) | 0;
  const byFour = byPort(four, clientPort);
  const toPrefix4 = (): Uint8Array =>
    tcpPacket({
      source: four,
      sourcePort: clientPort,
      destination: PREFIX4.inside,
      destinationPort: 80,
      ip: { id: number },
    });
  const kinds: readonly (readonly [string, () => Uint8Array, number])[] = [
    ["original", () => l4(client, clientPort, VIP6, 80), byClient],
    ["to a prefix", () => l4(client, clientPort, PREFIX6.inside, 80), byClient],
    ["to a prefix of IPv4", toPrefix4, byFour],
    ["nat reply", () => l4(BACKEND6, 8080, client, clientPort), byClient],
    ["full-nat reply", () => l4(BACKEND6, 8080, SNAT6, snatPort), bySnat],
    ["error about VIP to client", () => quoted(VIP6, l4(VIP6, 80, client, clientPort)), byClient],
    ["error about client", () => quoted(client, l4(client, clientPort, BACKEND6, 80)), byClient],
    ["error about SNAT", () => quoted(SNAT6, l4(SNAT6, snatPort, BACKEND6, 80)), bySnat],
    ["another protocol", () => other(47), 0],
    ["later fragment", () => other(17, [fragmentHeader(8, false)]), byAddress],
    ["first fragment", () => other(6, [fragmentHeader(0, true)]), byAddress],
    ["later fragment of another protocol", () => other(47, [fragmentHeader(8, false)]), 0],
    [
      "nine extension headers",
      () => other(17, new Array<Extension>(9).fill({ type: DESTINATION_OPTIONS })),
      0,
    ],
  ];
  const [kind, build, owner] = kinds[random.below(kinds.length)]!;
  return { kind, packet: build(), owner };
}

function insideTests(): void {
  run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1");
  run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0");
  run("sysctl", "-qw", "net.ipv4.ip_forward=1");
  ip(`link add out0 address ${OUT_MAC} type veth peer name in0 address ${IN_MAC}`);
  ip("link set out0 up");
  ip("link set in0 up");

  const opened: { close(): void }[] = [];
  afterEach(() => {
    for (const each of opened.splice(0).reverse()) each.close();
  });
  const keep = <T extends { close(): void }>(each: T): T => {
    opened.push(each);
    return each;
  };

  function steeringOf(workers: number, portMask: number, hostBits = 0): Steering {
    const steering = keep(createSteering({ key: [...KEY], portMask, hostBits, workers }));
    const prefix = ({ address, length }: typeof PREFIX6) => ({
      address: addressOf(address),
      prefixLength: length,
    });
    steering.update(
      [{ address: addressOf(VIP) }, { address: addressOf(VIP6) }, prefix(PREFIX6), prefix(PREFIX4)],
      [addressOf(SNAT), addressOf(SNAT6)],
    );
    return steering;
  }

  function openCrew(type: "packet" | "tun", workers: number, steering: Steering) {
    const wakes = Array.from({ length: workers }, () => keep(createWake()));
    const wakeFds = wakes.map(({ fd }) => fd);
    const devices: NativeFrameDevice[] = [];
    for (let worker = 0; worker < workers; worker++) {
      const { programFd } = steering;
      const crew = { worker, programFd, groups: devices[0]?.groups ?? [], wakeFds };
      const wakeFd = wakeFds[worker]!;
      devices.push(
        keep(
          type === "packet"
            ? openPacket({ interfaces: ["in0"], wakeFd, crew })
            : openTun({ name: "hg0", wakeFd, crew }),
        ),
      );
    }
    return devices;
  }

  function openSender(): NativeFrameDevice {
    return keep(openPacket({ interfaces: ["out0"], wakeFd: keep(createWake()).fd }));
  }

  /** Send frames out of out0, up to 64 at once. */
  function send(sender: NativeFrameDevice, frames: readonly Uint8Array[]): void {
    const { tx } = sender.batch;
    frames.forEach((frame, index) => {
      const at = sender.spareAt + index * sender.spareBytes + 2;
      new Uint8Array(sender.memory, at, frame.length).set(frame);
      const word = index * DESCRIPTOR_WORDS;
      tx.fill(0, word, word + DESCRIPTOR_WORDS);
      tx[word + D_AT] = at;
      tx[word + D_BYTES] = frame.length;
      tx[word + D_INTERFACE] = 0;
      tx[word + D_FROM] = FROM_SPARE;
    });
    assert.equal(sender.transmit(frames.length), frames.length);
  }

  /** Numbers of the IP packets that have come to a device; -1 for any other frame. */
  function receiveAll(device: NativeFrameDevice, link: number, timeoutMs: number): number[] {
    const numbers: number[] = [];
    const view = new DataView(device.memory);
    for (let count = device.receive(timeoutMs); count > 0; count = device.receive(0)) {
      for (let index = 0; index < count; index++) {
        const at = device.batch.rx[index * DESCRIPTOR_WORDS + D_AT]!;
        const type = link === 0 ? 0 : view.getUint16(at + 12);
        const isIp = link === 0 || type === 0x0800 || type === 0x86dd;
        const isSix = view.getUint8(at + link) >>> 4 === 6;
        const number = isSix ? view.getUint32(at + link) & 0xfffff : view.getUint16(at + link + 4);
        numbers.push(isIp ? number : -1);
      }
    }
    return numbers;
  }

  function checkSteering(
    devices: readonly NativeFrameDevice[],
    link: number,
    portMask: number,
    rounds: number,
    make = randomPacket,
    hostBits = 0,
  ): void {
    const sender = openSender();
    const random = createRandom(1 + devices.length);
    const workers = devices.length;
    const shares = new Array<number>(workers).fill(0);
    for (let round = 0; round < rounds; round++) {
      const sent = Array.from({ length: 64 }, (_, index) =>
        make(random, round * 64 + index + 1, workers, portMask, hostBits),
      );
      send(
        sender,
        sent.map(({ packet }) =>
          ethernetFrame(packet, {
            source: OUT_MAC,
            destination: IN_MAC,
            type: packet[0]! >>> 4 === 6 ? 0x86dd : 0x0800,
          }),
        ),
      );
      const came = new Map<number, number>();
      devices.forEach((device, worker) => {
        for (const number of receiveAll(device, link, 0)) came.set(number, worker);
      });
      // A queue that was empty a moment ago may have the last of them.
      for (let tries = 0; came.size < sent.length && tries < 20; tries++) {
        devices.forEach((device, worker) => {
          for (const number of receiveAll(device, link, 5)) came.set(number, worker);
        });
      }
      sent.forEach(({ kind, owner }, index) => {
        const number = round * 64 + index + 1;
        assert.equal(came.get(number), owner, `${kind}, frame ${number} of ${workers} workers`);
        shares[owner]!++;
      });
    }
    // Of prefixes there are few.
    const least = hostBits === 0 ? (rounds * 64) / workers / 6 : 0;
    for (const share of shares) assert.ok(share > least, `${shares}`);
    sender.close();
  }

  for (const workers of [2, 3, 16]) {
    for (const portMask of [0xffff, 0]) {
      const by = portMask === 0 ? "address" : "address and port";
      test(`packet: ${workers} workers by ${by}: every frame comes to its owner`, () => {
        const devices = openCrew("packet", workers, steeringOf(workers, portMask));
        checkSteering(devices, 14, portMask, 30);
        checkSteering(devices, 14, portMask, 8, randomPacket6);
      });
    }
  }

  test("packet: clients that count by their prefix come to one worker, whatever their last bits", () => {
    for (const hostBits of [ownerHostBits(28, 48), ownerHostBits(32, 64), ownerHostBits(29, 100)]) {
      const devices = openCrew("packet", 3, steeringOf(3, 0, hostBits));
      checkSteering(devices, 14, 0, 6, randomPacket, hostBits);
      checkSteering(devices, 14, 0, 6, randomPacket6, hostBits);
      for (const device of devices) device.close();
    }
  });

  test("packet: the order of the workers outlasts the interface going down and up", () => {
    const devices = openCrew("packet", 3, steeringOf(3, 0xffff));
    checkSteering(devices, 14, 0xffff, 5);
    for (let time = 0; time < 3; time++) {
      ip("link set in0 down");
      // Tells each socket once that its interface was down.
      for (const device of devices) receiveAll(device, 14, 1);
      ip("link set in0 up");
      checkSteering(devices, 14, 0xffff, 5);
    }
  });

  test("packet: what is not IPv4 is worker 0's, and what a worker sends comes to nobody", () => {
    const devices = openCrew("packet", 2, steeringOf(2, 0xffff));
    const sender = openSender();
    const arp = arpPacket({ senderAddress: "10.0.0.1", targetAddress: VIP });
    const frame = ethernetFrame(arp, { source: OUT_MAC, destination: IN_MAC, type: 0x0806 });
    send(sender, [frame, frame, frame]);
    assert.deepEqual(receiveAll(devices[0]!, 14, 100), [-1, -1, -1]);
    assert.deepEqual(receiveAll(devices[1]!, 14, 0), []);
    send(devices[1]!, [ethernetFrame(arp, { destination: OUT_MAC, type: 0x0806 })]);
    assert.deepEqual(receiveAll(sender, 14, 100), [-1]);
    for (const device of devices) assert.deepEqual(receiveAll(device, 14, 0), []);
  });

  test("packet: a second gateway is refused, whatever its number of workers", () => {
    openCrew("packet", 2, steeringOf(2, 0xffff));
    assert.throws(
      () => openPacket({ interfaces: ["in0"], wakeFd: keep(createWake()).fd }),
      /already takes its frames/,
    );
  });

  test("a transmit wakes the workers of its mask, and only those", () => {
    const devices = openCrew("packet", 3, steeringOf(3, 0xffff));
    devices[0]!.transmit(0, 0b100);
    const waited = (device: NativeFrameDevice, timeoutMs: number): number => {
      const from = performance.now();
      assert.equal(device.receive(timeoutMs), 0);
      return performance.now() - from;
    };
    // Woken: it comes back long before its time; not woken: after all of it.
    assert.ok(waited(devices[2]!, 10_000) < 5000);
    assert.ok(waited(devices[1]!, 20) >= 15);
  });

  for (const workers of [2, 5]) {
    test(`tun: ${workers} queues: every packet comes to its owner`, () => {
      const devices = openCrew("tun", workers, steeringOf(workers, 0xffff));
      ip("addr add 10.99.0.1/24 dev hg0");
      ip("route add default dev hg0");
      checkSteering(devices, 0, 0xffff, 20);
      // The kernel forwards IPv6 where its interfaces have it.
      const names = ["all", "default", "in0", "hg0"];
      run("sysctl", "-qw", ...names.map((name) => `net.ipv6.conf.${name}.disable_ipv6=0`));
      run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1");
      ip("-6 route add default dev hg0");
      checkSteering(devices, 0, 0xffff, 8, randomPacket6);
      run("sysctl", "-qw", ...names.map((name) => `net.ipv6.conf.${name}.disable_ipv6=1`));
      ip("link set hg0 down");
      ip("link set hg0 up");
      ip("route add default dev hg0");
      checkSteering(devices, 0, 0xffff, 10);
    });
  }
}

if (isInside) insideTests();
else runInside(import.meta.filename);
