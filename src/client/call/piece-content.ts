import type { Hasher } from "../../digest/hasher.ts";
import { VortexError } from "../../errors.ts";
import type { Piece, PieceKind, PieceMetadata, RequestedRange } from "../../piece.ts";
import { isUnshared } from "../../unshared.ts";
import type { CallScope } from "./scope.ts";

/** Reader of the content of a piece, from a stream or from memory. */
export interface ContentSource {
  /**
   * Reads the next chunk of content, into the memory `into` if possible. Resolves to undefined at a
   * clean end of the content.
   */
  read(into?: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer> | undefined>;
  /**
   * Ends the response after the last byte of content. Resolves to the number of bytes that follow,
   * or that are known to follow: 0 at a clean end.
   */
  end(): Promise<number>;
  /** Discards the content that has not been read. Idempotent. */
  cancel(): void;
}

/** Expected length and digest of a piece, and the byte range of it to return. */
export interface ExpectedContent {
  /** Length of the whole piece in bytes, even if only a range of it is returned. */
  readonly length: number;
  /** Expected digest of the whole piece, `algorithm:encoded`. Empty if the peer announced none. */
  readonly digest: string;
  /**
   * Hasher for the algorithm of `digest`. Undefined if there is no digest, or it has been verified
   * already.
   */
  readonly hasher: Hasher | undefined;
  /** Offset within the piece of the first byte to return. */
  readonly start: number;
  /** Offset within the piece after the last byte to return. */
  readonly end: number;
}

/**
 * Reads the content of one piece and verifies it meanwhile: exactly `length` bytes, the digest, and
 * a clean end, see {@link ContentSource.end}. Returns the last chunk only after these checks, so a
 * caller that received all bytes received correct ones.
 *
 * If only a range of the piece is requested, the digest and the end of the stream are not checked.
 */
export class PieceContent {
  readonly #source: ContentSource;
  readonly #expected: ExpectedContent;
  readonly #scope: CallScope;
  /** True if the whole piece is requested. Only then its digest can be verified. */
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

  /**
   * Reads the next chunk of the requested bytes, into the memory `into` if possible. Resolves to
   * undefined once all of them have been returned and verified.
   */
  async read(into?: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer> | undefined> {
    const { start, end, length } = this.#expected;
    this.#scope.resume();
    try {
      if (this.#scope.failure !== undefined) throw this.#scope.failure;
      while (!this.#done) {
        if (this.#position === end) {
          await this.#complete();
          break;
        }
        let chunk: Uint8Array<ArrayBuffer> | undefined;
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

  /**
   * Discards the content that has not been read. Unless the content is complete, the call fails
   * with `Aborted`.
   */
  cancel(): void {
    if (this.#done) return;
    this.#scope.fail(new VortexError("Aborted", "the content of the piece was cancelled"));
    this.#source.cancel();
  }

  /**
   * Ends the content after its last requested byte. If the whole piece was requested, verifies its
   * digest and the end of the stream; else cancels the stream.
   */
  async #complete(): Promise<void> {
    if (this.#isWholePiece) {
      this.#requireDigest();
      const extra = await this.#scope.waitFor(this.#source.end());
      if (extra > 0) {
        throw new VortexError(
          "ProtocolViolation",
          `end of the content: expected no more bytes, got ${extra} more`,
        );
      }
    } else {
      this.#source.cancel();
    }
    this.#done = true;
    this.#scope.finish();
  }

  /**
   * Verifies the digest of the content, unless it has been verified already or there is none.
   *
   * @throws `DigestMismatch` if the content has another digest
   */
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

/**
 * Maximum size in bytes of the buffer for a piece before any of its content has arrived. Afterwards
 * the buffer grows with the received content.
 */
const INITIAL_BUFFER_BYTES = 64 * 1024;

/** Piece of a task whose content is read from a {@link PieceContent}. */
export class DownloadedPiece implements Piece {
  readonly number: number;
  readonly kind: PieceKind;
  readonly offset: number;
  readonly length: number;
  readonly digest: string;
  readonly metadata: PieceMetadata;
  readonly #content: PieceContent;
  /** Number of bytes that `#content` returns: the length of the requested range. */
  readonly #rangeLength: number;
  #stream: ReadableStream<Uint8Array<ArrayBuffer>> | undefined;
  /** Way in which the caller reads the content; undefined before the first read. */
  #reading: "as a stream" | "by chunks" | "as a whole" | undefined;

  /**
   * @param rangeLength number of bytes that `content` returns: the length of the requested range
   */
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

  get content(): ReadableStream<Uint8Array<ArrayBuffer>> {
    if (this.#stream === undefined) {
      this.#claim("as a stream");
      this.#stream = new ReadableStream<Uint8Array<ArrayBuffer>>(
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

  async read(into?: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer> | undefined> {
    if (this.#reading !== "by chunks") this.#claim("by chunks");
    if (into?.length === 0)
      throw new VortexError(
        "InvalidArgument",
        "memory to read into: expected 1 or more bytes, got 0",
      );
    requireUnshared(into);
    return this.#content.read(into);
  }

  async bytes(into?: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
    if (into !== undefined && into.length < this.#rangeLength) {
      throw new VortexError(
        "InvalidArgument",
        `memory for the content: expected ${this.#rangeLength} or more bytes, got ${into.length}`,
      );
    }
    requireUnshared(into);
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

  /**
   * Reserves the content for one way of reading it.
   *
   * @throws `InvalidArgument` if the content is already being read, in this way or another
   */
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
 * Requires memory that no other thread can change between the verification of its bytes and their
 * use.
 *
 * @throws `InvalidArgument` if `into` is in a `SharedArrayBuffer`
 */
function requireUnshared(into: Uint8Array | undefined): void {
  if (into === undefined || isUnshared(into)) return;
  throw new VortexError(
    "InvalidArgument",
    "memory to read into: expected an ArrayBuffer, got a SharedArrayBuffer; copy the content to it",
  );
}

/**
 * Returns the requested byte range of a piece with `length` bytes. A missing `start` becomes 0, a
 * missing `end` becomes `length`.
 *
 * @throws `InvalidArgument` if the range is outside of the piece
 */
export function resolveRange(
  range: RequestedRange | undefined,
  length: number,
): { start: number; end: number } {
  const start = numberOf(range?.start ?? 0);
  const end = numberOf(range?.end ?? length);
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

/** Converts a bigint to a number, and leaves any other value unchanged. */
function numberOf(value: number | bigint): number {
  return typeof value === "bigint" ? Number(value) : value;
}
