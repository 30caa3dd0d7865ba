import fc from "fast-check";

/** Random configurations that are valid, as text. */

export const VIPS = ["203.0.113.1", "203.0.113.2", "198.18.0.9", "10.1.2.3"] as const;
export const BACKENDS = ["10.20.0.1", "10.20.0.2", "10.20.0.3", "200.1.1.1"] as const;
export const SORRY = "10.20.0.50";
export const SNAT = ["10.20.0.100", "10.20.0.101"] as const;
const SCHEDULERS = [
  "rr",
  "wrr",
  "lc",
  "wlc",
  "sh",
  "maglev",
  "sed",
  "nq",
  "hrw",
  "twos",
  "random",
  "fo",
  "ovf",
] as const;
/** Few, and near the edges, so that they meet. */
const PORTS = [1, 2, 79, 80, 81, 443, 8000, 8001, 8002, 32_767, 32_768, 65_534, 65_535] as const;

interface Range {
  readonly low: number;
  readonly high: number;
}

function precision({ low, high }: Range): string {
  if (low === high) return "exact";
  return low === 1 && high === 65_535 ? "any" : "range";
}

function meet(a: Range, b: Range): boolean {
  return a.low <= b.high && b.low <= a.high;
}

const port = fc.constantFrom(...PORTS);
const range: fc.Arbitrary<Range> = fc.oneof(
  { weight: 4, arbitrary: port.map((one) => ({ low: one, high: one })) },
  {
    weight: 4,
    arbitrary: fc
      .tuple(port, port)
      .map(([a, b]) => ({ low: Math.min(a, b), high: Math.max(a, b) })),
  },
  { weight: 1, arbitrary: fc.constant({ low: 1, high: 65_535 }) },
);

const service = fc.record({
  vips: fc.subarray([...VIPS], { minLength: 1, maxLength: 2 }),
  protocols: fc.subarray(["tcp", "udp"], { minLength: 1 }),
  ports: fc.array(range, { minLength: 1, maxLength: 4 }),
  mode: fc.constantFrom("nat", "full-nat"),
  scheduler: fc.constantFrom(...SCHEDULERS),
  ping: fc.constantFrom("always", "healthy", "never"),
  noBackend: fc.constantFrom("reset", "drop", "panic", "sorry"),
  health: fc.boolean(),
  backends: fc.uniqueArray(
    fc.record({
      address: fc.constantFrom(...BACKENDS),
      port: fc.constantFrom(0, 80, 8080, 65_535),
      weight: fc.constantFrom(0, 1, 1, 2, 3, 7, 100, 65_535),
    }),
    { selector: (one) => `${one.address}:${one.port}`, maxLength: 5 },
  ),
});

/** Up to eight services; an entry of `port` that the file could not have is left out. */
export const randomConfig: fc.Arbitrary<string> = fc
  .record({
    services: fc.array(service, { maxLength: 8 }),
    seed: fc.constantFrom("", "blue", "green"),
  })
  .map(({ services, seed }) => {
    const claims: (Range & { readonly target: string })[] = [];
    const texts = services.flatMap((one, index) => {
      const targets = one.vips.flatMap((vip) => one.protocols.map((name) => `${vip} ${name}`));
      const own: Range[] = [];
      for (const ports of one.ports) {
        const isTaken = claims.some(
          (claim) =>
            targets.includes(claim.target) &&
            precision(claim) === precision(ports) &&
            meet(claim, ports),
        );
        if (isTaken || own.some((other) => meet(other, ports))) continue;
        own.push(ports);
      }
      if (own.length === 0) return [];
      for (const target of targets) claims.push(...own.map((ports) => ({ ...ports, target })));
      const lines = [
        `  - name: s${index}`,
        `    vip: [${one.vips.join(", ")}]`,
        `    port: [${own.map(portText).join(", ")}]`,
        `    protocol: [${one.protocols.join(", ")}]`,
        `    mode: ${one.mode}`,
        `    scheduler: ${one.scheduler}`,
        "    tableSize: 251",
        `    ping: ${one.ping}`,
        one.noBackend === "sorry"
          ? `    noBackend: { action: sorry, address: ${SORRY}, port: 81 }`
          : `    noBackend: { action: ${one.noBackend} }`,
        one.health ? "    health: { type: tcp, port: 7 }" : "    health: none",
        `    backends: [${one.backends.map(backendText).join(", ")}]`,
      ];
      return lines;
    });
    return [
      "device: { type: packet, interfaces: [eth0] }",
      `hash: { seed: "${seed}" }`,
      `snat: { addresses: [${SNAT.join(", ")}], ports: 2000-2999 }`,
      texts.length === 0 ? "services: []" : "services:",
      ...texts,
      "",
    ].join("\n");
  });

function portText(ports: Range): string {
  const kind = precision(ports);
  if (kind === "any") return "any";
  return kind === "exact" ? String(ports.low) : `"${ports.low}-${ports.high}"`;
}

function backendText(one: { address: string; port: number; weight: number }): string {
  const port = one.port === 0 ? "" : `port: ${one.port}, `;
  return `{ address: ${one.address}, ${port}weight: ${one.weight} }`;
}
