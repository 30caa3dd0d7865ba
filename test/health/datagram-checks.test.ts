import assert from "node:assert/strict";
import { createSocket, type RemoteInfo, type Socket } from "node:dgram";
import { type TestContext, test } from "node:test";
import { checkDns, type DnsQuestion } from "../../src/health/dns-check.ts";
import { checkUdp, type UdpQuestion } from "../../src/health/udp-check.ts";
import { endpoint, found, never } from "./questions.ts";
import { LOOPBACK } from "./targets.ts";

async function udpServer(
  t: TestContext,
  onMessage: (message: Buffer, from: RemoteInfo, socket: Socket) => void,
  address = LOOPBACK,
): Promise<number> {
  const socket = createSocket(address.includes(":") ? "udp6" : "udp4");
  socket.on("message", (message, from) => onMessage(message, from, socket));
  await new Promise<void>((resolve) => socket.bind(0, address, resolve));
  t.after(() => socket.close());
  return socket.address().port;
}

/** A port on which nobody listens. */
async function closedUdpPort(): Promise<number> {
  const socket = createSocket("udp4");
  await new Promise<void>((resolve) => socket.bind(0, LOOPBACK, resolve));
  const { port } = socket.address();
  await new Promise<void>((resolve) => socket.close(() => resolve()));
  return port;
}

const udp = async (
  port: number,
  question: Partial<UdpQuestion> = {},
  where: Parameters<typeof endpoint>[1] = {},
): Promise<string> =>
  found(
    await checkUdp(endpoint(port, where), { sendHex: "", expectHex: null, ...question }, never()),
  );

test("udp: what is sent, from where, and what an answer begins with", async (t) => {
  const heard: string[] = [];
  const port = await udpServer(t, (message, from, socket) => {
    heard.push(`${from.address} ${message.toString("hex")}`);
    socket.send(Buffer.from("c0ffee01", "hex"), from.port, from.address);
  });
  const sendHex = "0a0b";
  assert.equal(await udp(port, { sendHex, expectHex: "c0ff" }), "up: answered c0ffee01");
  assert.equal(await udp(port, { sendHex, expectHex: "c0xxex" }), "up: answered c0ffee01");
  assert.equal(await udp(port, { sendHex, expectHex: "c1" }), "down: unexpected answer c0ffee01");
  const longer = "c0ffee0100";
  assert.equal(await udp(port, { sendHex, expectHex: longer }), "down: unexpected answer c0ffee01");
  assert.equal(await udp(port), "up: answered c0ffee01", "an answer that nobody needs");
  assert.equal(await udp(port, { sendHex }, { source: "127.0.0.77" }), "up: answered c0ffee01");
  assert.deepEqual(
    [heard[0], heard[4], heard[5]],
    [`${LOOPBACK} 0a0b`, `${LOOPBACK} `, "127.0.0.77 0a0b"],
  );
});

test("udp: silence is up without an expectation, and down with one; a closed port is down", async (t) => {
  const port = await udpServer(t, () => undefined);
  const brief = { timeoutMs: 100 };
  assert.equal(await udp(port, {}, brief), "up: no ICMP unreachable");
  assert.equal(await udp(port, { expectHex: "00" }, brief), "down: timeout after 100ms");
  const closed = await closedUdpPort();
  for (const expectHex of [null, "00"]) {
    const result = await udp(closed, { sendHex: "01", expectHex });
    assert.match(result, /^down: (recvmsg|send|read) ECONNREFUSED$/);
  }
  assert.match(await udp(closed), /^down: \w+ ECONNREFUSED$/, "an empty datagram");
});

test("udp: IPv6, an ended check, a wrong source", async (t) => {
  const port = await udpServer(
    t,
    (message, from, socket) => socket.send(message, from.port, from.address),
    "::1",
  );
  const six = { address: "::1" };
  assert.equal(await udp(port, { sendHex: "4142", expectHex: "41" }, six), 'up: answered "AB"');
  const controller = new AbortController();
  const check = checkUdp(endpoint(port), { sendHex: "", expectHex: "00" }, controller.signal);
  controller.abort();
  assert.equal(found(await check), "down: the check was ended");
  const ended = checkUdp(endpoint(port), { sendHex: "", expectHex: "00" }, controller.signal);
  assert.equal(found(await ended), "down: the check was ended");
  assert.match(await udp(port, {}, { source: "192.0.2.1" }), /^down: bind EADDRNOTAVAIL/);
});

