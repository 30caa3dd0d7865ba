import { type Address, parseAddress } from "../base/address.ts";
import { HostError } from "../base/errors.ts";
import { type IpObject, ipJson, numberOf, textOf, wordsOf } from "./ip-json.ts";

export interface HostInterface {
  readonly name: string;
  /** Kernel index. */
  readonly index: number;
  /** `aa:bb:cc:dd:ee:ff`, or "" for an interface without a link layer (TUN). */
  readonly mac: string;
  /** Bytes. */
  readonly mtu: number;
  /** Set up, and with a carrier. */
  readonly up: boolean;
}

function readInterface(object: IpObject): HostInterface {
  const flags = wordsOf(object, "flags");
  return {
    name: textOf(object, "ifname"),
    index: numberOf(object, "ifindex"),
    mac: textOf(object, "link_type") === "ether" ? textOf(object, "address") : "",
    mtu: numberOf(object, "mtu"),
    up: flags.includes("UP") && flags.includes("LOWER_UP"),
  };
}

/**
 * All interfaces of this network namespace.
 *
 * @throws HostError - `ip` is missing or fails
 */
export async function listInterfaces(): Promise<HostInterface[]> {
  return (await ipJson(["link", "show"], "any")).map(readInterface);
}

/**
 * The interfaces with these names, in their order.
 *
 * @throws HostError - one does not exist; the message lists those that do
 */
export async function findInterfaces(names: readonly string[]): Promise<HostInterface[]> {
  const all = await listInterfaces();
  return names.map((name) => {
    const found = all.find((entry) => entry.name === name);
    if (found === undefined) {
      const known = all.map((entry) => entry.name).join(", ");
      throw new HostError(`there is no interface ${name}; there are ${known}`);
    }
    return found;
  });
}

/** Addresses of both families with the interface that has them; link-local ones too. */
export async function listAddresses(): Promise<{ address: Address; interface: string }[]> {
  const found: { address: Address; interface: string }[] = [];
  for (const link of await ipJson(["address", "show"], "any")) {
    const entries = link["addr_info"];
    if (!Array.isArray(entries)) continue;
    for (const entry of entries as IpObject[]) {
      const address = parseAddress(textOf(entry, "local"));
      if (address !== null) found.push({ address, interface: textOf(link, "ifname") });
    }
  }
  return found;
}
