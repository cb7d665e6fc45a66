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
  readonly layout: TaskLayout;
  readonly session: SinkSession;
  readonly hashers: HasherFactory;
  /** Expected digest of the whole task; undefined to hash nothing. */
  readonly digest: Digest | undefined;
  /** Called after each piece that was hashed. */
  readonly onAdvance: () => void;
  /** Called when the sink fails; no further piece is hashed then. */
  readonly onFailure: (error: unknown) => void;
}

/**
 * Hashes the committed pieces of a task in ascending order, and reports the contiguous prefix to
 * the sink by `advance`.
 *
 * Only verified pieces are hashed, so they are read back from the sink. That read comes from memory
 * for a memory sink, and mostly from the page cache for a file, which was just written. For CRC-32
 * nothing is read: the checksums of the pieces are combined.
 */
export class ContiguousHasher {
  readonly #options: ContiguousHasherOptions;
  /** Hash of the prefix; undefined for CRC-32, and without an expected digest. */
  readonly #hasher: Hasher | undefined;
  /** CRC-32 of each committed piece that is not part of the contiguous prefix yet. */
  readonly #pending = new Map<number, number>();
  /** Combined CRC-32 of the prefix. */
  #crc32 = 0;
  #next: number;
  /** Hashing in progress; undefined while it waits for the next piece. */
  #advancing: Promise<void> | undefined;
  #stopped = false;
  /** Reused memory for reads from the sink. */
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

  /** Records a committed piece, and hashes from the prefix on as far as possible. */
  add(number: number, crc32: number): void {
    this.#pending.set(number, crc32);
    if (number === this.#next && !this.#stopped) this.#advancing ??= this.#advance();
  }

  /** Stops hashing and waits for the read in progress. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#advancing;
  }

  /**
   * Compares the digest of the whole, after all pieces have been hashed.
   * @throws `DigestMismatch`
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

  /** Hashes committed pieces until the next gap. */
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
