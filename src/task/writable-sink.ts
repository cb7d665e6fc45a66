import { untilAborted, VortexError } from "../errors.ts";
import type { Destination, SinkLayout, SinkOpenOptions, SinkSession } from "./sink.ts";
import { StreamSink } from "./stream-sink.ts";

/**
 * Creates a destination that writes the content in order to a stream. Closes the stream after the
 * last byte, and aborts it if the download fails. The memory use is that of a {@link StreamSink}.
 *
 * Locks the stream at once, so that no other writer can lock it before the sink is opened.
 *
 * @throws `InvalidArgument` if the stream is locked
 */
export function writableSink(stream: WritableStream<Uint8Array<ArrayBuffer>>): Destination {
  if (stream.locked) {
    throw new VortexError(
      "InvalidArgument",
      "to: expected a WritableStream without a writer, got a locked one; release its writer first",
    );
  }
  const source = new StreamSink();
  const written = source.content.pipeTo(stream);
  /** Error of the stream before the sink was opened. */
  let early: VortexError | undefined;
  let report = (error: unknown): void => {
    early ??= storageFailure(error);
  };
  // A stream that cannot be piped to, such as one of another implementation, does not cancel the
  // source.
  written.catch((error: unknown) => report(error));
  const sink = {
    async open(layout: SinkLayout, options: SinkOpenOptions): Promise<SinkSession> {
      if (early !== undefined) throw early;
      // Only the stream reads from the source, so a failure of the source is one of the stream.
      report = (error) => options.onFailure(storageFailure(error));
      const session = await source.open(layout, {
        ...options,
        onFailure: (error) => report(error),
      });
      const release = session.finish.bind(session);
      return Object.assign(session, {
        finish: async ({ signal }: { readonly signal: AbortSignal }): Promise<void> => {
          await release({ signal });
          // Only now does the reader of the stream get the last chunk, and may delay the end.
          await untilAborted(written, signal, "writing the content to the stream").catch(
            (error: unknown) => {
              throw signal.aborted ? error : storageFailure(error);
            },
          );
        },
      });
    },
  };
  return { sink, fail: (error) => source.fail(error) };
}

/** Returns the error of a download whose stream failed or was closed. */
function storageFailure(error: unknown): VortexError {
  const cause = error instanceof VortexError && error.code === "Aborted" ? error.cause : error;
  return VortexError.from(cause, "StorageFailed", "writing to the stream failed");
}
