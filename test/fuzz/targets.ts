import { agentTarget } from "./agent-target.ts";
import { decapTarget } from "./decap-target.ts";
import { accessTarget, configTarget, pcapTarget } from "./file-targets.ts";
import { datapathTarget, ethernetTarget, tunTarget } from "./frame-targets.ts";
import { parsersTarget } from "./parser-targets.ts";
import { flowTableTarget, ringsTarget, takeOverTarget } from "./state-targets.ts";
import { byteTarget, type FuzzTarget } from "./target.ts";
import { WORLDS } from "./worlds.ts";

/**
 * The fuzz targets by name. The canary must fail, so that a run which finds nothing is known to have
 * looked.
 */
export const TARGETS: readonly FuzzTarget[] = [
  configTarget,
  pcapTarget,
  accessTarget,
  agentTarget,
  parsersTarget,
  flowTableTarget,
  ringsTarget,
  takeOverTarget,
  decapTarget,
  ethernetTarget,
  tunTarget,
]
  .map(byteTarget)
  .concat(WORLDS.map(datapathTarget));

/** Must fail within the smoke run. */
export const CANARY: FuzzTarget = byteTarget({
  name: "canary",
  smokeInputs: 100_000,
  seed: () => Uint8Array.of(1, 2, 3, 4),
  run(bytes) {
    if (bytes[0] === 0xff) throw new Error("the canary sings");
  },
});
