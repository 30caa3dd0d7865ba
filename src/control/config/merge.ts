/**
 * How `timeouts`, `defaults` and a service become one service: on plain YAML values, before
 * defaults of the program are filled in.
 */

type Plain = Readonly<Record<string, unknown>>;

export function isPlain(value: unknown): value is Plain {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

/** Keys whose maps are merged key by key; any other key is taken whole. */
const MERGED_KEYS = new Set(["timeouts", "existingFlows", "health", "slowStart"]);

/** `over` wins; maps are merged at every depth, lists and scalars are replaced. */
function mergeDeep(under: unknown, over: unknown): unknown {
  if (over === undefined) return under;
  if (!isPlain(under) || !isPlain(over)) return over;
  const merged: Record<string, unknown> = { ...under };
  for (const [key, value] of Object.entries(over)) merged[key] = mergeDeep(under[key], value);
  return merged;
}

/** A check of another type shares no keys with the one in `defaults`. */
function mergeHealth(under: unknown, over: unknown): unknown {
  if (!isPlain(under) || !isPlain(over)) return over ?? under;
  const typeOf = (it: Plain): unknown => it["type"] ?? "tcp";
  return "type" in over && typeOf(over) !== typeOf(under) ? over : mergeDeep(under, over);
}

/**
 * One service with what `defaults` and the top-level `timeouts` say where it is silent.
 *
 * @returns a new map; the arguments stay as they are
 */
export function mergeService(timeouts: unknown, defaults: unknown, service: unknown): Plain {
  const own = isPlain(service) ? service : {};
  const common = isPlain(defaults) ? defaults : {};
  const merged: Record<string, unknown> = { ...common };
  for (const [key, value] of Object.entries(own)) {
    if (key === "health") merged[key] = mergeHealth(common[key], value);
    else merged[key] = MERGED_KEYS.has(key) ? mergeDeep(common[key], value) : value;
  }
  const together = mergeDeep(timeouts, merged["timeouts"]);
  if (together !== undefined) merged["timeouts"] = together;
  return merged;
}
