import { StateError } from "../../src/base/errors.ts";
import { createContext } from "../../src/datapath/context.ts";
import { createHandover } from "../../src/datapath/handover.ts";
import { HANDED_OVER } from "../../src/datapath/verdict.ts";
import { D_AT, D_BYTES, D_VNET, DESCRIPTOR_WORDS } from "../../src/device/device.ts";
import { createMemoryDevice } from "../../src/device/memory.ts";
import { recordIsSound } from "../../src/flow/check-record.ts";
import { backendSlotOf, F_BACKEND, F_STATE } from "../../src/flow/flow-record.ts";
import { createFlowTable, INSERT_TABLE_FULL } from "../../src/flow/flow-table.ts";
import { B_USED, BACKEND_WORDS } from "../../src/service/backend-slots.ts";
import { planRegion, viewRegion, viewShard } from "../../src/state/layout.ts";
import {
  BACKEND,
  CLIENT,
  createSampleTable,
  findOriginal,
  findReply,
  insertSample,
  originalPorts,
  replyAddress,
  replyPorts,
  type SampleFlow,
  SNAT,
  sampleFlow,
  VIP,
} from "../flow/sample-flows.ts";
import { createMemoryMapper } from "../state/memory-mapper.ts";
import { openSample, PATH, populate } from "../state/sample-region.ts";
import type { ByteTarget } from "./target.ts";

/** What lies in the mapped region: tables, rings, and a region that somebody else left behind. */

/** Three bytes name a flow: few values each, so that keys of both directions often meet. */
function flowFrom(a: number, b: number, c: number): SampleFlow {
  const flow = sampleFlow({
    protocol: (a & 1) === 0 ? 6 : 17,
    client: [CLIENT, CLIENT + 1, CLIENT + 2, BACKEND][(a >> 1) & 3]!,
    vip: [VIP, VIP + 1, SNAT, VIP + 2][(a >> 3) & 3]!,
    clientPort: [80, 1024, 1025, 40_000][(b >> 1) & 3]!,
    vipPort: [80, 1024][(b >> 3) & 1]!,
    backend: [BACKEND, BACKEND + 1, CLIENT, BACKEND + 2][(b >> 4) & 3]!,
    backendPort: [80, 8080, 1024, 1025][c & 3]!,
    state: (a & 1) === 0 ? 1 + ((c >> 2) & 7) : 9 + ((c >> 2) & 1),
    expires: 1 + (c >> 5) * 100,
  });
  if ((b & 1) === 0) return flow;
  return { ...flow, snat: { address: SNAT, port: [80, 1024, 1025, 1026][(b >> 6) & 3]! } };
}

function keysOf(flow: SampleFlow): [string, string] {
  const { protocol, client, vip, backend } = flow;
  return [
    `${protocol} ${client} ${vip} ${originalPorts(flow)}`,
    `${protocol} ${backend} ${replyAddress(flow)} ${replyPorts(flow)}`,
  ];
}

const TABLE_ROWS = 16;
let used: ReturnType<typeof createSampleTable> | null = null;

/** The table of all inputs: a region is large beside sixteen rows. Each input finds it empty. */
function tableOf(): ReturnType<typeof createSampleTable> {
  used ??= createSampleTable({ flowCapacity: TABLE_ROWS });
  // One that failed has left rows behind.
  if (used.table.used() !== 0) used = createSampleTable({ flowCapacity: TABLE_ROWS });
  return used;
}

