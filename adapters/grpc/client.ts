import { type ClientHttp2Session, type ClientHttp2Stream, connect, constants } from "node:http2";
import type { TLSSocket } from "node:tls";
import type { Transport as ConnectTransport } from "@connectrpc/connect";
import { createGrpcTransport, type GrpcTransportOptions } from "@connectrpc/connect-node";
import { abortedError, type ErrorCode, VortexError } from "../../src/errors.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import type { GrpcBinding, GrpcConnection, GrpcDialOptions } from "../../src/transport/grpc.ts";
import type { TlsClientOptions } from "../../src/transport/tls.ts";
import { nativeError } from "../native-error.ts";
import { checkCertificate, serverNameOf } from "../tls.ts";
import { guardSession } from "./deno-session.ts";

/**
 * Bytes that a peer may send ahead, on each stream and on the whole connection. HTTP/2's own 65,535 (RFC 9113, section
 * 6.9.2) hold a link of 50 ms round trip at 1.3 MB/s.
 *
 * Both windows must be the same. Bun's `setLocalWindowSize` gives new streams that window too, without telling the peer
 * (https://github.com/oven-sh/bun/pull/40180): a peer that was told of a smaller one for streams stops there for ever.
 */
const WINDOW = 16 * 1024 * 1024;
/** Streams at a time while the peer sets no limit of its own. */
const MAX_STREAMS = 100;
/** Bytes of an answer that are joined into one chunk, and how many are held before the stream is paused. */
const CHUNK = 256 * 1024;
const READ_AHEAD = 4 * CHUNK;

/** How connections to gRPC servers are made. */
export interface GrpcBindingOptions {
  /** TLS, with these options. Default: HTTP/2 in the clear, as stock peers serve it unless they are configured otherwise. */
  readonly tls?: TlsClientOptions;
}

/** gRPC over node:http2, for Node, Bun and Deno. */
export function grpcBinding({ tls }: GrpcBindingOptions = {}): GrpcBinding {
  return {
    async dial(remote, options): Promise<GrpcConnection> {
      const { signal } = options;
      if (signal?.aborted) throw abortedError(signal, `dialling ${formatAddress(remote)}`);
      return new Http2Connection(await openSession(remote, tls, signal), remote, tls, options);
    },
  };
}

/** Resolves with a session whose peer has sent its SETTINGS. */
function openSession(
  remote: Address,
  tls: TlsClientOptions | undefined,
  signal: AbortSignal | undefined,
): Promise<ClientHttp2Session> {
  const addr = formatAddress(remote);
  return new Promise((resolve, reject) => {
    const session = connect(originOf(remote, tls), {
      settings: { enablePush: false, initialWindowSize: WINDOW },
      ...(tls !== undefined && tlsSettings(tls, remote)),
    });
    guardSession(session);
    const fail = (error: VortexError): void => {
      signal?.removeEventListener("abort", onAbort);
      reject(error);
      session.destroy();
    };
    const onAbort = (): void => {
      if (signal !== undefined) fail(abortedError(signal, `dialling ${addr}`));
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    // Stays for the life of the session: what ends it reaches each of its streams too.
    session.on("error", (error) => fail(dialError(error, addr, tls !== undefined)));
    session.once("close", () => fail(new VortexError("ConnectionRefused", `${addr} turned the connection away`)));
    session.once("connect", () => {
      try {
        if (tls !== undefined) checkPeer(session, tls, remote);
        session.setLocalWindowSize(WINDOW);
      } catch (error) {
        fail(VortexError.from(error, "HandshakeFailed"));
      }
    });
    session.once("remoteSettings", () => {
      signal?.removeEventListener("abort", onAbort);
      resolve(session);
    });
  });
}

class Http2Connection implements GrpcConnection {
  readonly closed: Promise<void>;
  readonly #session: ClientHttp2Session;
  readonly #options: GrpcTransportOptions;
  readonly #waiting: (() => void)[] = [];
  #streams = 0;
  #leaving = false;
  /** Resolves when nothing is left of the session. */
  readonly #gone: Promise<void>;

  constructor(
    session: ClientHttp2Session,
    remote: Address,
    tls: TlsClientOptions | undefined,
    { maxMessageLength }: GrpcDialOptions,
  ) {
    this.#session = session;
    this.#options = {
      baseUrl: originOf(remote, tls),
      // Connect asks for gzip by default. Pieces are mostly compressed already, and it costs four fifths of the rate.
      acceptCompression: [],
      readMaxBytes: maxMessageLength,
    };
    this.#gone = new Promise((resolve) => {
      if (session.destroyed) resolve();
      session.once("close", resolve);
    });
    this.closed = new Promise((resolve) => {
      session.once("goaway", () => {
        // The peer takes no more streams, and lets those under way end (RFC 9113, section 6.8).
        this.#leaving = true;
        resolve();
      });
      void this.#gone.then(() => {
        for (const wake of this.#waiting.splice(0)) wake();
        resolve();
      });
    });
    session.unref();
  }

  get open(): boolean {
    return !this.#leaving && !this.#session.closed && !this.#session.destroyed;
  }

  transport(onBytes: () => void): ConnectTransport {
    return createGrpcTransport({
      ...this.#options,
      sessionManager: {
        authority: new URL(this.#options.baseUrl).origin,
        request: async (method, path, headers, options) => {
          await this.#credit();
          const stream = this.#session.request({ ...headers, ":method": method, ":path": path }, options);
          this.#count(stream);
          return gathering(stream, onBytes);
        },
        notifyResponseByteRead: () => {},
      },
    });
  }

  async close(): Promise<void> {
    if (!this.#session.destroyed) {
      // An unreferenced session may not live to tell that it is closed.
      this.#session.ref();
      this.#session.destroy(undefined, constants.NGHTTP2_NO_ERROR);
    }
    await this.#gone;
  }

  /**
   * Waits until the peer's SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113, section 5.1.2) allows one more. Node queues beyond it;
   * Bun does not, and its peers refuse such streams or end the session.
   */
  async #credit(): Promise<void> {
    const allowed = this.#session.remoteSettings?.maxConcurrentStreams ?? MAX_STREAMS;
    while (this.#streams >= Math.min(allowed, MAX_STREAMS) && !this.#session.destroyed) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
    }
  }

  /** Keeps the count, and the process alive while it is not zero. */
  #count(stream: ClientHttp2Stream): void {
    if (this.#streams++ === 0) this.#session.ref();
    stream.once("close", () => {
      if (--this.#streams === 0 && !this.#session.destroyed) this.#session.unref();
      this.#waiting.shift()?.();
    });
  }
}

