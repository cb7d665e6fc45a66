/**
 * The part of `node:quic` that is used here, and all that is known of its experimental interface; no package has types for it.
 * Source: lib/quic.js and doc/api/quic.md of Node.js, and the behaviour of Bun 1.4.
 */
import type { KeyObject, X509Certificate } from "node:crypto";
import process from "node:process";
import { VortexError } from "../../src/errors.ts";

/** The module. */
export interface NodeQuic {
  /** Throws for an address that is none; a port that is taken shows in `closed` of the endpoint that uses it. */
  readonly QuicEndpoint: new (options: {
    readonly address: NativeAddress;
  }) => NativeEndpoint;
  listen(
    onSession: (session: NativeSession) => void,
    options: ListenConfig,
  ): Promise<NativeEndpoint>;
  connect(remote: NativeAddress, options: ConnectConfig): Promise<NativeSession>;
}

export interface NativeAddress {
  readonly address: string;
  readonly port: number;
  readonly family: "ipv4" | "ipv6";
}

/** One UDP socket. */
export interface NativeEndpoint {
  /** Undefined when it is closed, or could not be bound. */
  readonly address: { readonly port: number } | undefined;
  readonly destroyed: boolean;
  /** While it is set, no connections are taken in. Throws when the endpoint is closed. */
  busy: boolean;
  /** Connections at a time, the half-open ones among them; 0 to 65,535. */
  maxConnectionsTotal: number;
  /** Resolves when the socket is closed; rejects when it could not be bound. */
  readonly closed: Promise<void>;
  /** Closes the socket after its last connection has ended. */
  close(): Promise<void>;
  destroy(): Promise<void>;
  setSNIContexts(
    entries: Readonly<Record<string, NativeIdentity>>,
    options: { readonly replace: boolean },
  ): void;
}

export interface NativeIdentity {
  readonly keys: readonly KeyObject[];
  /** PEM. */
  readonly certs: readonly Uint8Array[];
}

/** What is told of a connection on both sides. */
export interface SessionConfig {
  readonly transportParams: {
    readonly initialMaxStreamDataBidiLocal: number;
    readonly initialMaxStreamDataBidiRemote: number;
    readonly initialMaxData: number;
    readonly initialMaxStreamsBidi: number;
    readonly initialMaxStreamsUni: number;
    /** Milliseconds. */
    readonly maxIdleTimeout: number;
    readonly maxDatagramFrameSize: number;
  };
  /** Milliseconds. */
  readonly handshakeTimeout: number;
  readonly cc?: "bbr" | "cubic";
  readonly enableEarlyData: boolean;
  /** `manual` leaves it to the application to look at what `opened` tells of the peer's certificate. */
  readonly verifyPeer: "manual";
}

export interface ListenConfig extends SessionConfig {
  readonly endpoint: NativeEndpoint;
  readonly alpn: readonly string[];
  /** Identities by server name; `*` is for all others. */
  readonly sni: { readonly "*": NativeIdentity };
  readonly verifyClient: boolean;
  /** PEM. */
  readonly ca?: readonly Uint8Array[];
}

export interface ConnectConfig extends SessionConfig {
  readonly endpoint: NativeEndpoint;
  readonly alpn: string;
  /** Default `localhost`. */
  readonly servername?: string;
  /** PEM. */
  readonly ca?: readonly Uint8Array[];
  readonly keys?: readonly KeyObject[];
  readonly certs?: readonly Uint8Array[];
  /** Milliseconds between two PING frames. */
  readonly keepAlive: number;
  readonly sessionTicket?: Uint8Array;
}

/** How a connection is ended. */
export interface CloseConfig {
  readonly code: number;
  readonly type: "transport" | "application";
  readonly reason: string;
}

/** What is known when a handshake is over. */
export interface HandshakeInfo {
  /** Absent when the certificate of the peer was accepted. A server without `verifyClient` has it always. */
  readonly validationErrorReason: string | undefined;
  readonly validationErrorCode: string | undefined;
  readonly earlyDataAttempted: boolean;
  readonly earlyDataAccepted: boolean;
}

