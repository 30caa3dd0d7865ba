import { MessageChannel, receiveMessageOnPort, Worker } from "node:worker_threads";
import { reasonOf } from "../../base/log.ts";
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
  /** Hand over what has come and was not yet looked at. */
  drain(): void;
  /** End it, whatever it does; nothing more comes of it. */
  end(): void;
}

export interface PolicyThreads {
  /** @param name - for people who look at threads */
  start(
    name: string,
    files: readonly CompiledFile[],
    tableSizeMax: number,
    events: ThreadEvents,
  ): PolicyThread;
  /** End them all; nothing is started any more. */
  close(): Promise<void>;
}

/** Threads of policies, from a nursery that is there from the first one on. */
export function createPolicyThreads(): PolicyThreads {
  const live = new Map<number, { readonly events: ThreadEvents; readonly close: () => void }>();
  let nursery: Worker | null = null;
  let next = 1;
  let isClosed = false;

  function end(id: number, failure: Failure, message: string): void {
    const thread = live.get(id);
    live.delete(id);
    thread?.close();
    thread?.events.onEnded(failure, message);
  }

  function openNursery(): Worker {
    const worker = new Worker(new URL("./nursery.js", import.meta.url), {
      name: "headgate policies",
      execArgv: ["--enable-source-maps"],
      env: {},
    });
    let reason = "the thread that policies come from has ended";
    worker.unref();
    worker.on("message", ({ id, failure, message }: FromNursery) => end(id, failure, message));
    worker.once("error", (error) => {
      reason = reasonOf(error);
    });
    worker.once("exit", () => {
      if (nursery === worker) nursery = null;
      // Its children end with it.
      for (const id of [...live.keys()]) end(id, "exit", reason);
    });
    return worker;
  }

  function start(
    name: string,
    files: readonly CompiledFile[],
    tableSizeMax: number,
    events: ThreadEvents,
  ): PolicyThread {
    nursery ??= openNursery();
    const from = nursery;
    const id = next++;
    const { port1: own, port2: port } = new MessageChannel();
    live.set(id, { events, close: () => own.close() });
    const hear = (message: FromThread): void => {
      if (live.has(id)) events.onMessage(message);
    };
    own.on("message", hear);
    own.unref();
    const message: ToNursery = { kind: "start", id, name, port, files, tableSizeMax };
    if (isClosed) live.delete(id);
    else from.postMessage(message, [port]);
    return {
      call: (call) => own.postMessage(call),
      drain: () => {
        for (let it = receiveMessageOnPort(own); it !== undefined; it = receiveMessageOnPort(own)) {
          hear(it.message as FromThread);
        }
      },
      end: () => {
        if (!live.delete(id)) return;
        own.close();
        from.postMessage({ kind: "end", id } satisfies ToNursery);
      },
    };
  }

  return {
    start,
    async close() {
      isClosed = true;
      for (const { close } of live.values()) close();
      live.clear();
      await nursery?.terminate();
    },
  };
}
