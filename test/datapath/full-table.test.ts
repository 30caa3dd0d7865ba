import assert from "node:assert/strict";
import { test } from "node:test";
import { C_FLOWS_EVICTED } from "../../src/datapath/counters.ts";
import { F_STATE, FLOW_WORDS, STATE_ESTABLISHED } from "../../src/flow/flow-record.ts";
import { ACK, SYN, tcpPacket } from "../support/frames.ts";
import { AdmissionBench, BACKEND, configOf, TCP } from "./admission-bench.ts";

// Goal: a table that is asked for 110 % of what it holds keeps every flow that was there, and new ones
// get what `whenFull` says, counted. Method: all of its rows are established connections, or all but
// a few; a tenth more SYNs come; then every connection sends once more.

const ROWS = 500;

function establish(bench: AdmissionBench, port: number): void {
  const tcp = { ...TCP, sourcePort: port };
  bench.client(tcpPacket({ ...tcp, flags: SYN, sequence: 10 }));
  const back = {
    source: BACKEND,
    sourcePort: 8080,
    destination: TCP.source,
    destinationPort: port,
  };
  bench.backend(tcpPacket({ ...back, flags: SYN | ACK, sequence: 20, acknowledgement: 11 }));
  bench.client(tcpPacket({ ...tcp, flags: ACK, sequence: 11, acknowledgement: 21 }));
}

function established(bench: AdmissionBench): number {
  const { i32, layout } = bench.gateway.views;
  let count = 0;
  for (let row = 0; row < ROWS; row++) {
    const state = i32[(layout.flows.at >> 2) + row * FLOW_WORDS + F_STATE]! & 0xff;
    if (state === STATE_ESTABLISHED) count++;
  }
  return count;
}

for (const whenFull of ["evict", "drop"] as const) {
  test(`flow table at 110 %, whenFull: ${whenFull}: what is established stays, what is new is counted`, () => {
    const yaml = configOf({ top: `flows: { whenFull: ${whenFull} }` });
    const bench = new AdmissionBench({ yaml, size: { flowCapacity: ROWS } });
    const halfOpen = 20;
    for (let port = 1; port <= halfOpen; port++) {
      bench.client(tcpPacket({ ...TCP, sourcePort: 2000 + port, flags: SYN }));
    }
    for (let port = 1; port <= ROWS - halfOpen; port++) establish(bench, port);
    assert.equal(bench.live, ROWS);
    let admitted = 0;
    for (let port = 1; port <= ROWS / 10; port++) {
      admitted += bench.client(tcpPacket({ ...TCP, sourcePort: 3000 + port, flags: SYN })).length;
    }
    assert.equal(bench.live, ROWS);
    assert.equal(established(bench), ROWS - halfOpen);
    assert.equal(bench.count("flow_table_full"), ROWS / 10 - admitted);
    assert.equal(bench.counter(C_FLOWS_EVICTED), admitted);
    if (whenFull === "drop") assert.equal(admitted, 0);
    else assert.ok(admitted > 0, "half-open ones made room");
    for (let port = 1; port <= ROWS - halfOpen; port++) {
      const data = { ...TCP, sourcePort: port, sequence: 11, acknowledgement: 21, data: [1] };
      assert.equal(bench.client(tcpPacket(data)).length, 1, `the connection from port ${port}`);
    }
  });
}
