import { DeviceError } from "../base/errors.ts";
import { INTERFACES_MAX } from "../base/limits.ts";
import { type NativeFrameDevice, wrapNativeDevice } from "./frame-device.ts";
import { type Crew, type NativeDevice, nativeAddon, openError } from "./native.ts";
import { assertInterfaceName } from "./tun.ts";

export interface PacketOptions {
  /** Ethernet interfaces of this network namespace, 1-16; the first has index 0. */
  readonly interfaces: readonly string[];
  /** `Wake.fd`: ends a wait in `receive`. */
  readonly wakeFd: number;
  /** Microseconds that `receive` looks for frames before it blocks, when the last had some. */
  readonly spinUs?: number;
  /** Other workers on the same interfaces; left out: none. */
  readonly crew?: Crew | undefined;
}

/**
 * Open AF_PACKET sockets with mapped rings on Ethernet interfaces.
 *
 * The device sees every frame that an interface receives, before the kernel's own handling goes
 * on with its copy (see the guard), and none that is sent. Frames start at the Ethernet header and
 * carry a virtio_net_hdr, so that GSO frames and partial checksums pass whole
 * (Documentation/networking/packet_mmap.rst; net/packet/af_packet.c). Not shown are frames with a
 * VLAN tag, frames for another host's address, and frames that the kernel had to truncate
 * (counted as missed). An interface that goes down receives nothing until it is up again; one that
 * is deleted makes `receive` throw.
 *
 * With a crew the interfaces' frames are divided among its workers by the steering program, in one
 * fan-out group an interface (packet(7), PACKET_FANOUT).
 *
 * @throws PrivilegeError without CAP_NET_RAW
 * @throws DeviceError when an interface is missing, down, not Ethernet, or taken already
 */
export function openPacket(options: PacketOptions): NativeFrameDevice {
  const { interfaces, wakeFd, crew } = options;
  if (interfaces.length < 1 || interfaces.length > INTERFACES_MAX) {
    throw new DeviceError(
      `interfaces: expected 1-${INTERFACES_MAX} names, got ${interfaces.length}`,
      "open",
      0,
    );
  }
  for (const name of interfaces) assertInterfaceName(name);
  if (new Set(interfaces).size !== interfaces.length) {
    throw new DeviceError(
      `interfaces: each may be named once, got ${interfaces.join(", ")}`,
      "open",
      0,
    );
  }
  const what = interfaces.length === 1 ? "interface" : "interfaces";
  const name = `${what} ${interfaces.join(", ")}`;
  let native: NativeDevice;
  try {
    native = nativeAddon().openPacket(interfaces, wakeFd, crew);
  } catch (error) {
    throw openError(error, name);
  }
  native.setSpin(options.spinUs ?? 0);
  return wrapNativeDevice(native, "packet", 14, name);
}
