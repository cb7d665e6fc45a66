import { implementing, required, requireOptions } from "../arguments.ts";
import { VortexError } from "../errors.ts";
import type { SinkSession, TaskSink } from "./sink.ts";

/** Storage of a {@link randomAccessSink}. Positions are relative to the first requested byte. */
export interface RandomAccess {
  /**
   * Writes bytes at a position. Calls for different pieces overlap, and the same position may be
   * written again after a failed attempt. The memory of `bytes` is reused after the promise has
   * resolved.
   */
  write(position: number, bytes: Uint8Array): Promise<void>;
  /** Reads at least one and at most `length` bytes that were written before. */
  read(position: number, length: number): Promise<Uint8Array>;
  /** Completes the content, which is whole and verified. Default: nothing. */
  close?(): Promise<void>;
  /** Gives up the content after `error`, for example deletes it. Default: nothing. */
  abort?(error: unknown): Promise<void>;
}

/**
 * Creates a sink from storage that is written and read at any position, such as a database blob.
 * Does not resume: a later download starts again. Errors of the storage fail the download with
 * `StorageFailed`; an error of `abort` is ignored.
 *
 * @throws `InvalidArgument` if `storage` has no `write` or `read`
 *
 * @example
 * ```ts
 * import { createDownloader } from "vortex-peer";
 * import { randomAccessSink } from "vortex-peer/tasks";
 *
 * const content = new Uint8Array(4_200_000);
 * const to = randomAccessSink({
 *   write: async (position, bytes) => content.set(bytes, position),
 *   read: async (position, length) => content.subarray(position, position + length),
 * });
 * const downloader = createDownloader();
 * const taskId = "7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd";
 * await downloader.downloadTask({ taskId, parents: ["10.0.0.7:4005"], to });
 * await downloader.close();
 * ```
 */
export function randomAccessSink(storage: RandomAccess): TaskSink {
  requireOptions(
    "randomAccessSink",
    { storage },
    { storage: required(implementing("storage", "write", "read")) },
  );
  let used = false;
  return {
    async open(): Promise<SinkSession> {
      if (used)
        throw new VortexError(
          "InvalidArgument",
          "random-access sink: expected one download, got a second; create a sink for each",
        );
      used = true;
      return {
        resumed: [],
        write: (_number, position, chunk) => guarded(async () => storage.write(position, chunk)),
        async commit() {},
        read: (_number, position, length) => guarded(async () => storage.read(position, length)),
        // The download writes the dropped pieces again, at the same positions.
        async restart() {},
        async advance() {},
        finish: () => guarded(async () => storage.close?.()),
        async abort(error) {
          await storage.abort?.(error);
        },
      };
    },
  };
}

/**
 * Returns the result of a call of the storage. Its error, also one that is thrown at once, becomes
 * `StorageFailed`.
 */
async function guarded<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    throw VortexError.from(error, "StorageFailed", "storage of the random-access sink failed");
  }
}
