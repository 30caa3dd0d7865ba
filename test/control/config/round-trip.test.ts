import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { stringify } from "yaml";
import { ConfigError } from "../../../src/base/errors.ts";
import { formatDuration, parseDuration } from "../../../src/control/config/duration.ts";
import { effectiveConfig, parseConfig } from "../../../src/control/config/load.ts";

// Goal: what `config show` prints means what the file meant.
// Method: random right configurations; parse, print, parse again, compare.

const durationText = (lowMs: number, highMs: number) =>
  fc.integer({ min: lowMs, max: highMs }).map(formatDuration);
const timeout = durationText(10, 168 * 3_600_000);

/** Random subsets of keys: what is left out has to come back as its default. */
function some<T extends Record<string, fc.Arbitrary<unknown>>>(keys: T) {
  return fc.record(keys, { requiredKeys: [] });
}

const ports = fc.oneof(
  fc.integer({ min: 1, max: 65_535 }),
  fc.constant("any"),
  fc
    .tuple(fc.integer({ min: 1, max: 65_535 }), fc.integer({ min: 1, max: 65_535 }))
    .map(([a, b]) => `${Math.min(a, b)}-${Math.max(a, b)}`),
  fc.uniqueArray(fc.integer({ min: 1, max: 65_535 }), { minLength: 1, maxLength: 5 }),
);

const health = fc.oneof(
  fc.constant("none"),
  some({
    type: fc.constant("tcp"),
    interval: durationText(1000, 3_600_000),
    timeout: durationText(10, 1000),
    rise: fc.integer({ min: 1, max: 100 }),
    fall: fc.integer({ min: 1, max: 100 }),
    spread: fc.integer({ min: 0, max: 100 }).map((percent) => percent / 100),
    source: fc.constant("10.20.0.1"),
  }),
  fc.record(
    {
      type: fc.constant("http"),
      path: fc.constantFrom("/", "/health", "/a?b=c"),
      host: fc.constantFrom("example.net", "localhost:80"),
      status: fc.constantFrom(200, "200-299", [200, "301-302"]),
    },
    { requiredKeys: ["type"] },
  ),
);

const rule = fc.constantFrom("keep", "drain", "reset");
const backendList = fc
  .uniqueArray(fc.integer({ min: 1, max: 250 }), { maxLength: 6 })
  .chain((hosts) =>
    fc.tuple(
      ...hosts.map((host) =>
        fc.record(
          {
            address: fc.constant(`10.20.1.${host}`),
            port: fc.integer({ min: 1, max: 65_535 }),
            weight: fc.integer({ min: 0, max: 65_535 }),
          },
          { requiredKeys: ["address", "port"] },
        ),
      ),
    ),
  );

const serviceKeys = {
  mode: fc.constantFrom("nat", "full-nat"),
  scheduler: fc.constantFrom(
    ...["rr", "wrr", "lc", "wlc", "sh", "mh", "maglev", "source-hash"],
    ...["sed", "nq", "hrw", "twos", "random", "fo", "ovf"],
  ),
  tableSize: fc.constantFrom(251, 65_537, 655_373),
  affinity: fc.oneof(
    fc.constant("off"),
    some({
      key: fc.constant("client-address"),
      prefix: some({
        ipv4: fc.integer({ min: 1, max: 32 }),
        ipv6: fc.integer({ min: 1, max: 128 }),
      }),
      timeout,
    }),
    // Services of one group agree about all else.
    fc.record({ group: fc.constantFrom("shop", "a/b") }),
  ),
  timeouts: some({
    tcp: some({ synSent: timeout, established: timeout, close: timeout }),
    udp: some({ oneWay: timeout, replied: timeout }),
  }),
  outOfState: fc.constantFrom("reset", "drop"),
  onIdle: fc.constantFrom("reset", "silent"),
  existingFlows: some({
    drained: rule,
    removed: rule,
    down: rule,
    disabled: rule,
    deadline: durationText(0, 168 * 3_600_000),
  }),
  noBackend: fc.oneof(
    fc.record({ action: fc.constantFrom("reset", "drop", "panic") }),
    fc.constant({ action: "sorry", address: "10.20.2.1", port: 81 }),
    fc.constant({ action: "sorry", address: "10.20.2.1" }),
  ),
  ping: fc.constantFrom("always", "healthy", "never"),
  health,
};

const services = fc
  .array(
    fc.record(
      {
        port: ports,
        protocol: fc.constantFrom("tcp", "udp", ["tcp", "udp"], ["udp", "tcp"]),
        backends: backendList,
        ...serviceKeys,
      },
      { requiredKeys: ["port", "protocol", "backends"] },
    ),
    { maxLength: 5 },
  )
  .map((list) =>
    list.map((keys, index) => ({ name: `s/${index}`, vip: `203.0.113.${index + 1}`, ...keys })),
  );

