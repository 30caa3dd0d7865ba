import Table from "cli-table3";

/** No lines, two spaces between columns. */
const BORDERLESS = {
  top: "",
  "top-mid": "",
  "top-left": "",
  "top-right": "",
  bottom: "",
  "bottom-mid": "",
  "bottom-left": "",
  "bottom-right": "",
  left: "",
  "left-mid": "",
  mid: "",
  "mid-mid": "",
  right: "",
  "right-mid": "",
  middle: "  ",
};

export interface Column<Row> {
  readonly title: string;
  readonly cell: (row: Row) => string | number;
  /** Numbers stand at the right of their column. */
  readonly isNumber?: boolean;
}

/** Characters that would move a terminal's cursor or break a line; names and reasons have none. */
function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, "?");
}

/**
 * A table with a header row, for people and for `awk`.
 *
 * @returns lines without trailing spaces, each ending in a newline
 */
export function renderTable<Row>(columns: readonly Column<Row>[], rows: readonly Row[]): string {
  const table = new Table({
    chars: BORDERLESS,
    style: { head: [], border: [], "padding-left": 0, "padding-right": 0, compact: true },
    head: columns.map((it) => it.title),
    colAligns: columns.map((it) => (it.isNumber === true ? "right" : "left")),
  });
  for (const row of rows) table.push(columns.map((it) => printable(String(it.cell(row)))));
  return table
    .toString()
    .split("\n")
    .map((line) => `${line.trimEnd()}\n`)
    .join("");
}

/**
 * A count as ipvsadm prints large ones: exact to 99999, then 100K, 12.3M, 1.2G. Rates below 10 keep
 * one decimal.
 */
export function formatCount(count: number): string {
  if (count < 100_000) {
    return Number.isInteger(count) || count >= 10 ? String(Math.round(count)) : count.toFixed(1);
  }
  let value = count;
  let unit = "";
  for (const next of ["K", "M", "G", "T", "P"]) {
    if (value < 1000) break;
    value /= 1000;
    unit = next;
  }
  return value < 99.95 ? `${value.toFixed(1)}${unit}` : `${Math.round(value)}${unit}`;
}

/** A duration to the second: `2h4m`, `58s`, `0s`. */
export function formatAge(durationMs: number): string {
  const seconds = Math.max(0, Math.floor(durationMs / 1000));
  const parts = [
    [Math.floor(seconds / 3600), "h"],
    [Math.floor(seconds / 60) % 60, "m"],
    [seconds % 60, "s"],
  ] as const;
  const text = parts
    .filter(([count]) => count > 0)
    .map(([count, unit]) => `${count}${unit}`)
    .join("");
  return text === "" ? "0s" : text;
}
