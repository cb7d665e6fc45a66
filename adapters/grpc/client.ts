import { type ClientHttp2Session, type ClientHttp2Stream, connect, constants } from "node:http2";
import { connect as connectInClear, type Socket } from "node:net";
import { connect as connectSocket, type TLSSocket } from "node:tls";
import type { Transport as ConnectTransport } from "@connectrpc/connect";
import { createGrpcTransport, type GrpcTransportOptions } from "@connectrpc/connect-node";
import { abortedError, type ErrorCode, VortexError } from "../../src/errors.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import type {
  GrpcBinding,
  GrpcCallBounds,
  GrpcConnection,
  GrpcDialOptions,
} from "../../src/transport/grpc.ts";
import type { TlsClientOptions } from "../../src/transport/tls.ts";
import { Guard } from "../shared/guard.ts";
import { requireDiallable, splitZone } from "../shared/local-address.ts";
import { nativeError, systemCode } from "../shared/native-error.ts";
import { dialHost, type Resolver } from "../shared/resolve.ts";
import {
  authoritiesOf,
  checkCertificate,
  identityOf,
  pinsOf,
  serverNameOf,
} from "../shared/tls.ts";
import {
  alertMessage,
  alertNamed,
  NO_APPLICATION_PROTOCOL,
  refusedCertificate,
} from "../shared/tls-errors.ts";
import { byMessages, closedEarly } from "./message-stream.ts";
import { guardSession, guardStream } from "./session-guard.ts";

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

/** How connections to gRPC servers are made. */
export interface GrpcBindingOptions {
  /** TLS, with these options. Default: HTTP/2 in the clear, as stock peers serve it unless they are configured otherwise. */
  readonly tls?: TlsClientOptions;
}

/** gRPC over node:http2, for Node, Bun and Deno. */
export function grpcBinding(options: GrpcBindingOptions = {}): GrpcBinding {
  return grpcBindingWith(undefined, options);
}

/** {@link grpcBinding} with a resolver for host names; default: the system's. */
export function grpcBindingWith(
  resolver: Resolver | undefined,
  { tls }: GrpcBindingOptions = {},
): GrpcBinding {
  return {
    async dial(remote, options): Promise<GrpcConnection> {
      requireDiallable(remote);
      const session = await dialHost({
        remote,
        signal: options.signal,
        resolver,
        dial: (host, signal) => openSession(remote, host, tls, signal),
        discard: (late) => late.destroy(),
      });
      return new Http2Connection(session, remote, tls, options);
    },
  };
}

/**
 * Resolves with a session to one address of the host, once the peer has sent its SETTINGS. Over TLS
 * its certificate has been checked by then.
 */
function openSession(
  remote: Address,
  host: string,
  tls: TlsClientOptions | undefined,
  signal: AbortSignal | undefined,
): Promise<ClientHttp2Session> {
  const addr = formatAddress(remote);
  return new Promise((resolve, reject) => {
    const secure = tls && connectTls(remote, host, tls);
    const socket: Socket = secure ?? connectInClear({ host, port: remote.port });
    const session = connect(originOf(remote, tls), {
      settings: { enablePush: false, initialWindowSize: WINDOW },
      // The origin names the host, for the server; what is dialled is one of its addresses.
      createConnection: () => socket,
    });
    const guard: Guard = new Guard({ end: (error) => fail(error) });
    let handshaken = false;
    const fail = (error: VortexError): void => {
      signal?.removeEventListener("abort", onAbort);
      reject(error);
      session.destroy();
    };
    const onAbort = guard.wrap(() => {
      if (signal !== undefined) fail(abortedError(signal, `dialling ${addr}`));
    });
    signal?.addEventListener("abort", onAbort, { once: true });
    const onError = guard.wrap((error: Error) => fail(dialError(error, addr, tls)));
    const onClose = guard.wrap(() => {
      // Deno reports bytes that are no HTTP/2 as a close.
      const spoken = tls === undefined && socket.bytesRead > 0;
      fail(spoken ? noHttp2InClear(addr) : turnedAway(addr, handshaken ? tls : undefined));
    });
    const onSecure = guard.wrap(() => {
      handshaken = true;
      try {
        if (secure !== undefined) checkPeer(secure, tls ?? {}, remote);
      } catch (error) {
        fail(VortexError.from(error, "HandshakeFailed"));
      }
    });
    const onConnect = guard.wrap(() => {
      // Before that there are no frames, and a session that fails to connect is to be told from one that was destroyed.
      guardSession(session, guard);
      try {
        session.setLocalWindowSize(WINDOW);
      } catch (error) {
        // The session has failed in the meantime.
        fail(dialError(error, addr, tls));
      }
    });
    const onSettings = guard.wrap(() => {
      signal?.removeEventListener("abort", onAbort);
      resolve(session);
    });
    // These stay for the life of the session: what ends it reaches each of its streams too. A TLS alert shows on the socket, and
    // Node tells the session nothing of it.
    session.on("error", onError);
    socket.on("error", onError);
    session.once("close", onClose);
    secure?.once("secureConnect", onSecure);
    session.once("connect", onConnect);
    session.once("remoteSettings", onSettings);
  });
}