const configuration = fc.record(
  {
    device: fc.oneof(
      fc.record({
        type: fc.constant("packet"),
        interfaces: fc.constantFrom(["eth0"], ["eth0", "eth1"]),
        guard: fc.constantFrom("process", "persistent"),
        announce: fc.boolean(),
        replies: fc.constantFrom("last-hop", "route"),
      }),
      fc.record({
        type: fc.constant("xdp"),
        interfaces: fc.constantFrom(["eth0"], ["eth0", "eth1"]),
        spin: fc.integer({ min: 0, max: 10_000 }),
        cpus: fc.constantFrom([], [0]),
        xdp: some({
          mode: fc.constantFrom("auto", "native", "generic"),
          zeroCopy: fc.constantFrom("auto", "off", "require"),
          busyPoll: fc.integer({ min: 0, max: 10_000 }),
        }),
      }),
      fc.record(
        { type: fc.constant("tun"), name: fc.constant("hg7"), routes: fc.constant("none") },
        { requiredKeys: ["type"] },
      ),
    ),
    log: some({ level: fc.constantFrom("trace", "debug", "warn", "error") }),
    flows: some({
      capacity: fc.integer({ min: 1, max: 1 << 24 }),
      stateFile: fc.constant("/dev/shm/x/state"),
      whenFull: fc.constantFrom("evict", "drop"),
      statelessAbove: fc.oneof(fc.constant("off"), fc.integer({ min: 16, max: 10_000_000 })),
    }),
    hash: some({ seed: fc.string({ maxLength: 20 }).filter((seed) => !seed.includes("\0")) }),
    shutdown: some({ mode: fc.constantFrom("keep", "drain"), timeout: durationText(0, 1e8) }),
    admin: some({
      socket: fc.constant("/tmp/admin.sock"),
      http: fc.constantFrom("off", "127.0.0.1:9105", "[::1]:9105"),
      tokenFile: fc.constant("/etc/headgate/token"),
    }),
    snat: fc.record(
      {
        addresses: fc.constantFrom(
          ["10.20.0.100-10.20.0.103"],
          ["10.20.0.100", "10.20.0.102-10.20.0.103", "10.20.0.101"],
        ),
        ports: fc.constantFrom("1024-65535", "2000", 5),
      },
      { requiredKeys: ["addresses"] },
    ),
    timeouts: some({ udp: some({ oneWay: timeout }) }),
    defaults: some(serviceKeys),
    services,
  },
  { requiredKeys: ["device", "snat"] },
);

test("effectiveConfig parses to the same definition, from YAML and from JSON", () => {
  let accepted = 0;
  fc.assert(
    fc.property(configuration, (plain) => {
      let first: ReturnType<typeof parseConfig>;
      try {
        first = parseConfig(stringify(plain), "gw.yaml");
      } catch (error) {
        // Parts that are right alone may not fit together (a sorry server for http checks, say).
        if (error instanceof ConfigError) return;
        throw error;
      }
      accepted += 1;
      const effective = effectiveConfig(first);
      assert.deepEqual(parseConfig(stringify(effective), "gw.yaml"), first);
      assert.deepEqual(parseConfig(JSON.stringify(effective), "gw.yaml"), first);
      assert.deepEqual(effectiveConfig(first), effective);
    }),
    { numRuns: 300 },
  );
  assert.ok(accepted >= 200, `${accepted} of 300 were right`);
});

test("durations: what is printed parses to the same", () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 2 ** 40 }), (durationMs) => {
      assert.equal(parseDuration(formatDuration(durationMs)), durationMs);
    }),
  );
});

const DURATIONS: readonly (readonly [string, number | null])[] = [
  ["500ms", 500],
  ["2s", 2000],
  ["5m", 300_000],
  ["2h4m", 7_440_000],
  ["1h1m1s1ms", 3_661_001],
  ["0s", 0],
  ["90s", 90_000],
  ["", null],
  ["5", null],
  ["ms", null],
  ["5 s", null],
  ["-5s", null],
  ["5S", null],
  ["1.5s", null],
  ["4m2h", null],
  ["5s5s", null],
  ["1d", null],
  ["9999999999s", null],
];
for (const [text, want] of DURATIONS) {
  test(`duration ${JSON.stringify(text)} is ${want} ms`, () => {
    assert.equal(parseDuration(text), want);
  });
}
