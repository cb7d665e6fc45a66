import { abortedError } from "../../errors.ts";
import { onAbort } from "../../on-abort.ts";
import type { Flow } from "../../rate-limiter.ts";
import type { PendingWriteBudget } from "./pending-writes.ts";

/**
 * Splits a chunk of a response into portions, and yields each portion as soon as the upload rate
 * limit permits. Without `flow` there is no rate limit, so the chunk is yielded as one portion.
 *
 * @param flow entry of the response in the rate limiter, or undefined without a rate limit. All
 * chunks of a response must use the same flow. For each IPv4 address or IPv6 /64, the limiter
 * serves the oldest flow first
 * @throws the signal's reason if it is a `VortexError`, else `Aborted`, when the signal aborts
 * @throws `Stalled` if {@link PendingWriteBudget} evicts the chunk while it waits
 */
export async function* rateLimited(
  chunk: Uint8Array,
  flow: Flow | undefined,
  signal: AbortSignal,
  pendingWrites: PendingWriteBudget,
): AsyncGenerator<Uint8Array, void, void> {
  for (let at = 0; at < chunk.length; ) {
    const rest = chunk.subarray(at);
    const granted =
      flow === undefined ? rest.length : flow.takeNow(rest.length) || (await wait(rest, flow));
    if (signal.aborted) throw abortedError(signal, "an answer");
    yield rest.subarray(0, granted);
    at += granted;
  }

  async function wait({ length }: Uint8Array, limited: Flow): Promise<number> {
    const waiting = new AbortController();
    const settled = onAbort(signal, () => waiting.abort());
    try {
      // The whole chunk stays in memory while it waits, for as many streams as there are.
      return await pendingWrites.hold(chunk.length, limited.take(length, waiting.signal));
    } finally {
      settled();
      waiting.abort();
    }
  }
}
