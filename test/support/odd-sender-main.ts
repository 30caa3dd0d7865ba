import { createRequire } from "node:module";

/**
 * Sends IPv4 packets that no stack would build, through npm's `raw-socket` (SOCK_RAW with
 * IP_HDRINCL): in a process of its own, because that addon loads in one thread only.
 *
 *   node odd-sender-main.js DESTINATION HEX...
 *
 * The kernel fills in total length and header checksum; everything else goes out as given.
 */
interface RawSocket {
  setOption(level: number, option: number, value: number): void;
  send(
    buffer: Buffer,
    offset: number,
    length: number,
    address: string,
    done: (error: Error | null, bytes: number) => void,
  ): void;
  close(): void;
}
interface RawModule {
  readonly Protocol: { readonly UDP: number };
  readonly SocketLevel: { readonly IPPROTO_IP: number };
  readonly SocketOption: { readonly IP_HDRINCL: number };
  createSocket(options: { protocol: number }): RawSocket;
}
const raw = createRequire(import.meta.url)("raw-socket") as RawModule;

const [destination = "", ...packets] = process.argv.slice(2);
const socket = raw.createSocket({ protocol: raw.Protocol.UDP });
socket.setOption(raw.SocketLevel.IPPROTO_IP, raw.SocketOption.IP_HDRINCL, 1);
for (const hex of packets) {
  const packet = Buffer.from(hex, "hex");
  await new Promise<void>((resolve, reject) => {
    socket.send(packet, 0, packet.length, destination, (error) => {
      if (error === null || error === undefined) resolve();
      else reject(error);
    });
  });
}
socket.close();
console.log(`sent ${packets.length}`);
