import assert from "node:assert/strict";
import { test } from "node:test";
import { parseAddress } from "../../../src/base/address.ts";
import { formatConfigProblem } from "../../../src/base/errors.ts";
import { checkHost, type HostFacts, hostProblems } from "../../../src/control/config/host-check.ts";
import { parseConfig } from "../../../src/control/config/load.ts";
import { planRegion } from "../../../src/state/layout.ts";

const PACKET = `device: { type: packet, interfaces: [eth0, eth1] }
flows: { capacity: 1000 }
limits: { services: 4, backends: 8, hashSlots: 66000 }
snat: { addresses: [10.20.0.100] }
services:
  - name: web
    vip: 203.0.113.10
    port: 80
    protocol: tcp
    noBackend: { action: sorry, address: 10.20.0.99 }
    backends:
      - { address: 10.20.0.11, port: 80 }
`;
const TUN = PACKET.replace("type: packet, interfaces: [eth0, eth1]", "type: tun");
const IPV6 = PACKET.replace("10.20.0.100", "'2001:db8:2::100'")
  .replace("203.0.113.10", "2001:db8:ff::10")
  .replace("10.20.0.99", "'2001:db8:2::99'")
  .replace("10.20.0.11", "'2001:db8:2::11'");
const BYTES = planRegion({
  flowCapacity: 1000,
  services: 4,
  backends: 8,
  hashSlots: 66_000,
  workers: 1,
  accessPrefixes: 131_072,
  sources: 65_536,
}).bytes;

function facts(changes: Partial<HostFacts> = {}): HostFacts {
  return {
    interfaces: [
      { name: "lo", isUp: true, mtu: 1500, addresses: [], hasIpv6: true },
      {
        name: "eth0",
        isUp: true,
        mtu: 1500,
        addresses: [parseAddress("198.51.100.1")!],
        hasIpv6: true,
      },
      {
        name: "eth1",
        isUp: true,
        mtu: 1500,
        addresses: [parseAddress("10.20.0.1")!],
        hasIpv6: true,
      },
    ],
    missingPrivilege: null,
    stateFile: { path: "/run/headgate/state", isTmpfs: true, freeBytes: BYTES, presentBytes: 0 },
    forwards: true,
    forwards6: true,
    ...changes,
  };
}

function owner(...addresses: string[]): Partial<HostFacts> {
  return {
    interfaces: [
      {
        name: "eth0",
        isUp: true,
        mtu: 1500,
        addresses: addresses.map((it) => parseAddress(it)!),
        hasIpv6: true,
      },
      { name: "eth1", isUp: true, mtu: 1500, addresses: [], hasIpv6: true },
    ],
  };
}

function state(changes: Partial<NonNullable<HostFacts["stateFile"]>>): Partial<HostFacts> {
  return { stateFile: { ...facts().stateFile!, ...changes } };
}

