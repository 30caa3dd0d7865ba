import { execFile, spawn } from "node:child_process";
import { HostError } from "../base/errors.ts";

/**
 * The `ip` command of iproute2: the control plane's way to ask for and to change what the kernel
 * knows. It is given plain arguments (no shell), and its JSON output is read.
 */

/** Commands that would wait for ever are ended after this; `ip` answers within milliseconds. */
export const IP_TIMEOUT_MS = 10_000;

/** Largest answer read: a full table of 1,000,000 routes is some 100 MB, and is refused. */
const OUTPUT_BYTES_MAX = 64 * 1024 * 1024;

export type IpObject = Readonly<Record<string, unknown>>;

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Nothing of the caller's locale: messages are matched and shown in English. */
const ENVIRONMENT = { ...process.env, LC_ALL: "C" };

function outcome(file: string, args: readonly string[], input = ""): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = execFile(
      file,
      [...args],
      { encoding: "utf8", maxBuffer: OUTPUT_BYTES_MAX, timeout: IP_TIMEOUT_MS, env: ENVIRONMENT },
      (error, stdout, stderr) => {
        if (error === null) resolve({ code: 0, stdout, stderr });
        else if (typeof error.code === "number") resolve({ code: error.code, stdout, stderr });
        else reject(commandError(file, args, error));
      },
    );
    // A command that does not read its input closes it: its exit code tells the story.
    child.stdin?.on("error", () => {});
    child.stdin?.end(input);
  });
}

function commandError(file: string, args: readonly string[], error: Error): HostError {
  const { code } = error as NodeJS.ErrnoException;
  const hint =
    code === "ENOENT"
      ? `the command \`${file}\` is not installed (Debian package ${PACKAGES[file] ?? file})`
      : error.message;
  return new HostError(`cannot run \`${[file, ...args].join(" ")}\`: ${hint}`, { cause: error });
}

const PACKAGES: Readonly<Record<string, string>> = {
  ip: "iproute2",
  nft: "nftables",
  setpriv: "util-linux",
};

/** First line that says something, of what a command printed on standard error. */
export function firstComplaint(stderr: string): string {
  const line = stderr
    .split("\n")
    .map((text) => text.trim())
    .find((text) => text !== "");
  return line ?? "no reason given";
}

/**
 * Run a command to its end.
 *
 * @param input - what it reads on standard input
 * @returns what it printed on standard output
 * @throws HostError - not installed, no answer within IP_TIMEOUT_MS, or an exit code but 0; the
 *   message names the command and the first line of its complaint
 */
export async function runCommand(
  file: string,
  args: readonly string[],
  input = "",
): Promise<string> {
  const { code, stdout, stderr } = await outcome(file, args, input);
  if (code !== 0) {
    throw new HostError(`\`${[file, ...args].join(" ")}\` failed: ${firstComplaint(stderr)}`);
  }
  return stdout;
}

/** Like {@link runCommand}, but an exit code other than 0 is `null` (the command says "no such"). */
export async function tryCommand(file: string, args: readonly string[]): Promise<string | null> {
  const { code, stdout } = await outcome(file, args);
  return code === 0 ? stdout : null;
}

/**
 * Read what `ip -json` prints: one JSON array a command, each on its own line. A command that found
 * nothing prints nothing or empty objects; one that failed half-way leaves an open bracket.
 *
 * @returns the objects of all arrays, in order
 */
export function parseIpJson(text: string): IpObject[] {
  const objects: IpObject[] = [];
  for (const line of text.split("\n")) {
    const trimmed = line.trim();
    if (trimmed === "" || trimmed === "[") continue;
    let parsed: unknown;
    try {
      parsed = JSON.parse(trimmed);
    } catch {
      // The open bracket of a command that failed stands before the next one's answer.
      if (!trimmed.startsWith("[[")) continue;
      parsed = JSON.parse(trimmed.slice(1));
    }
    if (!Array.isArray(parsed)) continue;
    for (const entry of parsed) {
      if (typeof entry === "object" && entry !== null && Object.keys(entry).length > 0) {
        objects.push(entry as IpObject);
      }
    }
  }
  return objects;
}

