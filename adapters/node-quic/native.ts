/**
 * Types for the parts of `node:quic` that this library uses. This module is experimental, and no
 * package has types for it. Sources: lib/quic.js and doc/api/quic.md of Node.js, and the behaviour
 * of Bun 1.4.
 */
import type { KeyObject, X509Certificate } from "node:crypto";
import process from "node:process";
import { VortexError } from "../../src/errors.ts";

/** Functions and classes of the `node:quic` module that this library uses. */
export interface NodeQuic {
  /**
   * Class of UDP sockets for QUIC. The constructor throws for an invalid address. A port in use
   * shows later, as a rejection of {@link NativeEndpoint.closed}.
   */
  readonly QuicEndpoint: new (options: {
    readonly address: NativeAddress;
  }) => NativeEndpoint;
  listen(
    onSession: (session: NativeSession) => void,
    options: ListenConfig,
  ): Promise<NativeEndpoint>;
  connect(remote: NativeAddress, options: ConnectConfig): Promise<NativeSession>;
}

/** Socket address in the format of `node:quic`. */
export interface NativeAddress {
  readonly address: string;
  readonly port: number;
  readonly family: "ipv4" | "ipv6";
}

/** UDP socket of `node:quic`, with the QUIC connections on it. */
export interface NativeEndpoint {
  /** Bound address. Undefined after the endpoint was closed, or if the bind failed. */
  readonly address: { readonly port: number } | undefined;
  readonly destroyed: boolean;
  /** True to refuse new connections. Setting it throws if the endpoint is closed. */
  busy: boolean;
  /** Maximum number of connections including half-open ones, 0 to 65,535. */
  maxConnectionsTotal: number;
  /** Resolves when the UDP socket is closed, and rejects if the socket could not be bound. */
  readonly closed: Promise<void>;
  /** Closes the socket after its last connection has ended. */
  close(): Promise<void>;
  destroy(): Promise<void>;
  /** Sets the certificates for new connections. Each key of `entries` is a server name (SNI). */
  setSNIContexts(
    entries: Readonly<Record<string, NativeIdentity>>,
    options: { readonly replace: boolean },
  ): void;
}

/** Certificate and private key in the format of `node:quic`. */
export interface NativeIdentity {
  readonly keys: readonly KeyObject[];
  /** Certificate chains in PEM. */
  readonly certs: readonly Uint8Array[];
}

/** Options of a QUIC connection that clients and servers share. */
export interface SessionConfig {
  readonly transportParams: {
    readonly initialMaxStreamDataBidiLocal: number;
    readonly initialMaxStreamDataBidiRemote: number;
    readonly initialMaxData: number;
    readonly initialMaxStreamsBidi: number;
    readonly initialMaxStreamsUni: number;
    /** Idle timeout in ms (RFC 9000, section 10.1). */
    readonly maxIdleTimeout: number;
    readonly maxDatagramFrameSize: number;
  };
  /** Time in ms after which an incomplete handshake fails. */
  readonly handshakeTimeout: number;
  readonly cc?: "bbr" | "cubic";
  readonly enableEarlyData: boolean;
  /**
   * Way in which the peer's certificate is checked. With `manual`, the handshake succeeds with any
   * certificate. The application then checks the result of {@link NativeSession.opened}.
   */
  readonly verifyPeer: "manual";
}

/** Options of {@link NodeQuic.listen}. */
export interface ListenConfig extends SessionConfig {
  readonly endpoint: NativeEndpoint;
  readonly alpn: readonly string[];
  /** Certificates by server name (SNI). `*` matches all other names. */
  readonly sni: { readonly "*": NativeIdentity };
  /** True to request a certificate from clients. */
  readonly verifyClient: boolean;
  /** Certificate authorities for client certificates, in PEM. */
  readonly ca?: readonly Uint8Array[];
}

/** Options of {@link NodeQuic.connect}. */
export interface ConnectConfig extends SessionConfig {
  readonly endpoint: NativeEndpoint;
  readonly alpn: string;
  /** Server name to send in the handshake (SNI). Default `localhost`. */
  readonly servername?: string;
  /** Trusted certificate authorities, in PEM. */
  readonly ca?: readonly Uint8Array[];
  readonly keys?: readonly KeyObject[];
  readonly certs?: readonly Uint8Array[];
  /** Interval between PING frames in ms. */
  readonly keepAlive: number;
  readonly sessionTicket?: Uint8Array;
}

/** Error code and reason phrase of the CONNECTION_CLOSE frame that ends a connection. */
export interface CloseConfig {
  readonly code: number;
  readonly type: "transport" | "application";
  readonly reason: string;
}

/** Result of a TLS handshake in `node:quic`. */
export interface HandshakeInfo {
  /**
   * Fault of the peer's certificate as text, or undefined if the certificate was accepted. On a
   * server without `verifyClient`, it is always defined, as clients send no certificate.
   */
  readonly validationErrorReason: string | undefined;
  readonly validationErrorCode: string | undefined;
  readonly earlyDataAttempted: boolean;
  readonly earlyDataAccepted: boolean;
}

