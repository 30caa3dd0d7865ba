import { execFileSync } from "node:child_process";

/** Peers that the project itself does not need: DPDK's testpmd, nginx's TCP proxy. */
const PACKAGES = ["dpdk-dev", "libnginx-mod-stream"] as const;

/**
 * Install the peers that some contenders are (`--install`); services of theirs do not matter, since
 * nginx is there already and DPDK has none.
 *
 * @throws Error when apt-get fails
 */
export function installPeers(): void {
  const how = {
    stdio: "pipe",
    timeout: 300_000,
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
  } as const;
  execFileSync("apt-get", ["update"], how);
  execFileSync("apt-get", ["install", "-y", "--no-install-recommends", ...PACKAGES], how);
}
