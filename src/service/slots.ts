import { assert } from "../base/assert.ts";
import { EXIT, HeadgateError } from "../base/errors.ts";
import { PROTOCOL_TCP, PROTOCOL_UDP } from "../flow/flow-record.ts";
import {
  BACKEND_SLOT_BYTES,
  KEY_BYTES,
  type RegionViews,
  SERVICE_SLOT_BYTES,
  type Section,
} from "../state/layout.ts";
import {
  ADMIN_ENABLED,
  B_ADDRESS,
  B_ADMIN,
  B_ADMIN_DEADLINE_MS,
  B_CONFIGURED,
  B_EXISTING,
  B_FLOWS,
  B_GENERATION,
  B_HEALTH,
  B_PORT,
  B_PROTOCOL,
  B_RULES,
  B_RULES_DEADLINE_MS,
  B_SERVICE,
  B_USED,
  B_WEIGHT,
  B_WEIGHT_OVERRIDE,
  BACKEND_WORDS,
  EXISTING_DEADLINE,
  EXISTING_KEEP,
  EXISTING_RESET,
  HEALTH_STARTING,
  HEALTH_UP,
  SERVICE_SLOT_WORDS,
  V_CONFIGURED,
  V_USED,
} from "./backend-slots.ts";
import type {
  BackendDefinition,
  ExistingRule,
  GatewayDefinition,
  ProtocolName,
  ServiceDefinition,
} from "./definition.ts";

/**
 * Numbers for services and backends that outlast reload, restart and take-over (design 1.4).
 *
 * A service has a slot per protocol, and a backend one per service and protocol; the key of each
 * lies in the region beside it, as text. A slot is used again only when the configuration that runs
 * has not named it since the call before, and no flow refers to it; its generation then goes up.
 */

export interface AssignedBackend {
  readonly slot: number;
  readonly definition: BackendDefinition;
}

export interface AssignedService {
  readonly slot: number;
  readonly protocol: ProtocolName;
  readonly definition: ServiceDefinition;
  /** By address, then port: the fixed order of a backend list. */
  readonly backends: readonly AssignedBackend[];
  /** Slot of the sorry server, or -1. */
  readonly sorry: number;
}

export interface SlotAssignment {
  /** In the configuration's order, tcp before udp. */
  readonly services: readonly AssignedService[];
}

const decoder = new TextDecoder();
const PROTOCOL_NUMBERS = { tcp: PROTOCOL_TCP, udp: PROTOCOL_UDP } as const;

export function backendKey(
  service: string,
  protocol: ProtocolName,
  address: string,
  port: number,
): string {
  return `${service} ${protocol} ${address}:${port}`;
}

export function serviceKey(service: string, protocol: ProtocolName): string {
  return `${service} ${protocol}`;
}

/** The sorry server of a service is no backend of it, also when it has the address of one. */
function sorryKey(service: string, protocol: ProtocolName, address: string, port: number): string {
  return `${service} ${protocol} sorry ${address}:${port}`;
}

/** First word of a backend slot. */
export function backendSlotWord(views: RegionViews, slot: number): number {
  return (views.layout.backendSlots.at + slot * BACKEND_SLOT_BYTES) >> 2;
}

/** First word of a service slot. */
export function serviceSlotWord(views: RegionViews, slot: number): number {
  return (views.layout.serviceSlots.at + slot * SERVICE_SLOT_BYTES) >> 2;
}

/** Text of a key, or "" where none was written. */
export function readKey(views: RegionViews, keys: Section, slot: number): string {
  const at = keys.at + slot * KEY_BYTES;
  const bytes = Math.min(views.u16[at >> 1]!, KEY_BYTES - 2);
  return decoder.decode(views.u8.slice(at + 2, at + 2 + bytes));
}

