import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { waitFor, within } from "./wait.ts";

/**
 * Processes of a test: each bounded in time and output, none left behind. Whatever ends the test's
 * own process short of SIGKILL also ends those it started, by their pid.
 */

/** How a process ended: exactly one of the two is set. */
export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface Output extends Exit {
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly timeoutMs?: number;
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly input?: string | Uint8Array;
  /** False: an exit code other than 0 is an answer like any other. */
  readonly check?: boolean;
}

export interface SpawnOptions {
  readonly name?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
}

export interface RunningProcess {
  readonly name: string;
  readonly pid: number;
  /** Lines of standard output and standard error as they came, at most the last LINES_MAX. */
  readonly lines: readonly string[];
  readonly exited: Promise<Exit>;
  readonly alive: boolean;
  kill(signal?: NodeJS.Signals): void;
  /** Ends it: `signal` (SIGTERM), and SIGKILL when it is still there after `timeoutMs` (5,000). */
  stop(signal?: NodeJS.Signals, timeoutMs?: number): Promise<Exit>;
  /** The first line that matches, from the start of `lines`; throws when it ends without one. */
  waitLine(pattern: RegExp, timeoutMs?: number): Promise<string>;
}

const LINES_MAX = 10_000;
/** From SIGTERM to SIGKILL. */
const TERM_MS = 10_000;
const OUTPUT_BYTES_MAX = 64 * 1024 * 1024;

const cleaners = new Set<() => void>();
let hooked = false;

/**
 * Has `clean` (synchronous, must not throw for what is already gone) called when this process ends;
 * returns the function that takes it off the list.
 */
export function onExit(clean: () => void): () => void {
  if (!hooked) {
    hooked = true;
    process.on("exit", () => {
      for (const one of [...cleaners].reverse()) one();
    });
    for (const [signal, number] of [
      ["SIGINT", 2],
      ["SIGTERM", 15],
      ["SIGHUP", 1],
    ] as const) {
      process.once(signal, () => process.exit(128 + number));
    }
  }
  cleaners.add(clean);
  return () => cleaners.delete(clean);
}

function describe(argv: readonly string[], output: Output, timedOut: boolean): string {
  const how = timedOut ? "timed out" : `ended with ${output.code ?? output.signal}`;
  return `${argv.join(" ")}: ${how}\n${output.stderr}${output.stdout.slice(-2000)}`.trimEnd();
}

function launch(argv: readonly string[], options: SpawnOptions): ChildProcess {
  const [command, ...rest] = argv;
  if (command === undefined) throw new TypeError("argv is empty");
  return spawn(command, rest, {
    stdio: ["pipe", "pipe", "pipe"],
    env: { ...process.env, ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
}

/**
 * Runs a command to its end. Throws an Error with its output when it does not end with 0 (unless
 * `check` is false), cannot be started, or takes longer than `timeoutMs` (30,000 unless said).
 */
export function run(argv: readonly string[], options: RunOptions = {}): Promise<Output> {
  return new Promise((resolve, reject) => {
    const child = launch(argv, options);
    const forget = onExit(() => child.kill("SIGKILL"));
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    let bytes = 0;
    let timedOut = false;
    const keep = (to: Buffer[]) => (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes <= OUTPUT_BYTES_MAX) to.push(chunk);
    };
    child.stdout?.on("data", keep(stdout));
    child.stderr?.on("data", keep(stderr));
    child.stdin?.on("error", () => undefined); // it does not read; its exit code tells
    child.stdin?.end(options.input ?? "");
    const timer = setTimeout(() => {
      timedOut = true;
      child.kill("SIGTERM"); // a script of the lab cleans up
      killer = setTimeout(() => child.kill("SIGKILL"), TERM_MS);
    }, options.timeoutMs ?? 30_000);
    let killer: NodeJS.Timeout | undefined;
    child.on("error", (error) => {
      clearTimeout(timer);
      forget();
      reject(error);
    });
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      clearTimeout(killer);
      forget();
      const output: Output = {
        code,
        signal,
        stdout: Buffer.concat(stdout).toString("utf8"),
        stderr: Buffer.concat(stderr).toString("utf8"),
      };
      if (timedOut || (options.check !== false && code !== 0)) {
        reject(new Error(describe(argv, output, timedOut)));
      } else {
        resolve(output);
      }
    });
  });
}

/** `run` for set-up and clean-up code that must not yield; 10 s at most. Returns standard output. */
export function runSync(
  argv: readonly string[],
  options: { check?: boolean; input?: string } = {},
): string {
  const [command = "", ...rest] = argv;
  const result = spawnSync(command, rest, {
    encoding: "utf8",
    timeout: 10_000,
    killSignal: "SIGKILL",
    input: options.input ?? "",
  });
  if (result.error !== undefined && options.check !== false) throw result.error;
  if (options.check !== false && result.status !== 0) {
    const timedOut = result.error !== undefined;
    throw new Error(
      describe(argv, { ...result, code: result.status, signal: result.signal }, timedOut),
    );
  }
  return result.stdout ?? "";
}

/** Starts a process that runs until it is stopped, or this process ends. */
export function start(argv: readonly string[], options: SpawnOptions = {}): RunningProcess {
  const child = launch(argv, options);
  const name = options.name ?? argv.join(" ");
  const lines: string[] = [];
  let alive = true;
  const forget = onExit(() => child.kill("SIGKILL"));
  const exited = new Promise<Exit>((resolve, reject) => {
    child.on("error", (error) => {
      alive = false;
      forget();
      reject(error);
    });
    child.on("exit", () => {
      alive = false;
    });
    child.on("close", (code, signal) => {
      forget();
      resolve({ code, signal });
    });
  });
  exited.catch(() => undefined); // reported to whoever waits for it
  child.stdin?.on("error", () => undefined);
  child.stdin?.end();
  for (const stream of [child.stdout, child.stderr]) {
    let rest = "";
    stream?.setEncoding("utf8");
    stream?.on("data", (chunk: string) => {
      const parts = (rest + chunk).split("\n");
      rest = parts.pop() ?? "";
      lines.push(...parts);
      if (lines.length > LINES_MAX) lines.splice(0, lines.length - LINES_MAX);
    });
    stream?.on("end", () => {
      if (rest !== "") lines.push(rest);
    });
  }

  const self: RunningProcess = {
    name,
    pid: child.pid ?? 0,
    lines,
    exited,
    get alive() {
      return alive;
    },
    kill(signal = "SIGTERM") {
      if (alive) child.kill(signal);
    },
    async stop(signal = "SIGTERM", timeoutMs = 5000) {
      self.kill(signal);
      const timer = setTimeout(() => self.kill("SIGKILL"), timeoutMs);
      try {
        return await within(`${name} to end`, timeoutMs + 5000, exited);
      } finally {
        clearTimeout(timer);
      }
    },
    async waitLine(pattern, timeoutMs = 10_000) {
      let gone = false;
      const line = await waitFor(
        `${name} to say ${pattern}`,
        () => {
          const found = lines.find((one) => pattern.test(one));
          if (found === undefined && !alive) gone = true;
          return found ?? gone;
        },
        { timeoutMs },
      );
      if (line === true) throw new Error(`${name} ended\n${lines.slice(-20).join("\n")}`);
      return line;
    },
  };
  return self;
}
