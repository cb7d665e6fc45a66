/**
 * Types for the used part of Deno's QUIC, which is quinn. The API is experimental, and its types
 * exist only in Deno. No other file of this library refers to it. Source: denoland/deno,
 * `ext/net/03_quic.js` and `quic.rs`, version 2.9.
 */
import { setImmediate } from "node:timers";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { VortexError } from "../../src/errors.ts";
import { Guard } from "../shared/guard.ts";

/** Options of clients and servers. Flow-control windows are not among them. */
export interface NativeTransportOptions {
  /** PING interval in ms. */
  readonly keepAliveInterval?: number;
  /** Idle timeout in ms. */
  readonly maxIdleTimeout: number;
  readonly maxConcurrentBidirectionalStreams: number;
  readonly maxConcurrentUnidirectionalStreams: number;
  /** `low-latency` is BBR, the other two are CUBIC. */
  readonly congestionControl: "default" | "throughput" | "low-latency";
}

/** Options of `connectQuic`. */
export interface NativeConnectOptions extends NativeTransportOptions {
  readonly hostname: string;
  readonly port: number;
  readonly serverName: string;
  readonly alpnProtocols: string[];
  readonly caCerts?: string[];
  /** Pinned certificates. Missing in Deno's types. Excludes client certificates. */
  readonly serverCertificateHashes?: {
    readonly algorithm: "sha-256";
    readonly value: Uint8Array;
  }[];
  readonly cert?: string;
  readonly key?: string;
  readonly endpoint?: NativeEndpoint;
  /**
   * Returns the connection before its handshake if the endpoint has a session for the server name.
   */
  readonly zeroRtt: boolean;
}

/**
 * UDP socket, with the sessions of its client connections and a single TLS configuration for
 * listening.
 */
export interface NativeEndpoint {
  readonly addr: { readonly port: number };
  listen(
    options: NativeTransportOptions & {
      readonly cert: string;
      readonly key: string;
      readonly alpnProtocols: string[];
    },
  ): NativeListener;
  /**
   * Ends all connections. The socket stays open until garbage collection has freed all references.
   */
  close(info: { readonly closeCode: number; readonly reason: string }): void;
}

/** Accepts connections until it is garbage-collected. */
export interface NativeListener {
  incoming(): Promise<NativeIncoming>;
}

/** Connection attempt: a client's first datagram. Reading its address refuses it. */
export interface NativeIncoming {
  /** Returns the connection at once, before its handshake, with `zeroRtt`. */
  accept(options: { readonly zeroRtt: true }): NativeConn;
  refuse(): void;
  ignore(): void;
}

/** QUIC connection. */
export interface NativeConn {
  readonly endpoint: NativeEndpoint;
  readonly remoteAddr: { readonly hostname: string; readonly port: number };
  /** Resolves when the handshake is over, whether it succeeded or not. */
  readonly handshake: Promise<void>;
  /**
   * Resolves when either application closed the connection; otherwise rejects with quinn's text.
   */
  readonly closed: Promise<{ readonly closeCode: number; readonly reason: string }>;
  readonly incomingBidirectionalStreams: ReadableStream<NativeStream>;
  createBidirectionalStream(options: {
    readonly waitUntilAvailable: boolean;
  }): Promise<NativeStream>;
  close(info: { readonly closeCode: number; readonly reason: string }): void;
}

/** Bidirectional stream. */
export interface NativeStream {
  readonly readable: NativeReadable;
  readonly writable: WritableStream<Uint8Array>;
}

/** Receiving side of a stream. */
export interface NativeReadable extends ReadableStream<Uint8Array> {
  /** Stream id (RFC 9000, section 2.1). Throws once the connection has ended. */
  readonly id: bigint;
}

/** QUIC functions of the `Deno` namespace. */
export interface DenoQuic {
  connectQuic(options: NativeConnectOptions): Promise<NativeConn> | NativeConn;
  readonly QuicEndpoint: new (options: {
    readonly hostname: string;
    readonly port: number;
  }) => NativeEndpoint;
}

/**
 * Returns Deno's QUIC API.
 *
 * @throws `Unavailable` without Deno, or without its flag `--unstable-net`
 */
export function denoQuic(): DenoQuic {
  const { Deno } = globalThis as { Deno?: Partial<DenoQuic> };
  if (Deno?.connectQuic !== undefined && Deno.QuicEndpoint !== undefined) return Deno as DenoQuic;
  throw new VortexError(
    "Unavailable",
    Deno === undefined
      ? 'QUIC by Deno is unavailable: this runtime is not Deno; use protocol "tcp" or "grpc"'
      : 'QUIC by Deno is unavailable: it is experimental; start with "deno run --unstable-net", or use protocol "tcp" or "grpc"',
  );
}

/**
 * Ends a client connection after its first flight has been sent. If the very first datagram
 * contains the close, a server on quinn keeps the connection, and with it the socket, until the
 * idle timeout.
 */
export function afterFirstFlight(end: () => void): void {
  // Deno sends between two turns of the event loop.
  setImmediate(guard.wrap(end));
}

/** Delay in ms in which released endpoints are batched for one garbage collection. */
const COLLECT_DELAY_MS = 250;

/** Guards callbacks that belong to no connection. */
const guard = new Guard();

let collectGarbage: (() => void) | undefined;
let collectScheduled = false;

/**
 * Frees the sockets of unreferenced endpoints by a garbage collection. Deno leaves this to the
 * collector, which rarely runs for them: they are small, and outside its heap.
 */
export function collectSockets(): void {
  try {
    if (collectGarbage === undefined) {
      setFlagsFromString("--expose-gc");
      collectGarbage = runInNewContext("gc") as () => void;
    }
    collectGarbage();
  } catch {
    // Without permission for this, Deno frees them later.
  }
}

/** Schedules {@link collectSockets}, once for all endpoints released in the meantime. */
export function collectSocketsSoon(): void {
  if (collectScheduled) return;
  collectScheduled = true;
  guard.clock.setTimer(
    () => {
      collectScheduled = false;
      collectSockets();
    },
    COLLECT_DELAY_MS,
    { background: true },
  );
}
