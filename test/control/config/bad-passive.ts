import { type BadConfig, one } from "./config-text.ts";

/** Wrong values of `passive`, and services for which there is nothing to see. */
export const BAD_PASSIVE: readonly BadConfig[] = [
  {
    name: "passive: wrong values",
    given: one({ passive: "{ failures: 0, ejectAtMost: 2, silence: 1ms, answer: true }" }),
    want: [
      "gw.yaml:7:26: services[0].passive.failures: expected a whole number from 1 to 1000, got 0",
      "gw.yaml:7:42: services[0].passive.ejectAtMost: expected a number from 0 to 1, got 2",
      'gw.yaml:7:54: services[0].passive.silence: expected a duration from 20ms to 1m, got "1ms"',
      'gw.yaml:7:59: services[0].passive.answer: expected a known key (the nearest is "answers"), got "answer"',
    ],
  },
  {
    name: "passive: a longest ejection below the first",
    given: one({ passive: "{ ejection: 60s, maximum: 30s }" }),
    want: [
      "gw.yaml:7:40: services[0].passive.maximum: expected at least passive.ejection (gw.yaml:7:26), got less",
    ],
  },
  {
    name: "passive: replies go past the gateway",
    given: one({ mode: "dsr", backends: "[{ address: 10.20.0.11 }]", passive: "{}" }),
    want: [
      "gw.yaml:9:14: services[0].passive: expected off for mode dsr (gw.yaml:7:11), whose replies do not come through the gateway",
    ],
  },
  {
    name: "passive: answers of a service without UDP",
    given: one({ passive: "{ answers: true }" }),
    want: [
      "gw.yaml:7:25: services[0].passive.answers: expected false for a service without protocol udp (gw.yaml:6:15), got true",
    ],
  },
  {
    name: "least-latency: UDP whose answers nobody knows",
    given: one({ protocol: "udp", scheduler: "ll" }),
    want: [
      "gw.yaml:7:16: services[0].scheduler: expected passive.answers: true for protocol udp (gw.yaml:6:15) with least-latency: only the service knows what a datagram back answers",
    ],
  },
  {
    name: "least-latency: replies go past the gateway",
    given: one({ mode: "dsr", backends: "[{ address: 10.20.0.11 }]", scheduler: "ll" }),
    want: [
      "gw.yaml:9:16: services[0].scheduler: expected a scheduler without latencies for mode dsr (gw.yaml:7:11), whose replies do not come through the gateway, got least-latency",
    ],
  },
];
