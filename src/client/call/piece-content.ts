import type { Hasher } from "../../digest/hasher.ts";
import { VortexError } from "../../errors.ts";
import type { ByteRange, Piece, PieceKind, PieceMetadata } from "../../piece.ts";
import type { CallScope } from "./scope.ts";

/** Where the bytes of a piece come from; the reader of a stream, or bytes that are there already. */
export interface ContentSource {
  /** The next chunk, in `into` where that is possible, or undefined at the clean end. */
  read(into?: Uint8Array): Promise<Uint8Array | undefined>;
  /** Gives the rest up. Idempotent. */
  cancel(): void;
}

/** What a piece's content must turn out to be. */
export interface ExpectedContent {
  /** Bytes of the whole piece. */
  readonly length: number;
  /** Digest of the whole piece, as `algorithm:encoded`. */
  readonly digest: string;
  /** Makes no sense of the content itself; fed every byte of it in order. */
  readonly hasher: Hasher;
  /** The part to hand out, within the piece. */
  readonly start: number;
  readonly end: number;
}

/**
 * Reads the content of one piece and checks it as it passes: exactly `length` bytes, the digest, and a clean end of
 * stream behind them. The last chunk is handed out only after that, so whoever has received all bytes has right ones.
 */
export class PieceContent {
  readonly #source: ContentSource;
  readonly #expected: ExpectedContent;
  readonly #scope: CallScope;
  readonly #whole: boolean;
  #position = 0;
  #done = false;

  constructor(source: ContentSource, expected: ExpectedContent, scope: CallScope) {
    this.#source = source;
    this.#expected = expected;
    this.#scope = scope;
    this.#whole = expected.start === 0 && expected.end === expected.length;
    // From here on the peer owes something only while the content is being read.
    scope.hold();
  }

  /** The next chunk of the asked range, or undefined when all of it was handed out and found right. */
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
            `the content ended after ${this.#position} of ${length} bytes`,
          );
        }
        const from = this.#position;
        this.#position += chunk.length;
        if (this.#position > length) {
          throw new VortexError(
            "ProtocolViolation",
            `${this.#position - length} bytes follow the content of the piece`,
          );
        }
        if (this.#whole) this.#expected.hasher.update(chunk);
        if (this.#position >= end) {
          this.#position = Math.min(this.#position, end);
          await this.#complete();
        }
        if (this.#whole) return chunk;
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

  /** Gives the rest up. */
  cancel(): void {
    if (this.#done) return;
    this.#scope.fail(new VortexError("Aborted", "the content of the piece was cancelled"));
    this.#source.cancel();
  }

  async #complete(): Promise<void> {
    if (this.#whole) {
      const { hasher, digest } = this.#expected;
      const found = `${digest.slice(0, digest.indexOf(":"))}:${hasher.encode()}`;
      if (found !== digest) {
        throw new VortexError(
          "DigestMismatch",
          `the content has digest ${found}, announced was ${digest}`,
        );
      }
      const extra = await this.#scope.waitFor(this.#source.read());
      if (extra !== undefined) {
        throw new VortexError(
          "ProtocolViolation",
          `${extra.length} bytes follow the content of the piece`,
        );
      }
    } else {
      this.#source.cancel();
    }
    this.#done = true;
    this.#scope.finish();
  }
}

/** Bytes of memory that are taken for a piece before any of its content has come. */
const FIRST_BUFFER = 64 * 1024;

/** The {@link Piece} that users see, over a {@link PieceContent}. */
export class DownloadedPiece implements Piece {
  readonly number: number;
  readonly kind: PieceKind;
  readonly offset: number;
  readonly length: number;
  readonly digest: string;
  readonly metadata: PieceMetadata;
  readonly #content: PieceContent;
  /** Bytes that are asked for. */
  readonly #wanted: number;
  #stream: ReadableStream<Uint8Array> | undefined;
  /** How the content is being read. */
  #reading: "as a stream" | "by chunks" | "as a whole" | undefined;

  /** @param wanted bytes that `content` will hand out */
  constructor(kind: PieceKind, metadata: PieceMetadata, content: PieceContent, wanted: number) {
    this.kind = kind;
    this.metadata = metadata;
    this.number = metadata.number;
    this.offset = Number(metadata.offset);
    this.length = Number(metadata.length);
    this.digest = metadata.digest;
    this.#content = content;
    this.#wanted = wanted;
  }

  get content(): ReadableStream<Uint8Array> {
    if (this.#stream === undefined) {
      this.#take("as a stream");
      this.#stream = new ReadableStream<Uint8Array>(
        {
          pull: async (controller) => {
            const chunk = await this.#content.read();
            if (chunk === undefined) controller.close();
            else controller.enqueue(chunk);
          },
          cancel: () => this.#content.cancel(),
        },
        // Nothing is read before it is wanted: the transport's window is the buffer.
        { highWaterMark: 0 },
      );
    }
    return this.#stream;
  }

  async read(into?: Uint8Array): Promise<Uint8Array | undefined> {
    if (this.#reading !== "by chunks") this.#take("by chunks");
    if (into?.length === 0)
      throw new VortexError("InvalidArgument", "no memory to read into: it has no bytes");
    return this.#content.read(into);
  }

  async bytes(into?: Uint8Array): Promise<Uint8Array> {
    if (into !== undefined && into.length < this.#wanted) {
      throw new VortexError(
        "InvalidArgument",
        `${into.length} bytes of memory for ${this.#wanted} bytes of content`,
      );
    }
    this.#take("as a whole");
    // Grows with what arrives: the announced length alone never decides how much memory is taken.
    let whole = into ?? new Uint8Array(Math.min(this.#wanted, FIRST_BUFFER));
    let at = 0;
    for (;;) {
      const room = whole.subarray(at);
      const chunk = await this.#content.read(room.length > 0 ? room : undefined);
      if (chunk === undefined) return whole.subarray(0, at);
      const end = at + chunk.length;
      if (end > whole.length || (end === whole.length && end < this.#wanted)) {
        const larger = new Uint8Array(Math.min(this.#wanted, 2 * end));
        larger.set(whole.subarray(0, at));
        larger.set(chunk, at);
        whole = larger;
      } else if (chunk.buffer !== room.buffer || chunk.byteOffset !== room.byteOffset) {
        whole.set(chunk, at);
      }
      at = end;
    }
  }

  cancel(): void {
    this.#content.cancel();
  }

  #take(how: "as a stream" | "by chunks" | "as a whole"): void {
    if (this.#reading !== undefined) {
      throw new VortexError(
        "InvalidArgument",
        `the content of this piece is being read already, ${this.#reading}`,
      );
    }
    this.#reading = how;
  }
}

/**
 * The part of a piece that a range names.
 * @throws `InvalidArgument` when it does not lie within the piece
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
    const expected = `expected integers, 0 <= start <= end <= ${length}, the length of the piece`;
    throw new VortexError("InvalidArgument", `range.start ${start}, range.end ${end}: ${expected}`);
  }
  return { start, end };
}
