import {
  ORIGINAL,
  PROTOCOL_TCP,
  REPLY,
  STATE_CLOSE,
  STATE_SYN_RECV,
  STATE_SYN_SENT,
  STATE_TIME_WAIT,
  STATE_UDP_ONE_WAY,
  STATE_UDP_REPLIED,
} from "../../src/flow/flow-record.ts";
import {
  nextState,
  SEGMENT_ACK,
  SEGMENT_FIN,
  SEGMENT_RST,
  segmentKind,
  TCP_NEW_FLOW,
} from "../../src/flow/tcp-state.ts";
import { ACK, FIN, RST, SYN } from "../support/frames.ts";

/**
 * The slow reference: what a gateway has to decide, with Maps and objects, and no byte of a packet.
 *
 * It predicts the verdict of every packet. What it cannot know, because a scheduler or a port search
 * chose it, it takes from the gateway's answer and checks against the rules: the backend belongs to
 * the service, the SNAT address and port are of the pool, no live flow has the reply tuple.
 */

export interface ModelService {
  readonly name: string;
  readonly protocol: number;
  readonly vip: string;
  readonly port: number;
  readonly mode: "nat" | "full-nat";
  readonly outOfState: "adopt" | "reset" | "drop";
  readonly backends: readonly { readonly address: string; readonly port: number }[];
}

export interface ModelPacket {
  readonly protocol: number;
  readonly source: string;
  readonly destination: string;
  readonly sourcePort: number;
  readonly destinationPort: number;
  /** TCP only. */
  readonly flags: number;
  /** 0..2^32 - 1; 0 when left out. */
  readonly sequence?: number;
  readonly acknowledgement?: number;
}

export interface ModelFlow {
  readonly service: ModelService;
  readonly client: string;
  readonly clientPort: number;
  readonly backend: string;
  readonly backendPort: number;
  readonly replyAddress: string;
  readonly replyPort: number;
  state: number;
  expires: number;
  finSeen: number;
  /** By direction: the acknowledgement number that was seen last; 0: none. */
  acknowledged: [number, number];
}

/** What has to happen to a packet. */
export type Expectation =
  | { readonly verdict: "forwarded"; readonly flow: ModelFlow; readonly direction: number }
  /** A new flow: the caller calls `admit` with what the gateway chose, or `refuse` with its reason. */
  | { readonly verdict: "balance"; readonly service: ModelService }
  | { readonly verdict: "replied" }
  | { readonly verdict: "passed" }
  | { readonly verdict: "dropped"; readonly reason: string };

export const SNAT = { address: "10.20.0.100", low: 2000, high: 2007 };

const TIMEOUT_MS: Readonly<Record<number, number>> = {
  1: 30_000,
  2: 60_000,
  3: 7_440_000,
  4: 240_000,
  5: 240_000,
  6: 30_000,
  7: 120_000,
  8: 10_000,
  9: 120_000,
  10: 300_000,
};

export class Model {
  readonly #services: readonly ModelService[];
  readonly #original = new Map<string, ModelFlow>();
  readonly #reply = new Map<string, ModelFlow>();
  #tick = 0;

  readonly #workers: number;

  constructor(services: readonly ModelService[], workers = 1) {
    this.#services = services;
    this.#workers = workers;
  }