/** One connection. */
export interface NativeSession {
  /** A client's resolves a round trip after its part of the handshake, when the server has confirmed it. */
  readonly opened: Promise<HandshakeInfo>;
  /** Resolves for a close without an error and for an idle timeout; else rejects with a {@link NativeError}. */
  readonly closed: Promise<void>;
  readonly destroyed: boolean;
  readonly peerCertificate: X509Certificate | undefined;
  /** Not to be asked before the connection is bound: what it says first is what it says from then on. */
  readonly path:
    | { readonly remote: { readonly address: string; readonly port: number } | undefined }
    | undefined;
  readonly stats: { readonly pktRecv: bigint };
  onstream: ((stream: NativeStream) => void) | undefined;
  /** Present, it keeps the rejections of `opened`, and of `closed` of the session and its streams, from being unhandled. */
  onerror: ((error: unknown) => void) | undefined;
  onsessionticket: ((ticket: Uint8Array) => void) | undefined;
  createBidirectionalStream(): Promise<NativeStream>;
  /** Ends the connection once all that was written has been acknowledged. */
  close(options: CloseConfig): Promise<void>;
  /** Ends the connection at once, and tells the peer why. */
  destroy(error: undefined, options: CloseConfig): void;
}

/** One bidirectional stream. It can be iterated once, and gives what has come since, in several chunks. */
export interface NativeStream extends AsyncIterable<readonly Uint8Array<ArrayBuffer>[]> {
  /** True until the handshake is over and the peer has given credit. What is written until then waits. */
  readonly pending: boolean;
  readonly destroyed: boolean;
  readonly closed: Promise<void>;
  /** Asking for it begins the sending side. */
  readonly writer: NativeWriter;
  stopSending(code: bigint): void;
  resetStream(code: bigint): void;
  /** Gives both directions up. */
  destroy(error: undefined, options: { readonly code: number }): void;
}

export interface NativeWriter {
  /** Room in the buffer, in bytes; 0 when writes are not taken, null when nothing can be written any more. */
  readonly desiredSize: number | null;
  /** Takes the whole chunk, or nothing of it. */
  writeSync(chunk: Uint8Array): boolean;
  /** A negative number when the end was not taken. */
  endSync(): number;
  /** A promise of room, or null when there is room, or will be none any more. */
  readonly [drainable]?: () => Promise<unknown> | null;
}

/** An error of the module. */
export interface NativeError extends Error {
  readonly code: string;
  readonly type?: "transport" | "application";
  readonly errorCode?: bigint;
  readonly reason?: string;
}

/** `node:stream/iter`'s protocol for waiting until there is room. */
export const drainable: unique symbol = Symbol.for("Stream.drainableProtocol") as never;

let loading: Promise<NodeQuic> | undefined;

/** Loads the module once. Rejects with `Unavailable` where there is none, as in Node's releases, or another one. */
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
 * Imports the module, without the warning that it is experimental: who uses this library learns that from its documentation, and
 * need not read it at every start of the command.
 */
async function importQuietly(): Promise<Partial<NodeQuic>> {
  // Not a literal: bundlers and type checkers know no such module.
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
    // Unless somebody else has replaced it meanwhile.
    if (process.emitWarning === quiet) process.emitWarning = emitWarning;
  }
}

/** Whether an error is one of the module, with a code of QUIC in it. */
export function isNativeError(
  error: unknown,
): error is NativeError & { type: string; errorCode: bigint } {
  return error instanceof Error && typeof (error as Partial<NativeError>).errorCode === "bigint";
}

function unavailable(cause?: unknown): VortexError {
  return new VortexError(
    "Unavailable",
    'QUIC by node:quic needs Bun 1.4 or newer, or a Node.js that was built with it; use QUIC by quiche, or protocol "tcp" or "grpc"',
    { cause },
  );
}
