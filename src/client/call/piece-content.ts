import type { Hasher } from "../../digest/hasher.ts";
import { VortexError } from "../../errors.ts";
import type { ByteRange, Piece, PieceKind, PieceMetadata } from "../../piece.ts";
import type { CallScope } from "./scope.ts";

/** Source of the bytes of a piece: a stream, or bytes in memory. */
export interface ContentSource {
  /** Reads the next chunk, into `into` if possible; undefined at a clean end of the source. */
  read(into?: Uint8Array): Promise<Uint8Array | undefined>;
  /** Cancels the unread rest. Idempotent. */
  cancel(): void;
}

/** Expected content of a piece, and the range of it to return. */
export interface ExpectedContent {
  /** Length of the whole piece, in bytes. */
  readonly length: number;
  /** Digest of the whole piece, `algorithm:encoded`. */
  readonly digest: string;
  /** Hasher of the digest's algorithm; undefined if the digest was verified before. */
  readonly hasher: Hasher | undefined;
  /** First byte of the range to return, within the piece. */
  readonly start: number;
  /** End of the range to return, exclusive. */
  readonly end: number;
}

/**
 * Reads the content of one piece and verifies it on the way: exactly `length` bytes, the digest,
 * and a clean end of stream. Returns the last chunk only after all three are verified, so a caller
 * that received all bytes received correct ones.
 */
export class PieceContent {
  readonly #source: ContentSource;
  readonly #expected: ExpectedContent;
  readonly #scope: CallScope;
  /** True if the range is the whole piece, so that its digest can be verified. */
  readonly #isWholePiece: boolean;
  #position = 0;
  #done = false;

  constructor(source: ContentSource, expected: ExpectedContent, scope: CallScope) {
    this.#source = source;
    this.#expected = expected;
    this.#scope = scope;
    this.#isWholePiece = expected.start === 0 && expected.end === expected.length;
    // From here on the piece timeout runs only while the content is being read.
    scope.hold();
  }

