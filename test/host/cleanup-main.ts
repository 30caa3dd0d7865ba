import { cleanUp } from "../../src/host/cleanup.ts";

/** Runs the cleanup in a namespace: `cleanup-main.js [BPF_FOLDER]` prints what it removed. */
try {
  const folder = process.argv[2];
  console.log(`removed ${JSON.stringify(await cleanUp(folder))}`);
} catch (error) {
  console.log(`failed ${String(error)}`);
}
