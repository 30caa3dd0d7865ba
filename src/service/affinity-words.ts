import { seedWord } from "../scheduler/mix.ts";
import type { RegionViews } from "../state/layout.ts";
import { B_AFFINITY_SHARED } from "./backend-slots.ts";
import { S_AFFINITY, S_AFFINITY_BITS, S_AFFINITY_OWN, S_AFFINITY_TIMEOUT_MS } from "./bank.ts";
import type { ServiceDefinition } from "./definition.ts";
import { type AssignedService, backendSlotWord } from "./slots.ts";

/**
 * What entries of the affinity table belong to: a group of services, or one service. A number that is
 * made of the name alone, so that it is the same after a reload and in the next process; where two
 * names of one configuration give the same number, the later one in the order of names has the next.
 * A number that comes to mean another name does no harm: an entry holds only while the service that
 * asks has a backend at its address.
 */
export interface AffinityNames {
  /** Number of the service's group, or of the service where it has none. */
  groupOf(service: Pick<ServiceDefinition, "name" | "affinity">): number;
  /** Number of the service alone. */
  ownOf(service: Pick<ServiceDefinition, "name">): number;
  /** What has the number; null: nothing in this configuration. */
  nameOf(number: number): AffinityName | null;
}

export interface AffinityName {
  readonly kind: "group" | "service";
  readonly name: string;
}

/** The numbers of a configuration's services (cold). */
export function nameAffinity(
  services: readonly Pick<ServiceDefinition, "name" | "affinity">[],
): AffinityNames {
  const keys = new Set<string>();
  for (const { name, affinity } of services) {
    if (affinity === null) continue;
    keys.add(`service ${name}`);
    if (affinity.group !== null) keys.add(`group ${affinity.group}`);
  }
  const numbers = new Map<string, number>();
  const names = new Map<number, AffinityName>();
  for (const key of [...keys].sort()) {
    let number = seedWord(key);
    while (number === 0 || names.has(number)) number = (number + 1) | 0;
    numbers.set(key, number);
    const [kind, name] = key.split(" ") as ["group" | "service", string];
    names.set(number, { kind, name });
  }
  const ownOf = ({ name }: Pick<ServiceDefinition, "name">): number =>
    numbers.get(`service ${name}`) ?? 0;
  return {
    ownOf,
    groupOf: (service) => {
      const group = service.affinity?.group ?? null;
      return group === null ? ownOf(service) : (numbers.get(`group ${group}`) ?? 0);
    },
    nameOf: (number) => names.get(number) ?? null,
  };
}

/** Addresses of backends that all services of a group have, by group. */
export function sharedAddresses(
  services: readonly Pick<ServiceDefinition, "affinity" | "backends">[],
): Map<string, Set<string>> {
  const shared = new Map<string, Set<string>>();
  for (const { affinity, backends } of services) {
    const group = affinity?.group ?? null;
    if (group === null) continue;
    const own = new Set(backends.map(({ address }) => address.text));
    const before = shared.get(group);
    shared.set(
      group,
      before === undefined ? own : new Set([...before].filter((it) => own.has(it))),
    );
  }
  return shared;
}

/** Writes the affinity words of a bank's services, and of their backends' slots. */
export type AffinityWriter = (word: number, service: AssignedService) => void;

/** @param services - all that the bank is written for */
export function createAffinityWriter(
  views: RegionViews,
  services: readonly AssignedService[],
): AffinityWriter {
  const { i32 } = views;
  const definitions = services.map(({ definition }) => definition);
  const names = nameAffinity(definitions);
  const shared = sharedAddresses(definitions);
  return (word, service) => {
    const { definition, backends } = service;
    const { affinity } = definition;
    if (affinity === null) return;
    const addresses = affinity.group === null ? null : shared.get(affinity.group)!;
    let isEven = true;
    for (const { slot, definition: backend } of backends) {
      const isShared = addresses === null || addresses.has(backend.address.text);
      i32[backendSlotWord(views, slot) + B_AFFINITY_SHARED] = isShared ? 1 : 0;
      isEven &&= isShared;
    }
    i32[word + S_AFFINITY] = names.groupOf(definition);
    i32[word + S_AFFINITY_OWN] = isEven ? 0 : names.ownOf(definition);
    i32[word + S_AFFINITY_BITS] = affinity.ipv4 | (affinity.ipv6 << 8);
    i32[word + S_AFFINITY_TIMEOUT_MS] = affinity.timeoutMs;
  };
}