function writeKey(views: RegionViews, keys: Section, slot: number, key: string): void {
  const at = keys.at + slot * KEY_BYTES;
  const bytes = new TextEncoder().encode(key);
  assert(bytes.length <= KEY_BYTES - 2, "a key fits its slot");
  views.u8.fill(0, at, at + KEY_BYTES);
  views.u16[at >> 1] = bytes.length;
  views.u8.set(bytes, at + 2);
}

function limitError(message: string): HeadgateError {
  return new HeadgateError("HEADGATE_CONFIG", message, EXIT.configuration);
}

/** Key of a backend slot in use: service, protocol, address and port. */
export interface BackendSlotKey {
  readonly service: string;
  readonly protocol: ProtocolName;
  readonly address: string;
  readonly port: number;
  readonly sorry: boolean;
}

/** @returns null for a slot that was never used */
export function readBackendKey(views: RegionViews, slot: number): BackendSlotKey | null {
  const key = readKey(views, views.layout.backendKeys, slot);
  const found = /^(\S+) (tcp|udp) (sorry )?(\S+):(\d+)$/.exec(key);
  if (found === null) return null;
  return {
    service: found[1]!,
    protocol: found[2] as ProtocolName,
    address: found[4]!,
    port: Number(found[5]),
    sorry: found[3] !== undefined,
  };
}

/** Every backend slot in use, configured or kept for its flows. */
export function usedBackendSlots(views: RegionViews): number[] {
  const used: number[] = [];
  for (let slot = 0; slot < views.layout.backends; slot++) {
    if (views.i32[backendSlotWord(views, slot) + B_USED] !== 0) used.push(slot);
  }
  return used;
}

interface WantedBackend {
  readonly key: string;
  readonly backend: BackendDefinition;
  readonly sorry: boolean;
}

interface WantedService {
  readonly key: string;
  readonly protocol: ProtocolName;
  readonly definition: ServiceDefinition;
  readonly backends: readonly WantedBackend[];
}

/**
 * Give every service and backend of a definition its slot, and write the PLAN words that the
 * definition decides. Overrides and health of a backend that stays are left as they are.
 *
 * @param now - tick; unused by slots that stay
 * @throws HeadgateError when there are too few slots (`limits`), or a name is too long for its key;
 *   nothing has changed then
 */
export function assignSlots(
  views: RegionViews,
  definition: GatewayDefinition,
  now: number,
): SlotAssignment {
  void now;
  const { layout } = views;
  const wanted = definition.services.flatMap(wantedServices);
  const unneeded = findUnneeded(views);
  const services = slotsByKey(
    views,
    layout.serviceKeys,
    layout.services,
    (slot) => isServiceUsed(views, slot) && !unneeded.services.has(slot),
  );
  const backends = slotsByKey(
    views,
    layout.backendKeys,
    layout.backends,
    (slot) => isBackendUsed(views, slot) && !unneeded.backends.has(slot),
  );
  checkRoom(views, wanted, services, backends);
  for (const slot of unneeded.services) views.i32[serviceSlotWord(views, slot) + V_USED] = 0;
  for (const slot of unneeded.backends) views.i32[backendSlotWord(views, slot) + B_USED] = 0;

  const before = new Set([...services.values()]);
  const backendsBefore = new Set([...backends.values()]);
  const freeServices = freeSlots(layout.services, (slot) => isServiceUsed(views, slot));
  const freeBackends = freeSlots(layout.backends, (slot) => isBackendUsed(views, slot));

  const assigned = wanted.map((service): AssignedService => {
    let slot = services.get(service.key);
    if (slot === undefined) {
      slot = freeServices();
      takeServiceSlot(views, slot, service.key);
      services.set(service.key, slot);
    }
    before.delete(slot);
    const list: AssignedBackend[] = [];
    let sorry = -1;
    for (const one of service.backends) {
      let taken = backends.get(one.key);
      if (taken === undefined) {
        taken = freeBackends();
        takeBackendSlot(views, taken, one.key);
        backends.set(one.key, taken);
      }
      backendsBefore.delete(taken);
      planBackend(views, taken, slot, service, one);
      if (one.sorry) sorry = taken;
      else list.push({ slot: taken, definition: one.backend });
    }
    list.sort(
      (a, b) =>
        (a.definition.address.value >>> 0) - (b.definition.address.value >>> 0) ||
        a.definition.port - b.definition.port,
    );
    views.i32[serviceSlotWord(views, slot) + V_CONFIGURED] = 1;
    return {
      slot,
      protocol: service.protocol,
      definition: service.definition,
      backends: list,
      sorry,
    };
  });
  for (const slot of before) views.i32[serviceSlotWord(views, slot) + V_CONFIGURED] = 0;
  for (const slot of backendsBefore) views.i32[backendSlotWord(views, slot) + B_CONFIGURED] = 0;
  return { services: assigned };
}

