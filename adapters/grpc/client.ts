import { type ClientHttp2Session, type ClientHttp2Stream, connect, constants } from "node:http2";
import { connect as connectPlaintext, type Socket } from "node:net";
import { connect as connectSocket, type TLSSocket } from "node:tls";
import type { Transport as ConnectTransport } from "@connectrpc/connect";
import { createTransport } from "@connectrpc/connect/protocol-grpc";
import { createNodeHttpClient } from "@connectrpc/connect-node";
import { type Checks, fields, requireOptions } from "../../src/arguments.ts";
import { withoutStatusDetails } from "../../src/client/grpc/status-details.ts";
import { abortedError, type ErrorCode, VortexError } from "../../src/errors.ts";
import { type Address, formatAddress, splitZone } from "../../src/transport/address.ts";
import type {
  GrpcBinding,
  GrpcCallBounds,
  GrpcConnection,
  GrpcDialOptions,
} from "../../src/transport/grpc.ts";
import { requiresTrust, type TlsClientOptions, tlsClientChecks } from "../../src/transport/tls.ts";
import { Guard } from "../shared/guard.ts";
import { requireDiallable } from "../shared/local-address.ts";
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
  alertOfErrorCode,
  isNotTls,
  NO_APPLICATION_PROTOCOL,
  refusedCertificate,
} from "../shared/tls-errors.ts";
import { byWholeMessages, closedEarly } from "./message-stream.ts";
import { guardSession, guardStream } from "./session-guard.ts";

/**
 * HTTP/2 receive window of each stream and of the connection, in bytes. HTTP/2's default of 65,535
 * bytes (RFC 9113, section 6.9.2) is too small for fast links. With a round-trip time of 50 ms, it
 * limits the rate to 1.3 MB/s.
 *
 * Both windows must have the same size. Bun's `setLocalWindowSize` also changes the window of new
 * streams, without informing the peer. A peer that assumes a smaller stream window would then stop
 * sending forever (https://github.com/oven-sh/bun/pull/40180).
 */
const WINDOW_BYTES = 16 * 1024 * 1024;
/**
 * Max number of concurrent streams that this client opens on a connection. If the peer's
 * SETTINGS_MAX_CONCURRENT_STREAMS is lower, the peer's value applies.
 */
const DEFAULT_MAX_STREAMS = 100;

/** Options of {@link grpcBinding}. */
export interface GrpcBindingOptions {
  /**
   * TLS options of the connections. If undefined, connects over plaintext HTTP/2, which is also
   * dfdaemon's default.
   */
  readonly tls?: TlsClientOptions | undefined;
}

const bindingChecks: Checks<GrpcBindingOptions> = { tls: fields(tlsClientChecks) };

/** Creates the binding of the gRPC client to node:http2, for Node, Bun and Deno. */
export function grpcBinding(options: GrpcBindingOptions = {}): GrpcBinding {
  requireOptions("grpcBinding", options, bindingChecks);
  return grpcBindingWith(undefined, options);
}

/**
 * Creates a binding like {@link grpcBinding} that resolves host names with `resolver`. Default: the
 * system's resolver.
 */
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
    ...(!requiresTrust(tls ?? {}) && {
      tcp: async () => (await import("../tcp/transport.ts")).tcpTransport,
    }),
  };
}

/**
 * Opens an HTTP/2 session to one IP address of a peer. Over TLS, checks the peer's certificate
 * after the handshake. Resolves when the peer's SETTINGS frame is received.
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
    const socket: Socket = secure ?? connectPlaintext({ host, port: remote.port });
    const session = connect(originOf(remote, tls), {
      settings: { enablePush: false, initialWindowSize: WINDOW_BYTES },
      // The origin has the host name, for the server. The socket connects to one of its addresses.
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
      // Deno reports bytes that are not HTTP/2 as a close.
      const spoken = tls === undefined && socket.bytesRead > 0;
      fail(
        spoken
          ? noHttp2OverPlaintext(addr)
          : closedBeforeSettings(addr, handshaken ? tls : undefined),
      );
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
      // Not earlier: before the connect there are no frames, and a deferred destroy would hide
      // whether the session failed to connect.
      guardSession(session, guard);
      try {
        session.setLocalWindowSize(WINDOW_BYTES);
      } catch (error) {
        // The session has failed meanwhile.
        fail(dialError(error, addr, tls));
      }
    });
    const onSettings = guard.wrap(() => {
      signal?.removeEventListener("abort", onAbort);
      resolve(session);
    });
    // These listeners stay for the life of the session; its streams receive later errors
    // themselves. Node reports a TLS alert on the socket only, not on the session.
    session.on("error", onError);
    socket.on("error", onError);
    session.once("close", onClose);
    secure?.once("secureConnect", onSecure);
    session.once("connect", onConnect);
    session.once("remoteSettings", onSettings);
  });
}

/** Connection of the gRPC client to one peer, on one HTTP/2 session. */
class Http2Connection implements GrpcConnection {
  readonly closed: Promise<void>;
  readonly #session: ClientHttp2Session;
  readonly #baseUrl: string;
  readonly #maxMessageLength: number;
  /** Guard that destroys the HTTP/2 session if one of the session's event callbacks throws. */
  readonly #guard: Guard;
  /**
   * Callbacks that wake the requests waiting for stream credit (SETTINGS_MAX_CONCURRENT_STREAMS),
   * in order of arrival.
   */
  readonly #waitingForCredit = new Set<() => void>();
  #streams = 0;
  #draining = false;
  /** Resolves when the HTTP/2 session is closed. */
  readonly #terminated: Promise<void>;

