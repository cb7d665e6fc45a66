/**
 * Category of a {@link VortexError}, derived from its {@link ErrorCode}. The code names the
 * failure. The kind says who caused the failure, and whether a retry makes sense:
 *
 * - `misuse`: the caller made an error. Do not retry.
 * - `peer`: the peer violated the protocol or sent wrong bytes. Retry with another peer.
 * - `remote`: the peer responded with an error. Whether to retry depends on the code.
 * - `transport`: the connection could not be established, or was lost. Retry.
 * - `timeout`: a time limit passed. Retry.
 * - `aborted`: the caller's AbortSignal aborted. Do not retry.
 * - `local`: this host failed, for example its disk. Do not retry.
 */
export type ErrorKind =
  | "misuse"
  | "peer"
  | "remote"
  | "transport"
  | "timeout"
  | "aborted"
  | "local";

/**
 * Codes of {@link VortexError}, each of which names a kind of failure. There are no other codes.
 */
export type ErrorCode =
  /** An argument or option is out of range, or not one of the allowed values. */
  | "InvalidArgument"
  /** This runtime or platform lacks the requested feature. The message names an alternative. */
  | "Unavailable"
  /** The downloader, client, server or stream was used after this side had closed it. */
  | "Closed"
  /** The runtime's permissions deny the operation. The message names the flag to allow it. */
  | "PermissionDenied"

  /** The received bytes are not a valid Vortex packet. */
  | "InvalidPacket"
  /** The length in the header of a Vortex packet does not fit its contents. */
  | "InvalidLength"
  /** A text field of a Vortex packet is not valid UTF-8. */
  | "InvalidUtf8"
  /** The peer sent a message that the protocol does not allow, or bytes after the content. */
  | "ProtocolViolation"
  /** The peer announced or sent more than a configured limit allows. */
  | "LimitExceeded"
  /** The peer sent a different piece than the requested one. */
  | "PieceMismatch"
  /** The content has another length than announced, but its transfer was not cut short. */
  | "LengthMismatch"
  /** The content does not match its digest, or two parents have different content. */
  | "DigestMismatch"
  /** The peer ended the stream before the packet or the content was complete. */
  | "TruncatedContent"

  /** The peer does not have the requested piece or task. */
  | "NotFound"
  /** No peer has the requested pieces of a task. The message lists them. */
  | "PieceNotFound"
  /** The peer rejected the request as invalid. */
  | "RemoteInvalidArgument"
  /** The peer reported an internal error. */
  | "RemoteInternal"
  /** The peer does not implement the RPC method. Another protocol may work. */
  | "RemoteUnimplemented"
  /** The peer currently has no capacity for the request. */
  | "RemoteBusy"
  /** The peer reported an error with a code that this library does not know. */
  | "RemoteUnknown"
  /** The peer could not fetch the task from its origin. The property `origin` has the response. */
  | "OriginFailed"

  /** No process listens at the address, or the peer refused the connection. */
  | "ConnectionRefused"
  /** No route to the host, no address for its name, or no free file descriptor on this host. */
  | "Unreachable"
  /** The peer speaks another protocol: TLS alert 120, QUIC error 0x178, or HTTP or TLS data. */
  | "ProtocolNotSupported"
  /** The TLS handshake failed: a certificate was rejected, or no common version exists. */
  | "HandshakeFailed"
  /** An established connection ended during a request. */
  | "ConnectionLost"
  /** The peer reset the stream or asked to stop sending. The connection stays open. */
  | "StreamReset"
  /** The peer refused 0-RTT data. The request may succeed after the handshake. */
  | "EarlyDataRefused"
  /** The local address to listen at is in use, or does not belong to this host. */
  | "AddressInUse"

  /** No connection was established within the connect timeout. */
  | "ConnectTimeout"
  /** The piece was not complete within the piece timeout. */
  | "PieceTimeout"
  /** The peer did not send or accept any byte within the stall timeout. */
  | "Stalled"

  /** The caller's AbortSignal aborted, or the caller cancelled the content. */
  | "Aborted"

  /** A file, store or sink could not be read or written, or a served file has changed. */
  | "StorageFailed"
  /** A bug in this library. Please report it. */
  | "Internal";