function wantedServices(definition: ServiceDefinition): WantedService[] {
  const { name } = definition;
  return (["tcp", "udp"] as const)
    .filter((protocol) => definition.protocols.includes(protocol))
    .map((protocol) => {
      const backends: WantedBackend[] = definition.backends.map((backend) => ({
        key: backendKey(name, protocol, backend.address.text, backend.port),
        backend,
        sorry: false,
      }));
      const { sorry } = definition.noBackend;
      if (sorry !== null) {
        const key = sorryKey(name, protocol, sorry.address.text, sorry.port);
        backends.push({ key, backend: { ...sorry, weight: 1 }, sorry: true });
      }
      return { key: serviceKey(name, protocol), protocol, definition, backends };
    });
}

function isBackendUsed(views: RegionViews, slot: number): boolean {
  return views.i32[backendSlotWord(views, slot) + B_USED] !== 0;
}

function isServiceUsed(views: RegionViews, slot: number): boolean {
  return views.i32[serviceSlotWord(views, slot) + V_USED] !== 0;
}

function slotsByKey(
  views: RegionViews,
  keys: Section,
  count: number,
  isWanted: (slot: number) => boolean,
): Map<string, number> {
  const found = new Map<string, number>();
  for (let slot = 0; slot < count; slot++) {
    if (isWanted(slot)) found.set(readKey(views, keys, slot), slot);
  }
  return found;
}

/** The slots that are free, lowest first; only as many are asked for as checkRoom found. */
function freeSlots(count: number, isUsed: (slot: number) => boolean): () => number {
  let next = 0;
  return () => {
    while (next < count && isUsed(next)) next++;
    assert(next < count, "room was checked before the first slot was taken");
    return next++;
  };
}

/**
 * Slots that the configuration which runs does not name, and no flow refers to. Looked for before
 * anything is assigned: what an assignment takes away may still be in the bank in use.
 */
function findUnneeded(views: RegionViews): { services: Set<number>; backends: Set<number> } {
  const { i32, layout } = views;
  const services = new Set<number>();
  const backends = new Set<number>();
  const referred = new Set<number>();
  for (let slot = 0; slot < layout.backends; slot++) {
    const at = backendSlotWord(views, slot);
    if (i32[at + B_USED] === 0) continue;
    if (i32[at + B_CONFIGURED] === 0 && i32[at + B_FLOWS] === 0) backends.add(slot);
    else referred.add(i32[at + B_SERVICE]!);
  }
  for (let slot = 0; slot < layout.services; slot++) {
    const at = serviceSlotWord(views, slot);
    if (i32[at + V_USED] === 0) continue;
    if (i32[at + V_CONFIGURED] === 0 && !referred.has(slot)) services.add(slot);
  }
  return { services, backends };
}

