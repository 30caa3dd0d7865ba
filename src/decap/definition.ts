import type { Address } from "../base/address.ts";
import type { LogLevel } from "../base/log.ts";
import type { Prefix } from "../base/prefix.ts";

/** What a decapsulator's configuration says, defaults filled in. */
export interface DecapDefinition {
  /** The configuration file. */
  readonly file: string;
  readonly log: { readonly level: LogLevel };
  /** Name of the TUN device. */
  readonly name: string;
  readonly protocols: readonly ("ipip" | "gue")[];
  readonly gue: {
    readonly port: number;
    /** Take datagrams over IPv6 without a checksum (RFC 6935). */
    readonly zeroChecksum: boolean;
  };
  /** What may be the destination of an inner packet. */
  readonly vips: readonly Address[];
  /** Outer sources that are listened to; empty: all. */
  readonly accept: readonly Prefix[];
  /** Of the TUN device, bytes. */
  readonly mtu: number;
  /** Keep the host from answering ARP for the VIPs. */
  readonly hideArp: boolean;
}