/** One answer of a name server: flags and code, and records for the question that was asked. */
function dnsAnswer(query: Buffer, rcode: number, records: readonly Buffer[]): Buffer {
  let end = 12;
  while (query[end] !== 0) end += 1 + query[end]!;
  const asked = query.subarray(12, end + 5);
  const header = Buffer.from(query.subarray(0, 12));
  header.writeUInt16BE(0x8180 | rcode, 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(records.length, 6);
  header.fill(0, 8, 12);
  const type = asked.subarray(asked.length - 4, asked.length - 2);
  const answers = records.map((data) => {
    const fixed = Buffer.from([0xc0, 12, type[0]!, type[1]!, 0, 1, 0, 0, 0, 60, 0, data.length]);
    return Buffer.concat([fixed, data]);
  });
  return Buffer.concat([header, asked, ...answers]);
}

/** Names by their labels. */
const name = (text: string): Buffer =>
  Buffer.concat([
    ...text.split(".").map((label) => Buffer.from(`${String.fromCharCode(label.length)}${label}`)),
    Buffer.of(0),
  ]);

interface Zone {
  readonly rcode?: number;
  readonly records?: readonly Buffer[];
}

const nameServer = (t: TestContext, zone: Zone, seen: Buffer[] = []): Promise<number> =>
  udpServer(t, (query, from, socket) => {
    seen.push(query);
    const answer = dnsAnswer(query, zone.rcode ?? 0, zone.records ?? []);
    socket.send(answer, from.port, from.address);
  });

const dns = async (
  port: number,
  question: Partial<DnsQuestion> = {},
  timeoutMs = 2000,
): Promise<string> => {
  const whole: DnsQuestion = {
    query: ".",
    queryType: "SOA",
    rcode: ["NOERROR"],
    answers: [],
    ...question,
  };
  return found(await checkDns(endpoint(port, { timeoutMs }), whole, never()));
};

const soa = Buffer.concat([name("ns.example"), name("admin.example"), Buffer.alloc(20, 1)]);

test("dns: the root's SOA is asked for, and any answer without error is up", async (t) => {
  const seen: Buffer[] = [];
  const port = await nameServer(t, { records: [soa] }, seen);
  assert.equal(await dns(port), "up: NOERROR");
  assert.equal(seen[0]!.subarray(12, 17).toString("hex"), "0000060001", "root, SOA, IN");
  assert.equal(await dns(port, { answers: ["ns.example"] }), "up: NOERROR");
  const empty = await nameServer(t, {});
  assert.equal(await dns(empty), "up: NOERROR");
  assert.equal(
    await dns(empty, { answers: ["ns.example"] }),
    "down: NOERROR, expected ns.example, got none",
  );
});

test("dns: codes", async (t) => {
  const refused = await nameServer(t, { rcode: 5 });
  assert.equal(await dns(refused), "down: REFUSED");
  assert.equal(await dns(refused, { rcode: ["NOERROR", "REFUSED"] }), "up: REFUSED");
  const unknown = await nameServer(t, { rcode: 3 });
  const query = { query: "no.example", queryType: "A" } as const;
  assert.equal(await dns(unknown, query), "down: NXDOMAIN");
  assert.equal(await dns(unknown, { ...query, rcode: ["NXDOMAIN"] }), "up: NXDOMAIN");
  assert.equal(await dns(await nameServer(t, { rcode: 2 }), query), "down: SERVFAIL");
});

test("dns: records as people write them", async (t) => {
  const addresses = { records: [Buffer.of(192, 0, 2, 1), Buffer.of(192, 0, 2, 2)] };
  const a = { query: "shop.example", queryType: "A" } as const;
  const port = await nameServer(t, addresses);
  assert.equal(await dns(port, { ...a, answers: ["192.0.2.2", "192.0.2.1"] }), "up: NOERROR");
  assert.equal(
    await dns(port, { ...a, answers: ["192.0.2.3"] }),
    "down: NOERROR, expected 192.0.2.3, got 192.0.2.1, 192.0.2.2",
  );
  const mx = { records: [Buffer.concat([Buffer.of(0, 10), name("mail.example")])] };
  assert.equal(
    await dns(await nameServer(t, mx), {
      query: "shop.example",
      queryType: "MX",
      answers: ["10 MAIL.example"],
    }),
    "up: NOERROR",
  );
  const text = { records: [Buffer.from("\x03abc\x02de", "latin1")] };
  assert.equal(
    await dns(await nameServer(t, text), {
      query: "shop.example",
      queryType: "TXT",
      answers: ["abcde"],
    }),
    "up: NOERROR",
  );
});

test("dns: nobody there, silence, garbage", async (t) => {
  assert.equal(await dns(await closedUdpPort()), "down: query ECONNREFUSED");
  assert.equal(
    await dns(await udpServer(t, () => undefined), {}, 150),
    "down: timeout after 150ms",
  );
  const garbage = await udpServer(t, (query, from, socket) => {
    const broken = dnsAnswer(query, 0, [Buffer.of(1)]);
    socket.send(broken.subarray(0, broken.length - 6), from.port, from.address);
  });
  assert.match(await dns(garbage, {}, 150), /^down: (query EBADRESP|timeout after 150ms)$/);
});
