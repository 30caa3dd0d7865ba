import { DEVICES, type Device, type Row, renderMatrix } from "./matrix/cells.ts";
import { runMatrix } from "./matrix/world.ts";

/**
 * npm run lab -- matrix [tun|packet|xdp ...]
 *
 * Every forwarding mode with both families over every device, with real servers in namespaces; prints
 * a table. Exit code 1 when a cell fails, 2 for a device that is none, 77 without root.
 */
const words = process.argv.slice(2);
const devices = words.length === 0 ? DEVICES : DEVICES.filter((device) => words.includes(device));
if (words.some((word) => !DEVICES.includes(word as Device))) {
  console.error("usage: npm run lab -- matrix [tun|packet|xdp ...]");
  process.exit(2);
}
if (process.getuid?.() !== 0) {
  console.error("the matrix makes network namespaces, which only root may do; run it as root");
  process.exit(77);
}

const REQUESTS = 60;
const rows: Row[] = [];
for (const device of devices) {
  const found = await runMatrix({ device, requests: REQUESTS });
  console.error(
    `${device}: ${found.filter(({ outcome }) => outcome.result === "pass").length} pass`,
  );
  rows.push(...found);
}
console.log(renderMatrix(rows));
const failed = rows.filter(({ outcome }) => outcome.result === "FAIL").length;
console.log(`\n${failed === 0 ? "PASS" : "FAIL"}  matrix: ${failed} of ${rows.length} cells fail`);
process.exitCode = failed === 0 ? 0 : 1;
