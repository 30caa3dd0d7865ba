import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import { ConfigError, formatConfigProblem } from "../../../src/base/errors.ts";
import { compiledPolicy, compilePolicies } from "../../../src/control/policy/compile.ts";
import { folderOf, gatewayOf, policyOf } from "./policies.ts";

// Goal: what the compiler has against a policy stands at its own place, in the words of a configuration
// error; what it has nothing against runs, of whatever files. Nothing stays on disk.

const KEY = "services[1].scheduler.module";

async function problemsOf(texts: Readonly<Record<string, string>>): Promise<string[]> {
  try {
    await compilePolicies(gatewayOf(policyOf(texts)));
    return [];
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error));
    return error.problems.map(formatConfigProblem);
  }
}

const CASES: { name: string; texts: Readonly<Record<string, string>>; want: RegExp[] }[] = [
  {
    name: "errors at their lines, in the module and in what it imports",
    texts: {
      "policy.ts":
        'import { half } from "./lib.ts";\nexport function rebuild() {\n  const n: string = half(3);\n' +
        "  return { weights: [n.length] };\n}\n",
      "lib.ts": "export const half = (n: number): number => n.nothing / 2;\n",
    },
    want: [
      /^\/etc\/test\/lib\.ts:1:46: services\[1\]\.scheduler\.module: TS2339: /,
      /^\/etc\/test\/policy\.ts:3:9: services\[1\]\.scheduler\.module: TS2322: Type 'number'/,
    ],
  },
  {
    name: "no rebuild",
    texts: { "policy.ts": "export const build = 1;\n" },
    want: [/^\/etc\/test\/policy\.ts:1:1: .*expected a module that is a Policy.*'rebuild'/],
  },
  {
    name: "a rebuild that returns something else",
    texts: { "policy.ts": "export const rebuild = (): number[] => [1];\n" },
    want: [/^\/etc\/test\/policy\.ts:1:1: .*expected a module that is a Policy/],
  },
  {
    name: "the host's modules and globals",
    texts: {
      "policy.ts":
        'import { readFileSync } from "node:fs";\n' +
        'export const rebuild = () => ({ weights: [readFileSync("/x").length, process.pid] });\n',
    },
    want: [
      /^\/etc\/test\/policy\.ts:1:30: .*'node:fs'/,
      /^\/etc\/test\/policy\.ts:2:70: .*'process'/,
    ],
  },
  {
    name: "a file that is not there",
    texts: { "policy.ts": 'export { rebuild } from "./other.ts";\n' },
    want: [/^\/etc\/test\/policy\.ts:1:25: .*\.\/other\.ts/],
  },
];

for (const { name, texts, want } of CASES) {
  test(`policies are type-checked: ${name}`, async () => {
    const problems = await problemsOf(texts);
    assert.equal(problems.length, want.length, problems.join("\n"));
    want.forEach((pattern, index) => {
      assert.match(problems[index]!, pattern);
      assert.ok(problems[index]!.includes(KEY), problems[index]);
      assert.ok(!problems[index]!.includes("headgate-policy-"), "no place of our own in it");
    });
  });
}

test("a policy of several files compiles once, and leaves nothing behind", async (t) => {
  const temporary = folderOf(t, {});
  process.env["TMPDIR"] = temporary;
  const policy = policyOf({
    "policy.ts":
      'import type { Policy } from "headgate/policy";\nimport { one } from "./numbers.ts";\n' +
      "const own: Policy = { rebuild: (backends) => ({ weights: backends.map(() => one) }) };\n" +
      "export const { rebuild } = own;\nenum Kind { First }\nconsole.log(Kind.First);\n",
    "numbers.ts": "export const one = 1;\n",
  });
  await compilePolicies(gatewayOf(policy));
  const first = compiledPolicy(policy);
  assert.deepEqual(
    first?.files.map(({ path }) => path),
    ["/etc/test/policy.ts", "/etc/test/numbers.ts"],
  );
  // The same sources are the same policy, whatever definition they are in; others are not.
  const shadow = { ...policy, shadow: true };
  await compilePolicies(gatewayOf(shadow));
  assert.equal(compiledPolicy(shadow), first);
  const [module, numbers] = policy.sources;
  const other = { ...policy, sources: [module!, { ...numbers!, text: "export const one = 2;\n" }] };
  assert.equal(compiledPolicy(other), null);
  await compilePolicies(gatewayOf(other));
  assert.notEqual(compiledPolicy(other)?.digest, first?.digest);
  assert.deepEqual(readdirSync(temporary), []);
});
