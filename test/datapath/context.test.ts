import assert from "node:assert/strict";
import { test } from "node:test";
import * as context from "../../src/datapath/context.ts";

test("every register has a place of its own", () => {
  const places = new Map<number, string>();
  for (const [name, value] of Object.entries(context)) {
    if (!name.startsWith("R_") || typeof value !== "number") continue;
    assert.equal(places.get(value), undefined, `${name} and ${places.get(value)} share a place`);
    assert.ok(value >= 0 && value < context.REGISTER_COUNT, `${name} is a register`);
    places.set(value, name);
  }
  assert.ok(places.size > 20, "the registers were found");
});