  /** Reads the next chunk of the range; undefined once all of it was returned and verified. */
  async read(into?: Uint8Array): Promise<Uint8Array | undefined> {
    const { start, end, length } = this.#expected;
    this.#scope.resume();
    try {
      if (this.#scope.failure !== undefined) throw this.#scope.failure;
      while (!this.#done) {
        if (this.#position === end) {
          await this.#complete();
          break;
        }
        let chunk: Uint8Array | undefined;
        this.#scope.beginWait();
        try {
          chunk = await this.#source.read(into);
        } finally {
          this.#scope.endWait();
        }
        if (chunk === undefined) {
          throw new VortexError(
            "TruncatedContent",
            `content of the piece: expected ${length} bytes, got ${this.#position}`,
          );
        }
        const from = this.#position;
        this.#position += chunk.length;
        if (this.#position > length) {
          throw new VortexError(
            "ProtocolViolation",
            `content of the piece: expected ${length} bytes, got ${this.#position} or more`,
          );
        }
        if (this.#isWholePiece) this.#expected.hasher?.update(chunk);
        if (this.#position >= end) {
          this.#position = Math.min(this.#position, end);
          await this.#complete();
        }
        if (this.#isWholePiece) return chunk;
        const wanted = chunk.subarray(Math.max(0, start - from), Math.max(0, end - from));
        if (wanted.length > 0) return wanted;
      }
      return undefined;
    } catch (error) {
      const failure = this.#scope.end(error);
      this.#source.cancel();
      throw failure;
    } finally {
      this.#scope.hold();
    }
  }

  /** Cancels the unread rest; the call fails with `Aborted` unless the content is complete. */
  cancel(): void {
    if (this.#done) return;
    this.#scope.fail(new VortexError("Aborted", "the content of the piece was cancelled"));
    this.#source.cancel();
  }

  /** Verifies the digest and the end of the stream, where the range is the whole piece. */
  async #complete(): Promise<void> {
    if (this.#isWholePiece) {
      this.#requireDigest();
      const extra = await this.#scope.waitFor(this.#source.read());
      if (extra !== undefined) {
        throw new VortexError(
          "ProtocolViolation",
          `end of the content: expected the end of the stream, got ${extra.length} more bytes`,
        );
      }
    } else {
      this.#source.cancel();
    }
    this.#done = true;
    this.#scope.finish();
  }

  /** @throws `DigestMismatch` unless the content has its digest, or was verified before */
  #requireDigest(): void {
    const { hasher, digest } = this.#expected;
    if (hasher === undefined) return;
    const found = `${digest.slice(0, digest.indexOf(":"))}:${hasher.encode()}`;
    if (found === digest) return;
    throw new VortexError(
      "DigestMismatch",
      `digest of the content: expected ${digest}, got ${found}`,
    );
  }
}

/** Maximum memory allocated for a piece before any of its content has arrived, in bytes. */
const INITIAL_BUFFER_BYTES = 64 * 1024;

/** {@link Piece} whose content is read from a {@link PieceContent}. */
export class DownloadedPiece implements Piece {
  readonly number: number;
  readonly kind: PieceKind;
  readonly offset: number;
  readonly length: number;
  readonly digest: string;
  readonly metadata: PieceMetadata;
  readonly #content: PieceContent;
  /** Bytes that `#content` returns. */
  readonly #rangeLength: number;
  #stream: ReadableStream<Uint8Array> | undefined;
  /** Way in which the caller reads the content; undefined before the first read. */
  #reading: "as a stream" | "by chunks" | "as a whole" | undefined;

  /** @param rangeLength bytes that `content` returns */
  constructor(
    kind: PieceKind,
    metadata: PieceMetadata,
    content: PieceContent,
    rangeLength: number,
  ) {
    this.kind = kind;
    this.metadata = metadata;
    this.number = metadata.number;
    this.offset = Number(metadata.offset);
    this.length = Number(metadata.length);
    this.digest = metadata.digest;
    this.#content = content;
    this.#rangeLength = rangeLength;
  }

  get content(): ReadableStream<Uint8Array> {
    if (this.#stream === undefined) {
      this.#claim("as a stream");
      this.#stream = new ReadableStream<Uint8Array>(
        {
          pull: async (controller) => {
            const chunk = await this.#content.read();
            if (chunk === undefined) controller.close();
            else controller.enqueue(chunk);
          },
          cancel: () => this.#content.cancel(),
        },
        // No read-ahead: the transport's receive window is the buffer.
        { highWaterMark: 0 },
      );
    }
    return this.#stream;
  }

  async read(into?: Uint8Array): Promise<Uint8Array | undefined> {
    if (this.#reading !== "by chunks") this.#claim("by chunks");
    if (into?.length === 0)
      throw new VortexError(
        "InvalidArgument",
        "memory to read into: expected 1 or more bytes, got 0",
      );
    return this.#content.read(into);
  }

  async bytes(into?: Uint8Array): Promise<Uint8Array> {
    if (into !== undefined && into.length < this.#rangeLength) {
      throw new VortexError(
        "InvalidArgument",
        `memory for the content: expected ${this.#rangeLength} or more bytes, got ${into.length}`,
      );
    }
    this.#claim("as a whole");
    // Grows with the received bytes: an announced length alone never allocates memory.
    let buffer = into ?? new Uint8Array(Math.min(this.#rangeLength, INITIAL_BUFFER_BYTES));
    let at = 0;
    for (;;) {
      const room = buffer.subarray(at);
      const chunk = await this.#content.read(room.length > 0 ? room : undefined);
      if (chunk === undefined) return buffer.subarray(0, at);
      const end = at + chunk.length;
      if (end > buffer.length || (end === buffer.length && end < this.#rangeLength)) {
        const larger = new Uint8Array(Math.min(this.#rangeLength, 2 * end));
        larger.set(buffer.subarray(0, at));
        larger.set(chunk, at);
        buffer = larger;
      } else if (chunk.buffer !== room.buffer || chunk.byteOffset !== room.byteOffset) {
        buffer.set(chunk, at);
      }
      at = end;
    }
  }

  cancel(): void {
    this.#content.cancel();
  }

  /** Reserves the content for one way of reading. @throws `InvalidArgument` if it is in use */
  #claim(how: "as a stream" | "by chunks" | "as a whole"): void {
    if (this.#reading !== undefined) {
      throw new VortexError(
        "InvalidArgument",
        `content of the piece: expected one reader, got a second one; it is read ${this.#reading}`,
      );
    }
    this.#reading = how;
  }
}

/**
 * Fills in the defaults of a range of a piece with `length` bytes.
 *
 * @throws `InvalidArgument` for a range outside the piece
 */
export function resolveRange(
  range: ByteRange | undefined,
  length: number,
): { start: number; end: number } {
  const start = range?.start ?? 0;
  const end = range?.end ?? length;
  if (
    !Number.isInteger(start) ||
    !Number.isInteger(end) ||
    start < 0 ||
    start > end ||
    end > length
  ) {
    throw new VortexError(
      "InvalidArgument",
      `range: expected integers, 0 <= range.start <= range.end <= ${length}, ` +
        `the length of the piece, got range.start ${start}, range.end ${end}`,
    );
  }
  return { start, end };
}
