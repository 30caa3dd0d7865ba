import {
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_VIP_PORTS,
  F_REPLY_ADDR,
  F_STATE,
  F_VERSION,
  F_VIP_ADDR,
  FLOW_WORDS,
  MODE_FULL_NAT,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  protocolOf,
  STATE_FREE,
} from "../flow/flow-record.ts";
import type { GatewayDefinition, ServiceDefinition } from "../service/definition.ts";
import type { RegionViews } from "../state/layout.ts";
import { flowRows } from "../state/shards.ts";

/**
 * Which packets are the gateway's (design 1.9): those of its services, and those of flows that live
 * on after their service, VIP, backend or SNAT address left the configuration.
 */
export interface Ownership {
  /** VIPs: packets to address, protocol and ports `low..high`, both included. */
  readonly vips: readonly {
    readonly address: number;
    readonly protocol: number;
    readonly low: number;
    readonly high: number;
  }[];
  /** `nat` backends: packets from address, protocol and port; port 0 is any. */
  readonly backends: readonly {
    readonly address: number;
    readonly protocol: number;
    readonly port: number;
  }[];
  readonly snat: readonly number[];
}

/** What the flows of a region need owned; one number an endpoint, see {@link endpointKey}. */
export interface FlowEndpoints {
  readonly vips: ReadonlySet<number>;
  readonly backends: ReadonlySet<number>;
  readonly snat: ReadonlySet<number>;
}

export const NO_FLOW_ENDPOINTS: FlowEndpoints = {
  vips: new Set(),
  backends: new Set(),
  snat: new Set(),
};

/** Address, protocol and port in one number below 2^49: exact, and compared without allocation. */
function endpointKey(address: number, protocol: number, port: number): number {
  return (address >>> 0) * 0x20000 + (protocol === PROTOCOL_UDP ? 0x10000 : 0) + port;
}

function endpointOf(key: number): { address: number; protocol: number; port: number } {
  const low = key % 0x20000;
  return {
    address: Math.floor(key / 0x20000) | 0,
    protocol: (low & 0x10000) !== 0 ? PROTOCOL_UDP : PROTOCOL_TCP,
    port: low & 0xffff,
  };
}

/**
 * Look through the whole flow table for endpoints in use. Takes some ten milliseconds for a million
 * flows; the worker goes on meanwhile, so a flow that begins during the look may be missed: ask
 * when what new flows can use is owned anyway.
 */
export function flowEndpoints(views: RegionViews): FlowEndpoints {
  const { i32, layout } = views;
  const vips = new Set<number>();
  const backends = new Set<number>();
  const snat = new Set<number>();
  const look = (at: number): void => {
    const version = i32[at + F_VERSION]!;
    const state = i32[at + F_STATE]!;
    if ((state & 0xff) === STATE_FREE || version === 0 || (version & 1) !== 0) return;
    const protocol = protocolOf(state);
    vips.add(endpointKey(i32[at + F_VIP_ADDR]!, protocol, i32[at + F_CLIENT_VIP_PORTS]! & 0xffff));
    if (((state >>> 16) & 0xff) === MODE_FULL_NAT) snat.add(i32[at + F_REPLY_ADDR]!);
    else {
      const port = i32[at + F_BACKEND_REPLY_PORTS]! >>> 16;
      backends.add(endpointKey(i32[at + F_BACKEND_ADDR]!, protocol, port));
    }
  };
  for (const shard of layout.shards) {
    const rows = flowRows(views, shard);
    for (let row = 0; row < rows; row++) look((shard.flows.at >> 2) + row * FLOW_WORDS);
  }
  return { vips, backends, snat };
}

/**
 * What the gateway owns under any of some definitions and with some flows. While a change is taken
 * over, the old and the new definition hold together.
 */
export function ownershipOf(
  definitions: readonly GatewayDefinition[],
  flows: FlowEndpoints,
): Ownership {
  const vips = new Map<string, Ownership["vips"][number]>();
  const backends = new Set<number>();
  const snat = new Set<number>(flows.snat);
  for (const definition of definitions) {
    for (const { value } of definition.snat.addresses) snat.add(value);
    for (const service of definition.services) {
      for (const vip of vipsOf(service)) vips.set(Object.values(vip).join("/"), vip);
      for (const key of natBackendsOf(service)) backends.add(key);
    }
  }
  const ranges = [...vips.values()];
  const byAddress = new Map<number, Ownership["vips"][number][]>();
  for (const range of ranges) {
    const known = byAddress.get(range.address);
    if (known === undefined) byAddress.set(range.address, [range]);
    else known.push(range);
  }
  const extraVips = [...flows.vips]
    .map(endpointOf)
    .filter(
      ({ address, protocol, port }) =>
        !byAddress
          .get(address)
          ?.some((range) => range.protocol === protocol && range.low <= port && port <= range.high),
    );
  const isOwned = (key: number): boolean => {
    const { address, protocol } = endpointOf(key);
    return backends.has(key) || backends.has(endpointKey(address, protocol, 0));
  };
  const extraBackends = [...flows.backends].filter((key) => !isOwned(key));
  return {
    vips: [
      ...ranges,
      ...extraVips.map(({ address, protocol, port }) => ({
        address,
        protocol,
        low: port,
        high: port,
      })),
    ],
    backends: [...backends, ...extraBackends].map(endpointOf),
    snat: [...snat],
  };
}

function protocolNumber(name: "tcp" | "udp"): number {
  return name === "tcp" ? PROTOCOL_TCP : PROTOCOL_UDP;
}

function vipsOf(service: ServiceDefinition): Ownership["vips"][number][] {
  return service.vips.flatMap(({ value }) =>
    service.protocols.flatMap((protocol) =>
      service.ports.map(({ low, high }) => ({
        address: value,
        protocol: protocolNumber(protocol),
        low,
        high,
      })),
    ),
  );
}

/**
 * Keys of the backends whose packets to anywhere are replies. A backend without a port of its own
 * has the service's ports: each one, or any where they are more than a few.
 */
function natBackendsOf(service: ServiceDefinition): number[] {
  if (service.mode !== "nat") return [];
  const servers = [...service.backends];
  if (service.noBackend.sorry !== null)
    servers.push({ ...service.noBackend.sorry, weight: 1, serverId: null });
  return servers.flatMap(({ address, port }) =>
    service.protocols.flatMap((name) => {
      const ports = port !== 0 ? [port] : singlePorts(service);
      return ports.map((each) => endpointKey(address.value, protocolNumber(name), each));
    }),
  );
}

const SINGLE_PORTS_MAX = 64;

function singlePorts(service: ServiceDefinition): number[] {
  const count = service.ports.reduce((sum, { low, high }) => sum + high - low + 1, 0);
  if (count > SINGLE_PORTS_MAX) return [0];
  return service.ports.flatMap(({ low, high }) =>
    Array.from({ length: high - low + 1 }, (_, index) => low + index),
  );
}
