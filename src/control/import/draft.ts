import type { KeyPath } from "../config/source.ts";

/**
 * A configuration that is being made of another program's file: plain values, each of which
 * remembers the line of that file that it comes from, and notes about what could not be carried over.
 */

/** A map of the configuration: its keys in the order they are printed in. */
export type Keys = Record<string, unknown>;

/** A line of the other program's file that is not carried over, or not whole, and why. */
export interface ImportNote {
  /** Counts from 1. */
  readonly line: number;
  readonly message: string;
}

/** What the other program's file cannot say. */
export interface ImportOptions {
  /** Name of the file in notes. */
  readonly file: string;
  readonly device: "packet" | "xdp" | "tun";
  /** Interfaces of packet and xdp. */
  readonly interfaces: readonly string[];
  /** SNAT addresses and ranges of full-nat; none: what a proxy did becomes nat. */
  readonly snat: readonly string[];
  /** Outer source addresses of tunnels, at most one of each family. */
  readonly tunnelSources: readonly string[];
  /** VIP addresses for sockets that are bound to every address. */
  readonly vips: readonly string[];
}

export interface ImportResult {
  /** The configuration, with the notes as comments on top; `headgate check` finds no error. */
  readonly text: string;
  /** By line. */
  readonly notes: readonly ImportNote[];
}

/** What the text of a foreign file may bring into a message: printable ASCII, not too long. */
export function quote(text: string): string {
  const short = text.length > 80 ? `${text.slice(0, 77)}...` : text;
  return JSON.stringify(short).replaceAll(/[^\x20-\x7e]/g, "?");
}

export class Draft {
  readonly options: ImportOptions;
  readonly top: Keys = {};
  readonly services: Keys[] = [];
  readonly #notes = new Map<string, ImportNote>();
  readonly #lines = new WeakMap<object, number>();
  readonly #keyLines = new WeakMap<object, Map<string, number>>();
  readonly #names = new Set<string>();

  constructor(options: ImportOptions) {
    this.options = options;
  }

  /** Say once that a line, or a part of it, is not carried over. */
  note(line: number, message: string): void {
    const clean = message.replaceAll(/[^\x20-\x7e]/g, "?");
    this.#notes.set(`${line} ${clean}`, { line, message: clean });
  }

  notes(): ImportNote[] {
    return [...this.#notes.values()].toSorted((a, b) => a.line - b.line);
  }

  /** Remember the line that a map (a service, a backend, a section) comes from. */
  from<T extends object>(line: number, value: T): T {
    this.#lines.set(value, line);
    return value;
  }

  /** Set a key and remember the line that it comes from. */
  set(map: Keys, key: string, value: unknown, line: number): void {
    map[key] = value;
    const lines = this.#keyLines.get(map) ?? new Map<string, number>();
    this.#keyLines.set(map, lines.set(key, line));
  }

  /** The line that the innermost thing around a path comes from; 1 when nothing around it has one. */
  lineOf(path: KeyPath): number {
    let line = 1;
    let value: unknown = { ...this.top, services: this.services };
    for (const step of path) {
      if (typeof value !== "object" || value === null) break;
      line = this.#keyLines.get(value)?.get(String(step)) ?? line;
      value = (value as Keys)[step];
      if (typeof value === "object" && value !== null) line = this.#lines.get(value) ?? line;
    }
    return line;
  }

  /** Name the backends of a service that is left out: their lines are not carried over either. */
  noteBackends(service: Keys): void {
    for (const backend of service["backends"] as readonly Keys[]) {
      const line = this.#lines.get(backend);
      const why = `backend ${backend["address"]} goes with service ${service["name"]}, which is left out`;
      if (line !== undefined) this.note(line, why);
    }
  }

  /**
   * A name for a service: what the configuration allows of the text, made distinct by a number.
   *
   * @param text - any text
   */
  nameFor(text: string): string {
    const base = cleanName(text);
    let name = base;
    for (let count = 2; this.#names.has(name); count++) name = `${base}-${count}`;
    this.#names.add(name);
    return name;
  }
}

/** Leaves room for the number of {@link Draft.nameFor} in the 128 characters of a name. */
const NAME_CHARACTERS_MAX = 120;

/** What the configuration allows of a text as the name of a service or group; never empty. */
export function cleanName(text: string): string {
  const clean = text
    .toLowerCase()
    .replaceAll(/[^a-z0-9./-]+/g, "-")
    .replaceAll(/^[./-]+|[./-]+$/g, "")
    .slice(0, NAME_CHARACTERS_MAX)
    .replace(/[./-]+$/, "");
  return clean === "" ? "service" : clean;
}
