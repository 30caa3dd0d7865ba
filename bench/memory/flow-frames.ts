import {
  EXTENSION_WORDS,
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_REPLY_ADDR,
  F_STATE,
  F_VIP_ADDR,
  FLOW_WORDS,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  X_BACKEND,
  X_CLIENT,
  X_REPLY,
  X_VIP,
} from "../../src/flow/flow-record.ts";
import { macHigh, macLow } from "../../src/state/hop-table.ts";
import { W_FLOWS_USED } from "../../src/state/layout.ts";
import {
  CLIENT_MAC,
  CLIENT6,
  type FastPath,
  GATEWAY_MACS,
  isOneWayCase,
  type MemoryCase,
  type MemoryProtocol,
  VIP_PORT,
  vip6Of,
  vipOf,
} from "./fast-path.ts";
import {
  clientOf,
  createFrameStore,
  type FrameFields,
  type FrameStore,
  STORE_BYTES,
  STORE_BYTES_IPV6,
  WINDOW_FRAMES,
  writeFrame,
  writeFrame6,
} from "./frame-store.ts";

/** The frames of a case's flows: those that open them, and those of both directions afterwards. */

const SYN = 2;
const ACK = 16;

function slotBytesOf({ family }: MemoryCase): number {
  return family === undefined ? STORE_BYTES : STORE_BYTES_IPV6;
}

const PROTOCOLS = { tcp: PROTOCOL_TCP, udp: PROTOCOL_UDP } as const;

/** The fields of frames, made once and changed for each frame: a million objects would be garbage. */
function blankFields(protocol: MemoryProtocol): FrameFields {
  return {
    side: 0,
    destinationMacHigh: 0,
    destinationMacLow: 0,
    sourceMacHigh: 0,
    sourceMacLow: 0,
    protocol: PROTOCOLS[protocol],
    source: 0,
    destination: 0,
    ports: 0,
    tcpFlags: ACK,
  };
}

/** The fields of SYNs to the first service; source and ports are the caller's. */
export function synFields(): FrameFields {
  const fields = blankFields("tcp");
  fromClient(fields);
  fields.destination = vipOf(0);
  fields.tcpFlags = SYN;
  return fields;
}

/** MACs and side of a frame that comes from the client's side. */
function fromClient(fields: FrameFields): void {
  fields.side = 0;
  fields.destinationMacHigh = macHigh(GATEWAY_MACS[0]);
  fields.destinationMacLow = macLow(GATEWAY_MACS[0]);
  fields.sourceMacHigh = macHigh(CLIENT_MAC);
  fields.sourceMacLow = macLow(CLIENT_MAC);
}

/** MACs and side of a frame that comes from a backend. */
function fromBackend(fields: FrameFields, address: number): void {
  fields.side = 1;
  fields.destinationMacHigh = macHigh(GATEWAY_MACS[1]);
  fields.destinationMacLow = macLow(GATEWAY_MACS[1]);
  fields.sourceMacHigh = 0x02000000 | ((address >>> 16) & 0xffff);
  fields.sourceMacLow = address & 0xffff;
}

/**
 * Write the frame that flow `row` sends in a direction, as its record says.
 *
 * @param direction - 0 ORIGINAL, 1 REPLY
 */
function flowFrame(
  path: FastPath,
  one: MemoryCase,
  store: FrameStore,
  index: number,
  fields: FrameFields,
  row: number,
  direction: number,
): void {
  if (one.family !== undefined) {
    flowFrame6(path, one, store, index, fields, row, direction);
    return;
  }
  const { i32, layout } = path.views;
  const at = (layout.flows.at >> 2) + row * FLOW_WORDS;
  if (direction === 0) {
    fromClient(fields);
    fields.source = i32[at + F_CLIENT_ADDR]!;
    fields.destination = i32[at + F_VIP_ADDR]!;
    fields.ports = i32[at + F_CLIENT_VIP_PORTS]!;
  } else {
    fields.source = i32[at + F_BACKEND_ADDR]!;
    fromBackend(fields, fields.source);
    fields.destination = i32[at + F_REPLY_ADDR]!;
    fields.ports = i32[at + F_BACKEND_REPLY_PORTS]!;
  }
  writeFrame(store, index, fields);
}

