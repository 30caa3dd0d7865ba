import assert from "node:assert/strict";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { createLab, gatewayProgram, SKIP_UNLESS_ROOT } from "../support/lab.ts";
import type { Output } from "../support/processes.ts";

/** What an operator meets first: one clear sentence, and the right exit code. */

const SERVICES = [{ name: "web", protocol: "tcp", port: 80, backendPort: 8080 }] as const;

test("messages and exit codes", { skip: SKIP_UNLESS_ROOT, timeout: 120_000 }, async (t) => {
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  const good = lab.config({ mode: "nat", services: SERVICES });
  const headgate = (args: readonly string[], before: readonly string[] = []): Promise<Output> =>
    lab.exec("gateway", [...before, process.execPath, gatewayProgram(), ...args], { check: false });
  const write = (name: string, text: string): string => {
    const file = path.join(lab.directory, name);
    writeFileSync(file, text);
    return file;
  };
  const one = (output: Output, code: number, pattern: RegExp): void => {
    assert.equal(output.code, code, `${output.stdout}${output.stderr}`);
    const lines = output.stderr
      .trim()
      .split("\n")
      .filter((line) => !line.startsWith("{"));
    assert.equal(lines.length, 1, output.stderr);
    assert.match(lines[0]!, pattern);
  };

  await t.test(
    "a configuration error names file, line, column, path, expected and found",
    async () => {
      const file = write("bad.yaml", good.replace(/"port": 80\b/, '"port": 0'));
      one(
        await headgate(["run", "-c", file]),
        78,
        /^.*bad\.yaml:\d+:\d+: services\[0\]\.port: expected 1-65535.*, got 0$/,
      );
      one(await headgate(["check", "-c", file]), 78, /services\[0\]\.port/);
    },
  );

  await t.test("a missing file", async () => {
    one(await headgate(["run", "-c", "/nonexistent.yaml"]), 78, /nonexistent\.yaml/);
  });

  await t.test("a missing interface", async () => {
    const file = write("interface.yaml", good.replace("gw-client", "nosuch0"));
    const output = await headgate(["run", "-c", file]);
    one(output, output.code!, /nosuch0/);
    assert.ok([1, 78].includes(output.code!), String(output.code));
  });

  await t.test("a missing privilege", async () => {
    const file = write("good.yaml", good);
    // Root without any capability: another user might not even be able to read the program.
    const user = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    one(await headgate(["run", "-c", file], user), 77, /CAP_NET_(ADMIN|RAW)|root/);
  });

  await t.test("a second gateway on the same socket, or the same state file", async () => {
    const gateway = await lab.startGateway(good);
    one(await headgate(["run", "-c", gateway.configFile]), 75, /another gateway answers on/);
    one(await headgate(["cleanup", "-c", gateway.configFile]), 75, /a gateway answers on/);
    const other = write("other.yaml", good.replace(gateway.socket, `${lab.directory}/other.sock`));
    one(await headgate(["run", "-c", other]), 75, /state.*(already|in use|held|runs)|process \d+/);
    const restart = good.replace(/"capacity": \d+/, '"capacity": 4096');
    assert.notEqual(restart, good);
    const answer = await gateway.reload(restart);
    assert.equal(answer.status, 409);
    assert.match(answer.body, /flows\.capacity/);
    await gateway.stop("SIGTERM");
  });

  await t.test("cleanup after a kill says what it removed, and leaves the flows", async () => {
    const gateway = await lab.startGateway(good);
    gateway.kill("SIGKILL");
    await gateway.exited;
    const cleaned = await headgate(["cleanup", "-c", gateway.configFile]);
    assert.equal(cleaned.code, 0, cleaned.stderr);
    assert.match(cleaned.stdout, /removed socket /);
    assert.equal(existsSync(gateway.socket), false);
    assert.equal(existsSync(gateway.stateFile), true);
    assert.match(
      (await headgate(["cleanup", "-c", gateway.configFile])).stdout,
      /nothing to remove/,
    );
  });

  await t.test("no gateway answers", async () => {
    const socket = path.join(lab.directory, "nobody.sock");
    one(await headgate(["status", "--socket", socket]), 69, /nobody\.sock/);
  });

  await t.test("a state file that is not on tmpfs", async () => {
    const folder = path.join(lab.directory, "disk");
    mkdirSync(folder, { recursive: true });
    const file = write(
      "disk.yaml",
      good.replace(/"stateFile": "[^"]+"/, `"stateFile": "${folder}/state"`),
    );
    one(await headgate(["run", "-c", file]), 1, /tmpfs/);
  });

  await t.test("wrong usage", async () => {
    assert.equal((await headgate(["nonsense"])).code, 2);
    assert.equal((await headgate(["run"])).code, 2);
  });

  await t.test("SIGTERM ends it in order, and nothing stays behind", async () => {
    const gateway = await lab.startGateway(good);
    const exit = await gateway.stop("SIGTERM");
    assert.equal(exit.code, 0);
    assert.deepEqual(
      gateway.log.filter((line) => line["level"] === "error"),
      [],
    );
    const rules = lab.execSync("gateway", ["nft", "list", "ruleset"]);
    assert.equal(rules.trim(), "");
  });
});
