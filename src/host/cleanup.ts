import { removeNftablesGuards } from "./guard-nftables.ts";
import { BPF_FOLDER, removePinnedGuards } from "./guard-pins.ts";
import { removeProbeDevices } from "./probe-device.ts";
import { removeTunRoutes } from "./tun-leftovers.ts";

/**
 * Remove what a crashed gateway may have left in this network namespace: routing rules, routes and
 * tables, the device of health checks, pinned guards, nftables tables. Doing it twice is fine.
 *
 * Not beside a running gateway, whose routes and guard would go too: the caller checks that nobody
 * holds the state file.
 *
 * @param bpfFolder - where the bpf file system is mounted
 * @returns what was removed, one sentence each; empty when there was nothing
 * @throws HostError, DeviceError - `ip` is missing, or the kernel refused
 */
export async function cleanUp(bpfFolder: string = BPF_FOLDER): Promise<string[]> {
  return [
    ...(await removeProbeDevices()),
    ...(await removeTunRoutes()),
    ...removePinnedGuards(bpfFolder),
    ...(await removeNftablesGuards()),
  ].map((what) => `removed ${what}`);
}
