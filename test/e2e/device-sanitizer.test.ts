import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { skipUnlessRoot, start } from "./device-world.ts";

/**
 * The addon, built with AddressSanitizer and UndefinedBehaviorSanitizer, through all that the
 * device tests do to it. Leaks are not looked for here (V8 keeps much until the process ends): the
 * device tests count descriptors and mappings themselves.
 */
const root = fileURLToPath(new URL("../../../", import.meta.url));

function compiler(...args: string[]): Promise<string> {
  return start("g++", ...args.map((arg) => arg.replace(/^addon\//, path.join(root, "addon/"))))
    .done;
}

test("no memory error in a sanitizer build", {
  skip: skipUnlessRoot,
  timeout: 240_000,
}, async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "headgate-asan-"));
  try {
    const addon = path.join(folder, "frameio.node");
    const require = createRequire(import.meta.url);
    const headers = path.resolve(process.execPath, "../../include/node");
    const flags = [
      ...["-std=c++20", "-O1", "-g", "-fPIC", "-pthread", "-fno-exceptions", "-D_GNU_SOURCE"],
      ...["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
      ...["-fno-omit-frame-pointer", "-DNAPI_VERSION=8", "-DNODE_GYP_MODULE_NAME=frameio"],
      ...["-DNODE_ADDON_API_DISABLE_CPP_EXCEPTIONS", "-DBUILDING_NODE_EXTENSION"],
      ...[`-I${headers}`, `-I${path.dirname(require.resolve("node-addon-api"))}`],
    ];
    const units = readdirSync(path.join(root, "addon")).filter((name) => name.endsWith(".cc"));
    const objects = units.map((name) => path.join(folder, `${name}.o`));
    await Promise.all(
      units.map((name, i) => compiler(...flags, "-c", `addon/${name}`, "-o", objects[i]!)),
    );
    await compiler(...flags, "-shared", ...objects, "-o", addon);
    const libraries = await Promise.all(
      ["libasan.so", "libubsan.so"].map((name) => compiler(`-print-file-name=${name}`)),
    );
    const environment: NodeJS.ProcessEnv = {
      ...process.env,
      HEADGATE_ADDON: addon,
      HEADGATE_TEST_INSIDE: "1",
      // Opening 200 times would take most of the time.
      HEADGATE_TEST_ROUNDS: "5",
      LD_PRELOAD: libraries.map((name) => name.trim()).join(":"),
      // Node installs handlers of its own, and unmapped memory must stay an error that we see.
      ASAN_OPTIONS: "detect_leaks=0:abort_on_error=0:exitcode=99:handle_segv=1",
      UBSAN_OPTIONS: "print_stacktrace=1",
    };
    delete environment["NODE_TEST_CONTEXT"];
    const here = fileURLToPath(new URL(".", import.meta.url));
    for (const file of [
      "device-tun.test.js",
      "device-packet.test.js",
      "device-xdp-frames.test.js",
      "../device/region.test.js",
      "../device/wake.test.js",
      "../device/native.test.js",
    ]) {
      const { status, stdout, stderr } = spawnSync(
        "unshare",
        ["--net", process.execPath, "--test-reporter=tap", path.join(here, file)],
        { env: environment, encoding: "utf8", maxBuffer: 1 << 26 },
      );
      assert.doesNotMatch(`${stdout}${stderr}`, /AddressSanitizer|runtime error:/);
      assert.equal(status, 0, `${file}\n${stdout}\n${stderr}`);
      assert.match(stdout, /^# pass [1-9]/m);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
