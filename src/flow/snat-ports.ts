import { assert } from "../base/assert.ts";
import { SNAT_ADDRESSES_MAX, SNAT_PROBES_MAX } from "../base/limits.ts";
import { H_SECRET, type RegionViews } from "../state/layout.ts";
import { flowHash } from "./flow-hash.ts";
import type { FlowTable } from "./flow-table.ts";

/**
 * Source addresses and ports of full-NAT flows.
 *
 * Theory of operation
 *
 * There is no list of free ports: the flow table is it. A candidate (address, port) is free towards
 * a backend when no live flow has the reply tuple (backend, candidate), so one address and port
 * serves any number of backends, but never twice towards one backend address and port (design
 * section 2). The pool is numbered address by address, 0..space - 1.
 *
 * The search begins at a keyed hash of the client's tuple, so that nobody outside can tell the next
 * port (RFC 6056 section 3.3.3), and a client that comes again tends to get its port again. It goes
 * on in steps of a prime that the same hash chooses, and not by one: with ports side by side, a
 * search that starts in a run of taken ones has to leave it, and 95 % taken would need 200 probes
 * instead of 20 (Knuth, TAOCP 6.4, linear probing against double hashing). The primes are larger
 * than any pool, so none divides its size, and a pool of at most SNAT_PROBES_MAX candidates is
 * looked through completely.
 */

/**
 * Primes between 2^24 and 2^30, drawn at random; the largest pool is SNAT_ADDRESSES_MAX x 65,535
 * candidates, which is less.
 */
// biome-ignore format: a table
export const STEPS = Int32Array.of(
  18924487, 143153287, 193591991, 292495717, 339700859, 475664191, 526166237, 633031043,
  639935623, 640262081, 740489719, 757447423, 861467641, 910994921, 943599551, 1007229137,
);
assert(SNAT_ADDRESSES_MAX * 65_535 < 1 << 24, "no step divides the size of a pool");

/** Makes the hash of the search another one than that of the flow index. */
const SEARCH_KEY = 0x534e4154; // "SNAT"
const GOLDEN = 0x9e3779b1 | 0;

export interface SnatPorts {
  /** After pick() gave 1: address (int32, host order), port. */
  readonly result: Int32Array;
  /**
   * Find a free address and port towards a backend. Nothing is taken: inserting the flow does it.
   *
   * @param protocol - PROTOCOL_TCP or PROTOCOL_UDP
   * @param client - client address
   * @param vip - VIP address
   * @param clientVipPorts - client port << 16 | VIP port
   * @param backend - backend address
   * @param backendPort - 1..65535
   * @param poolWord - index in views.i32 of the first SNAT address
   * @param poolCount - SNAT addresses, 0..SNAT_ADDRESSES_MAX
   * @param portLow - first port of the pool, at least 1
   * @param portHigh - last port of the pool, portLow..65535
   * @returns 1 and `result` is set; 0 when SNAT_PROBES_MAX candidates, or all there are, are taken
   */
  pick(
    protocol: number,
    client: number,
    vip: number,
    clientVipPorts: number,
    backend: number,
    backendPort: number,
    poolWord: number,
    poolCount: number,
    portLow: number,
    portHigh: number,
  ): number;
}

/**
 * @param views - the region; the pool lies in one of its banks
 * @param table - the flow table of the same region
 */
export function createSnatPorts(views: RegionViews, table: FlowTable): SnatPorts {
  const i32 = views.i32;
  const result = new Int32Array(2);

  function pick(
    protocol: number,
    client: number,
    vip: number,
    clientVipPorts: number,
    backend: number,
    backendPort: number,
    poolWord: number,
    poolCount: number,
    portLow: number,
    portHigh: number,
  ): number {
    const ports = portHigh - portLow + 1;
    const space = Math.imul(poolCount, ports);
    if (space <= 0) return 0;
    const k1 = i32[H_SECRET + 1]! ^ SEARCH_KEY;
    const hash = flowHash(i32[H_SECRET]!, k1, protocol, client, vip, clientVipPorts);
    const step = STEPS[Math.imul(hash, GOLDEN) >>> 28]! % space;
    const probes = Math.min(space, SNAT_PROBES_MAX);
    let candidate = (hash & 0x7fffffff) % space;
    for (let probe = 0; probe < probes; probe++) {
      const address = i32[poolWord + ((candidate / ports) | 0)]!;
      const port = portLow + (candidate % ports);
      const replyPorts = (backendPort << 16) | port;
      // A client that is the backend itself: its own packets have this tuple.
      const own = backend === client && address === vip && replyPorts === clientVipPorts;
      if (!own && table.find(protocol, backend, address, replyPorts) < 0) {
        result[0] = address;
        result[1] = port;
        return 1;
      }
      candidate += step;
      if (candidate >= space) candidate -= space;
    }
    return 0;
  }

  return { result, pick };
}
