import { assert } from "../base/assert.ts";
import {
  D_BYTES,
  D_RESULT,
  D_USER,
  DESCRIPTOR_WORDS,
  type FrameDevice,
  TX_FULL,
  TX_SENT,
  TX_TOO_BIG,
} from "../device/device.ts";
import {
  BANK_ACCESS,
  BANK_ADDRESSES_AT,
  BANK_ADDRESSES_MASK,
  BANK_INTERVALS_AT,
  BANK_SERVICES_AT,
} from "../service/bank.ts";
import {
  H_BANK_PUBLISHED,
  H_HOPS_PUBLISHED,
  type RegionViews,
  W_BANK_TAKEN,
  W_BATCHES,
  W_HOPS_TAKEN,
} from "../state/layout.ts";
import { createAddresses } from "./addresses.ts";
import { createAdmission } from "./admit.ts";
import { createArp } from "./arp.ts";
import { createBalancer } from "./balance.ts";
import {
  createContext,
  R_ACCESS,
  R_ADDRESSES,
  R_ADDRESSES_MASK,
  R_BANK,
  R_HANDED,
  R_HOP_REQUESTS,
  R_HOPS,
  R_INTERVALS,
  R_MICROS,
  R_REFUSED,
  R_SERVICES,
  R_SPARES,
  R_TICK,
  R_TX_COUNT,
} from "./context.ts";
import {
  C_BATCHES,
  C_CONSUMED,
  C_DROPPED,
  C_DROPS,
  C_FORWARDED,
  C_HANDED_IN,
  C_HANDED_OUT,
  C_HELD,
  C_NATIVE_CALLS,
  C_ORIGINATED,
  C_ORIGINATED_LOST,
  C_PASSED,
  C_RECEIVED,
  C_RECEIVED_BYTES,
  C_REPLIED,
  C_SENT,
  C_SENT_BYTES,
} from "./counters.ts";
import { createEncapsulator } from "./encapsulate.ts";
import { createExpiry } from "./expiry.ts";
import { createFastLane, NOT_FAST } from "./fast-lane.ts";
import { createFlows } from "./flows.ts";
import { createFragmenter } from "./fragmenter.ts";
import { createHandover } from "./handover.ts";
import { createHops } from "./hops.ts";
import { createIcmp } from "./icmp.ts";
import { createIcmp6 } from "./icmp6.ts";
import { createIcmp46 } from "./icmp46.ts";
import { createKeys6 } from "./keys6.ts";
import { createMssClamp } from "./mss.ts";
import { createNdp } from "./ndp.ts";
import { createOutput, ORIGINATED, RELEASED } from "./output.ts";
import { createOwners } from "./owners.ts";
import { createPartialChecksums } from "./partial.ts";
import { createPassive } from "./passive.ts";
import { createProcessor } from "./process.ts";
import { createReply } from "./reply.ts";
import { createSamples } from "./samples.ts";
import { createSegmenter } from "./segment.ts";
import { createStateless } from "./stateless.ts";
import { createSynProxy } from "./syn-proxy.ts";
import { createTokenBucket } from "./token-bucket.ts";
import { createTranslator } from "./translate.ts";
import { createTranslator6 } from "./translate6.ts";
import { createTranslator46 } from "./translate46.ts";
import { createTunnelErrors } from "./tunnel-errors.ts";
import { createTunnelRelay } from "./tunnel-relay.ts";
import { createUdpFlows } from "./udp.ts";
import {
  CONSUMED,
  DROP_TOO_BIG,
  DROP_TX_FAILED,
  DROP_TX_FULL,
  DROPPED,
  FORWARDED,
  HANDED_OVER,
  HELD,
  PASSED,
  REPLIED,
} from "./verdict.ts";

/**
 * The run loop's body: take over what control has published, receive, process, sweep, transmit,
 * count. One closure an isolate over constant views; nothing in it allocates.
 */
export interface Datapath {
  /**
   * One batch.
   *
   * @param timeoutMs - how long to wait for the first frame
   * @returns frames received, or handed over by other workers
   * @throws DeviceError when the device is gone for good
   */
  runBatch(timeoutMs: number): number;
}

