import { type BadConfig, one } from "./config-text.ts";

/** Wrong values of priorities, pools and slow start, and what contradicts itself among them. */
export const BAD_POOLS: readonly BadConfig[] = [
  {
    name: "pools: wrong values",
    given: one({ minimumHealthy: "0", panicThreshold: "50", slowStart: "{ minimumWeight: 100% }" }),
    want: [
      "gw.yaml:7:21: services[0].minimumHealthy: expected a whole number from 1 to 4096, or a percentage from 1% to 100%, got 0",
      "gw.yaml:8:21: services[0].panicThreshold: expected a percentage from 0% to 100%, got 50",
      'gw.yaml:9:33: services[0].slowStart.minimumWeight: expected a percentage from 1% to 99%, got "100%"',
    ],
  },
  {
    name: "pools: a scheduler that heeds no shares of a weight",
    given: one({ scheduler: "rr", slowStart: "{ window: 10s }" }),
    want: [
      "gw.yaml:8:16: services[0].slowStart: expected off with scheduler round-robin (gw.yaml:7:16), which heeds no weights",
    ],
  },
  {
    name: "pools: two orders",
    given: one({
      scheduler: "fo",
      slowStart: "{ window: 10s }",
      backends: "[{ address: 10.20.0.11 }, { address: 10.20.0.12, priority: 1 }]",
    }),
    want: [
      "gw.yaml:8:16: services[0].slowStart: expected off with scheduler failover (gw.yaml:7:16), which takes weights as an order",
      "gw.yaml:9:74: services[0].backends[1].priority: expected 0 with scheduler failover (gw.yaml:7:16), which orders backends by weight, got 1",
    ],
  },
  {
    name: "pools: a cap of which a worker has no share, and a tier that is none",
    given: one({
      backends:
        "[{ address: 10.20.0.11, maxConnections: 1 }, { address: 10.20.0.12, priority: 256 }]",
    }).replace("interfaces: [eth0]", "interfaces: [eth0], workers: 2"),
    want: [
      "gw.yaml:7:93: services[0].backends[1].priority: expected a whole number from 0 to 255, got 256",
    ],
  },
  {
    name: "pools: a cap of which a worker has no share",
    given: one({ backends: "[{ address: 10.20.0.11, maxConnections: 1 }]" }).replace(
      "interfaces: [eth0]",
      "interfaces: [eth0], workers: 2",
    ),
    want: [
      "gw.yaml:7:55: services[0].backends[0].maxConnections: expected at least one for each of 2 workers (gw.yaml:1:54), got 1",
    ],
  },
  {
    name: "pools: more backends than there are",
    given: one({ minimumHealthy: "3" }),
    want: [
      "gw.yaml:7:21: services[0].minimumHealthy: expected at most the 1 backends (gw.yaml:8:15), got 3",
    ],
  },
];
