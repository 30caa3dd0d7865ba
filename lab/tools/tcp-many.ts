/**
 * Asks a TCP server from many source addresses which server it is (its first line: tcp-echo.ts).
 *
 *   node tcp-many.js ADDRESS PORT SOURCE...
 *
 * Prints the servers' names in the order of the sources, one JSON array; "" where there was none.
 */
import { connect } from "node:net";

const AT_ONCE = 32;
const TIMEOUT_MS = 10_000;

const [host = "", port = "", ...sources] = process.argv.slice(2);
if (host === "" || !/^\d+$/.test(port) || sources.length === 0) {
  console.error("usage: tcp-many ADDRESS PORT SOURCE...");
  process.exit(2);
}

function ask(localAddress: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host, port: Number(port), localAddress });
    const end = (name: string): void => {
      socket.destroy();
      resolve(name);
    };
    socket.setTimeout(TIMEOUT_MS, () => end(""));
    socket.on("error", () => end(""));
    socket.on("close", () => end(""));
    socket.once("data", (chunk) => end(chunk.toString().trim()));
  });
}

const names = new Array<string>(sources.length).fill("");
let next = 0;
await Promise.all(
  Array.from({ length: AT_ONCE }, async () => {
    for (let index = next++; index < sources.length; index = next++) {
      names[index] = await ask(sources[index]!);
    }
  }),
);
console.log(JSON.stringify(names));
