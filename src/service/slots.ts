import { type Address, compareAddresses } from "../base/address.ts";
import { assert } from "../base/assert.ts";
import { EXIT, HeadgateError } from "../base/errors.ts";
import { PROTOCOL_TCP, PROTOCOL_UDP } from "../flow/flow-record.ts";
import { KEY_BYTES, type RegionViews, type Section } from "../state/layout.ts";
import { forgetAgent } from "./agent-state.ts";
import {
  B_ADDRESS,
  B_ADDRESS6,
  B_ADMIN_DEADLINE_MS,
  B_CONFIGURED,
  B_GENERATION,
  B_HEALTH,
  B_MAX_CONNECTIONS,
  B_PORT,
  B_PRIORITY,
  B_PROTOCOL,
  B_RULES,
  B_RULES_DEADLINE_MS,
  B_SERVICE,
  B_STATE_SINCE,
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
import {
  type BackendDefinition,
  type ExistingRule,
  type GatewayDefinition,
  type ProtocolName,
  type ServiceDefinition,
  SORRY_SERVER,
} from "./definition.ts";
import { backendFlows, clearBackendRuns, clearServiceRuns } from "./runs.ts";
import type { BackendTarget } from "./target.ts";

/**
 * Numbers for services and backends that outlast reload, restart and take-over (design 1.4).
 *
 * A service has a slot per protocol, and a backend one per service and protocol. The key of each
 * lies in the region beside it, as text with its length before it: whoever has the region finds the
 * same numbers again.
 *
 * A slot is taken away from its key only when neither this configuration nor the one before names
 * it and no flow refers to it: the bank in use is the one before's, and its worker may open a flow
 * to any backend of that bank. The next user gets another generation, which old flows do not have.
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

const PROTOCOL_NUMBERS = { tcp: PROTOCOL_TCP, udp: PROTOCOL_UDP } as const;

export function serviceKey(service: string, protocol: ProtocolName): string {
  return `${service} ${protocol}`;
}

/** Names and addresses have no blanks, so no two backends have one key. */
export function backendKey(
  service: string,
  protocol: ProtocolName,
  address: string,
  port: number,
): string {
  return `${service} ${protocol} ${address}:${port}`;
}

/** The sorry server of a service is no backend of it, also when it has the address of one. */
function sorryKey(service: string, protocol: ProtocolName, address: string, port: number): string {
  return `${service} ${protocol} sorry ${address}:${port}`;
}

/** First word of a backend slot. */
export function backendSlotWord(views: RegionViews, slot: number): number {
  return (views.layout.backendSlots.at >> 2) + slot * BACKEND_WORDS;
}

/** First word of a service slot. */
export function serviceSlotWord(views: RegionViews, slot: number): number {
  return (views.layout.serviceSlots.at >> 2) + slot * SERVICE_SLOT_WORDS;
}

/** Bytes of a key's length: uint16. */
const LENGTH_BYTES = 2;
const decoder = new TextDecoder();
const encoder = new TextEncoder();

/** Text of a key, or "" where none was written. */
export function readKey(views: RegionViews, keys: Section, slot: number): string {
  const at = keys.at + slot * KEY_BYTES;
  const bytes = Math.min(views.u16[at >> 1]!, KEY_BYTES - LENGTH_BYTES);
  // A copy: TextDecoder does not take memory that threads share.
  return decoder.decode(views.u8.slice(at + LENGTH_BYTES, at + LENGTH_BYTES + bytes));
}

function writeKey(views: RegionViews, keys: Section, slot: number, key: string): void {
  const at = keys.at + slot * KEY_BYTES;
  const bytes = encoder.encode(key);
  views.u8.fill(0, at, at + KEY_BYTES);
  views.u16[at >> 1] = bytes.length;
  views.u8.set(bytes, at + LENGTH_BYTES);
}

/** Key of a backend slot in use: service, protocol, address and port. */
export interface BackendSlotKey {
  readonly service: string;
  readonly protocol: ProtocolName;
  readonly address: string;
  /** 0: the packet's. */
  readonly port: number;
  /** A service's sorry server. */
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

/**
 * The slots of a configured backend that an operator means: one a protocol of its service.
 *
 * @returns empty when there is none
 */
export function findSlots(views: RegionViews, target: BackendTarget): number[] {
  const { i32 } = views;
  return usedBackendSlots(views).filter((slot) => {
    const at = backendSlotWord(views, slot);
    if (i32[at + B_CONFIGURED] === 0) return false;
    if (!hasAddress(i32, at, target.address) || i32[at + B_PORT] !== target.port) return false;
    const key = readBackendKey(views, slot);
    return key !== null && !key.sorry && key.service === target.service;
  });
}

/** Whether the backend slot at `at` is of this address. */
function hasAddress(i32: Int32Array, at: number, address: Address): boolean {
  const { family, value, words } = address;
  if (family === 4) return i32[at + B_ADDRESS] === value;
  return i32[at + B_ADDRESS] === 0 && words.every((word, i) => i32[at + B_ADDRESS6 + i] === word);
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
 * Give every service and backend of a definition its slot, and write the words that the
 * definition decides. Overrides, health and counters of what stays are left as they are; a slot
 * that is new has none, and starts as `starting`, or as up where nobody checks.
 *
 * @param now - tick
 * @throws HeadgateError when there are too few slots (`limits`), or a name is too long for its key;
 *   nothing has changed then
 */
export function assignSlots(
  views: RegionViews,
  definition: GatewayDefinition,
  now: number,
): SlotAssignment {
  const { i32, layout } = views;
  const wanted = definition.services.flatMap(wantedServices);
  const services = serviceSlotsByKey(views);
  const backends = backendSlotsByKey(views);
  const unneeded = takeUnneeded(views, wanted, services, backends);
  checkRoom(layout, wanted, services, backends);
  for (const slot of unneeded.services) i32[serviceSlotWord(views, slot) + V_USED] = 0;
  for (const slot of unneeded.backends) i32[backendSlotWord(views, slot) + B_USED] = 0;

  const leftServices = new Set(services.values());
  const leftBackends = new Set(backends.values());
  const nextService = freeSlots(layout.services, leftServices);
  const nextBackend = freeSlots(layout.backends, leftBackends);
  const assigned = wanted.map((service): AssignedService => {
    const { protocol, definition: one } = service;
    const slot = services.get(service.key) ?? takeServiceSlot(views, nextService(), service.key);
    leftServices.delete(slot);
    i32[serviceSlotWord(views, slot) + V_CONFIGURED] = 1;
    const list: AssignedBackend[] = [];
    let sorry = -1;
    for (const backend of service.backends) {
      const { key } = backend;
      const own = backends.get(key) ?? takeBackendSlot(views, nextBackend(), key, now);
      leftBackends.delete(own);
      planBackend(views, own, slot, service, backend);
      if (backend.sorry) sorry = own;
      else list.push({ slot: own, definition: backend.backend });
    }
    return { slot, protocol, definition: one, backends: list.sort(byEndpoint), sorry };
  });
  for (const slot of leftServices) i32[serviceSlotWord(views, slot) + V_CONFIGURED] = 0;
  for (const slot of leftBackends) i32[backendSlotWord(views, slot) + B_CONFIGURED] = 0;
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
        backends.push({ key, backend: { ...SORRY_SERVER, ...sorry }, sorry: true });
      }
      return { key: serviceKey(name, protocol), protocol, definition, backends };
    });
}

