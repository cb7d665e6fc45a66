import { Buffer } from "node:buffer";
import type { FileHandle } from "node:fs/promises";
import { parseDigest } from "../../src/digest/digest.ts";
import type { SinkLayout, SinkPiece } from "../../src/task/sink.ts";
import { openOwnFile, writeFully } from "./own-file.ts";
import { storageError } from "./storage-error.ts";

const VERSION = 2;
/** Longest journal that is read, in bytes: a line for each of a million pieces has some 200. */
const MAX_LENGTH = 256 * 1024 * 1024;

/** First line: identifies the content. A journal of another content is of no use. */
interface Header {
  readonly version: number;
  readonly taskId: string;
  readonly kind: string;
  readonly contentLength: number;
  /** Null when pieces differ in length. */
  readonly pieceLength: number | null;
  readonly start: number;
  readonly length: number;
  /** Digest of the whole content, `algorithm:encoded`; null when it was not known. */
  readonly digest: string | null;
}

/** How a journal is opened; for tests, but for the digest. */
export interface JournalOptions {
  /** Digest of the whole content, where it is known. */
  readonly digest?: string | undefined;
  /** Default 256 MiB. */
  readonly maxLength?: number;
  /** Default: {@link openOwnFile}. */
  readonly openFile?: (path: string) => Promise<FileHandle>;
}

/**
 * The pieces of one download that are in its file: a line of JSON for each, appended when it is there and right, so that a new
 * process goes on where one that was killed stopped. It is not synced: after a loss of power its lines and the file may
 * disagree, which shows when the pieces are compared.
 */
export class Journal {
  readonly #path: string;
  readonly #handle: FileHandle;
  /** What an earlier download noted. */
  readonly found: readonly SinkPiece[];
  /** Whether an earlier download had everything and was about to rename its file. */
  readonly complete: boolean;

  /** Bytes of the first line. */
  readonly #first: number;
  /** Where the next line is written. */
  #end: number;
  /** The line before it: a process that is killed leaves no gap. */
  #written: Promise<void> = Promise.resolve();

  private constructor(
    path: string,
    handle: FileHandle,
    [first, end]: readonly [first: number, end: number],
    found: readonly SinkPiece[],
    complete: boolean,
  ) {
    this.#path = path;
    this.#handle = handle;
    this.#first = first;
    this.#end = end;
    this.found = found;
    this.complete = complete;
  }

  /** Opens the journal of a download. Begins a new one if there is none, or one of another content. */
  static async open(
    path: string,
    layout: SinkLayout,
    options: JournalOptions = {},
  ): Promise<Journal> {
    const { digest, maxLength = MAX_LENGTH, openFile = openOwnFile } = options;
    const header = headerOf(layout, digest);
    try {
      const handle = await openFile(path);
      try {
        const bytes =
          (await handle.stat()).size > maxLength ? Buffer.alloc(0) : await handle.readFile();
        // The last line of a process that was killed may be torn.
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
      throw storageError(error, `the journal ${path} cannot be opened`);
    }
  }

  /** Keeps only these pieces. A process that is killed meanwhile leaves fewer, and none of the others. */
  async restart(kept: readonly SinkPiece[]): Promise<void> {
    await this.#written;
    try {
      await this.#handle.truncate(this.#first);
    } catch (error) {
      throw storageError(error, `the journal ${this.#path} cannot be written`);
    }
    this.#end = this.#first;
    for (const piece of kept) await this.add(piece);
  }

  /** Notes a piece. */
  add({ number, digest, crc32, source }: SinkPiece): Promise<void> {
    return this.#append(JSON.stringify({ number, digest, crc32, source }));
  }

  /** Notes that everything is there. */
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
      throw storageError(error, `the journal ${this.#path} cannot be written`);
    }
  }
}

const COMPLETE = JSON.stringify({ complete: true });

function headerOf(
  { taskId, kind, contentLength, pieceLength, start, length }: SinkLayout,
  digest: string | undefined,
): Header {
  const cut = { contentLength, pieceLength: pieceLength ?? null, start, length };
  return { version: VERSION, taskId, kind, ...cut, digest: digest ?? null };
}

/** Whether a first line is of the same content, as far as it tells: two digests contradict each other only by one algorithm. */
function isSameContent(line: string, header: Header): boolean {
  try {
    const { digest } = JSON.parse(line) as Header;
    if (line !== JSON.stringify({ ...header, digest })) return false;
    const [told, known] = [digest, header.digest].map((text) =>
      text === null ? undefined : parseDigest(text),
    );
    return (
      told === undefined || told.algorithm !== known?.algorithm || told.encoded === known.encoded
    );
  } catch {
    return false;
  }
}

/** A line that says nothing of use is a piece less. */
function parseLine(line: string): SinkPiece | undefined {
  try {
    const { number, digest, crc32, source } = JSON.parse(line) as Partial<
      Record<keyof SinkPiece, unknown>
    >;
    if (!isInteger(number) || typeof digest !== "string" || typeof crc32 !== "number")
      return undefined;
    parseDigest(digest);
    return { number, digest, crc32, ...(typeof source === "string" && { source }) };
  } catch {
    return undefined;
  }
}

/** A piece has a whole number: between two of them, bytes would be counted twice. */
function isInteger(value: unknown): value is number {
  return Number.isSafeInteger(value);
}
