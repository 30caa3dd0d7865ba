import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { withoutAmbient } from "../../device/privileges-native.ts";
import type {
  CompiledFile,
  Failure,
  FromNursery,
  FromThread,
  ToNursery,
  ToThread,
} from "./protocol.ts";

/** What becomes of a thread; after `onEnded` nothing more comes of it. */
export interface ThreadEvents {
  onMessage(message: FromThread): void;
  onEnded(failure: Failure, message: string): void;
}

export interface PolicyThread {
  call(message: ToThread): void;
  /** End it, whatever it does; nothing more comes of it. */
  end(): void;
}

export interface ThreadOptions {
  /** For people who look at threads. */
  readonly name: string;
  /** Threads of one module share a process. */
  readonly digest: string;
  readonly files: readonly CompiledFile[];
  readonly tableSizeMax: number;
}

export interface PolicyThreads {
  start(options: ThreadOptions, events: ThreadEvents): PolicyThread;
  /** End them all; nothing is started any more. */
  close(): Promise<void>;
}

/** A process that threads come from, and those that it has. */
interface Nursery {
  readonly child: ChildProcess;
  readonly live: Map<number, ThreadEvents>;
  readonly ended: Promise<void>;
}

const NURSERY = fileURLToPath(new URL("./nursery.js", import.meta.url));

/**
 * Threads of policies, in a process for each module: an engine that finds no more memory for one of its
 * threads ends the whole process, and that must not be the gateway's.
 */
export function createPolicyThreads(): PolicyThreads {
  const nurseries = new Map<string, Nursery>();
  let next = 1;
  let isClosed = false;

  function open(digest: string): Nursery {
    const live = new Map<number, ThreadEvents>();
    const end = (id: number, failure: Failure, message: string): void => {
      const events = live.get(id);
      live.delete(id);
      events?.onEnded(failure, message);
    };
    const child = withoutAmbient(() =>
      fork(NURSERY, [], {
        env: {},
        execArgv: ["--enable-source-maps"],
        serialization: "advanced",
        stdio: ["ignore", "ignore", "ignore", "ipc"],
      }),
    );
    // Policies keep no process alive that has nothing else to do.
    child.unref();
    child.channel?.unref();
    child.on("message", (message: FromNursery) => {
      if (message.kind === "ended") end(message.id, message.failure, message.message);
      else live.get(message.id)?.onMessage(message.message);
    });
    // What it cannot be sent any more was for threads that end with it.
    child.on("error", () => {});
    const ended = new Promise<void>((resolve) => {
      child.once("exit", (code, signal) => {
        if (nurseries.get(digest)?.child === child) nurseries.delete(digest);
        // V8 aborts where one allocation is larger than what is left.
        const failure = signal === "SIGABRT" ? "memory" : "exit";
        const message = `the process of its threads ended with ${signal ?? `code ${code}`}`;
        for (const id of [...live.keys()]) end(id, failure, message);
        resolve();
      });
    });
    const nursery = { child, live, ended };
    nurseries.set(digest, nursery);
    return nursery;
  }

  function send({ child }: Nursery, message: ToNursery): void {
    if (child.connected) child.send(message, () => {});
  }

  function start(options: ThreadOptions, events: ThreadEvents): PolicyThread {
    const { name, digest, files, tableSizeMax } = options;
    if (isClosed) return { call: () => {}, end: () => {} };
    const nursery = nurseries.get(digest) ?? open(digest);
    const id = next++;
    nursery.live.set(id, events);
    send(nursery, { kind: "start", id, name, files, tableSizeMax });
    return {
      call: (message) => send(nursery, { kind: "call", id, message }),
      end: () => {
        if (!nursery.live.delete(id)) return;
        send(nursery, { kind: "end", id });
        if (nursery.live.size > 0) return;
        // The next thread of this module has a process of its own: this one may still be ending.
        if (nurseries.get(digest) === nursery) nurseries.delete(digest);
        nursery.child.kill("SIGKILL");
      },
    };
  }

  return {
    start,
    async close() {
      isClosed = true;
      const all = [...nurseries.values()];
      for (const { child, live } of all) {
        live.clear();
        child.ref();
        child.kill("SIGKILL");
      }
      await Promise.all(all.map(({ ended }) => ended));
    },
  };
}
