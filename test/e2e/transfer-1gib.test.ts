import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { createLab, SKIP_UNLESS_ROOT } from "../support/lab.ts";
import { startHashSink, startNginx, writeContent } from "../support/servers.ts";

/** One long TCP stream down and one up, through every device and mode: the bytes are the same. */

const DOWN_BYTES = 1024 * 1024 * 1024;
const UP_BYTES = 256 * 1024 * 1024;
const SINK_PORT = 9000;

let folder = "";
let downHash = "";
let upHash = "";

before(() => {
  if (SKIP_UNLESS_ROOT !== false) return;
  folder = mkdtempSync(`/dev/shm/headgate-test-${process.pid}-transfer.`);
  downHash = writeContent(path.join(folder, "down"), DOWN_BYTES);
  upHash = writeContent(path.join(folder, "up"), UP_BYTES);
});
after(() => {
  if (folder !== "") rmSync(folder, { recursive: true, force: true });
});

for (const device of ["tun", "packet", "xdp"] as const) {
  for (const mode of ["nat", "full-nat"] as const) {
    test(`transfer ${mode} ${device}: 1 GiB down, 256 MiB up`, {
      skip: SKIP_UNLESS_ROOT,
    }, async (t) => {
      const lab = createLab({ device });
      t.after(() => lab.stop());
      await startNginx(lab, "b1", folder);
      await startHashSink(lab, "b2", SINK_PORT);
      await lab.startGateway(
        lab.config({
          mode,
          services: [
            { name: "web", protocol: "tcp", port: 80, backendPort: 8080, backends: ["b1"] },
            {
              name: "sink",
              protocol: "tcp",
              port: SINK_PORT,
              backendPort: SINK_PORT,
              backends: ["b2"],
            },
          ],
        }),
      );

      // The hash of the stream as it comes out of the socket; nothing is stored on the way.
      const down = await lab.exec(
        "client",
        [
          "bash",
          "-c",
          "set -o pipefail; curl -sS --fail -m 100 http://203.0.113.10/files/down | openssl dgst -sha256 -r",
        ],
        { timeoutMs: 120_000 },
      );
      assert.equal(down.stdout.split(" ")[0], downHash);

      const up = await lab.exec(
        "client",
        [
          "bash",
          "-c",
          `socat -b 131072 -t 60 - TCP:203.0.113.10:${SINK_PORT} <"$1"`,
          "up",
          path.join(folder, "up"),
        ],
        { timeoutMs: 120_000 },
      );
      assert.equal(up.stdout.trim(), upHash);
      assert.deepEqual(lab.checksumErrors(), {});
    });
  }
}
