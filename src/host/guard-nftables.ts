import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { HostError } from "../base/errors.ts";
import { reasonOf } from "../base/log.ts";
import type { Guard } from "./guard.ts";
import type { GuardEntries } from "./guard-entries.ts";
import { type Elements, elementsOf, tableCommands } from "./guard-nftables-rules.ts";
import type { GuardSettings } from "./guard-tcx.ts";
import { firstComplaint, runCommand, tryCommand } from "./ip-json.ts";

/**
 * The guard for kernels without TCX: a netdev table with an ingress chain. The hook runs after the
 * AF_PACKET tap, as TCX does. A table belongs to one gateway and is named by its first interface and
 * a number; new entries are added to it, and where some have to go, the next table takes its place.
 *
 * `process` mode: the table has `flags owner`, so that the kernel removes it when the netlink socket
 * that made it closes. That socket is a long-running `nft -i`, our child: its commands come through
 * a pipe, and it ends when the pipe does, however this process ends.
 */

const TABLE_PREFIX = "headgate_guard_";

/** How long `nft` may take for one transaction. */
const ANSWER_MS = 10_000;

/** How long a table of a process that has just ended may take to go. */
const LEFT_TRIES = 20;
const LEFT_MS = 50;

/** Between two attempts to bring a lost table back. */
const RETRY_MS = 1000;

/** Names of the tables of guards in this network namespace. */
async function listTables(): Promise<string[]> {
  const text = await tryCommand("nft", ["list", "tables", "netdev"]);
  if (text === null) return [];
  return [...text.matchAll(/^table netdev (headgate_guard_\S+)$/gm)].map((match) => match[1]!);
}

/** The interfaces of a table's chain. */
async function interfacesOf(table: string): Promise<string[]> {
  const text = (await tryCommand("nft", ["list", "table", "netdev", table])) ?? "";
  const devices = /hook ingress devices? =?\s*(?:\{([^}]*)\}|(\S+))/.exec(text);
  return (devices?.[1] ?? devices?.[2] ?? "")
    .split(",")
    .map((name) => name.trim().replaceAll('"', ""))
    .filter((name) => name !== "");
}

/**
 * Remove tables that an earlier gateway left.
 *
 * @param interfaces - only tables with one of these; all when left out
 * @returns what was removed, one sentence each
 */
export async function removeNftablesGuards(interfaces?: readonly string[]): Promise<string[]> {
  const removed: string[] = [];
  for (const table of await listTablesIfInstalled()) {
    const devices = await interfacesOf(table);
    const ours = interfaces === undefined || devices.some((name) => interfaces.includes(name));
    if (!ours) continue;
    if ((await tryCommand("nft", ["delete", "table", "netdev", table])) !== null) {
      removed.push(`nftables guard on ${devices.join(", ")} (table netdev ${table})`);
    }
  }
  return removed;
}

/** Without the command there can be no table of ours. */
async function listTablesIfInstalled(): Promise<string[]> {
  try {
    return await listTables();
  } catch (error) {
    if (error instanceof HostError) return [];
    throw error;
  }
}

/**
 * A guard by nftables.
 *
 * @throws HostError - `nft` is missing, or the kernel has no netdev ingress hook
 */
export async function createNftablesGuard(settings: GuardSettings): Promise<Guard> {
  const { interfaces, mode, log } = settings;
  const first = interfaces[0];
  if (first === undefined) throw new HostError("a guard needs an interface");
  const base = `${TABLE_PREFIX}${first.index}_`;
  let table = `${base}0`;
  const names = interfaces.map(({ name }) => name);
  const owned = mode === "process";
  const session = owned ? createSession() : null;
  let wanted: Elements = NOTHING;
  /** What the table holds; null when there is no table of ours. */
  let held: Elements | null = null;
  let retry: NodeJS.Timeout | undefined;
  let closed = false;

  async function apply(commands: readonly string[]): Promise<void> {
    if (commands.length === 0) return;
    if (session === null) await runCommand("nft", ["-f", "-"], `${commands.join("\n")}\n`);
    else await session.run(commands);
  }

  /**
   * Make a new table, and then remove ours or those that are left. In one transaction, a packet could
   * meet the new chain without its rules yet, and the old one without its rules any more.
   */
  async function build(): Promise<void> {
    const elements = wanted;
    const known = await listTables();
    let number = 0;
    while (known.includes(`${base}${number}`)) number++;
    const made = `${base}${number}`;
    await apply([
      ...tableCommands(made, names, owned),
      ...(additions(made, NOTHING, elements) ?? []),
    ]);
    const left = (await leftTables(base, names)).filter((name) => name !== made);
    table = made;
    held = elements;
    for (const name of left) await removeLeft(name);
  }

  async function removeLeft(name: string): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        return await apply([`delete table netdev ${name}`]);
      } catch (error) {
        // The table of a process that was killed goes a moment later, and until then is its own.
        if (!(await listTables()).includes(name)) return;
        if (tries < LEFT_TRIES) await sleep(LEFT_MS);
        else return log?.warn("guard_left", { table: name, reason: reasonOf(error) });
      }
    }
  }

  /** The child ended, and the table with it. */
  async function rebuild(): Promise<void> {
    held = null;
    if (closed) return;
    try {
      await build();
      log?.info("guard_restored", { kind: "nftables" });
    } catch (error) {
      log?.error("guard_failed", { kind: "nftables", reason: reasonOf(error) });
      retry = setTimeout(rebuild, RETRY_MS);
    }
  }
  session?.onEnd(() => {
    log?.warn("guard_lost", { kind: "nftables", reason: "nft ended" });
    void rebuild();
  });

  async function update(entries: GuardEntries): Promise<void> {
    if (closed) throw new HostError("the guard is closed");
    const before = wanted;
    wanted = elementsOf(entries);
    try {
      // Taking elements out of a large set of ranges costs seconds (net/netfilter/nft_set_pipapo.c
      // walks the set for each); a whole new table costs 0.1 ms an element.
      const added = held === null ? null : additions(table, held, wanted);
      if (added === null) {
        await build();
      } else {
        await apply(added);
        held = wanted;
      }
    } catch (error) {
      wanted = before;
      throw error;
    }
  }

  async function close(options: { readonly remove?: boolean } = {}): Promise<void> {
    if (closed) return;
    closed = true;
    clearTimeout(retry);
    if (session !== null) await session.close();
    else if (options.remove === true) await tryCommand("nft", ["delete", "table", "netdev", table]);
  }

  // Without this, a kernel without the hook would be found at the first update only. A persistent
  // guard that is there already stays until the first update brings its entries.
  try {
    if (owned && (await leftTables(base, names)).length === 0) await build();
    else await checkHook(`${base}check`, names);
  } catch (error) {
    closed = true;
    await session?.close();
    throw error;
  }
  return { kind: "nftables", update, close };
}