function byEndpoint(
  { definition: a }: AssignedBackend,
  { definition: b }: AssignedBackend,
): number {
  return compareAddresses(a.address, b.address) || a.port - b.port;
}

function serviceSlotsByKey(views: RegionViews): Map<string, number> {
  const { i32, layout } = views;
  const found = new Map<string, number>();
  for (let slot = 0; slot < layout.services; slot++) {
    if (i32[serviceSlotWord(views, slot) + V_USED] === 0) continue;
    found.set(readKey(views, layout.serviceKeys, slot), slot);
  }
  return found;
}

function backendSlotsByKey(views: RegionViews): Map<string, number> {
  return new Map(
    usedBackendSlots(views).map((slot) => [readKey(views, views.layout.backendKeys, slot), slot]),
  );
}

/**
 * Take what nobody names or refers to (see above) out of the maps.
 *
 * @returns slots that are to be freed
 */
function takeUnneeded(
  views: RegionViews,
  wanted: readonly WantedService[],
  services: Map<string, number>,
  backends: Map<string, number>,
): { services: number[]; backends: number[] } {
  const { i32 } = views;
  const names = new Set(
    wanted.flatMap(({ key, backends: own }) => [key, ...own.map((b) => b.key)]),
  );
  const unneeded = { services: [] as number[], backends: [] as number[] };
  const servicesNeeded = new Set<number>();
  for (const [key, slot] of backends) {
    const at = backendSlotWord(views, slot);
    if (names.has(key) || i32[at + B_CONFIGURED] !== 0 || backendFlows(views, slot) !== 0) {
      servicesNeeded.add(i32[at + B_SERVICE]!);
    } else {
      unneeded.backends.push(slot);
      backends.delete(key);
    }
  }
  for (const [key, slot] of services) {
    const isConfigured = i32[serviceSlotWord(views, slot) + V_CONFIGURED] !== 0;
    if (names.has(key) || isConfigured || servicesNeeded.has(slot)) continue;
    unneeded.services.push(slot);
    services.delete(key);
  }
  return unneeded;
}

