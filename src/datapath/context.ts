import type { FrameDevice } from "../device/device.ts";
import { type AffinityTable, createAffinityTable } from "../flow/affinity-table.ts";
import { createFlowTable, type FlowTable } from "../flow/flow-table.ts";
import { createSnatPorts, type SnatPorts } from "../flow/snat-ports.ts";
import { createScheduler, type Scheduler } from "../scheduler/schedule.ts";
import type { RegionViews, WorkerLayout } from "../state/layout.ts";

/**
 * What every part of the data plane shares: constant views, and a few registers.
 *
 * Whatever changes from frame to frame or from batch to batch lies in `registers`, an Int32Array:
 * a store there never allocates, and every function reads the same place.
 */
export interface Context {
  readonly device: FrameDevice;
  /** All frame memory of the device. */
  readonly view: DataView;
  readonly rx: Int32Array;
  readonly tx: Int32Array;
  /** The mapped region. */
  readonly i32: Int32Array;
  readonly f64: Float64Array;
  /** Its flows, runs, counters and samples are those of this worker. */
  readonly layout: WorkerLayout;
  readonly table: FlowTable;
  readonly affinity: AffinityTable;
  readonly snatPorts: SnatPorts;
  readonly scheduler: Scheduler;
  /** 14 on Ethernet, 0 on TUN. */
  readonly link: number;
  readonly registers: Int32Array;
}

/** Tick of the batch. */
export const R_TICK = 0;
/** First word of the bank in use; 0: none yet, everything passes. */
export const R_BANK = 1;
/** First word of its services and of its address hash; mask of the latter. */
export const R_SERVICES = 2;
export const R_ADDRESSES = 3;
export const R_ADDRESSES_MASK = 4;
export const R_INTERVALS = 5;
/** First word of the hop table in use; 0: none. */
export const R_HOPS = 6;
/** Descriptors in tx, and spares given out, in this batch. */
export const R_TX_COUNT = 7;
export const R_SPARES = 8;
/** Where the frame at hand goes: interface, MTU (0: not checked), destination MAC. */
export const R_OUT_INTERFACE = 9;
export const R_OUT_MTU = 10;
export const R_OUT_MAC_HIGH = 11;
export const R_OUT_MAC_LOW = 12;
/** Token bucket, in thousandths of a token, and the tick it was filled at. */
export const R_TOKENS = 13;
export const R_TOKENS_TICK = 14;
/** Tick of the last sweep, and the fraction of a row that it owes (thousandths). */
export const R_SWEEP_TICK = 15;
export const R_SWEEP_OWED = 16;
/** The walk for H_SWEEP_REQUESTED that is under way (0: none). */
export const R_WALK = 17;
/** Row + 1 that the walk could not end for want of a token; 0: none. */
export const R_WALK_PENDING = 24;
/** Drop samples taken at R_SAMPLE_TICK. */
export const R_SAMPLE_TICK = 18;
export const R_SAMPLES_TAKEN = 19;
/** Next hop requests written in this batch. */
export const R_HOP_REQUESTS = 20;
/** Announcement under way: number, and the next address entry to announce. */
export const R_ANNOUNCE = 21;
export const R_ANNOUNCE_NEXT = 22;
/** Identification of the packets that we make (IPv4 ID, RFC 6864 allows any for atomic ones). */
export const R_IPV4_ID = 23;
/** 1: the batch at hand was handed over by other workers. */
export const R_HANDED = 25;
/**
 * The IPv6 packet at hand (or the one that it quotes): addresses in four words each, host order, and
 * what stands for them in a flow's key.
 */
export const R_SOURCE6 = 26;
export const R_DESTINATION6 = 30;
export const R_SOURCE_FOLD = 34;
export const R_DESTINATION_FOLD = 35;
/** 1 while a flow is opened for an IPv6 packet: its addresses are R_SOURCE6 and R_DESTINATION6. */
export const R_IS_IPV6 = 36;
/** Transport header of the packet at hand, behind all extension headers: byte offset. */
export const R_L4_AT = 37;
/** Its fragment header (of an atomic fragment), or 0. */
export const R_FRAGMENT_AT = 38;
/** Announcement under way: the next address within a prefix. */
export const R_ANNOUNCE_WITHIN = 39;
/** Microseconds of the batch, for latencies (passive.ts). */
export const R_MICROS = 40;
/** 1: a frame of this batch that was sent before its end was refused, and its verdict changed. */
export const R_REFUSED = 44;
/** Tick of the last look through the backend slots for a path MTU. */
export const R_PATH_MTU_TICK = 45;
/** Set of the affinity table that its sweep looks at next. */
export const R_AFFINITY_SWEEP = 46;
/** The flow that process.ts has sent a frame on by: row << 1 | direction. */
export const R_FLOW = 50;
/** Tick at which fragments that are held were last looked at. */
export const R_HELD_TICK = 51;
/** Token bucket of datagrams in fragments, in thousandths of a token, and the tick it was filled at. */
export const R_FRAGMENT_TOKENS = 52;
export const R_FRAGMENT_TOKENS_TICK = 53;
/** First word of the access lists in use. */
export const R_ACCESS = 56;
/** Identification for the fragment at hand, | 0x10000; 0: it keeps its own. */
export const R_FRAGMENT_ID = 54;
/** 1: the packet at hand may not go without a flow, since further fragments follow it. */
export const R_NEEDS_FLOW = 55;
/** Bucket of new flows (`flows.statelessAbove`): thousandths of a token, and the tick of filling. */
export const R_NEW_FLOWS = 57;
export const R_NEW_FLOWS_TICK = 58;
/** 1: a packet has gone on without a flow, the last one at tick R_STATELESS_TICK. */
export const R_STATELESS = 59;
export const R_STATELESS_TICK = 60;
export const REGISTER_COUNT = 64;

/** @param device - its memory and batch must stay the same as long as it is open */
export function createContext(device: FrameDevice, views: RegionViews): Context {
  const table = createFlowTable(views);
  return {
    device,
    view: new DataView(device.memory),
    rx: device.batch.rx,
    tx: device.batch.tx,
    i32: views.i32,
    f64: views.f64,
    layout: views.layout,
    table,
    affinity: createAffinityTable(views),
    snatPorts: createSnatPorts(views, table),
    scheduler: createScheduler(views),
    link: device.linkHeaderBytes,
    registers: new Int32Array(REGISTER_COUNT),
  };
}
