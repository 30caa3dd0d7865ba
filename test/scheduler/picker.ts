import { backendList, createWorld } from "./world.ts";

/**
 * A node of a fleet in a process of its own: prints what each scheduler picks for the same flows,
 * whatever order its configuration has. Those that promise the same choice are asked on another
 * worker in each process, the others, which follow from seed and order, on the same one.
 */
const isOther = process.argv[2] === "reversed";
const ALIKE = ["maglev", "source-hash", "rendezvous", "failover"] as const;
const BY_WORKER = ["round-robin", "weighted-round-robin", "random", "power-of-two"] as const;
const WEIGHTS = [3, 1, 4, 1, 5, 9, 2, 9];

const picks: Record<string, number[]> = {};
for (const scheduler of [...ALIKE, ...BY_WORKER]) {
  const isAlike = ALIKE.some((one) => one === scheduler);
  for (const family of [4, 6] as const) {
    const backends = backendList(WEIGHTS, family);
    const ordered = isOther ? backends.toReversed() : backends;
    const world = createWorld({ scheduler, tableSize: 65_537, backends: ordered }, "fleet", {
      workers: 2,
      flowCapacity: 2,
    });
    picks[`${scheduler} IPv${family}`] = Array.from({ length: 2000 }, (_, index) =>
      world.position({
        client: (0x0a000000 + Math.imul(index, 2_654_435_761)) | 0,
        clientPort: index,
        protocol: index % 3 === 0 ? 17 : 6,
        worker: isAlike && isOther ? 1 : 0,
      }),
    );
  }
}
process.stdout.write(JSON.stringify(picks));
