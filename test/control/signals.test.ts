import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { createLog } from "../../src/base/log.ts";
import type { Gateway } from "../../src/control/gateway.ts";
import { handleSignals } from "../../src/control/signals.ts";

function fakeGateway(): Gateway & { calls: string[] } {
  const calls: string[] = [];
  return {
    calls,
    ended: Promise.resolve(0),
    reload: async () => {
      calls.push("reload");
    },
    stop: (reason) => calls.push(`stop ${reason}`),
    logState: () => calls.push("state"),
  };
}

test("HUP reloads, USR1 logs the state, TERM and INT end, a second one too", () => {
  const signals = handleSignals(createLog("error"));
  const gateway = fakeGateway();
  try {
    signals.attach(gateway);
    for (const name of ["SIGHUP", "SIGUSR1", "SIGTERM", "SIGINT"] as const) process.emit(name);
    assert.deepEqual(gateway.calls, ["reload", "state", "stop SIGTERM", "stop SIGINT"]);
  } finally {
    signals.close();
  }
  assert.equal(process.listenerCount("SIGTERM"), 0);
});

test("a TERM while the gateway starts ends it as soon as it stands; HUP and USR1 are harmless", () => {
  const signals = handleSignals(createLog("error"));
  const gateway = fakeGateway();
  try {
    process.emit("SIGHUP");
    process.emit("SIGUSR1");
    process.emit("SIGTERM");
    signals.attach(gateway);
    assert.deepEqual(gateway.calls, ["stop SIGTERM"]);
  } finally {
    signals.close();
  }
});

test("two TERM while it starts, and three in all, end the process at once", () => {
  const module = (file: string): string =>
    JSON.stringify(new URL(`../../src/${file}`, import.meta.url).href);
  const script = (attach: string): string => `
    const { createLog } = await import(${module("base/log.js")});
    const { handleSignals } = await import(${module("control/signals.js")});
    const signals = handleSignals(createLog("error"));
    ${attach}
    for (let n = 0; n < 5; n++) process.emit("SIGTERM");
    process.exit(9);`;
  const run = (attach: string): number | null =>
    spawnSync(process.execPath, ["--input-type=module", "-e", script(attach)]).status;
  assert.equal(run(""), 1);
  assert.equal(run("signals.attach({ stop() {}, reload() {}, logState() {} });"), 1);
});
