import assert from "node:assert/strict";
import { test } from "node:test";
import {
  generate,
  installSinks,
  macOf,
  settledArrivals,
  TRAFFIC_PORT,
  TRAFFIC_VIP_PORT,
  trafficProgram,
} from "../../bench/traffic.ts";
import {
  createLab,
  LAB_BACKEND_NAMES,
  LAB_VIP,
  type LabDevice,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";

/**
 * The bench's instruments count right, at a rate at which nothing may be lost: what the generator
 * says it sent, what the kernel's counter saw arrive and what a receiver that looks at every frame
 * saw are the same.
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

for (const device of ["nftables", "packet", "tun"] as const satisfies LabDevice[]) {
  test(`${FRAMES} frames through ${device}: generator, counter and receiver agree`, {
    skip: SKIP_UNLESS_ROOT,
    timeout: 60_000,
  }, async (t) => {
    const lab = createLab({ device });
    t.after(() => lab.stop());
    installSinks(lab);
    const receivers = LAB_BACKEND_NAMES.map((node) =>
      lab.spawn(node, [trafficProgram(), "receive", "eth0", String(TRAFFIC_PORT)]),
    );
    await Promise.all(receivers.map((one) => one.waitLine(/^ready$/)));
    await lab.balance({
      mode: "nat",
      services: [
        { name: "pps", protocol: "udp", port: TRAFFIC_VIP_PORT, backendPort: TRAFFIC_PORT },
      ],
    });
    const mac = macOf(lab, "gateway", "gw-client");
    const targets = [{ mac, address: LAB_VIP, port: TRAFFIC_VIP_PORT }];
    assert.deepEqual(await settledArrivals(lab), [0, 0, 0]);

    const sent = await generate(lab, {
      targets,
      flows: FLOWS,
      rate: 2000,
      seconds: 20,
      count: FRAMES,
    });
    assert.equal(sent.offered, FRAMES);
    assert.equal(sent.refused, 0);
    const arrived = await settledArrivals(lab);
    assert.deepEqual(arrived, [FRAMES / 3, FRAMES / 3, FRAMES / 3]);

    const seen = await Promise.all(
      receivers.map(async (one): Promise<Received> => {
        await one.stop("SIGTERM");
        return JSON.parse(one.lines.at(-1)!) as Received;
      }),
    );
    for (const one of seen) {
      assert.deepEqual(one, {
        frames: FRAMES / 3,
        distinct: FRAMES / 3,
        flows: FLOWS / 3,
        badChecksums: 0,
        otherHost: 0,
      });
    }
  });
}

test("frames that nobody takes are not counted as arrived", {
  skip: SKIP_UNLESS_ROOT,
  timeout: 60_000,
}, async (t) => {
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  installSinks(lab);
  const mac = macOf(lab, "gateway", "gw-client");
  const targets = [{ mac, address: LAB_VIP, port: TRAFFIC_VIP_PORT }];
  const sent = await generate(lab, { targets, flows: 7, rate: 5000, seconds: 20, count: 500 });
  assert.equal(sent.offered, 500);
  assert.deepEqual(await settledArrivals(lab), [0, 0, 0]);
});
