/**
 * Types for the parts of Deno's QUIC that this library uses. Deno's QUIC is based on quinn. The API
 * is experimental, and its types exist only in Deno. Only this file refers to the `Deno` namespace
 * for QUIC. Source: denoland/deno, `ext/net/03_quic.js` and `quic.rs`, version 2.9.
 */
import { setImmediate } from "node:timers";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { VortexError } from "../../src/errors.ts";
import { Guard } from "../shared/guard.ts";

/**
 * QUIC connection options that are common to clients and servers. Flow-control windows are missing,
 * because Deno has no option for them.
 */
export interface NativeTransportOptions {
  /** Interval between PING frames in ms. Default: no PING frames. */
  readonly keepAliveInterval?: number;
  /** Idle timeout in ms (RFC 9000, section 10.1). */
  readonly maxIdleTimeout: number;
  readonly maxConcurrentBidirectionalStreams: number;
  readonly maxConcurrentUnidirectionalStreams: number;
  /** Congestion control algorithm: `low-latency` is BBR, and the other two values are CUBIC. */
  readonly congestionControl: "default" | "throughput" | "low-latency";
}

/** Options of {@link DenoQuic.connectQuic}. */
export interface NativeConnectOptions extends NativeTransportOptions {
  readonly hostname: string;
  readonly port: number;
  readonly serverName: string;
  readonly alpnProtocols: string[];
  readonly caCerts?: string[];
  /**
   * SHA-256 hashes of the pinned server certificates. Deno's types do not declare the option. It
   * cannot be combined with a client certificate.
   */
  readonly serverCertificateHashes?: {
    readonly algorithm: "sha-256";
    readonly value: Uint8Array;
  }[];
  readonly cert?: string;
  readonly key?: string;
  readonly endpoint?: NativeEndpoint;
  /**
   * True to return the connection before its handshake is complete, if the endpoint stores a TLS
   * session for the server name.
   */
  readonly zeroRtt: boolean;
}

/**
 * UDP socket of Deno's QUIC. It stores the TLS sessions of its client connections, and one TLS
 * configuration for listening.
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
   * Ends all connections. The socket stays open until garbage collection has freed all objects that
   * refer to it.
   */
  close(info: { readonly closeCode: number; readonly reason: string }): void;
}

/** Accepts QUIC connections until it is garbage-collected. */
export interface NativeListener {
  incoming(): Promise<NativeIncoming>;
}

/**
 * Connection attempt: the first datagram of a client. If a program reads the address property of
 * the attempt, Deno refuses the attempt.
 */
export interface NativeIncoming {
  /**
   * Accepts the attempt. With `zeroRtt`, returns the connection at once, before its handshake is
   * complete.
   */
  accept(options: { readonly zeroRtt: true }): NativeConn;
  refuse(): void;
  ignore(): void;
}

/** QUIC connection of Deno. */
export interface NativeConn {
  readonly endpoint: NativeEndpoint;
  readonly remoteAddr: { readonly hostname: string; readonly port: number };
  /** Resolves when the handshake has ended, successfully or not. */
  readonly handshake: Promise<void>;
  /**
   * Resolves when the application on either side has closed the connection. Otherwise rejects with
   * an error whose message is written by quinn.
   */
  readonly closed: Promise<{ readonly closeCode: number; readonly reason: string }>;
  readonly incomingBidirectionalStreams: ReadableStream<NativeStream>;
  createBidirectionalStream(options: {
    readonly waitUntilAvailable: boolean;
  }): Promise<NativeStream>;
  close(info: { readonly closeCode: number; readonly reason: string }): void;
}

/** Bidirectional stream of Deno's QUIC. */
export interface NativeStream {
  readonly readable: NativeReadable;
  readonly writable: WritableStream<Uint8Array>;
}

/** Receiving direction of a stream. */
export interface NativeReadable extends ReadableStream<Uint8Array<ArrayBuffer>> {
  /** Stream ID (RFC 9000, section 2.1). Reading it throws if the connection has ended. */
  readonly id: bigint;
}

/** Functions and classes for QUIC in the `Deno` namespace. */
export interface DenoQuic {
  connectQuic(options: NativeConnectOptions): Promise<NativeConn> | NativeConn;
  readonly QuicEndpoint: new (options: {
    readonly hostname: string;
    readonly port: number;
  }) => NativeEndpoint;
}

/**
 * Returns Deno's functions and classes for QUIC.
 *
 * @throws `Unavailable` if the runtime is not Deno, or was started without the flag
 * `--unstable-net`
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
 * Calls `end`, which closes a client connection, after Deno has sent the first datagrams of the
 * connection. If the very first datagram contains the close, a server on quinn keeps the connection
 * and its socket until the idle timeout.
 */
export function afterFirstFlight(end: () => void): void {
  // Deno sends between two turns of the event loop.
  setImmediate(guard.wrap(end));
}

/**
 * Resolves when Deno has sent the CONNECTION_CLOSE frames of an endpoint that was closed before the
 * call. If the process exits earlier, the peers wait for their idle timeout.
 */
export async function afterLastFlight(): Promise<void> {
  // Deno sends between two turns of the event loop. The first one may have begun already.
  for (let turn = 0; turn < 2; turn++)
    await new Promise<void>((resolve) => void setImmediate(resolve));
}

/**
 * Time in ms for which released endpoints are gathered before one garbage collection frees their
 * sockets.
 */
const COLLECT_DELAY_MS = 250;

/** Guard for timer callbacks that belong to no connection. */
const guard = new Guard();

let collectGarbage: (() => void) | undefined;
let collectScheduled = false;

/**
 * Runs a garbage collection, which frees the UDP sockets of unreferenced endpoints. Deno frees
 * these sockets in no other way. Without this call, a collection would rarely happen for them,
 * since the endpoints are small and outside of the collected heap.
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

/**
 * Schedules a call of {@link collectSockets} after {@link COLLECT_DELAY_MS}. Calls within this time
 * share one garbage collection.
 */
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
