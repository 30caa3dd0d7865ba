import { INDEX_BUCKET_ENTRIES } from "../base/limits.ts";
import { BUCKET_BYTES, H_SECRET, type RegionViews, type Shard } from "../state/layout.ts";
import { flowHash } from "./flow-hash.ts";
import {
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_REPLY_ADDR,
  F_STATE,
  F_VERSION,
  FLOW_WORDS,
  REPLY,
  replyKeyOf,
  STATE_FREE,
} from "./flow-record.ts";

/**
 * Reply tuples of full-NAT flows that lie with other workers.
 *
 * A worker's own ports are no other's, so its own table knows whether one is free: but not after a
 * take-over with another number of workers (H_FLOWS_SCATTERED), when flows of the process before may
 * have them elsewhere. They only end, and no other worker makes new ones, so a look from outside can
 * at worst find one that has just gone, and take another port.
 *
 * It reads the index of flow-index.ts; it is code of its own, since V8 compiles that one for exactly
 * one index an isolate. test/flow/other-shards.test.ts holds the two against each other.
 */
export interface OtherShards {
  /**
   * @param backend - address and, in the upper half of `ports`, port that the reply comes from
   * @param address - SNAT address; its port is the lower half of `ports`
   */
  holdReply(protocol: number, backend: number, address: number, ports: number): boolean;
}

const BUCKET_WORDS = BUCKET_BYTES / 4;
const GOLDEN = 0x9e3779b1 | 0;

/** @param views - of the worker that asks */
export function createOtherShards(views: RegionViews): OtherShards {
  const { i32, layout } = views;
  const others = layout.shards.filter(({ worker }) => worker !== layout.worker);

  function holdReply(protocol: number, backend: number, address: number, ports: number): boolean {
    const secret = i32[H_SECRET]!;
    const hash = flowHash(secret, i32[H_SECRET + 1]!, protocol, backend, address, ports);
    for (let index = 0; index < others.length; index++) {
      const shard = others[index]!;
      const mask = shard.flowBuckets - 1;
      const first = hash & mask;
      const product = Math.imul(hash, GOLDEN) >>> Math.clz32(mask);
      const second = product === first ? product ^ 1 : product;
      if (holdsIn(shard, first, hash, protocol, backend, address, ports)) return true;
      if (holdsIn(shard, second, hash, protocol, backend, address, ports)) return true;
    }
    return false;
  }

  function holdsIn(
    { flowIndex, flows, flowCapacity }: Shard,
    bucket: number,
    hash: number,
    protocol: number,
    backend: number,
    address: number,
    ports: number,
  ): boolean {
    const from = (flowIndex.at >> 2) + bucket * BUCKET_WORDS;
    for (let entry = from; entry < from + INDEX_BUCKET_ENTRIES; entry++) {
      const reference = i32[entry + INDEX_BUCKET_ENTRIES]! - 1;
      if (i32[entry] !== hash || reference < 0 || (reference & 1) !== REPLY) continue;
      const row = reference >> 1;
      if (row >= flowCapacity) continue;
      const at = (flows.at >> 2) + row * FLOW_WORDS;
      const state = i32[at + F_STATE]!;
      if (
        (i32[at + F_VERSION]! & 1) === 0 &&
        (state & 0xff) !== STATE_FREE &&
        replyKeyOf(state) === protocol &&
        i32[at + F_BACKEND_ADDR] === backend &&
        i32[at + F_REPLY_ADDR] === address &&
        i32[at + F_BACKEND_REPLY_PORTS] === ports
      ) {
        return true;
      }
    }
    return false;
  }

  return { holdReply };
}
