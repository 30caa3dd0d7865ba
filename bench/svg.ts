import { median } from "./statistics.ts";

/**
 * Bar charts as SVG text: one bar a row with its median, and a line from the lowest to the highest
 * round. Colours are Okabe and Ito's, which most colour-blind people tell apart, and every row has its
 * name and number, so that none is needed to read it; light and dark follow the reader's setting.
 */
export interface Bar {
  readonly label: string;
  /** By round; not empty. */
  readonly values: readonly number[];
  /** ours, a peer, or a floor that does less. */
  readonly kind: "ours" | "peer" | "floor";
}

export interface Chart {
  readonly title: string;
  readonly unit: string;
  readonly digits: number;
  readonly bars: readonly Bar[];
}

const WIDTH = 760;
const LABEL_WIDTH = 270;
const VALUE_WIDTH = 150;
const ROW_HEIGHT = 26;
const BAR_HEIGHT = 16;
const TOP = 44;

const STYLE = `
    text { font: 13px system-ui, sans-serif; fill: #1f2328; }
    .title { font-weight: 600; font-size: 15px; }
    .ours { fill: #0072b2; } .peer { fill: #e69f00; } .floor { fill: #8a8f96; }
    .spread { stroke: #1f2328; stroke-width: 1.5; } .axis { stroke: #8a8f96; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .ours { fill: #56b4e9; } .floor { fill: #a5abb3; }
      .spread { stroke: #e6edf3; }
    }`;

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/** The picture. @throws RangeError when there is nothing to draw */
export function barChart({ title, unit, digits, bars }: Chart): string {
  if (bars.length === 0) throw new RangeError(`${title}: no bars`);
  const most = Math.max(...bars.flatMap(({ values }) => values), Number.MIN_VALUE);
  const room = WIDTH - LABEL_WIDTH - VALUE_WIDTH;
  const x = (value: number): string => (LABEL_WIDTH + (room * value) / most).toFixed(1);
  const height = TOP + bars.length * ROW_HEIGHT + 12;
  const rows = bars.map(({ label, values, kind }, index) => {
    const y = TOP + index * ROW_HEIGHT;
    const middle = median(values);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const text = y + 13;
    const line = y + BAR_HEIGHT / 2;
    const width = (Number(x(middle)) - LABEL_WIDTH).toFixed(1);
    const range = values.length > 1 ? ` (${low.toFixed(digits)}-${high.toFixed(digits)})` : "";
    return [
      `  <text x="${LABEL_WIDTH - 8}" y="${text}" text-anchor="end">${escaped(label)}</text>`,
      `  <rect class="${kind}" x="${LABEL_WIDTH}" y="${y}" width="${width}" height="${BAR_HEIGHT}"/>`,
      `  <line class="spread" x1="${x(low)}" y1="${line}" x2="${x(high)}" y2="${line}"/>`,
      `  <text x="${(Number(x(high)) + 8).toFixed(1)}" y="${text}">${middle.toFixed(digits)}${range}</text>`,
    ].join("\n");
  });
  const words = bars.map(({ label, values }) => `${label} ${median(values).toFixed(digits)}`);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img">
  <title>${escaped(`${title}, ${unit}`)}</title>
  <desc>${escaped(words.join("; "))}</desc>
  <style>${STYLE}
  </style>
  <text class="title" x="8" y="22">${escaped(`${title}, ${unit}`)}</text>
  <line class="axis" x1="${LABEL_WIDTH}" y1="${TOP - 6}" x2="${LABEL_WIDTH}" y2="${height - 8}"/>
${rows.join("\n")}
</svg>
`;
}
