import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { AlreadyRunningError } from "../../src/base/errors.ts";
import { claimAdminSocket } from "../../src/control/admin/server.ts";
import { cleanUpAfterCrash } from "../../src/control/cleanup.ts";
import type { RegionMapper } from "../../src/state/mapper.ts";

const folder = mkdtempSync(path.join(tmpdir(), "headgate-cleanup-"));
after(() => rmSync(folder, { recursive: true }));

const noRegion = (): never => {
  throw new Error("nothing is opened here");
};

test("a gateway that answers is left alone", async () => {
  const socket = path.join(folder, "admin.sock");
  const server = await claimAdminSocket(socket);
  try {
    const mapper: RegionMapper = { open: noRegion, attach: noRegion };
    await assert.rejects(
      cleanUpAfterCrash(mapper, { socket, stateFiles: [] }),
      AlreadyRunningError,
    );
    assert.equal(existsSync(socket), true);
  } finally {
    await server.close();
  }
});

test("a state file that is in use says so, and nothing is removed", async () => {
  const socket = path.join(folder, "stale.sock");
  const state = path.join(folder, "state");
  writeFileSync(socket, "");
  writeFileSync(state, "");
  const opened: string[] = [];
  const mapper: RegionMapper = {
    open: (file) => {
      opened.push(file);
      throw new AlreadyRunningError("in use by process 1");
    },
    attach: noRegion,
  };
  const places = { socket, stateFiles: [path.join(folder, "none"), state] };
  await assert.rejects(cleanUpAfterCrash(mapper, places), AlreadyRunningError);
  assert.deepEqual(opened, [state]);
  assert.equal(existsSync(socket), true);
});
