import type { DropSample } from "../base/admin-types.ts";
import { DROP_SAMPLE_BYTES, DROP_SAMPLES } from "../base/limits.ts";
import { DROP_REASONS } from "../datapath/verdict.ts";
import { PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP } from "../flow/flow-record.ts";
import {
  SAMPLE_CAPTURED_BYTES,
  SAMPLE_FRAME_BYTES,
  SAMPLE_HEADER_WORDS,
  SAMPLE_INTERFACE,
  SAMPLE_LINK_BYTES,
  SAMPLE_REASON,
  SAMPLE_SEQUENCE,
  SAMPLE_TICK,
  SAMPLE_WORDS,
} from "../state/drop-sample.ts";
import type { RegionViews } from "../state/layout.ts";

/**
 * Read the samples of all workers, newest first. A record that is written while it is read is left out.
 *
 * @param tick - now, as ticks are (monotonic milliseconds, int32)
 * @param nowMs - the same moment on the wall clock, for people
 * @param interfaces - names by index in the device's list
 */
export function readDropSamples(
  views: RegionViews,
  tick: number,
  nowMs: number,
  interfaces: readonly string[],
): DropSample[] {
  const { i32, u8, layout } = views;
  const found: { ageMs: number; sequence: number; sample: DropSample }[] = [];
  const read = (word: number): void => {
    const sequence = Atomics.load(i32, word + SAMPLE_SEQUENCE);
    if (sequence === 0) return;
    const captured = Math.min(i32[word + SAMPLE_CAPTURED_BYTES]! >>> 0, DROP_SAMPLE_BYTES);
    const frame = u8.slice(
      word * 4 + SAMPLE_HEADER_WORDS * 4,
      word * 4 + SAMPLE_HEADER_WORDS * 4 + captured,
    );
    const ageMs = (tick - i32[word + SAMPLE_TICK]!) | 0;
    const sample = {
      at: new Date(nowMs - Math.max(0, ageMs)).toISOString(),
      reason: DROP_REASONS[i32[word + SAMPLE_REASON]!] ?? "unknown",
      interface: interfaces[i32[word + SAMPLE_INTERFACE]!] ?? "",
      bytes: i32[word + SAMPLE_FRAME_BYTES]!,
      header: Buffer.from(frame).toString("hex"),
      summary: summarise(frame, i32[word + SAMPLE_LINK_BYTES]!),
    };
    if (Atomics.load(i32, word + SAMPLE_SEQUENCE) === sequence) {
      found.push({ ageMs, sequence, sample });
    }
  };
  for (const { samples } of layout.shards) {
    for (let index = 0; index < DROP_SAMPLES; index++) {
      read((samples.at >> 2) + index * SAMPLE_WORDS);
    }
  }
  // Within one millisecond the sequence decides; between workers it says nothing, and need not.
  return found
    .sort((a, b) => a.ageMs - b.ageMs || b.sequence - a.sequence)
    .map((entry) => entry.sample);
}

const PROTOCOL_TEXT = new Map([
  [PROTOCOL_ICMP, "icmp"],
  [PROTOCOL_TCP, "tcp"],
  [PROTOCOL_UDP, "udp"],
]);

/**
 * One line about a frame: "tcp 198.51.100.2:40000 > 203.0.113.10:80", "icmp 8/0 A > B",
 * "arp", or "" when it cannot be read.
 *
 * @param frame - its first bytes; may end anywhere
 * @param linkBytes - bytes before the IP header
 */
export function summarise(frame: Uint8Array, linkBytes: number): string {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  if (linkBytes >= 14 && frame.byteLength >= 14) {
    const type = view.getUint16(12);
    if (type === 0x0806) return "arp";
    if (type !== 0x0800) return "";
  }
  const at = linkBytes;
  if (at < 0 || frame.byteLength < at + 20 || view.getUint8(at) >> 4 !== 4) return "";
  const headerBytes = (view.getUint8(at) & 0x0f) * 4;
  const protocol = view.getUint8(at + 9);
  const name = PROTOCOL_TEXT.get(protocol) ?? `protocol ${protocol}`;
  const source = dotted(frame, at + 12);
  const destination = dotted(frame, at + 16);
  const later = (view.getUint16(at + 6) & 0x1fff) !== 0;
  const l4 = at + headerBytes;
  if (later || headerBytes < 20 || frame.byteLength < l4 + 4) {
    return `${name} ${source} > ${destination}${later ? " (fragment)" : ""}`;
  }
  if (protocol === PROTOCOL_ICMP) {
    return `${name} ${view.getUint8(l4)}/${view.getUint8(l4 + 1)} ${source} > ${destination}`;
  }
  if (protocol !== PROTOCOL_TCP && protocol !== PROTOCOL_UDP) {
    return `${name} ${source} > ${destination}`;
  }
  return `${name} ${source}:${view.getUint16(l4)} > ${destination}:${view.getUint16(l4 + 2)}`;
}

function dotted(frame: Uint8Array, at: number): string {
  return `${frame[at]}.${frame[at + 1]}.${frame[at + 2]}.${frame[at + 3]}`;
}
