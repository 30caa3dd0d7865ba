/**
 * A TCP echo: says its name in one line when a client connects, then sends back what it gets.
 *
 *   node tcp-echo.js NAME ADDRESS PORT
 *
 * Prints "listening ADDRESS:PORT" when it is ready; runs until it is ended.
 */
import { createServer } from "node:net";

const [name = "", address = "", port = ""] = process.argv.slice(2);
if (name === "" || address === "" || !/^\d+$/.test(port)) {
  console.error("usage: tcp-echo NAME ADDRESS PORT");
  process.exit(2);
}
const server = createServer((socket) => {
  socket.setNoDelay(true);
  socket.write(`${name}\n`);
  socket.on("data", (chunk) => socket.write(chunk));
  socket.on("error", () => socket.destroy());
});
server.listen(Number(port), address, 4096, () => {
  console.log(`listening ${address}:${port}`);
});
