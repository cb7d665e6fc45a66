import { hasMethods } from "../arguments.ts";
import { VortexError } from "../errors.ts";
import type { SinkLayout, SinkOpenOptions, SinkSession, TaskSink } from "./sink.ts";

/**
 * Opens a sink. The returned session checks what a custom sink returns. Errors become
 * `StorageFailed` unless they are a `VortexError`. A read has at least one and at most the
 * requested bytes. `abort` never rejects.
 *
 * Rejects with `InvalidArgument` if `open` resolves with anything but a session.
 */
export async function openSink(
  sink: TaskSink,
  layout: SinkLayout,
  options: SinkOpenOptions,
): Promise<SinkSession> {
  const session = await checked("opening the sink", async () => sink.open(layout, options));
  const opened: unknown = session;
  if (!hasMethods(opened, ["write", "commit", "read", "advance", "finish", "abort"]))
    throw new VortexError(
      "InvalidArgument",
      "sink: expected open to resolve with a session, got a value without its methods",
    );
  if (!Array.isArray(session.resumed))
    throw new VortexError(
      "InvalidArgument",
      "sink: expected a session whose resumed is an array, got another value",
    );
  return {
    get resumed() {
      return session.resumed;
    },
    get limit() {
      return session.limit ?? Number.POSITIVE_INFINITY;
    },
    // The callers of these methods report their errors.
    write: async (number, position, chunk) => session.write(number, position, chunk),
    commit: async (piece) => session.commit(piece),
    advance: async (position) => session.advance(position),
    async read(number, position, length, into) {
      const bytes = await checked("reading from the sink", async () =>
        session.read(number, position, length, into),
      );
      const count: unknown = bytes instanceof Uint8Array ? bytes.length : undefined;
      if (typeof count !== "number" || count < 1 || count > length)
        throw new VortexError(
          "StorageFailed",
          `read of the sink: expected 1 to ${length} bytes, got ${count ?? "no Uint8Array"}`,
        );
      return bytes;
    },
    ...(session.restart && {
      restart: (kept) => checked("restarting the sink", async () => session.restart?.(kept)),
    }),
    canRead: (number) => session.canRead?.(number) ?? true,
    finish: (how) => checked("completing the sink", async () => session.finish(how)),
    async abort(error, how) {
      try {
        await session.abort(error, how);
      } catch {
        // The error of the download is reported.
      }
    },
  };
}

/** Returns the result of `work`. Its error becomes `StorageFailed` unless it is a `VortexError`. */
async function checked<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw VortexError.from(error, "StorageFailed", `${what} failed`);
  }
}
