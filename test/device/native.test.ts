import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { DeviceError, EXIT, PrivilegeError } from "../../src/base/errors.ts";
import { errnoName, nativeAddon, openError } from "../../src/device/native.ts";
import { openPacket } from "../../src/device/packet.ts";
import { openTun } from "../../src/device/tun.ts";

const nativeModule = new URL("../../src/device/native.js", import.meta.url).href;

function failure(syscall: string, errno: number, subject: string): Error {
  return Object.assign(new Error(`${syscall} failed`), { syscall, errno, subject });
}

test("the addon has the layout that the fast path was written for", () => {
  assert.deepEqual(nativeAddon().layout, {
    descriptorWords: 8,
    batchFramesMax: 64,
    outFramesMax: 128,
    interfacesMax: 16,
  });
});

test("it loads in several threads at once", async () => {
  const ends = Array.from({ length: 4 }, () => {
    const worker = new Worker(
      `const { nativeAddon } = await import(${JSON.stringify(nativeModule)});
       nativeAddon().createWake().close();`,
      { eval: true, execArgv: ["--input-type=module"] },
    );
    return new Promise<number>((resolve, reject) => {
      worker.once("exit", resolve);
      worker.once("error", reject);
    });
  });
  assert.deepEqual(await Promise.all(ends), [0, 0, 0, 0]);
});

test("an addon that is not there is one sentence with what to do", () => {
  const program = `
    const { nativeAddon } = await import(${JSON.stringify(nativeModule)});
    try { nativeAddon(); } catch (error) { console.log(error.name, error.message); }`;
  const text = execFileSync(process.execPath, ["--input-type=module", "-e", program], {
    env: { ...process.env, HEADGATE_ADDON: "/nowhere/frameio.node" },
    encoding: "utf8",
  });
  assert.match(text, /^DeviceError cannot load the addon \/nowhere\/frameio\.node: /);
  assert.match(text, /npm run build/);
});

test("an addon of another build is refused", () => {
  // Any module that loads and is not ours: a JavaScript file stands in for it.
  const program = `
    const { nativeAddon } = await import(${JSON.stringify(nativeModule)});
    try { nativeAddon(); } catch (error) { console.log(error.name, error.message); }`;
  const { stdout } = spawnSync(process.execPath, ["--input-type=module", "-e", program], {
    env: {
      ...process.env,
      HEADGATE_ADDON: fileURLToPath(new URL("../../src/device/device.js", import.meta.url)),
    },
    encoding: "utf8",
  });
  // Node 20 refuses to require an ES module; later ones give one without a layout.
  assert.match(stdout, /^DeviceError .*(other sources|cannot load the addon)/);
});

test("errno values have names", () => {
  assert.equal(errnoName(19), "ENODEV");
  assert.equal(errnoName(99999), "errno 99999");
});

const sentences: readonly [string, number, string, RegExp][] = [
  ["open", 2, "/dev/net/tun", /ENOENT.*modprobe tun/],
  ["TUNSETIFF", 16, "hg0", /EBUSY.*another process holds this device/],
  ["TUNSETIFF", 22, "eth0", /EINVAL.*choose another device\.name/],
  ["SIOCGIFINDEX", 19, "eth9", /eth9: ENODEV.*no such interface/],
  ["interface", 100, "eth1", /ENETDOWN.*ip link set dev eth1 up/],
  ["interface", 98, "eth1", /EADDRINUSE.*already takes its frames/],
  ["interface", 22, "lo", /not an Ethernet interface/],
  ["PACKET_RX_RING", 12, "eth1", /ENOMEM.*no room for the frame memory/],
  ["socket", 24, "eth1", /EMFILE.*ulimit -n/],
];
for (const [syscall, errno, subject, pattern] of sentences) {
  test(`${syscall} ${errnoName(errno)} is a DeviceError that says what to do`, () => {
    const error = openError(failure(syscall, errno, subject), "device x");
    assert.ok(error instanceof DeviceError);
    assert.match(error.message, pattern);
    assert.equal(error.errno, errno);
    assert.equal(error.syscall, syscall);
    assert.equal(error.exitCode, EXIT.failed);
  });
}

test("EPERM and EACCES are a PrivilegeError that names the capabilities", () => {
  for (const errno of [1, 13]) {
    const error = openError(failure("socket", errno, "eth0"), "interface eth0");
    assert.ok(error instanceof PrivilegeError);
    assert.match(error.message, /CAP_NET_ADMIN and CAP_NET_RAW/);
    assert.equal(error.exitCode, 77);
  }
});

test("what is not from a system call is thrown as it is", () => {
  const defect = new TypeError("a defect");
  assert.throws(() => openError(defect, "x"), defect);
});

for (const name of ["", "a/b", "hg%d", "a name", "0123456789abcdef", ".."]) {
  test(`${JSON.stringify(name)} is no interface name`, () => {
    assert.throws(() => openTun({ name, wakeFd: 0 }), /expected 1-15 bytes/);
    assert.throws(() => openPacket({ interfaces: [name], wakeFd: 0 }), /expected 1-15 bytes/);
  });
}

test("interfaces are 1-16, each once", () => {
  const many = Array.from({ length: 17 }, (_, index) => `eth${index}`);
  assert.throws(() => openPacket({ interfaces: [], wakeFd: 0 }), /expected 1-16 names, got 0/);
  assert.throws(() => openPacket({ interfaces: many, wakeFd: 0 }), /got 17/);
  assert.throws(() => openPacket({ interfaces: ["eth0", "eth0"], wakeFd: 0 }), /named once/);
});

test("the addon refuses wrong arguments and descriptors by itself", () => {
  const addon = nativeAddon() as unknown as Record<string, (...values: unknown[]) => unknown>;
  const isFailure = (errno: number) => (error: unknown) =>
    error instanceof Error && "errno" in error && error.errno === errno;
  assert.throws(() => addon["openTun"]?.(), isFailure(22));
  assert.throws(() => addon["openTun"]?.(7, 7), isFailure(22));
  assert.throws(() => addon["openPacket"]?.("eth0", 7), isFailure(22));
  assert.throws(() => addon["openPacket"]?.([1], 7), isFailure(22));
  assert.throws(() => addon["lockFile"]?.(-1), isFailure(9));
  assert.throws(() => addon["mapFile"]?.(-1), isFailure(9));
  assert.throws(() => addon["allocateFile"]?.(-1, 4096), isFailure(9));
  assert.throws(() => addon["openTun"]?.("hg0", -1), isFailure(9));
});
