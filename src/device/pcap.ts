import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { EXIT, HeadgateError } from "../base/errors.ts";

/**
 * Capture files in the pcap format (draft-ietf-opsawg-pcap): frames in and out, one by one. Cold.
 *
 *   file   = header of 24 bytes, records
 *   header = magic, major 2, minor 4, 0, 0, snapshot length, link type
 *   record = seconds, fraction, bytes kept, bytes on the wire, the bytes kept
 *
 * The magic says the byte order of all numbers and whether the fraction counts micro- or
 * nanoseconds. Readers take all four kinds; writers write nanoseconds, little-endian.
 */

/** Frames start with an Ethernet header. */
export const LINK_ETHERNET = 1;
/** Packets start with the IP header, as on TUN. */
export const LINK_RAW = 101;

export interface PcapFrame {
  readonly bytes: Uint8Array;
  /** Nanoseconds since 1970. */
  readonly timeNs: bigint;
  /** Length on the wire; more than `bytes.length` when the capture cut the frame. */
  readonly wireBytes: number;
}

export interface PcapReader {
  /** LINK_ETHERNET, LINK_RAW, or another number of the registry at tcpdump.org/linktypes. */
  readonly linkType: number;
  /** Most bytes kept of a frame. */
  readonly snapshotBytes: number;
  /**
   * @returns the next frame, or null at the end of the file
   * @throws HeadgateError when the file is damaged or ends within a record
   */
  next(): PcapFrame | null;
  /** Closing twice is fine. */
  close(): void;
  [Symbol.iterator](): Iterator<PcapFrame>;
}

export interface PcapWriter {
  readonly frames: number;
  /**
   * Append one frame, whole.
   *
   * @param timeNs - nanoseconds since 1970, below 2^32 s
   * @throws HeadgateError when it cannot be written, or is longer than FRAME_BYTES_MAX
   */
  write(bytes: Uint8Array, timeNs: bigint): void;
  /** Closing twice is fine. */
  close(): void;
}

const MAGIC_MICROSECONDS = 0xa1b2c3d4;
const MAGIC_NANOSECONDS = 0xa1b23c4d;
const MAGIC_PCAPNG = 0x0a0d0d0a;
const VERSION_MAJOR = 2;
const VERSION_MINOR = 4;
const FILE_HEADER_BYTES = 24;
const RECORD_HEADER_BYTES = 16;
/** MAXIMUM_SNAPLEN of libpcap: a longer record is damage, not a frame. */
export const FRAME_BYTES_MAX = 262_144;
const NS_PER_SECOND = 1_000_000_000n;

function pcapError(message: string, cause?: unknown): HeadgateError {
  const options = cause === undefined ? undefined : { cause };
  return new HeadgateError("HEADGATE_DEVICE", message, EXIT.failed, options);
}

function open(path: string, flags: "r" | "w"): number {
  try {
    return openSync(path, flags);
  } catch (error) {
    throw pcapError(`cannot open the capture file ${path}: ${(error as Error).message}`, error);
  }
}

/** Fills `into` from the file; fewer bytes than asked for means that the file ended. */
function readFully(fd: number, into: Uint8Array, path: string): number {
  let have = 0;
  while (have < into.length) {
    let got: number;
    try {
      got = readSync(fd, into, have, into.length - have, null);
    } catch (error) {
      throw pcapError(`cannot read the capture file ${path}: ${(error as Error).message}`, error);
    }
    if (got === 0) break;
    have += got;
  }
  return have;
}

interface FileHeader {
  readonly littleEndian: boolean;
  /** Nanoseconds of one unit of a record's fraction. */
  readonly unitNs: bigint;
  readonly snapshotBytes: number;
  readonly linkType: number;
}

function parseFileHeader(header: DataView, path: string): FileHeader {
  const bigMagic = header.getUint32(0);
  if (bigMagic === MAGIC_PCAPNG) {
    throw pcapError(`${path} is a pcapng file; convert it with: editcap -F pcap ${path} OUT.pcap`);
  }
  const littleEndian = ![MAGIC_MICROSECONDS, MAGIC_NANOSECONDS].includes(bigMagic);
  const magic = header.getUint32(0, littleEndian);
  if (magic !== MAGIC_MICROSECONDS && magic !== MAGIC_NANOSECONDS) {
    const shown = bigMagic.toString(16).padStart(8, "0");
    throw pcapError(`${path} is not a pcap file: it starts with ${shown}`);
  }
  const major = header.getUint16(4, littleEndian);
  if (major !== VERSION_MAJOR) {
    throw pcapError(`${path} has pcap version ${major}; only version ${VERSION_MAJOR} can be read`);
  }
  return {
    littleEndian,
    unitNs: magic === MAGIC_NANOSECONDS ? 1n : 1000n,
    snapshotBytes: header.getUint32(16, littleEndian),
    // The upper half says whether frames end with their check sequence; it is no part of the type.
    linkType: header.getUint32(20, littleEndian) & 0xffff,
  };
}

/**
 * Open a capture file for reading.
 *
 * @throws HeadgateError when it cannot be opened or is not a pcap file; the sentence says which
 */
export function openPcap(path: string): PcapReader {
  const fd = open(path, "r");
  let closed = false;
  function close(): void {
    if (closed) return;
    closed = true;
    closeSync(fd);
  }
  try {
    return createReader(fd, path, close);
  } catch (error) {
    close();
    throw error;
  }
}