  constructor(
    session: ClientHttp2Session,
    remote: Address,
    tls: TlsClientOptions | undefined,
    { maxMessageLength }: GrpcDialOptions,
  ) {
    this.#session = session;
    this.#guard = new Guard({ end: () => session.destroy() });
    this.#maxMessageLength = maxMessageLength;
    this.#baseUrl = originOf(remote, tls);
    this.#terminated = new Promise((resolve) => {
      if (session.destroyed) resolve();
      session.once("close", resolve);
    });
    this.closed = new Promise((resolve) => {
      const drain = this.#guard.wrap(() => {
        this.#draining = true;
        resolve();
      });
      // GOAWAY: the peer accepts no more streams, and completes open ones (RFC 9113, section 6.8).
      session.once("goaway", drain);
      // Deno closes the streams of a lost connection before its session, which would look like
      // resets by the peer.
      if (!session.destroyed) session.socket.once("close", drain);
      const onTerminated = this.#guard.wrap(() => {
        for (const wake of [...this.#waitingForCredit]) wake();
        resolve();
      });
      void this.#terminated.then(onTerminated);
    });
    session.unref();
  }

  get open(): boolean {
    return !this.#draining && !this.#session.closed && !this.#session.destroyed;
  }

  transport(onBytes: () => void, bounds: GrpcCallBounds = {}): ConnectTransport {
    const { maxMessageLength = this.#maxMessageLength, onMessage, signal } = bounds;
    const httpClient = createNodeHttpClient({
      httpVersion: "2",
      sessionProvider: () => ({
        authority: new URL(this.#baseUrl).origin,
        request: async (method, path, headers, options) => {
          await this.#awaitStreamCredit(signal);
          const stream = this.#session.request(
            { ...headers, ":method": method, ":path": path },
            options,
          );
          const guard = this.#guard.of((error) => stream.destroy(error));
          guardStream(stream, guard);
          this.#count(stream, guard);
          failUnanswered(stream, guard);
          return byWholeMessages(stream, maxMessageLength, guard, onBytes, onMessage);
        },
        notifyResponseByteRead: () => {},
      }),
    });
    return createTransport({
      baseUrl: this.#baseUrl,
      httpClient: withoutStatusDetails(httpClient),
      useBinaryFormat: true,
      interceptors: [],
      // Connect's clients accept gzip by default. Most pieces are compressed already, and gzip
      // costs four fifths of the rate.
      acceptCompression: [],
      sendCompression: null,
      compressMinBytes: 1024,
      // Unknown fields are never read, and each takes some hundred bytes.
      binaryOptions: { readUnknownFields: false },
      readMaxBytes: maxMessageLength,
      writeMaxBytes: 0xffffffff,
    });
  }

  async close(): Promise<void> {
    if (!this.#session.destroyed) {
      // The process could exit before an unreferenced session emits "close".
      this.#session.ref();
      this.#session.destroy(undefined, constants.NGHTTP2_NO_ERROR);
    }
    await this.#terminated;
  }

  /**
   * Waits until the peer's SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113, section 5.1.2) allows another
   * stream. Node queues the streams beyond the limit. Bun opens them, and the peer then refuses
   * them or ends the session.
   *
   * Rejects with the reason of `signal` when it aborts, so that an ended call stops waiting.
   * Otherwise calls to a peer that allows no streams would accumulate in memory.
   */
  async #awaitStreamCredit(signal: AbortSignal | undefined): Promise<void> {
    const allowed = this.#session.remoteSettings?.maxConcurrentStreams ?? DEFAULT_MAX_STREAMS;
    while (this.#streams >= Math.min(allowed, DEFAULT_MAX_STREAMS) && !this.#session.destroyed) {
      await new Promise<void>((resolve) => {
        const over = this.#guard.wrap(() => {
          signal?.removeEventListener("abort", over);
          this.#waitingForCredit.delete(over);
          resolve();
        });
        this.#waitingForCredit.add(over);
        signal?.addEventListener("abort", over, { once: true });
        if (signal?.aborted) over();
      });
      if (signal?.aborted) {
        // It may have consumed a wake-up that belongs to the next request.
        this.#wakeNext();
        throw signal.reason;
      }
    }
  }

  #wakeNext(): void {
    const [next] = this.#waitingForCredit;
    next?.();
  }

  /**
   * Counts `stream` as open until it closes. The session keeps the process alive while a stream is
   * open.
   */
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
 * Emits an error on a stream that closes without response headers. The runtimes report no error for
 * RST_STREAM with NO_ERROR, so Connect would wait for the response until the call's deadline.
 */
