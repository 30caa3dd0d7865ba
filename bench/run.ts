import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { run } from "../test/support/processes.ts";
import type { ReloadResult } from "./conns/reload.ts";
import {
  BACKEND_CASES,
  FLOW_CASES,
  RESIDENT_FLOWS as GATEWAY_FLOWS,
  measureGatewayResident,
  RELOAD_CASES,
} from "./conns/suite.ts";
import { measureHealth } from "./health.ts";
import { installPeers } from "./install.ts";
import { describeMachine, machineLine } from "./machine.ts";
import type { MemoryCase } from "./memory/fast-path.ts";
import type { MemoryResult, OneWayResult, SteadyResult } from "./memory/measure.ts";
import { NEW_FLOWS_CASES, type NewFlowsResult } from "./memory/new-flows.ts";
import {
  IPV6_CASES,
  MEMORY_CASES,
  memoryName,
  newFlowsName,
  ONE_WAY_CASES,
  type ResidentResult,
  WORKER_CASES,
} from "./memory/suite.ts";
import type { WorkersResult } from "./memory/workers.ts";
import { MICRO_NAMES, type MicroResult } from "./micro.ts";
import { TUNING_CONTENDERS } from "./pps/contenders.ts";
import { caseName, measurePps, PPS_CASES } from "./pps/suite.ts";
import {
  type Figures,
  formatFigures,
  type Results,
  readResults,
  SUITE_TITLES,
  SUITES,
  type Suite,
  writeDocument,
  writeResults,
} from "./report.ts";
import { measureSoak, type SoakResult } from "./soak.ts";
import { isWanted, spread } from "./statistics.ts";
import { HAPROXY_BUFFERS, HAPROXY_SPLICE, nginxConfiguration, SYSCTLS } from "./tcp/contenders.ts";
import { measureTcp } from "./tcp/suite.ts";

const USAGE = `node dist/bench/run.js micro|memory|lab-pps|lab-tcp|lab-conns|tuning|soak|health|all [options]

  micro     hot functions, each beside another way to do the same
  memory    the whole fast path on frames in memory
  lab-tcp   streams, new connections and requests through the lab: nftables, HAProxy, nginx, Headgate …
  lab-pps   60-byte and 1,500-byte UDP through the lab: the kernel, nftables, C forwarders, Headgate
  lab-conns cost and memory by flows and backends; reloads of 1,000 services
  tuning    lab-pps with one setting changed at a time; not part of all
  soak      a gateway at half load for --minutes; not part of all
  health    1,000 backends checked every second

  --rounds N       paired rounds (5)
  --seconds N      seconds of one measurement (micro 0.8, lab-tcp 1, lab-pps 0.6)
  --minutes N      soak: how long (60)
  --only 'A|B'     only contenders (micro: pairs) whose name contains A or B
  --cases 'A|B'    lab-pps: only cases whose name contains A or B ("60-byte UDP, 1,000 flows")
  --install        install the Debian packages of peers that are missing (testpmd, nginx's stream)
  --json FILE      all figures, with the machine, as JSON; suites of an earlier run stay in it
  --document FILE  tables and pictures as a Markdown document (docs/benchmarks.md is one)

The lab needs root. Rates depend on the machine and on what else it does: close everything else, and
compare the ratios of one run.
`;

interface Options {
  readonly rounds: number;
  readonly seconds: number | undefined;
  readonly only: string | undefined;
  readonly cases: string | undefined;
  readonly install: boolean;
  readonly minutes: number;
}

const say = (text: string): void => console.log(text);

async function child<T>(...args: readonly (string | number)[]): Promise<T> {
  const program = fileURLToPath(new URL("../bundled/bench/child.js", import.meta.url));
  const { stdout } = await run([process.execPath, program, ...args.map(String)], {
    timeoutMs: 300_000,
  });
  // V8 may have said something before.
  return JSON.parse(stdout.trimEnd().split("\n").at(-1)!) as T;
}

async function micro(options: Options): Promise<Figures["micro"]> {
  const figures: MicroResult[] = [];
  const names = MICRO_NAMES.filter((name) => isWanted(name, options.only));
  for (const name of names) figures.push(await child("micro", name, options.seconds ?? 0.8));
  return figures;
}

/** Flows of the resident set's measurement; `--only` names it "resident". */
const RESIDENT_FLOWS = 1_000_000;
const WORKERS_MS = 500;

