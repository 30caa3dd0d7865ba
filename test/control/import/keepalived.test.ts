import assert from "node:assert/strict";
import { test } from "node:test";
import { importKeepalived } from "../../../src/control/import/keepalived.ts";
import { keepalivedTree } from "../../../src/control/import/keepalived-lines.ts";
import { assertNotes, imported } from "./support.ts";

// The virtual servers of keepalived.conf (keepalived 2.2), as a configuration.

const FILE = `! Configuration File for keepalived
global_defs {
   router_id LVS_MAIN
}
vrrp_instance VI_1 {
    state MASTER
    virtual_ipaddress {
        203.0.113.10
    }
}
virtual_server_group names {
    203.0.113.20-22 53
    2001:db8:ff::20 53   # and the other family
    fwmark 7
}
virtual_server 203.0.113.10 80 {
    delay_loop 6
    lb_algo wlc
    lb_kind NAT
    persistence_timeout 50
    persistence_granularity 255.255.255.0
    protocol TCP
    quorum 2
    sorry_server 10.20.0.99 8080

    real_server 10.20.0.11 8080 {
        weight 3
        inhibit_on_failure
        HTTP_GET {
            url {
              path /health
              status_code 200
            }
            connect_timeout 3
            retry 3
            delay_before_retry 2
        }
    }
    real_server 10.20.0.12 8080 {
        weight 1
        HTTP_GET
        {
            url { path /health
              status_code 200
            }
            connect_timeout 3
            retry 3
            delay_before_retry 2
        }
    }
    real_server 10.20.0.13 8080 {
        TCP_CHECK {
            connect_timeout 3
        }
    }
}
virtual_server group names {
    lb_algo rr
    lb_kind DR
    ops
    protocol UDP
    real_server 10.20.0.21 53 {
        notify_down "/bin/true"
    }
}
`;

test("virtual servers, groups and checks", () => {
  const { services, notes } = imported(importKeepalived, FILE);
  const dns = { mode: "dsr", scheduler: "round-robin", udp: { perPacket: true } };
  assert.deepEqual(services, [
    {
      name: "tcp-203.0.113.10-80",
      vip: "203.0.113.10",
      port: 80,
      protocol: "tcp",
      mode: "nat",
      scheduler: "weighted-least-connections",
      affinity: { timeout: "50s", prefix: { ipv4: 24 } },
      noBackend: { action: "sorry", address: "10.20.0.99", port: 8080 },
      health: {
        ...{ type: "http", path: "/health", status: 200, interval: "6s", rise: 1, fall: 4 },
        ...{ fastInterval: "2s", timeout: "2s" },
      },
      backends: [
        { address: "10.20.0.11", port: 8080, weight: 3 },
        { address: "10.20.0.12", port: 8080, weight: 1 },
        { address: "10.20.0.13", port: 8080, weight: 1 },
      ],
    },
    {
      name: "udp-203.0.113.20-53",
      vip: ["203.0.113.20", "203.0.113.21", "203.0.113.22"],
      port: 53,
      protocol: "udp",
      ...dns,
      backends: [{ address: "10.20.0.21", weight: 1 }],
    },
  ]);
  assertNotes(notes, [
    /^2: "global_defs" \(lines 2-3\) is left out: /,
    /^5: "vrrp_instance VI_1" \(lines 5-8\) is left out: keepalived goes on with VRRP/,
    /^13: VIP 2001:db8:ff::20 of service udp-2001-db8-ff-20-53 is left out: mode dsr does not translate/,
    /^14: fwmark: /,
    /^23: "quorum": minimumHealthy /,
    /^51: real server "10\.20\.0\.13 8080" is checked as the first one: health is a service's$/,
    /^62: backend 10\.20\.0\.21 goes with service udp-2001-db8-ff-20-53, which is left out$/,
    /^63: "notify_down": a backend has nothing like it$/,
  ]);
});

test("keepalived's own times, where the file says none", () => {
  const text = `virtual_server 203.0.113.10 443 {
  lb_kind TUN
  real_server 10.20.0.11 443 { TCP_CHECK { connect_port 8443 } }
}
virtual_server 203.0.113.11 443 { protocol TCP
  real_server nowhere 443 { weight 1 }
}
virtual_server fwmark 3 { lb_kind NAT }
`;
  const { services, notes } = imported(importKeepalived, text, { tunnelSources: ["10.20.0.1"] });
  assert.deepEqual(services[0]?.["health"], {
    ...{ type: "tcp", port: 8443, interval: "1m", rise: 1, fall: 2 },
    ...{ fastInterval: "1s", timeout: "1s" },
  });
  assert.deepEqual([services[0]?.["mode"], services[1]?.["backends"]], ["ipip", []]);
  assertNotes(notes, [
    /^6: expected an address and a port, got "nowhere"$/,
    /^8: fwmark: a service here has addresses and ports, not a mark$/,
    /^8: "virtual_server fwmark 3" is left out: it has no address/,
  ]);
});

test("hash schedulers with and without the port", () => {
  const rows = [
    ["sh", "", "source-hash"],
    ["sh", "sh-port", "maglev"],
    ["mh", "mh-port", "maglev"],
    ["mh", "", "source-hash"],
    ["mh", "persistence_timeout 60", "maglev"],
    ["dh", "", undefined],
  ] as const;
  const text = rows.map(
    ([name, more], index) =>
      `virtual_server 203.0.113.${10 + index} 80 {\n lb_algo ${name}\n ${more}\n}\n`,
  );
  const { services, notes } = imported(importKeepalived, text.join(""));
  assert.deepEqual(
    services.map(({ scheduler }) => scheduler),
    rows.map(([, , wanted]) => wanted),
  );
  assertNotes(notes, [/^14: mh without mh-port hashes/, /^22: scheduler "dh": it chooses by dest/]);
});

test("braces that do not match are named", () => {
  const found: string[] = [];
  const tree = keepalivedTree("a b {\n  c\n} }\nd {\n", (line, why) =>
    found.push(`${line} ${why}`),
  );
  assert.deepEqual(found, ["3 a brace closes nothing", "4 a brace is left open"]);
  assert.deepEqual(
    tree.map(({ words, children }) => [words, children.length]),
    [
      [["a", "b"], 1],
      [["d"], 0],
    ],
  );
});
