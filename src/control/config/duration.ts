/**
 * Durations as people write them: `500ms`, `2s`, `5m`, `2h4m`. Units in falling order, each at most
 * once, whole numbers only.
 */

const FORM = /^(?=\d)(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?(?:(\d{1,9})ms)?$/;

/** The same form for JSON Schema. */
export const DURATION_PATTERN = "^(?=\\d)(\\d+h)?(\\d+m)?(\\d+s)?(\\d+ms)?$";

/** @returns milliseconds, or null when `text` is not a duration */
export function parseDuration(text: string): number | null {
  const parts = FORM.exec(text);
  if (parts === null) return null;
  const [, hours = "0", minutes = "0", seconds = "0", milliseconds = "0"] = parts;
  return (
    Number(hours) * 3_600_000 +
    Number(minutes) * 60_000 +
    Number(seconds) * 1000 +
    Number(milliseconds)
  );
}

/**
 * The shortest text that parses to the same duration: 7440000 is `2h4m`, 90000 is `1m30s`.
 *
 * @param durationMs - whole milliseconds, at least 0
 */
export function formatDuration(durationMs: number): string {
  if (durationMs === 0) return "0s";
  const units = [
    ["h", 3_600_000],
    ["m", 60_000],
    ["s", 1000],
    ["ms", 1],
  ] as const;
  let rest = durationMs;
  let text = "";
  for (const [unit, unitMs] of units) {
    const count = Math.floor(rest / unitMs);
    if (count > 0) text += `${count}${unit}`;
    rest -= count * unitMs;
  }
  return text;
}
