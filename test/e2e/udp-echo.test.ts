import assert from "node:assert/strict";
import { test } from "node:test";
import type { BackendRow } from "../../src/base/admin-types.ts";
import { createLab, LAB_BACKEND_NAMES, SKIP_UNLESS_ROOT } from "../support/lab.ts";
import { startUdpEcho, udpProbe } from "../support/servers.ts";

/** Datagrams of 0 to 1,472 bytes to an echo server behind the VIP come back as they went. */

const ECHO_PORT = 7777;
const ECHO = { name: "echo", protocol: "udp", port: 7000, backendPort: ECHO_PORT } as const;
const DATAGRAMS = 1000;
const SOCKETS = 12;

for (const device of ["tun", "packet", "xdp"] as const) {
  for (const mode of ["nat", "full-nat"] as const) {
    for (const offloads of [true, false]) {
      const title = `udp echo ${mode} ${device}, offloads ${offloads ? "on" : "off"}`;
      test(title, { skip: SKIP_UNLESS_ROOT }, async (t) => {
        const lab = createLab({ device, offloads });
        t.after(() => lab.stop());
        await Promise.all(LAB_BACKEND_NAMES.map((node) => startUdpEcho(lab, node, ECHO_PORT)));
        const gateway = await lab.startGateway(lab.config({ mode, services: [ECHO] }));

        const report = await udpProbe(lab, { port: ECHO.port, count: DATAGRAMS, sockets: SOCKETS });
        assert.deepEqual(report, { sent: DATAGRAMS, equal: DATAGRAMS, different: 0, missing: 0 });
        assert.deepEqual(lab.checksumErrors(), {});

        // One flow per socket, in turns over the backends; every datagram counted both ways.
        const rows = await gateway.get<BackendRow[]>("/api/v1/backends");
        assert.deepEqual(
          rows.map((row) => row.connections),
          [4, 4, 4],
        );
        assert.equal(
          rows.reduce((sum, row) => sum + row.packetsIn, 0),
          DATAGRAMS,
        );
        assert.equal(
          rows.reduce((sum, row) => sum + row.packetsOut, 0),
          DATAGRAMS,
        );
      });
    }
  }
}