/** QUIC connection of `node:quic`. */
export interface NativeSession {
  /**
   * Resolves when the handshake is confirmed (RFC 9001, section 4.1.2). A client completes its part
   * of the handshake one round trip earlier.
   */
  readonly opened: Promise<HandshakeInfo>;
  /**
   * Resolves when the connection was closed without an error or by the idle timeout. Otherwise
   * rejects with a {@link NativeError}.
   */
  readonly closed: Promise<void>;
  readonly destroyed: boolean;
  readonly peerCertificate: X509Certificate | undefined;
  /**
   * Network path with the peer's address. The `node:quic` module caches the result of the first
   * read. So the property must not be read before the socket is bound.
   */
  readonly path:
    | { readonly remote: { readonly address: string; readonly port: number } | undefined }
    | undefined;
  readonly stats: { readonly pktRecv: bigint };
  onstream: ((stream: NativeStream) => void) | undefined;
  /**
   * Callback for errors. If it is set, rejected promises of the connection and its streams do not
   * count as unhandled.
   */
  onerror: ((error: unknown) => void) | undefined;
  onsessionticket: ((ticket: Uint8Array) => void) | undefined;
  createBidirectionalStream(): Promise<NativeStream>;
  /** Ends the connection after the peer has acknowledged all written data. */
  close(options: CloseConfig): Promise<void>;
  /** Ends the connection at once with a CONNECTION_CLOSE frame. */
  destroy(error: undefined, options: CloseConfig): void;
}

/**
 * Bidirectional stream of `node:quic`. Only one iteration over it is possible. Each iteration step
 * yields the chunks received since the previous step.
 */
export interface NativeStream extends AsyncIterable<readonly Uint8Array<ArrayBuffer>[]> {
  /**
   * True until the handshake is complete and stream credit is available. Until then, written data
   * is queued.
   */
  readonly pending: boolean;
  readonly destroyed: boolean;
  readonly closed: Promise<void>;
  /** Sending direction of the stream. The first access opens it. */
  readonly writer: NativeWriter;
  stopSending(code: bigint): void;
  resetStream(code: bigint): void;
  /** Resets both directions of the stream with an error code. */
  destroy(error: undefined, options: { readonly code: number }): void;
}

/** Sending direction of a `node:quic` stream. */
export interface NativeWriter {
  /**
   * Free space in the send buffer, in bytes. The value is 0 while writes are rejected, and null
   * after the sending direction has ended.
   */
  readonly desiredSize: number | null;
  /**
   * Writes a chunk if the send buffer has space. Returns true if the whole chunk was accepted, and
   * false if no byte was accepted.
   */
  writeSync(chunk: Uint8Array): boolean;
  /** Ends the sending direction with a FIN. Returns a negative number on failure. */
  endSync(): number;
  /**
   * Returns a promise that resolves when the send buffer has space. Returns null if the buffer
   * already has space, or if the sending direction has ended.
   */
  readonly [drainable]?: () => Promise<unknown> | null;
}

/** Error that the `node:quic` module throws. */
export interface NativeError extends Error {
  readonly code: string;
  readonly type?: "transport" | "application";
  readonly errorCode?: bigint;
  readonly reason?: string;
}

/**
 * Symbol from `node:stream/iter`: the name of the method that waits until a writer has buffer
 * space.
 */
export const drainable: unique symbol = Symbol.for("Stream.drainableProtocol") as never;

let loading: Promise<NodeQuic> | undefined;

/**
 * Loads the `node:quic` module. Repeated calls return the same promise.
 *
 * Rejects with `Unavailable` if `node:quic` is missing, as in releases of Node.js, or lacks a
 * required function.
 */
export function loadNodeQuic(): Promise<NodeQuic> {
  loading ??= importQuietly().then(
    ({ QuicEndpoint, listen, connect }) => {
      if (QuicEndpoint === undefined || listen === undefined || connect === undefined)
        throw unavailable();
      return { QuicEndpoint, listen, connect };
    },
    (cause) => {
      throw unavailable(cause);
    },
  );
  return loading;
}

/**
 * Imports the `node:quic` module and suppresses its warning about experimental features. The
 * documentation of this library repeats that warning, so that the command-line program need not
 * print it at every start.
 */
async function importQuietly(): Promise<Partial<NodeQuic>> {
  // Not a literal, since bundlers and type checkers do not know the module.
  const specifier: string = "node:quic";
  const { emitWarning } = process;
  const quiet = (...args: unknown[]): void => {
    if (!/quic is an experimental feature/.test(String(args[0])))
      Reflect.apply(emitWarning, process, args);
  };
  process.emitWarning = quiet;
  try {
    return await import(specifier);
  } finally {
    // Unless other code has replaced the function in the meantime.
    if (process.emitWarning === quiet) process.emitWarning = emitWarning;
  }
}

/** Returns true if `error` was thrown by `node:quic` and contains a QUIC error code. */
export function isNativeError(
  error: unknown,
): error is NativeError & { type: string; errorCode: bigint } {
  return error instanceof Error && typeof (error as Partial<NativeError>).errorCode === "bigint";
}

function unavailable(cause?: unknown): VortexError {
  return new VortexError(
    "Unavailable",
    "QUIC by node:quic is unavailable: it needs Bun 1.4 or newer, or a Node.js built with it; " +
      'use QUIC by quiche, or protocol "tcp" or "grpc"',
    { cause },
  );
}
