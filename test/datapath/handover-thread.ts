import assert from "node:assert/strict";
import { parentPort, workerData } from "node:worker_threads";
import { createRandom } from "../../src/base/random.ts";
import { createContext } from "../../src/datapath/context.ts";
import { createHandover } from "../../src/datapath/handover.ts";
import { HANDED_OVER } from "../../src/datapath/verdict.ts";
import { D_AT, D_BYTES, D_INTERFACE, D_VNET, DESCRIPTOR_WORDS } from "../../src/device/device.ts";
import { createMemoryDevice } from "../../src/device/memory.ts";
import { planRegion, type RegionSize, viewRegion } from "../../src/state/layout.ts";

/**
 * One worker of handover-threads.test.ts: sends numbered frames to all others and looks at what it
 * gets, until it has had the last of everyone.
 */
export interface ThreadTask {
  readonly region: SharedArrayBuffer;
  readonly size: RegionSize;
  readonly worker: number;
  readonly seed: number;
  readonly framesEach: number;
}

export interface ThreadReport {
  readonly received: number;
  /** Sends that found the ring full, each made again later. */
  readonly refused: number;
}

const BYTES_MAX = 9000;

function work(task: ThreadTask): ThreadReport {
  const { framesEach, worker } = task;
  const { workers } = task.size;
  const random = createRandom(task.seed + worker);
  const views = viewRegion(task.region, planRegion(task.size), worker);
  const device = createMemoryDevice({
    linkHeaderBytes: 14,
    interfaces: [{ name: "eth0", index: 0, mac: "", mtu: 9000 }],
    slots: 64,
    slotBytes: 16_384,
    inletSlots: 128,
  });
  const handover = createHandover(createContext(device, views));
  const { rx } = device.batch;
  const memory = new DataView(device.memory);
  // A slot of the device's own: nothing is received from it here.
  const at = 2;
  const others = Array.from({ length: workers }, (_, index) => index).filter((w) => w !== worker);
  const next = new Array<number>(workers).fill(0);
  const seen = new Array<number>(workers).fill(0);
  let received = 0;
  let refused = 0;

  /** A frame says who sent it, its number, and its length, at both of its ends. */
  function sendSome(): void {
    for (let count = random.below(64); count > 0; count--) {
      const to = others[random.below(others.length)]!;
      const number = next[to]!;
      if (number === framesEach) continue;
      const bytes = 24 + random.below(BYTES_MAX);
      rx[D_AT] = at;
      rx[D_BYTES] = bytes;
      rx[D_INTERFACE] = worker;
      rx[D_VNET] = number;
      memory.setInt32(at, number);
      memory.setInt32(at + bytes - 4, ~number);
      if (handover.send(0, to) !== HANDED_OVER) {
        refused++;
        break;
      }
      next[to] = number + 1;
    }
    handover.flush();
  }

  function takeSome(): void {
    if (!handover.isDue()) return;
    const count = handover.receive();
    for (let word = 0; word < count * DESCRIPTOR_WORDS; word += DESCRIPTOR_WORDS) {
      const from = rx[word + D_INTERFACE]!;
      const number = seen[from]!;
      const first = rx[word + D_AT]!;
      assert.equal(rx[word + D_VNET], number, `order of the frames of worker ${from}`);
      assert.equal(memory.getInt32(first), number, "first word");
      assert.equal(memory.getInt32(first + rx[word + D_BYTES]! - 4), ~number, "last word");
      seen[from] = number + 1;
    }
    received += count;
  }

  const total = framesEach * others.length;
  while (received < total || others.some((to) => next[to] !== framesEach)) {
    sendSome();
    takeSome();
  }
  return { received, refused };
}

parentPort!.postMessage(work(workerData as ThreadTask));
