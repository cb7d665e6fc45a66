import { abortedError } from "../../errors.ts";
import { onAbort } from "../../on-abort.ts";
import type { Flow } from "../../rate-limiter.ts";
import type { PendingWriteBudget } from "./pending-writes.ts";

/**
 * Yields a chunk of an answer in portions, each as soon as the upload rate permits; without a flow,
 * in one portion. Throws when the signal aborts. Throws `Stalled` when the chunk is evicted from
 * memory, see {@link PendingWriteBudget}.
 *
 * @param flow flow of the answer. The same one must be used for all its chunks, because the oldest
 * answer of a network is served first, see {@link networkOf}
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
