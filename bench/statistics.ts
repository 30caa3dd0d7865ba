/** Numbers over rounds, and the tables they are printed in. */

/** The middle value; of an even number of values the mean of the two in the middle. Not empty. */
export function median(values: readonly number[]): number {
  if (values.length === 0) throw new TypeError("the median of nothing");
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/**
 * The median of the rounds' own ratios. Rounds are paired: what disturbed the machine in one of them
 * disturbed both sides, so this is steadier than the ratio of the medians.
 */
export function medianRatio(values: readonly number[], reference: readonly number[]): number {
  return median(values.map((value, round) => value / reference[round]!));
}

/** "12.3 (11.9-13.0)": median, lowest and highest. */
export function spread(values: readonly number[], digits: number): string {
  const text = (value: number): string => value.toFixed(digits);
  return `${text(median(values))} (${text(Math.min(...values))}-${text(Math.max(...values))})`;
}

/** A Markdown table with its columns aligned; the first column is text, the others are numbers. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((cell, column) =>
    Math.max(cell.length, ...rows.map((row) => row[column]!.length), 3),
  );
  const line = (cells: readonly string[]): string =>
    `| ${cells
      .map((cell, at) => (at === 0 ? cell.padEnd(widths[at]!) : cell.padStart(widths[at]!)))
      .join(" | ")} |`;
  const rule = widths.map((width, at) =>
    at === 0 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`,
  );
  return [line(head), line(rule), ...rows.map(line)].join("\n");
}

/** Whether a name is asked for by `--only`: it contains one of the texts between the bars. */
export function isWanted(name: string, only: string | undefined): boolean {
  return only === undefined || only.split("|").some((text) => name.includes(text));
}
