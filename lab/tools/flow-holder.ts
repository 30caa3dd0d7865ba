/**
 * Opens flows through a VIP to named-echo servers and holds them.
 *
 *   node flow-holder.js VIP SOCKET
 *
 * Prints "ready" when it listens on the Unix socket SOCKET, where each line is a command as JSON,
 * answered by one line of JSON:
 *
 *   {do: "hold", protocol, port, key, server}  a flow to that server (any, where none is said), held
 *                                              under `key`: true, or false after eight tries
 *   {do: "quiet", port, key}                   a UDP flow that no server answers; the text it sent
 *   {do: "again", key}                         one datagram more of it; likewise
 *   {do: "ask", key}                           what answers: a server's name, "reset" or "silence"
 *   {do: "state", key}                         "open", "reset" (TCP) or "refused" (UDP: an ICMP error)
 *   {do: "fresh", protocol, port, count}       new flows: the names of the servers, in order; "" none
 */
import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { createInterface } from "node:readline";

const [vip = "", path = ""] = process.argv.slice(2);
if (vip === "" || path === "") {
  console.error("usage: flow-holder VIP SOCKET");
  process.exit(2);
}

const ANSWER_MS = 5000;
const TRIES = 8;

interface Command {
  readonly do: string;
  readonly protocol?: "tcp" | "udp";
  readonly port?: number;
  readonly key?: string;
  readonly server?: string;
  readonly count?: number;
}

/** One flow; `ask` resolves with a server's name, or with what went wrong. */
interface Flow {
  readonly ask: () => Promise<string>;
  readonly state: () => string;
  readonly send: (text: string) => void;
  readonly close: () => void;
}

const held = new Map<string, Flow>();
let asked = 0;

function withTimeout(promise: Promise<string>): Promise<string> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve("silence"), ANSWER_MS);
    promise.then((text) => {
      clearTimeout(timer);
      resolve(text);
    });
  });
}

/** @returns the flow, and the name that the server said first; "" when there was no connection */
async function openTcp(port: number): Promise<{ flow: Flow; name: string }> {
  const socket: Socket = connect(port, vip);
  let state = "open";
  let text = "";
  let heard = (): void => undefined;
  socket.setNoDelay(true);
  socket.on("data", (chunk) => {
    text += String(chunk);
    heard();
  });
  socket.on("error", () => {
    state = "reset";
    heard();
  });
  socket.on("close", () => {
    state = "reset";
    heard();
  });
  const until = (test: () => boolean): Promise<string> =>
    withTimeout(
      new Promise((resolve) => {
        heard = () => {
          if (state === "reset") resolve("reset");
          else if (test()) resolve("heard");
        };
        heard();
      }),
    );
  const first = await until(() => text.includes("\n"));
  const name = first === "heard" ? text.split("\n")[0]! : "";
  const flow: Flow = {
    state: () => state,
    send: (word) => socket.write(word),
    close: () => socket.destroy(),
    ask: async () => {
      const word = `ask${asked++};`;
      socket.write(word);
      const answer = await until(() => text.includes(word));
      return answer === "heard" ? name : answer;
    },
  };
  return { flow, name };
}

async function openUdp(port: number): Promise<Flow> {
  const socket: UdpSocket = createSocket("udp4");
  let state = "open";
  let heard: ((text: string) => void) | null = null;
  socket.on("message", (message) => heard?.(String(message)));
  socket.on("error", () => {
    state = "refused";
  });
  socket.connect(port, vip);
  await once(socket, "connect");
  const send = (text: string): void => socket.send(text, () => undefined);
  return {
    send,
    state: () => state,
    close: () => socket.close(),
    ask: () => {
      const word = `ask${asked++}`;
      const answer = new Promise<string>((resolve) => {
        heard = (text) => {
          const [name, echoed] = text.split(" ");
          if (echoed === word) resolve(name!);
        };
      });
      send(word);
      return withTimeout(answer);
    },
  };
}

async function open(protocol: string, port: number): Promise<{ flow: Flow; name: string }> {
  if (protocol === "tcp") return openTcp(port);
  const flow = await openUdp(port);
  return { flow, name: await flow.ask() };
}

async function hold({ protocol = "tcp", port = 0, key = "", server }: Command): Promise<boolean> {
  for (let tries = 0; tries < TRIES; tries++) {
    const { flow, name } = await open(protocol, port);
    if (name === server || (server === undefined && name !== "")) {
      held.set(key, flow);
      return true;
    }
    flow.close();
  }
  return false;
}

async function quiet({ port = 0, key = "" }: Command): Promise<string> {
  const flow = await openUdp(port);
  held.set(key, flow);
  flow.send(`quiet ${key}`);
  return `quiet ${key}`;
}

async function fresh({ protocol = "tcp", port = 0, count = 0 }: Command): Promise<string[]> {
  const opened = await Promise.all(Array.from({ length: count }, () => open(protocol, port)));
  for (const { flow } of opened) flow.close();
  return opened.map(({ name }) => name);
}

async function obey(command: Command): Promise<unknown> {
  const flow = held.get(command.key ?? "");
  switch (command.do) {
    case "hold":
      return hold(command);
    case "quiet":
      return quiet(command);
    case "fresh":
      return fresh(command);
    case "again":
      flow?.send(`quiet ${command.key} again`);
      return `quiet ${command.key} again`;
    case "ask":
      return flow?.ask() ?? null;
    case "state":
      return flow?.state() ?? null;
    default:
      return null;
  }
}

createServer((socket) => {
  createInterface({ input: socket }).on("line", (line) => {
    obey(JSON.parse(line) as Command).then((answer) => socket.write(`${JSON.stringify(answer)}\n`));
  });
}).listen(path, () => console.log("ready"));
