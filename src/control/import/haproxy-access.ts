import { parsePrefix } from "../../base/prefix.ts";
import { type Draft, type Keys, quote } from "./draft.ts";
import type { HaLine } from "./haproxy-lines.ts";
import type { HaProxy } from "./haproxy-proxy.ts";
import { haReason } from "./haproxy-reasons.ts";

/**
 * `tcp-request connection` rules about the source address alone, as access lists. HAProxy takes the
 * first rule that matches, an access list the longest prefix; both are the same where no prefix lies
 * in another one.
 */

interface Condition {
  readonly prefixes: readonly string[];
  readonly isNegated: boolean;
}

/** @returns the key `access`; null when no rule can be carried over */
export function haAccess(draft: Draft, front: HaProxy): Keys | null {
  const acls = new Map<string, string[]>();
  const named = new Set<string>();
  const allow: string[] = [];
  const deny: string[] = [];
  const accepted: HaLine[] = [];
  for (const line of front.conditions) {
    const { words } = line;
    if (words[0] === "acl") {
      const prefixes = sourcesOf(words.slice(2));
      if (prefixes === null) noteLine(draft, line);
      else acls.set(words[1] ?? "", [...(acls.get(words[1] ?? "") ?? []), ...prefixes]);
      continue;
    }
    const [, , action = "", when = "", ...rest] = words;
    const condition = conditionOf(when, rest, acls, named);
    if (action === "reject" && when === "") {
      for (const { words: rule } of accepted) {
        allow.push(...conditionOf(rule[3]!, rule.slice(4), acls, named)!.prefixes);
      }
      accepted.length = 0;
      // Nobody else gets as far as the rules behind it.
      if (allow.length === 0) noteLine(draft, line);
    } else if (condition === null) noteLine(draft, line);
    else if (action === "reject") (condition.isNegated ? allow : deny).push(...condition.prefixes);
    else if (action === "accept" && !condition.isNegated) accepted.push(line);
    else noteLine(draft, line);
  }
  for (const line of accepted) {
    draft.note(line.line, "accept without a reject behind it: everybody is admitted anyway");
  }
  if (allow.length === 0 && deny.length === 0) return null;
  return {
    ...(allow.length > 0 && { allow: [...new Set(allow)] }),
    ...(deny.length > 0 && { deny: [...new Set(deny)] }),
    refuse: "reset",
  };
}

function noteLine(draft: Draft, { line, words }: HaLine): void {
  const reason = words[0] === "acl" ? haReason(words) : "only conditions of a source address (src)";
  draft.note(line, `${quote(words.slice(0, 3).join(" "))}: ${reason}`);
}

/** `src ADDRESS[/BITS] …`; null: it is about something else, or in a file. */
function sourcesOf(words: readonly string[]): string[] | null {
  if (words[0] !== "src") return null;
  const prefixes = words
    .slice(1)
    .filter((word) => word !== "--")
    .map((word) => parsePrefix(word));
  if (prefixes.length === 0 || prefixes.includes(null)) return null;
  return prefixes.map((it) => it!.prefix.text);
}

/** `if { src … }`, `unless NAME`, `if !NAME`; null: it is more than that. */
function conditionOf(
  when: string,
  words: readonly string[],
  acls: ReadonlyMap<string, readonly string[]>,
  named: Set<string>,
): Condition | null {
  if (when !== "if" && when !== "unless") return null;
  const [first = ""] = words;
  const isNot = first.startsWith("!");
  const isNegated = isNot !== (when === "unless");
  if (first === "{" || first === "!{") {
    const inner = words.at(-1) === "}" ? sourcesOf(words.slice(1, -1)) : null;
    return inner === null ? null : { prefixes: inner, isNegated };
  }
  const name = isNot ? first.slice(1) : first;
  const prefixes = words.length === 1 ? acls.get(name) : undefined;
  named.add(name);
  return prefixes === undefined ? null : { prefixes, isNegated };
}
