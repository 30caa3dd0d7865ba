import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { createPcap, LINK_ETHERNET, openPcap } from "../../src/device/pcap.ts";
import { labProgram, PROJECT_ROOT } from "../support/lab.ts";
import { GATEWAY_MACS } from "../support/memory-gateway.ts";
import { run, start } from "../support/processes.ts";
import type { Family } from "./same-bytes-family.ts";

/**
 * Three namespaces whose ends replay frames and capture what comes out:
 *
 *   client -- veth -- kernel (eth0, eth1) -- veth -- server
 *
 * Neighbours are permanent, and the kernels at both ends answer nothing.
 */
export interface SameBytesLab {
  readonly directory: string;
  /** Name of the namespace in the middle. */
  readonly kernel: string;
  /** In the namespace in the middle. @returns standard output */
  inKernel(command: string): string;
  /** Have frames to these clients find them. */
  addClients(clients: Iterable<string>): void;
  /** Begin to capture on both sides. */
  observe(): Promise<void>;
  /** Send frames into a side: 0 the client's, 1 the server's. */
  replay(side: 0 | 1, frames: readonly Uint8Array[]): Promise<void>;
  /** End the capture. @returns what of the family's traffic left on each side */
  captured(): Promise<[Uint8Array[], Uint8Array[]]>;
  stop(): void;
}

export const CLIENT_MAC = "02:00:00:00:01:02";
const SETTLE_MS = 300;
const CAPTURE_BYTES = 64 << 20;

const sh = (command: string): string => execFileSync("sh", ["-ec", command], { encoding: "utf8" });

function link(names: { client: string; kernel: string; server: string }, family: Family): void {
  const { client, kernel, server } = names;
  for (const name of [client, kernel, server]) {
    sh(`ip netns add ${name}; ip -n ${name} link set lo up`);
  }
  sh(`ip -n ${client} link add eth0 type veth peer name eth0 netns ${kernel}`);
  sh(`ip -n ${server} link add eth0 type veth peer name eth1 netns ${kernel}`);
  sh(`ip -n ${client} link set eth0 address ${CLIENT_MAC} up`);
  sh(`ip -n ${server} link set eth0 address ${family.backendMac} up`);
  sh(`ip -n ${kernel} link set eth0 address ${GATEWAY_MACS[0]} up`);
  sh(`ip -n ${kernel} link set eth1 address ${GATEWAY_MACS[1]} up`);
  for (const [name, device] of [
    [client, "eth0"],
    [server, "eth0"],
    [kernel, "eth0"],
    [kernel, "eth1"],
  ]) {
    sh(`ip netns exec ${name} ethtool -K ${device} tx off gro off >/dev/null 2>&1 || true`);
    const disabled = family.version === 6 && name === kernel ? 0 : 1;
    const keys = `net.ipv6.conf.${device}`;
    sh(`ip netns exec ${name} sysctl -qw ${keys}.disable_ipv6=${disabled} ${keys}.accept_dad=0`);
  }
  for (const address of family.kernelAddresses) sh(`ip -n ${kernel} addr add ${address}`);
  const neighbour = `${family.backend} lladdr ${family.backendMac} dev eth1`;
  sh(`ip -n ${kernel} neigh replace ${neighbour} nud permanent`);
  for (const name of [client, server]) {
    const chain = `type filter hook ingress device "eth0" priority 0; policy drop;`;
    sh(`ip netns exec ${name} nft 'table netdev quiet { chain in { ${chain} }; }'`);
  }
}

/** @param tag - begins the names of its namespaces */
export function createSameBytesLab(tag: string, family: Family): SameBytesLab {
  const directory = mkdtempSync(path.join(os.tmpdir(), "headgate-same-"));
  const names = { client: `${tag}c`, kernel: `${tag}k`, server: `${tag}s` };
  const ends = [names.client, names.server] as const;
  const files = ends.map((name) => path.join(directory, `${name}.pcap`));
  let observers: ReturnType<typeof start>[] = [];
  function stop(): void {
    for (const name of Object.values(names)) {
      try {
        sh(`ip netns del ${name} 2>/dev/null`);
      } catch {
        // It was never made.
      }
    }
    rmSync(directory, { recursive: true, force: true });
  }
  try {
    link(names, family);
  } catch (error) {
    stop();
    throw error;
  }
  const observer = path.join(labProgram(""), "..", "test", "support", "observer-main.js");
  const replayer = path.join(PROJECT_ROOT, "lab/tools/replay.py");

  return {
    directory,
    kernel: names.kernel,
    inKernel: (command) => sh(`ip netns exec ${names.kernel} ${command}`),
    addClients(clients) {
      for (const client of clients) {
        const neighbour = `${client} lladdr ${CLIENT_MAC} dev eth0`;
        sh(`ip -n ${names.kernel} neigh replace ${neighbour} nud permanent`);
      }
    },
    async observe() {
      observers = ends.map((name, side) => {
        const filter = `ether src ${GATEWAY_MACS[side as 0 | 1]}`;
        const argv = [observer, "eth0", files[side]!, filter, String(CAPTURE_BYTES)];
        return start(["ip", "netns", "exec", name, process.execPath, ...argv]);
      });
      await Promise.all(observers.map((each) => each.waitLine(/^ready$/)));
    },
    async replay(side, frames) {
      const file = path.join(directory, "in.pcap");
      const writer = createPcap(file, LINK_ETHERNET);
      for (const frame of frames) writer.write(frame, 0n);
      writer.close();
      const argv = ["/usr/bin/python3", replayer, file, "eth0"];
      await run(["ip", "netns", "exec", ends[side], ...argv], { timeoutMs: 60_000 });
    },
    async captured() {
      await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
      for (const each of observers) {
        const { code } = await each.stop("SIGTERM");
        if (code !== 0)
          throw new Error(`an observer ended with ${code}:\n${each.lines.join("\n")}`);
      }
      const [client, server] = files.map((file) =>
        [...openPcap(file)].map(({ bytes }) => bytes).filter(family.isTraffic),
      );
      return [client!, server!];
    },
    stop,
  };
}
