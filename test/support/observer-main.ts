import { createRequire } from "node:module";
import { createPcap, LINK_ETHERNET, LINK_RAW } from "../../src/device/pcap.ts";

/**
 * The independent observer of a wire: libpcap (npm package `cap`), in a process of its own, because
 * `cap` keeps only a raw pointer to its buffer and is not safe in a second thread.
 *
 *   node observer-main.js INTERFACE FILE FILTER BUFFER_BYTES
 *
 * Prints `ready` when it captures; on SIGTERM writes what it saw as a pcap file, prints the count,
 * and ends. It sees frames in both directions; the filter says which.
 */
interface Cap {
  open(device: string, filter: string, bufferBytes: number, buffer: Buffer): string;
  on(event: "packet", listener: (bytes: number, truncated: boolean) => void): void;
  close(): void;
}
const { Cap } = createRequire(import.meta.url)("cap") as { Cap: new () => Cap };

const [interfaceName, file, filter, bufferBytes] = process.argv.slice(2) as [
  string,
  string,
  string,
  string,
];
// Referenced as long as the process lives: the addon does not.
const buffer = Buffer.alloc(65_536 + 64);
const frames: Uint8Array[] = [];
let truncatedFrames = 0;
const cap = new Cap();
const link = cap.open(interfaceName, filter, Number(bufferBytes), buffer);
if (link !== "ETHERNET" && link !== "RAW") throw new Error(`link type ${link}`);
cap.on("packet", (bytes, truncated) => {
  if (truncated) truncatedFrames++;
  frames.push(Uint8Array.prototype.slice.call(buffer, 0, bytes));
});
process.on("SIGTERM", () => {
  cap.close();
  const writer = createPcap(file, link === "ETHERNET" ? LINK_ETHERNET : LINK_RAW);
  for (const frame of frames) writer.write(frame, 0n);
  writer.close();
  console.log(`captured ${frames.length}, truncated ${truncatedFrames}`);
  process.exit(buffer.length > 0 && truncatedFrames === 0 ? 0 : 1);
});
console.log("ready");
