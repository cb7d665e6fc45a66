import { Writable } from "node:stream";
import { storageError } from "../adapters/files/storage-error.ts";
import { VortexError } from "../src/errors.ts";
import type { Clock } from "../src/runtime.ts";
import type { CliFace } from "./face.ts";

/** Where text and bytes go: a process's stdout or stderr, or any other node stream. */
export interface TextOutput extends Writable {
  readonly isTTY?: boolean;
  readonly columns?: number;
}

/** Everything outside the command that it touches, so that tests can give it another. */
export interface CliEnvironment {
  /** Standard input, for a command that reads it. Default: none is read. */
  readonly openStdin?: () => AsyncIterable<Uint8Array>;
  readonly stdout: TextOutput;
  readonly stderr: TextOutput;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Fires when the user wants the command to end. */
  readonly signal: AbortSignal;
  /** Calls `listener` at each SIGHUP until the result is called. Undefined where that signal ends the process. */
  readonly onHangup?: (listener: () => void) => () => void;
  /** When progress is told. Default: the time of this machine. */
  readonly clock?: Clock;
  /** Called when a command needs the network, so that `--help` does not wait for it. */
  loadFace(): Promise<CliFace>;
}

/**
 * Bytes in one write to a pipe. Node writes to pipes synchronously: with a slow reader on the other end, one large write
 * would hold all timers and sockets for as long as it takes.
 */
const SLICE = 64 * 1024;

/** Resolves when all bytes are written. Rejects with `StorageFailed`, or with the signal's reason. */
export async function writeBytes(
  output: Writable,
  bytes: Uint8Array,
  signal: AbortSignal,
): Promise<void> {
  for (let at = 0; at < bytes.length; at += SLICE) {
    if (signal.aborted) throw signal.reason;
    await write(output, bytes.subarray(at, at + SLICE), signal);
    // Callbacks of synchronous writes run before timers and sockets have their turn.
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Resolves when a line is written. Rejects as {@link writeText} does. */
export function writeLine(output: Writable, line: string, signal?: AbortSignal): Promise<void> {
  return writeText(output, `${line}\n`, signal);
}

/** Resolves when `text` is written. Rejects with `StorageFailed`, or with the signal's reason. */
export function writeText(output: Writable, text: string, signal?: AbortSignal): Promise<void> {
  return write(output, text, signal);
}

/** Text of many lines, such as a stack, without anything else that does something to a terminal. */
export function printable(text: string): string {
  return text.replace(/[^\P{Cc}\n\t]|[\p{Zl}\p{Zp}\p{Bidi_Control}]/gu, " ");
}

/** JSON on one line. It escapes what `JSON.stringify` leaves as it is, and a terminal or a reader of lines takes for more than text. */
export function jsonLine(
  value: object,
  replacer?: (key: string, value: unknown) => unknown,
): string {
  return JSON.stringify(value, replacer).replace(
    /[\u007f-\u009f\p{Zl}\p{Zp}\p{Bidi_Control}]/gu,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** Wrong values in a configuration file. Each line of the cause's message begins with file and line, as editors understand it. */
export class ConfigFailure extends Error {
  override readonly name = "ConfigFailure";
  override readonly cause: VortexError;

  constructor(cause: VortexError) {
    super(cause.message);
    this.cause = cause;
  }
}

/**
 * A stream that hands everything on to `output`, and fails as streams of Node do: Deno's standard streams throw where a file is full,
 * and call nobody back from then on.
 */
export function guarded(output: TextOutput): TextOutput {
  // What fails fails in a write.
  output.on("error", () => {});
  const guard = new Writable({
    write(chunk, _encoding, done) {
      try {
        output.write(chunk, done);
      } catch (error) {
        done(error instanceof Error ? error : new Error(String(error)));
      }
    },
  });
  return Object.defineProperties(guard, {
    isTTY: { get: () => output.isTTY },
    columns: { get: () => output.columns },
  });
}

/** Whether somebody stopped reading what was written to them, as `head` does. */
export function isClosedPipe(error: unknown): boolean {
  return (
    error instanceof VortexError &&
    (error.cause as { code?: unknown } | undefined)?.code === "EPIPE"
  );
}

function write(output: Writable, data: Uint8Array | string, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal?.reason);
    signal?.addEventListener("abort", onAbort, { once: true });
    output.write(data, (error) => {
      signal?.removeEventListener("abort", onAbort);
      if (error) reject(storageError(error, "standard output cannot be written"));
      else resolve();
    });
  });
}
