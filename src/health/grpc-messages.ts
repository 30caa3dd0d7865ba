/**
 * The two messages of grpc.health.v1 (health/v1/health.proto), in protobuf's wire format: one field
 * each, for which a library of protobuf would be the larger part.
 *
 *   message HealthCheckRequest { string service = 1; }
 *   message HealthCheckResponse { ServingStatus status = 1; }
 */

/** Names of ServingStatus. */
export const SERVING_STATUS = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"] as const;
export const SERVING = 1;

/** Field number and wire type (protobuf.dev/programming-guides/encoding). */
const SERVICE_TAG = (1 << 3) | 2;
const STATUS_TAG = (1 << 3) | 0;
const VARINT = 0;
const FIXED64 = 1;
const LENGTH = 2;
const FIXED32 = 5;
/** Longer names need a length of two bytes. */
export const GRPC_SERVICE_BYTES_MAX = 127;

/** @param service - at most GRPC_SERVICE_BYTES_MAX bytes; "" is left out, as protobuf does */
export function encodeRequest(service: string): Buffer {
  const name = Buffer.from(service);
  if (name.length > GRPC_SERVICE_BYTES_MAX) throw new RangeError("the service's name is too long");
  return name.length === 0 ? name : Buffer.concat([Buffer.of(SERVICE_TAG, name.length), name]);
}

/**
 * @returns the status; 0 where the message has none
 * @throws RangeError - it is none of these messages
 */
export function decodeResponse(message: Buffer): number {
  let at = 0;
  let status = 0;
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = message[at++];
      if (byte === undefined) break;
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw new RangeError("the answer is no HealthCheckResponse");
  };
  while (at < message.length) {
    const tag = varint();
    const wire = tag % 8;
    if (wire === VARINT) {
      const value = varint();
      if (tag === STATUS_TAG) status = value;
    } else if (wire === LENGTH) {
      // Its own length moves `at` first.
      const bytes = varint();
      at += bytes;
    } else if (wire === FIXED64) at += 8;
    else if (wire === FIXED32) at += 4;
    else throw new RangeError("the answer is no HealthCheckResponse");
  }
  if (at !== message.length) throw new RangeError("the answer is no HealthCheckResponse");
  return status;
}
