import { listAddresses } from "./interfaces.ts";

/**
 * The host's own IPv4 addresses, of every interface of this network namespace (loopback included).
 *
 * @returns int32 in host order, each once
 * @throws HostError - `ip` is missing or fails
 */
export async function hostAddresses(): Promise<number[]> {
  return [...new Set((await listAddresses()).map(({ address }) => address))];
}
