import assert from "node:assert/strict";
import { chmodSync, chownSync, mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { stringify } from "yaml";
import { ConfigError } from "../../../src/base/errors.ts";
import { effectiveConfig, parseConfig } from "../../../src/control/config/load.ts";
import { diffDefinitions } from "../../../src/control/definition-diff.ts";
import { folderOf } from "../policy/policies.ts";
import { one, top } from "./config-text.ts";

// Goal: `scheduler` as a map is read with the files that it names, says what is wrong about both, and is
// printed as what it was.

const IS_ROOT = process.getuid?.() === 0;

function problems(text: string, file: string): string[] {
  try {
    parseConfig(text, file);
    return [];
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error));
    return error.problems.map(({ path: key, message }) => `${key}: ${message}`);
  }
}

test("a module is read with all that it imports, from the folder of the configuration", (t) => {
  const folder = folderOf(t, {
    "policy.ts":
      'import { a } from "./a.ts";\nimport type { B } from "./b";\nimport fs from "node:fs";\n',
    "a.ts": 'export { c } from "./policy.ts";\nexport * from "./missing.ts";\n',
    "b.ts": "",
    "other.ts": "",
  });
  const file = path.join(folder, "gw.yaml");
  const parse = () =>
    parseConfig(one({ scheduler: "{ module: ./policy.ts, fallback: rr, interval: 2s }" }), file);
  const definition = parse();
  const [web] = definition.services;
  assert.equal(web!.scheduler, "round-robin");
  assert.equal(web!.outOfState, "reset");
  const { sources, ...rest } = web!.policy!;
  assert.deepEqual(rest, {
    module: path.join(folder, "policy.ts"),
    shadow: false,
    timeoutMs: 500,
    intervalMs: 2000,
  });
  assert.deepEqual(
    sources.map((it) => path.relative(folder, it.path)),
    ["policy.ts", "a.ts", "b.ts"],
  );
  const again = parseConfig(stringify(effectiveConfig(definition)), "/elsewhere/gw.yaml");
  assert.deepEqual(again.services[0]!.policy, web!.policy);
  // What it imports is part of the configuration, too.
  writeFileSync(path.join(folder, "b.ts"), "export type B = 1;\n");
  assert.deepEqual(diffDefinitions(definition, parse()).changed, ["service web: policy"]);
});

test("defaults may give a policy to all services", (t) => {
  const folder = folderOf(t, { "policy.ts": "" });
  const text = top("defaults: { scheduler: { module: policy.ts, shadow: true } }");
  const { services } = parseConfig(text, path.join(folder, "gw.yaml"));
  assert.equal(services[0]!.policy?.shadow, true);
  assert.equal(services[0]!.scheduler, "maglev");
});

const BAD: { name: string; keys: Readonly<Record<string, string>>; want: RegExp[] }[] = [
  {
    name: "no module",
    keys: { scheduler: "{ fallback: wrr }" },
    want: [/^services\[0\]\.scheduler: expected the key "module" in the map, got none$/],
  },
  {
    name: "an unknown key, and a fallback that is none",
    keys: { scheduler: "{ module: ./policy.ts, fallbak: wrr, fallback: policy }" },
    want: [
      /^services\[0\]\.scheduler\.fallbak: expected a known key \(the nearest is "fallback"\), got "fallbak"$/,
      /^services\[0\]\.scheduler\.fallback: expected round-robin \(rr\), .* got "policy"$/,
    ],
  },
  {
    name: "JavaScript",
    keys: { scheduler: "{ module: ./policy.js }" },
    want: [
      /^services\[0\]\.scheduler\.module: expected a path of a TypeScript file that ends in \.ts/,
    ],
  },
  {
    name: "a file that is not there",
    keys: { scheduler: "{ module: ./none.ts }" },
    want: [/^services\[0\]\.scheduler\.module: .* got ENOENT for \/.*\/none\.ts$/],
  },
  {
    name: "a folder",
    keys: { scheduler: "{ module: ./folder.ts }" },
    want: [/^services\[0\]\.scheduler\.module: expected a file, got \/.*\/folder\.ts$/],
  },
  {
    name: "a timeout above the interval",
    keys: { scheduler: "{ module: ./policy.ts, interval: 100ms }" },
    want: [
      /^services\[0\]\.scheduler\.timeout: expected at most the interval of 100 ms .*got 500 ms$/,
    ],
  },
  {
    name: "segments that belong to no flow where no two nodes choose alike",
    keys: { scheduler: "{ module: ./policy.ts }", outOfState: "adopt" },
    want: [
      /^services\[0\]\.outOfState: expected reset or drop with scheduler a policy .*got "adopt"/,
    ],
  },
];

for (const { name, keys, want } of BAD) {
  test(`refused: a policy: ${name}`, (t) => {
    const folder = folderOf(t, { "policy.ts": "" });
    mkdirSync(path.join(folder, "folder.ts"));
    const got = problems(one(keys), path.join(folder, "gw.yaml"));
    assert.equal(got.length, want.length, got.join("\n"));
    for (const [index, pattern] of want.entries()) assert.match(got[index]!, pattern);
  });
}

const NOT_ROOT = IS_ROOT ? false : "needs root: it gives files away";

test("refused: a policy that others could write", { skip: NOT_ROOT }, (t) => {
  const folder = folderOf(t, { "policy.ts": 'import "./a.ts";\n', "a.ts": "" });
  const file = path.join(folder, "gw.yaml");
  const text = one({ scheduler: "{ module: ./policy.ts }" });
  const imported = path.join(folder, "a.ts");
  assert.deepEqual(problems(text, file), []);
  chmodSync(imported, 0o664);
  assert.match(
    problems(text, file)[0]!,
    /a\.ts to be writable by its owner alone .* mode 0664; run `chmod go-w /,
  );
  chmodSync(imported, 0o644);
  chownSync(imported, 65_534, 0);
  assert.match(problems(text, file)[0]!, /a\.ts to be root's .*got owner 65534; run `chown root /);
  chownSync(imported, 0, 0);
  chmodSync(folder, 0o777);
  assert.match(problems(text, file)[0]!, /expected the folder .* not writable by everybody/);
  chmodSync(folder, 0o1777);
  assert.deepEqual(problems(text, file), []);
});