/**
 * Ask `ip -json -4 ARGS`, or the same of another family; "any": of both, where the command can.
 *
 * @throws HostError - see {@link runCommand}
 */
export async function ipJson(
  args: readonly string[],
  family: 4 | 6 | "any" = 4,
): Promise<IpObject[]> {
  const flag = family === "any" ? [] : [`-${family}`];
  return parseIpJson(await runCommand("ip", ["-json", ...flag, ...args]));
}

export interface BatchAnswer {
  readonly objects: readonly IpObject[];
  /** What failed: the line of the batch, counted from 0, and the kernel's complaint. */
  readonly failures: readonly { readonly line: number; readonly reason: string }[];
}

/**
 * Run many `ip` commands in one process (`ip -batch`), going on after one that fails. Each has the
 * family of the address that it names.
 *
 * @param lines - commands without the leading `ip`
 * @param family - of commands that name no address
 * @throws HostError - `ip` cannot be run or gives no answer within IP_TIMEOUT_MS
 */
export function ipBatch(lines: readonly string[], family?: 4 | 6): Promise<BatchAnswer> {
  if (lines.length === 0) return Promise.resolve({ objects: [], failures: [] });
  return new Promise((resolve, reject) => {
    const flag = family === undefined ? [] : [`-${family}`];
    const args = ["-json", ...flag, "-force", "-batch", "-"];
    const child = spawn("ip", args, { stdio: ["pipe", "pipe", "pipe"], env: ENVIRONMENT });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    const timer = setTimeout(() => child.kill("SIGKILL"), IP_TIMEOUT_MS);
    child.stdout.on("data", (chunk: Buffer) => out.push(chunk));
    child.stderr.on("data", (chunk: Buffer) => err.push(chunk));
    // A child that dies early closes its end: its exit code tells the story.
    child.stdin.on("error", () => {});
    child.on("error", (error) => {
      clearTimeout(timer);
      reject(commandError("ip", args, error));
    });
    child.on("close", (_code, signal) => {
      clearTimeout(timer);
      if (signal !== null) {
        reject(new HostError(`\`ip -batch\` with ${lines.length} commands ended by ${signal}`));
        return;
      }
      resolve({
        objects: parseIpJson(Buffer.concat(out).toString("utf8")),
        failures: readFailures(Buffer.concat(err).toString("utf8")),
      });
    });
    child.stdin.end(`${lines.join("\n")}\n`);
  });
}

/** A complaint stands above its `Command failed -:N`, where N counts lines from 1. */
function readFailures(stderr: string): { line: number; reason: string }[] {
  const failures: { line: number; reason: string }[] = [];
  let reason = "";
  for (const text of stderr.split("\n")) {
    const failed = /^Command failed -:(\d+)$/.exec(text.trim());
    if (failed !== null) {
      failures.push({ line: Number(failed[1]) - 1, reason: reason || "no reason given" });
      reason = "";
    } else if (text.trim() !== "" && reason === "") {
      reason = text.trim().replace(/^RTNETLINK answers: /, "");
    }
  }
  return failures;
}

/** A field that must be text; "" when it is not there. */
export function textOf(object: IpObject, key: string): string {
  const value = object[key];
  return typeof value === "string" ? value : "";
}

/** A field that must be a number; 0 when it is not there. */
export function numberOf(object: IpObject, key: string): number {
  const value = object[key];
  return typeof value === "number" ? value : 0;
}

/** A field that is a list of words; empty when it is not there. */
export function wordsOf(object: IpObject, key: string): readonly string[] {
  const value = object[key];
  return Array.isArray(value) ? value.filter((word) => typeof word === "string") : [];
}
