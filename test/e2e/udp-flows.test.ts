import assert from "node:assert/strict";
import { test } from "node:test";
import type { BackendRow } from "../../src/base/admin-types.ts";
import {
  createLab,
  LAB_BACKEND_NAMES,
  LAB_BACKENDS,
  LAB_CLIENT,
  LAB_VIP,
  type Lab,
  type LabBackend,
  labProgram,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import type { RunningProcess } from "../support/processes.ts";
import { startUdpEcho } from "../support/servers.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Goal: a client that only sends, from one port and without a pause, loses nothing from the moment
 * that a backend is back; queries from one port go to all backends; a QUIC connection keeps its
 * backend when the client's port changes.
 * Method: numbered datagrams, 1,000 a second. The sender says which number is next when it is asked;
 * from that number on each one must have arrived.
 */

/** Sends numbered datagrams; SIGUSR1: prints the next number. SIGUSR2: stops, and prints how many. */
const SENDER = `
const socket = require("node:dgram").createSocket("udp4");
let next = 0;
let last = Date.now();
socket.on("error", () => undefined);
socket.bind(5000, "${LAB_CLIENT}", () => console.log("sending"));
const timer = setInterval(() => {
  const now = Date.now();
  for (let due = Math.min(now - last, 50); due > 0; due--) socket.send(String(next++), 7000, "${LAB_VIP}");
  last = now;
}, 5);
process.on("SIGUSR1", () => console.log("next " + next));
process.on("SIGUSR2", () => { clearInterval(timer); setTimeout(() => { console.log("sent " + next); socket.close(); }, 200); });
`;

/** Notes the numbers it gets; SIGUSR1: prints them, as runs "first-last". */
const SINK = `
const socket = require("node:dgram").createSocket({ type: "udp4", recvBufferSize: 8 << 20 });
const got = new Set();
socket.on("message", (data) => got.add(Number(data)));
socket.bind(7777, process.argv[1], () => console.log("listening"));
process.on("SIGUSR1", () => {
  const runs = [];
  for (const number of [...got].sort((a, b) => a - b)) {
    const run = runs.at(-1);
    if (run && run[1] + 1 === number) run[1] = number; else runs.push([number, number]);
  }
  console.log("runs " + runs.map((run) => run.join("-")).join(","));
});
`;

/** Sends QUIC-like packets from a socket of its own each; prints what it hears. */
const QUIC_CLIENT = `
const dgram = require("node:dgram");
const ask = (packet) => new Promise((resolve, reject) => {
  const socket = dgram.createSocket("udp4");
  const timer = setTimeout(() => { socket.close(); reject(new Error("no answer")); }, 5000);
  socket.on("message", (data) => { clearTimeout(timer); socket.close(); resolve(data); });
  socket.send(packet, 443, "${LAB_VIP}");
});
(async () => {
  for (let connection = 0; connection < 12; connection++) {
    // A client's first DCID is random; the first byte of this one says rotation 7.
    const dcid = Buffer.concat([Buffer.of(0xe0 | connection), require("node:crypto").randomBytes(7)]);
    const first = await ask(Buffer.concat([Buffer.of(0xc3, 0, 0, 0, 1, 8), dcid, Buffer.of(2, 1, 2), Buffer.alloc(40)]));
    const scid = first.subarray(7 + first[5], 7 + first[5] + first[6 + first[5]]);
    const heard = [];
    for (let move = 0; move < 5; move++) heard.push((await ask(Buffer.concat([Buffer.of(0x41), scid, Buffer.alloc(20)]))).subarray(1).toString());
    console.log(first.subarray(7 + first[5] + scid.length).toString() + ": " + [...new Set(heard)].join(", "));
  }
})();
`;

const SERVER_IDS: Readonly<Record<LabBackend, string>> = { b1: "0b01", b2: "0b02", b3: "0b03" };

function service(lab: Lab, mode: "nat" | "full-nat", sinks: readonly LabBackend[]): string {
  const config = JSON.parse(
    lab.config({
      mode,
      services: [
        { name: "syslog", protocol: "udp", port: 7000, backendPort: 7777, backends: sinks },
        {
          name: "dns",
          protocol: "udp",
          port: 53,
          backendPort: 5353,
          more: { udp: { perPacket: true } },
        },
        {
          name: "quic",
          protocol: "udp",
          port: 443,
          backendPort: 4433,
          more: { quic: { serverIdBytes: 2, configRotation: 3 } },
        },
      ],
    }),
  ) as { services: { name: string; backends: Record<string, unknown>[] }[] };
  for (const backend of config.services.find(({ name }) => name === "quic")!.backends) {
    const node = LAB_BACKEND_NAMES.find((one) => LAB_BACKENDS[one] === backend["address"])!;
    backend["serverId"] = SERVER_IDS[node];
  }
  return JSON.stringify(config, null, 2);
}

async function tell(
  child: RunningProcess,
  signal: NodeJS.Signals,
  pattern: RegExp,
): Promise<string> {
  const before = child.lines.length;
  child.kill(signal);
  await waitFor(`${pattern}`, () => child.lines.slice(before).some((line) => pattern.test(line)));
  return pattern.exec(child.lines.slice(before).find((line) => pattern.test(line))!)![1]!;
}

async function nextNumber(sender: RunningProcess): Promise<number> {
  return Number(await tell(sender, "SIGUSR1", /^next (\d+)/));
}

const CASES = [
  ["packet", "nat"],
  ["xdp", "full-nat"],
] as const;
/** The first in `npm test`, all in `npm run verify`: what a flow does is the same on every device. */
const cases = process.env["HEADGATE_DEVICES"] === "all" ? CASES : CASES.slice(0, 1);

for (const [device, mode] of cases) {
  test(`UDP flows, ${device} ${mode}`, { skip: SKIP_UNLESS_ROOT }, async (t) => {
    const lab = createLab({ device });
    t.after(() => lab.stop());
    const sinks = new Map<LabBackend, RunningProcess>();
    for (const node of LAB_BACKEND_NAMES) {
      const sink = lab.spawn(node, [process.execPath, "-e", SINK, LAB_BACKENDS[node]]);
      sinks.set(node, sink);
      await sink.waitLine(/^listening/);
      await startUdpEcho(lab, node, 5353);
      const quic = [LAB_BACKENDS[node], "4433", SERVER_IDS[node], "3"];
      const server = lab.spawn(node, [
        process.execPath,
        labProgram("servers/quic-cid.js"),
        ...quic,
      ]);
      await server.waitLine(/^listening/);
    }
    const gateway = await lab.startGateway(service(lab, mode, ["b1"]));

    const sender = lab.spawn("client", [process.execPath, "-e", SENDER]);
    await sender.waitLine(/^sending/);
    await waitFor("the first datagrams", async () => (await nextNumber(sender)) > 300);
    const reload = async (nodes: readonly LabBackend[]): Promise<number> => {
      const { status, body } = await gateway.reload(service(lab, mode, nodes));
      assert.equal(status, 200, body);
      return nextNumber(sender);
    };
    const gone = await reload([]);
    await waitFor("a while without a backend", async () => (await nextNumber(sender)) > gone + 300);
    // Others than those that went: what the flow knows is no good to it.
    const back = await reload(["b2", "b3"]);
    await waitFor("datagrams to arrive", async () => (await nextNumber(sender)) > back + 300);
    const rows = await gateway.get<BackendRow[]>("/api/v1/backends");
    const busy = rows.find(
      (row) => row.service === "syslog" && row.active + row.inactive > 0 && row.state === "up",
    )!;
    const drained = await gateway.cli(["backend", "drain", `syslog/${busy.address}:7777`]);
    assert.equal(drained.code, 0, drained.stderr);
    const moved = await nextNumber(sender);
    await waitFor("datagrams elsewhere", async () => (await nextNumber(sender)) > moved + 300);
    const sent = Number(await tell(sender, "SIGUSR2", /^sent (\d+)/));

    const got = new Map<LabBackend, Set<number>>();
    for (const [node, sink] of sinks) {
      const runs = await tell(sink, "SIGUSR1", /^runs (.*)$/);
      const numbers = new Set<number>();
      for (const run of runs.split(",").filter((text) => text !== "")) {
        const [from, to] = run.split("-").map(Number) as [number, number];
        for (let number = from; number <= to; number++) numbers.add(number);
      }
      got.set(node, numbers);
    }
    const owner = LAB_BACKEND_NAMES.find((node) => LAB_BACKENDS[node] === busy.address)!;
    const other: LabBackend = owner === "b2" ? "b3" : "b2";
    const missing: number[] = [];
    for (let number = back; number < sent; number++) {
      const arrived = got.get(owner)!.has(number) || got.get(other)!.has(number);
      if (!arrived) missing.push(number);
    }
    assert.deepEqual(missing, [], `lost of ${back}..${sent} after the backends were back`);
    for (let number = moved; number < sent; number++) {
      assert.ok(got.get(other)!.has(number), `${number} after ${owner} was drained at ${moved}`);
    }
    t.diagnostic(`${sent} datagrams, back at ${back}, ${owner} drained before ${moved}: 0 lost`);

    // Thirty queries from one port: all answered, and the work shared.
    const queries = `
      const socket = require("node:dgram").createSocket("udp4");
      const heard = new Set();
      socket.on("message", (data, from) => { if (from.address === "${LAB_VIP}") heard.add(String(data)); });
      socket.bind(6000, "${LAB_CLIENT}", () => { for (let number = 0; number < 30; number++) socket.send("q" + number, 53, "${LAB_VIP}"); });
      const done = () => { console.log(heard.size); process.exit(0); };
      setInterval(() => heard.size === 30 && done(), 20); setTimeout(done, 5000);`;
    const answered = await lab.exec("client", [process.execPath, "-e", queries]);
    assert.equal(answered.stdout.trim(), "30");
    const after = await gateway.get<BackendRow[]>("/api/v1/backends");
    const shares = after.filter((row) => row.service === "dns").map((row) => row.packetsIn);
    assert.deepEqual(shares, [10, 10, 10]);

    const quic = await lab.exec("client", [process.execPath, "-e", QUIC_CLIENT]);
    const connections = quic.stdout.trim().split("\n");
    assert.equal(connections.length, 12);
    for (const line of connections) assert.match(line, /^(0b0[123]): known \1$/);
    assert.equal(new Set(connections).size, 3, "connections went to all backends");
    assert.deepEqual(lab.checksumErrors(), {});
  });
}
