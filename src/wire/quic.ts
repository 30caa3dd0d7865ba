/**
 * QUIC headers, as far as every version has them (RFC 8999), and server IDs in connection IDs as
 * draft-ietf-quic-load-balancers lays them out, unencrypted:
 *
 *   long header    1xxxxxxx | version, 4 bytes | DCID length | DCID ...      (RFC 8999 section 5.1)
 *   short header   0xxxxxxx | DCID ...                                       (RFC 8999 section 5.2)
 *   DCID           rotation, 3 bits; length or random, 5 bits | server ID | nonce, at least 4 bytes
 *
 * The bits marked x differ from version to version, so nothing depends on them.
 */

const LONG_HEADER = 0x80;
const LONG_DCID_LENGTH_AT = 5;
const ROTATION_SHIFT = 5;

/** Bytes of a nonce at least (draft-ietf-quic-load-balancers, "CID format"). */
export const QUIC_NONCE_BYTES_MIN = 4;

/**
 * Find the server ID of a datagram's first packet.
 *
 * @param at - first byte of the UDP payload
 * @param bytes - of the payload that are there; may be 0
 * @param rotation - of the configuration, 0..6
 * @param serverIdBytes - 1..QUIC_SERVER_ID_BYTES_MAX (base/limits.ts)
 * @returns offset of the server ID, or -1: the connection ID is too short, or of another rotation
 */
export function quicServerIdAt(
  view: DataView,
  at: number,
  bytes: number,
  rotation: number,
  serverIdBytes: number,
): number {
  if (bytes < 1) return -1;
  const needed = 1 + serverIdBytes + QUIC_NONCE_BYTES_MIN;
  let dcidAt = 1;
  if ((view.getUint8(at) & LONG_HEADER) !== 0) {
    if (bytes <= LONG_DCID_LENGTH_AT) return -1;
    if (view.getUint8(at + LONG_DCID_LENGTH_AT) < needed) return -1;
    dcidAt = LONG_DCID_LENGTH_AT + 1;
  }
  if (bytes < dcidAt + needed) return -1;
  if (view.getUint8(at + dcidAt) >>> ROTATION_SHIFT !== rotation) return -1;
  return at + dcidAt + 1;
}

/** Word `index` of a server ID, big-endian, zeros behind its end: four words are one ID. */
export function quicServerIdWord(
  view: DataView,
  idAt: number,
  serverIdBytes: number,
  index: number,
): number {
  const from = 4 * index;
  let word = 0;
  for (let byte = from; byte < from + 4; byte++) {
    word = (word << 8) | (byte < serverIdBytes ? view.getUint8(idAt + byte) : 0);
  }
  return word;
}
