import { D_INTERFACE } from "../device/device.ts";
import { B_SERVICE, B_USED, BACKEND_WORDS } from "../service/backend-slots.ts";
import { S_PROBE } from "../service/bank.ts";
import { type Context, R_IS_IPV6, R_SOURCE6 } from "./context.ts";

/**
 * Health checks that come in through the data path (host/probe-device.ts): a packet that came in by the
 * probe's interface, for a service that is checked so, goes to the backend that its source names,
 * whatever its state and weight and whatever the scheduler would say.
 */
export interface Probes {
  /**
   * Look whose probe a packet is that begins a flow.
   *
   * @returns backend slot; NO_PROBE: a packet like any other; PROBE_OF_NOBODY: no backend of the
   *   service has the number
   */
  slotOf(rxWord: number, serviceWord: number, service: number, client: number): number;
}

export const NO_PROBE = -1;
export const PROBE_OF_NOBODY = -2;

/** The low 16 bits of the source of slot N's probes are N + this: none is the range's own address. */
export const PROBE_SOURCE_OFFSET = 1;

export function createProbes(context: Context): Probes {
  const { i32, layout, registers, rx } = context;
  const slots = layout.backendSlots.at >> 2;

  function slotOf(rxWord: number, serviceWord: number, service: number, client: number): number {
    const probe = i32[serviceWord + S_PROBE]!;
    if (probe === 0 || rx[rxWord + D_INTERFACE] !== probe - 1) return NO_PROBE;
    const low = registers[R_IS_IPV6] === 0 ? client : registers[R_SOURCE6 + 3]!;
    const slot = (low & 0xffff) - PROBE_SOURCE_OFFSET;
    if (slot < 0 || slot >= layout.backends) return PROBE_OF_NOBODY;
    const at = slots + slot * BACKEND_WORDS;
    return i32[at + B_USED] === 0 || i32[at + B_SERVICE] !== service ? PROBE_OF_NOBODY : slot;
  }

  return { slotOf };
}
