import { Writable } from "node:stream";
import { storageError } from "../adapters/files/storage-error.ts";
import { VortexError } from "../src/errors.ts";
import type { Clock } from "../src/runtime.ts";
import type { Sdk, Warn } from "./sdk.ts";

/** Output stream for text and bytes: a process's stdout or stderr, or another Node stream. */
export interface TextOutput extends Writable {
  readonly isTTY?: boolean;
  readonly columns?: number;
}

/** Access of the command to the outside: streams, environment, signals, SDK. Tests replace it. */
export interface CliEnvironment {
  /** Opens standard input. Undefined when there is none. */
  readonly openStdin?: () => AsyncIterable<Uint8Array>;
  readonly stdout: TextOutput;
  readonly stderr: TextOutput;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Aborts on SIGINT or SIGTERM. */
  readonly signal: AbortSignal;
  /**
   * Calls `listener` at each SIGHUP. Returns a function that unsubscribes. Undefined where SIGHUP
   * ends the process.
   */
  readonly onHangup?: (listener: () => void) => () => void;
  /** Clock for progress reports and timeouts. Default: system clock. */
  readonly clock?: Clock;
  /**
   * Loads the SDK. Called only by commands that need the network, so that `--help` is fast.
   * @param warn receives the warnings of the SDK
   */
  loadSdk(warn?: Warn): Promise<Sdk>;
}

/**
 * Limit of one write to a pipe, in bytes. Node writes to pipes synchronously: with a slow reader,
 * one large write would block all timers and sockets until it completes.
 */
const MAX_WRITE_BYTES = 64 * 1024;

/**
 * Writes bytes in parts of at most 64 KiB. Resolves when all are written. Rejects with
 * `StorageFailed`, or with the signal's reason.
 */
export async function writeBytes(
  output: Writable,
  bytes: Uint8Array,
  signal: AbortSignal,
): Promise<void> {
  for (let at = 0; at < bytes.length; at += MAX_WRITE_BYTES) {
    if (signal.aborted) throw signal.reason;
    await write(output, bytes.subarray(at, at + MAX_WRITE_BYTES), signal);
    // Callbacks of synchronous writes run before timers and sockets are polled.
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Writes a line. Resolves when it is written. Rejects like {@link writeText}. */
export function writeLine(output: Writable, line: string, signal?: AbortSignal): Promise<void> {
  return writeText(output, `${line}\n`, signal);
}

/**
 * Writes text. Resolves when it is written. Rejects with `StorageFailed`, or the signal's reason.
 */
export function writeText(output: Writable, text: string, signal?: AbortSignal): Promise<void> {
  return write(output, text, signal);
}

/** Replaces the control characters of a multi-line text, except newline and tab, by spaces. */
export function printable(text: string): string {
  return text.replace(/[^\P{Cc}\n\t]|[\p{Zl}\p{Zp}\p{Bidi_Control}]/gu, " ");
}

/**
 * Formats a value as JSON on one line. Also escapes control, line-separator and bidirectional
 * characters, which `JSON.stringify` leaves and which terminals and line readers interpret.
 */
export function jsonLine(
  value: object,
  replacer?: (key: string, value: unknown) => unknown,
): string {
  return JSON.stringify(value, replacer).replace(
    /[\u007f-\u009f\p{Zl}\p{Zp}\p{Bidi_Control}]/gu,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/**
 * Error for invalid values in a configuration file. Each line of the cause's message begins with
 * `file:line:`, which editors recognize.
 */
export class ConfigFailure extends Error {
  override readonly name = "ConfigFailure";
  override readonly cause: VortexError;

  constructor(cause: VortexError) {
    super(cause.message);
    this.cause = cause;
  }
}

/**
 * Wraps a stream so that failed writes are reported by the callback, as in Node. Deno's standard
 * streams throw instead when the disk is full, and call no further callbacks.
 */
export function withNodeErrors(output: TextOutput): TextOutput {
  // Failures are reported by the callback of the write.
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

/** Returns true if the reader of an output pipe closed it (EPIPE), as `head` does. */
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
      if (error) reject(storageError(error, "cannot write standard output"));
      else resolve();
    });
  });
}
