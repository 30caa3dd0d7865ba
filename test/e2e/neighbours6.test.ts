import assert from "node:assert/strict";
import { test } from "node:test";
import { createLab, LAB_SNAT6, LAB_VIP6, SKIP_UNLESS_ROOT } from "../support/lab.ts";
import { httpLoad, startWeb } from "../support/servers.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Goal: VIPs and SNAT addresses of IPv6 are found by their neighbours (RFC 4861), on one link with
 * them, and backends behind a link-local next hop are found by the gateway.
 * Method: the client's and the backends' kernels ask; their neighbour tables, and the groups that
 * the gateway's kernel has joined, are the witnesses.
 */

const WEB = { name: "web", protocol: "tcp", port: 80, backendPort: 8080, family: 6 } as const;

for (const device of ["packet", "xdp"] as const) {
  test(`${device}: neighbours find the addresses`, { skip: SKIP_UNLESS_ROOT }, async (t) => {
    const lab = createLab({ device, arms: 1 });
    t.after(() => lab.stop());
    await startWeb(lab);
    // The client takes the VIP for a neighbour.
    lab.execSync("client", ["ip", "route", "add", `${LAB_VIP6}/128`, "dev", "eth0"]);
    // b1 and b2 lie behind b3, whose link-local address is the next hop (and b3 forwards).
    const linkLocal = /inet6 (fe80::[0-9a-f:]+)\//.exec(
      lab.execSync("b3", ["ip", "-6", "addr", "show", "dev", "eth0", "scope", "link"]),
    )?.[1];
    assert.ok(linkLocal !== undefined);
    lab.execSync("b3", ["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"]);
    for (const host of ["2001:db8:2::11", "2001:db8:2::12"]) {
      const via = ["via", linkLocal, "dev", "gw-lan"];
      lab.execSync("gateway", ["ip", "-6", "route", "add", `${host}/128`, ...via]);
    }
    // An IPv4 backend may have a next hop of IPv6 (RFC 8950).
    lab.execSync("b3", ["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0"]);
    const via4 = ["via", "inet6", linkLocal, "dev", "gw-lan"];
    lab.execSync("gateway", ["ip", "route", "add", "10.20.0.11/32", ...via4]);
    const groups = (): string => lab.execSync("gateway", ["ip", "-6", "maddr", "show"]);
    const before = groups();

    const prefixes = ["2001:db8:fe::/64", "203.0.114.0/24"];
    const services = [
      WEB,
      { ...WEB, name: "web4", family: 4 as const },
      { ...WEB, name: "prefixes", port: 81, more: { vip: prefixes } },
    ];
    const gateway = await lab.startGateway(lab.config({ mode: "full-nat", services }));
    for (const group of ["ff02::1:ff00:10", "ff02::1:ff00:100", "ff02::1:ff00:103"]) {
      assert.ok(groups().includes(`${group}\n`), `in ${group}:\n${groups()}`);
    }
    const report = await httpLoad(lab, { requests: 60, family: 6 });
    assert.deepEqual(report.failures, {});
    assert.deepEqual(report.bodies, { b1: 20, b2: 20, b3: 20 });

    const mac = JSON.parse(
      lab.execSync("gateway", ["ip", "-j", "link", "show", "dev", "gw-lan"]),
    )[0].address as string;
    const vip = lab.execSync("client", ["ip", "-6", "neigh", "show", LAB_VIP6]);
    assert.match(vip, new RegExp(`lladdr ${mac}`));
    const asked = lab.execSync("b1", ["ip", "-6", "neigh", "show"]);
    const pool = LAB_SNAT6.filter((address) => asked.includes(`${address} `));
    assert.ok(pool.length > 0, asked);
    for (const address of pool) {
      assert.match(asked, new RegExp(`^${address} .*lladdr ${mac}`, "m"));
    }
    const four = await httpLoad(lab, { requests: 60 });
    assert.deepEqual(four.bodies, { b1: 20, b2: 20, b3: 20 });
    for (const host of ["[2001:db8:fe::1]", "[2001:db8:fe::abcd:1]", "203.0.114.77"]) {
      const answer = await lab.exec("client", ["curl", "-gsS", "-m", "9", `http://${host}:81/`]);
      assert.match(answer.stdout, /^b[123]$/m, `a VIP that is a prefix: ${host}`);
    }
    // What went to b1 went by b3.
    const counters = lab.counters("b3");
    assert.ok((counters["Ip6OutForwDatagrams"] ?? 0) > 0, "IPv6 by b3");
    assert.ok((counters["IpForwDatagrams"] ?? 0) > 0, "IPv4 by b3");

    gateway.kill("SIGKILL");
    await gateway.exited;
    await waitFor("the groups to go with the process", () => groups() === before);
  });
}
