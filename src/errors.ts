/**
 * Every failure of this library is one {@link VortexError}. Its `code` names what happened, its `kind` whose doing it was.
 *
 * | kind | whose doing | worth a retry |
 * | --- | --- | --- |
 * | `misuse` | the caller's | no |
 * | `peer` | the peer broke the protocol or sent wrong bytes | from another peer |
 * | `remote` | the peer answered with an error | depends on the code |
 * | `transport` | the connection could not be made, or was lost | yes |
 * | `timeout` | a deadline passed | yes |
 * | `aborted` | the caller's AbortSignal | no |
 * | `local` | this machine: disk, file | no |
 */
export type ErrorKind =
  | "misuse"
  | "peer"
  | "remote"
  | "transport"
  | "timeout"
  | "aborted"
  | "local";

/** The closed set of codes. */
export type ErrorCode =
  /** A value given by the caller is out of its range, or not one of those allowed. */
  | "InvalidArgument"
  /** What was asked for does not exist in this runtime or on this platform; the message names what does. */
  | "Unavailable"
  /** The downloader, client, server or stream was used after it had been closed on this side. */
  | "Closed"
  /** The runtime's permissions do not allow the operation; the message names the flag that does. */
  | "PermissionDenied"

  /** Bytes that are no Vortex packet. */
  | "InvalidPacket"
  /** A packet whose announced length does not fit what it holds. */
  | "InvalidLength"
  /** A text field that is not UTF-8. */
  | "InvalidUtf8"
  /** A well-formed packet at a place where the protocol does not allow it, or bytes after the content. */
  | "ProtocolViolation"
  /** The peer announced or sent more than the configured bound. */
  | "LimitExceeded"
  /** The peer answered with another piece than the one asked for. */
  | "PieceMismatch"
  /** The content's length differs from the one announced, and not by a truncation. */
  | "LengthMismatch"
  /** The content does not have the digest that its metadata, or the caller, names; or two parents have different contents. */
  | "DigestMismatch"
  /** The peer ended the stream before the packet or the content was complete. */
  | "TruncatedContent"

  /** The peer does not have the piece or task. */
  | "NotFound"
  /** The peer holds the request to be wrong. */
  | "RemoteInvalidArgument"
  /** The peer failed inside. */
  | "RemoteInternal"
  /** The peer does not serve this call at all; another protocol may work. */
  | "RemoteUnimplemented"
  /** The peer has no capacity left for this request now. */
  | "RemoteBusy"
  /** The peer reported an error of no known kind. */
  | "RemoteUnknown"

  /** Nobody listens at the address, or the peer turned the connection away. */
  | "ConnectionRefused"
  /** No route to the host, no address for its name, or no file descriptor left here for a connection. */
  | "Unreachable"
  /** The peer speaks another application protocol: TLS alert 120, QUIC error 0x178, or an answer in HTTP or TLS. */
  | "ProtocolNotSupported"
  /** TLS failed: the certificate was not accepted by one side, or there is no common version. */
  | "HandshakeFailed"
  /** An established connection ended under the request. */
  | "ConnectionLost"
  /** The peer reset the stream or asked to stop sending, and kept the connection. */
  | "StreamReset"
  /** The peer did not take the request before the end of the handshake; asked again after it, it may. */
  | "EarlyDataRefused"
  /** The address to listen on is taken, or not of this host. */
  | "AddressInUse"

  /** No connection within the connect timeout. */
  | "ConnectTimeout"
  /** The piece was not complete within the piece timeout. */
  | "PieceTimeout"
  /** No byte came within the stall timeout. */
  | "Stalled"

  /** The caller's AbortSignal fired, or the caller cancelled the content. */
  | "Aborted"

  /** A file or a sink could not be read or written: no space, no permission, changed while being served. */
  | "StorageFailed"
  /** A fault of this library. Please report it. */
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
  RemoteInvalidArgument: "remote",
  RemoteInternal: "remote",
  RemoteUnimplemented: "remote",
  RemoteBusy: "remote",
  RemoteUnknown: "remote",
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

/** All codes, for exhaustive tables and tests. */
export const errorCodes: readonly ErrorCode[] = Object.keys(kinds) as ErrorCode[];

/** What a {@link VortexError} may carry besides its code and message. */
export interface VortexErrorOptions {
  /** The native error, or whatever else led to this one. */
  readonly cause?: unknown;
  /** The peer's address, `host:port`. */
  readonly addr?: string;
}

/**
 * The one error class of this library.
 *
 * @example
 * ```ts
 * import { createDownloader, VortexError } from "vortex-peer";
 *
 * const downloader = createDownloader({ protocol: "tcp" });
 * const taskId = "7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd";
 * try {
 *   await downloader.downloadPiece({ addr: "10.0.0.7:4005", hostId: "my-host", taskId, number: 0 });
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
  override readonly name = "VortexError";
  /** What happened. */
  readonly code: ErrorCode;
  /** Whose doing it was. */
  readonly kind: ErrorKind;
  /** The peer, `host:port`, where one took part and is known. */
  readonly addr: string | undefined;

  constructor(code: ErrorCode, message: string, options: VortexErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.kind = kinds[code];
    this.addr = options.addr;
  }

  /** The error itself if it is a {@link VortexError}, else one with `code` that keeps it as its cause. */
  static from(error: unknown, code: ErrorCode, message?: string, addr?: string): VortexError {
    if (error instanceof VortexError) return error;
    const detail = error instanceof Error ? error.message : String(error);
    return new VortexError(code, message === undefined ? detail : `${message}: ${detail}`, {
      cause: error,
      ...(addr !== undefined && { addr }),
    });
  }
}

/**
 * Adds the peer to an error of the codec or of a transport, which do not know it; the cause and the stack stay those of `error`.
 * Anything but a `VortexError` becomes `Internal`.
 */
export function withAddress(error: unknown, addr: string): VortexError {
  if (!(error instanceof VortexError)) return VortexError.from(error, "Internal", undefined, addr);
  if (error.addr !== undefined) return error;
  const copy = new VortexError(error.code, error.message, {
    cause: "cause" in error ? error.cause : error,
    addr,
  });
  shareStack(copy, error);
  return copy;
}

/**
 * Shows the stack of `from` as that of `to`, and reads it only when somebody else does. The first reading formats it, for which
 * Deno 2.9 opens files: where the process has no file descriptors left, it panics.
 */
function shareStack(to: Error, from: Error): void {
  Object.defineProperty(to, "stack", {
    configurable: true,
    get: () => from.stack,
    set: (value: unknown) =>
      Object.defineProperty(to, "stack", { configurable: true, writable: true, value }),
  });
}

/** An `Aborted` error that keeps the signal's reason as its cause. */
export function abortedError(signal: AbortSignal, what: string): VortexError {
  if (signal.reason instanceof VortexError) return signal.reason;
  return new VortexError("Aborted", `${what} was aborted`, { cause: signal.reason });
}

/** `promise`, or {@link abortedError} for `what` if the signal comes first; the promise itself goes on. */
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
 * One line, whatever the text: without what would begin another one, move the cursor of a terminal or turn the order of what is
 * read.
 */
export function oneLine(text: string): string {
  return text.replace(/[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]+/gu, " ").trim();
}

/** A peer's words as a part of a message, which ends up in logs and on terminals: on one line, and no longer than `most`. */
export function peersWords(text: string, most: number = 1024): string {
  return oneLine(text.slice(0, most));
}
