/** Worker side of a measured process: carries out orders from standard input, and ends with it. */
import process from "node:process";
import { createInterface } from "node:readline";
import { VortexError } from "../src/errors.ts";
import type { Answer } from "./messages.ts";

/** Time for `close` before the process exits anyway, in ms. */
const GRACE_MS = 3000;

/**
 * Carries out orders and prints an answer for each.
 *
 * @param close releases all resources; called once, when the input ends
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
  // The input also ends when the measuring process is killed.
  lines.once("close", () => {
    setTimeout(() => process.exit(1), GRACE_MS);
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
