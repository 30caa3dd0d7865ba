/**
 * Answers every UDP datagram with itself.
 *
 *   node udp-echo.js ADDRESS[,ADDRESS] PORT
 *
 * Prints "listening ADDRESS PORT" for each address when it is ready; runs until it is ended.
 */
import { createSocket } from "node:dgram";

const [address = "", port = ""] = process.argv.slice(2);
if (address === "" || !/^\d+$/.test(port)) {
  console.error("usage: udp-echo ADDRESS[,ADDRESS] PORT");
  process.exit(2);
}
for (const each of address.split(",")) {
  const type = each.includes(":") ? "udp6" : "udp4";
  const socket = createSocket({ type, recvBufferSize: 4 * 1024 * 1024 });
  socket.on("message", (message, from) => {
    socket.send(message, from.port, from.address);
  });
  // An ICMP error about an answer (its asker is gone) is not this server's failure.
  socket.on("error", (error: NodeJS.ErrnoException) => {
    if (error.syscall === "bind") throw error;
  });
  socket.bind(Number(port), each, () => {
    console.log(`listening ${each} ${port}`);
  });
}
