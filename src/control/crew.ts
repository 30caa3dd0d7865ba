import type { RegionViews } from "../state/layout.ts";
import type { StartWorker, WorkerHandle } from "./worker-host.ts";
import type { WorkerOptions } from "./worker-protocol.ts";

export interface CrewParts {
  readonly statePath: string;
  readonly views: RegionViews;
  /** What a worker opens. */
  readonly device: (worker: number, wakeFd: number) => WorkerOptions["device"];
  /** The workers lose their capabilities once their devices are open. */
  readonly limited: boolean;
  /** Processor of each worker; empty: where the kernel puts them. */
  readonly cpus: readonly number[];
  /** By worker. */
  readonly wakeFds: readonly number[];
  /** Descriptor of the steering program; null: one worker, nothing to steer. */
  readonly programFd: number | null;
  /** Ends every worker's wait for frames. */
  readonly wake: () => void;
  /** Called once when a worker ends without `stop()`. */
  readonly onDeath: (reason: string) => void;
  readonly startWorker: StartWorker;
}

/**
 * Start the workers one after the other, so that their devices are opened in the order of their
 * numbers: the kernel gives each its place in the group of sockets or queues as it comes. One handle
 * is that of all.
 *
 * @throws HeadgateError what a worker could not open; those before it have ended then
 */
export async function startCrew(parts: CrewParts): Promise<WorkerHandle> {
  const { views, wakeFds, programFd } = parts;
  const { size } = views.layout;
  const workers: WorkerHandle[] = [];
  let dead = false;
  const stop = async (): Promise<void> => {
    await Promise.all(workers.map((worker) => worker.stop()));
  };
  const onDeath = (worker: number, reason: string): void => {
    if (dead) return;
    dead = true;
    parts.onDeath(size.workers === 1 ? reason : `worker ${worker}: ${reason}`);
  };
  for (let worker = 0; worker < size.workers; worker++) {
    const crew =
      programFd === null
        ? undefined
        : { worker, programFd, groups: workers[0]?.groups ?? [], wakeFds };
    const options: WorkerOptions = {
      statePath: parts.statePath,
      size,
      worker,
      cpu: parts.cpus[worker] ?? null,
      device: parts.device(worker, wakeFds[worker]!),
      limited: parts.limited,
      crew,
    };
    try {
      workers.push(
        await parts.startWorker(options, views, parts.wake, (reason) => onDeath(worker, reason)),
      );
    } catch (error) {
      await stop();
      throw error;
    }
  }
  const first = workers[0]!;
  return {
    interfaces: first.interfaces,
    about: first.about,
    groups: first.groups,
    go: () => {
      for (const worker of workers) worker.go();
    },
    stop,
  };
}