export interface DatapathOptions {
  readonly device: FrameDevice;
  readonly views: RegionViews;
  /** false: process.ts handles every frame, as the fast lane's oracle in tests. Default true. */
  readonly fastLane?: boolean;
}

assert(
  FORWARDED === 0 &&
    REPLIED === 1 &&
    PASSED === 2 &&
    CONSUMED === 3 &&
    DROPPED === 4 &&
    HANDED_OVER === 5,
  "verdicts count up in the order of their counters",
);
assert(
  C_REPLIED === C_FORWARDED + REPLIED &&
    C_PASSED === C_FORWARDED + PASSED &&
    C_CONSUMED === C_FORWARDED + CONSUMED &&
    C_DROPPED === C_FORWARDED + DROPPED &&
    C_HANDED_OUT === C_FORWARDED + HANDED_OVER,
  "counters of verdicts follow one another",
);

/** Compose the data plane over a device and the mapped region. Allocates; the result does not. */
export function createDatapath(options: DatapathOptions): Datapath {
  const { device, views } = options;
  const context = createContext(device, views);
  const { f64, i32, layout, registers, rx, tx } = context;
  const counters = layout.counters.at >> 3;
  const hasFastLane = device.linkHeaderBytes !== 0 && options.fastLane !== false;
  const bankTaken = layout.workerWord + W_BANK_TAKEN;
  const hopsTaken = layout.workerWord + W_HOPS_TAKEN;
  const batches = layout.workerWord + W_BATCHES;

  const addresses = createAddresses(context);
  const owners = createOwners(context, addresses);
  const handover = createHandover(context);
  const { worker, workers } = layout;
  const output = createOutput(context);
  const bucket = createTokenBucket(context);
  const hops = createHops(context);
  const reply = createReply(context, output, bucket, counters);
  const fragmenter = createFragmenter(context, output, reply);
  const segmenter = createSegmenter(context);
  const encapsulator = createEncapsulator(context, output, reply, fragmenter, segmenter);
  const flows = createFlows(context, hops, output, reply, bucket, encapsulator, counters);
  const translator = createTranslator(context, output, reply, fragmenter);
  const passive = createPassive(context);
  const synProxy = createSynProxy(context, hops, output, reply, flows, passive, counters);
  const admission = createAdmission(context, reply, counters);
  const udp = createUdpFlows(context);
  const stateless = createStateless(context, counters);
  const balancer = createBalancer(
    context,
    flows,
    admission,
    synProxy,
    reply,
    udp,
    stateless,
    passive,
    counters,
  );
  const ndp = createNdp(context, addresses, output, counters);
  const arp = createArp(context, addresses, output, ndp, counters);
  const keys6 = createKeys6(context);
  const relay = createTunnelRelay(context, hops, output, reply, bucket, encapsulator, keys6);
  const tunnelErrors = createTunnelErrors(context, relay);
  const icmp46 = createIcmp46(context, output, reply, counters);
  const icmp = createIcmp(
    context,
    addresses,
    owners,
    handover,
    hops,
    output,
    icmp46,
    encapsulator,
    tunnelErrors,
    passive,
    counters,
  );
  const mss = createMssClamp(context, flows, encapsulator);
  const icmp6 = createIcmp6(
    context,
    addresses,
    owners,
    handover,
    hops,
    keys6,
    ndp,
    output,
    icmp46,
    encapsulator,
    tunnelErrors,
    passive,
    counters,
  );
  const translator46 = createTranslator46(context, output, reply, fragmenter);
  const translator6 = createTranslator6(context, output, reply.six, translator46);
  const partial = createPartialChecksums(context);
  const processor = createProcessor(
    context,
    addresses,
    owners,
    handover,
    arp,
    icmp,
    hops,
    flows,
    balancer,
    stateless,
    admission,
    synProxy,
    translator,
    encapsulator,
    mss,
    udp,
    output,
    partial,
    icmp6,
    keys6,
    translator6,
    reply,
    passive,
    counters,
  );
  const fastLane = createFastLane(context, output, partial);
  const expiry = createExpiry(context, flows, synProxy, udp, output, passive, counters);
  const samples = createSamples(context);

  function takePublished(): void {
    const bank = Atomics.load(i32, H_BANK_PUBLISHED);
    if (bank !== i32[bankTaken] || (bank !== 0 && registers[R_BANK] === 0)) useBank(bank);
    const hopTable = Atomics.load(i32, H_HOPS_PUBLISHED);
    if (hopTable !== i32[hopsTaken] || (hopTable !== 0 && registers[R_HOPS] === 0)) {
      registers[R_HOPS] = hopTable === 0 ? 0 : layout.hops[hopTable & 1]!.at >> 2;
      Atomics.store(i32, hopsTaken, hopTable);
    }
  }

  function useBank(number: number): void {
    if (number === 0) {
      registers[R_BANK] = 0;
    } else {
      const bank = layout.banks[number & 1]!.at >> 2;
      registers[R_BANK] = bank;
      registers[R_SERVICES] = bank + (i32[bank + BANK_SERVICES_AT]! >> 2);
      registers[R_ADDRESSES] = bank + (i32[bank + BANK_ADDRESSES_AT]! >> 2);
      registers[R_ADDRESSES_MASK] = i32[bank + BANK_ADDRESSES_MASK]!;
      registers[R_INTERVALS] = bank + (i32[bank + BANK_INTERVALS_AT]! >> 2);
      registers[R_ACCESS] = layout.access[i32[bank + BANK_ACCESS]! & 1]!.at >> 2;
    }
    Atomics.store(i32, bankTaken, number);
  }

  function add(counter: number, amount: number): void {
    f64[counters + counter] = f64[counters + counter]! + amount;
  }

  /**
   * What the device refused becomes the verdict of the frame that it came from.
   *
   * @returns true when a verdict has changed
   */
  function settleSent(taken: number): boolean {
    const count = registers[R_TX_COUNT]!;
    let sentBytes = 0;
    for (let word = 0; word < count * DESCRIPTOR_WORDS; word += DESCRIPTOR_WORDS) {
      sentBytes += tx[word + D_BYTES]!;
    }
    add(C_SENT, taken);
    // Nothing was refused, and all of it came in: the usual batch.
    if (taken !== count || registers[R_SPARES] !== 0) sentBytes -= settleOthers(count);
    add(C_SENT_BYTES, sentBytes);
    return taken !== count;
  }

  /** Own frames are counted, refused ones are given their reason. @returns bytes that were refused */
  function settleOthers(count: number): number {
    let refusedBytes = 0;
    for (let word = 0; word < count * DESCRIPTOR_WORDS; word += DESCRIPTOR_WORDS) {
      const isOurs = tx[word + D_USER] === ORIGINATED;
      if (tx[word + D_USER]! <= RELEASED) {
        refusedBytes += settleReleased(word);
        continue;
      }
      if (tx[word + D_RESULT] === TX_SENT) {
        if (isOurs) add(C_ORIGINATED, 1);
        continue;
      }
      refusedBytes += tx[word + D_BYTES]!;
      if (isOurs) add(C_ORIGINATED_LOST, 1);
      else refuse(tx[word + D_USER]!, tx[word + D_RESULT]!);
    }
    return refusedBytes;
  }

  /** A fragment that was held gets its verdict here. @returns bytes that were refused */
  function settleReleased(word: number): number {
    const result = tx[word + D_RESULT]!;
    if (result === TX_SENT) {
      add(C_FORWARDED + RELEASED - tx[word + D_USER]!, 1);
      return 0;
    }
    add(C_DROPPED, 1);
    add(C_DROPS + reasonOf(result), 1);
    return tx[word + D_BYTES]!;
  }

  function reasonOf(result: number): number {
    if (result === TX_FULL) return DROP_TX_FULL;
    return result === TX_TOO_BIG ? DROP_TOO_BIG : DROP_TX_FAILED;
  }

  function refuse(rxWord: number, result: number): void {
    rx[rxWord + D_USER] = DROPPED | (reasonOf(result) << 8);
  }

  /** Count the verdicts, where not every frame was forwarded. */
  function settleReceived(count: number): void {
    for (let word = 0; word < count * DESCRIPTOR_WORDS; word += DESCRIPTOR_WORDS) {
      const verdict = rx[word + D_USER]!;
      if (verdict === HELD) {
        add(C_HELD, 1);
        continue;
      }
      add(C_FORWARDED + (verdict & 0xff), 1);
      if ((verdict & 0xff) !== DROPPED) continue;
      add(C_DROPS + (verdict >>> 8), 1);
      samples.take(word, verdict >>> 8);
    }
  }

  /** What other workers have handed over was received by them. */
  function countReceived(count: number, bytes: number): void {
    if (registers[R_HANDED] !== 0) {
      add(C_HANDED_IN, count);
      return;
    }
    add(C_RECEIVED, count);
    add(C_RECEIVED_BYTES, bytes);
  }

  /** Frames of the device, or those that other workers have handed over. */
  function receiveShared(timeoutMs: number): number {
    if (handover.isDue()) {
      registers[R_HANDED] = 1;
      return handover.receive();
    }
    registers[R_HANDED] = 0;
    add(C_NATIVE_CALLS, 1);
    const count = device.receive(handover.sleep(timeoutMs));
    handover.awake();
    return count;
  }

  function receive(timeoutMs: number): number {
    if (workers !== 1) return receiveShared(timeoutMs);
    add(C_NATIVE_CALLS, 1);
    return device.receive(timeoutMs);
  }

  /** Send what is listed before the batch is over: output.reserve() wants room. */
  function sendListed(): void {
    const count = registers[R_TX_COUNT]!;
    if (count !== 0) {
      if (settleSent(device.transmit(count, 0))) registers[R_REFUSED] = 1;
      add(C_NATIVE_CALLS, 1);
    }
    registers[R_TX_COUNT] = 0;
    registers[R_SPARES] = 0;
  }
  output.onFull(sendListed);

  function runBatch(timeoutMs: number): number {
    takePublished();
    const count = receive(timeoutMs);
    registers[R_TICK] = device.batch.tick[0]!;
    registers[R_MICROS] = device.batch.tick[1]!;
    registers[R_TX_COUNT] = 0;
    registers[R_SPARES] = 0;
    registers[R_HOP_REQUESTS] = 0;
    registers[R_REFUSED] = 0;
    const fast = hasFastLane && registers[R_HOPS] !== 0 && registers[R_BANK] !== 0;
    if (fast) fastLane.prepare(count);
    let bytes = 0;
    let others = 0;
    for (let index = 0; index < count; index++) {
      const word = index * DESCRIPTOR_WORDS;
      // The length changes when the frame is sent on; what came in is counted.
      bytes += rx[word + D_BYTES]!;
      let verdict = fast ? fastLane.forward(index) : NOT_FAST;
      if (verdict === NOT_FAST) {
        if (fast) fastLane.remember(index);
        verdict = processor.process(word);
      }
      rx[word + D_USER] = verdict;
      others |= verdict;
    }
    if (registers[R_BANK] !== 0) {
      processor.endBatch();
      expiry.run();
      if (device.linkHeaderBytes !== 0 && worker === 0) arp.announce();
    }
    const wakeMask = workers === 1 ? 0 : handover.flush();
    if (registers[R_TX_COUNT] !== 0 || wakeMask !== 0) {
      if (settleSent(device.transmit(registers[R_TX_COUNT]!, wakeMask))) others = DROPPED;
      add(C_NATIVE_CALLS, 1);
    }
    if (registers[R_REFUSED] !== 0) others = DROPPED;
    if (count !== 0) {
      countReceived(count, bytes);
      if (others === FORWARDED) add(C_FORWARDED, count);
      else settleReceived(count);
    }
    add(C_BATCHES, 1);
    i32[batches] = (i32[batches]! + 1) | 0;
    return count;
  }

  return { runBatch };
}