/** Four bytes are an operation: insert, remove, find, evict, sweep, or begin again from the records. */
export const flowTableTarget: ByteTarget = {
  name: "flow-table",
  smokeInputs: 2000,
  seed: (random) => Uint8Array.from({ length: 4 * random.below(120) }, () => random.below(256)),
  run(bytes) {
    const { table } = tableOf();
    const rows = new Map<number, SampleFlow>();
    const keys = new Map<string, number>();
    const forget = (row: number): void => {
      const flow = rows.get(row);
      if (flow === undefined) throw new Error(`row ${row} is not live`);
      table.remove(row);
      rows.delete(row);
      for (const key of keysOf(flow)) keys.delete(key);
    };
    for (let at = 0; at + 4 <= bytes.length; at += 4) {
      const [operation, a, b, c] = bytes.subarray(at, at + 4) as unknown as number[];
      const flow = flowFrom(a!, b!, c!);
      const [original, reply] = keysOf(flow);
      switch (operation! % 6) {
        case 0:
        case 1: {
          const row = insertSample(table, flow);
          const taken = keys.has(original) || keys.has(reply) || original === reply;
          if (row < 0) {
            if (row === INSERT_TABLE_FULL ? rows.size !== TABLE_ROWS : !taken) {
              throw new Error(`insert refused with ${row}, ${rows.size} live, taken: ${taken}`);
            }
            break;
          }
          if (taken || rows.has(row)) throw new Error(`row ${row} was given twice`);
          rows.set(row, flow);
          keys.set(original, row << 1).set(reply, (row << 1) | 1);
          break;
        }
        case 2: {
          const live = [...rows.keys()];
          if (live.length > 0) forget(live[a! % live.length]!);
          break;
        }
        case 3: {
          const row = table.evict(a! * 10);
          if (row >= 0) forget(row);
          break;
        }
        case 4:
          table.sweepBegin(1 + a!);
          for (let row = table.sweepNext(b! * 10); row >= 0; row = table.sweepNext(b! * 10)) {
            forget(row);
          }
          break;
        default: {
          const { kept, dropped, noRoom } = table.rebuild();
          if (kept !== rows.size || dropped !== 0 || noRoom !== 0) {
            throw new Error(`rebuild: ${kept} of ${rows.size} kept, ${dropped} dropped`);
          }
        }
      }
      if (findOriginal(table, flow) !== (keys.get(original) ?? -1)) {
        throw new Error(`find ${original}: ${findOriginal(table, flow)}`);
      }
      if (table.used() !== rows.size) throw new Error(`used ${table.used()} of ${rows.size}`);
    }
    for (const [row, flow] of rows) {
      const found = [findOriginal(table, flow), findReply(table, flow)];
      if (found[0] !== row << 1 || found[1] !== ((row << 1) | 1)) {
        throw new Error(`row ${row} is found as ${found.join()}`);
      }
    }
    for (const row of rows.keys()) table.remove(row);
  },
};

const RING_WORKERS = 3;

function createRings() {
  const layout = planRegion({
    flowCapacity: 16,
    services: 1,
    backends: 1,
    hashSlots: 1,
    workers: RING_WORKERS,
  });
  const views = viewRegion(new ArrayBuffer(layout.bytes), layout);
  return layout.shards.map(({ worker }) => {
    const device = createMemoryDevice({
      linkHeaderBytes: 14,
      interfaces: [{ name: "eth0", index: 1, mac: "", mtu: 1500 }],
      slots: 64,
      slotBytes: 66_000,
      inletSlots: 128,
    });
    return { device, handover: createHandover(createContext(device, viewShard(views, worker))) };
  });
}

let rings: ReturnType<typeof createRings> | null = null;
/** By `from to`: numbers and lengths of the frames on their way. */
let onTheirWay = new Map<string, { number: number; bytes: number }[]>();
let frameNumber = 0;

/** Four bytes are an operation: a worker sends a frame of some length, or looks at what it has got. */
export const ringsTarget: ByteTarget = {
  name: "rings",
  smokeInputs: 2000,
  seed: (random) => Uint8Array.from({ length: 4 * random.below(100) }, () => random.below(256)),
  run(bytes) {
    try {
      runRings(bytes);
    } catch (error) {
      // The next input begins with empty rings.
      rings = null;
      onTheirWay = new Map();
      throw error;
    }
  },
};

function runRings(bytes: Uint8Array): void {
  rings ??= createRings();
  for (let at = 0; at + 4 <= bytes.length; at += 4) {
    const [operation, a, b, c] = bytes.subarray(at, at + 4) as unknown as number[];
    const worker = a! % RING_WORKERS;
    if ((operation! & 1) === 0) {
      const to = (worker + 1 + (b! % (RING_WORKERS - 1))) % RING_WORKERS;
      send(worker, to, 15 + (c! & 15) * 97 + (operation! >> 1) * (c! >> 4) * 30);
    } else {
      take(worker);
    }
  }
}

