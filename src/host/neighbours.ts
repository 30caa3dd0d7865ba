import { type Address, parseAddress } from "../base/address.ts";
import { type BatchAnswer, ipBatch, ipJson, textOf, wordsOf } from "./ip-json.ts";

export interface Neighbour {
  readonly address: Address;
  readonly interface: string;
  /** `aa:bb:cc:dd:ee:ff`, or null: not resolved (INCOMPLETE, FAILED). */
  readonly mac: string | null;
  /** The kernel holds it for true just now; otherwise it is worth a probe. */
  readonly confirmed: boolean;
}

/** States in which the kernel itself would send without asking (NUD_CONNECTED, include/net/neighbour.h). */
const CONFIRMED = ["REACHABLE", "PERMANENT", "NOARP"];
const UNRESOLVED = ["INCOMPLETE", "FAILED", "NONE"];

/**
 * The kernel's neighbours of both families, unicast. A STALE one counts as resolved: the kernel would
 * use its MAC too, and only asks again.
 *
 * @throws HostError - `ip` is missing or fails
 */
export async function listNeighbours(): Promise<Neighbour[]> {
  const neighbours: Neighbour[] = [];
  for (const object of await ipJson(["neighbour", "show", "nud", "all"], "any")) {
    const address = parseAddress(textOf(object, "dst"));
    if (address === null || isMulticast(address)) continue;
    const states = wordsOf(object, "state");
    const mac = textOf(object, "lladdr");
    const unresolved = mac === "" || states.some((state) => UNRESOLVED.includes(state));
    neighbours.push({
      address,
      interface: textOf(object, "dev"),
      mac: unresolved ? null : mac,
      confirmed: states.some((state) => CONFIRMED.includes(state)),
    });
  }
  return neighbours;
}

/** The kernel keeps an entry of each group that it sends to (state NOARP). */
function isMulticast({ family, value, words }: Address): boolean {
  return family === 4 ? value >>> 28 === 0xe : words[0] >>> 24 === 0xff;
}

/**
 * Have the kernel resolve or confirm neighbours, as if it had a packet for them (NTF_USE,
 * net/core/neighbour.c: neigh_add calls neigh_event_send): ARP or a neighbour solicitation goes out, and the
 * answer comes as a neighbour event.
 */
export function probeNeighbours(
  neighbours: readonly { readonly address: Address; readonly interface: string }[],
): Promise<BatchAnswer> {
  return ipBatch(
    neighbours.map(
      (entry) => `neighbour replace ${entry.address.text} dev ${entry.interface} nud none use`,
    ),
  );
}
