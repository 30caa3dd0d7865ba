import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import { assert } from "./base/assert.ts";
import { HeadgateError } from "./base/errors.ts";
import type { FromWorker, WorkerOptions } from "./control/worker-protocol.ts";
import { tuneCompiler } from "./datapath/compiler.ts";
import { C_MISSED } from "./datapath/counters.ts";
import { createDatapath } from "./datapath/datapath.ts";
import type { FrameDevice } from "./device/device.ts";
import type { NativeFrameDevice } from "./device/frame-device.ts";
import { openPacket } from "./device/packet.ts";
import { limitThread } from "./device/privileges-native.ts";
import { createRegionMapper } from "./device/region.ts";
import { placeThread } from "./device/thread.ts";
import { openTun } from "./device/tun.ts";
import { openXdp, type XdpDevice } from "./device/xdp.ts";
import { H_STOP, type RegionViews } from "./state/layout.ts";
import { attachRegion } from "./state/region.ts";

/**
 * Composition root of the data plane: a thread that owns a device, or its part of one, and works until
 * the control thread sets H_STOP.
 *
 * The loop blocks this isolate's event loop on purpose: the two threads talk through words of the
 * region's header and the eventfd that the device waits on, never by messages while frames flow.
 */

/** Longest wait for a frame: the expiry sweep and the control thread's requests go on without. */
const IDLE_WAIT_MS = 10;
const MISSED_INTERVAL_MS = 1000;

function openDevice({ device, crew }: WorkerOptions): NativeFrameDevice {
  switch (device.type) {
    case "tun":
      return openTun({ ...device, crew });
    case "packet":
      return openPacket({ ...device, crew });
    case "xdp":
      return openXdp({ ...device, crew });
  }
}

/** What control writes into the log of a device. */
function aboutDevice(device: FrameDevice): Readonly<Record<string, boolean>> {
  if (device.type !== "xdp") return {};
  const { txMetadata, zeroCopy } = device as XdpDevice;
  return { zero_copy: zeroCopy, tx_metadata: txMetadata };
}

/** Open everything, say so, and begin when control says "go": the guard and bank 1 come first. */
function start(port: MessagePort, options: WorkerOptions): void {
  const region = attachRegion(
    createRegionMapper(),
    options.statePath,
    options.size,
    options.worker,
  );
  placeThread(`headgate-w${options.worker}`, options.cpu);
  const device = openDevice(options);
  if (options.limited) limitThread([]);
  const datapath = createDatapath({ device, views: region.views });
  const { i32 } = region.views;

  const countMissed = createMissedCounter(device, region.views);

  port.once("message", () => {
    while (Atomics.load(i32, H_STOP) === 0) {
      datapath.runBatch(IDLE_WAIT_MS);
      countMissed();
    }
    device.close();
    region.close();
    port.close();
  });
  port.postMessage({
    kind: "started",
    groups: device.groups,
    interfaces: device.interfaces.map(({ name, index, mac, mtu }) => ({ name, index, mac, mtu })),
    about: aboutDevice(device),
  } satisfies FromWorker);
}

/**
 * Bring what the kernel lost before us into its counter, once a second: asking is a system call an
 * interface, and makes an object.
 */
function createMissedCounter(device: FrameDevice, views: RegionViews): () => void {
  const { f64, layout } = views;
  const counter = (layout.counters.at >> 3) + C_MISSED;
  const { tick } = device.batch;
  let lookedAt = tick[0]!;
  let missed = 0;
  return () => {
    if (((tick[0]! - lookedAt) | 0) < MISSED_INTERVAL_MS) return;
    lookedAt = tick[0]!;
    const now = device.statistics().missed;
    f64[counter] = f64[counter]! + now - missed;
    missed = now;
  };
}

tuneCompiler();
assert(parentPort !== null, "the worker runs as a thread of the gateway");
try {
  start(parentPort, workerData as WorkerOptions);
} catch (error) {
  // Operating errors (no such interface, no privilege) become the gateway's own; anything else is
  // a defect and ends the process through the "error" event.
  if (!(error instanceof HeadgateError)) throw error;
  parentPort.postMessage({
    kind: "failed",
    code: error.code,
    message: error.message,
    exitCode: error.exitCode,
  } satisfies FromWorker);
  parentPort.close();
}
