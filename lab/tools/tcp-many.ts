/**
 * Asks a TCP server from many source addresses which server it is (its first line: tcp-echo.ts).
 *
 *   node tcp-many.js ADDRESS PORT SOURCE...
 *   node tcp-many.js ADDRESS PORT FIRST+COUNT      so many IPv4 addresses, one after the other
 *
 * Prints the servers' names in the order of the sources, one JSON array; "" where there was none.
 */
import { connect } from "node:net";
import { formatIpv4, parseIpv4 } from "../../src/base/address.ts";

const AT_ONCE = 32;
const TIMEOUT_MS = 10_000;

const [host = "", port = "", ...given] = process.argv.slice(2);
const sources = given.flatMap((source) => {
  const [first = "", count] = source.split("+");
  if (count === undefined) return [source];
  const start = parseIpv4(first) ?? 0;
  return Array.from({ length: Number(count) }, (_, index) => formatIpv4((start + index) | 0));
});
if (host === "" || !/^\d+$/.test(port) || sources.length === 0) {
  console.error("usage: tcp-many ADDRESS PORT SOURCE... | FIRST+COUNT");
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
