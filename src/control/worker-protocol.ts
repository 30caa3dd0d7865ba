import type { ErrorCode } from "../base/errors.ts";
import type { DeviceInterface } from "../device/device.ts";
import type { Crew } from "../device/native.ts";
import type { PacketOptions } from "../device/packet.ts";
import type { TunOptions } from "../device/tun.ts";
import type { XdpOptions } from "../device/xdp.ts";
import type { RegionSize } from "../state/layout.ts";

/** What the worker thread is started with (`workerData`). */
export interface WorkerOptions {
  readonly statePath: string;
  readonly size: RegionSize;
  /** Its number, 0..size.workers - 1. */
  readonly worker: number;
  /** Processor that it stays on; null: where the kernel puts it. */
  readonly cpu: number | null;
  readonly device:
    | ({ readonly type: "tun" } & TunOptions)
    | ({ readonly type: "packet" } & PacketOptions)
    | ({ readonly type: "xdp" } & XdpOptions);
  /** Give up every capability of the bounding set once the device is open (`user`). */
  readonly limited: boolean;
  /** Its place among several workers; undefined: it is the only one. */
  readonly crew: Crew | undefined;
}

/** The one message that a worker posts; control answers with one message, which means "go". */
export type FromWorker =
  | {
      readonly kind: "started";
      readonly interfaces: readonly DeviceInterface[];
      /** What there is to know of the device beside its interfaces, for the log. */
      readonly about: Readonly<Record<string, boolean>>;
      /** AF_PACKET with several workers: fan-out group of each interface. */
      readonly groups: readonly number[];
    }
  | {
      readonly kind: "failed";
      readonly code: ErrorCode;
      readonly message: string;
      readonly exitCode: number;
    };
