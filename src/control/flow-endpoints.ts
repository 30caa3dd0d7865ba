import { type Address, addressOf4, addressOfWords } from "../base/address.ts";
import {
  EXTENSION_WORDS,
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_VIP_PORTS,
  F_REPLY_ADDR,
  F_STATE,
  F_VERSION,
  F_VIP_ADDR,
  FLOW_WORDS,
  hasExtension,
  isOneWay,
  MODE_FULL_NAT,
  modeOf,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  protocolOf,
  STATE_FREE,
  X_BACKEND,
  X_REPLY,
  X_VIP,
} from "../flow/flow-record.ts";
import type { RegionViews } from "../state/layout.ts";
import { flowRows } from "../state/shards.ts";

/** Address, protocol and port of one side of a flow. */
export interface Endpoint {
  readonly address: Address;
  readonly protocol: number;
  readonly port: number;
}

/** What the flows of a region need owned, each once. */
export interface FlowEndpoints {
  readonly vips: readonly Endpoint[];
  /** Of `nat`. */
  readonly backends: readonly Endpoint[];
  readonly snat: readonly Address[];
}

export const NO_FLOW_ENDPOINTS: FlowEndpoints = { vips: [], backends: [], snat: [] };

/**
 * Look through the whole flow table for endpoints in use. Takes some ten milliseconds for a million
 * flows; the worker goes on meanwhile, so a flow that begins during the look may be missed: ask
 * when what new flows can use is owned anyway.
 */
export function flowEndpoints(views: RegionViews): FlowEndpoints {
  const { i32, layout } = views;
  const vips = createEndpoints(i32);
  const backends = createEndpoints(i32);
  const snat = createEndpoints(i32);
  const look = (at: number, extension: number): void => {
    const version = i32[at + F_VERSION]!;
    const state = i32[at + F_STATE]!;
    if ((state & 0xff) === STATE_FREE || version === 0 || (version & 1) !== 0) return;
    const protocol = protocolOf(state);
    // The words of a record with an extension are folds of its addresses.
    const full = (word: number): number => (hasExtension(state) ? extension + word : -1);
    const vipPort = i32[at + F_CLIENT_VIP_PORTS]! & 0xffff;
    vips.add(i32[at + F_VIP_ADDR]!, full(X_VIP), protocol, vipPort);
    // Nobody answers through us: backends of one-way modes answer clients themselves.
    if (isOneWay(state)) return;
    if (modeOf(state) === MODE_FULL_NAT) {
      snat.add(i32[at + F_REPLY_ADDR]!, full(X_REPLY), PROTOCOL_TCP, 0);
    } else {
      const port = i32[at + F_BACKEND_REPLY_PORTS]! >>> 16;
      backends.add(i32[at + F_BACKEND_ADDR]!, full(X_BACKEND), protocol, port);
    }
  };
  for (const shard of layout.shards) {
    const rows = flowRows(views, shard);
    const flows = shard.flows.at >> 2;
    const extensions = shard.flowExtensions.at >> 2;
    for (let row = 0; row < rows; row++) {
      look(flows + row * FLOW_WORDS, extensions + row * EXTENSION_WORDS);
    }
  }
  return {
    vips: vips.list(),
    backends: backends.list(),
    snat: snat.list().map(({ address }) => address),
  };
}

interface Endpoints {
  /**
   * @param value - IPv4 address, or a fold of what is at `extension`
   * @param extension - word of the full address; -1: there is none
   */
  add(value: number, extension: number, protocol: number, port: number): void;
  list(): Endpoint[];
}

/** Endpoints, each once. One that is known already costs a look-up by a number: no allocation. */
function createEndpoints(i32: Int32Array): Endpoints {
  const four = new Set<number>();
  const six = new Map<number, Endpoint>();
  /** IPv6 endpoints whose fold another one has. */
  const others = new Map<string, Endpoint>();
  return {
    add(value, extension, protocol, port) {
      const key = endpointKey(value, protocol, port);
      if (extension < 0) {
        four.add(key);
        return;
      }
      const known = six.get(key);
      if (known?.address.words.every((word, index) => word === i32[extension + index]) === true) {
        return;
      }
      const words = [...i32.subarray(extension, extension + 4)] as [number, number, number, number];
      const endpoint = { address: addressOfWords(words), protocol, port };
      if (known === undefined) six.set(key, endpoint);
      else others.set(`${endpoint.address.text}/${protocol}/${port}`, endpoint);
    },
    list: () => [...[...four].map(endpointOf), ...six.values(), ...others.values()],
  };
}

/** Address, protocol and port in one number below 2^49: exact, and compared without allocation. */
function endpointKey(address: number, protocol: number, port: number): number {
  return (address >>> 0) * 0x20000 + (protocol === PROTOCOL_UDP ? 0x10000 : 0) + port;
}

function endpointOf(key: number): Endpoint {
  const low = key % 0x20000;
  return {
    address: addressOf4(Math.floor(key / 0x20000)),
    protocol: (low & 0x10000) !== 0 ? PROTOCOL_UDP : PROTOCOL_TCP,
    port: low & 0xffff,
  };
}
