/**
 * Runs a parent in a separate process, so that a test can kill it:
 *
 *     parent-process.ts IP SCHEDULER TASK_JSON UPLOAD_RATE_LIMIT
 *
 * Prints `ready`, then a line for each requested piece. Ends with its standard input.
 */
import process from "node:process";
import type { LabTask } from "./lab.ts";
import { Parent } from "./parent.ts";

const [, , ip = "", scheduler = "", task = "", limit] = process.argv;
const parent = await Parent.start({
  ip,
  scheduler,
  uploadRateLimit: Number(limit),
  onPiece: (number) => console.log(`piece ${number}`),
});
await parent.add(JSON.parse(task) as LabTask);
console.log("ready");
process.stdin.on("end", () => process.exit()).resume();
