/** Server process of one subject. Argument: `ServerArguments` as JSON. */
import process from "node:process";
import type { ServerArguments, ServerOrder } from "./messages.ts";
import { carryOutOrders } from "./program.ts";
import type { Serving } from "./subject.ts";
import { subjectNamed } from "./subjects.ts";
import { startUsage } from "./usage.ts";

const order = JSON.parse(process.argv[2] ?? "") as ServerArguments;
let serving: Serving | undefined;
let usage = startUsage();

carryOutOrders<ServerOrder>(
  async (message) => {
    switch (message.do) {
      case "listen": {
        const subject = await subjectNamed(order.subject).load();
        const bytes = randomBytes(order.contentLength);
        serving = await subject.serve({ bytes, pieceLengths: order.pieceLengths }, order.host);
        return serving.peer;
      }
      case "count":
        usage = startUsage();
        return;
      case "usage":
        return usage();
    }
  },
  async () => serving?.close(),
);

/** Returns random bytes, since constant ones would favour compression. */
function randomBytes(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  // getRandomValues fills at most 65,536 bytes per call.
  for (let at = 0; at < length; at += 65_536)
    crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  return bytes;
}
