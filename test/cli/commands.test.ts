import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { parse } from "yaml";
import { AlreadyRunningError, EXIT, PrivilegeError } from "../../src/base/errors.ts";
import { one } from "../control/config/config-text.ts";
import { headgate } from "./fake-gateway.ts";

// Commands that need no gateway, and what the command line itself refuses.

const folder = mkdtempSync(path.join(tmpdir(), "headgate-commands-"));
after(() => rmSync(folder, { recursive: true }));

function file(name: string, text: string): string {
  const full = path.join(folder, name);
  writeFileSync(full, text);
  return full;
}

const GOOD = file("good.yaml", one({}));
const BAD = file("bad.yaml", one({ port: "[0, 443]", prot: "tcp" }));

const USAGE: readonly (readonly [string[], RegExp])[] = [
  [[], /^Usage: headgate/],
  [["get"], /^Usage: headgate get/],
  [["backend"], /^Usage: headgate backend/],
  [["config"], /^Usage: headgate config/],
  [["chek"], /unknown command 'chek'\n\(Did you mean check\?\)/],
  [["get", "service"], /unknown command 'service'/],
  [["--sockt", "x", "status"], /unknown option '--sockt'\n\(Did you mean --socket\?\)/],
  [["run"], /required option '-c, --config <file>' not specified/],
  [["check"], /required option '-c, --config <file>' not specified/],
  [["check", "-c", "a", "b"], /too many arguments/],
  [["get", "flows", "-o", "xml"], /'xml' is invalid\. Allowed choices are wide, json, yaml\./],
  [["get", "flows", "--limit", "0"], /expected a whole number from 1 to 100000, got "0"/],
  [["get", "flows", "--limit", "1e3"], /expected a whole number from 1 to 100000, got "1e3"/],
  [
    ["get", "flows", "--client", "10.0.0.0/33"],
    /such as 198\.51\.100\.0\/24 or .*, got "10\.0\.0\.0\/33"/,
  ],
  [["get", "flows", "--service", "Web"], /expected the name of a service, got "Web"/],
  [["get", "flows", "--backend", "10.0.0"], /expected ADDRESS or ADDRESS:PORT, got "10\.0\.0"/],
  [["get", "workers", "--service", "web"], /unknown option '--service'/],
  [["backend", "drain"], /missing required argument/],
  [["backend", "drain", "web"], /expected SERVICE\/ADDRESS:PORT, .* got "web"/],
  [["backend", "drain", "/10.20.0.11:80"], /expected SERVICE\/ADDRESS:PORT/],
  [["backend", "drain", "web/10.20.0.11:0"], /expected SERVICE\/ADDRESS:PORT/],
  [["backend", "drain", "web/2001:db8::1:80%eth0"], /expected SERVICE\/ADDRESS:PORT/],
  [["backend", "drain", "web/10.20.0.11:80", "--deadline", "5"], /expected a duration .* got "5"/],
  [["backend", "enable", "web/10.20.0.11:80", "--deadline", "5m"], /unknown option '--deadline'/],
  [["backend", "weight", "web/10.20.0.11:80"], /missing required argument 'n'/],
  [["backend", "weight", "web/10.20.0.11:80", "65536"], /expected a whole number from 0 to 65535/],
  [["backend", "weight", "web/10.20.0.11:80", "-1"], /expected a whole number .* got "-1"/],
  [["reload", "--exit-code"], /option '--exit-code' needs '--dry-run'/],
  [["drain", "--timeout", "1000h"], /expected a duration .* at most 596h, got "1000h"/],
];
for (const [argv, message] of USAGE) {
  test(`usage: headgate ${argv.join(" ")}`, async () => {
    const { code, out, err, actions } = await headgate(argv);
    assert.equal(code, EXIT.usage);
    assert.equal(out, "");
    assert.match(err, message);
    assert.deepEqual(actions, []);
  });
}

for (const argv of [["--help"], ["help"], ["get", "--help"], ["help", "reload"]]) {
  test(`headgate ${argv.join(" ")} is help that was asked for`, async () => {
    const { code, out, err } = await headgate(argv);
    assert.equal(code, EXIT.done);
    assert.match(out, /^Usage: headgate/);
    assert.equal(err, "");
  });
}

