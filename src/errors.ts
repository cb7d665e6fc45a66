/**
 * Category of a {@link VortexError}, derived from its {@link ErrorCode}. The code names the
 * failure; the kind names its origin, and whether a retry makes sense.
 *
 * - `misuse`: an error of the caller. Do not retry.
 * - `peer`: the peer violated the protocol or sent wrong bytes. Retry with another peer.
 * - `remote`: the peer answered with an error. Depends on the code.
 * - `transport`: the connection could not be established, or was lost. Retry.
 * - `timeout`: a deadline passed. Retry.
 * - `aborted`: the caller's AbortSignal. Do not retry.
 * - `local`: an error of this host, such as its disk. Do not retry.
 */
export type ErrorKind =
  | "misuse"
  | "peer"
  | "remote"
  | "transport"
  | "timeout"
  | "aborted"
  | "local";

/** Codes of {@link VortexError}. The set is closed. */
export type ErrorCode =
  /** An argument or option is out of range, or not one of the allowed values. */
  | "InvalidArgument"
  /**
   * The requested feature does not exist in this runtime or on this platform. The message names an
   * alternative.
   */
  | "Unavailable"
  /** The downloader, client, server or stream was used after it was closed on this side. */
  | "Closed"
  /** The runtime's permissions deny the operation. The message names the flag that allows it. */
  | "PermissionDenied"

  /** The received bytes are not a Vortex packet. */
  | "InvalidPacket"
  /** The announced length of a packet does not match its contents. */
  | "InvalidLength"
  /** A text field is not valid UTF-8. */
  | "InvalidUtf8"
  /** A well-formed packet where the protocol does not allow one, or bytes after the content. */
  | "ProtocolViolation"
  /** The peer announced or sent more than a configured limit. */
  | "LimitExceeded"
  /** The peer answered with a different piece than the requested one. */
  | "PieceMismatch"
  /** The content length differs from the announced one, other than by truncation. */
  | "LengthMismatch"
  /**
   * The content does not match the digest in its metadata or the one from the caller; or two
   * parents have different contents.
   */
  | "DigestMismatch"
  /** The peer ended the stream before the packet or the content was complete. */
  | "TruncatedContent"

  /** The peer does not have the piece or task. */
  | "NotFound"
  /** The peer rejected the request as invalid. */
  | "RemoteInvalidArgument"
  /** The peer reported an internal error. */
  | "RemoteInternal"
  /** The peer does not implement this call; another protocol may work. */
  | "RemoteUnimplemented"
  /** The peer has no capacity for this request now. */
  | "RemoteBusy"
  /** The peer reported an error with an unknown code. */
  | "RemoteUnknown"

  /** No listener at the address, or the peer refused the connection. */
  | "ConnectionRefused"
  /** No route to the host, no address for its name, or no free file descriptor on this host. */
  | "Unreachable"
  /**
   * The peer speaks another application protocol: TLS alert 120, QUIC error 0x178, or an answer in
   * HTTP or TLS.
   */
  | "ProtocolNotSupported"
  /** TLS failed: one side rejected the certificate, or there is no common version. */
  | "HandshakeFailed"
  /** An established connection ended during the request. */
  | "ConnectionLost"
  /** The peer reset the stream or asked to stop sending; the connection stays open. */
  | "StreamReset"
  /** The peer refused 0-RTT data. The request may succeed after the handshake. */
  | "EarlyDataRefused"
  /** The address to listen on is in use, or does not belong to this host. */
  | "AddressInUse"

  /** No connection was established within the connect timeout. */
  | "ConnectTimeout"
  /** The piece was not complete within the piece timeout. */
  | "PieceTimeout"
  /** No byte arrived within the stall timeout. */
  | "Stalled"

  /** The caller's AbortSignal aborted, or the caller cancelled the content. */
  | "Aborted"

  /**
   * A file, store or sink could not be read or written: no space, no permission, or changed while
   * it was served.
   */
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

/** Options of the {@link VortexError} constructor. */
export interface VortexErrorOptions {
  /** Underlying error, such as the runtime's native one. */
  readonly cause?: unknown;
  /** Address of the peer, `host:port`. */
  readonly addr?: string;
}

/**
 * Error class of every failure in this library.
 *
 * @example
 * ```ts
 * import { createDownloader, VortexError } from "vortex-peer";
 *
 * const downloader = createDownloader({ protocol: "tcp" });
 * const taskId = "7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd";
 * try {
 *   await downloader.downloadPiece({ addr: "10.0.0.7:4005", hostId: "me", taskId, number: 0 });
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
  /** Failure, from a closed set. */
  readonly code: ErrorCode;
  /** Origin of the failure, derived from {@link code}. */
  readonly kind: ErrorKind;
  /** Address of the peer, `host:port`; undefined if no peer was involved or it is unknown. */
  readonly addr: string | undefined;

  constructor(code: ErrorCode, message: string, options: VortexErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.kind = kinds[code];
    this.addr = options.addr;
  }

  /**
   * Converts any thrown value to a {@link VortexError}. Returns `error` itself if it is one
   * already; else wraps it as the cause of a new one with `code`.
   *
   * @param message prefix of the message of a new error. Default: none
   */
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
 * Returns `error` with the peer's address, which the codec and the transports do not know. Keeps
 * its cause and stack. An address that is already set stays. Any other value than a `VortexError`
 * becomes `Internal`.
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
 * Makes `to.stack` return the stack of `from`, read lazily. The first read formats the stack. For
 * that Deno 2.9 opens files, and panics when the process has no file descriptors left.
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
 * Returns the error for an aborted signal: its reason if that is a `VortexError`, else `Aborted`
 * with the reason as its cause.
 *
 * @param what operation that was aborted, for the message
 */
export function abortedError(signal: AbortSignal, what: string): VortexError {
  if (signal.reason instanceof VortexError) return signal.reason;
  return new VortexError("Aborted", `${what} was aborted`, { cause: signal.reason });
}

/**
 * Settles as `promise` does, or rejects with {@link abortedError} if `signal` aborts first. Does
 * not stop the operation behind `promise`.
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
 * Makes untrusted text safe to print on one line. Replaces control characters, line separators and
 * bidirectional overrides by spaces, and trims the result.
 */
export function oneLine(text: string): string {
  return text.replace(/[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]+/gu, " ").trim();
}

/**
 * Makes a peer's text safe as part of a message, which may reach logs and terminals. Truncates it
 * to `maxLength` UTF-16 code units, then replaces line breaks and control characters.
 */
export function remoteText(text: string, maxLength: number = 1024): string {
  return oneLine(text.slice(0, maxLength));
}
