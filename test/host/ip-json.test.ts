import assert from "node:assert/strict";
import { test } from "node:test";
import { HostError } from "../../src/base/errors.ts";
import {
  firstComplaint,
  numberOf,
  parseIpJson,
  runCommand,
  textOf,
  tryCommand,
  wordsOf,
} from "../../src/host/ip-json.ts";

const CASES: { readonly name: string; readonly text: string; readonly want: object[] }[] = [
  { name: "nothing", text: "", want: [] },
  { name: "an empty list", text: "[]\n", want: [] },
  { name: "entries that were left out", text: '[{},{"a":1},{}]\n', want: [{ a: 1 }] },
  {
    name: "one list a command",
    text: '[{"a":1}]\n[{"a":2},{"a":3}]\n',
    want: [{ a: 1 }, { a: 2 }, { a: 3 }],
  },
  { name: "the open bracket of a failed command", text: '[[{"a":1}]\n[\n', want: [{ a: 1 }] },
];
for (const { name, text, want } of CASES) {
  test(`parseIpJson: ${name}`, () => assert.deepEqual(parseIpJson(text), want));
}

test("fields of another type count as not there", () => {
  const object = { text: "a", number: 7, words: ["x", 1, "y"] };
  assert.equal(textOf(object, "text"), "a");
  assert.equal(textOf(object, "number"), "");
  assert.equal(numberOf(object, "number"), 7);
  assert.equal(numberOf(object, "text"), 0);
  assert.deepEqual(wordsOf(object, "words"), ["x", "y"]);
  assert.deepEqual(wordsOf(object, "none"), []);
});

test("a command that is not there is named, with its package", async () => {
  await assert.rejects(runCommand("no-such-command", ["-x"]), (error: Error) => {
    assert.ok(error instanceof HostError);
    assert.match(error.message, /cannot run `no-such-command -x`: .* is not installed/);
    return true;
  });
});

test("a command that fails is named, with what it said", async () => {
  const script = "echo >&2; echo 'no luck' >&2; exit 3";
  await assert.rejects(runCommand("sh", ["-c", script]), /`sh -c .*` failed: no luck$/);
  assert.equal(await tryCommand("sh", ["-c", script]), null);
  assert.equal(await tryCommand("sh", ["-c", "echo yes"]), "yes\n");
});

test("a complaint that says nothing has a text", () => {
  assert.equal(firstComplaint("\n \n"), "no reason given");
});
