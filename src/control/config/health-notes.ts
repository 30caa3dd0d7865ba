import type { ServiceDefinition } from "../../service/definition.ts";

/** Linux gives up looking for an address of its network after three seconds. */
const GONE_AFTER_MS = 3000;

/**
 * What is right about a service's health checks but worth knowing.
 *
 * @param user - whom the gateway becomes after the start; null: it stays root
 * @returns null when there is nothing
 */
export function healthNote(
  { name, health }: ServiceDefinition,
  user: string | null,
): string | null {
  const title = `service "${name}"`;
  if (health === null) return `${title} has no health: its backends always count as up`;
  if (health.type === "exec" && (health.user ?? user) === null) {
    return `${title} runs ${health.command[0]} as root: give health a user`;
  }
  if (health.type === "udp" && health.expectHex === null && health.timeoutMs <= GONE_AFTER_MS) {
    return `${title} checks by udp without expect: a host that is gone is noticed only with a timeout above 3s`;
  }
  return null;
}