class Http2Connection implements GrpcConnection {
  readonly closed: Promise<void>;
  readonly #session: ClientHttp2Session;
  readonly #options: GrpcTransportOptions;
  readonly #maxMessageLength: number;
  /** Ends the session when a callback of it fails. */
  readonly #guard: Guard;
  /** The longest waiting first. */
  readonly #waiting = new Set<() => void>();
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
    this.#guard = new Guard({ end: () => session.destroy() });
    this.#maxMessageLength = maxMessageLength;
    this.#options = {
      baseUrl: originOf(remote, tls),
      // Connect asks for gzip by default. Pieces are mostly compressed already, and it costs four fifths of the rate.
      acceptCompression: [],
      // Nobody looks at fields that are not known, and each takes some hundred bytes.
      binaryOptions: { readUnknownFields: false },
    };
    this.#gone = new Promise((resolve) => {
      if (session.destroyed) resolve();
      session.once("close", resolve);
    });
    this.closed = new Promise((resolve) => {
      const leave = this.#guard.wrap(() => {
        this.#leaving = true;
        resolve();
      });
      // The peer takes no more streams, and lets those under way end (RFC 9113, section 6.8).
      session.once("goaway", leave);
      // Deno ends the streams of a lost connection before its session, which would look as if the peer had reset them.
      if (!session.destroyed) session.socket.once("close", leave);
      const onGone = this.#guard.wrap(() => {
        for (const wake of [...this.#waiting]) wake();
        resolve();
      });
      void this.#gone.then(onGone);
    });
    session.unref();
  }

  get open(): boolean {
    return !this.#leaving && !this.#session.closed && !this.#session.destroyed;
  }

  transport(onBytes: () => void, bounds: GrpcCallBounds = {}): ConnectTransport {
    const { maxMessageLength = this.#maxMessageLength, onMessage, signal } = bounds;
    return createGrpcTransport({
      ...this.#options,
      readMaxBytes: maxMessageLength,
      sessionManager: {
        authority: new URL(this.#options.baseUrl).origin,
        request: async (method, path, headers, options) => {
          await this.#credit(signal);
          const stream = this.#session.request(
            { ...headers, ":method": method, ":path": path },
            options,
          );
          const guard = this.#guard.of((error) => stream.destroy(error));
          guardStream(stream, guard);
          this.#count(stream, guard);
          failUnanswered(stream, guard);
          return byMessages(stream, maxMessageLength, guard, onBytes, onMessage);
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
   * Bun does not, and its peers refuse such streams or end the session. A call that has ended meanwhile waits no longer, and is not
   * sent: a peer that allows none would have all of them kept.
   */
  async #credit(signal: AbortSignal | undefined): Promise<void> {
    const allowed = this.#session.remoteSettings?.maxConcurrentStreams ?? MAX_STREAMS;
    while (this.#streams >= Math.min(allowed, MAX_STREAMS) && !this.#session.destroyed) {
      await new Promise<void>((resolve) => {
        const over = this.#guard.wrap(() => {
          signal?.removeEventListener("abort", over);
          this.#waiting.delete(over);
          resolve();
        });
        this.#waiting.add(over);
        signal?.addEventListener("abort", over, { once: true });
        if (signal?.aborted) over();
      });
      if (signal?.aborted) {
        // It may have been its turn.
        this.#wakeNext();
        throw signal.reason;
      }
    }
  }

  #wakeNext(): void {
    const [next] = this.#waiting;
    next?.();
  }

  /** Keeps the count, and the process alive while it is not zero. */
  #count(stream: ClientHttp2Stream, guard: Guard): void {
    if (this.#streams++ === 0) this.#session.ref();
    const onClose = guard.wrap(() => {
      if (--this.#streams === 0 && !this.#session.destroyed) this.#session.unref();
      this.#wakeNext();
    });
    stream.once("close", onClose);
  }
}

/**
 * Fails a stream that closes without an answer. A reset with NO_ERROR is none to the runtimes, and Connect would wait for the
 * answer until its deadline.
 */
function failUnanswered(stream: ClientHttp2Stream, guard: Guard): void {
  const fail = guard.wrap(() => stream.emit("error", closedEarly(stream)));
  const onResponse = guard.wrap(() => stream.off("close", fail));
  stream.once("close", fail);
  stream.once("response", onResponse);
}

/** Without the zone of an IPv6 address: it means something on this host only, and no URL has one (RFC 6874, withdrawn by RFC 9844). */
function originOf({ host, port }: Address, tls: TlsClientOptions | undefined): string {
  const addr = formatAddress({ host: splitZone(host)[0], port });
  return `${tls === undefined ? "http" : "https"}://${addr}`;
}

/**
 * A TLS connection under way. Whom it leads to is judged by {@link checkPeer} when the handshake is over, before anything is sent:
 * the runtimes themselves tell a refusal without the certificate that was refused.
 */
function connectTls(remote: Address, host: string, tls: TlsClientOptions): TLSSocket {
  pinsOf(tls);
  const identity = identityOf(tls);
  const ca = authoritiesOf(tls.ca);
  const servername = serverNameOf(tls, remote.host);
  return connectSocket({
    host,
    port: remote.port,
    ALPNProtocols: ["h2"],
    rejectUnauthorized: false,
    ...(ca && { ca }),
    ...identity,
    ...(servername !== undefined && { servername }),
  });
}

/** @throws `HandshakeFailed`, `ProtocolNotSupported` */
function checkPeer(socket: TLSSocket, tls: TlsClientOptions, remote: Address): void {
  const { raw } = socket.getPeerCertificate();
  // The chain first, as the runtime found it; names are compared after it by all of them, and once more below.
  const { authorized, authorizationError } = socket;
  const trusted = authorized || String(authorizationError) === "ERR_TLS_CERT_ALTNAME_INVALID";
  if (tls.verify !== false && tls.fingerprints === undefined && !trusted) {
    throw refusedCertificate(raw, tls, remote.host, String(authorizationError), authorizationError);
  }
  checkCertificate(raw === undefined ? null : [raw], tls, remote.host);
  if (socket.alpnProtocol !== "h2") throw noHttp2(formatAddress(remote));
}

function dialError(error: unknown, addr: string, tls: TlsClientOptions | undefined): VortexError {
  const alert = alertNamed(systemCode(error));
  if (alert === NO_APPLICATION_PROTOCOL) return noHttp2(addr, error);
  if (alert !== undefined)
    return new VortexError("HandshakeFailed", alertMessage(alert, true), { cause: error });
  const fallback: ErrorCode = tls === undefined ? "ProtocolNotSupported" : "HandshakeFailed";
  const failure = nativeError(error, fallback, `cannot connect to ${addr}`);
  if (failure.code === "ProtocolNotSupported") return noHttp2InClear(addr, error);
  // A connection that is reset before the peer's SETTINGS was not taken.
  return failure.code === "StreamReset"
    ? new VortexError("ConnectionRefused", failure.message, { cause: error })
    : failure;
}

/** The peer has closed the connection before it sent its SETTINGS; `tls` when that was after the handshake. */
function turnedAway(addr: string, tls: TlsClientOptions | undefined): VortexError {
  if (tls?.cert === undefined)
    return new VortexError("ConnectionRefused", `${addr} turned the connection away`);
  // Servers on node:tls look at a client's certificate when the handshake is over, and then close without an alert.
  const message =
    "the peer ended the connection after the handshake; it may not accept the certificate of this side";
  return new VortexError("HandshakeFailed", message);
}

function noHttp2InClear(addr: string, cause?: unknown): VortexError {
  const detail = cause instanceof Error ? ` (${cause.message})` : "";
  const message = `${addr} does not speak HTTP/2${detail}: is it the peer's gRPC port? A Vortex port takes tcp or quic`;
  return new VortexError("ProtocolNotSupported", message, { cause });
}

function noHttp2(addr: string, cause?: unknown): VortexError {
  return new VortexError("ProtocolNotSupported", `${addr} does not speak HTTP/2 over TLS`, {
    cause,
  });
}