/**
 * The stream, with an iterator of its own: chunks of 256 KiB, where HTTP/2 has frames of 16 KiB. Connect adds up the lengths of
 * all chunks that it holds at each one that comes, which for a piece of 64 MiB in frames takes three quarters of the time.
 */
function gathering(stream: ClientHttp2Stream, onBytes: () => void): ClientHttp2Stream {
  let chunks: Uint8Array[] = [];
  let held = 0;
  /** At first 1: the length of the message is to be refused before the message comes. */
  let enough = 1;
  let ended = false;
  let failure: Error | undefined;
  let wake = (): void => {};
  const take = (): Uint8Array => {
    const joined = new Uint8Array(held);
    let at = 0;
    for (const chunk of chunks) {
      joined.set(chunk, at);
      at += chunk.length;
    }
    chunks = [];
    held = 0;
    enough = CHUNK;
    if (stream.isPaused()) stream.resume();
    return joined;
  };
  const listen = (): void => {
    stream.on("data", (chunk: Uint8Array) => {
      chunks.push(chunk);
      held += chunk.length;
      onBytes();
      if (held >= enough) wake();
      if (held >= READ_AHEAD) stream.pause();
    });
    stream.once("end", () => {
      // A reset ends the stream too, as far as reading goes.
      if (stream.rstCode !== constants.NGHTTP2_NO_ERROR) failure ??= closedEarly(stream);
      ended = true;
      wake();
    });
    stream.once("error", (error) => {
      failure = error;
      wake();
    });
    stream.once("close", () => {
      if (!ended) failure ??= closedEarly(stream);
      wake();
    });
  };
  const iterator = {
    async next(): Promise<IteratorResult<Uint8Array, undefined>> {
      while (held < enough && !ended && failure === undefined) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      if (failure !== undefined) throw failure;
      return held === 0 ? { done: true, value: undefined } : { done: false, value: take() };
    },
  };
  return Object.assign(stream, {
    [Symbol.asyncIterator]: () => {
      listen();
      return iterator;
    },
  });
}

function closedEarly({ rstCode }: ClientHttp2Stream): Error {
  return new Error(`http/2 stream closed before its end, with error code ${rstCode}`);
}

function originOf(remote: Address, tls: TlsClientOptions | undefined): string {
  return `${tls === undefined ? "http" : "https"}://${formatAddress(remote)}`;
}

function tlsSettings(tls: TlsClientOptions, remote: Address): object {
  const { ca, cert, key, verify, fingerprints } = tls;
  const servername = serverNameOf(tls, remote.host);
  return {
    ...(ca !== undefined && { ca }),
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
    ...(servername !== undefined && { servername }),
    rejectUnauthorized: verify !== false && fingerprints === undefined,
  };
}

/** Pinned fingerprints are checked here, everything else by the runtime. */
function checkPeer(session: ClientHttp2Session, tls: TlsClientOptions, remote: Address): void {
  if (tls.fingerprints === undefined) return;
  const { raw } = (session.socket as TLSSocket).getPeerCertificate();
  checkCertificate(raw === undefined ? null : [raw], tls, remote.host);
}

function dialError(error: unknown, addr: string, secure: boolean): VortexError {
  const fallback: ErrorCode = secure ? "HandshakeFailed" : "ProtocolNotSupported";
  const failure = nativeError(error, fallback, `cannot connect to ${addr}`);
  // A connection that is reset before the peer's SETTINGS was not taken.
  return failure.code === "StreamReset"
    ? new VortexError("ConnectionRefused", failure.message, { cause: error })
    : failure;
}
