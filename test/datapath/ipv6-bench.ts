import { flowsUsed } from "../../src/state/shards.ts";
import { addressOf } from "../support/frames.ts";
import {
  backendMac,
  CLIENT_MAC,
  createMemoryGateway,
  GATEWAY_MACS,
  type MemoryGateway,
  type MemoryGatewayOptions,
} from "../support/memory-gateway.ts";
import { frameOf, type Seen6, see6 } from "../support/packets6.ts";

export const CLIENT = "2001:db8:1::2";
export const VIP = "2001:db8:ff::10";
export const BACKEND = "2001:db8:2::11";
export const SNAT = "2001:db8:2::100";
export const CLIENT4 = "198.51.100.2";
export const VIP4 = "203.0.113.10";
export const BACKEND4 = "10.20.0.11";
export const SNAT4 = "10.20.0.100";

export interface Sent {
  /** With the Ethernet header. */
  readonly bytes: Uint8Array;
  readonly interface: number;
  readonly vnet: number;
}

/** Services web (TCP) and dns (UDP) with one backend each; both families of SNAT addresses. */
export function yaml6(
  options: { mode?: string; more?: string; vip?: string; backend?: string; top?: string } = {},
): string {
  const { mode = "nat", more = "", vip = VIP, backend = BACKEND, top = "" } = options;
  return `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
snat: { addresses: ['${SNAT}', ${SNAT4}], ports: 2000-2999 }
${top}
services:
  - { name: web, vip: '${vip}', port: 80, protocol: tcp, mode: ${mode}, scheduler: rr, ${more}
      backends: [{ address: '${backend}', port: 8080 }] }
  - { name: dns, vip: '${vip}', port: 53, protocol: udp, mode: ${mode}, scheduler: rr, ${more}
      backends: [{ address: '${backend}', port: 5353 }] }
`;
}

/** A gateway in memory, one packet a batch. */
export class Bench6 {
  readonly gateway: MemoryGateway;
  readonly link: 0 | 14;
  now = 1_000_000;

  constructor(options: Partial<MemoryGatewayOptions> & { yaml: string }) {
    this.link = options.linkHeaderBytes ?? 14;
    this.gateway = createMemoryGateway({ headroomBytes: 48, ...options });
    this.gateway.device.setTick(this.now);
  }

  client(packet: Uint8Array, words = { vnet: 0, csum: 0 }): Sent[] {
    return this.raw(
      frameOf(packet, { destination: GATEWAY_MACS[0], source: CLIENT_MAC }),
      0,
      words,
    );
  }

  backend(packet: Uint8Array, words = { vnet: 0, csum: 0 }, address = BACKEND): Sent[] {
    const source = backendMac(addressOf(address).words[3]);
    return this.raw(frameOf(packet, { destination: GATEWAY_MACS[1], source }), 1, words);
  }

  raw(frame: Uint8Array, ingress: number, words = { vnet: 0, csum: 0 }): Sent[] {
    const { device, datapath } = this.gateway;
    device.sent.length = 0;
    device.inject(this.link === 0 ? frame.subarray(14) : frame, ingress, words);
    datapath.runBatch(0);
    this.gateway.checkLaw();
    return device.sent.map((sent) => ({ ...sent }) as unknown as Sent);
  }

  pause(ms: number): Sent[] {
    this.now += ms;
    this.gateway.device.setTick(this.now);
    this.gateway.device.sent.length = 0;
    this.gateway.datapath.runBatch(0);
    return [...this.gateway.device.sent] as unknown as Sent[];
  }

  count(name: string): number {
    return this.gateway.counters()[name] ?? 0;
  }

  get live(): number {
    return flowsUsed(this.gateway.views);
  }

  /** The IPv6 packet of a frame that left. */
  see(sent: Sent | undefined): Seen6 {
    if (sent === undefined) throw new TypeError("no frame left");
    return see6(sent.bytes.subarray(this.link));
  }
}