const kinds: Record<ErrorCode, ErrorKind> = {
  InvalidArgument: "misuse",
  Unavailable: "misuse",
  Closed: "misuse",
  PermissionDenied: "misuse",
  InvalidPacket: "peer",
  InvalidLength: "peer",
  InvalidUtf8: "peer",
  ProtocolViolation: "peer",
  LimitExceeded: "peer",
  PieceMismatch: "peer",
  LengthMismatch: "peer",
  DigestMismatch: "peer",
  TruncatedContent: "peer",
  NotFound: "remote",
  PieceNotFound: "remote",
  RemoteInvalidArgument: "remote",
  RemoteInternal: "remote",
  RemoteUnimplemented: "remote",
  RemoteBusy: "remote",
  RemoteUnknown: "remote",
  OriginFailed: "remote",
  ConnectionRefused: "transport",
  Unreachable: "transport",
  ProtocolNotSupported: "transport",
  HandshakeFailed: "transport",
  ConnectionLost: "transport",
  StreamReset: "transport",
  EarlyDataRefused: "transport",
  AddressInUse: "transport",
  ConnectTimeout: "timeout",
  PieceTimeout: "timeout",
  Stalled: "timeout",
  Aborted: "aborted",
  StorageFailed: "local",
  Internal: "local",
};

/** All error codes, for tables and tests that must cover each code. */
export const errorCodes: readonly ErrorCode[] = Object.keys(kinds) as ErrorCode[];

/** Options of the {@link VortexError} constructor. */
export interface VortexErrorOptions {
  /** Error that caused this error, such as a native error of the runtime. Default: none. */
  readonly cause?: unknown | undefined;
  /** Address of the peer, in the form `host:port`. Default: none. */
  readonly addr?: string | undefined;
  /** Failure of the task's origin, for the code `OriginFailed`. Default: none. */
  readonly origin?: VortexError["origin"];
}

/**
 * Error class of this library. Every function that fails throws it, or rejects with it.
 *
 * @example
 * ```ts
 * import { createDownloader, VortexError } from "vortex-peer";
 *
 * const downloader = createDownloader({ protocol: "tcp" });
 * const taskId = "7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd";
 * try {
 *   await downloader.downloadPiece({ addr: "10.0.0.7:4005", taskId, number: 0 });
 * } catch (error) {
 *   if (!(error instanceof VortexError)) throw error;
 *   if (error.code === "NotFound") console.log("another peer may have it");
 *   else if (error.kind === "transport" || error.kind === "timeout") console.log("worth a retry");
 *   else throw error;
 * } finally {
 *   await downloader.close();
 * }
 * ```
 */
export class VortexError extends Error {
  /**
   * `AbortError` for the code `Aborted`, `TimeoutError` for every error of kind `timeout`,
   * otherwise `VortexError`. An abort by `AbortSignal.timeout` has the code `Aborted` and the name
   * `TimeoutError`. To recognise an error of this library, use `instanceof`.
   */
  override readonly name: "VortexError" | "AbortError" | "TimeoutError";
  /** Code that names the failure. */
  readonly code: ErrorCode;
  /**
   * Category of the failure, derived from {@link code}. It says who caused the failure, and whether
   * a retry makes sense.
   */
  readonly kind: ErrorKind;
  /**
   * Address of the peer, in the form `host:port`. Undefined if no single peer was involved, or its
   * address is not known.
   */
  readonly addr: string | undefined;
  /**
   * Failure of the task's origin, as reported by a peer that fetched the task there. All its texts
   * are untrusted. Undefined for every other code than `OriginFailed`.
   */
  readonly origin:
    | {
        /** HTTP status of the origin's response; undefined if the peer reported none. */
        readonly status: number | undefined;
        /**
         * HTTP headers of the origin's response, by lower-case name, at most 64. Values have at
         * most 1,024 characters.
         */
        readonly headers: Readonly<Record<string, string>>;
        /** Message of the peer about the failure, at most 1,024 characters on one line. */
        readonly message: string;
      }
    | undefined;

  constructor(code: ErrorCode, message: string, options: VortexErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.kind = kinds[code];
    this.addr = options.addr;
    this.origin = options.origin;
    this.name =
      this.kind === "timeout" || (code === "Aborted" && isTimeout(options.cause))
        ? "TimeoutError"
        : code === "Aborted"
          ? "AbortError"
          : "VortexError";
  }

  /**
   * Converts any thrown value to a {@link VortexError}. Returns `error` unchanged if it is a
   * `VortexError`. Otherwise creates an error with `code`, whose cause is `error`. Never throws.
   *
   * @param code code of a new error
   * @param message text that precedes the message of `error` in a new error. Default: none
   * @param addr address of the peer for a new error. Default: none
   */
  static from(error: unknown, code: ErrorCode, message?: string, addr?: string): VortexError {
    if (isVortexError(error)) return error;
    const detail = textOf(error);
    return new VortexError(code, message === undefined ? detail : `${message}: ${detail}`, {
      cause: error,
      ...(addr !== undefined && { addr }),
    });
  }

