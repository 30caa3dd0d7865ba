import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { runSync } from "../support/processes.ts";
import { SKIP_UNLESS_ROOT } from "./netns.ts";

/** Runs requirePrivileges in a process without some capabilities; prints what it throws. */
const MODULE = path.join(
  path.dirname(fileURLToPath(import.meta.url)),
  "../../src/host/privileges.js",
);

function check(device: string, ...without: string[]): string {
  const program = `
    import { requirePrivileges } from ${JSON.stringify(MODULE)};
    try {
      requirePrivileges(${JSON.stringify(device)});
      console.log("fine");
    } catch (error) {
      console.log(error.name + " " + error.exitCode + ": " + error.message);
    }`;
  const node = [process.execPath, "--input-type=module", "-e", program];
  if (without.length === 0) return runSync(node).trim();
  const minus = without.map((name) => `-${name}`).join(",");
  return runSync(["setpriv", "--bounding-set", minus, "--inh-caps", minus, ...node]).trim();
}

const CASES: { device: string; without: string[]; want: RegExp }[] = [
  { device: "packet", without: [], want: /^fine$/ },
  { device: "packet", without: ["net_raw"], want: /^PrivilegeError 77: .* needs CAP_NET_RAW \(/ },
  {
    device: "packet",
    without: ["net_raw", "net_admin"],
    want: /needs CAP_NET_RAW \(.*\) and CAP_NET_ADMIN \(/,
  },
  { device: "packet", without: ["bpf"], want: /^fine$/ },
  { device: "packet", without: ["bpf", "sys_admin"], want: /needs CAP_BPF \(/ },
  { device: "tun", without: ["net_raw"], want: /^fine$/ },
  { device: "xdp", without: [], want: /^fine$/ },
  {
    device: "xdp",
    without: ["net_raw", "bpf", "sys_admin"],
    want: /CAP_NET_RAW \(to open AF_XDP .*\) and CAP_BPF \(to load the XDP program\)/,
  },
  {
    device: "tun",
    without: ["net_admin"],
    want: /^PrivilegeError 77: device.type: tun needs CAP_NET_ADMIN/,
  },
];
for (const { device, without, want } of CASES) {
  const name = without.length === 0 ? "all" : `all but ${without.join(", ")}`;
  test(`privileges of ${device} with ${name}`, { skip: SKIP_UNLESS_ROOT }, () => {
    assert.match(check(device, ...without), want);
  });
}
