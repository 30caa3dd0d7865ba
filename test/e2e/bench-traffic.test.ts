import assert from "node:assert/strict";
import { test } from "node:test";
import {
  BACKEND_SIDE,
  directBackends,
  forwardProgram,
  generate,
  macOf,
  startSink,
  TRAFFIC_PORT,
  TRAFFIC_VIP_PORT,
  type TrafficTarget,
  trafficProgram,
} from "../../bench/traffic.ts";
import {
  createLab,
  LAB_BACKENDS,
  LAB_VIP,
  type Lab,
  type LabDevice,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";

/**
 * The bench's instruments count right, at a rate at which nothing may be lost: what the generator
 * says it sent, what the sink counted and what a receiver that looks at every frame saw are the same.
 */

const FRAMES = 3000;
const FLOWS = 90;

interface Received {
  readonly frames: number;
  readonly distinct: number;
  readonly flows: number;
  readonly badChecksums: number;
  readonly otherHost: number;
}

/** Sends FRAMES through what lies between, and compares the three. */
async function checkInstruments(
  lab: Lab,
  targets: readonly TrafficTarget[],
  bytes: number,
): Promise<void> {
  const { node, interface: name } = BACKEND_SIDE;
  const receiver = lab.spawn(node, [trafficProgram(), "receive", name, String(TRAFFIC_PORT)]);
  await receiver.waitLine(/^ready$/);
  const sink = await startSink(lab, "tc");
  const load = { targets, flows: FLOWS, rate: 2000, burst: 4, seconds: 20, count: FRAMES, bytes };
  const sent = await generate(lab, load);
  assert.equal(sent.offered, FRAMES);
  const arrived = await sink.settled();
  assert.equal(arrived.frames, FRAMES);
  assert.equal(arrived.timed, FRAMES);
  assert.ok(arrived.p50 > 0 && arrived.p50 <= arrived.p99 && arrived.p99 <= arrived.max);
  sink.forget();
  const forgotten = await sink.read();
  assert.equal(forgotten.frames, FRAMES);
  assert.equal(forgotten.timed, 0);
  await receiver.stop("SIGTERM");
  assert.deepEqual(JSON.parse(receiver.lines.at(-1)!) as Received, {
    frames: FRAMES,
    distinct: FRAMES,
    flows: FLOWS,
    badChecksums: 0,
    otherHost: 0,
  });
}

for (const device of ["nftables", "packet", "tun", "xdp"] as const satisfies LabDevice[]) {
  test(`${FRAMES} frames through ${device}: generator, sink and receiver agree`, {
    skip: SKIP_UNLESS_ROOT,
    timeout: 60_000,
  }, async (t) => {
    const lab = createLab({ device });
    t.after(() => lab.stop());
    await directBackends(lab);
    await lab.balance({
      mode: "nat",
      services: [
        { name: "pps", protocol: "udp", port: TRAFFIC_VIP_PORT, backendPort: TRAFFIC_PORT },
      ],
    });
    const mac = macOf(lab, "gateway", "gw-client");
    const bytes = device === "packet" ? 1514 : 60;
    await checkInstruments(lab, [{ mac, address: LAB_VIP, port: TRAFFIC_VIP_PORT }], bytes);
  });
}

test("the C forwarder over AF_XDP passes every frame on", {
  skip: SKIP_UNLESS_ROOT,
  timeout: 60_000,
}, async (t) => {
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  await directBackends(lab);
  const mac = macOf(lab, BACKEND_SIDE.node, BACKEND_SIDE.interface);
  const forwarder = lab.spawn("gateway", [forwardProgram(), "gw-client", "gw-backend", "1", "60"]);
  await forwarder.waitLine(/^ready$/);
  await checkInstruments(lab, [{ mac, address: LAB_BACKENDS.b1, port: TRAFFIC_PORT }], 60);
  await forwarder.stop("SIGTERM");
  const { received, sent } = JSON.parse(forwarder.lines.at(-1)!);
  assert.equal(received, sent);
  assert.ok(received >= FRAMES);
});

test("frames that nobody takes are not counted, and XDP counts those that it drops", {
  skip: SKIP_UNLESS_ROOT,
  timeout: 60_000,
}, async (t) => {
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  await directBackends(lab);
  const behind = await startSink(lab, "tc");
  const before = await startSink(lab, "xdp", "gateway", "gw-client");
  const mac = macOf(lab, "gateway", "gw-client");
  const load = { flows: 7, rate: 5000, seconds: 20, count: 500 };
  const target = { mac, address: LAB_BACKENDS.b1 };
  await generate(lab, { ...load, targets: [{ ...target, port: TRAFFIC_VIP_PORT }] });
  assert.equal((await before.settled()).frames, 0);
  await generate(lab, { ...load, targets: [{ ...target, port: TRAFFIC_PORT }] });
  assert.equal((await before.settled()).frames, 500);
  assert.equal((await behind.settled()).frames, 0);
});
