/**
 * The cells of the matrix: every forwarding mode with both families on each side, over each device.
 * What a mode cannot carry for a reason of its own is said here; everything else has to work.
 */
export type Family = 4 | 6;
export type Device = "tun" | "packet" | "xdp";
export type Mode = "nat" | "full-nat" | "dsr" | "ipip" | "gue";

export interface Cell {
  readonly mode: Mode;
  /** Of the VIP, so of the client. */
  readonly vip: Family;
  readonly backend: Family;
}

export const DEVICES: readonly Device[] = ["tun", "packet", "xdp"];
export const MODES: readonly Mode[] = ["nat", "full-nat", "dsr", "ipip", "gue"];
const FAMILIES: readonly Family[] = [4, 6];

export const CELLS: readonly Cell[] = MODES.flatMap((mode) =>
  FAMILIES.flatMap((vip) => FAMILIES.map((backend) => ({ mode, vip, backend }))),
);

/** Answers go from backend to client without passing the gateway. */
export function isOneWay({ mode }: Cell): boolean {
  return mode === "dsr" || mode === "ipip" || mode === "gue";
}

/** Why a cell cannot be, or null. */
export function impossible({ mode, vip, backend }: Cell, device: Device): string | null {
  if (mode === "dsr" && device === "tun") {
    return "dsr changes MAC addresses, and a TUN device has none";
  }
  if (vip !== backend && (mode === "nat" || mode === "dsr")) {
    return `${mode} keeps the client's address, which has no form in the backend's family`;
  }
  return null;
}

/** Name of the cell's service. */
export function serviceName({ mode, vip, backend }: Cell): string {
  return `${mode}-ipv${vip}-to-ipv${backend}`;
}

/** The cell's VIP: its own, so that all cells are services of one gateway. */
export function vipOf(cell: Cell): string {
  const number = 20 + CELLS.indexOf(cell);
  return cell.vip === 4 ? `203.0.113.${number}` : `2001:db8:ff::${number.toString(16)}`;
}

export type Outcome =
  | { readonly result: "pass" }
  | { readonly result: "not possible"; readonly reason: string }
  | { readonly result: "FAIL"; readonly reason: string };

export interface Row {
  readonly cell: Cell;
  readonly device: Device;
  readonly outcome: Outcome;
}

/** The table, and under it each reason once, with a number in the table. */
export function renderMatrix(rows: readonly Row[]): string {
  const devices = DEVICES.filter((device) => rows.some((row) => row.device === device));
  const reasons: string[] = [];
  const numberOf = (reason: string): number => {
    const known = reasons.indexOf(reason);
    return known < 0 ? reasons.push(reason) : known + 1;
  };
  const lines = [["mode", "VIP", "backends", ...devices.map(String)]];
  for (const cell of CELLS) {
    const results = devices.map((device) => {
      const row = rows.find((one) => one.cell === cell && one.device === device);
      if (row === undefined) return "";
      const { outcome } = row;
      return outcome.result === "pass" ? "pass" : `${outcome.result} [${numberOf(outcome.reason)}]`;
    });
    lines.push([cell.mode, `IPv${cell.vip}`, `IPv${cell.backend}`, ...results]);
  }
  const widths = lines[0]!.map((_, column) =>
    Math.max(...lines.map((line) => line[column]!.length)),
  );
  const table = lines.map((line) =>
    line
      .map((text, column) => text.padEnd(widths[column]!))
      .join("  ")
      .trimEnd(),
  );
  const notes = reasons.map((reason, index) => `[${index + 1}] ${reason}`);
  return [...table, "", ...notes].join("\n");
}
