import { spawn } from "node:child_process";
import { closeSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline/promises";
import * as record from "../../src/flow/flow-record.ts";
import { STATE_COUNT } from "../../src/flow/flow-record.ts";
import { nextState, SEGMENT_KINDS } from "../../src/flow/tcp-state.ts";
import {
  B_DEADLINE,
  B_EXISTING,
  B_GENERATION,
  B_SERVICE,
  B_USED,
  BACKEND_WORDS,
} from "../../src/service/backend-slots.ts";
import { BANK_SERVICES_AT, S_TIMEOUTS, SERVICE_WORDS } from "../../src/service/bank.ts";
import {
  HOP_INTERFACE,
  HOP_MAC_HIGH,
  HOP_MAC_LOW,
  HOP_MTU,
  HOP_WORDS,
  HT_INTERFACES,
} from "../../src/state/hop-table.ts";
import {
  H_BANK_PUBLISHED,
  H_HOPS_PUBLISHED,
  H_SECRET,
  PAGE_BYTES,
  type RegionViews,
  W_FLOWS_USED,
} from "../../src/state/layout.ts";
import { compileBench } from "../compile.ts";
import { type FrameStore, STORE_BYTES, WINDOW_FRAMES } from "./frame-store.ts";

/**
 * bench/reference/nat.cc on the frames and flows of a fast path: it says what to send, frame by
 * frame, and how long that takes.
 */

const MAGIC = 0x46524748;
const VERSION = 1;
const HEADER_WORDS = 16;
const STATE_STRIDE = 16;

/** A record's words in the order in which the reference has them. */
const RECORD_ORDER = [
  record.F_VERSION,
  record.F_STATE,
  record.F_CLIENT_ADDR,
  record.F_VIP_ADDR,
  record.F_CLIENT_VIP_PORTS,
  record.F_BACKEND_ADDR,
  record.F_REPLY_ADDR,
  record.F_BACKEND_REPLY_PORTS,
  record.F_BACKEND,
  record.F_EXPIRES,
  record.F_DELTA,
  record.F_HOP_MAC_HIGH,
  record.F_HOP_MAC_LOW,
  record.F_CREATED,
  record.F_ACK_ORIGINAL,
  record.F_ACK_REPLY,
];

/** netfilter's table, as the fast path has it: [direction][kind][state], a byte each. */
function stateTable(): Int8Array {
  const table = new Int8Array(2 * SEGMENT_KINDS * STATE_STRIDE);
  for (let direction = 0; direction < 2; direction++) {
    for (let kind = 0; kind < SEGMENT_KINDS; kind++) {
      for (let state = 0; state < STATE_STRIDE; state++) {
        const cell = (direction * SEGMENT_KINDS + kind) * STATE_STRIDE + state;
        table[cell] = nextState(state, direction, kind);
      }
    }
  }
  return table;
}

function interfaceRows({ i32, layout }: RegionViews): Int32Array {
  const base = layout.hops[i32[H_HOPS_PUBLISHED]! & 1]!.at >> 2;
  return i32.slice(base + HT_INTERFACES, base + HT_INTERFACES + 8);
}

function timeoutRows({ i32, layout }: RegionViews): Int32Array {
  const bank = layout.banks[i32[H_BANK_PUBLISHED]! & 1]!.at >> 2;
  const services = bank + (i32[bank + BANK_SERVICES_AT]! >> 2);
  const rows = new Int32Array(layout.services * STATE_STRIDE);
  for (let service = 0; service < layout.services; service++) {
    for (let state = 0; state < STATE_COUNT; state++) {
      rows[service * STATE_STRIDE + state] =
        i32[services + service * SERVICE_WORDS + S_TIMEOUTS + state]!;
    }
  }
  return rows;
}

function backendRows({ i32, layout }: RegionViews): Int32Array {
  const hops = (layout.hops[i32[H_HOPS_PUBLISHED]! & 1]!.at + PAGE_BYTES) >> 2;
  const rows = new Int32Array(layout.backends * 8);
  for (let slot = 0; slot < layout.backends; slot++) {
    const at = (layout.backendSlots.at >> 2) + slot * BACKEND_WORDS;
    const hop = hops + slot * HOP_WORDS;
    if (i32[at + B_USED] === 0) continue;
    rows.set(
      [
        i32[at + B_GENERATION]!,
        i32[at + B_EXISTING]!,
        i32[at + B_SERVICE]!,
        i32[hop + HOP_INTERFACE]!,
        i32[hop + HOP_MTU]!,
        i32[hop + HOP_MAC_HIGH]!,
        i32[hop + HOP_MAC_LOW]!,
        i32[at + B_DEADLINE]!,
      ],
      slot * 8,
    );
  }
  return rows;
}

function flowRows({ i32, layout }: RegionViews, flows: number): Int32Array {
  const rows = new Int32Array(flows * RECORD_ORDER.length);
  for (let row = 0; row < flows; row++) {
    const at = (layout.flows.at >> 2) + row * record.FLOW_WORDS;
    RECORD_ORDER.forEach((word, index) => {
      rows[row * RECORD_ORDER.length + index] = i32[at + word]!;
    });
  }
  return rows;
}

/** Write all that the reference needs: state table, interfaces, services, backends, flows, frames. */
export function writeReferenceInput(file: string, views: RegionViews, store: FrameStore): void {
  const { i32, layout } = views;
  const flows = i32[layout.workerWord + W_FLOWS_USED]!;
  const header = new Int32Array(HEADER_WORDS);
  header.set([
    MAGIC,
    VERSION,
    flows,
    store.bytes.length / STORE_BYTES,
    layout.services,
    layout.backends,
    layout.flowCapacity,
    WINDOW_FRAMES,
    i32[H_SECRET]!,
    i32[H_SECRET + 1]!,
  ]);
  const parts = [
    header,
    stateTable(),
    interfaceRows(views),
    timeoutRows(views),
    backendRows(views),
    flowRows(views, flows),
    store.bytes,
  ];
  const fd = openSync(file, "w", 0o600);
  try {
    for (const part of parts) {
      const bytes = new Uint8Array(part.buffer, part.byteOffset, part.byteLength);
      for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
    }
  } finally {
    closeSync(fd);
  }
}

/**
 * Compare what the reference has sent with what the fast path has sent, every byte, length and
 * egress.
 *
 * @param sent - frames in the store's form, by the place of the received frame
 * @throws Error that names the first frame that differs, with both: then no figure means anything
 */
export function compareOutputs(file: string, sent: Uint8Array): void {
  const part = Buffer.alloc(Math.min(sent.length, 1 << 20));
  const fd = openSync(file, "r");
  try {
    for (let at = 0; at < sent.length; ) {
      const got = readSync(fd, part, 0, Math.min(part.length, sent.length - at), at);
      if (got === 0) throw new Error(`the reference sent ${at / STORE_BYTES} frames only`);
      const ours = sent.subarray(at, at + got);
      if (Buffer.compare(part.subarray(0, got), ours) !== 0) throw difference(part, ours, at);
      at += got;
    }
    if (readSync(fd, part, 0, 1, sent.length) !== 0) throw new Error("the reference sent more");
  } finally {
    closeSync(fd);
  }
}

function difference(theirs: Uint8Array, ours: Uint8Array, at: number): Error {
  const byte = ours.findIndex((value, index) => value !== theirs[index]);
  const first = byte - (byte % STORE_BYTES);
  const hex = (bytes: Uint8Array): string =>
    Buffer.from(bytes.subarray(first, first + STORE_BYTES)).toString("hex");
  return new Error(
    `frame ${(at + first) / STORE_BYTES} differs from the reference's at byte ${(byte % STORE_BYTES) - 2}: ` +
      `no ratio is printed\n  fast path ${hex(ours)}\n  reference ${hex(theirs)}`,
  );
}

export interface Reference {
  /** Run all frames some times; nanoseconds a frame. */
  measure(passes: number): Promise<number>;
  stop(): Promise<void>;
}

/**
 * Start the reference on an input; it has run all frames once when this returns.
 *
 * @param sent - what the fast path has sent for the same frames
 * @throws Error when the two differ in any byte
 */
export async function startReference(
  folder: string,
  input: string,
  sent: Uint8Array,
): Promise<Reference> {
  const program = compileBench("reference/nat.cc", "bench-reference", ["-O3"]);
  const output = path.join(folder, "sent");
  const child = spawn(program, [input, output], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout });
  const waiting: ((line: string) => void)[] = [];
  const failed: ((error: Error) => void)[] = [];
  const exited = new Promise<void>((resolve) => {
    child.once("close", (code) => {
      for (const fail of failed) fail(new Error(`the reference ended with ${code}`));
      resolve();
    });
  });
  lines.on("line", (line) => waiting.shift()?.(line));
  const next = (): Promise<string> =>
    new Promise((resolve, reject) => {
      waiting.push(resolve);
      failed.push(reject);
    });
  const stop = async (): Promise<void> => {
    child.stdin.end();
    await exited;
    rmSync(output, { force: true });
  };
  try {
    const said = await next();
    if (said !== "ready") throw new Error(`the reference said ${said}`);
    compareOutputs(output, sent);
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    async measure(passes) {
      const frames = (sent.length / STORE_BYTES) * passes;
      const answer = next();
      child.stdin.write(`${passes}\n`);
      const { nsPerFrame, forwarded } = JSON.parse(await answer) as {
        nsPerFrame: number;
        forwarded: number;
      };
      if (forwarded !== frames) {
        throw new Error(`the reference forwarded ${forwarded} of ${frames} frames`);
      }
      return nsPerFrame;
    },
    stop,
  };
}
