import { type Checks, integer, requireOptions } from "../arguments.ts";
import { VortexError } from "../errors.ts";
import { PieceBuffers } from "./piece-buffers.ts";
import type { SinkLayout, SinkPiece, SinkSession, TaskSink } from "./sink.ts";

/** Options of {@link memorySink}. */
export interface MemorySinkOptions {
  /**
   * Maximum number of requested bytes. A longer download fails with `StorageFailed`. Default: 1
   * GiB.
   */
  readonly maxLength?: number | undefined;
}

/** Sink that keeps the whole content in memory. */
export interface MemorySink extends TaskSink {
  /**
   * Returns the downloaded content after the download has succeeded. The caller must not modify the
   * returned bytes while the store of the download serves them to peers.
   *
   * @throws `InvalidArgument` if the download has not succeeded
   */
  bytes(): Uint8Array<ArrayBuffer>;
}

/**
 * Creates a sink that stores the content in memory. Memory use grows with the received pieces. At
 * the end of the download, it is briefly twice the content length.
 *
 * @throws `InvalidArgument` if `maxLength` is not a non-negative integer
 *
 * @example
 * ```ts
 * import { createDownloader, memorySink } from "vortex-peer";
 *
 * const downloader = createDownloader({ protocol: "tcp" });
 * const taskId = "7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd";
 * const sink = memorySink();
 * await downloader.downloadTask({ taskId, parents: ["10.0.0.7:4005"], to: sink });
 * console.log(sink.bytes().length);
 * await downloader.close();
 * ```
 */
export function memorySink(options: MemorySinkOptions = {}): MemorySink {
  requireOptions("memorySink", options, memorySinkChecks);
  const { maxLength = 1024 ** 3 } = options;
  let whole: Uint8Array<ArrayBuffer> | undefined;
  let used = false;
  return {
    async open(layout) {
      if (used)
        throw new VortexError(
          "InvalidArgument",
          "memory sink: expected one download, got a second; create a sink for each",
        );
      if (layout.length > maxLength) {
        throw new VortexError(
          "StorageFailed",
          `content exceeds the memory sink: expected at most ${maxLength} bytes, got ${layout.length}; raise maxLength, or write to a file`,
        );
      }
      used = true;
      return new MemorySession(layout, (bytes) => {
        whole = bytes;
      });
    },
    bytes() {
      if (whole === undefined)
        throw new VortexError(
          "InvalidArgument",
          "bytes of the memory sink: expected a completed download, got none; await the download first",
        );
      return whole;
    },
  };
}

/** Session of a memory sink: stores the pieces of one download in memory. */
class MemorySession implements SinkSession {
  readonly resumed: SinkSession["resumed"] = [];
  /** Layout of the requested content. */
  readonly #layout: SinkLayout;
  /** Bytes of the pieces, until the download succeeds. */
  readonly #buffers: PieceBuffers;
  /** Numbers of the committed pieces. */
  #committed: number[] = [];
  /** Called with the downloaded content when the download succeeds. */
  readonly #onWhole: (bytes: Uint8Array<ArrayBuffer>) => void;
  /** Downloaded content; undefined until the download succeeds. */
  #whole: Uint8Array<ArrayBuffer> | undefined;

  constructor(layout: SinkLayout, onWhole: (bytes: Uint8Array<ArrayBuffer>) => void) {
    this.#layout = layout;
    this.#buffers = new PieceBuffers(layout);
    this.#onWhole = onWhole;
  }

  async write(number: number, position: number, chunk: Uint8Array): Promise<void> {
    this.#buffers.write(number, position, chunk);
  }

  async commit({ number }: { readonly number: number }): Promise<void> {
    this.#committed.push(number);
  }

  async read(number: number, position: number, length: number): Promise<Uint8Array> {
    return (
      this.#whole?.subarray(position, position + length) ??
      this.#buffers.read(number, position, length)
    );
  }

  async restart(kept: readonly SinkPiece[]): Promise<void> {
    const numbers = new Set(kept.map(({ number }) => number));
    for (const number of this.#committed) if (!numbers.has(number)) this.#buffers.delete(number);
    this.#committed = [...numbers];
  }

  async advance(): Promise<void> {}

  async finish(): Promise<void> {
    const whole = new Uint8Array(this.#layout.length);
    for (const number of this.#committed) {
      whole.set(this.#buffers.get(number), this.#layout.part(number)?.position);
      this.#buffers.delete(number);
    }
    this.#whole = whole;
    this.#onWhole(whole);
  }

  async abort(): Promise<void> {
    this.#buffers.clear();
  }
}

const memorySinkChecks: Checks<MemorySinkOptions> = { maxLength: integer(0) };
