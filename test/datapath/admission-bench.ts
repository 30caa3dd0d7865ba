import assert from "node:assert/strict";
import { flowsUsed } from "../../src/state/shards.ts";
import { addressNumber, checksumFault, describe, ethernetFrame } from "../support/frames.ts";
import {
  backendMac,
  CLIENT_MAC,
  createMemoryGateway,
  GATEWAY_MACS,
  type MemoryGateway,
  type MemoryGatewayOptions,
} from "../support/memory-gateway.ts";
import { see6 } from "../support/packets6.ts";

export const CLIENT = "198.51.100.2";
export const VIP = "203.0.113.10";
export const BACKEND = "10.20.0.11";
export const SNAT = "10.20.0.100";
export const TCP = {
  source: CLIENT,
  destination: VIP,
  sourcePort: 40_000,
  destinationPort: 80,
} as const;
export const UDP = { ...TCP, destinationPort: 53 } as const;

export interface Sent {
  readonly bytes: Uint8Array;
  readonly interface: number;
  readonly vnet: number;
  readonly csum: number;
}

/** A gateway on frames in memory with a clock of its own; one packet is one batch. */
export class AdmissionBench {
  readonly gateway: MemoryGateway;
  now = 1_000_000;

  constructor(options: Partial<MemoryGatewayOptions> & { yaml: string }) {
    this.gateway = createMemoryGateway(options);
    this.gateway.device.setTick(this.now);
  }

  client(packet: Uint8Array, words = { vnet: 0, csum: 0 }): Sent[] {
    const type = packet[0]! >> 4 === 6 ? 0x86dd : 0x0800;
    const frame = ethernetFrame(packet, { destination: GATEWAY_MACS[0], source: CLIENT_MAC, type });
    return this.raw(frame, 0, words);
  }

  backend(packet: Uint8Array, words = { vnet: 0, csum: 0 }): Sent[] {
    const source = backendMac(addressNumber(BACKEND));
    const type = packet[0]! >> 4 === 6 ? 0x86dd : 0x0800;
    return this.raw(
      ethernetFrame(packet, { destination: GATEWAY_MACS[1], source, type }),
      1,
      words,
    );
  }

  raw(frame: Uint8Array, ingress: number, words = { vnet: 0, csum: 0 }): Sent[] {
    const { device, datapath } = this.gateway;
    device.sent.length = 0;
    device.inject(frame, ingress, words);
    datapath.runBatch(0);
    this.gateway.checkLaw();
    return this.sent();
  }

  /** What left, its checksums verified. */
  private sent(): Sent[] {
    const sent = [...this.gateway.device.sent];
    for (const one of sent) {
      if (one.vnet !== 0) continue;
      const text = Buffer.from(one.bytes).toString("hex");
      assert.equal(checksumFault(one.bytes, { linkHeaderBytes: 14 }), null, text);
      // A tunnel's and a fragment's are not this bench's to look at.
      const isPlain6 = one.bytes[12] === 0x86 && (one.bytes[20] === 6 || one.bytes[20] === 17);
      if (isPlain6) assert.ok(see6(one.bytes.subarray(14)).sumIsRight, text);
    }
    return sent;
  }

  pause(ms: number): Sent[] {
    const { device, datapath } = this.gateway;
    this.now += ms;
    device.setTick(this.now);
    device.sent.length = 0;
    datapath.runBatch(0);
    return this.sent();
  }

  count(name: string): number {
    return this.gateway.counters()[name] ?? 0;
  }

  /** A counter of worker 0 by its place, C_…. */
  counter(index: number): number {
    const { f64, layout } = this.gateway.views;
    return f64[(layout.counters.at >> 3) + index]!;
  }

  get live(): number {
    return flowsUsed(this.gateway.views);
  }
}

/** "source:port > destination:port tcp S …" without the MACs. */
export function lineOf(sent: Sent): string {
  return describe(sent.bytes.subarray(14), 0);
}

/** Services web (TCP) and dns (UDP) with one backend each; `snat` for a backend of the other family. */
export function configOf(
  options: {
    mode?: string;
    more?: string;
    web?: string;
    top?: string;
    vip?: string;
    backend?: string;
    snat?: string;
  } = {},
): string {
  const { mode = "nat", more = "", web = "", top = "" } = options;
  const { vip = VIP, backend = BACKEND, snat = SNAT } = options;
  return `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
snat: { addresses: ["${snat}"], ports: 2000-2999 }
${top}
services:
  - { name: web, vip: "${vip}", port: 80, protocol: tcp, mode: ${mode}, scheduler: rr, ${more} ${web}
      backends: [{ address: "${backend}", port: 8080 }] }
  - { name: dns, vip: "${vip}", port: 53, protocol: udp, mode: ${mode}, scheduler: rr, ${more}
      backends: [{ address: "${backend}", port: 5353 }] }
`;
}
