import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { TestContext } from "node:test";
import type { PolicyDefinition } from "../../../src/service/definition.ts";
import { gateway, service } from "../definitions.ts";

/** Policies for tests: their sources need not be on disk once they are read. */

/** @param texts - by file name; the first is the module */
export function policyOf(
  texts: Readonly<Record<string, string>>,
  overrides: Partial<PolicyDefinition> = {},
): PolicyDefinition {
  const sources = Object.entries(texts).map(([name, text]) => ({
    path: `/etc/test/${name}`,
    text,
  }));
  return {
    module: sources[0]!.path,
    sources,
    shadow: false,
    timeoutMs: 500,
    intervalMs: 1000,
    ...overrides,
  };
}

export function gatewayOf(policy: PolicyDefinition) {
  return gateway([service("plain"), service("web", { policy, scheduler: "maglev" })]);
}

/** A folder that only we can write, with these files; it goes with the test. */
export function folderOf(t: TestContext, texts: Readonly<Record<string, string>>): string {
  const folder = mkdtempSync(path.join(tmpdir(), "headgate-test-policy-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  for (const [name, text] of Object.entries(texts)) {
    writeFileSync(path.join(folder, name), text, { mode: 0o644 });
  }
  return folder;
}

/** Processes that threads of policies are in, of this one. */
export function policyProcesses(pid: number): number[] {
  return readdirSync(`/proc/${pid}/task`).flatMap((task) => {
    const children = textOf(`/proc/${pid}/task/${task}/children`).trim().split(" ");
    return children
      .filter((child) => textOf(`/proc/${child}/cmdline`).includes("policy/nursery.js"))
      .map(Number);
  });
}

/** What the kernel says of the threads of policies, and of the one that they come from. */
export function policyThreads(pid: number): string[] {
  return readdirSync(`/proc/${pid}/task`)
    .map((task) => `/proc/${pid}/task/${task}`)
    .filter((task) => {
      const fields = textOf(`${task}/stat`)
        .replace(/^.*\) /, "")
        .split(" ");
      return fields[16] === "10";
    })
    .map((task) => textOf(`${task}/status`));
}

/** Empty when the process has ended meanwhile. */
function textOf(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}
