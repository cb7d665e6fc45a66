import { crc32Combine } from "../digest/crc32-combine.ts";
import type { Digest } from "../digest/digest.ts";
import type { Hasher, HasherFactory } from "../digest/hasher.ts";
import { VortexError } from "../errors.ts";
import type { TaskLayout } from "./layout.ts";
import type { SinkSession } from "./sink.ts";

/** Bytes in one read of what is hashed. */
const READ_BYTES = 1024 * 1024;

/** What a frontier works on. */
export interface ContiguousHasherOptions {
  readonly layout: TaskLayout;
  readonly session: SinkSession;
  readonly hashers: HasherFactory;
  /** What the whole must turn out to be. */
  readonly digest: Digest | undefined;
  /** Told when the frontier has moved. */
  readonly onAdvance: () => void;
  /** Told when the sink failed; nothing moves any more. */
  readonly onFailure: (error: unknown) => void;
}

/**
 * Where the download has come to without a gap: the hash of the whole follows it, and the sink is told of it.
 *
 * Only pieces that are right pass into the hash, so they are read back from the sink, in chunks. That is memory for a sink in
 * memory, and mostly the page cache for a file: the piece has just been written. A CRC-32 of the whole is put together
 * from those of the pieces, and nothing is read.
 */
export class ContiguousHasher {
  readonly #options: ContiguousHasherOptions;
  readonly #hasher: Hasher | undefined;
  /** CRC-32 of pieces that are committed and that the frontier has not come to. */
  readonly #pending = new Map<number, number>();
  #crc32 = 0;
  #next: number;
  #advancing: Promise<void> | undefined;
  #stopped = false;
  /** What is hashed is read into it. */
  #buffer: Uint8Array | undefined;

  constructor(options: ContiguousHasherOptions) {
    this.#options = options;
    this.#next = options.layout.first;
    const { digest, hashers } = options;
    this.#hasher =
      digest === undefined || digest.algorithm === "crc32" ? undefined : hashers(digest.algorithm);
  }

  /** The first piece that the frontier has not passed. */
  get next(): number {
    return this.#next;
  }

  /** Takes note of a piece that is committed. */
  add(number: number, crc32: number): void {
    this.#pending.set(number, crc32);
    if (number === this.#next && !this.#stopped) this.#advancing ??= this.#advance();
  }

  /** Stops, and waits for the read under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#advancing;
  }

  /**
   * Compares the whole, once every piece was added and passed.
   * @throws `DigestMismatch`
   */
  verify(): void {
    const { digest } = this.#options;
    if (digest === undefined) return;
    const encoded = this.#hasher?.encode() ?? String(this.#crc32);
    if (encoded === digest.encoded) return;
    const { algorithm } = digest;
    const message = `the task has digest ${algorithm}:${encoded}, expected was ${algorithm}:${digest.encoded}`;
    throw new VortexError("DigestMismatch", message);
  }

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
