/**
 * Answers every UDP datagram with itself.
 *
 *   node udp-echo.js ADDRESS PORT
 *
 * Prints "listening ADDRESS:PORT" when it is ready; runs until it is ended.
 */
import { createSocket } from "node:dgram";

const [address = "", port = ""] = process.argv.slice(2);
if (address === "" || !/^\d+$/.test(port)) {
  console.error("usage: udp-echo ADDRESS PORT");
  process.exit(2);
}
const socket = createSocket({ type: "udp4", recvBufferSize: 4 * 1024 * 1024 });
socket.on("message", (message, from) => {
  socket.send(message, from.port, from.address);
});
// An ICMP error about an answer (its asker is gone) is not this server's failure.
socket.on("error", (error: NodeJS.ErrnoException) => {
  if (error.syscall === "bind") throw error;
});
socket.bind(Number(port), address, () => {
  console.log(`listening ${address}:${port}`);
});
