import { abortedError } from "../../errors.ts";
import { onAbort } from "../../on-abort.ts";
import type { Flow } from "../../rate-limiter.ts";
import type { PendingWriteBudget } from "./pending-writes.ts";

/**
 * Yields a chunk of an answer in portions, each when the upload rate lets it pass; without a flow, at once.
 * Throws when the signal fires, and `Stalled` when too much waits, see {@link PendingWriteBudget}.
 *
 * @param flow of the answer, from its first chunk to its last: the oldest answer of a network is served first, see {@link networkOf}
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
      // All of the chunk is in memory meanwhile, and there may be as many as there are streams.
      return await pendingWrites.hold(chunk.length, limited.take(length, waiting.signal));
    } finally {
      settled();
      waiting.abort();
    }
  }
}