const CASES: readonly {
  readonly name: string;
  readonly given: string;
  readonly host: Partial<HostFacts>;
  readonly want: readonly string[];
}[] = [
  { name: "packet on a host that has everything", given: PACKET, host: {}, want: [] },
  { name: "tun on a host that has everything", given: TUN, host: {}, want: [] },
  { name: "packet needs no ip_forward", given: PACKET, host: { forwards: false }, want: [] },
  {
    name: "tun needs ip_forward",
    given: TUN,
    host: { forwards: false },
    want: [
      "gw.yaml:1:9: device.routes: expected net.ipv4.ip_forward 1 for tun with routes: auto, got 0: run `sysctl -w net.ipv4.ip_forward=1`",
    ],
  },
  {
    name: "packet with IPv6 needs it on its interfaces, and no forwarding",
    given: IPV6,
    host: {
      forwards6: false,
      ...state({ freeBytes: 2 * BYTES }),
      interfaces: [
        { name: "eth0", isUp: true, mtu: 1500, addresses: [], hasIpv6: true },
        { name: "eth1", isUp: true, mtu: 1500, addresses: [], hasIpv6: false },
      ],
    },
    want: [
      'gw.yaml:1:44: device.interfaces[1]: expected an interface with IPv6 for the IPv6 addresses, got "eth1" without: the kernel cannot find neighbours on it; run `sysctl -w net.ipv6.conf.eth1.disable_ipv6=0` (its MTU has to be at least 1280)',
    ],
  },
  {
    name: "tun with IPv6 needs forwarding of IPv6",
    given: IPV6.replace("type: packet, interfaces: [eth0, eth1]", "type: tun"),
    host: { forwards6: false, ...state({ freeBytes: 2 * BYTES }) },
    want: [
      "gw.yaml:1:9: device.routes: expected net.ipv6.conf.all.forwarding 1 for tun with routes: auto and IPv6 addresses, got 0: run `sysctl -w net.ipv6.conf.all.forwarding=1`",
    ],
  },
  {
    name: "without an IPv6 address neither matters",
    given: TUN,
    host: { forwards6: false },
    want: [],
  },
  {
    name: "IPv6 addresses that the host has",
    given: IPV6.replace("type: packet, interfaces: [eth0, eth1]", "type: tun"),
    host: {
      ...owner("2001:db8:ff::10", "2001:db8:2::100", "2001:db8:2::11"),
      ...state({ freeBytes: 2 * BYTES }),
    },
    want: [
      "gw.yaml:4:20: snat.addresses: expected a SNAT address that is no address of this host, got 2001:db8:2::100, which eth0 has",
      "gw.yaml:7:10: services[0].vip: expected a VIP (device type tun) that is no address of this host, got 2001:db8:ff::10, which eth0 has",
      "gw.yaml:12:20: services[0].backends[0].address: expected a backend that is no address of this host, got 2001:db8:2::11, which eth0 has",
    ],
  },
  {
    name: "tun with routes of your own does not",
    given: TUN.replace("tun", "tun, routes: none"),
    host: { forwards: false },
    want: [],
  },
  {
    name: "an interface that is not there, and one that is down",
    given: PACKET,
    host: { interfaces: [{ name: "eth1", isUp: false, mtu: 1500, addresses: [], hasIpv6: true }] },
    want: [
      'gw.yaml:1:38: device.interfaces[0]: expected an interface of this host (eth1), got "eth0"',
      'gw.yaml:1:44: device.interfaces[1]: expected an interface that is up, got "eth1", which is down or has no carrier',
    ],
  },
  {
    name: "an MTU that type xdp cannot have",
    given: PACKET.replace("type: packet", "type: xdp"),
    host: {
      interfaces: [
        { name: "eth0", isUp: true, mtu: 3824, addresses: [], hasIpv6: true },
        { name: "eth1", isUp: true, mtu: 9000, addresses: [], hasIpv6: true },
      ],
    },
    want: [
      "gw.yaml:1:41: device.interfaces[1]: expected an MTU of at most 3824 for type xdp, got 9000: run `ip link set dev eth1 mtu 1500`",
    ],
  },
  {
    name: "no privilege",
    given: PACKET,
    host: { missingPrivilege: "root or CAP_NET_RAW is needed" },
    want: ["gw.yaml:1:17: device.type: root or CAP_NET_RAW is needed"],
  },
  {
    name: "a byte too little room",
    given: PACKET,
    host: state({ freeBytes: BYTES - 1 }),
    want: [
      `gw.yaml:2:20: flows.capacity: expected room for the state of ${BYTES} bytes at /run/headgate/state, got ${BYTES - 1} bytes free`,
    ],
  },
  {
    name: "no room, but a file of this size is there already",
    given: PACKET,
    host: state({ freeBytes: 0, presentBytes: BYTES }),
    want: [],
  },
  {
    name: "a file of another size needs room beside it",
    given: PACKET,
    host: state({ freeBytes: 0, presentBytes: 4096 }),
    want: [
      `gw.yaml:2:20: flows.capacity: expected room for the state of ${BYTES} bytes at /run/headgate/state, got 0 bytes free`,
    ],
  },
  {
    name: "a state file on a disk",
    given: PACKET.replace("1000 }", "1000, stateFile: /var/s }"),
    host: state({ path: "/var/s", isTmpfs: false }),
    want: [
      "gw.yaml:2:37: flows.stateFile: expected a file on tmpfs, got /var/s, which is on another file system",
    ],
  },
  {
    name: "SNAT, sorry server and backend that the host has",
    given: PACKET,
    host: owner("10.20.0.100", "10.20.0.99", "10.20.0.11"),
    want: [
      "gw.yaml:4:20: snat.addresses: expected a SNAT address that is no address of this host, got 10.20.0.100, which eth0 has",
      "gw.yaml:10:42: services[0].noBackend.address: expected a sorry server that is no address of this host, got 10.20.0.99, which eth0 has",
      "gw.yaml:12:20: services[0].backends[0].address: expected a backend that is no address of this host, got 10.20.0.11, which eth0 has",
    ],
  },
  { name: "a VIP of the host, on packet", given: PACKET, host: owner("203.0.113.10"), want: [] },
  {
    name: "a VIP of the host, on tun",
    given: TUN,
    host: owner("203.0.113.10"),
    want: [
      "gw.yaml:7:10: services[0].vip: expected a VIP (device type tun) that is no address of this host, got 203.0.113.10, which eth0 has",
    ],
  },
];

for (const { name, given, host, want } of CASES) {
  test(`check --host: ${name}`, () => {
    const problems = hostProblems(parseConfig(given, "gw.yaml"), facts(host));
    assert.deepEqual(problems.map(formatConfigProblem), want);
  });
}

test("checkHost asks this host: an interface that cannot be there is found missing", async () => {
  const given = PACKET.replace("eth1", "no-such-if0");
  const problems = await checkHost(parseConfig(given, "gw.yaml"));
  const missing = problems.find((it) => it.path === "device.interfaces[1]");
  assert.match(
    missing?.message ?? "",
    /^expected an interface of this host \(.*lo.*\), got "no-such-if0"$/,
  );
});

test("checks through the data path: a VIP of the host's, and sources that it has", () => {
  const text = PACKET.replace("\nservices:", "\nprobe: {}\nservices:").replace(
    "    backends:",
    "    health: { through: path }\n    backends:",
  );
  const found = hostProblems(
    parseConfig(text, "gw.yaml"),
    facts(owner("203.0.113.10", "198.18.3.4")),
  );
  assert.deepEqual(found.map(formatConfigProblem), [
    "gw.yaml:5:8: probe.ipv4: expected a range without addresses of this host, got one that has 198.18.3.4",
    "gw.yaml:8:10: services[0].vip: expected a VIP that is checked through the data path (health.through) that is no address of this host, got 203.0.113.10, which eth0 has",
  ]);
  assert.deepEqual(hostProblems(parseConfig(text, "gw.yaml"), facts()), []);
});
