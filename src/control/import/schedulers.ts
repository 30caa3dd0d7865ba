/** LVS's schedulers by our names; the others choose by the packet's destination, and mean nothing here. */
export const LVS_SCHEDULERS: Readonly<Record<string, string>> = {
  rr: "round-robin",
  wrr: "weighted-round-robin",
  lc: "least-connections",
  wlc: "weighted-least-connections",
  sh: "source-hash",
  mh: "maglev",
  sed: "shortest-expected-delay",
  nq: "never-queue",
  fo: "failover",
  ovf: "overflow",
  twos: "power-of-two",
};