/** The same for a flow with an extension. */
function flowFrame6(
  path: FastPath,
  { family }: MemoryCase,
  store: FrameStore,
  index: number,
  fields: FrameFields,
  row: number,
  direction: number,
): void {
  const { i32, layout } = path.views;
  const at = (layout.flows.at >> 2) + row * FLOW_WORDS;
  const extension = (layout.flowExtensions.at >> 2) + row * EXTENSION_WORDS;
  if (direction === 0) {
    fromClient(fields);
    fields.ports = i32[at + F_CLIENT_VIP_PORTS]!;
    writeFrame6(store, index, fields, i32, extension + X_CLIENT, extension + X_VIP);
    return;
  }
  // The last word of a mapped address is the IPv4 address.
  fields.source = i32[extension + X_BACKEND + 3]!;
  fields.destination = i32[extension + X_REPLY + 3]!;
  fromBackend(fields, fields.source);
  fields.ports = i32[at + F_BACKEND_REPLY_PORTS]!;
  if (family === "ipv6-ipv4") writeFrame(store, index, fields);
  else writeFrame6(store, index, fields, i32, extension + X_BACKEND, extension + X_REPLY);
}

/** Writes frames 0..count-1 window by window and runs them; for opening, so nothing is timed. */
function runAll(
  path: FastPath,
  store: FrameStore,
  count: number,
  write: (frame: number, index: number) => void,
): void {
  for (let first = 0; first < count; first += WINDOW_FRAMES) {
    const part = Math.min(WINDOW_FRAMES, count - first);
    for (let index = 0; index < part; index++) write(first + index, index);
    path.runWindow(store, 0, part);
  }
}

/**
 * Open the flows of a case, each by packets of its own: SYN, SYN-ACK, ACK, or a datagram each way.
 *
 * @throws Error when one was refused
 */
export function openFlows(path: FastPath, one: MemoryCase): void {
  const store = createFrameStore(WINDOW_FRAMES, slotBytesOf(one));
  const fields = blankFields(one.protocol);
  const client = new Int32Array(2);
  // Client, VIP.
  const words = Int32Array.of(...CLIENT6, 0, ...vip6Of(0));
  fields.tcpFlags = SYN;
  runAll(path, store, one.flows, (id, index) => {
    clientOf(id, client);
    fromClient(fields);
    fields.source = client[0]!;
    fields.destination = vipOf(id % one.services);
    fields.ports = (client[1]! << 16) | VIP_PORT;
    words[3] = fields.source;
    words[7] = fields.destination;
    if (one.family === undefined) writeFrame(store, index, fields);
    else writeFrame6(store, index, fields, words, 0, 4);
  });
  const used = path.views.i32[path.views.layout.workerWord + W_FLOWS_USED]!;
  if (used !== one.flows) throw new Error(`${used} of ${one.flows} flows were opened`);
  fields.tcpFlags = SYN | ACK;
  if (!isOneWayCase(one)) {
    runAll(path, store, used, (row, index) => flowFrame(path, one, store, index, fields, row, 1));
  }
  fields.tcpFlags = ACK;
  runAll(path, store, used, (row, index) => flowFrame(path, one, store, index, fields, row, 0));
  path.checkForwarded();
  const { i32, layout } = path.views;
  const states = new Set<number>();
  for (let row = 0; row < used; row++) {
    states.add(i32[(layout.flows.at >> 2) + row * FLOW_WORDS + F_STATE]! & 0xff);
  }
  if (states.size !== 1) throw new Error(`flows are in states ${[...states].join(", ")}`);
}

/**
 * The frames to measure with: both directions of every flow, in an order without order; again from
 * the start when there are fewer than `framesMin`.
 *
 * @param seed - of the order
 */
export function steadyFrames(
  path: FastPath,
  one: MemoryCase,
  framesMin: number,
  seed: number,
): FrameStore & { readonly frames: number } {
  const sides = isOneWayCase(one) ? 1 : 2;
  const ends = one.flows * sides;
  const order = new Uint32Array(ends);
  for (let end = 0; end < ends; end++) order[end] = end;
  // Fisher and Yates, with a generator that makes no garbage.
  let state = seed | 1;
  for (let left = ends - 1; left > 0; left--) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    const other = (state >>> 0) % (left + 1);
    const kept = order[left]!;
    order[left] = order[other]!;
    order[other] = kept;
  }
  const frames = Math.ceil(Math.max(ends, framesMin) / WINDOW_FRAMES) * WINDOW_FRAMES;
  const store = createFrameStore(frames, slotBytesOf(one));
  const fields = blankFields(one.protocol);
  for (let frame = 0; frame < frames; frame++) {
    const end = order[frame % ends]!;
    const row = sides === 1 ? end : end >>> 1;
    flowFrame(path, one, store, frame, fields, row, sides === 1 ? 0 : end & 1);
  }
  return { ...store, frames };
}
