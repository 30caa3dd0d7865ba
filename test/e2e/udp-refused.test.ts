import assert from "node:assert/strict";
import { test } from "node:test";
import { createLab, LAB_VIP, SKIP_UNLESS_ROOT } from "../support/lab.ts";

/** A datagram to a backend where nobody listens: its port unreachable reaches the client's socket. */

const PROBE = `
const socket = require("node:dgram").createSocket("udp4");
socket.on("error", (error) => { console.log(error.code); process.exit(0); });
socket.connect(7000, "${LAB_VIP}", () => {
  const send = () => socket.send("x");
  send();
  setInterval(send, 100);
});
setTimeout(() => { console.log("nothing"); process.exit(1); }, 5000);
`;

for (const device of ["packet", "tun", "xdp"] as const) {
  for (const mode of ["nat", "full-nat"] as const) {
    test(`${device} ${mode}: a refused datagram is heard of`, {
      skip: SKIP_UNLESS_ROOT,
    }, async (t) => {
      const lab = createLab({ device });
      t.after(() => lab.stop());
      await lab.startGateway(
        lab.config({
          mode,
          services: [{ name: "echo", protocol: "udp", port: 7000, backendPort: 7777 }],
        }),
      );
      const heard = await lab.exec("client", [process.execPath, "-e", PROBE]);
      assert.equal(heard.stdout.trim(), "ECONNREFUSED");
    });
  }
}
