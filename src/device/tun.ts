import { DeviceError } from "../base/errors.ts";
import { type NativeFrameDevice, wrapNativeDevice } from "./frame-device.ts";
import { type Crew, type NativeDevice, nativeAddon, openError } from "./native.ts";

export interface TunOptions {
  /** Interface name, 1-15 bytes; made when it is not there, and gone with the process. */
  readonly name: string;
  /** `Wake.fd`: ends a wait in `receive`. */
  readonly wakeFd: number;
  /** Microseconds that `receive` looks for frames before it blocks, when the last had some. */
  readonly spinUs?: number;
  /** Other workers on the same device; left out: none. */
  readonly crew?: Crew | undefined;
}

/**
 * Open a TUN device and bring it up.
 *
 * Packets start at the IP header and carry a virtio_net_hdr: TCP (and, from Linux 6.2 on, UDP)
 * comes in GSO packets of up to 64 KiB with partial checksums, and goes back the same way
 * (Documentation/networking/tuntap.rst; drivers/net/tun.c). The queue towards us is raised to
 * 10,000 packets. A device that is down receives nothing and refuses frames; one that is deleted
 * makes `receive` throw.
 *
 * With a crew each worker has a queue of the device, and the steering program divides the packets.
 *
 * @throws PrivilegeError without CAP_NET_ADMIN
 * @throws DeviceError when the name is bad or in use, or the kernel has no TUN
 */
export function openTun(options: TunOptions): NativeFrameDevice {
  const { name, wakeFd, crew } = options;
  assertInterfaceName(name);
  let native: NativeDevice;
  try {
    native = nativeAddon().openTun(name, wakeFd, crew);
  } catch (error) {
    throw openError(error, `TUN device ${name}`);
  }
  native.setSpin(options.spinUs ?? 0);
  return wrapNativeDevice(native, "tun", 0, `TUN device ${name}`);
}

/**
 * Refuse what the kernel would refuse, or take for a pattern ("hg%d"), with a clear sentence.
 *
 * @throws DeviceError
 */
export function assertInterfaceName(name: string): void {
  // dev_valid_name(), net/core/dev.c: shorter than IFNAMSIZ, no '/', ':' or white space.
  if (
    !/^[^\s/:%]{1,15}$/.test(name) ||
    name === "." ||
    name === ".." ||
    Buffer.byteLength(name) > 15
  ) {
    throw new DeviceError(
      `interface name: expected 1-15 bytes without spaces, "/", ":" or "%", got ${JSON.stringify(name)}`,
      "open",
      0,
    );
  }
}
