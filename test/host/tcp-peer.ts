import { connect, createServer } from "node:net";

/**
 * A TCP server that sends 65,536 bytes and closes, and its client.
 *
 *   tcp-peer.js serve PORT             prints "open"
 *   tcp-peer.js fetch ADDRESS PORT     prints "N bytes"
 */
const [verb, ...args] = process.argv.slice(2);
if (verb === "serve") {
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.end(Buffer.alloc(65_536, 7));
  });
  server.listen(Number(args[0]), "0.0.0.0", () => console.log("open"));
} else {
  const socket = connect({ host: args[0] ?? "", port: Number(args[1]), timeout: 5000 });
  let bytes = 0;
  socket.on("data", (chunk) => {
    bytes += chunk.length;
  });
  socket.on("timeout", () => socket.destroy(new Error("no answer within 5 s")));
  socket.on("error", (error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
  socket.on("end", () => console.log(`${bytes} bytes`));
}
