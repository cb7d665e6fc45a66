import { crc32Combine } from "../digest/crc32-combine.ts";
import type { Digest } from "../digest/digest.ts";
import type { Hasher, HasherFactory } from "../digest/hasher.ts";
import { VortexError } from "../errors.ts";
import type { TaskLayout } from "./layout.ts";
import type { SinkSession } from "./sink.ts";

/** Length of one read from the sink, in bytes. */
const READ_BYTES = 1024 * 1024;

/** Options of a {@link ContiguousHasher}. */
export interface ContiguousHasherOptions {
  /** Layout of the task. */
  readonly layout: TaskLayout;
  /** Session of the sink that contains the committed pieces. */
  readonly session: SinkSession;
  /** Creates the hash function for the algorithm of `digest`. */
  readonly hashers: HasherFactory;
  /** Expected digest of the whole content; undefined if unknown, so that no content is hashed. */
  readonly digest: Digest | undefined;
  /** Called after each piece that was added to the contiguous prefix of hashed pieces. */
  readonly onAdvance: () => void;
  /** Called when the sink fails. No further piece is hashed afterwards. */
  readonly onFailure: (error: unknown) => void;
}

/**
 * Hashes the committed pieces of a task in ascending order, without gaps. The hashed pieces are a
 * prefix of the requested content. Reports the end of the prefix to the sink session by `advance`.
 *
 * Pieces are hashed after verification, so their bytes are read back from the sink. A memory sink
 * returns them from memory; a file sink mostly from the page cache, since they were written
 * recently. For CRC-32, no bytes are read: the CRC-32 of the prefix is combined from the CRC-32 of
 * each piece.
 */
export class ContiguousHasher {
  readonly #options: ContiguousHasherOptions;
  /**
   * Hash of the prefix of the content; undefined if the algorithm is CRC-32 or no digest is
   * expected.
   */
  readonly #hasher: Hasher | undefined;
  /**
   * CRC-32 by piece number, for committed pieces that are not hashed yet because an earlier piece
   * is missing.
   */
  readonly #pending = new Map<number, number>();
  /** CRC-32 of the prefix of the content. */
  #crc32 = 0;
  /** Number of the first piece that is not hashed yet. */
  #next: number;
  /** Promise of the hashing in progress; undefined while the next piece is not committed. */
  #advancing: Promise<void> | undefined;
  /** True after `stop` or a failure of the sink. */
  #stopped = false;
  /** Memory that reads from the sink reuse; undefined before the first read. */
  #buffer: Uint8Array | undefined;

  constructor(options: ContiguousHasherOptions) {
    this.#options = options;
    this.#next = options.layout.first;
    const { digest, hashers } = options;
    this.#hasher =
      digest === undefined || digest.algorithm === "crc32" ? undefined : hashers(digest.algorithm);
  }

  /** Number of the first piece that is not hashed yet. */
  get next(): number {
    return this.#next;
  }

  /**
   * Records a committed piece. Starts hashing in the background if all earlier pieces are hashed.
   *
   * @param crc32 CRC-32 of the requested part of the piece
   */
  add(number: number, crc32: number): void {
    this.#pending.set(number, crc32);
    if (number === this.#next && !this.#stopped) this.#advancing ??= this.#advance();
  }

  /** Stops hashing. Resolves once the read in progress has ended. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#advancing;
  }

  /**
   * Compares the computed digest of the whole content with the expected one. Must be called after
   * all pieces have been hashed.
   *
   * @throws `DigestMismatch` if the digests differ
   */
  verify(): void {
    const { digest } = this.#options;
    if (digest === undefined) return;
    const encoded = this.#hasher?.encode() ?? String(this.#crc32);
    if (encoded === digest.encoded) return;
    const { algorithm } = digest;
    const message = `digest of the task: expected ${algorithm}:${digest.encoded}, got ${algorithm}:${encoded}`;
    throw new VortexError("DigestMismatch", message);
  }

  /** Hashes the committed pieces in ascending order until the next missing piece. */
  async #advance(): Promise<void> {
    const { layout, session, onAdvance, onFailure } = this.#options;
    try {
      for (
        let crc32 = this.#pending.get(this.#next);
        crc32 !== undefined;
        crc32 = this.#pending.get(this.#next)
      ) {
        const part = layout.part(this.#next);
        if (part === undefined) break;
        for (let at = 0; this.#hasher !== undefined && at < part.length; ) {
          this.#buffer ??= new Uint8Array(READ_BYTES);
          const length = Math.min(READ_BYTES, part.length - at);
          const bytes = await session.read(part.number, part.position + at, length, this.#buffer);
          if (this.#stopped) return;
          this.#hasher.update(bytes);
          at += bytes.length;
        }
        this.#crc32 = crc32Combine(this.#crc32, crc32, part.length);
        this.#pending.delete(this.#next);
        await session.advance(part.position + part.length);
        if (this.#stopped) return;
        this.#next++;
        onAdvance();
      }
      this.#advancing = undefined;
    } catch (error) {
      this.#stopped = true;
      onFailure(error);
    }
  }
}