function checkRoom(
  views: RegionViews,
  wanted: readonly WantedService[],
  services: ReadonlyMap<string, number>,
  backends: ReadonlyMap<string, number>,
): void {
  const { layout } = views;
  const wantedBackends = wanted.flatMap((service) => service.backends);
  const newServices = wanted.filter((service) => !services.has(service.key)).length;
  const newBackends = wantedBackends.filter((backend) => !backends.has(backend.key)).length;
  for (const { key } of [...wanted, ...wantedBackends]) {
    if (Buffer.byteLength(key) <= KEY_BYTES - 2) continue;
    throw limitError(`the name "${key}" is too long for a slot`);
  }
  const check = (kind: string, used: number, more: number, limit: number): void => {
    if (used + more <= limit) return;
    throw limitError(
      `limits.${kind}: expected room for ${used + more} (a service or backend counts once per protocol, and removed ones as long as they have flows), got ${limit}`,
    );
  };
  check("services", services.size, newServices, layout.services);
  check("backends", backends.size, newBackends, layout.backends);
}

function takeServiceSlot(views: RegionViews, slot: number, key: string): void {
  const at = serviceSlotWord(views, slot);
  views.i32.fill(0, at, at + SERVICE_SLOT_WORDS);
  writeKey(views, views.layout.serviceKeys, slot, key);
  views.i32[at + V_USED] = 1;
}

function takeBackendSlot(views: RegionViews, slot: number, key: string): void {
  const { i32 } = views;
  const at = backendSlotWord(views, slot);
  const generation = (i32[at + B_GENERATION]! + 1) & 0xffff;
  i32.fill(0, at, at + BACKEND_WORDS);
  i32[at + B_GENERATION] = generation;
  i32[at + B_WEIGHT_OVERRIDE] = -1;
  i32[at + B_ADMIN] = ADMIN_ENABLED;
  i32[at + B_ADMIN_DEADLINE_MS] = -1;
  i32[at + B_EXISTING] = EXISTING_KEEP;
  i32[at + B_HEALTH] = HEALTH_STARTING;
  writeKey(views, views.layout.backendKeys, slot, key);
  i32[at + B_USED] = 1;
}

function planBackend(
  views: RegionViews,
  slot: number,
  serviceSlot: number,
  service: WantedService,
  { backend, sorry }: WantedBackend,
): void {
  const { i32 } = views;
  const at = backendSlotWord(views, slot);
  const { existingFlows, health } = service.definition;
  i32[at + B_SERVICE] = serviceSlot;
  i32[at + B_PROTOCOL] = PROTOCOL_NUMBERS[service.protocol];
  i32[at + B_ADDRESS] = backend.address.value;
  i32[at + B_PORT] = backend.port;
  i32[at + B_WEIGHT] = backend.weight;
  i32[at + B_RULES] =
    ruleCode(existingFlows.drained) |
    (ruleCode(existingFlows.removed) << 2) |
    (ruleCode(existingFlows.down) << 4) |
    (ruleCode(existingFlows.disabled) << 6);
  i32[at + B_RULES_DEADLINE_MS] = existingFlows.deadlineMs;
  // Nobody checks it, so nothing would ever raise it again.
  if (health === null || sorry) i32[at + B_HEALTH] = HEALTH_UP;
  i32[at + B_CONFIGURED] = 1;
}

function ruleCode(rule: ExistingRule): number {
  if (rule === "reset") return EXISTING_RESET;
  return rule === "drain" ? EXISTING_DEADLINE : EXISTING_KEEP;
}

/**
 * Find the configured backends that an operator means.
 *
 * @param port - 0: any port that the backend has
 * @returns slots, one a protocol; empty when there is none
 */
export function findSlots(
  views: RegionViews,
  service: string,
  address: string,
  port: number,
): number[] {
  return usedBackendSlots(views).filter((slot) => {
    if (views.i32[backendSlotWord(views, slot) + B_CONFIGURED] === 0) return false;
    const key = readBackendKey(views, slot);
    return (
      key !== null &&
      !key.sorry &&
      key.service === service &&
      key.address === address &&
      (port === 0 || key.port === port)
    );
  });
}
