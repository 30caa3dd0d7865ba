import type { Log } from "../base/log.ts";
import { type RegionViews, W_PARTIAL_CHECKSUMS } from "../state/layout.ts";

/**
 * Says once an interface that the frames of its peer have partial checksums: AF_XDP on veth. The
 * gateway has them completed, but without them there is nothing to complete.
 *
 * @param interfaces - names, in the device's order
 * @returns looks for news; call it every few seconds
 */
export function createPartialChecksumWarner(
  views: RegionViews,
  interfaces: readonly string[],
  log: Log,
): () => void {
  // What the process before has seen was its own matter.
  const words = views.layout.shards.map((shard) => shard.workerWord + W_PARTIAL_CHECKSUMS);
  for (const word of words) Atomics.store(views.i32, word, 0);
  let told = 0;
  return () => {
    const seen = words.reduce((bits, word) => bits | Atomics.load(views.i32, word), 0);
    const fresh = seen & ~told;
    told |= fresh;
    for (const [index, name] of interfaces.entries()) {
      if ((fresh & (1 << index)) === 0) continue;
      log.warn("partial_checksums", {
        interface: name,
        reason:
          `frames come in on ${name} with partial checksums, each of which has to be completed on ` +
          "its way out; run `ethtool -K PEER tx off` for the other end of the cable, PEER",
      });
    }
  };
}
