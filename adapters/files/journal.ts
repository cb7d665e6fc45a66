import { type FileHandle, open, readFile, truncate } from "node:fs/promises";
import { parseDigest } from "../../src/digest/digest.ts";
import type { SinkLayout, SunkPiece } from "../../src/task/sink.ts";
import { codeOf, storageError } from "./storage-error.ts";

const VERSION = 1;

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

  private constructor(path: string, handle: FileHandle, found: readonly SunkPiece[], complete: boolean) {
    this.#path = path;
    this.#handle = handle;
    this.found = found;
    this.complete = complete;
  }

  /** Opens the journal of a download, and begins a new one if there is none, or one of another download. */
  static async open(path: string, layout: SinkLayout): Promise<Journal> {
    const first = `${JSON.stringify(headerOf(layout))}\n`;
    try {
      const bytes = await readFile(path).catch((error: unknown) => {
        if (codeOf(error) === "ENOENT") return undefined;
        throw error;
      });
      // The last line of a process that was killed may be torn.
      const end = (bytes?.lastIndexOf("\n") ?? -1) + 1;
      const text = bytes?.toString("utf8", 0, end) ?? "";
      if (text.startsWith(first)) {
        if (end !== bytes?.length) await truncate(path, end);
        const lines = text.split("\n").slice(1, -1);
        const found = lines.map(parseLine).filter((piece) => piece !== undefined);
        return new Journal(path, await open(path, "a"), found, lines.includes(COMPLETE));
      }
      const handle = await open(path, "w");
      await handle.writeFile(first);
      return new Journal(path, handle, [], false);
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

  async #append(line: string): Promise<void> {
    try {
      await this.#handle.appendFile(`${line}\n`);
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
  return Number.isInteger(value);
}