function checkRoom(
  limits: { readonly services: number; readonly backends: number },
  wanted: readonly WantedService[],
  services: ReadonlyMap<string, number>,
  backends: ReadonlyMap<string, number>,
): void {
  const check = (
    kind: "services" | "backends",
    keys: readonly string[],
    used: ReadonlyMap<string, number>,
  ): void => {
    const long = keys.find((key) => Buffer.byteLength(key) > KEY_BYTES - LENGTH_BYTES);
    if (long !== undefined) throw limitError(`the name "${long}" is too long for a slot`);
    const needed = used.size + keys.filter((key) => !used.has(key)).length;
    if (needed <= limits[kind]) return;
    throw limitError(
      `limits.${kind}: expected room for ${needed} (a service or backend counts once per protocol, and removed ones as long as they have flows), got ${limits[kind]}`,
    );
  };
  const serviceNames = wanted.map((service) => service.key);
  check("services", serviceNames, services);
  const backendNames = wanted.flatMap((service) => service.backends.map(({ key }) => key));
  check("backends", backendNames, backends);
}

function limitError(message: string): HeadgateError {
  return new HeadgateError("HEADGATE_CONFIG", message, EXIT.configuration);
}

/** Gives out the numbers below `count` that are not taken, lowest first. */
function freeSlots(count: number, taken: ReadonlySet<number>): () => number {
  const takenAtFirst = new Set(taken);
  let next = 0;
  return () => {
    while (takenAtFirst.has(next)) next++;
    assert(next < count, "room was checked before the first slot was taken");
    return next++;
  };
}

function takeServiceSlot(views: RegionViews, slot: number, key: string): number {
  const at = serviceSlotWord(views, slot);
  views.i32.fill(0, at, at + SERVICE_SLOT_WORDS);
  clearServiceRuns(views, slot);
  writeKey(views, views.layout.serviceKeys, slot, key);
  views.i32[at + V_USED] = 1;
  return slot;
}

/** The generation stays in a free slot, so that the next user can have the next one. */
function takeBackendSlot(views: RegionViews, slot: number, key: string, now: number): number {
  const { i32 } = views;
  const at = backendSlotWord(views, slot);
  i32[at + B_GENERATION] = (i32[at + B_GENERATION]! + 1) & 0xffff;
  for (let word = 0; word < BACKEND_WORDS; word++) {
    if (word !== B_GENERATION) i32[at + word] = 0;
  }
  clearBackendRuns(views, slot);
  i32[at + B_WEIGHT_OVERRIDE] = -1;
  i32[at + B_ADMIN_DEADLINE_MS] = -1;
  forgetAgent(i32, at);
  i32[at + B_HEALTH] = HEALTH_STARTING;
  i32[at + B_STATE_SINCE] = now;
  writeKey(views, views.layout.backendKeys, slot, key);
  i32[at + B_USED] = 1;
  return slot;
}

function planBackend(
  views: RegionViews,
  slot: number,
  serviceSlot: number,
  { protocol, definition: { existingFlows, health } }: WantedService,
  { backend, sorry }: WantedBackend,
): void {
  const { i32 } = views;
  const at = backendSlotWord(views, slot);
  i32[at + B_SERVICE] = serviceSlot;
  i32[at + B_PROTOCOL] = PROTOCOL_NUMBERS[protocol];
  i32[at + B_ADDRESS] = backend.address.value;
  i32.set(backend.address.family === 6 ? backend.address.words : NO_WORDS, at + B_ADDRESS6);
  i32[at + B_PORT] = backend.port;
  i32[at + B_WEIGHT] = backend.weight;
  i32[at + B_PRIORITY] = backend.priority;
  i32[at + B_MAX_CONNECTIONS] = backend.maxConnections ?? 0;
  i32[at + B_RULES] =
    ruleCode(existingFlows.drained) |
    (ruleCode(existingFlows.removed) << 2) |
    (ruleCode(existingFlows.down) << 4) |
    (ruleCode(existingFlows.disabled) << 6) |
    (ruleCode(existingFlows.ejected) << 8);
  i32[at + B_RULES_DEADLINE_MS] = existingFlows.deadlineMs;
  // Nobody checks a sorry server, nor a backend without `health`: nothing else could raise it.
  if (health === null || sorry) i32[at + B_HEALTH] = HEALTH_UP;
  i32[at + B_CONFIGURED] = 1;
}

/** Of an IPv4 backend. */
const NO_WORDS = [0, 0, 0, 0] as const;

function ruleCode(rule: ExistingRule): number {
  if (rule === "reset") return EXISTING_RESET;
  return rule === "drain" ? EXISTING_DEADLINE : EXISTING_KEEP;
}
