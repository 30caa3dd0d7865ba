import { type ChildProcess, spawn } from "node:child_process";
import { type CheckEndpoint, type CheckResult, failureReason, runTimed } from "./check.ts";

/** A program, and how its exit code is read. */
export interface ExecQuestion {
  /** Absolute path and arguments; no shell. */
  readonly command: readonly string[];
  readonly user: string | null;
  readonly dynamicWeight: boolean;
}

/** What running a program needs of the host. */
export interface ExecHost {
  /**
   * Numbers of a user; null: this process is the user already.
   *
   * @throws Error - there is no such user
   */
  userOf(name: string): { readonly uid: number; readonly gid: number } | null;
  /** Start a child that inherits none of this process's capabilities. */
  spawnPlainly(start: () => ChildProcess): ChildProcess;
}

const OUTPUT_BYTES_MAX = 4096;
const OUTPUT_GRACE_MS = 200;
/** Exit codes of keepalived's MISC_CHECK: up, down, and from here on up with a weight of code - 2. */
const CODE_UP = 0;
const CODE_WEIGHT_MIN = 2;

/**
 * Run a program of the operator: keepalived's MISC_CHECK. Exit code 0 is up, 1 down; 2 to 255 are down,
 * but with `dynamicWeight` up, with (code - 2) percent of the backend's weight. The first line of its
 * output is the reason. At the timeout its process group is killed.
 *
 * The program's environment is PATH and HEADGATE_SERVICE, HEADGATE_ADDRESS, HEADGATE_PORT: nothing of
 * the gateway's own.
 *
 * @returns fulfilled when the program has ended, never rejected
 */
export function checkExec(
  endpoint: CheckEndpoint,
  question: ExecQuestion,
  host: ExecHost,
  signal: AbortSignal,
): Promise<CheckResult> {
  return runTimed(endpoint.timeoutMs, signal, (decide, done) => {
    const [program = "", ...parameters] = question.command;
    const as = question.user === null ? null : host.userOf(question.user);
    const child = host.spawnPlainly(() =>
      spawn(program, parameters, {
        ...as,
        cwd: "/",
        env: {
          PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
          HEADGATE_SERVICE: endpoint.service ?? "",
          HEADGATE_ADDRESS: endpoint.address,
          HEADGATE_PORT: `${endpoint.port}`,
        },
        stdio: ["ignore", "pipe", "pipe"],
        // A process group of its own, which can be killed whole.
        detached: true,
      }),
    );
    const output = collect(child);
    let hasEnded = false;
    const end = (): void => {
      if (hasEnded) return;
      hasEnded = true;
      // What it left running in the background may hold its output open.
      child.stdout?.destroy();
      child.stderr?.destroy();
      child.unref();
      done();
    };
    child.once("error", (error) => {
      decide(false, failureReason(error));
      // Started, but a signal could not be sent: its end comes by itself.
      if (child.pid === undefined) end();
    });
    // Its last words may come after its end: they have come when its output is closed (`close`). What
    // it left running may hold that open, so they are not waited for long.
    let grace: NodeJS.Timeout | null = null;
    child.once("exit", () => {
      grace = setTimeout(finish, OUTPUT_GRACE_MS);
    });
    child.once("close", finish);
    function finish(): void {
      if (grace !== null) clearTimeout(grace);
      if (hasEnded) return;
      const first = output().split("\n", 1)[0]!.trim();
      const said = first === "" ? "" : `: ${first}`;
      const { exitCode, signalCode } = child;
      if (exitCode === null) decide(false, `killed by ${signalCode}${said}`);
      else judge(exitCode, said);
      end();
    }
    function judge(code: number, said: string): void {
      const reason = `exit code ${code}${said}`;
      const isWeight = question.dynamicWeight && code >= CODE_WEIGHT_MIN;
      if (isWeight) decide(true, reason, { weight: code - CODE_WEIGHT_MIN });
      else decide(code === CODE_UP, reason);
    }
    return {
      stop() {
        killGroup(child);
        // Who ends the check does not wait for a program that cannot be killed (a file system that
        // hangs); at the timeout its end is waited for, so that there is never a second one.
        if (signal.aborted) end();
      },
    };
  });
}

/** @returns what has come on standard output, or else on standard error; at most so much of each */
function collect(child: ChildProcess): () => string {
  const texts = [child.stdout, child.stderr].map((stream) => {
    let text = "";
    stream?.on("data", (part: Buffer) => {
      if (text.length < OUTPUT_BYTES_MAX) text += part.toString("utf8");
    });
    stream?.on("error", () => undefined);
    return () => text.slice(0, OUTPUT_BYTES_MAX);
  });
  return () => texts.map((text) => text().trim()).find((text) => text !== "") ?? "";
}

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch {
    // It ended a moment ago, or is another user's by now: its end comes by itself.
  }
}
