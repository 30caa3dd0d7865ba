import {
  D_AT,
  D_BYTES,
  D_CSUM,
  D_INTERFACE,
  D_VNET,
  DESCRIPTOR_WORDS,
} from "../../src/device/device.ts";
import { openPacket } from "../../src/device/packet.ts";
import { createWake } from "../../src/device/wake.ts";

/**
 * The forwarder of forward.cc, over the device that was chosen and from TypeScript.
 *
 *   node forward-device.js INTERFACE INTERFACE SECONDS
 */
const [first, second, seconds] = process.argv.slice(2);
if (first === undefined || second === undefined || seconds === undefined) {
  throw new Error("usage: forward-device.js INTERFACE INTERFACE SECONDS");
}
const device = openPacket({ interfaces: [first, second], wakeFd: createWake().fd });
const { rx, tx, tick } = device.batch;

/** One batch; frames received. */
function forwardBatch(): number {
  const count = device.receive(100);
  for (let i = 0; i < count; i += 1) {
    const word = i * DESCRIPTOR_WORDS;
    tx[word + D_AT] = rx[word + D_AT]!;
    tx[word + D_BYTES] = rx[word + D_BYTES]!;
    tx[word + D_INTERFACE] = rx[word + D_INTERFACE]! ^ 1;
    tx[word + D_VNET] = rx[word + D_VNET]!;
    tx[word + D_CSUM] = rx[word + D_CSUM]!;
  }
  return count;
}

const cpuBefore = process.cpuUsage();
const end = (tick[0]! + Number(seconds) * 1000) | 0;
let received = 0;
let sent = 0;
while (((tick[0]! - end) | 0) < 0) {
  const count = forwardBatch();
  received += count;
  if (count > 0) sent += device.transmit(count);
}
const cpu = process.cpuUsage(cpuBefore);
console.log(JSON.stringify({ received, sent, cpuSeconds: (cpu.user + cpu.system) / 1e6 }));
device.close();
process.exit();
