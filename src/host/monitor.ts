import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { type Log, reasonOf } from "../base/log.ts";

/** What can change under us. */
export type MonitorTopic = "link" | "address" | "route" | "neigh";

const TOPICS: readonly MonitorTopic[] = ["link", "address", "route", "neigh"];

/** `ip monitor label` starts each line with one of these. */
const LABELS: Readonly<Record<string, MonitorTopic>> = {
  "[LINK]": "link",
  "[ADDR]": "address",
  "[ROUTE]": "route",
  "[NEIGH]": "neigh",
};

/** From the first event to the call: a burst of events is one call. */
export const MONITOR_DEBOUNCE_MS = 10;

/** A monitor that ended is started again after this. */
const RESTART_MS = 1000;
const SUBSCRIBE_POLL_MS = 5;
const SUBSCRIBE_TRIES = 200;

export interface MonitorOptions {
  /**
   * Something changed: read it again. All topics come at once when the monitor has begun to listen
   * (and after a restart), since whatever happened before was not heard.
   */
  readonly onChange: (topics: ReadonlySet<MonitorTopic>) => void;
  readonly log?: Log | undefined;
  /** Who runs it, from a process that may become any user; null: whoever this process is. */
  readonly user?: { readonly uid: number; readonly gid: number } | null;
}

export interface Monitor {
  /** Process id of the child, for tests; undefined between a child's end and the next start. */
  processId(): number | undefined;
  close(): void;
}

/**
 * Listen to the kernel with a long-running `ip monitor`.
 *
 * The child must not outlive us: `setpriv --pdeathsig KILL` has the kernel end it with the thread
 * that started it, SIGKILL of the gateway included. Call it from the main thread.
 */
export function startMonitor(options: MonitorOptions): Monitor {
  let child: ChildProcess | undefined;
  let closed = false;
  let restart: NodeJS.Timeout | undefined;
  let debounce: NodeJS.Timeout | undefined;
  let heard = new Set<MonitorTopic>();

  function hear(topic: MonitorTopic): void {
    heard.add(topic);
    debounce ??= setTimeout(() => {
      debounce = undefined;
      const topics = heard;
      heard = new Set();
      if (!closed) options.onChange(topics);
    }, MONITOR_DEBOUNCE_MS);
  }

  function hearAll(): void {
    for (const topic of TOPICS) hear(topic);
  }

  function ended(reason: string): void {
    if (child === undefined || closed) return;
    child = undefined;
    options.log?.warn("monitor_lost", { reason });
    restart = setTimeout(start, RESTART_MS);
  }

  function start(): void {
    const started = spawn(
      "setpriv",
      ["--pdeathsig", "KILL", "--", "ip", "-oneline", "monitor", ...TOPICS, "label"],
      {
        stdio: ["ignore", "pipe", "ignore"],
        env: { ...process.env, LC_ALL: "C" },
        // Once this process is that user it can become no other, and need not.
        ...(options.user != null && process.getuid?.() === 0
          ? { uid: options.user.uid, gid: options.user.gid }
          : {}),
        // In a process group of its own: Ctrl-C is for the gateway to answer, not for its child.
        detached: true,
      },
    );
    child = started;
    let rest = "";
    started.stdout?.on("data", (chunk: Buffer) => {
      const lines = (rest + chunk.toString("utf8")).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        const topic = LABELS[line.slice(0, line.indexOf("]") + 1)];
        if (topic !== undefined) hear(topic);
      }
    });
    started.on("error", (error) => ended(reasonOf(error)));
    started.on("close", (code, signal) => ended(`ip monitor ended (${signal ?? code})`));
    whenSubscribed(started, hearAll);
  }

  start();
  return {
    processId: () => child?.pid,
    close() {
      closed = true;
      clearTimeout(restart);
      clearTimeout(debounce);
      child?.kill("SIGKILL");
      child = undefined;
    },
  };
}

/** Call `then` once the child's netlink socket is in its groups; after a second, in any case. */
function whenSubscribed(child: ChildProcess, then: () => void): void {
  let tries = 0;
  const timer = setInterval(() => {
    tries += 1;
    if (child.exitCode !== null || child.signalCode !== null) clearInterval(timer);
    else if (tries >= SUBSCRIBE_TRIES || isSubscribed(child.pid)) {
      clearInterval(timer);
      then();
    }
  }, SUBSCRIBE_POLL_MS);
}

/**
 * /proc/net/netlink: `sk Eth Pid Groups …`; a socket's port id is the process id of its maker
 * (net/netlink/af_netlink.c, netlink_autobind), its groups are hex.
 */
function isSubscribed(processId: number | undefined): boolean {
  const lines = readFileSync("/proc/self/net/netlink", "utf8").split("\n");
  return lines.some((line) => {
    const [, protocol, port, groups] = line.trim().split(/\s+/);
    return (
      protocol === "0" && port === String(processId) && Number.parseInt(groups ?? "0", 16) !== 0
    );
  });
}
