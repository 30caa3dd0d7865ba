import { type Log, reasonOf } from "../base/log.ts";
import { openTunnel, type TunnelDevice } from "../device/tunnel.ts";
import { type DecapHost, prepareDecapHost } from "../host/decap-host.ts";
import {
  createDecapsulator,
  KIND_GUE_4,
  KIND_GUE_6,
  KIND_IP4_IN_4,
  KIND_IP4_IN_6,
  KIND_IP6_IN_4,
  KIND_IP6_IN_6,
  T_BYTES,
  T_RESULT,
  TUNNEL_WORDS,
} from "./decapsulate.ts";
import type { DecapDefinition } from "./definition.ts";
import { DELIVERED, DEVICE_REFUSED, OUTCOMES } from "./reasons.ts";

/**
 * `headgate decap`: batches from the tunnel sockets to the TUN device, on the main thread. Between two
 * batches the event loop has its turn, so that signals are heard; while nothing comes the thread sleeps
 * in the kernel, and a signal wakes it.
 */

/** Longest wait for a packet. */
const WAIT_MS = 100;
/** Batches without a turn of the event loop. */
const BATCHES = 16;

const IPIP = [KIND_IP4_IN_4, KIND_IP6_IN_4, KIND_IP4_IN_6, KIND_IP6_IN_6] as const;
const GUE = [KIND_GUE_4, KIND_GUE_6] as const;

/** A decapsulator that runs. */
export interface Decapsulator {
  /** Packets by outcome, those of none left out; `missed`: lost before us for want of room. */
  counters(): Readonly<Record<string, number>>;
  /** End after the batch at hand; fulfilled when everything is given back. */
  stop(): void;
  /** Fulfilled with the exit code. */
  readonly ended: Promise<number>;
}

/**
 * Start: sockets, device, addresses, settings; then packets are taken.
 *
 * @throws HeadgateError - nothing is left behind then
 */
export async function startDecapsulator(
  definition: DecapDefinition,
  log: Log,
): Promise<Decapsulator> {
  const { name, mtu, vips, accept, protocols, gue } = definition;
  const device = openTunnel({
    name,
    mtu,
    kinds: [...(protocols.includes("ipip") ? IPIP : []), ...(protocols.includes("gue") ? GUE : [])],
    port: gue.port,
    zeroChecksum: gue.zeroChecksum,
  });
  let host: DecapHost;
  try {
    host = await prepareDecapHost({ device: name, vips, hideArp: definition.hideArp, log });
  } catch (error) {
    device.close();
    throw error;
  }
  const counts = new Float64Array(OUTCOMES.length);
  const take = createDecapsulator(device.memory, device.words, { vips, accept });
  const runBatch = (waitMs: number): number => moveBatch(device, take, counts, waitMs);
  const counters = (): Readonly<Record<string, number>> => {
    const entries = OUTCOMES.map((outcome, index): [string, number] => [outcome, counts[index]!]);
    entries.push(["missed", device.missed()]);
    const shown = entries.filter(([outcome, count]) => count > 0 || outcome === "delivered");
    return Object.fromEntries(shown);
  };
  const { promise, stop } = loop(runBatch);
  const ended = promise.then(
    () => {
      const last = counters();
      host.close();
      device.close();
      log.info("stopped", last);
      return 0;
    },
    (error: unknown) => {
      host.close();
      device.close();
      log.error("decap_failed", { reason: reasonOf(error) });
      return 1;
    },
  );
  log.info("started", {
    device: name,
    protocols,
    gue_port: protocols.includes("gue") ? gue.port : null,
    vips: vips.length,
    accept: accept.map(({ text }) => text),
    mtu,
  });
  if (accept.length === 0) {
    log.warn("accepts_all_sources", {
      reason:
        "decap.accept is empty: whoever reaches this host can send to the VIPs past the gateway",
    });
  }
  return { counters, stop, ended };
}

/** @returns packets that came */
function moveBatch(
  device: TunnelDevice,
  take: (packet: number) => number,
  counts: Float64Array,
  waitMs: number,
): number {
  const count = device.receive(waitMs);
  if (count === 0) return 0;
  const { words } = device;
  for (let packet = 0; packet < count; packet++) {
    const outcome = take(packet);
    if (outcome !== DELIVERED) counts[outcome] = counts[outcome]! + 1;
  }
  const delivered = device.deliver(count);
  counts[DELIVERED] = counts[DELIVERED]! + delivered;
  for (let row = 0; row < count * TUNNEL_WORDS; row += TUNNEL_WORDS) {
    if (words[row + T_BYTES] !== 0 && words[row + T_RESULT] !== 0) {
      counts[DEVICE_REFUSED] = counts[DEVICE_REFUSED]! + 1;
    }
  }
  return count;
}

function loop(runBatch: (waitMs: number) => number): { promise: Promise<void>; stop: () => void } {
  let stopping = false;
  const promise = new Promise<void>((resolve, reject) => {
    const turn = (): void => {
      try {
        for (let batch = 0; batch < BATCHES && !stopping; batch++) {
          if (runBatch(batch === 0 ? WAIT_MS : 0) === 0) break;
        }
      } catch (error) {
        reject(error);
        return;
      }
      if (stopping) resolve();
      else setImmediate(turn);
    };
    setImmediate(turn);
  });
  return {
    promise,
    stop: () => {
      stopping = true;
    },
  };
}
