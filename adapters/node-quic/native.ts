/**
 * Types for the used part of `node:quic`. The module is experimental, and no package has types for
 * it. Sources: lib/quic.js and doc/api/quic.md of Node.js, and the behaviour of Bun 1.4.
 */
import type { KeyObject, X509Certificate } from "node:crypto";
import process from "node:process";
import { VortexError } from "../../src/errors.ts";

/** Exports of `node:quic`. */
export interface NodeQuic {
  /** Throws for an invalid address. A port in use shows as a rejection of `closed`. */
  readonly QuicEndpoint: new (options: {
    readonly address: NativeAddress;
  }) => NativeEndpoint;
  listen(
    onSession: (session: NativeSession) => void,
    options: ListenConfig,
  ): Promise<NativeEndpoint>;
  connect(remote: NativeAddress, options: ConnectConfig): Promise<NativeSession>;
}

/** Socket address. */
export interface NativeAddress {
  readonly address: string;
  readonly port: number;
  readonly family: "ipv4" | "ipv6";
}

/** UDP socket with its connections. */
export interface NativeEndpoint {
  /** Bound address; undefined once closed, or when the bind failed. */
  readonly address: { readonly port: number } | undefined;
  readonly destroyed: boolean;
  /** Set to true to refuse new connections. Throws when the endpoint is closed. */
  busy: boolean;
  /** Limit of connections, including half-open ones; 0 to 65,535. */
  maxConnectionsTotal: number;
  /** Resolves when the socket is closed; rejects when it could not be bound. */
  readonly closed: Promise<void>;
  /** Closes the socket after its last connection has ended. */
  close(): Promise<void>;
  destroy(): Promise<void>;
  /** Sets the certificates of new connections, by server name. */
  setSNIContexts(
    entries: Readonly<Record<string, NativeIdentity>>,
    options: { readonly replace: boolean },
  ): void;
}

/** Certificate and private key. */
export interface NativeIdentity {
  readonly keys: readonly KeyObject[];
  /** Certificate chains, PEM. */
  readonly certs: readonly Uint8Array[];
}

/** Options of a session that clients and servers share. */
export interface SessionConfig {
  readonly transportParams: {
    readonly initialMaxStreamDataBidiLocal: number;
    readonly initialMaxStreamDataBidiRemote: number;
    readonly initialMaxData: number;
    readonly initialMaxStreamsBidi: number;
    readonly initialMaxStreamsUni: number;
    /** Idle timeout in ms. */
    readonly maxIdleTimeout: number;
    readonly maxDatagramFrameSize: number;
  };
  /** Handshake timeout in ms. */
  readonly handshakeTimeout: number;
  readonly cc?: "bbr" | "cubic";
  readonly enableEarlyData: boolean;
  /** `manual`: the application checks the certificate, by the result of `opened`. */
  readonly verifyPeer: "manual";
}

/** Options of `listen`. */
export interface ListenConfig extends SessionConfig {
  readonly endpoint: NativeEndpoint;
  readonly alpn: readonly string[];
  /** Certificates by server name; `*` matches all others. */
  readonly sni: { readonly "*": NativeIdentity };
  /** Requests client certificates. */
  readonly verifyClient: boolean;
  /** Authorities for client certificates, PEM. */
  readonly ca?: readonly Uint8Array[];
}

/** Options of `connect`. */
export interface ConnectConfig extends SessionConfig {
  readonly endpoint: NativeEndpoint;
  readonly alpn: string;
  /** Server name to send (SNI). Default `localhost`. */
  readonly servername?: string;
  /** Trusted authorities, PEM. */
  readonly ca?: readonly Uint8Array[];
  readonly keys?: readonly KeyObject[];
  readonly certs?: readonly Uint8Array[];
  /** Interval of PING frames in ms. */
  readonly keepAlive: number;
  readonly sessionTicket?: Uint8Array;
}

/** Error code and reason to close a session with. */
export interface CloseConfig {
  readonly code: number;
  readonly type: "transport" | "application";
  readonly reason: string;
}

/** Result of a handshake. */
export interface HandshakeInfo {
  /**
   * Fault of the peer's certificate; absent when it was accepted. Always present on a server
   * without `verifyClient`.
   */
  readonly validationErrorReason: string | undefined;
  readonly validationErrorCode: string | undefined;
  readonly earlyDataAttempted: boolean;
  readonly earlyDataAccepted: boolean;
}

/** QUIC connection. */
export interface NativeSession {
  /**
   * Resolves when the handshake is confirmed: on a client, a round trip after its own part is done.
   */
  readonly opened: Promise<HandshakeInfo>;
  /**
   * Resolves on a close without an error and on idle timeout; otherwise rejects with a
   * {@link NativeError}.
   */
  readonly closed: Promise<void>;
  readonly destroyed: boolean;
  readonly peerCertificate: X509Certificate | undefined;
  /**
   * Addresses of the path. The module caches the first result, so do not read it before the
   * connection is bound.
   */
  readonly path:
    | { readonly remote: { readonly address: string; readonly port: number } | undefined }
    | undefined;
  readonly stats: { readonly pktRecv: bigint };
  onstream: ((stream: NativeStream) => void) | undefined;
  /**
   * Handler of errors. When set, rejections of `opened` and of `closed`, of the session and its
   * streams, do not count as unhandled.
   */
  onerror: ((error: unknown) => void) | undefined;
  onsessionticket: ((ticket: Uint8Array) => void) | undefined;
  createBidirectionalStream(): Promise<NativeStream>;
  /** Ends the connection once all written data is acknowledged. */
  close(options: CloseConfig): Promise<void>;
  /** Ends the connection at once with a close frame. */
  destroy(error: undefined, options: CloseConfig): void;
}

/** Bidirectional stream. Can be iterated once; yields the chunks received since the last step. */
export interface NativeStream extends AsyncIterable<readonly Uint8Array<ArrayBuffer>[]> {
  /**
   * True until the handshake is complete and stream credit is available. Writes are queued until
   * then.
   */
  readonly pending: boolean;
  readonly destroyed: boolean;
  readonly closed: Promise<void>;
  /** Sending side; the first access opens it. */
  readonly writer: NativeWriter;
  stopSending(code: bigint): void;
  resetStream(code: bigint): void;
  /** Resets both directions. */
  destroy(error: undefined, options: { readonly code: number }): void;
}

/** Sending side of a stream. */
export interface NativeWriter {
  /** Free buffer space in bytes; 0 while writes are rejected, null once writing has ended. */
  readonly desiredSize: number | null;
  /** Accepts the whole chunk and returns true, or nothing of it and returns false. */
  writeSync(chunk: Uint8Array): boolean;
  /** Ends the direction. Returns a negative number on failure. */
  endSync(): number;
  /** Returns a promise of buffer space, or null when space is available or writing has ended. */
  readonly [drainable]?: () => Promise<unknown> | null;
}

/** Error thrown by the module. */
export interface NativeError extends Error {
  readonly code: string;
  readonly type?: "transport" | "application";
  readonly errorCode?: bigint;
  readonly reason?: string;
}

/** Protocol of `node:stream/iter` for waiting until a writer has space. */
export const drainable: unique symbol = Symbol.for("Stream.drainableProtocol") as never;

let loading: Promise<NodeQuic> | undefined;

/**
 * Loads the module; later calls share the result. Rejects with `Unavailable` when it is missing, as
 * in releases of Node.js, or incompatible.
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
 * Imports the module without its warning about experimental features. The documentation of this
 * library says so instead, and the command need not print it at every start.
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

/** Tests for an error of the module that has a QUIC error code. */
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
