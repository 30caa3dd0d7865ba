import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import {
  createLab,
  gatewayProgram,
  LAB_CLIENT,
  LAB_CLIENT6,
  LAB_VIP,
  LAB_VIP6,
  type Lab,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import type { RunningProcess } from "../support/processes.ts";
import { waitFor } from "../support/wait.ts";

/**
 * `headgate decap` on a backend: tunnels made by scapy in the gateway's place, real sockets at the VIPs
 * and at the client, and the kernel's counters as observers.
 */

/** Echoes each datagram with the TOS or traffic class that it came with. */
const ECHO = `
import select, socket, struct, sys
def open(family, level, option):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.setsockopt(level, option, 1)
    return s
four = open(socket.AF_INET, socket.IPPROTO_IP, socket.IP_RECVTOS)
six = open(socket.AF_INET6, socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS)
four.bind(("${LAB_VIP}", 7000))
six.bind(("${LAB_VIP6}", 7000))
print("ready", flush=True)
while True:
    for s in select.select([four, six], [], [])[0]:
        data, control, _, peer = s.recvmsg(65535, 64)
        tos = control[0][2][0] if control else 0
        s.sendto(data + b" tos=%d" % tos, peer)
`;

/** Prints what comes back: payload (at most 60 bytes), length, and from where. */
const CLIENT = `
import select, socket
sockets = []
for family, address in ((socket.AF_INET, "${LAB_CLIENT}"), (socket.AF_INET6, "${LAB_CLIENT6}")):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.bind((address, 4000))
    sockets.append(s)
print("ready", flush=True)
while True:
    for s in select.select(sockets, [], [])[0]:
        data, peer = s.recvfrom(65535)
        text = data.decode("latin1")
        print("got %s | %d %s:%d" % (text[:20] + text[max(20, len(text) - 40):], len(data), peer[0], peer[1]), flush=True)
`;

const SEND = `
import socket
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw
raw4 = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
raw6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
def send(packets):
    for packet in packets if isinstance(packets, list) else [packets]:
        (raw6 if IPv6 == type(packet) else raw4).sendto(bytes(packet), (packet.dst, 0))
B4, B6, G4, G6 = "10.20.0.11", "2001:db8:2::11", "10.20.0.1", "2001:db8:2::1"
def inner4(text, **more):
    return IP(src="${LAB_CLIENT}", dst="${LAB_VIP}", **more)/UDP(sport=4000, dport=7000)/Raw(text)
def inner6(text, **more):
    return IPv6(src="${LAB_CLIENT6}", dst="${LAB_VIP6}", **more)/UDP(sport=4000, dport=7000)/Raw(text)
def over4(payload, proto, **more):
    return IP(src=more.pop("src", G4), dst=B4, proto=proto, **more)/Raw(bytes(payload))
def over6(payload, nh, **more):
    return IPv6(src=more.pop("src", G6), dst=B6, nh=nh, **more)/Raw(bytes(payload))
def gue4(payload, **more):
    return IP(src=more.pop("src", G4), dst=B4, **more)/UDP(sport=50000, dport=6080)/Raw(bytes(payload))
def gue6(payload, **more):
    return IPv6(src=G6, dst=B6, **more)/UDP(sport=50000, dport=6080)/Raw(bytes(payload))
`;

const WAYS = `
send([
    over4(inner4("4in4"), 4), over4(inner6("6in4"), 41), over6(inner4("4in6"), 4), over6(inner6("6in6"), 41),
    gue4(inner4("gue1-44")), gue4(inner6("gue1-64")), gue6(inner4("gue1-46")), gue6(inner6("gue1-66")),
    gue4(b"\\0\\x04\\0\\0" + bytes(inner4("gue0-44"))), gue4(b"\\0\\x29\\0\\0" + bytes(inner6("gue0-64"))),
    gue6(b"\\0\\x04\\0\\0" + bytes(inner4("gue0-46"))), gue6(b"\\x01\\x29\\0\\0abcd" + bytes(inner6("gue0-66"))),
])
# Outer fragments, in the wrong order; inner fragments; a datagram of 60,000 bytes in tunnels of fragments.
send(list(reversed(fragment(over4(inner4("outer-fragments" + "x" * 3000), 4, id=77), 1000))))
send([gue4(each) for each in fragment(inner4("inner-fragments" + "x" * 3000, id=78), 1000)])
send(fragment(over4(inner4("big" + "x" * 60000), 4, id=79), 1400))
# A partial checksum, as segmentation offload leaves it, and a wrong one.
def with_checksum(text, right):
    packet = IP(bytes(inner4(text)))
    pseudo = bytes(packet)[12:20] + bytes([0, 17]) + packet.len.__sub__(20).to_bytes(2, "big")
    total = sum(int.from_bytes(pseudo[i:i + 2], "big") for i in range(0, len(pseudo), 2))
    while total > 0xffff: total = (total & 0xffff) + (total >> 16)
    packet[UDP].chksum = total if right else (total ^ 0x1234)
    return packet
send([over4(with_checksum("partial", True), 4), gue4(with_checksum("wrong", False))])
for inner in range(4):
    for outer in range(4):
        send([over4(inner4("ecn4 %d %d" % (inner, outer), tos=0xb8 | inner), 4, tos=outer),
              gue6(inner6("ecn6 %d %d" % (inner, outer), tc=0xb8 | inner), tc=outer)])
send(gue4(inner4("the end")))
`;

const BROKEN = `
good4, good6 = bytes(inner4("x")), bytes(inner6("x"))
def put(bytes_, at, value):
    changed = bytearray(bytes_); changed[at] = value
    return bytes(changed)
def summed(bytes_):
    packet = IP(bytes_); del packet.chksum
    return bytes(packet)
send([
    over4(good4, 4, src="10.20.0.77"), gue4(good4, src="10.20.0.77"),                    # source_not_accepted
    gue4(b"\\0\\4\\0"),                                                                  # gue_short
    gue4(b"\\x80\\4\\0\\0" + good4), gue4(b"\\xc0\\4\\0\\0" + good4),                      # gue_variant
    gue4(b"\\x20\\0\\0\\0"), gue4(b"\\0\\4\\x80\\0" + good4), gue4(b"\\0\\x2f\\0\\0" + good4),
    over4(b"", 4), over4(good4[:19], 4), over6(good6[:39], 41),                          # inner_short
    over4(put(good4, 0, 0x55), 4), over4(good4, 41), over6(good6, 4),                    # inner_version
    over4(put(good4, 0, 0x44), 4),                                                       # inner_header
    over4(put(good4, 3, 200), 4), over6(put(good6, 5, 200), 41),                         # inner_length
    over4(put(good4, 10, good4[10] ^ 1), 4),                                             # inner_checksum
    gue4(summed(put(good4, 19, 99))), gue6(put(good6, 39, 99)),                          # inner_destination
    over4(summed(put(good4, 12, 127)), 4),                                               # inner_source
    over4(good4, 4, tos=3),                                                              # ecn
])
send(gue4(inner4("the end")))
`;

const ARP_ASK = `
import socket, struct
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
wire.bind(("gw-backend", 0x0806))
mac = wire.getsockname()[4]
def ask(target):
    wire.send(b"\\xff" * 6 + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1) + mac
              + socket.inet_aton("10.20.0.1") + b"\\0" * 6 + socket.inet_aton(target))
ask("${LAB_VIP}")
ask("10.20.0.11")
wire.settimeout(5)
while True:  # the second question has an answer: by then the first would have had one too
    frame = wire.recv(100)
    if frame[20:22] != b"\\0\\2": continue
    print("arp answer for", socket.inet_ntoa(frame[28:32]))
    if frame[28:32] == socket.inet_aton("10.20.0.11"): break
`;

const RFC6040: Readonly<Record<string, number>> = {
  "0 0": 0, "0 1": 0, "0 2": 0,
  "1 0": 1, "1 1": 1, "1 2": 1, "1 3": 3,
  "2 0": 2, "2 1": 1, "2 2": 2, "2 3": 3,
  "3 0": 3, "3 1": 3, "3 2": 3, "3 3": 3,
}; // biome-ignore format: a table

async function startDecap(lab: Lab): Promise<RunningProcess> {
  const file = path.join(lab.directory, "decap.yaml");
  writeFileSync(
    file,
    `version: 1
decap:
  vip: ["${LAB_VIP}", "${LAB_VIP6}"]
  accept: [10.20.0.1/32, "2001:db8:2::1/128"]
`,
  );
  const child = lab.spawn("b1", [process.execPath, gatewayProgram(), "decap", "-c", file]);
  await child.waitLine(/"event":"started"/);
  return child;
}

async function countersOf(child: RunningProcess): Promise<Record<string, number>> {
  const before = child.lines.length;
  child.kill("SIGUSR1");
  const line = await waitFor("the counters", () =>
    child.lines.slice(before).find((each) => each.includes('"event":"counters"')),
  );
  const { time: _, level: __, event: ___, ...counters } = JSON.parse(line);
  return counters;
}

test("tunnels end in the backend's kernel", { skip: SKIP_UNLESS_ROOT }, async (t) => {
  const lab = createLab({ device: "packet", forward: true });
  t.after(() => lab.stop());
  const arpIgnore = (): string =>
    lab.execSync("b1", ["sysctl", "-n", "net.ipv4.conf.all.arp_ignore"]).trim();
  assert.equal(arpIgnore(), "0");
  const decap = await startDecap(lab);
  const echo = lab.spawn("b1", ["/usr/bin/python3", "-c", ECHO]);
  const client = lab.spawn("client", ["/usr/bin/python3", "-c", CLIENT]);
  await Promise.all([echo.waitLine(/ready/), client.waitLine(/ready/)]);
  const before = lab.counters("b1");

  await t.test("every tunnel, fragments, checksums and ECN", async () => {
    await lab.exec("gateway", ["/usr/bin/python3", "-c", SEND + WAYS]);
    await client.waitLine(/got the end/);
    const got = client.lines.filter((line) => line.startsWith("got "));
    const one = (text: string): string => {
      const found = got.filter((line) => line.startsWith(`got ${text}`));
      assert.equal(found.length, 1, `${text}: ${found.join("; ")}\n${decap.lines.join("\n")}`);
      return found[0]!;
    };
    for (const text of ["4in4", "4in6", "gue1-44", "gue1-46", "gue0-44", "gue0-46"]) {
      assert.match(one(text), /203\.0\.113\.10:7000$/);
    }
    for (const text of ["6in4", "6in6", "gue1-64", "gue1-66", "gue0-64", "gue0-66"]) {
      assert.match(one(text), /2001:db8:ff::10:7000$/);
    }
    assert.match(one("outer-fragments"), /\| 3021 /);
    assert.match(one("inner-fragments"), /\| 3021 /);
    assert.match(one("big"), /\| 60009 /);
    one("partial");
    assert.equal(got.filter((line) => line.includes("wrong")).length, 0);
    for (const family of ["4", "6"]) {
      for (let inner = 0; inner < 4; inner++) {
        for (let outer = 0; outer < 4; outer++) {
          const text = `ecn${family} ${inner} ${outer}`;
          const found = got.filter((line) => line.startsWith(`got ${text} `));
          const expected = RFC6040[`${inner} ${outer}`];
          assert.equal(found.length, expected === undefined ? 0 : 1, text);
          if (expected !== undefined)
            assert.match(found[0]!, new RegExp(`tos=${0xb8 | expected} `));
        }
      }
    }
    const after = lab.counters("b1");
    assert.equal(after["UdpInCsumErrors"]! - before["UdpInCsumErrors"]!, 1);
    // 12 ways, 3 of fragments (4 tunnels of inner ones), 2 checksums, 30 of ECN, the end.
    const { delivered, ecn, ...others } = await countersOf(decap);
    assert.deepEqual([delivered, ecn, others], [12 + 1 + 4 + 1 + 2 + 30 + 1, 2, {}]);
  });

  await t.test("what is broken is counted, and nobody is told", async () => {
    const { delivered = 0 } = await countersOf(decap);
    const lines = client.lines.length;
    await lab.exec("gateway", ["ip", "address", "add", "10.20.0.77/32", "dev", "lo"]);
    await lab.exec("gateway", ["/usr/bin/python3", "-c", SEND + BROKEN]);
    await waitFor("the end", () =>
      client.lines.slice(lines).some((line) => line.startsWith("got the end")),
    );
    assert.equal(client.lines.length, lines + 1);
    assert.deepEqual(await countersOf(decap), {
      delivered: delivered + 1,
      source_not_accepted: 2,
      gue_short: 1,
      gue_variant: 2,
      gue_control: 1,
      gue_flags: 1,
      gue_protocol: 1,
      inner_short: 3,
      inner_version: 3,
      inner_header: 1,
      inner_length: 2,
      inner_checksum: 1,
      inner_destination: 2,
      inner_source: 1,
      ecn: 3,
    });
    const after = lab.counters("b1");
    for (const name of [
      "IcmpOutErrors",
      "IcmpOutDestUnreachs",
      "Icmp6OutDestUnreachs",
      "Icmp6OutParmProblems",
    ]) {
      assert.equal(after[name], before[name], name);
    }
  });

  await t.test("the VIP is not claimed by ARP, and SIGTERM puts everything back", async () => {
    assert.equal(arpIgnore(), "1");
    const asked = await lab.exec("gateway", ["/usr/bin/python3", "-c", ARP_ASK]);
    assert.equal(asked.stdout, "arp answer for 10.20.0.11\n");
    const exit = await decap.stop();
    assert.equal(exit.code, 0, decap.lines.join("\n"));
    assert.match(decap.lines.at(-1)!, /"event":"stopped","delivered":\d+/);
    assert.equal(arpIgnore(), "0");
    assert.doesNotMatch(lab.execSync("b1", ["ip", "link"]), /hgd0/);
    assert.doesNotMatch(lab.execSync("b1", ["ip", "address"]), /203\.0\.113\.10|db8:ff::10/);
  });

  await t.test("a device or a port that is taken is a sentence", async () => {
    lab.execSync("b1", ["ip", "tuntap", "add", "hgd0", "mode", "tun"]);
    const file = path.join(lab.directory, "decap.yaml");
    const argv = [process.execPath, gatewayProgram(), "decap", "-c", file];
    const taken = await lab.exec("b1", argv, { check: false });
    assert.equal(taken.code, 1);
    assert.match(taken.stderr, /hgd0 \(TUNSETIFF hgd0: EBUSY\): an interface of that name exists/);
    lab.execSync("b1", ["ip", "tuntap", "del", "hgd0", "mode", "tun"]);
    const holder = lab.spawn("b1", [
      "/usr/bin/python3",
      "-c",
      "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n" +
        's.bind(("0.0.0.0", 6080))\nprint("ready", flush=True)\ntime.sleep(60)',
    ]);
    await holder.waitLine(/ready/);
    const busy = await lab.exec("b1", argv, { check: false });
    assert.match(
      busy.stderr,
      /bind 6080: EADDRINUSE\): another process has UDP port 6080; stop it/,
    );
    assert.doesNotMatch(lab.execSync("b1", ["ip", "link"]), /hgd0/);
    assert.equal(arpIgnore(), "0");
  });
});

