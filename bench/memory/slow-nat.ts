import { slowSum } from "../../test/support/frames.ts";
import {
  BACKEND_PORT,
  backend6Of,
  backendMac,
  backendOf,
  CLIENT_MAC,
  GATEWAY_MACS,
  type MemoryCase,
  VIP_PORT,
} from "./fast-path.ts";
import type { FrameStore } from "./frame-store.ts";

/**
 * What a NAT may send for the frames of a store, told from the frames alone: for the cases that have
 * no reference in C++.
 *
 * It knows nothing of the flow table. The clients' frames say which binding each flow was given; a
 * flow has one, of a backend and addresses of the configuration, and no two flows have the same. A
 * backend's frame must then go to the client whose binding it answers. Whatever else a frame carries
 * is as it came, but for the hop limit, which is one less, and checksums, which are summed anew.
 */

/** A frame taken apart; addresses and the rest of the transport in hexadecimal. */
interface Seen {
  readonly macs: string;
  readonly type: number;
  readonly source: string;
  readonly sourcePort: number;
  readonly destination: string;
  readonly destinationPort: number;
  readonly hopLimit: number;
  readonly protocol: number;
  /** The transport but for its ports and its checksum. */
  readonly rest: string;
  /** What is wrong with it by itself, or "". */
  readonly fault: string;
}

interface Binding {
  readonly backend: string;
  readonly address: string;
  readonly port: number;
}

const LINK_BYTES = 14;
const IPV4 = 0x0800;
const IPV6 = 0x86dd;
const TCP = 6;

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}

function hexOfWords(words: readonly number[]): string {
  return words.map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
}

function two(bytes: Uint8Array, at: number): number {
  return bytes[at]! * 256 + bytes[at + 1]!;
}

function see(frame: Uint8Array): Seen {
  const type = two(frame, 12);
  const packet = frame.subarray(LINK_BYTES);
  const isIpv6 = type === IPV6;
  const headerBytes = isIpv6 ? 40 : 20;
  const addressBytes = isIpv6 ? 16 : 4;
  const addressAt = isIpv6 ? 8 : 12;
  const protocol = packet[isIpv6 ? 6 : 9]!;
  const l4 = packet.slice(headerBytes);
  const ends = packet.subarray(addressAt, addressAt + 2 * addressBytes);
  const pseudo = [...ends, 0, protocol, l4.length >>> 8, l4.length & 0xff];
  const checksumAt = protocol === TCP ? 16 : 6;
  const faults = [
    slowSum([...pseudo, ...l4]) === 0xffff ? "" : "checksum",
    isIpv6 || type === IPV4 ? "" : "type",
    // Also IPv4's header length; traffic class and type of service are 0.
    two(packet, 0) === (isIpv6 ? 0x6000 : 0x4500) ? "" : "version, or traffic class",
    !isIpv6 || two(packet, 2) === 0 ? "" : "flow label",
    two(packet, isIpv6 ? 4 : 2) === packet.length - (isIpv6 ? 40 : 0) ? "" : "length",
    isIpv6 || slowSum(packet.subarray(0, 20)) === 0xffff ? "" : "header checksum",
    isIpv6 || (two(packet, 6) & 0xbfff) === 0 ? "" : "fragment",
    protocol !== TCP && two(l4, checksumAt) === 0 ? "no checksum" : "",
  ];
  const [sourcePort, destinationPort] = [two(l4, 0), two(l4, 2)];
  l4.fill(0, checksumAt, checksumAt + 2);
  return {
    macs: hex(frame.subarray(0, 12)),
    type,
    source: hex(ends.subarray(0, addressBytes)),
    sourcePort,
    destination: hex(ends.subarray(addressBytes)),
    destinationPort,
    hopLimit: packet[isIpv6 ? 7 : 8]!,
    protocol,
    rest: hex(l4.subarray(4)),
    fault: faults.filter((fault) => fault !== "").join(", "),
  };
}

function macsOf(destination: string, source: string): string {
  return (destination + source).replaceAll(":", "");
}