/** Tables whose names begin with `base`, or that are on one of these interfaces. */
async function leftTables(base: string, interfaces: readonly string[]): Promise<string[]> {
  const left: string[] = [];
  for (const table of await listTables()) {
    const devices = table.startsWith(base) ? interfaces : await interfacesOf(table);
    if (devices.some((name) => interfaces.includes(name))) left.push(table);
  }
  return left;
}

/** Ask the kernel whether it would take the table, and change nothing (`nft --check`). */
async function checkHook(table: string, names: readonly string[]): Promise<void> {
  const commands = tableCommands(table, names, false);
  await runCommand("nft", ["--check", "-f", "-"], `${commands.join("\n")}\n`);
}

/** `add element` for what is new; null when something has to go. */
function additions(table: string, before: Elements, after: Elements): string[] | null {
  const commands: string[] = [];
  for (const [set, wanted] of after) {
    const had = before.get(set) ?? NO_ELEMENTS;
    for (const element of had) if (!wanted.has(element)) return null;
    const fresh = [...wanted].filter((element) => !had.has(element));
    if (fresh.length === 0) continue;
    commands.push(`add element netdev ${table} ${set} { ${fresh.join(", ")} }`);
  }
  return commands;
}

const NO_ELEMENTS: ReadonlySet<string> = new Set();
const NOTHING: Elements = new Map();

interface Session {
  /** One transaction. @throws HostError with nft's complaint */
  run(commands: readonly string[]): Promise<void>;
  /** Called when the child ended by itself. */
  onEnd(handler: () => void): void;
  close(): Promise<void>;
}

/**
 * A long-running `nft -i`. A line is a transaction; what it printed for a line ends where the answer
 * to the question behind it begins, so that success and failure can be told apart.
 */
function createSession(): Session {
  let child: ChildProcessWithoutNullStreams | null = null;
  let ended: () => void = () => {};
  let closing = false;
  let complaint = "";
  let wake: () => void = () => {};
  let queue: Promise<void> = Promise.resolve();
  let serial = 0;

  function start(): ChildProcessWithoutNullStreams {
    // In a process group of its own: Ctrl-C must not take the guard before the gateway has ended.
    const started = spawn("nft", ["-i"], { stdio: ["pipe", "pipe", "pipe"], detached: true });
    // Prompts and echoes; read, so that the pipe never fills.
    started.stdout.resume();
    started.stderr.on("data", (chunk: Buffer) => {
      complaint += chunk.toString("utf8");
      wake();
    });
    started.stdin.on("error", () => {});
    started.on("error", (error) => {
      complaint = `cannot run nft (Debian package nftables): ${error.message}`;
    });
    started.on("close", () => {
      child = null;
      wake();
      if (!closing) ended();
    });
    return started;
  }

  async function transaction(commands: readonly string[]): Promise<void> {
    child ??= start();
    complaint = "";
    serial += 1;
    const marker = `headgate_end_${serial}`;
    child.stdin.write(`${commands.join("; ")}\n`);
    // A table that nobody has: its complaint names it, and stands behind those of the line above.
    child.stdin.write(`list table netdev ${marker}\n`);
    const deadline = Date.now() + ANSWER_MS;
    while (!complaint.includes(marker)) {
      if (child === null) throw new HostError(`nft ended: ${firstComplaint(complaint)}`);
      if (Date.now() > deadline) throw new HostError(`nft gave no answer within ${ANSWER_MS} ms`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 5);
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    const own = complaint.slice(0, complaint.indexOf(marker));
    const lines = own.split("\n").filter((line) => line.startsWith("Error:"));
    // The last one is the marker's own.
    if (lines.length > 1) throw new HostError(`nft refused the guard: ${lines[0]}`);
  }

  return {
    run(commands) {
      const result = queue.then(() => transaction(commands));
      queue = result.catch(() => {});
      return result;
    },
    onEnd(handler) {
      ended = handler;
    },
    async close() {
      closing = true;
      const running = child;
      if (running === null) return;
      const gone = new Promise<void>((resolve) => running.once("close", () => resolve()));
      running.stdin.end();
      const timer = setTimeout(() => running.kill("SIGKILL"), ANSWER_MS);
      await gone;
      clearTimeout(timer);
    },
  };
}
