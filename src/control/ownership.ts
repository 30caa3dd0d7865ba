import { type Address, addressBits, isInPrefix } from "../base/address.ts";
import { PROTOCOL_TCP, PROTOCOL_UDP } from "../flow/flow-record.ts";
import {
  type GatewayDefinition,
  type ServiceDefinition,
  SORRY_SERVER,
  type VipAddress,
} from "../service/definition.ts";
import type { Endpoint, FlowEndpoints } from "./flow-endpoints.ts";

/**
 * Which packets are the gateway's (design 1.9): those of its services, and those of flows that live
 * on after their service, VIP, backend or SNAT address left the configuration.
 */
export interface Ownership {
  /** VIPs: packets to address (or prefix), protocol and ports `low..high`, both included. */
  readonly vips: readonly {
    readonly address: Address;
    /** Of a VIP that is a prefix; left out: the address alone. */
    readonly prefixLength?: number | undefined;
    readonly protocol: number;
    readonly low: number;
    readonly high: number;
  }[];
  /** `nat` backends: packets from address, protocol and port; port 0 is any. */
  readonly backends: readonly Endpoint[];
  readonly snat: readonly Address[];
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
  const backends = new Map<string, Endpoint>();
  const snat = new Map<string, Address>();
  const addBackend = (one: Endpoint): void => {
    backends.set(textOf(one), one);
  };
  for (const address of flows.snat) snat.set(address.text, address);
  for (const definition of definitions) {
    for (const address of definition.snat.addresses) snat.set(address.text, address);
    for (const service of definition.services) {
      for (const vip of vipsOf(service)) vips.set(vipText(vip), vip);
      natBackendsOf(service).forEach(addBackend);
    }
  }
  const covers = coverage([...vips.values()]);
  const extraVips = flows.vips.filter((one) => !covers(one));
  for (const one of flows.backends) {
    if (!backends.has(textOf({ ...one, port: 0 }))) addBackend(one);
  }
  return {
    vips: [
      ...vips.values(),
      ...extraVips.map(({ address, protocol, port }) => ({
        address,
        protocol,
        low: port,
        high: port,
      })),
    ],
    backends: [...backends.values()],
    snat: [...snat.values()],
  };
}

function textOf({ address, protocol, port }: Endpoint): string {
  return `${address.text}/${protocol}/${port}`;
}

function vipText({
  address,
  prefixLength,
  protocol,
  low,
  high,
}: Ownership["vips"][number]): string {
  return `${address.text}/${prefixLength ?? ""}/${protocol}/${low}/${high}`;
}

/** Whether a VIP has an endpoint: by address, and then by the few that are prefixes. */
function coverage(vips: Ownership["vips"]): (one: Endpoint) => boolean {
  const byAddress = new Map<string, Ownership["vips"][number][]>();
  const prefixes: Ownership["vips"][number][] = [];
  for (const vip of vips) {
    if (vip.prefixLength !== undefined) {
      prefixes.push(vip);
      continue;
    }
    const known = byAddress.get(vip.address.text);
    if (known === undefined) byAddress.set(vip.address.text, [vip]);
    else known.push(vip);
  }
  return ({ address, protocol, port }) => {
    const has = (vip: Ownership["vips"][number]): boolean =>
      vip.protocol === protocol && vip.low <= port && port <= vip.high;
    return (
      byAddress.get(address.text)?.some(has) === true ||
      prefixes.some((vip) => has(vip) && isInPrefix(address, vip.address, vip.prefixLength!))
    );
  };
}

function protocolNumber(name: "tcp" | "udp"): number {
  return name === "tcp" ? PROTOCOL_TCP : PROTOCOL_UDP;
}

function vipsOf(service: ServiceDefinition): Ownership["vips"][number][] {
  return service.vips.flatMap((vip) =>
    service.protocols.flatMap((protocol) =>
      service.ports.map(({ low, high }) => ({
        ...prefixOf(vip),
        protocol: protocolNumber(protocol),
        low,
        high,
      })),
    ),
  );
}

/** The text of a VIP that is a prefix has its length; that of an address has not. */
function prefixOf(vip: VipAddress): Pick<Ownership["vips"][number], "address" | "prefixLength"> {
  const { family, value, words, prefixLength } = vip;
  const address = { family, text: vip.text.replace(/\/\d+$/, ""), value, words };
  return prefixLength === addressBits(address) ? { address } : { address, prefixLength };
}

/**
 * The backends whose packets to anywhere are replies. A backend without a port of its own has the
 * service's ports: each one, or any where they are more than a few.
 */
function natBackendsOf(service: ServiceDefinition): Endpoint[] {
  if (service.mode !== "nat") return [];
  const servers = [...service.backends];
  if (service.noBackend.sorry !== null)
    servers.push({ ...service.noBackend.sorry, ...SORRY_SERVER });
  return servers.flatMap(({ address, port }) =>
    service.protocols.flatMap((name) => {
      const ports = port !== 0 ? [port] : singlePorts(service);
      return ports.map((each) => ({ address, protocol: protocolNumber(name), port: each }));
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
