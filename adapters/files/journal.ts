import { Buffer } from "node:buffer";
import type { FileHandle } from "node:fs/promises";
import { parseDigest } from "../../src/digest/digest.ts";
import type { SinkLayout, SinkPiece } from "../../src/task/sink.ts";
import { openOwnFile, writeFully } from "./own-file.ts";
import { storageError } from "./storage-error.ts";

/** Version of the journal's format. */
const VERSION = 2;
/** Max length of a journal, in bytes. It allows a million pieces with lines of some 200 bytes. */
const MAX_JOURNAL_BYTES = 256 * 1024 * 1024;

/** First line of a journal. It identifies the content; a journal of other content is discarded. */
interface Header {
  readonly version: number;
  readonly taskId: string;
  readonly kind: string;
  readonly contentLength: number;
  /** Length of each piece except the last, in bytes. Null when pieces differ in length. */
  readonly pieceLength: number | null;
  readonly start: number;
  readonly length: number;
  /** Digest of the whole content as `algorithm:encoded`. Null when unknown. */
  readonly digest: string | null;
}

/** Options of {@link Journal.open}. Only tests set more than the digest. */
export interface JournalOptions {
  /** Digest of the whole content, if known. */
  readonly digest?: string | undefined;
  /** Max length of a journal to resume from, in bytes. Default: 256 MiB. */
  readonly maxLength?: number;
  /** Opens the journal's file. Default: {@link openOwnFile}. */
  readonly openFile?: (path: string) => Promise<FileHandle>;
}

/**
 * Journal of the verified pieces in a download's file, from which a new process resumes after a
 * kill.
 *
 * It has one line of JSON for each piece, appended once the piece is written and verified. It is
 * not synced: after a power cut, journal and file may disagree, which the verification of the
 * pieces finds.
 */
export class Journal {
  readonly #path: string;
  readonly #handle: FileHandle;
  /** Pieces that an earlier download recorded. */
  readonly found: readonly SinkPiece[];
  /** True if an earlier download was complete and about to rename its file. */
  readonly complete: boolean;

  /** Length of the first line, in bytes. */
  readonly #headerLength: number;
  /** Offset of the next line, in bytes. */
  #end: number;
  /** Resolves when the previous line is written, so that a killed process leaves no gap. */
  #written: Promise<void> = Promise.resolve();

  private constructor(
    path: string,
    handle: FileHandle,
    [headerLength, end]: readonly [headerLength: number, end: number],
    found: readonly SinkPiece[],
    complete: boolean,
  ) {
    this.#path = path;
    this.#handle = handle;
    this.#headerLength = headerLength;
    this.#end = end;
    this.found = found;
    this.complete = complete;
  }

  /**
   * Opens the journal of a download. Starts a new one if there is none, or if it is too long or of
   * other content. Rejects with `StorageFailed`.
   */
  static async open(
    path: string,
    layout: SinkLayout,
    options: JournalOptions = {},
  ): Promise<Journal> {
    const { digest, maxLength = MAX_JOURNAL_BYTES, openFile = openOwnFile } = options;
    const header = headerOf(layout, digest);
    try {
      const handle = await openFile(path);
      try {
        const bytes =
          (await handle.stat()).size > maxLength ? Buffer.alloc(0) : await handle.readFile();
        // The last line of a killed process may be incomplete.
        const end = bytes.lastIndexOf("\n") + 1;
        const [first, ...lines] = bytes.toString("utf8", 0, end).split("\n").slice(0, -1);
        if (first !== undefined && isSameContent(first, header)) {
          const found = lines.map(parseLine).filter((piece) => piece !== undefined);
          await handle.truncate(end);
          return new Journal(
            path,
            handle,
            [bytes.indexOf("\n") + 1, end],
            found,
            lines.includes(COMPLETE),
          );
        }
        await handle.truncate(0);
        const line = JSON.stringify(header);
        const journal = new Journal(path, handle, [Buffer.byteLength(line) + 1, 0], [], false);
        await journal.#append(line);
        return journal;
      } catch (error) {
        await handle.close();
        throw error;
      }
    } catch (error) {
      throw storageError(error, `cannot open the journal ${path}`);
    }
  }

  /** Removes all pieces except `kept`. A process killed meanwhile leaves only pieces of `kept`. */
  async restart(kept: readonly SinkPiece[]): Promise<void> {
    await this.#written;
    try {
      await this.#handle.truncate(this.#headerLength);
    } catch (error) {
      throw storageError(error, `cannot write the journal ${this.#path}`);
    }
    this.#end = this.#headerLength;
    for (const piece of kept) await this.add(piece);
  }

  /** Records a verified piece. */
  add({ number, digest, crc32, source, unverified }: SinkPiece): Promise<void> {
    return this.#append(JSON.stringify({ number, digest, crc32, source, unverified }));
  }

  /** Records that the content is complete. */
  end(): Promise<void> {
    return this.#append(COMPLETE);
  }

  close(): Promise<void> {
    return this.#handle.close();
  }

  #append(line: string): Promise<void> {
    const written = this.#written.then(() => this.#write(new TextEncoder().encode(`${line}\n`)));
    this.#written = written.catch(() => {});
    return written;
  }

  async #write(bytes: Uint8Array): Promise<void> {
    try {
      await writeFully(this.#handle, bytes, this.#end);
      this.#end += bytes.length;
    } catch (error) {
      throw storageError(error, `cannot write the journal ${this.#path}`);
    }
  }
}

/** Last line of the journal of a complete download. */
const COMPLETE = JSON.stringify({ complete: true });

function headerOf(
  { taskId, kind, contentLength, pieceLength, start, length }: SinkLayout,
  digest: string | undefined,
): Header {
  const cut = { contentLength, pieceLength: pieceLength ?? null, start, length };
  return { version: VERSION, taskId, kind, ...cut, digest: digest ?? null };
}

/**
 * Returns true if a journal's first line describes the same content. Digests are compared only if
 * both are known and of the same algorithm.
 */
function isSameContent(line: string, header: Header): boolean {
  try {
    const { digest } = JSON.parse(line) as Header;
    if (line !== JSON.stringify({ ...header, digest })) return false;
    const [found, known] = [digest, header.digest].map((text) =>
      text === null ? undefined : parseDigest(text),
    );
    return (
      found === undefined || found.algorithm !== known?.algorithm || found.encoded === known.encoded
    );
  } catch {
    return false;
  }
}

/** Parses a line of a journal, which records one stored piece. Undefined for an invalid line. */
function parseLine(line: string): SinkPiece | undefined {
  try {
    const { number, digest, crc32, source, unverified } = JSON.parse(line) as Partial<
      Record<keyof SinkPiece, unknown>
    >;
    if (!isInteger(number) || typeof digest !== "string" || typeof crc32 !== "number")
      return undefined;
    parseDigest(digest);
    return {
      number,
      digest,
      crc32,
      ...(typeof source === "string" && { source }),
      // Any other value than false is taken as a mark, so that a damaged one vouches for nothing.
      ...(unverified !== undefined && unverified !== false && { unverified: true }),
    };
  } catch {
    return undefined;
  }
}

/** Checks that a piece number is an integer. A fraction would count bytes of a piece twice. */
function isInteger(value: unknown): value is number {
  return Number.isSafeInteger(value);
}