function createReader(fd: number, path: string, close: () => void): PcapReader {
  const fileHeader = new Uint8Array(FILE_HEADER_BYTES);
  const have = readFully(fd, fileHeader, path);
  if (have < FILE_HEADER_BYTES) {
    throw pcapError(`${path} is not a pcap file: it has ${have} bytes, its header alone needs 24`);
  }
  const file = parseFileHeader(new DataView(fileHeader.buffer), path);
  const { littleEndian, unitNs, snapshotBytes, linkType } = file;
  const header = new Uint8Array(RECORD_HEADER_BYTES);
  const headerView = new DataView(header.buffer);
  let at = FILE_HEADER_BYTES;
  let frames = 0;

  function cut(): HeadgateError {
    return pcapError(`${path} ends within frame ${frames + 1}, which starts at byte ${at}`);
  }

  function next(): PcapFrame | null {
    const headerBytes = readFully(fd, header, path);
    if (headerBytes === 0) return null;
    if (headerBytes < RECORD_HEADER_BYTES) throw cut();
    const keptBytes = headerView.getUint32(8, littleEndian);
    if (keptBytes > FRAME_BYTES_MAX) {
      throw pcapError(
        `${path} is damaged: frame ${frames + 1} at byte ${at} says it has ${keptBytes} bytes`,
      );
    }
    const bytes = new Uint8Array(keptBytes);
    if (readFully(fd, bytes, path) < keptBytes) throw cut();
    at += RECORD_HEADER_BYTES + keptBytes;
    frames++;
    const seconds = BigInt(headerView.getUint32(0, littleEndian));
    const fraction = BigInt(headerView.getUint32(4, littleEndian));
    return {
      bytes,
      timeNs: seconds * NS_PER_SECOND + fraction * unitNs,
      wireBytes: headerView.getUint32(12, littleEndian),
    };
  }

  function* iterate(): Generator<PcapFrame, void> {
    for (let frame = next(); frame !== null; frame = next()) yield frame;
  }

  return { linkType, snapshotBytes, next, close, [Symbol.iterator]: iterate };
}

/**
 * Make a capture file, or empty an old one.
 *
 * @param linkType - LINK_ETHERNET or LINK_RAW
 * @throws HeadgateError when it cannot be made
 */
export function createPcap(path: string, linkType: number): PcapWriter {
  const fd = open(path, "w");
  const header = new DataView(new ArrayBuffer(FILE_HEADER_BYTES));
  header.setUint32(0, MAGIC_NANOSECONDS, true);
  header.setUint16(4, VERSION_MAJOR, true);
  header.setUint16(6, VERSION_MINOR, true);
  header.setUint32(16, FRAME_BYTES_MAX, true);
  header.setUint32(20, linkType, true);
  let closed = false;
  let frames = 0;

  function append(bytes: Uint8Array): void {
    let done = 0;
    try {
      while (done < bytes.length) done += writeSync(fd, bytes, done, bytes.length - done);
    } catch (error) {
      throw pcapError(`cannot write the capture file ${path}: ${(error as Error).message}`, error);
    }
  }

  function close(): void {
    if (closed) return;
    closed = true;
    closeSync(fd);
  }

  function write(bytes: Uint8Array, timeNs: bigint): void {
    if (closed) throw pcapError(`cannot write the capture file ${path}: it is closed`);
    if (bytes.length > FRAME_BYTES_MAX) {
      throw pcapError(`a capture file takes ${FRAME_BYTES_MAX} bytes a frame, not ${bytes.length}`);
    }
    // Header and bytes in one write: a process that dies leaves whole records.
    const record = new Uint8Array(RECORD_HEADER_BYTES + bytes.length);
    const view = new DataView(record.buffer);
    view.setUint32(0, Number(timeNs / NS_PER_SECOND), true);
    view.setUint32(4, Number(timeNs % NS_PER_SECOND), true);
    view.setUint32(8, bytes.length, true);
    view.setUint32(12, bytes.length, true);
    record.set(bytes, RECORD_HEADER_BYTES);
    append(record);
    frames++;
  }

  try {
    append(new Uint8Array(header.buffer));
  } catch (error) {
    close();
    throw error;
  }
  return {
    get frames(): number {
      return frames;
    },
    write,
    close,
  };
}

/**
 * Read a whole capture file at once.
 *
 * @throws HeadgateError as openPcap and next do
 */
export function readPcap(path: string): { linkType: number; frames: PcapFrame[] } {
  const reader = openPcap(path);
  try {
    return { linkType: reader.linkType, frames: [...reader] };
  } finally {
    reader.close();
  }
}

/**
 * Write a whole capture file at once: frames whose times nobody knows, one microsecond apart.
 *
 * @param linkType - LINK_ETHERNET or LINK_RAW
 * @throws HeadgateError when it cannot be made or written
 */
export function writePcap(path: string, frames: Iterable<Uint8Array>, linkType: number): void {
  const writer = createPcap(path, linkType);
  try {
    let timeNs = 0n;
    for (const bytes of frames) {
      writer.write(bytes, timeNs);
      timeNs += 1000n;
    }
  } finally {
    writer.close();
  }
}