  get flows(): readonly ModelFlow[] {
    return [...this.#original.values()];
  }

  /** Let time pass; expired flows go. */
  advance(tick: number): void {
    this.#tick = tick;
    for (const flow of this.flows) if (flow.expires <= tick) this.remove(flow);
  }

  remove(flow: ModelFlow): void {
    this.#original.delete(originalKey(flow));
    this.#reply.delete(replyKey(flow));
  }

  expect(packet: ModelPacket): Expectation {
    if (packet.protocol === PROTOCOL_TCP && !hasValidFlags(packet.flags)) {
      return this.#isOurs(packet)
        ? { verdict: "dropped", reason: "tcp_flags_invalid" }
        : { verdict: "passed" };
    }
    const key = keyOf(packet);
    const forward = this.#original.get(key);
    const flow = forward ?? this.#reply.get(key);
    if (flow !== undefined) {
      const direction = forward === undefined ? REPLY : ORIGINAL;
      if (this.#step(flow, direction, packet)) return { verdict: "forwarded", flow, direction };
      this.remove(flow);
    }
    return this.#withoutFlow(packet);
  }

  /** @returns false: a SYN on a closing flow, which begins a new one */
  #step(flow: ModelFlow, direction: number, packet: ModelPacket): boolean {
    let next = flow.state;
    if (packet.protocol === PROTOCOL_TCP) {
      let kind = segmentKind(packet.flags);
      const ends = kind === SEGMENT_FIN || kind === SEGMENT_RST;
      if (ends && !couldBeInWindow(packet, flow.acknowledged[1 - direction]!)) return true;
      if ((packet.flags & ACK) !== 0) flow.acknowledged[direction] = packet.acknowledgement ?? 0;
      if (kind === SEGMENT_FIN) {
        if ((flow.finSeen & (1 << direction)) !== 0) kind = SEGMENT_ACK;
        flow.finSeen |= 1 << direction;
      }
      next = nextState(flow.state, direction, kind);
      if (next === TCP_NEW_FLOW) return false;
    } else if (direction === REPLY) next = STATE_UDP_REPLIED;
    if (next >= 0) {
      flow.state = next;
      flow.expires = this.#tick + TIMEOUT_MS[next]!;
    }
    return true;
  }

  #withoutFlow(packet: ModelPacket): Expectation {
    const atAddress = this.#services.filter((service) => service.vip === packet.destination);
    const service = atAddress.find(
      (one) => one.protocol === packet.protocol && one.port === packet.destinationPort,
    );
    if (service !== undefined) {
      const isSyn = (packet.flags & (SYN | ACK | RST)) === SYN;
      if (packet.protocol !== PROTOCOL_TCP || isSyn) return { verdict: "balance", service };
      const isReset = (packet.flags & RST) !== 0;
      if (service.outOfState === "adopt" && !isReset && (packet.flags & SYN) === 0) {
        return { verdict: "balance", service };
      }
      if (service.outOfState === "reset" && !isReset) return { verdict: "replied" };
      return { verdict: "dropped", reason: "out_of_state" };
    }
    if (atAddress.length > 0) return { verdict: "dropped", reason: "no_service" };
    if (packet.destination === SNAT.address) return { verdict: "dropped", reason: "out_of_state" };
    if (this.#isBackendPort(packet)) return { verdict: "dropped", reason: "out_of_state" };
    return { verdict: "passed" };
  }

  #isBackendPort(packet: ModelPacket): boolean {
    return this.#services.some(
      (service) =>
        service.mode === "nat" &&
        service.protocol === packet.protocol &&
        service.backends.some(
          (one) => one.address === packet.source && one.port === packet.sourcePort,
        ),
    );
  }

  #isOurs(packet: ModelPacket): boolean {
    return (
      packet.destination === SNAT.address ||
      this.#services.some(
        (service) =>
          service.vip === packet.destination ||
          (service.mode === "nat" && service.backends.some((one) => one.address === packet.source)),
      )
    );
  }

  /**
   * The gateway has made a flow for this packet. Throws when it may not have.
   *
   * @returns the flow
   */
  admit(
    packet: ModelPacket,
    service: ModelService,
    chosen: Omit<
      ModelFlow,
      "service" | "client" | "clientPort" | "state" | "expires" | "finSeen" | "acknowledged"
    >,
  ): ModelFlow {
    const backend = service.backends.find(
      (one) => one.address === chosen.backend && one.port === chosen.backendPort,
    );
    if (backend === undefined)
      throw new Error(`${chosen.backend} is no backend of ${service.name}`);
    if (service.mode === "nat") {
      if (chosen.replyAddress !== packet.source || chosen.replyPort !== packet.sourcePort) {
        throw new Error("nat changed the source");
      }
    } else if (
      chosen.replyAddress !== SNAT.address ||
      chosen.replyPort < SNAT.low ||
      chosen.replyPort > SNAT.high
    ) {
      throw new Error(`${chosen.replyAddress}:${chosen.replyPort} is not in the pool`);
    }
    let state = STATE_UDP_ONE_WAY;
    if (packet.protocol === PROTOCOL_TCP) {
      state = (packet.flags & SYN) !== 0 ? STATE_SYN_SENT : STATE_SYN_RECV;
    }
    const flow: ModelFlow = {
      service,
      client: packet.source,
      clientPort: packet.sourcePort,
      ...chosen,
      state,
      expires: this.#tick + TIMEOUT_MS[state]!,
      finSeen: 0,
      acknowledged: [0, 0],
    };
    const holder = this.#reply.get(replyKey(flow));
    if (holder !== undefined) {
      if (!isClosing(holder)) throw new Error("two live flows share a reply tuple");
      this.remove(holder);
    }
    this.#original.set(originalKey(flow), flow);
    this.#reply.set(replyKey(flow), flow);
    return flow;
  }

  /** The gateway has refused a new flow. Throws when it should have made one. */
  refuse(packet: ModelPacket, service: ModelService, reason: string): void {
    const held = (
      backend: { address: string; port: number },
      address: string,
      port: number,
    ): boolean => {
      const holder = this.#reply.get(
        key4(service.protocol, backend.address, backend.port, address, port),
      );
      return holder !== undefined && (service.mode === "full-nat" || !isClosing(holder));
    };
    if (service.mode === "full-nat" && reason === "snat_ports_exhausted") {
      // Each worker has the ports that are its number modulo the workers.
      const exhausted = (backend: { address: string; port: number }, first: number): boolean => {
        for (let port = SNAT.low + first; port <= SNAT.high; port += this.#workers) {
          if (!held(backend, SNAT.address, port)) return false;
        }
        return true;
      };
      for (let first = 0; first < this.#workers; first++) {
        if (service.backends.some((backend) => exhausted(backend, first))) return;
      }
    }
    if (service.mode === "nat" && reason === "reply_tuple_taken") {
      if (service.backends.every((backend) => held(backend, packet.source, packet.sourcePort)))
        return;
    }
    throw new Error(`${service.name} refused a flow for ${reason}`);
  }
}

