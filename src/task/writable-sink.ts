import { untilAborted, VortexError } from "../errors.ts";
import type { SinkLayout, SinkOpenOptions, SinkSession, TaskSink } from "./sink.ts";
import { StreamSink } from "./stream-sink.ts";

/**
 * Creates a sink that writes the content in order to a stream. Closes the stream after the last
 * byte, and aborts it if the download fails. The memory use is that of a {@link StreamSink}.
 *
 * @throws `InvalidArgument` if the stream is locked
 */
export function writableSink(stream: WritableStream<Uint8Array>): TaskSink {
  if (stream.locked) {
    throw new VortexError(
      "InvalidArgument",
      "to: expected a WritableStream without a writer, got a locked one; release its writer first",
    );
  }
  const source = new StreamSink();
  return {
    async open(layout: SinkLayout, options: SinkOpenOptions): Promise<SinkSession> {
      const session = await source.open(layout, {
        ...options,
        // Only the stream reads from the source, so a failure of the source is one of the stream.
        onFailure: (error) => options.onFailure(storageFailure(error)),
      });
      const written = source.content.pipeTo(stream);
      // The download reports the error: a failure of the stream cancels the source.
      written.catch(() => {});
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
}

/** Returns the error of a download whose stream failed or was closed. */
function storageFailure(error: unknown): VortexError {
  const cause = error instanceof VortexError && error.code === "Aborted" ? error.cause : error;
  return VortexError.from(cause, "StorageFailed", "writing to the stream failed");
}
