import type { MinimumHealthy } from "../../service/definition.ts";
import type { ValueKind } from "./fields.ts";

/** Kinds of values of priorities and pools. */

const PERCENT = /^(\d{1,3}) ?%$/;

/** `50%`, both ends included; read as the number. */
export function percent(low: number, high: number): ValueKind<number> {
  return {
    expects: `a percentage from ${low}% to ${high}%`,
    json: { type: "string", pattern: PERCENT.source },
    read: (input) => {
      const found = typeof input === "string" ? PERCENT.exec(input) : null;
      const number = Number(found?.[1] ?? Number.NaN);
      return number >= low && number <= high ? number : undefined;
    },
  };
}

const share = percent(1, 100);

/** `2`, or `70%`. */
export const backendCountOrPercent: ValueKind<MinimumHealthy> = {
  expects: `a whole number from 1 to 4096, or ${share.expects}`,
  json: { anyOf: [{ type: "integer", minimum: 1, maximum: 4096 }, share.json] },
  read: (input) => {
    if (typeof input === "number") {
      const isCount = Number.isInteger(input) && input >= 1 && input <= 4096;
      return isCount ? { count: input } : undefined;
    }
    const read = share.read(input);
    return typeof read === "number" ? { percent: read } : undefined;
  },
};