function isClosing(flow: ModelFlow): boolean {
  return flow.state === STATE_TIME_WAIT || flow.state === STATE_CLOSE;
}

function key4(protocol: number, a: string, aPort: number, b: string, bPort: number): string {
  return `${protocol} ${a}:${aPort} > ${b}:${bPort}`;
}

export function keyOf(packet: ModelPacket): string {
  return key4(
    packet.protocol,
    packet.source,
    packet.sourcePort,
    packet.destination,
    packet.destinationPort,
  );
}

function originalKey(flow: ModelFlow): string {
  const { service } = flow;
  return key4(service.protocol, flow.client, flow.clientPort, service.vip, service.port);
}

function replyKey(flow: ModelFlow): string {
  return key4(
    flow.service.protocol,
    flow.backend,
    flow.backendPort,
    flow.replyAddress,
    flow.replyPort,
  );
}

/** nf_conntrack_proto_tcp.c, tcp_valid_flags, without PSH, ECE and CWR. */
/** RFC 5961 section 3.2, as far as one in the middle can know: at most 4 MiB behind what was taken. */
function couldBeInWindow(packet: ModelPacket, taken: number): boolean {
  if (taken === 0) return true;
  const beyond = ((packet.sequence ?? 0) - taken + 2 ** 32) % 2 ** 32;
  return beyond <= 4 * 1024 * 1024;
}

function hasValidFlags(flags: number): boolean {
  const URG = 32;
  const rest = flags & (FIN | SYN | RST | ACK | URG);
  return [
    SYN,
    SYN | URG,
    SYN | ACK,
    RST,
    RST | ACK,
    FIN | ACK,
    FIN | ACK | URG,
    ACK,
    ACK | URG,
  ].includes(rest);
}

/** Where the translated packet goes and comes from. */
export function translated(
  flow: ModelFlow,
  direction: number,
): Omit<ModelPacket, "flags" | "protocol"> {
  return direction === ORIGINAL
    ? {
        source: flow.replyAddress,
        sourcePort: flow.replyPort,
        destination: flow.backend,
        destinationPort: flow.backendPort,
      }
    : {
        source: flow.service.vip,
        sourcePort: flow.service.port,
        destination: flow.client,
        destinationPort: flow.clientPort,
      };
}
