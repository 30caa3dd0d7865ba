import assert from "node:assert/strict";
import { mkdtempSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { runSync } from "../support/processes.ts";
import type { Topology } from "./netns.ts";

/** What the tests of guards that outlive their process share: where they are pinned, and their end. */

const CLEANUP = path.join(path.dirname(fileURLToPath(import.meta.url)), "cleanup-main.js");

/** A bpf file system of its own, seen by every program that the test starts. */
export function mountBpf(t: TestContext): string {
  const folder = mkdtempSync(path.join(tmpdir(), "headgate-bpf-"));
  runSync(["mount", "-t", "bpf", "bpf", folder]);
  t.after(() => {
    runSync(["umount", "-l", folder]);
    rmdirSync(folder);
  });
  return folder;
}

/** Remove what is pinned there. @returns what was removed, a sentence each */
export async function cleanUp(topology: Topology, folder: string): Promise<string[]> {
  const child = topology.spawn([process.execPath, CLEANUP, folder]);
  const line = await child.line(/^(removed|failed) /);
  await child.kill();
  assert.match(line, /^removed /);
  return JSON.parse(line.slice("removed ".length)) as string[];
}
