import { DeviceError } from "../base/errors.ts";
import { errnoName, isNativeFailure, type NativeWake, nativeAddon } from "./native.ts";

/**
 * Lets one thread wake another that waits in `FrameDevice.receive`.
 *
 * The descriptor number is valid in every thread of the process: the control thread makes the
 * wake and hands `fd` to the worker, which opens its device with it. (Atomics.wait does not work
 * on mapped memory, and a thread inside poll(2) could not be reached by it anyway.)
 */
export interface Wake {
  /** An eventfd. The device keeps a duplicate, so closing the wake first does no harm. */
  readonly fd: number;
  /**
   * End the wait that is going on, or the next one. Several before it count as one.
   *
   * @throws DeviceError when closed
   */
  wake(): void;
  /** Closing twice is fine. */
  close(): void;
}

/**
 * Make a wake.
 *
 * @throws DeviceError when the process has no descriptor left
 */
export function createWake(): Wake {
  let native: NativeWake;
  try {
    native = nativeAddon().createWake();
  } catch (error) {
    if (!isNativeFailure(error)) throw error;
    throw new DeviceError(
      `cannot make a wake-up (${error.syscall}: ${errnoName(error.errno)}); raise the limit of open files (ulimit -n)`,
      error.syscall,
      error.errno,
    );
  }
  return {
    fd: native.fd,
    wake() {
      if (!native.wake()) throw new DeviceError("the wake is closed", "write", 0);
    },
    close() {
      native.close();
    },
  };
}
