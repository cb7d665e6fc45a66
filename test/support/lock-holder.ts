/**
 * Test program: acquires a file lock and prints `held`. Releases the lock when its standard input
 * ends.
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