  /**
   * Returns a plain object for `JSON.stringify`, with the causes. Never throws. Omits `addr`,
   * `origin` and `cause` if they are undefined. Describes at most eight levels of causes, 1,000
   * objects, 10,000 values and 1,048,576 characters in total; replaces the others, and cycles, by a
   * text. Of an `ArrayBufferView`, only the length is described.
   */
  toJSON(): VortexErrorJson {
    return plainError(this, [], {
      objects: MAX_JSON_OBJECTS,
      values: MAX_JSON_VALUES,
      text: MAX_JSON_TEXT,
    }) as unknown as VortexErrorJson;
  }
}

/** Form of a {@link VortexError} in JSON, see {@link VortexError.toJSON}. */
export interface VortexErrorJson {
  /** Name of the error, see {@link VortexError.name}. */
  readonly name: string;
  /** Code that names the failure. */
  readonly code: ErrorCode;
  /** Category of the failure. */
  readonly kind: ErrorKind;
  /** One line of text for people. */
  readonly message: string;
  /** Address of the peer, in the form `host:port`. Absent if the error has none. */
  readonly addr?: string;
  /** Failure of the task's origin. Absent if the error has none. */
  readonly origin?: NonNullable<VortexError["origin"]>;
  /**
   * Cause of the error. An error of this library has this form. Any other error has `name` and
   * `message`, and `code` and `cause` if it has them. An `AggregateError` also has `errors`, an
   * array. Other values are JSON values; a bigint is text. Absent if the error has no cause.
   */
  readonly cause?: unknown;
}

/** Maximum number of nested causes in the JSON form of an error. */
const MAX_JSON_DEPTH = 8;
/** Maximum number of objects in the JSON form of an error. */
const MAX_JSON_OBJECTS = 1000;

/** Maximum number of values in the JSON form of an error, including the items of arrays. */
const MAX_JSON_VALUES = 10_000;
/** Maximum length of all texts in the JSON form of an error, in UTF-16 code units. */
const MAX_JSON_TEXT = 1024 * 1024;

/** Remaining size of the JSON form of an error. */
interface JsonBudget {
  /** Number of objects that may still be added. */
  objects: number;
  /** Number of values that may still be added. */
  values: number;
  /** Length of the texts that may still be added, in UTF-16 code units. */
  text: number;
}

/** Returns true if `reason` is the abort reason of `AbortSignal.timeout`. Never throws. */
function isTimeout(reason: unknown): boolean {
  try {
    return reason instanceof DOMException && reason.name === "TimeoutError";
  } catch {
    // `reason` is a proxy whose trap throws.
    return false;
  }
}

/** Returns true if `error` is a {@link VortexError}. Never throws. */
function isVortexError(error: unknown): error is VortexError {
  try {
    return error instanceof VortexError;
  } catch {
    // See `isTimeout`.
    return false;
  }
}

/** Returns the message of an error, or a value as text. Never throws. */
function textOf(error: unknown): string {
  try {
    return String(error instanceof Error ? error.message : error);
  } catch {
    // A getter or trap throws, or the object has no prototype to convert it.
    return "[unreadable]";
  }
}

/**
 * Converts an error to a plain object, see {@link VortexErrorJson}.
 *
 * @param outer chain of errors and objects that contain `error`, the outermost first
 * @param budget numbers of objects, values and characters that the result may still take. The call
 * reduces them
 */
function plainError(
  error: Error,
  outer: readonly object[],
  budget: JsonBudget,
): Record<string, unknown> {
  const within = [...outer, error];
  const part = (read: () => unknown): unknown => {
    try {
      return plainValue(read(), within, budget);
    } catch {
      // The property of a native error has a getter that throws.
      return "[unreadable]";
    }
  };
  const plain: Record<string, unknown> = {};
  for (const field of error instanceof VortexError ? VORTEX_FIELDS : NATIVE_FIELDS) {
    const value = part(() => Reflect.get(error, field));
    if (value !== undefined) plain[field] = value;
  }
  return plain;
}

const VORTEX_FIELDS = ["name", "code", "kind", "message", "addr", "origin", "cause"] as const;
const NATIVE_FIELDS = ["name", "code", "message", "cause", "errors"] as const;

