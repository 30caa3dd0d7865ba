/**
 * A TCP echo: says its name in one line when a client connects, then sends back what it gets.
 *
 *   node tcp-echo.js NAME ADDRESS[,ADDRESS] PORT
 *
 * Prints "listening ADDRESS PORT" for each address when it is ready; runs until it is ended.
 */
import { createServer, type Socket } from "node:net";

const [name = "", address = "", port = ""] = process.argv.slice(2);
if (name === "" || address === "" || !/^\d+$/.test(port)) {
  console.error("usage: tcp-echo NAME ADDRESS[,ADDRESS] PORT");
  process.exit(2);
}
const serve = (socket: Socket): void => {
  socket.setNoDelay(true);
  socket.write(`${name}\n`);
  socket.on("data", (chunk) => socket.write(chunk));
  socket.on("error", () => socket.destroy());
};
for (const each of address.split(",")) {
  createServer(serve).listen(Number(port), each, 4096, () => {
    console.log(`listening ${each} ${port}`);
  });
}
