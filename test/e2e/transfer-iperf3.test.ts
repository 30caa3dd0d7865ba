import assert from "node:assert/strict";
import { test } from "node:test";
import { createLab, SKIP_UNLESS_ROOT } from "../support/lab.ts";
import { IPERF_PORT, iperf3, startIperf3 } from "../support/servers.ts";

/** iperf3 through the VIP, TCP both ways and UDP, with offloads on and off. */

const IPERF = {
  name: "iperf",
  protocol: ["tcp", "udp"],
  port: IPERF_PORT,
  backendPort: IPERF_PORT,
  // Its control connection and its streams have to reach the same server.
  backends: ["b1"],
} as const;

for (const device of ["tun", "packet", "xdp"] as const) {
  for (const mode of ["nat", "full-nat"] as const) {
    // AF_XDP sends the same frames in both modes, one MTU each: one of them is enough.
    if (device === "xdp" && mode === "full-nat") continue;
    for (const offloads of [true, false]) {
      // Without offloads every packet is one MTU: fewer bytes make as many packets.
      const bytes = (offloads ? 256 : 48) * 1024 * 1024;
      const title = `iperf3 ${mode} ${device}, offloads ${offloads ? "on" : "off"}`;
      test(title, { skip: SKIP_UNLESS_ROOT }, async (t) => {
        const lab = createLab({ device, offloads });
        t.after(() => lab.stop());
        await startIperf3(lab, "b1");
        await lab.startGateway(lab.config({ mode, services: [IPERF] }));

        for (const direction of [[], ["-R"]]) {
          const tcp = await iperf3(lab, ["-n", String(bytes), ...direction]);
          assert.ok((tcp.end.sum_sent?.bytes ?? 0) >= bytes);
          // iperf3 ends when all is sent; what is then still in buffers is not received any more.
          assert.ok((tcp.end.sum_received?.bytes ?? 0) >= bytes * 0.75);
        }
        for (const direction of [[], ["-R"]]) {
          // What the receiving socket had no room for has passed the gateway: it is not lost there.
          const receiver = direction.length === 0 ? "b1" : "client";
          const before = lab.counters(receiver)["UdpRcvbufErrors"]!;
          const udp = await iperf3(lab, [
            ...["-u", "-b", "30M", "-l", "1400", "-n", "4M"],
            ...direction,
          ]);
          const noRoom = lab.counters(receiver)["UdpRcvbufErrors"]! - before;
          const sum = udp.end.sum;
          assert.ok(sum !== undefined && sum.packets >= 2900, JSON.stringify(sum));
          assert.ok(sum.lost_packets <= noRoom, `${sum.lost_packets} lost, ${noRoom} had no room`);
          for (const stream of udp.end.streams) assert.equal(stream.udp?.out_of_order, 0);
        }
        assert.deepEqual(lab.checksumErrors(), {});
      });
    }
  }
}
