import { Buffer } from "node:buffer";
import type { FileHandle } from "node:fs/promises";
import { parseDigest } from "../../src/digest/digest.ts";
import type { SinkLayout, SunkPiece } from "../../src/task/sink.ts";
import { openOwnFile } from "./own-file.ts";
import { storageError } from "./storage-error.ts";

const VERSION = 1;
/** Bytes of a journal that is read: a line for each of a million pieces has some 200. */
const LONGEST = 256 * 1024 * 1024;

/** The first line: what the journal is of. A journal of anything else is of no use. */
interface Header {
  readonly version: number;
  readonly taskId: string;
  readonly kind: string;
  readonly contentLength: number;
  /** Null when pieces differ in length. */
  readonly pieceLength: number | null;
  readonly start: number;
  readonly length: number;
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
  readonly found: readonly SunkPiece[];
  /** Whether an earlier download had everything and was about to rename its file. */
  readonly complete: boolean;

  /** Where the next line is written. */
  #end: number;
  /** The line before it: a process that is killed leaves no gap. */
  #written: Promise<void> = Promise.resolve();

  private constructor(path: string, handle: FileHandle, end: number, found: readonly SunkPiece[], complete: boolean) {
    this.#path = path;
    this.#handle = handle;
    this.#end = end;
    this.found = found;
    this.complete = complete;
  }

  /** Opens the journal of a download, and begins a new one if there is none, or one of another download. */
  static async open(path: string, layout: SinkLayout): Promise<Journal> {
    const first = `${JSON.stringify(headerOf(layout))}\n`;
    try {
      const handle = await openOwnFile(path);
      try {
        const bytes = (await handle.stat()).size > LONGEST ? Buffer.alloc(0) : await handle.readFile();
        // The last line of a process that was killed may be torn.
        const end = bytes.lastIndexOf("\n") + 1;
        const text = bytes.toString("utf8", 0, end);
        if (text.startsWith(first)) {
          const lines = text.split("\n").slice(1, -1);
          const found = lines.map(parseLine).filter((piece) => piece !== undefined);
          await handle.truncate(end);
          return new Journal(path, handle, end, found, lines.includes(COMPLETE));
        }
        await handle.truncate(0);
        const journal = new Journal(path, handle, 0, [], false);
        await journal.#append(first.trimEnd());
        return journal;
      } catch (error) {
        await handle.close();
        throw error;
      }
    } catch (error) {
      throw storageError(error, `the journal ${path} cannot be opened`);
    }
  }

  /** Notes a piece. */
  add({ number, digest, crc32 }: SunkPiece): Promise<void> {
    return this.#append(JSON.stringify({ number, digest, crc32 }));
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
      for (let at = 0; at < bytes.length; ) {
        at += (await this.#handle.write(bytes, at, bytes.length - at, this.#end + at)).bytesWritten;
      }
      this.#end += bytes.length;
    } catch (error) {
      throw storageError(error, `the journal ${this.#path} cannot be written`);
    }
  }
}

const COMPLETE = JSON.stringify({ complete: true });

function headerOf({ taskId, kind, contentLength, pieceLength, start, length }: SinkLayout): Header {
  return { version: VERSION, taskId, kind, contentLength, pieceLength: pieceLength ?? null, start, length };
}

/** A line that says nothing of use is a piece less. */
function parseLine(line: string): SunkPiece | undefined {
  try {
    const { number, digest, crc32 } = JSON.parse(line) as Partial<Record<keyof SunkPiece, unknown>>;
    if (!isInteger(number) || typeof digest !== "string" || typeof crc32 !== "number") return undefined;
    parseDigest(digest);
    return { number, digest, crc32 };
  } catch {
    return undefined;
  }
}

/** A piece has a whole number: between two of them, bytes would be counted twice. */
function isInteger(value: unknown): value is number {
  return Number.isSafeInteger(value);
}
