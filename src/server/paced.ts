import { abortedError } from "../errors.ts";
import { onAbort } from "../on-abort.ts";
import type { ServerSettings } from "./upload.ts";

/**
 * A chunk of an answer in portions, each when the upload rate lets it pass: networks have equal shares of that, see {@link networkOf}.
 * Throws when the signal fires, and `Stalled` when too much waits, see {@link UnreadAnswers}.
 */
export async function* paced(
  chunk: Uint8Array,
  network: string,
  signal: AbortSignal,
  { limiter, unread }: Pick<ServerSettings, "limiter" | "unread">,
): AsyncGenerator<Uint8Array, void, void> {
  for (const portion of limiter?.portions(chunk) ?? [chunk]) {
    if (limiter?.takeNow(portion.length) === false) {
      const waiting = new AbortController();
      const settled = onAbort(signal, () => waiting.abort());
      try {
        // All of the chunk is in memory meanwhile, and there may be as many as there are streams.
        await unread.hold(chunk.length, limiter.take(portion.length, waiting.signal, network));
      } finally {
        settled();
        waiting.abort();
      }
    }
    if (signal.aborted) throw abortedError(signal, "an answer");
    yield portion;
  }
}
