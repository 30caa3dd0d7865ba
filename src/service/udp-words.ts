import { STATE_UDP_ONE_WAY, STATE_UDP_REPLIED } from "../flow/flow-record.ts";
import {
  ENTRY_WORDS,
  Q_ID,
  Q_SLOT,
  QUIC_ENTRY_WORDS,
  S_ANSWERS,
  S_QUIC,
  S_QUIC_COUNT,
  S_QUIC_FIRST,
  S_TIMEOUTS,
  S_UDP_MAX_AGE_MS,
  S_UDP_PER_PACKET,
} from "./bank.ts";
import type { AssignedService } from "./slots.ts";

/** How long a flow of a `perPacket` service waits for an answer, and is kept after one, at most. */
export const PER_PACKET_WAIT_MS = 10_000;
export const PER_PACKET_LINGER_MS = 2000;

/** Backend list entries that one server ID takes. */
export const ENTRIES_PER_SERVER_ID = QUIC_ENTRY_WORDS / ENTRY_WORDS;

/** Write the words of a service's record that are about UDP alone; timeouts are there already. */
export function writeUdpWords(i32: Int32Array, word: number, service: AssignedService): void {
  const { definition, protocol } = service;
  if (protocol !== "udp") return;
  const { perPacket, maxAgeMs } = definition.udp;
  i32[word + S_ANSWERS] = definition.passive?.answers === true ? 1 : 0;
  i32[word + S_UDP_PER_PACKET] = perPacket ? 1 : 0;
  i32[word + S_UDP_MAX_AGE_MS] = maxAgeMs ?? 0;
  if (!perPacket) return;
  for (const [state, most] of [
    [STATE_UDP_ONE_WAY, PER_PACKET_WAIT_MS],
    [STATE_UDP_REPLIED, PER_PACKET_LINGER_MS],
  ] as const) {
    const at = word + S_TIMEOUTS + state;
    i32[at] = Math.min(i32[at]!, most);
  }
}

/** Whether the sweep has to look at UDP flows of this service that have time left. */
export function needsUdpSweep({ protocol, definition }: AssignedService): boolean {
  return protocol === "udp" && (definition.udp.perPacket || definition.udp.maxAgeMs !== null);
}

interface ServerId {
  readonly slot: number;
  readonly words: readonly number[];
}

/** Server IDs of a service, sorted as its entries are; empty where QUIC is not routed. */
export function serverIdsOf({ protocol, definition, backends }: AssignedService): ServerId[] {
  const { quic } = definition;
  if (protocol !== "udp" || quic === null) return [];
  return backends
    .flatMap(({ slot, definition: { serverId } }): ServerId[] => {
      if (serverId === null) return [];
      // As wire/quic.ts reads it: four big-endian words, zeros behind the end.
      const digits = serverId.padEnd(32, "0");
      const words = [0, 8, 16, 24].map((at) => Number.parseInt(digits.slice(at, at + 8), 16) | 0);
      return [{ slot, words }];
    })
    .toSorted((a, b) => {
      const index = a.words.findIndex((word, at) => word !== b.words[at]);
      return index < 0 ? 0 : (a.words[index]! >>> 0) - (b.words[index]! >>> 0);
    });
}

/**
 * Write a service's server IDs.
 *
 * @param word - of the service's record
 * @param list - first word of the bank's backend list entries
 * @param first - entry that they begin at
 * @returns entries written
 */
export function writeServerIds(
  i32: Int32Array,
  word: number,
  service: AssignedService,
  list: number,
  first: number,
): number {
  const ids = serverIdsOf(service);
  const { quic } = service.definition;
  if (ids.length === 0 || quic === null) return 0;
  i32[word + S_QUIC] = quic.serverIdBytes | (quic.configRotation << 8);
  i32[word + S_QUIC_FIRST] = first;
  i32[word + S_QUIC_COUNT] = ids.length;
  for (const [index, { slot, words }] of ids.entries()) {
    const at = list + first * ENTRY_WORDS + index * QUIC_ENTRY_WORDS;
    i32[at + Q_SLOT] = slot;
    for (const [number, id] of words.entries()) i32[at + Q_ID + number] = id;
  }
  return ids.length * ENTRIES_PER_SERVER_ID;
}
