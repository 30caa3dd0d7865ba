import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { addressText } from "../support/frames.ts";
import { waitFor } from "../support/wait.ts";
import { framesOf, type Row } from "./guard-rows.ts";
import {
  GATEWAY_TO_BACKEND,
  GATEWAY_TO_CLIENT,
  openWire,
  type Program,
  snmp,
  type Topology,
  type Wire,
} from "./netns.ts";

/** What the tests of all guards share: the wires around a gateway, and what is seen on them. */

export const FRAMES = 5;
/** What is still on its way when the last frame's reaction was seen; only delays, never decides. */
export const SETTLE_MS = 40;

export interface Wires {
  readonly client: Wire;
  readonly backend: Wire;
  readonly gatewayToClient: Wire;
  readonly gatewayToBackend: Wire;
}

export async function openWires(topology: Topology): Promise<Wires> {
  const [client, backend, gatewayToClient, gatewayToBackend] = await Promise.all([
    openWire(topology, topology.client, "c0"),
    openWire(topology, topology.backend, "b0"),
    openWire(topology, topology.gateway, "gc"),
    openWire(topology, topology.gateway, "gb"),
  ]);
  return { client, backend, gatewayToClient, gatewayToBackend };
}

/** Have a holder do something, and wait until it is done. */
export async function command(holder: Program, what: unknown): Promise<void> {
  const from = holder.lines.length;
  holder.write(JSON.stringify(what));
  assert.equal(await holder.line(/^(done|failed)/, from), "done");
}

/**
 * Send FRAMES frames of a row.
 *
 * @param isTapped - an AF_PACKET socket of the gateway has to see them all, as they were sent; else
 *   it must see none
 * @returns the kernel's reactions, and the frames as hex
 */
export async function observe(
  topology: Topology,
  wires: Wires,
  row: Row,
  isTapped: boolean,
): Promise<{ readonly reactions: number; readonly sent: readonly string[] }> {
  for (const wire of Object.values(wires) as Wire[]) wire.clear();
  const tap = row.from === "client" ? wires.gatewayToClient : wires.gatewayToBackend;
  const before = typeof row.reaction === "string" ? 0 : snmp(topology, ...row.reaction);
  const frames = framesOf(row, 0x4000, FRAMES);
  (row.from === "client" ? wires.client : wires.backend).send(frames);
  const sent = frames.map((frame) => Buffer.from(frame).toString("hex"));
  if (isTapped) {
    await waitFor(`the tap to see ${row.name}`, () => tap.received().length >= FRAMES);
  }
  await sleep(SETTLE_MS);
  assert.deepEqual(tap.received(), isTapped ? sent : [], `what the tap sees of ${row.name}`);
  if (typeof row.reaction !== "string") {
    return { reactions: snmp(topology, ...row.reaction) - before, sent };
  }
  const seen = [...wires.client.received(), ...wires.backend.received()];
  // Client and backend have kernels of their own, which answer what reaches them.
  const source = sourceOf(sent[0] as string);
  const makers = row.reaction === "forward" ? [source] : [GATEWAY_TO_CLIENT, GATEWAY_TO_BACKEND];
  const made = seen.filter((frame) => makers.includes(sourceOf(frame)));
  if (made.length === 0) assert.deepEqual(seen, [], "nothing comes of nothing");
  return { reactions: made.length, sent };
}

/** Source address of a frame in hex. */
function sourceOf(frame: string): string {
  return addressText(Number.parseInt(frame.slice(2 * 26, 2 * 30), 16) | 0);
}

/** Whether the kernel, without a guard, does something with a row that can be seen. */
export function isVisible(row: Row, forward: boolean): boolean {
  return forward || row.reaction !== "forward";
}
