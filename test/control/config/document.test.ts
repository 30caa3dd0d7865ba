import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { parse } from "yaml";
import { z } from "zod";
import { keyTable, withKeyTable } from "../../../src/control/config/document.ts";
import { effectiveConfig, parseConfig } from "../../../src/control/config/load.ts";
import { editDistance, nearestWord } from "../../../src/control/config/nearest.ts";
import { jsonSchema } from "../../../src/control/config/schema.ts";
import { one, service, two } from "./config-text.ts";

const DOCUMENT = new URL("../../../../docs/configuration.md", import.meta.url);

test("docs/configuration.md has the table that the schema makes", () => {
  const document = readFileSync(DOCUMENT, "utf8");
  assert.equal(
    document,
    withKeyTable(document),
    "run `headgate config schema --table` and put its output between the markers",
  );
});

test("the examples in docs/configuration.md are right", () => {
  const document = readFileSync(DOCUMENT, "utf8");
  const examples = [...document.matchAll(/```yaml\n([\s\S]*?)```/g)].map((match) => match[1]!);
  assert.ok(examples.length > 0);
  for (const example of examples) parseConfig(example, "configuration.md");
});

test("the table says of every key whether a reload takes it over", () => {
  const rows = keyTable().split("\n").slice(2, -1);
  assert.ok(rows.length > 80, `${rows.length} keys`);
  for (const row of rows) assert.match(row, /^\| `[^`]+` \| .+ \| (reload|restart) \| .+ \|$/);
  for (const row of rows) {
    const isRestart = /^\| `(device|flows|limits|user|admin|probe)[.`]/.test(row);
    assert.equal(/ \| restart \| /.test(row), isRestart, row);
  }
  assert.ok(rows.some((row) => row.startsWith("| `services[].backends[].weight` | ")));
  assert.equal(withKeyTable("no markers"), null);
});

test("the JSON Schema accepts what the parser accepts, and refuses what an editor should mark", () => {
  // zod reads the schema back from JSON alone: a validator that knows nothing of the parser.
  const validator = z.fromJSONSchema(JSON.parse(JSON.stringify(jsonSchema())));
  const right = [
    one({}),
    one({ port: '[80, "8000-8099"]', health: "none", affinity: "off" }),
    one({ port: "any", scheduler: "mh", health: "{ type: http, status: [200, 301-302] }" }),
    one({ scheduler: "mh", maxLoad: "1.25" }),
    two({ protocol: "[tcp, udp]" }, { port: "81" }),
    `device: { type: tun }\ndefaults: { protocol: tcp }\nservices:\n${service({ protocol: null })}`,
  ];
  for (const text of right) {
    const plain: unknown = parse(text);
    assert.ok(validator.safeParse(plain).success, text);
    const effective = effectiveConfig(parseConfig(text, "gw.yaml"));
    const result = validator.safeParse(effective);
    assert.ok(result.success, result.error?.message);
  }
  const wrong = [
    one({ port: "0" }),
    one({ port: "[]" }),
    one({ vpi: "203.0.113.10" }),
    one({ timeouts: "{ tcp: { close: 30 } }" }),
    one({ timeouts: "{ tcp: { close: 1.5s } }" }),
    one({ scheduler: "fastest" }),
    one({ maxLoad: "1" }),
    one({ name: null }),
    one({ backends: "[{ port: 80 }]" }),
    "device: { type: dpdk }",
    "services: []",
  ];
  for (const text of wrong) assert.ok(!validator.safeParse(parse(text)).success, text);
});

test("every key of the JSON Schema says what it is for", () => {
  const visit = (schema: unknown, path: string): void => {
    if (schema === null || typeof schema !== "object") return;
    const { properties, items, anyOf, description } = schema as Record<string, unknown>;
    if (path !== "" && !path.endsWith("[]") && !path.endsWith("|")) {
      assert.equal(typeof description, "string", path);
    }
    for (const [key, child] of Object.entries(properties ?? {})) visit(child, `${path}.${key}`);
    visit(items, `${path}[]`);
    for (const child of (anyOf as unknown[] | undefined) ?? []) visit(child, `${path}|`);
  };
  const schema = jsonSchema();
  assert.equal(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
  visit(schema, "");
});

const DISTANCES: readonly (readonly [string, string, number])[] = [
  ["", "", 0],
  ["", "abc", 3],
  ["port", "port", 0],
  ["prot", "port", 1],
  ["vpi", "vip", 1],
  ["weigth", "weight", 1],
  ["intervall", "interval", 1],
  ["kitten", "sitting", 3],
];
for (const [a, b, want] of DISTANCES) {
  test(`edit distance of "${a}" and "${b}" is ${want}, both ways`, () => {
    assert.equal(editDistance(a, b), want);
    assert.equal(editDistance(b, a), want);
  });
}

test("nearest word: case does not count, ties go to the first, absurd words have none", () => {
  assert.equal(nearestWord("TABLESIZE", ["name", "tableSize"]), "tableSize");
  assert.equal(nearestWord("ab", ["aa", "bb"]), "aa");
  assert.equal(nearestWord("x", []), null);
  assert.equal(nearestWord("x".repeat(65), ["x"]), null);
});