/** Addresses of the backends' side, by their hexadecimal text, with MACs. */
function backendsOf(one: MemoryCase): ReadonlyMap<string, string> {
  return new Map(
    Array.from({ length: one.backends }, (_, index) => [
      hexOfWords(one.family === "ipv6" ? backend6Of(index) : [backendOf(index)]),
      macsOf(backendMac(backendOf(index)), GATEWAY_MACS[1]),
    ]),
  );
}

function isOfPool(address: string, port: number, family: MemoryCase["family"]): boolean {
  const last = Number.parseInt(address.slice(-2), 16);
  const prefix = family === "ipv6" ? "20010db80002000100000000000000" : "0a1500";
  return address.slice(0, -2) === prefix && last < 64 && port >= 1024;
}

/**
 * Check what the fast path has sent for every frame of a store.
 *
 * @param sent - frames in the store's form, by the place of the received frame
 * @throws Error that names the first frame that is not what a NAT sends, with both
 */
export function checkSent(
  store: FrameStore & { readonly frames: number },
  sent: Uint8Array,
  one: MemoryCase,
): void {
  const backends = backendsOf(one);
  const backendType = one.family === "ipv6" ? IPV6 : IPV4;
  const bindings = new Map<string, Binding>();
  /** By backend, address and port of a binding: the flow's key. */
  const owners = new Map<string, string>();

  /** @returns what is wrong with a client's frame that was sent on, or "" */
  function toBackend(from: Seen, to: Seen): string {
    const key = `${from.source} ${from.sourcePort} ${from.destination} ${from.destinationPort}`;
    const known = bindings.get(key);
    const binding = { backend: to.destination, address: to.source, port: to.sourcePort };
    const id = `${binding.backend} ${binding.address} ${binding.port}`;
    if (known === undefined) {
      if (owners.has(id)) return "the binding of another flow";
      bindings.set(key, binding);
      owners.set(id, key);
    } else if (owners.get(id) !== key) return "another binding than before";
    if (to.type !== backendType) return "type";
    if (to.macs !== backends.get(to.destination)) return "backend or MACs";
    if (to.destinationPort !== BACKEND_PORT) return "destination port";
    const isRight =
      one.mode === "nat"
        ? to.source === from.source && to.sourcePort === from.sourcePort
        : isOfPool(to.source, to.sourcePort, one.family);
    return isRight ? "" : "source";
  }

  /** @returns the same for a backend's frame */
  function toClient(from: Seen, to: Seen): string {
    const key = owners.get(`${from.source} ${from.destination} ${from.destinationPort}`);
    const ends = `${to.destination} ${to.destinationPort} ${to.source} ${to.sourcePort}`;
    if (key !== ends) return "addresses or ports";
    if (to.sourcePort !== VIP_PORT) return "source port";
    if (to.macs !== macsOf(CLIENT_MAC, GATEWAY_MACS[0])) return "MACs";
    return to.type === IPV6 ? "" : "type";
  }

  // First the clients' frames, which tell the bindings.
  for (const side of [0, 1]) {
    for (let index = 0; index < store.frames; index++) {
      const at = index * store.slotBytes;
      if (store.bytes[at] !== side) continue;
      const input = store.bytes.subarray(at + 2, at + 2 + store.bytes[at + 1]!);
      const output = sent.subarray(at + 2, at + 2 + sent[at + 1]!);
      const fail = (what: string): Error =>
        new Error(
          `frame ${index} is not what a NAT sends (${what}): no figure is printed\n` +
            `  received ${hex(input)}\n  sent     ${hex(output)}`,
        );
      if (output.length === 0) throw fail("nothing");
      if (sent[at] !== 1 - side) throw fail("interface");
      const from = see(input);
      const to = see(output);
      if (from.fault !== "") throw fail(`received: ${from.fault}`);
      if (to.fault !== "") throw fail(to.fault);
      if (to.hopLimit !== from.hopLimit - 1) throw fail("hop limit");
      if (to.protocol !== from.protocol || to.rest !== from.rest) throw fail("transport");
      const wrong = side === 0 ? toBackend(from, to) : toClient(from, to);
      if (wrong !== "") throw fail(wrong);
    }
  }
}