function send(from: number, to: number, bytes: number): void {
  const { device, handover } = rings![from]!;
  const frame = new Uint8Array(Math.min(65_000, bytes)).fill(frameNumber & 0xff);
  device.inject(frame, 0, { vnet: frameNumber, csum: from });
  if (device.receive(0) !== 1) throw new Error("the frame did not come in");
  if (handover.send(0, to) !== HANDED_OVER) return;
  const queue = onTheirWay.get(`${from} ${to}`) ?? [];
  queue.push({ number: frameNumber, bytes: frame.length });
  onTheirWay.set(`${from} ${to}`, queue);
  frameNumber = (frameNumber + 1) & 0xffffff;
  handover.flush();
}

function take(worker: number): void {
  const { device, handover } = rings![worker]!;
  if (!handover.isDue()) return;
  const count = handover.receive();
  const { rx } = device.batch;
  const memory = new Uint8Array(device.memory);
  for (let word = 0; word < count * DESCRIPTOR_WORDS; word += DESCRIPTOR_WORDS) {
    const at = rx[word + D_AT]!;
    const bytes = rx[word + D_BYTES]!;
    const number = rx[word + D_VNET]!;
    const queue = [0, 1, 2]
      .map((from) => onTheirWay.get(`${from} ${worker}`))
      .find((one) => one?.[0]?.number === number);
    const expected = queue?.shift();
    if (expected === undefined) throw new Error(`frame ${number} came out of its turn`);
    if (expected.bytes !== bytes) throw new Error(`${bytes} bytes came, ${expected.bytes} went`);
    const filled = Buffer.alloc(bytes, number & 0xff);
    if (filled.compare(memory, at, at + bytes) !== 0) throw new Error(`frame ${number} is another`);
  }
}

let left: ArrayBuffer | null = null;

/** A region as a process that died has left it, with 60 flows. */
function leftBehind(): ArrayBuffer {
  if (left === null) {
    const mapper = createMemoryMapper();
    const region = openSample(mapper);
    populate(region.views, 60);
    region.markProven();
    left = mapper.files.get(PATH)!.buffer.slice(0);
  }
  return left;
}

/**
 * Five bytes are damage: where (mostly in header, slots, records and their index), and what. The next
 * process takes the region over, or refuses it with a sentence; it follows no record that is not whole.
 */
export const takeOverTarget: ByteTarget = {
  name: "take-over",
  smokeInputs: 1000,
  seed: (random) => Uint8Array.from({ length: 5 * random.below(30) }, () => random.below(256)),
  run(bytes) {
    const buffer = leftBehind().slice(0);
    const u8 = new Uint8Array(buffer);
    const layout = planRegion({
      flowCapacity: 64,
      services: 4,
      backends: 16,
      hashSlots: 64,
      workers: 1,
    });
    const [shard] = layout.shards;
    const parts = [
      { at: 0, bytes: 4096 },
      shard!.flows,
      layout.backendSlots,
      layout.serviceSlots,
      shard!.flowIndex,
      shard!.flowFree,
      shard!.flows,
      { at: 0, bytes: layout.bytes },
    ];
    for (let at = 0; at + 5 <= bytes.length; at += 5) {
      const part = parts[bytes[at]! & 7]!;
      const offset = (bytes[at + 1]! * 65_536 + bytes[at + 2]! * 256 + bytes[at + 3]!) % part.bytes;
      u8[part.at + offset] = bytes[at + 4]!;
    }
    const mapper = createMemoryMapper();
    mapper.files.set(PATH, { buffer, locked: false });
    let region: ReturnType<typeof openSample>;
    try {
      region = openSample(mapper);
    } catch (error) {
      if (error instanceof StateError && mapper.held() === 0) return;
      throw error;
    }
    const { views } = region;
    const { i32 } = views;
    const table = createFlowTable(views);
    let live = 0;
    table.walkBegin();
    for (let row = table.walkNext(); row !== -2; row = table.walkNext()) {
      if (row === -1) continue;
      live++;
      const word = table.word(row);
      const slot = backendSlotOf(i32[word + F_BACKEND]!);
      if ((i32[word + F_STATE]! & 0xff) === 0 || !recordIsSound(i32, word)) {
        throw new Error(`row ${row} is followed and is not sound`);
      }
      if (i32[(views.layout.backendSlots.at >> 2) + slot * BACKEND_WORDS + B_USED] !== 1) {
        throw new Error(`row ${row} has backend slot ${slot}, which is not in use`);
      }
    }
    if (live !== table.used() || live > 64) throw new Error(`${live} live, ${table.used()} used`);
    region.close();
  },
};
