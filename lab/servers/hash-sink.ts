/**
 * Takes what a TCP client sends until its FIN, then answers the SHA-256 of it and closes.
 *
 *   node hash-sink.js ADDRESS[,ADDRESS] PORT
 *
 * Prints "listening ADDRESS PORT" for each address when it is ready; runs until it is ended.
 */
import { createHash } from "node:crypto";
import { createServer, type Socket } from "node:net";

const [address = "", port = ""] = process.argv.slice(2);
if (address === "" || !/^\d+$/.test(port)) {
  console.error("usage: hash-sink ADDRESS[,ADDRESS] PORT");
  process.exit(2);
}
const serve = (socket: Socket): void => {
  const hash = createHash("sha256");
  socket.on("data", (chunk) => hash.update(chunk));
  socket.on("end", () => socket.end(`${hash.digest("hex")}\n`));
  // A reset connection has nobody left to answer.
  socket.on("error", () => socket.destroy());
};
for (const each of address.split(",")) {
  createServer({ allowHalfOpen: true }, serve).listen(Number(port), each, () => {
    console.log(`listening ${each} ${port}`);
  });
}
