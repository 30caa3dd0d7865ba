import { endpointOf } from "../base/address.ts";
import type { AffinityList, AffinityRow } from "../base/admin-types.ts";
import { EXIT, HeadgateError } from "../base/errors.ts";
import {
  type AffinityFilter,
  type AffinitySnapshot,
  countAffinity,
  listAffinity,
} from "../flow/read-affinity.ts";
import { type AffinityNames, nameAffinity } from "../service/affinity-words.ts";
import type { GatewayDefinition } from "../service/definition.ts";
import { parseTarget } from "../service/target.ts";
import type { RegionViews } from "../state/layout.ts";
import type { FlowQuery } from "./admin/gateway-view.ts";

/** Which backends clients have, in the words of the admin API. */
export interface AffinityReadings {
  /** @throws HeadgateError HEADGATE_NOT_FOUND for a service that is not there */
  list(query: FlowQuery): AffinityList;
  /** Clients that are remembered now, of all groups and services. */
  entries(): number;
}

/**
 * @param tick - now
 * @param current - the definition that runs; null before the first
 */
export function createAffinityReadings(
  views: RegionViews,
  tick: () => number,
  current: () => GatewayDefinition | null,
): AffinityReadings {
  function filterOf(query: FlowQuery, names: AffinityNames): AffinityFilter {
    const service = current()?.services.find(({ name }) => name === query.service);
    if (query.service !== null && service === undefined) {
      const message = `there is no service ${JSON.stringify(query.service)}`;
      throw new HeadgateError("HEADGATE_NOT_FOUND", message, EXIT.failed);
    }
    const groups =
      service === undefined ? null : new Set([names.groupOf(service), names.ownOf(service)]);
    return {
      ...(query.client === null ? {} : { client: query.client }),
      ...(groups === null ? {} : { groups }),
      ...(query.backend === null ? {} : { backend: parseTarget(`any/${query.backend}`) }),
    };
  }

  function list(query: FlowQuery): AffinityList {
    const names = nameAffinity(current()?.services ?? []);
    const now = tick();
    const { entries, total } = listAffinity(views, filterOf(query, names), query.limit);
    const rows = entries.map((entry) => rowOf(entry, names, now));
    return { entries: rows, total, truncated: total > entries.length };
  }

  return {
    list,
    entries: () => [...countAffinity(views).values()].reduce((sum, count) => sum + count, 0),
  };
}

function rowOf(entry: AffinitySnapshot, names: AffinityNames, now: number): AffinityRow {
  const { client, bits, backend, port, flows, expires } = entry;
  const name = names.nameOf(entry.group);
  const whole = client.family === 4 ? 32 : 128;
  return {
    client: bits === whole ? client.text : `${client.text}/${bits}`,
    group: name?.kind === "group" ? name.name : null,
    service: name?.kind === "service" ? name.name : null,
    backend: endpointOf(backend, port),
    flows,
    expiresInMs: flows > 0 ? null : Math.max(0, (expires - now) | 0),
    answered: entry.answered,
  };
}