async function memory({ rounds, seconds, only }: Options): Promise<Figures["memory"]> {
  const cases: MemoryResult[] = [];
  for (const one of MEMORY_CASES.filter((one) => isWanted(memoryName(one), only))) {
    const result = await child<MemoryResult>("memory", JSON.stringify(one), rounds);
    cases.push(result);
    say(`${memoryName(one)}: ${spread(result.ns, 0)} ns, C++ ${spread(result.referenceNs, 0)} ns`);
  }
  const ipv6: SteadyResult[] = [];
  for (const one of IPV6_CASES.filter((one) => isWanted(memoryName(one), only))) {
    ipv6.push(await child<SteadyResult>("alone", JSON.stringify(one), rounds));
    say(`${memoryName(one)}: ${spread(ipv6.at(-1)!.ns, 0)} ns`);
  }
  const oneWay: OneWayResult[] = [];
  for (const one of ONE_WAY_CASES.filter((one) => isWanted(memoryName(one), only))) {
    oneWay.push(await child<OneWayResult>("one-way", JSON.stringify(one), rounds));
    say(`${memoryName(one)}: ${spread(oneWay.at(-1)!.ns, 0)} ns`);
  }
  const workers: WorkersResult[] = [];
  for (const one of WORKER_CASES.filter((one) => isWanted(`workers, ${memoryName(one)}`, only))) {
    const ms = seconds === undefined ? WORKERS_MS : seconds * 1000;
    workers.push(await child<WorkersResult>("workers", JSON.stringify(one), rounds, ms));
  }
  const resident = isWanted("resident", only)
    ? await child<ResidentResult>("resident", RESIDENT_FLOWS)
    : null;
  const newFlows: NewFlowsResult[] = [];
  for (const one of NEW_FLOWS_CASES.filter((one) => isWanted(newFlowsName(one), only))) {
    newFlows.push(await child<NewFlowsResult>("new-flows", JSON.stringify(one)));
  }
  return { cases, ipv6, oneWay, workers, resident, newFlows };
}

async function labTcp({ rounds, seconds, only, install }: Options): Promise<Figures["lab-tcp"]> {
  if (install) installPeers();
  say(
    `Settings of every host: ${SYSCTLS.join(", ")}\n\nHAProxy, splice:\n\n${HAPROXY_SPLICE}\n` +
      `HAProxy, 1 MiB buffers:\n\n${HAPROXY_BUFFERS}\nnginx:\n\n${nginxConfiguration("FOLDER")}`,
  );
  return measureTcp(rounds, seconds ?? 1, only, say);
}

async function labPps({ seconds, install, ...options }: Options): Promise<Figures["lab-pps"]> {
  if (install) installPeers();
  return measurePps({ ...options, seconds: seconds ?? 0.6, say });
}

/** The first case of lab-pps with one setting changed at a time. */
async function tuning({ seconds, ...options }: Options): Promise<Figures["tuning"]> {
  const one = { ...options, cases: caseName(PPS_CASES[0]!), seconds: seconds ?? 0.6, say };
  return measurePps(one, TUNING_CONTENDERS);
}

/** A reload's round builds a thousand tables: fewer of them say as much. */
const RELOAD_ROUNDS_MAX = 3;

async function labConns({ rounds, only }: Options): Promise<Figures["lab-conns"]> {
  const memoryOf = async (cases: readonly MemoryCase[], what: string): Promise<MemoryResult[]> => {
    const results: MemoryResult[] = [];
    for (const one of isWanted(what, only) ? cases : []) {
      results.push(await child<MemoryResult>("memory", JSON.stringify(one), rounds));
      say(`${memoryName(one)}: ${spread(results.at(-1)!.ns, 0)} ns`);
    }
    return results;
  };
  const byFlows = await memoryOf(FLOW_CASES, "flows");
  const byBackends = await memoryOf(BACKEND_CASES, "backends");
  const resident = isWanted("resident", only) ? await measureGatewayResident(GATEWAY_FLOWS) : [];
  const reloads: ReloadResult[] = [];
  for (const one of isWanted("reload", only) ? RELOAD_CASES : []) {
    const times = Math.min(rounds, RELOAD_ROUNDS_MAX);
    reloads.push(await child<ReloadResult>("reload", JSON.stringify(one), times));
  }
  return { byFlows, byBackends, resident, reloads };
}

