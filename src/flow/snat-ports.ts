import { SNAT_PROBES_MAX } from "../base/limits.ts";
import { H_FLOWS_SCATTERED, H_SECRET, type RegionViews } from "../state/layout.ts";
import { flowHash } from "./flow-hash.ts";
import type { FlowTable } from "./flow-table.ts";
import { createOtherShards } from "./other-shards.ts";

/**
 * Source addresses and ports of full-NAT flows.
 *
 * Theory of operation
 *
 * There is no list of free ports: the flow table is it. A candidate (address, port) is free towards
 * a backend when no live flow has the reply tuple (backend, candidate), so one address and port
 * serves any number of backends, but never twice towards one backend address and port (design
 * section 2). The pool is numbered address by address, 0..space - 1; with N workers, worker w's pool
 * has only the ports that are w modulo N, so that a reply says whose it is (owner.ts).
 *
 * The first candidate is a keyed hash of client, VIP and protocol, plus the client's port (RFC 6056
 * section 3.3.3, with the client's own choice as the counter): the ports of one client stay apart,
 * and a port that comes again gets its own again. With a hash of the whole tuple another port of
 * the client can take a tuple that the backend still holds in TIME_WAIT, and its SYN, with an older
 * timestamp, is refused until it is sent again (2 to 6 of 10,000 connections, 1 s each).
 *
 * Where that one is taken, the others are drawn by a hash of the client's whole tuple, each on its
 * own: in the steps of a fixed distance a search can stay in a run of taken ones for all its probes.
 * With 19 of 20 taken, SNAT_PROBES_MAX draws fail once in 700 searches. A pool of at most
 * SNAT_PROBES_MAX candidates is looked through completely instead.
 */

/** Makes the hash of the search another one than that of the flow index. */
const SEARCH_KEY = 0x534e4154; // "SNAT"
const GOLDEN = 0x9e3779b1 | 0;

const SEARCH_PROTOCOL = 0;
const SEARCH_CLIENT = 1;
const SEARCH_VIP = 2;
const SEARCH_CLIENT_VIP_PORTS = 3;
const SEARCH_BACKEND = 4;
const SEARCH_BACKEND_PORT = 5;
const SEARCH_POOL = 6;
const SEARCH_PORT_LOW = 7;
const SEARCH_WORDS = 8;

/** The finaliser of MurmurHash3: every bit of the word changes every bit of the result. */
function scramble(word: number): number {
  let hash = word ^ (word >>> 16);
  hash = Math.imul(hash, 0x85ebca6b | 0);
  hash ^= hash >>> 13;
  hash = Math.imul(hash, 0xc2b2ae35 | 0);
  return hash ^ (hash >>> 16);
}

export interface SnatPorts {
  /** After pick() gave 1: address (int32, host order; the fold of an IPv6 one), port, its place. */
  readonly result: Int32Array;
  /**
   * Find a free address and port towards a backend. Nothing is taken: inserting the flow does it.
   *
   * @param protocol - PROTOCOL_TCP or PROTOCOL_UDP; with KEY_IPV6 where the pool is IPv6, and then
   *   addresses of that side are folds
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
  const { worker, workers } = views.layout;
  const others = createOtherShards(views);
  const result = new Int32Array(3);
  /** The search at hand, so that a candidate is looked at without a closure or ten arguments. */
  const search = new Int32Array(SEARCH_WORDS);

  /** Look at one candidate; a free one is the result. */
  function isFree(candidate: number, ports: number): boolean {
    const address = i32[search[SEARCH_POOL]! + ((candidate / ports) | 0)]!;
    const port = search[SEARCH_PORT_LOW]! + (candidate % ports) * workers;
    const replyPorts = (search[SEARCH_BACKEND_PORT]! << 16) | port;
    const backend = search[SEARCH_BACKEND]!;
    // A client that is the backend itself: its own packets have this tuple.
    const own =
      backend === search[SEARCH_CLIENT] &&
      address === search[SEARCH_VIP] &&
      replyPorts === search[SEARCH_CLIENT_VIP_PORTS];
    if (own) return false;
    const protocol = search[SEARCH_PROTOCOL]!;
    if (table.find(protocol, backend, address, replyPorts) >= 0) return false;
    if (i32[H_FLOWS_SCATTERED] !== 0 && others.holdReply(protocol, backend, address, replyPorts)) {
      return false;
    }
    result[0] = address;
    result[1] = port;
    result[2] = (candidate / ports) | 0;
    return true;
  }

  /** Every candidate of a small pool, from `from` on. */
  function lookThrough(from: number, space: number, ports: number): number {
    let candidate = from;
    for (let looked = 0; looked < space; looked++) {
      if (isFree(candidate, ports)) return 1;
      candidate = candidate + 1 >= space ? 0 : candidate + 1;
    }
    return 0;
  }

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
    // The first port of the pool that is this worker's, and how many there are.
    const low = portLow + ((worker + workers - (portLow % workers)) % workers);
    const ports = ((portHigh - low + workers) / workers) | 0;
    const space = Math.imul(poolCount, ports);
    if (space <= 0) return 0;
    search[SEARCH_PROTOCOL] = protocol;
    search[SEARCH_CLIENT] = client;
    search[SEARCH_VIP] = vip;
    search[SEARCH_CLIENT_VIP_PORTS] = clientVipPorts;
    search[SEARCH_BACKEND] = backend;
    search[SEARCH_BACKEND_PORT] = backendPort;
    search[SEARCH_POOL] = poolWord;
    search[SEARCH_PORT_LOW] = low;
    const k0 = i32[H_SECRET]!;
    const k1 = i32[H_SECRET + 1]! ^ SEARCH_KEY;
    const site = flowHash(k0, k1, protocol, client, vip, clientVipPorts & 0xffff);
    const first = ((site & 0x3fffffff) + (clientVipPorts >>> 16)) % space;
    if (space <= SNAT_PROBES_MAX) return lookThrough(first, space, ports);
    if (isFree(first, ports)) return 1;
    const hash = flowHash(k0, k1, protocol, client, vip, clientVipPorts);
    let word = hash;
    for (let probe = 1; probe < SNAT_PROBES_MAX; probe++) {
      word = (word + GOLDEN) | 0;
      if (isFree((scramble(word) >>> 1) % space, ports)) return 1;
    }
    return 0;
  }

  return { result, pick };
}
