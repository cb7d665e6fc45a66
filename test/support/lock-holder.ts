/**
 * Test program: takes a file lock, prints `held`, and releases the lock when standard input ends.
 *
 *     lock-holder.ts PATH
 */
import process from "node:process";
import { FileLock } from "../../adapters/files/lock.ts";

const [path = ""] = process.argv.slice(2);
const lock = await FileLock.take(path);
console.log("held");
process.stdin.resume();
process.stdin.once("end", async () => {
  await lock.release();
  process.exit(0);
});