/** Converts any value to one that `JSON.stringify` accepts. Copies objects. */
function plainValue(value: unknown, outer: readonly object[], budget: JsonBudget): unknown {
  if (budget.values-- <= 0) return "[omitted]";
  if (typeof value === "bigint") return shortened(bigintText(value), budget);
  if (typeof value === "symbol" || typeof value === "function")
    return shortened(String(value), budget);
  if (typeof value === "string") return shortened(value, budget);
  if (typeof value !== "object" || value === null) return value;
  if (outer.includes(value)) return "[cycle]";
  if (outer.length > MAX_JSON_DEPTH || budget.objects-- <= 0) return "[omitted]";
  if (value instanceof Error) return plainError(value, outer, budget);
  const within = [...outer, value];
  if (Array.isArray(value)) {
    const count = Math.min(value.length, Math.max(0, budget.values));
    const items: unknown[] = [];
    // Not map: an array may have a subclass, or millions of holes.
    for (let index = 0; index < count; index++)
      items.push(plainValue(value[index], within, budget));
    if (count < value.length) items.push("[omitted]");
    return items;
  }
  if (ArrayBuffer.isView(value)) return `${value.byteLength} bytes`;
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) return shortened(String(value), budget);
  const plain: [string, unknown][] = [];
  for (const name in value) {
    if (!Object.hasOwn(value, name)) continue;
    if (budget.values <= 0) {
      plain.push(["[omitted]", true]);
      break;
    }
    plain.push([shortened(name, budget), plainValue(Reflect.get(value, name), within, budget)]);
  }
  return Object.fromEntries(plain);
}

/** Shortens a text to the remaining size of the result. */
function shortened(text: string, budget: JsonBudget): string {
  const room = budget.text;
  budget.text = Math.max(0, room - text.length);
  return text.length > room ? `${text.slice(0, room)}…` : text;
}

/** Formats a bigint. A huge one would take seconds, so its digits are omitted. */
function bigintText(value: bigint): string {
  return BigInt.asIntN(1024, value) === value ? String(value) : "[bigint of over 1,024 bits]";
}

/**
 * Returns a copy of `error` with the address of the peer, and the same code, message, origin, cause
 * and stack. The decoder and the transports create errors without an address. If `error` has an
 * address already, returns it unchanged. Converts a value other than a `VortexError` to an error
 * with the code `Internal`.
 */
export function withAddress(error: unknown, addr: string): VortexError {
  if (!(error instanceof VortexError)) return VortexError.from(error, "Internal", undefined, addr);
  if (error.addr !== undefined) return error;
  const copy = new VortexError(error.code, error.message, {
    cause: "cause" in error ? error.cause : error,
    addr,
    origin: error.origin,
  });
  shareStack(copy, error);
  return copy;
}

/**
 * Makes `to.stack` return the stack of `from`. Reads `from.stack` only on demand, because the first
 * read formats the stack. Deno 2.9 opens files to format it, and panics if the process has no free
 * file descriptor.
 */
function shareStack(to: Error, from: Error): void {
  Object.defineProperty(to, "stack", {
    configurable: true,
    get: () => from.stack,
    set: (value: unknown) =>
      Object.defineProperty(to, "stack", { configurable: true, writable: true, value }),
  });
}

/**
 * Returns the error for an operation whose signal has aborted. It is the signal's reason if that is
 * a `VortexError`. Otherwise it is an error with the code `Aborted`, whose cause is the reason.
 *
 * @param what name of the aborted operation, for the message
 */
export function abortedError(signal: AbortSignal, what: string): VortexError {
  if (signal.reason instanceof VortexError) return signal.reason;
  return new VortexError("Aborted", `${what} was aborted`, { cause: signal.reason });
}

/**
 * Returns a promise that settles like `promise`, or rejects with {@link abortedError} if `signal`
 * aborts first. An abort does not stop the operation behind `promise`.
 *
 * @param what name of the operation, for the error message
 */
export function untilAborted<T>(
  promise: Promise<T>,
  signal: AbortSignal | undefined,
  what: string,
): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(abortedError(signal, what));
    signal.addEventListener("abort", onAbort, { once: true });
    if (signal.aborted) onAbort();
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

/**
 * Makes text from an untrusted source safe to print on one line. Replaces control characters, line
 * separators and characters that control the text direction by spaces. Removes spaces at both ends.
 */
export function oneLine(text: string): string {
  return text.replace(/[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]+/gu, " ").trim();
}

/**
 * Makes text from a peer safe for an error message, which may reach logs and terminals. Shortens it
 * to `maxLength` UTF-16 code units, then replaces line breaks and control characters by spaces.
 */
export function remoteText(text: string, maxLength: number = 1024): string {
  return oneLine(text.slice(0, maxLength));
}