function failUnanswered(stream: ClientHttp2Stream, guard: Guard): void {
  const fail = guard.wrap(() => stream.emit("error", closedEarly(stream)));
  const onResponse = guard.wrap(() => stream.off("close", fail));
  stream.once("close", fail);
  stream.once("response", onResponse);
}

/**
 * Returns the origin of a peer, such as `http://10.0.0.7:4000`, for an HTTP/2 session. Removes the
 * zone of an IPv6 address. A zone is valid on this host only, and URLs do not support it (RFC 6874,
 * withdrawn by RFC 9844).
 */
function originOf({ host, port }: Address, tls: TlsClientOptions | undefined): string {
  const addr = formatAddress({ host: splitZone(host)[0], port });
  return `${tls === undefined ? "http" : "https"}://${addr}`;
}

/**
 * Starts a TLS connection whose handshake accepts any certificate. After the handshake, and before
 * any data is sent, {@link checkPeer} verifies the certificate. The runtime does not reject it
 * during the handshake, because the runtime's error would not contain the certificate.
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

/**
 * Verifies the peer's certificate, and that the peer selected HTTP/2 (ALPN).
 * @throws `HandshakeFailed` if the certificate is missing or not trusted; `ProtocolNotSupported` if
 * the peer did not select HTTP/2
 */
function checkPeer(socket: TLSSocket, tls: TlsClientOptions, remote: Address): void {
  const { raw } = socket.getPeerCertificate();
  // The chain is checked first, by the runtime's result. All runtimes compare names after the
  // chain, and checkCertificate compares them again.
  const { authorized, authorizationError } = socket;
  const trusted = authorized || String(authorizationError) === "ERR_TLS_CERT_ALTNAME_INVALID";
  if (tls.verify !== false && tls.fingerprints === undefined && !trusted) {
    throw refusedCertificate(raw, tls, remote.host, String(authorizationError), authorizationError);
  }
  checkCertificate(raw === undefined ? null : [raw], tls, remote.host);
  if (socket.alpnProtocol !== "h2") throw noHttp2OverTls(formatAddress(remote));
}

function dialError(error: unknown, addr: string, tls: TlsClientOptions | undefined): VortexError {
  const nativeCode = systemCode(error);
  if (isNotTls(nativeCode)) return noTls(addr, error);
  const alert = alertOfErrorCode(nativeCode);
  if (alert === NO_APPLICATION_PROTOCOL) return noHttp2OverTls(addr, error);
  if (alert !== undefined)
    return new VortexError("HandshakeFailed", alertMessage(alert, true), { cause: error });
  const fallback: ErrorCode = tls === undefined ? "ProtocolNotSupported" : "HandshakeFailed";
  const failure = nativeError(error, fallback, `cannot connect to ${addr}`);
  if (failure.code === "ProtocolNotSupported") return noHttp2OverPlaintext(addr, error);
  // A reset before the peer's SETTINGS counts as a refused connection.
  return failure.code === "StreamReset"
    ? new VortexError("ConnectionRefused", failure.message, { cause: error })
    : failure;
}

/**
 * Creates the error for a connection that the peer closed before it sent SETTINGS (RFC 9113,
 * section 6.5). The code is `HandshakeFailed` if this side has a client certificate, otherwise
 * `ConnectionRefused`.
 * @param tls options of the TLS connection; undefined without TLS or before the end of the TLS
 * handshake
 */
function closedBeforeSettings(addr: string, tls: TlsClientOptions | undefined): VortexError {
  if (tls?.cert === undefined)
    return new VortexError(
      "ConnectionRefused",
      `${addr}: connection closed before HTTP/2 SETTINGS`,
    );
  // Servers on node:tls check a client's certificate after the handshake, and close without an
  // alert.
  const message =
    "connection closed after the TLS handshake: the peer may reject the client certificate (tls.cert)";
  return new VortexError("HandshakeFailed", message);
}

function noHttp2OverPlaintext(addr: string, cause?: unknown): VortexError {
  const detail = cause instanceof Error ? ` (${cause.message})` : "";
  const message =
    `${addr} does not speak HTTP/2${detail}: check that it is the peer's gRPC port; ` +
    "a Vortex port needs protocol tcp or quic";
  return new VortexError("ProtocolNotSupported", message, { cause });
}

function noTls(addr: string, cause: unknown): VortexError {
  const message =
    `${addr} does not speak TLS: check that it is the peer's gRPC port; serve gRPC there with ` +
    "grpc.tls, or dial it without tls";
  return new VortexError("ProtocolNotSupported", message, { cause });
}

function noHttp2OverTls(addr: string, cause?: unknown): VortexError {
  const message = `${addr}: the peer does not speak HTTP/2 over TLS`;
  return new VortexError("ProtocolNotSupported", message, {
    cause,
  });
}
