import type { Address } from "../base/address.ts";
import { listAddresses } from "./interfaces.ts";

/**
 * The host's own addresses of both families, of every interface of this network namespace (loopback
 * included).
 *
 * @returns each once
 * @throws HostError - `ip` is missing or fails
 */
export async function hostAddresses(): Promise<Address[]> {
  const byText = new Map<string, Address>();
  for (const { address } of await listAddresses()) byText.set(address.text, address);
  return [...byText.values()];
}
