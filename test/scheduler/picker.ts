import { backend } from "../control/definitions.ts";
import { createWorld } from "./world.ts";

/**
 * A node of a fleet in a process of its own: prints what each hash scheduler picks for the same
 * flows, whatever order its configuration has.
 */
const order = process.argv[2] === "reversed" ? -1 : 1;
const backends = [3, 1, 4, 1, 5, 9, 2, 6].map((weight, index) =>
  backend(`10.20.0.${index + 1}:80`, weight),
);
const ordered = order < 0 ? backends.toReversed() : backends;
const picks = (["maglev", "source-hash"] as const).map((scheduler) => {
  const world = createWorld({ scheduler, tableSize: 65_537, backends: ordered }, "fleet");
  return Array.from({ length: 2000 }, (_, index) =>
    world.pick((0x0a000000 + Math.imul(index, 2_654_435_761)) | 0, index, index % 3 === 0 ? 17 : 6),
  );
});
process.stdout.write(JSON.stringify(picks));
