/**
 * Echo over TCP and UDP on many ports, by a server that says its name.
 *
 *   node named-echo.js NAME ADDRESS FIRST-PORT COUNT CHECK-PORT
 *
 * TCP: one line with the name when a client connects, then what it gets. UDP: "NAME TEXT" for every
 * datagram; one that begins with "quiet" has no answer and is printed instead. CHECK-PORT (0: none)
 * only takes connections: SIGUSR1 closes it, SIGUSR2 opens it again. Prints "listening", "closed",
 * "opened", and "accepted PORT" for each connection to the other ports.
 */
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";

const [name = "", address = "", ...numbers] = process.argv.slice(2);
const [first = 0, count = 0, checkPort = 0] = numbers.map(Number);
if (name === "" || address === "" || first === 0) {
  console.error("usage: named-echo NAME ADDRESS FIRST-PORT COUNT CHECK-PORT");
  process.exit(2);
}

function serve(socket: Socket): void {
  socket.setNoDelay(true);
  console.log(`accepted ${socket.localPort}`);
  socket.write(`${name}\n`);
  socket.on("data", (chunk) => socket.write(chunk));
  socket.on("error", () => socket.destroy());
}

async function listen(handle: (socket: Socket) => void, port: number): Promise<Server> {
  const server = createServer(handle).listen(port, address, 1024);
  await once(server, "listening");
  return server;
}

async function listenUdp(port: number): Promise<void> {
  const socket = createSocket("udp4");
  socket.on("message", (message, from) => {
    if (String(message).startsWith("quiet")) console.log(String(message));
    else socket.send(`${name} ${message}`, from.port, from.address);
  });
  socket.on("error", () => undefined);
  socket.bind(port, address);
  await once(socket, "listening");
}

const openCheck = (): Promise<Server> => listen((socket) => socket.destroy(), checkPort);
for (let port = first; port < first + count; port++) {
  await listen(serve, port);
  await listenUdp(port);
}
let check = checkPort === 0 ? null : await openCheck();
process.on("SIGUSR1", () => {
  check?.close(() => console.log("closed"));
  check = null;
});
process.on("SIGUSR2", () => {
  openCheck().then((server) => {
    check = server;
    console.log("opened");
  });
});
console.log("listening");
