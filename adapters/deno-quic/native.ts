/**
 * Deno's own QUIC (quinn inside), as far as it is used here. It is experimental, and types for it exist only in Deno, so this
 * file describes it in its own words; nothing else in this library names it. Source: denoland/deno, `ext/net/03_quic.js` and
 * `quic.rs`, version 2.9.
 */
import { setImmediate } from "node:timers";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { VortexError } from "../../src/errors.ts";
import { Guard } from "../shared/guard.ts";

/** What both sides may set; the windows of flow control are not among it. */
export interface NativeTransportOptions {
  readonly keepAliveInterval?: number;
  readonly maxIdleTimeout: number;
  readonly maxConcurrentBidirectionalStreams: number;
  readonly maxConcurrentUnidirectionalStreams: number;
  /** `low-latency` is BBR, the other two are CUBIC. */
  readonly congestionControl: "default" | "throughput" | "low-latency";
}

export interface NativeConnectOptions extends NativeTransportOptions {
  readonly hostname: string;
  readonly port: number;
  readonly serverName: string;
  readonly alpnProtocols: string[];
  readonly caCerts?: string[];
  /** Absent from Deno's types. Excludes client certificates. */
  readonly serverCertificateHashes?: {
    readonly algorithm: "sha-256";
    readonly value: Uint8Array;
  }[];
  readonly cert?: string;
  readonly key?: string;
  readonly endpoint?: NativeEndpoint;
  /** Gives the connection at once, before its handshake, when the endpoint remembers a session with that server name. */
  readonly zeroRtt: boolean;
}

/** A UDP socket, the sessions of what was dialled on it, and one TLS configuration for all its listening. */
export interface NativeEndpoint {
  readonly addr: { readonly port: number };
  listen(
    options: NativeTransportOptions & {
      readonly cert: string;
      readonly key: string;
      readonly alpnProtocols: string[];
    },
  ): NativeListener;
  /** Ends all its connections. The socket lives on until the garbage collector has found everything that refers to it. */
  close(info: { readonly closeCode: number; readonly reason: string }): void;
}

/** Stops listening when it is found by the garbage collector. */
export interface NativeListener {
  incoming(): Promise<NativeIncoming>;
}

/** A client that has sent its first datagram. To ask it for its address is to refuse it. */
export interface NativeIncoming {
  /** With `zeroRtt` the connection is there at once, before its handshake. */
  accept(options: { readonly zeroRtt: true }): NativeConn;
  refuse(): void;
  ignore(): void;
}

export interface NativeConn {
  readonly endpoint: NativeEndpoint;
  readonly remoteAddr: { readonly hostname: string; readonly port: number };
  /** Resolves when the handshake is over, however it ended. */
  readonly handshake: Promise<void>;
  /** Resolves when one of the applications closed, and rejects with a text when anything else happened. */
  readonly closed: Promise<{ readonly closeCode: number; readonly reason: string }>;
  readonly incomingBidirectionalStreams: ReadableStream<NativeStream>;
  createBidirectionalStream(options: {
    readonly waitUntilAvailable: boolean;
  }): Promise<NativeStream>;
  close(info: { readonly closeCode: number; readonly reason: string }): void;
}

export interface NativeStream {
  readonly readable: NativeReadable;
  readonly writable: WritableStream<Uint8Array>;
}

export interface NativeReadable extends ReadableStream<Uint8Array> {
  /** The stream's number (RFC 9000, section 2.1). Throws once the connection has ended. */
  readonly id: bigint;
}

/** The entrance to Deno's QUIC. */
export interface DenoQuic {
  connectQuic(options: NativeConnectOptions): Promise<NativeConn> | NativeConn;
  readonly QuicEndpoint: new (options: {
    readonly hostname: string;
    readonly port: number;
  }) => NativeEndpoint;
}

/** @throws `Unavailable` where it is missing */
export function denoQuic(): DenoQuic {
  const { Deno } = globalThis as { Deno?: Partial<DenoQuic> };
  if (Deno?.connectQuic !== undefined && Deno.QuicEndpoint !== undefined) return Deno as DenoQuic;
  throw new VortexError(
    "Unavailable",
    Deno === undefined
      ? 'QUIC by Deno exists in Deno only; use protocol "tcp" or "grpc"'
      : 'QUIC is experimental in Deno: start it with "deno run --unstable-net", or use protocol "tcp" or "grpc"',
  );
}

/**
 * Ends a connection that a client has just begun, once its first flight is out. A server on quinn whose very first datagram of a
 * connection is its end would keep that connection, and with it the socket, until the idle timeout.
 */
export function afterFirstFlight(end: () => void): void {
  // Deno sends between two turns of the event loop.
  setImmediate(guard.wrap(end));
}

/** Milliseconds in which endpoints that are let go of are gathered, to be looked for once. */
const GATHERING = 250;

/** For callbacks that belong to no connection. */
const guard = new Guard();

let collect: (() => void) | undefined;
let gathering = false;

/**
 * Frees the sockets of endpoints that nothing refers to any more. Deno leaves that to the garbage collector, which sees no
 * need: they are small, and outside its heap.
 */
export function collectSockets(): void {
  try {
    if (collect === undefined) {
      setFlagsFromString("--expose-gc");
      collect = runInNewContext("gc") as () => void;
    }
    collect();
  } catch {
    // A Deno that does not allow it frees them later.
  }
}

/** As {@link collectSockets}, a little later, once for all that are let go of until then. */
export function collectSocketsSoon(): void {
  if (gathering) return;
  gathering = true;
  guard.clock.setTimer(
    () => {
      gathering = false;
      collectSockets();
    },
    GATHERING,
    { background: true },
  );
}
