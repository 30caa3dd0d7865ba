import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import type { DropList, Status } from "../../src/base/admin-types.ts";
import { createRandom } from "../../src/base/random.ts";
import { cutPacket } from "../support/fragments.ts";
import { udpDatagram } from "../support/frames.ts";
import {
  createLab,
  LAB_BACKEND_NAMES,
  LAB_CLIENT,
  LAB_VIP,
  type Lab,
  labProgram,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import { startUdpEcho, udpProbe } from "../support/servers.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Goal: datagrams that the sender's kernel cuts at its MTU go through the VIP and back, and so do
 * fragments in any order.
 * Method: an echo server on each backend. Datagrams of up to 60,000 bytes from ordinary sockets; then
 * fragments by a raw socket, reversed, shuffled, and interleaved. The client's kernel puts the answers
 * together and verifies their checksums; its socket compares them.
 */

const ECHO_PORT = 7777;
const ECHO = { name: "echo", protocol: "udp", port: 7000, backendPort: ECHO_PORT } as const;
const ECHO6 = { ...ECHO, name: "echo6", family: 6 } as const;
const DATAGRAMS = 30;

/** Receives what comes to a port, and prints the data as hex, one line each. */
const LISTENER = `
const socket = require("node:dgram").createSocket({ type: "udp4", recvBufferSize: 8 << 20 });
socket.on("message", (data, from) => console.log(from.address + ":" + from.port + " " + data.toString("hex")));
socket.bind(4000, "${LAB_CLIENT}", () => console.log("listening"));
`;

async function sendRaw(lab: Lab, packets: readonly Uint8Array[]): Promise<void> {
  const sender = path.join(labProgram(""), "..", "test", "support", "odd-sender-main.js");
  // Arguments have an end: 128 KiB of hex in one go.
  for (let at = 0; at < packets.length; at += 24) {
    const hex = packets.slice(at, at + 24).map((packet) => Buffer.from(packet).toString("hex"));
    await lab.exec("client", [process.execPath, sender, LAB_VIP, ...hex]);
  }
}

const CASES = [
  ["packet", "full-nat", 2],
  ["xdp", "nat", 1],
  ["tun", "nat", 2],
] as const;

for (const [device, mode, workers] of CASES) {
  test(`fragments, ${device} ${mode}, ${workers} workers`, {
    skip: SKIP_UNLESS_ROOT,
  }, async (t) => {
    const lab = createLab({ device });
    t.after(() => lab.stop());
    await Promise.all(LAB_BACKEND_NAMES.map((node) => startUdpEcho(lab, node, ECHO_PORT)));
    const gateway = await lab.startGateway(lab.config({ mode, workers, services: [ECHO, ECHO6] }));

    // Neighbours first: while they are resolved a kernel keeps 208 KiB for each, and drops the rest.
    for (const family of [4, 6] as const) {
      await udpProbe(lab, { port: ECHO.port, count: 12, sockets: 6, family, sizes: [100] });
    }
    const report = await udpProbe(lab, {
      port: ECHO.port,
      count: 60,
      sockets: 6,
      sizes: [8192, 1473, 60_000, 3000, 100],
    });
    assert.deepEqual(report, { sent: 60, equal: 60, different: 0, missing: 0 });
    const six = {
      port: ECHO6.port,
      count: 24,
      sockets: 6,
      family: 6,
      sizes: [8192, 1453, 60_000],
    } as const;
    assert.deepEqual(await udpProbe(lab, six), { sent: 24, equal: 24, different: 0, missing: 0 });

    const seed = 0x5eed_0300;
    t.diagnostic(`seed ${seed}`);
    const random = createRandom(seed);
    const listener = lab.spawn("client", [process.execPath, "-e", LISTENER]);
    await listener.waitLine(/^listening/);
    const datas = Array.from({ length: DATAGRAMS }, (_, index) =>
      Uint8Array.from({ length: 1500 + random.below(3000) }, (_, at) => (at * 7 + index) & 0xff),
    );
    const ends = { source: LAB_CLIENT, destination: LAB_VIP };
    const cut = datas.map((data, index) =>
      cutPacket(udpDatagram({ ...ends, sourcePort: 4000, destinationPort: ECHO.port, data }), {
        ...ends,
        payload: 8 * (60 + random.below(120)),
        protocol: 17,
        id: 100 + index,
      }),
    );
    // In reverse one after the other; then in pairs, both in reverse, with each other.
    const half = DATAGRAMS / 2;
    const packets = cut.slice(0, half).flatMap((list) => list.toReversed());
    for (let index = half; index + 1 < DATAGRAMS; index += 2) {
      const [one, other] = [cut[index]!.toReversed(), cut[index + 1]!.toReversed()];
      while (one.length + other.length > 0)
        packets.push(...one.splice(0, 1), ...other.splice(0, 1));
    }
    packets.push(...cut.at(-1)!);
    await sendRaw(lab, packets);
    const heard = (): string[] => listener.lines.filter((line) => line !== "listening");
    await waitFor("the answers", () => heard().length >= DATAGRAMS).catch(() => undefined);
    const wanted = datas.map(
      (data) => `${LAB_VIP}:${ECHO.port} ${Buffer.from(data).toString("hex")}`,
    );
    assert.equal(heard().length, DATAGRAMS);
    assert.deepEqual(heard().toSorted(), wanted.toSorted());
    assert.deepEqual(lab.checksumErrors(), {});

    const { reasons } = JSON.parse(
      (await gateway.cli(["get", "drops", "-o", "json"])).stdout,
    ) as DropList;
    const drops = reasons.filter(
      ({ reason, count }) => count > 0 && reason !== "ipv6_not_supported",
    );
    assert.deepEqual(drops, []);
    const { frames } = JSON.parse((await gateway.cli(["status", "-o", "json"])).stdout) as Status;
    assert.equal(
      frames.received,
      frames.forwarded + frames.replied + frames.passed + frames.consumed + frames.dropped,
    );
  });
}
