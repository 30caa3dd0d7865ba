import { once } from "node:events";
import { connect } from "node:net";
import path from "node:path";
import { createInterface } from "node:readline";
import { LAB_BACKENDS, LAB_VIP, type Lab, type LabBackend, labProgram } from "./lab.ts";
import type { RunningProcess } from "./processes.ts";

/** The client of lab/tools/flow-holder.ts, and the servers that it talks to. */
export interface FlowHolder {
  /** @throws Error when eight flows in a row went to other servers */
  hold(protocol: string, port: number, key: string, server: LabBackend): Promise<void>;
  /** Whichever server it is with. */
  holdAny(protocol: string, port: number, key: string): Promise<void>;
  /** A UDP flow without an answer; the line that its server prints. */
  quiet(port: number, key: string): Promise<string>;
  /** One datagram more of such a flow; the line that its server prints. */
  quietAgain(key: string): Promise<string>;
  ask(key: string): Promise<string>;
  state(key: string): Promise<string>;
  /** Names of the servers of new flows. */
  fresh(protocol: string, port: number, count: number): Promise<string[]>;
}

/** Start it in the client's namespace. */
export async function startFlowHolder(lab: Lab): Promise<FlowHolder> {
  const socketPath = path.join(lab.directory, "holder.sock");
  const program = labProgram("tools/flow-holder.js");
  const child = lab.spawn("client", [process.execPath, program, LAB_VIP, socketPath]);
  await child.waitLine(/^ready/);
  const socket = connect(socketPath);
  await once(socket, "connect");
  const waiting: ((answer: unknown) => void)[] = [];
  createInterface({ input: socket }).on("line", (line) => waiting.shift()?.(JSON.parse(line)));
  // Answers come in the order of the questions as long as only one is out.
  let tail: Promise<unknown> = Promise.resolve();
  const tell = (command: Record<string, unknown>): Promise<unknown> => {
    const answer = tail.then(
      () =>
        new Promise((resolve) => {
          waiting.push(resolve);
          socket.write(`${JSON.stringify(command)}\n`);
        }),
    );
    tail = answer;
    return answer;
  };
  return {
    async hold(protocol, port, key, server) {
      const found = await tell({ do: "hold", protocol, port, key, server });
      if (found !== true) throw new Error(`${key}: no ${protocol} flow to ${server} at ${port}`);
    },
    async holdAny(protocol, port, key) {
      const found = await tell({ do: "hold", protocol, port, key });
      if (found !== true) throw new Error(`${key}: no ${protocol} flow at ${port}`);
    },
    quiet: (port, key) => tell({ do: "quiet", port, key }) as Promise<string>,
    quietAgain: (key) => tell({ do: "again", key }) as Promise<string>,
    ask: (key) => tell({ do: "ask", key }) as Promise<string>,
    state: (key) => tell({ do: "state", key }) as Promise<string>,
    fresh: (protocol, port, count) =>
      tell({ do: "fresh", protocol, port, count }) as Promise<string[]>,
  };
}

/** Start named-echo on a backend: TCP and UDP ports from `first` on, and a port for checks. */
export async function startNamedEcho(
  lab: Lab,
  node: LabBackend,
  first: number,
  count: number,
  checkPort: number,
): Promise<RunningProcess> {
  const numbers = [first, count, checkPort].map(String);
  const program = labProgram("servers/named-echo.js");
  const argv = [process.execPath, program, node, LAB_BACKENDS[node], ...numbers];
  const server = lab.spawn(node, argv);
  await server.waitLine(/^listening/);
  return server;
}
