import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { PROJECT_ROOT } from "../support/lab.ts";

/** docs/conformance.md names code and tests; what it names has to be there. */

const PAGE = readFileSync(path.join(PROJECT_ROOT, "docs", "conformance.md"), "utf8");

interface Row {
  readonly section: string;
  readonly rule: string;
  readonly answer: string;
  readonly code: string;
  readonly shown: string;
}

function rows(): Row[] {
  let section = "";
  return PAGE.split("\n").flatMap((line): Row[] => {
    if (line.startsWith("## ")) section = line.slice(3);
    if (!line.startsWith("| ") || section === "") return [];
    const cells = line
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim());
    assert.equal(cells.length, 5, line);
    const [rule, , answer, code, shown] = cells as [string, string, string, string, string];
    return rule === "rule" || rule === "section" ? [] : [{ section, rule, answer, code, shown }];
  });
}

function contents(file: string, row: Row): string {
  const full = path.join(PROJECT_ROOT, file);
  assert.ok(existsSync(full), `${row.section}, ${row.rule}: no file ${file}`);
  return readFileSync(full, "utf8");
}

test("every function and test that the page names is there", () => {
  let names = 0;
  for (const row of rows()) {
    if (row.code !== "") {
      const found = /^`(src\/[\w/.-]+\.ts)` `(\w+)`$/.exec(row.code);
      assert.ok(found !== null, `${row.section}, ${row.rule}: ${row.code}`);
      const [, file = "", name = ""] = found;
      const declared = new RegExp(`(function|const) ${name}\\b`);
      assert.match(contents(file, row), declared, `${row.section}, ${row.rule}: ${name}`);
      names++;
    }
    if (row.shown !== "") {
      const found = /^`(test\/[\w/.-]+\.test\.ts)` "(.+)"$/.exec(row.shown);
      assert.ok(found !== null, `${row.section}, ${row.rule}: ${row.shown}`);
      const [, file = "", title = ""] = found;
      assert.ok(contents(file, row).includes(title), `${row.section}, ${row.rule}: "${title}"`);
      names++;
    }
  }
  assert.ok(names > 100, `${names} names`);
});

test("every requirement is there once, with an answer", () => {
  const counts: Record<string, number> = {
    "RFC 4787": 14,
    "RFC 5382": 10,
    "RFC 5508": 11,
  };
  const all = rows();
  for (const [rfc, count] of Object.entries(counts)) {
    const own = all.filter((row) => row.section.startsWith(rfc)).map(({ rule }) => rule);
    assert.equal(new Set(own).size, own.length, `${rfc}: ${own.join()}`);
    for (let number = 1; number <= count; number++) {
      assert.ok(
        own.some((rule) => rule.startsWith(`REQ-${number}`)),
        `${rfc} REQ-${number}`,
      );
    }
  }
  const sections = all.filter((row) => row.section.startsWith("RFC 7857")).map(({ rule }) => rule);
  for (let number = 2; number <= 12; number++)
    assert.ok(sections.includes(`${number}`), `${number}`);
  for (const row of all) {
    assert.match(
      row.answer,
      /^(yes|no|n\/a|in part|full-nat|as RFC)\b/,
      `${row.section}, ${row.rule}`,
    );
    // Who says yes shows it; where there is nothing to show, nothing is there.
    if (/^yes/.test(row.answer) && !/there are none|it is off/.test(row.answer)) {
      assert.notEqual(row.shown, "", `${row.section}, ${row.rule}`);
    }
  }
});
