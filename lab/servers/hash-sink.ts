/**
 * Takes what a TCP client sends until its FIN, then answers the SHA-256 of it and closes.
 *
 *   node hash-sink.js ADDRESS PORT
 *
 * Prints "listening ADDRESS:PORT" when it is ready; runs until it is ended.
 */
import { createHash } from "node:crypto";
import { createServer } from "node:net";

const [address = "", port = ""] = process.argv.slice(2);
if (address === "" || !/^\d+$/.test(port)) {
  console.error("usage: hash-sink ADDRESS PORT");
  process.exit(2);
}
const server = createServer({ allowHalfOpen: true }, (socket) => {
  const hash = createHash("sha256");
  socket.on("data", (chunk) => hash.update(chunk));
  socket.on("end", () => socket.end(`${hash.digest("hex")}\n`));
  // A reset connection has nobody left to answer.
  socket.on("error", () => socket.destroy());
});
server.listen(Number(port), address, () => {
  console.log(`listening ${address}:${port}`);
});