const UPLOAD_BYTES = 4 << 20;

/** Answers the SHA-256 of what comes until the client's FIN. */
const SINK = `
import hashlib, socket
server = socket.create_server(("0.0.0.0", 9000))
print("ready", flush=True)
while True:
    peer, _ = server.accept()
    digest = hashlib.sha256()
    while data := peer.recv(1 << 16): digest.update(data)
    peer.sendall(digest.hexdigest().encode())
    peer.close()
`;

const UPLOAD = `
import hashlib, random, socket
data = random.Random(4).randbytes(${UPLOAD_BYTES})
with socket.create_connection(("${LAB_VIP}", 9000), 20) as peer:
    peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)
    answer = peer.recv(64, socket.MSG_WAITALL).decode()
print(answer == hashlib.sha256(data).hexdigest())
`;

test("from the gateway's tunnels to the server: TCP with offloads on", {
  skip: SKIP_UNLESS_ROOT,
}, async (t) => {
  const lab = createLab({ device: "packet", forward: true });
  t.after(() => lab.stop());
  const decap = await startDecap(lab);
  const sink = lab.spawn("b1", ["/usr/bin/python3", "-c", SINK]);
  await sink.waitLine(/ready/);
  const config = (mode: string): string => {
    const services = [
      { name: "sink", protocol: "tcp", port: 9000, backendPort: 9000, backends: ["b1"] },
    ] as const;
    const parsed = JSON.parse(lab.config({ mode: "nat", services }));
    parsed.services[0].mode = mode;
    parsed.tunnel = { source: { ipv4: "10.20.0.1" } };
    return JSON.stringify(parsed);
  };
  const gateway = await lab.startGateway(config("ipip"));
  let delivered = 0;
  for (const mode of ["ipip", "gue"]) {
    if (mode === "gue") assert.equal((await gateway.reload(config(mode))).status, 200);
    const uploaded = await lab.exec("client", ["/usr/bin/python3", "-c", UPLOAD]);
    assert.equal(uploaded.stdout, "True\n", mode);
    const { delivered: now = 0, missed: _, ...drops } = await countersOf(decap);
    assert.deepEqual(drops, {}, mode);
    assert.ok(now > delivered, `${mode}: ${now} delivered`);
    delivered = now;
  }
  assert.deepEqual(lab.checksumErrors(), {});
});
