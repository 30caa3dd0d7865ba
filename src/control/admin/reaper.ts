import { spawn } from "node:child_process";
import { lstatSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import type { Log } from "../../base/log.ts";

/**
 * Removes the admin socket for a gateway that has given up the right to: a shell that was started
 * before that, stays root without a single capability, reads nothing but the end of its input, and then
 * removes that one file, if it still is the one. The kernel closes the input however the gateway ends.
 */
export interface Reaper {
  /** Have it done now; fulfilled when the file is gone. */
  finish(): Promise<void>;
}

const SCRIPT = 'read _; [ "$(stat -c %d.%i -- "$0")" = "$1" ] && rm -f -- "$0"';
const FINISH_MS = 3000;

/** Start the reaper of a file that is there. */
export function startReaper(file: string, log: Log): Reaper {
  const { dev, ino } = lstatSync(file);
  const argv = ["--bounding-set", "-all", "--inh-caps", "-all", "--", "sh", "-c", SCRIPT, file];
  const child = spawn("setpriv", [...argv, `${dev}.${ino}`], {
    stdio: ["pipe", "ignore", "ignore"],
    // In a process group of its own: Ctrl-C is for the gateway to answer.
    detached: true,
  });
  const ended = new Promise<void>((resolve) => {
    child.once("error", (error) => {
      log.warn("reaper_failed", { reason: error.message });
      resolve();
    });
    child.once("exit", () => resolve());
  });
  child.stdin.on("error", () => {});
  return {
    finish: async () => {
      child.stdin.end();
      const late = pause(FINISH_MS, undefined, { ref: false });
      await Promise.race([ended, late]);
    },
  };
}
