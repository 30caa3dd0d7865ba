import assert from "node:assert/strict";
import { test } from "node:test";
import { deviceAddress, deviceNumber, TABLES } from "../../src/host/tun-leftovers.ts";
import { addressText } from "../support/frames.ts";

test("hg0 to hg99 have numbers of their own, and every other name one behind them", () => {
  const numbers = Array.from({ length: 100 }, (_, index) => deviceNumber(`hg${index}`));
  assert.deepEqual(
    numbers,
    Array.from({ length: 100 }, (_, index) => index),
  );
  for (const name of ["hg100", "hg00", "hg", "web", "a-long-name-15c"]) {
    const number = deviceNumber(name);
    assert.ok(number >= 100 && number < TABLES, `${name}: ${number}`);
    assert.equal(deviceNumber(name), number, "the next process finds the same");
  }
});

test("a device's address is link-local", () => {
  assert.equal(addressText(deviceAddress("hg0")), "169.254.64.1");
  assert.equal(addressText(deviceAddress("hg99")), "169.254.64.100");
});
