/** Small configuration files for tests: every row says only what it is about. */

export const DEVICE = "device: { type: packet, interfaces: [eth0] }\n";

/** Keys of one service as YAML; null takes a key out. */
export type ServiceText = Readonly<Record<string, string | null>>;

const BASE = { name: "web", vip: "203.0.113.10", port: "80", protocol: "tcp" };
const BACKENDS = "[{ address: 10.20.0.11, port: 8080 }]";

/** One entry of `services`: the base keys, those given, and one backend unless it is given. */
export function service(keys: ServiceText = {}): string {
  const all: ServiceText = { ...BASE, ...keys };
  const withBackends = "backends" in keys ? all : { ...all, backends: BACKENDS };
  return Object.entries(withBackends)
    .filter(([, value]) => value !== null)
    .map(([key, value], index) => `${index === 0 ? "  - " : "    "}${key}: ${value}\n`)
    .join("");
}

/** A file with a line at the top and one right service. */
export function top(line: string): string {
  return `${DEVICE}${line}\nservices:\n${service()}`;
}

/** A file with one service. */
export function one(keys: ServiceText): string {
  return `${DEVICE}services:\n${service(keys)}`;
}

/** A file with two services; the second is called api. */
export function two(first: ServiceText, second: ServiceText): string {
  return `${DEVICE}services:\n${service(first)}${service({ name: "api", ...second })}`;
}

export interface BadConfig {
  readonly name: string;
  readonly given: string;
  /** Every problem, in the order of the file. */
  readonly want: readonly string[];
}