test("help names every command and exit code", async () => {
  const { out } = await headgate(["--help"]);
  for (const command of "run check config import status get backend reload drain cleanup".split(
    " ",
  )) {
    assert.match(out, new RegExp(`^  ${command} `, "m"));
  }
  for (const code of Object.values(EXIT)) assert.match(out, new RegExp(`\\b${code}\\b`));
});

test("--version is the package's", async () => {
  const manifest = new URL("../../../package.json", import.meta.url);
  const { version } = JSON.parse(readFileSync(manifest, "utf8")) as { version: string };
  assert.deepEqual(await headgate(["--version"]), {
    code: EXIT.done,
    out: `${version}\n`,
    err: "",
    actions: [],
  });
});

test("run and cleanup are handed on, with their exit codes", async () => {
  const ran = await headgate(["run", "-c", "gw.yaml"], { run: async () => 5 });
  assert.deepEqual([ran.code, ran.actions], [5, ["run gw.yaml"]]);
  const cleaned = await headgate(["cleanup"]);
  assert.deepEqual([cleaned.code, cleaned.actions], [EXIT.done, ["cleanup"]]);
});

test("an error of run is one sentence and its exit code", async () => {
  for (const [error, code] of [
    [new AlreadyRunningError("process 7 holds it"), EXIT.alreadyRunning],
    [new PrivilegeError("root is needed"), EXIT.noPrivilege],
  ] as const) {
    const ran = await headgate(["run", "-c", "x"], { run: () => Promise.reject(error) });
    assert.deepEqual([ran.code, ran.err], [code, `headgate: ${error.message}\n`]);
  }
});

test("a defect in run says where it is", async () => {
  const ran = await headgate(["run", "-c", "x"], {
    run: () => Promise.reject(new TypeError("oh")),
  });
  assert.equal(ran.code, EXIT.failed);
  assert.match(ran.err, /^headgate: unexpected error: TypeError: oh\n +at /);
});

test("check: a right file, with its notes", async () => {
  const { code, out, err } = await headgate(["check", "-c", GOOD]);
  assert.equal(code, EXIT.done);
  assert.equal(
    out,
    `${GOOD}:3:5: note: services[0]: service "web" has no health: its backends always count as up\n${GOOD}: ok (1 service, 1 backend)\n`,
  );
  assert.equal(err, "");
});

test("check: every problem as compilers print theirs, exit 78", async () => {
  const { code, out, err } = await headgate(["check", "-c", BAD]);
  assert.equal(code, EXIT.configuration);
  assert.equal(out, "");
  assert.deepEqual(err.split("\n"), [
    `${BAD}:5:12: services[0].port[0]: expected 1-65535, a range, or "any", got 0`,
    `${BAD}:7:5: services[0].prot: expected a known key (the nearest is "port"), got "prot"`,
    "",
  ]);
});

test("check: a file that is not there", async () => {
  const { code, err } = await headgate(["check", "-c", path.join(folder, "none.yaml")]);
  assert.equal(code, EXIT.configuration);
  assert.match(err, /none\.yaml:1:1: expected a file that can be read, got ENOENT\n$/);
});

test("check --host: an interface that is not there", async () => {
  const missing = file("missing.yaml", one({}).replace("eth0", "no-such-if0"));
  const { code, out, err } = await headgate(["check", "-c", missing, "--host"]);
  assert.equal(code, EXIT.configuration);
  assert.equal(out, "");
  assert.match(err, /:1:38: device\.interfaces\[0\]: expected an interface of this host \(/);
});

test("config show prints what the file means, as YAML and JSON", async () => {
  const yaml = await headgate(["config", "show", "-c", GOOD]);
  const json = await headgate(["config", "show", "-c", GOOD, "-o", "json"]);
  assert.equal(yaml.code, EXIT.done);
  assert.deepEqual(parse(yaml.out), JSON.parse(json.out));
  assert.equal(JSON.parse(json.out).services[0].scheduler, "maglev");
  assert.equal((await headgate(["config", "show", "-c", BAD])).code, EXIT.configuration);
});

test("config schema prints JSON Schema, or the table", async () => {
  const schema = await headgate(["config", "schema"]);
  assert.equal(schema.code, EXIT.done);
  assert.match(JSON.parse(schema.out).$schema, /json-schema\.org/);
  const table = await headgate(["config", "schema", "--table"]);
  assert.match(table.out, /^\| key \| value \| default \| change \| meaning \|\n/);
});
