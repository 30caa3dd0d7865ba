import { DeviceError } from "../base/errors.ts";
import { errnoName, isNativeFailure, nativeAddon } from "./native.ts";

/**
 * Name the calling thread, as `ps -L` and `top -H` show it, and keep it on one processor.
 *
 * @param name - at most 15 bytes
 * @param cpu - number of the processor; null: wherever the kernel puts it
 * @throws DeviceError when the process may not run there
 */
export function placeThread(name: string, cpu: number | null): void {
  try {
    nativeAddon().placeThread(name, cpu ?? -1);
  } catch (error) {
    if (!isNativeFailure(error)) throw error;
    throw new DeviceError(
      `device.cpus: ${name} cannot run on processor ${cpu} (${error.syscall}: ` +
        `${errnoName(error.errno)}); "taskset -pc $$" lists those that it may use`,
      error.syscall,
      error.errno,
    );
  }
}
