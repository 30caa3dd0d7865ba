import { createSocket } from "node:dgram";
import { readFileSync } from "node:fs";
import { createServer as createHttp2Server, type ServerHttp2Stream } from "node:http2";
import { createServer as createHttpsServer } from "node:https";
import { type AddressInfo, createServer } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import { Server, ServerCredentials } from "@grpc/grpc-js";

/**
 * Servers for health checks of every type: of a backend that is well, or of one that is there but sick,
 * each in its own way. Prints `ready` and the ports when all of them listen.
 *
 *   node health-servers-main.js well|sick KEY CERTIFICATE [ADDRESS]
 *
 * On fixed ports of all addresses (9001 tls, 9002 https, 9003 http2, 9004 script, 9005 grpc, 9006 udp,
 * 9007 tcp, 9053 dns); with an ADDRESS, on free ones of it.
 */
const [mode = "", keyFile = "", certificateFile = "", address] = process.argv.slice(2);
const host = address ?? "0.0.0.0";
const portOf = (fixed: number): number => (address === undefined ? fixed : 0);
const ports: number[] = [];
const isWell = mode === "well";
const pair = { key: readFileSync(keyFile), cert: readFileSync(certificateFile) };
const quiet = (emitter: { on(name: string, listener: () => void): unknown }, name: string) =>
  emitter.on(name, () => undefined);

/** tls */
const tls = createTlsServer(pair, (socket) => quiet(socket, "error"));
quiet(tls, "tlsClientError");
/** https: the status is right, the body may not be. */
const https = createHttpsServer(pair, (_request, response) => {
  response.end(isWell ? "all is well" : "all is lost");
});
quiet(https, "tlsClientError");
/** http2 without TLS */
const http2 = createHttp2Server();
http2.on("stream", (stream: ServerHttp2Stream) => {
  stream.respond({ ":status": isWell ? 200 : 503 });
  stream.end();
});
/** script: Redis */
const redis = createServer((socket) => {
  quiet(socket, "error");
  socket.on("data", () => socket.end(isWell ? "+PONG\r\n" : "-LOADING\r\n"));
});
await Promise.all(
  [tls, https, http2, redis].map(
    (server, index) =>
      new Promise<void>((done) => server.listen(portOf(9001 + index), host, () => done())),
  ),
);

const grpc = new Server();
grpc.addService(
  {
    check: {
      path: "/grpc.health.v1.Health/Check",
      requestStream: false,
      responseStream: false,
      requestSerialize: (value: Buffer) => value,
      requestDeserialize: (value: Buffer) => value,
      responseSerialize: (value: Buffer) => value,
      responseDeserialize: (value: Buffer) => value,
    },
  },
  {
    check: (_call: object, answer: (error: null, value: Buffer) => void) =>
      answer(null, Buffer.of(0x08, isWell ? 1 : 2)),
  },
);
await new Promise<void>((done, fail) => {
  const where = `${host}:${portOf(9005)}`;
  grpc.bindAsync(where, ServerCredentials.createInsecure(), (error, port) => {
    ports.push(port);
    if (error === null) done();
    else fail(error);
  });
});

/** tcp and udp (nobody listens where it is sick), and dns: SERVFAIL where it is. */
const dns = createSocket("udp4");
dns.on("message", (query, from) => {
  const answer = Buffer.from(query);
  answer.writeUInt16BE(isWell ? 0x8180 : 0x8182, 2);
  dns.send(answer, from.port, from.address);
});
await new Promise<void>((done) => dns.bind(portOf(9053), host, done));
ports.push(dns.address().port);
for (const server of [tls, https, http2, redis]) ports.push((server.address() as AddressInfo).port);
if (isWell) {
  const udp = createSocket("udp4");
  udp.on("message", (message, from) => udp.send(message, from.port, from.address));
  await new Promise<void>((done) => udp.bind(portOf(9006), host, done));
  ports.push(udp.address().port);
  const tcp = createServer((socket) => quiet(socket, "error"));
  await new Promise<void>((done) => tcp.listen(portOf(9007), host, () => done()));
}
process.stdout.write(`ready ${ports.join(" ")}\n`);
