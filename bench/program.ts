/** The side of a measured process: takes orders from its standard input, and ends with it. */
import process from "node:process";
import { createInterface } from "node:readline";
import { VortexError } from "../src/errors.ts";
import type { Answer } from "./messages.ts";

/** Milliseconds for what is open to be closed, before the process ends anyway. */
const GRACE = 3000;

/**
 * Carries orders out, one at a time, and prints an answer for each.
 * @param close ends what is open; run once, when no more orders come
 */
export function carryOutOrders<Order>(
  carryOut: (order: Order) => Promise<unknown>,
  close: () => Promise<void>,
): void {
  const lines = createInterface({ input: process.stdin });
  lines.on("line", (line) => {
    void answerOf(() => carryOut(JSON.parse(line) as Order)).then((answer) =>
      console.log(JSON.stringify(answer)),
    );
  });
  // Also when the measuring process is gone, however it went.
  lines.once("close", () => {
    setTimeout(() => process.exit(1), GRACE);
    close().then(
      () => process.exit(0),
      (error) => {
        console.error(error);
        process.exit(1);
      },
    );
  });
}

async function answerOf(work: () => Promise<unknown>): Promise<Answer<unknown>> {
  try {
    return { ok: (await work()) ?? null };
  } catch (error) {
    const missing = error instanceof VortexError && error.code === "Unavailable";
    return { failed: error instanceof Error ? error.message : String(error), missing };
  }
}