/** Of one round. */
const HEALTH_SECONDS = 5;

const SOAK_DEVICES = ["xdp", "packet", "tun"] as const;

/** AF_XDP unless `--only` names another device. */
async function soak({ only, minutes }: Options): Promise<Figures["soak"]> {
  const results: SoakResult[] = [];
  const devices = SOAK_DEVICES.filter((name) =>
    only === undefined ? name === "xdp" : isWanted(name, only),
  );
  for (const device of devices) results.push(await measureSoak(device, minutes * 60));
  return results;
}

const RUN: { readonly [Name in Suite]: (options: Options) => Promise<Figures[Name]> } = {
  micro,
  memory,
  "lab-tcp": labTcp,
  "lab-pps": labPps,
  "lab-conns": labConns,
  tuning,
  soak,
  health: ({ rounds, seconds }) => measureHealth(rounds, seconds ?? HEALTH_SECONDS),
};

/** @returns the options, or the sentence that says what is wrong */
function readArguments():
  | { suites: Suite[]; options: Options; json?: string; document?: string }
  | string {
  const parse = () =>
    parseArgs({
      allowPositionals: true,
      options: {
        rounds: { type: "string", default: "5" },
        seconds: { type: "string" },
        only: { type: "string" },
        cases: { type: "string" },
        minutes: { type: "string", default: "60" },
        install: { type: "boolean", default: false },
        json: { type: "string" },
        document: { type: "string" },
      },
    });
  let parsed: ReturnType<typeof parse>;
  try {
    parsed = parse();
  } catch (error) {
    return (error as Error).message;
  }
  const { values, positionals } = parsed;
  const [name = "all", ...more] = positionals;
  if (more.length > 0) return `one suite at a time, got ${positionals.join(" ")}`;
  const suites =
    name === "all"
      ? SUITES.filter((suite) => suite !== "soak" && suite !== "tuning")
      : SUITES.filter((suite) => suite === name);
  if (suites.length === 0) return `no suite ${name}`;
  const rounds = Number(values.rounds);
  if (!Number.isInteger(rounds) || rounds < 1 || rounds > 100) return "--rounds takes 1 to 100";
  const seconds = values.seconds === undefined ? undefined : Number(values.seconds);
  if (seconds !== undefined && !(seconds > 0 && seconds <= 60)) {
    return "--seconds takes more than 0 and at most 60";
  }
  const minutes = Number(values.minutes);
  if (!(minutes > 0 && minutes <= 60)) return "--minutes takes more than 0 and at most 60";
  return {
    suites,
    options: {
      minutes,
      rounds,
      seconds,
      only: values.only,
      cases: values.cases,
      install: values.install,
    },
    ...(values.json === undefined ? {} : { json: values.json }),
    ...(values.document === undefined ? {} : { document: values.document }),
  };
}

/** Run a suite, print its table, and add its figures to the results. */
async function measure<Name extends Suite>(
  suite: Name,
  options: Options,
  results: Results,
): Promise<Results> {
  say(`\n== ${suite}: ${SUITE_TITLES[suite]}`);
  const figures: Figures[Name] = await RUN[suite](options);
  say(`\n${formatFigures(suite, figures)}`);
  const at = new Date().toISOString();
  return {
    ...results,
    [suite]: { machine: describeMachine(), at, rounds: options.rounds, figures },
  };
}

async function main(): Promise<number> {
  const asked = readArguments();
  if (typeof asked === "string") {
    console.error(`bench: ${asked}\n\n${USAGE}`);
    return 2;
  }
  if (
    asked.suites.some((suite) => suite !== "micro" && suite !== "memory") &&
    process.getuid?.() !== 0
  ) {
    console.error(
      "bench: all suites but micro and memory make network namespaces, which only root may do",
    );
    return 77;
  }
  let results: Results = {};
  try {
    if (asked.json !== undefined) results = readResults(asked.json);
  } catch (error) {
    console.error(`bench: ${asked.json}: ${(error as Error).message}; it is not overwritten`);
    return 2;
  }
  say(machineLine(describeMachine()));
  for (const suite of asked.suites) {
    results = await measure(suite, asked.options, results);
    if (asked.json !== undefined) writeResults(asked.json, results);
    if (asked.document !== undefined) writeDocument(asked.document, results);
  }
  return 0;
}

process.exitCode = await main();
