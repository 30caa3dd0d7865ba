import { MALFORMED } from "../support/malformed.ts";
import {
  createMemoryGateway,
  GATEWAY_MACS,
  type MemoryGateway,
} from "../support/memory-gateway.ts";
import { wireFaults } from "../support/wire-check.ts";
import { FAMILIES, type Seed } from "./corpus.ts";
import { fuzzDatapath, type Tally } from "./datapath.ts";
import { parseRun, replay, runText, shrink } from "./runs.ts";
import type { ByteTarget, FuzzTarget } from "./target.ts";
import { createWorldYaml, WORLDS, type World } from "./worlds.ts";

/** The whole data path: one frame after the other into one gateway, and runs (datapath.ts). */

let frames: readonly Seed[] | null = null;

/** One frame a batch; the gateway lives as long as the process. */
function frameTarget(name: string, link: 0 | 14): ByteTarget {
  const world = WORLDS.find((one) => one.link === link)!;
  let gateway: MemoryGateway | null = null;
  let now = 1;
  return {
    name,
    smokeInputs: 5_000,
    seed(random) {
      frames ??= FAMILIES.flatMap(([, build]) => build());
      const frame =
        random.below(8) === 0
          ? MALFORMED[random.below(MALFORMED.length)]!.frame
          : frames[random.below(frames.length)]!.frame;
      const own = frame.slice();
      own.set(
        GATEWAY_MACS[0]!
          .split(":")
          .map((byte) => Number.parseInt(byte, 16))
          .slice(0, own.length),
      );
      return link === 0 ? own.slice(14) : own;
    },
    run(bytes) {
      gateway ??= createMemoryGateway({
        yaml: createWorldYaml(world),
        linkHeaderBytes: link,
        size: { flowCapacity: 256, services: 64, backends: 128, hashSlots: 32_768 },
      });
      const { device, datapath } = gateway;
      device.setTick((now += 7));
      device.sent.length = 0;
      device.inject(bytes.length === 0 ? Uint8Array.of(0) : bytes.subarray(0, 2000), 0);
      datapath.runBatch(0);
      gateway.checkLaw();
      // What was right before is right after; what was wrong is nobody's promise.
      const wasRight = wireFaults(bytes, { link }).length === 0;
      for (const sent of device.sent) {
        if (sent.bytes.length > 1500 + link && link !== 0) {
          throw new Error(`${sent.bytes.length} bytes were sent`);
        }
        const [fault] = wireFaults(sent.bytes, { link });
        if (wasRight && fault !== undefined) throw new Error(`sent with a fault: ${fault}`);
      }
    },
  };
}

export const ethernetTarget = frameTarget("frame-ethernet", 14);
export const tunTarget = frameTarget("frame-tun", 0);

/** `smokeInputs` is 0: test/fuzz/datapath.test.ts has a budget of its own for these. */
export function datapathTarget(world: World): FuzzTarget {
  return {
    name: `datapath-${world.name}`,
    smokeInputs: 0,
    fuzz(seed, inputs, untilMs = Number.POSITIVE_INFINITY) {
      const tally: Tally = { frames: 0, sent: 0, batches: 0, counters: {} };
      const failure = fuzzDatapath(world, seed, inputs, tally, untilMs);
      if (failure === null) return null;
      const { error, batches } = shrink(failure);
      return { error, input: tally.frames, text: runText(world, batches), extension: "run" };
    },
    replay(text) {
      const { world: own, batches } = parseRun(text);
      const error = replay(own, batches);
      if (error !== null) throw error;
    },
  };
}
