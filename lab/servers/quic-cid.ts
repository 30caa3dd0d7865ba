/**
 * Speaks as much of QUIC as a load balancer sees (RFC 8999): it gives its clients connection IDs with
 * its server ID in them (draft-ietf-quic-load-balancers, unencrypted), and knows them by it.
 *
 *   node quic-cid.js ADDRESS PORT SERVER_ID ROTATION
 *
 * A packet with a long header is answered by one whose source connection ID is a new one of this
 * server. One with a short header is answered by a short header and `known` if its connection ID is
 * one that this server gave, else `unknown`. Prints "listening ADDRESS:PORT" when it is ready.
 */
import { randomBytes } from "node:crypto";
import { createSocket } from "node:dgram";

const NONCE_BYTES = 6;
const LONG_HEADER = 0x80;

const [address = "", port = "", serverId = "", rotation = ""] = process.argv.slice(2);
if (address === "" || !/^\d+$/.test(port) || !/^([0-9a-f]{2})+$/.test(serverId)) {
  console.error("usage: quic-cid ADDRESS PORT SERVER_ID ROTATION");
  process.exit(2);
}
const id = Buffer.from(serverId, "hex");
const cidBytes = 1 + id.length + NONCE_BYTES;
const given = new Set<string>();

function newConnectionId(): Buffer {
  // Rotation in three bits, the length behind the first byte in five.
  const first = (Number(rotation) << 5) | (cidBytes - 1);
  const cid = Buffer.concat([Buffer.of(first), id, randomBytes(NONCE_BYTES)]);
  given.add(cid.toString("hex"));
  return cid;
}

/** Version 1, the client's source connection ID as destination, a new one as source. */
function longAnswer(packet: Buffer): Buffer | null {
  const dcidBytes = packet[5] ?? 0;
  const scidBytes = packet[6 + dcidBytes];
  if (scidBytes === undefined) return null;
  const scid = packet.subarray(7 + dcidBytes, 7 + dcidBytes + scidBytes);
  const cid = newConnectionId();
  return Buffer.concat([
    Buffer.of(0xc0, 0, 0, 0, 1, scid.length),
    scid,
    Buffer.of(cid.length),
    cid,
    Buffer.from(serverId),
  ]);
}

const socket = createSocket("udp4");
socket.on("message", (packet, from) => {
  let answer: Buffer | null = null;
  if (((packet[0] ?? 0) & LONG_HEADER) !== 0) answer = longAnswer(packet);
  else {
    const isKnown = given.has(packet.subarray(1, 1 + cidBytes).toString("hex"));
    answer = Buffer.concat([
      Buffer.of(0x40),
      Buffer.from(`${isKnown ? "known" : "unknown"} ${serverId}`),
    ]);
  }
  if (answer !== null) socket.send(answer, from.port, from.address);
});
// An ICMP error about an answer (its asker is gone) is not this server's failure.
socket.on("error", (error: NodeJS.ErrnoException) => {
  if (error.syscall === "bind") throw error;
});
socket.bind(Number(port), address, () => {
  console.log(`listening ${address}:${port}`);
});
