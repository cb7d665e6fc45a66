import {
  constants,
  createSecureServer,
  createServer,
  type Http2SecureServer,
  type Http2Server,
  type Http2Session,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
} from "node:http2";
import type { Socket } from "node:net";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { SecureContextOptions } from "node:tls";
import { type Checks, fields, integer, requireOptions, text } from "../../src/arguments.ts";
import { VortexError } from "../../src/errors.ts";
import type { Timer } from "../../src/runtime.ts";
import {
  type ConnectionSlot,
  ConnectionSlots,
  EXTRA_CONNECTIONS,
} from "../../src/server/admission/connection-slots.ts";
import { type ServerSettings, withTimeout } from "../../src/server/admission/upload.ts";
import type { AdvertisedHost } from "../../src/server/grpc/advertised.ts";
import { type GrpcResponse, MAX_REQUEST_LENGTH } from "../../src/server/grpc/call.ts";
import { dispatch, type GrpcDispatcher, grpcDispatcher } from "../../src/server/grpc/dispatcher.ts";
import type { ProtocolServer } from "../../src/server/storage-server.ts";
import type { PieceStore } from "../../src/store/store.ts";
import { type Address, formatAddress, unmapped } from "../../src/transport/address.ts";
import {
  type TlsIdentity,
  type TlsServerOptions,
  tlsServerChecks,
} from "../../src/transport/tls.ts";
import type { ListenerCounters } from "../../src/transport/transport.ts";
import { keepAccepting } from "../shared/accepting.ts";
import { Guard } from "../shared/guard.ts";
import { OsHostProbe } from "../shared/host-probe.ts";
import { listenOn } from "../shared/listening.ts";
import { authoritiesOf, fingerprintOf, requireIdentity, serverIdentity } from "../shared/tls.ts";
import { guardSession, guardStream } from "./session-guard.ts";

/**
 * Memory for each stream of an HTTP/2 session, in MiB. The option `maxSessionMemory` of node:http2
 * is this value times the max number of streams, but at least 64 MiB.
 *
 * A session that queues more than `maxSessionMemory` (default 10 MB) breaks. Node refuses new
 * streams with ENHANCE_YOUR_CALM (Http2Session::CanAddStream). Bun drops the responses on open
 * streams without an error. Clients then see PROTOCOL_ERROR, HTTP status 0 or no response
 * (https://github.com/oven-sh/bun/pull/43419).
 *
 * This server queues little data, because it writes a chunk only after the previous one has left
 * the queue. So with this value, any number of streams stays below the limit. The limit is not
 * `Number.MAX_SAFE_INTEGER`, because Bun treats that number as 1 MB
 * (https://github.com/oven-sh/bun/issues/41294).
 */
const SESSION_MIB_PER_STREAM = 2;

/**
 * Time without streams after which the server closes a session, in ms. Clients of this library
 * close an idle connection earlier, by default after 7 minutes. So a client sends no request while
 * the server closes the session.
 */
const IDLE_TIMEOUT_MS = 600_000;

/** Idle time of a socket before the kernel sends TCP keep-alive probes, in ms. */
const KEEP_ALIVE_DELAY_MS = 30_000;

/** State of an HTTP/2 session with a client. */
interface SessionState {
  readonly slot: ConnectionSlot;
  /** Guard that destroys the HTTP/2 session if one of the session's event callbacks throws. */
  readonly guard: Guard;
  /** Number of open streams of the session. */
  streams: number;
  /** Time at which the session last had no more streams, by the clock of the server, in ms. */
  idleSince: number;
  /** Timer that sends the next PING, or closes the session. */
  timer: Timer | undefined;
}

/** Options of {@link grpcServer}. */
export interface GrpcServerOptions {
  /**
   * TLS options of the server. If undefined, serves over plaintext HTTP/2, which is also dfdaemon's
   * default.
   */
  readonly tls?: TlsServerOptions | undefined;
  /** Information about this host that the server sends in responses about tasks. */
  readonly serving?: AdvertisedHost;
}

/**
 * Starts a server of the Dragonfly gRPC API that serves the pieces of `store`. Rejects with
 * `AddressInUse` if the server cannot listen on `local`. Rejects with `Unreachable` if the host
 * name in `local` does not resolve. Rejects with `InvalidArgument` if an option is unknown or
 * invalid, such as a certificate or key in `tls`.
 */
export async function grpcServer(
  local: Address,
  store: PieceStore,
  settings: ServerSettings,
  options: GrpcServerOptions = {},
): Promise<GrpcServer> {
  requireOptions("grpcServer", options, grpcServerChecks);
  const { tls, serving } = options;
  const secure = tls && { identity: await serverIdentity(tls), clientCa: tls.clientCa };
  const http2 = {
    settings: { maxConcurrentStreams: settings.maxStreams },
    maxSessionMemory: Math.max(64, settings.maxStreams * SESSION_MIB_PER_STREAM),
  };
  const server =
    secure === undefined
      ? createServer(http2)
      : createSecureServer({
          ...http2,
          ...secureContext(secure.identity, secure.clientCa),
          requestCert: secure.clientCa !== undefined,
          rejectUnauthorized: secure.clientCa !== undefined,
          handshakeTimeout: settings.requestTimeout,
        });
  server.maxConnections = settings.maxConnections + EXTRA_CONNECTIONS;
  await listenOn(server, local);
  const draining = new AbortController();
  const methods = grpcDispatcher(store, settings, {
    advertised: serving,
    port: boundPort(server, local),
    probe: new OsHostProbe(settings.runtime.clock),
    draining: draining.signal,
  });
  return new GrpcServer(server, local, methods, settings, { draining, secure });
}

const advertisedChecks: Checks<AdvertisedHost> = {
  tcpPort: integer(0, 65535),
  quicPort: integer(0, 65535),
  advertisedIp: text,
  hostname: text,
};

const grpcServerChecks: Checks<GrpcServerOptions> = {
  tls: fields(tlsServerChecks),
  serving: fields(advertisedChecks),
};

/** Parts of a {@link GrpcServer} with a default. */
export interface GrpcServerParts {
  /** Aborted when the server closes, so that its methods end. Default: a new one. */
  readonly draining?: AbortController | undefined;
  /** Certificate of the server, and the CA of its clients. Default: no TLS. */
  readonly secure?:
    | { readonly identity: TlsIdentity; readonly clientCa: string | undefined }
    | undefined;
}

/** Returns the port that a server listens at; the requested one if the system does not tell. */
function boundPort(server: Http2Server | Http2SecureServer, local: Address): number {
  const bound = server.address();
  return typeof bound === "object" && bound !== null ? bound.port : local.port;
}

/** Server of the Dragonfly gRPC API on node:http2, for Node, Bun and Deno. */
export class GrpcServer implements ProtocolServer {
  /** Listening address. If port 0 was requested, it has the port that the system chose. */
  readonly address: Address;
  readonly #server: Http2Server | Http2SecureServer;
  readonly #clientCa: string | undefined;
  #fingerprint: string | undefined;
  readonly #settings: ServerSettings;
  readonly #methods: GrpcDispatcher;
  readonly #slots: ConnectionSlots;
  readonly #guard: Guard;
  readonly #sessions = new Map<Http2Session, SessionState>();
  /** Connections in the TLS handshake, by the client's address and port. */
  readonly #handshaking = new Map<
    string,
    { readonly socket: Socket; readonly slot: ConnectionSlot }
  >();
  /** Aborted when the server closes. */
  readonly #draining: AbortController;
  #closing: Promise<void> | undefined;

  constructor(
    server: Http2Server | Http2SecureServer,
    local: Address,
    methods: GrpcDispatcher,
    settings: ServerSettings,
    { draining = new AbortController(), secure }: GrpcServerParts = {},
  ) {
    this.address = { host: local.host, port: boundPort(server, local) };
    this.#draining = draining;
    this.#fingerprint = secure && fingerprintOf(secure.identity.cert);
    this.#clientCa = secure?.clientCa;
    this.#server = server;
    this.#settings = settings;
    this.#slots = new ConnectionSlots(settings.maxConnections, settings.runtime.clock);
    this.#methods = methods;
    keepAccepting(server, formatAddress(this.address), settings.onError);
    // Errors of a client that does not speak HTTP/2 or TLS do not affect the server.
    for (const event of ["sessionError", "tlsClientError"]) server.on(event, () => {});
    this.#guard = new Guard({ onError: settings.onError });
    const onConnection = this.#guard.wrap((socket: Socket) => {
      const guard = this.#guard.of(() => socket.destroy());
      guard.run(() => {
        // Without keep-alive, a vanished client that waits for announcements would keep its slot.
        socket.setKeepAlive(true, KEEP_ALIVE_DELAY_MS);
        if (secure !== undefined) this.#awaitHandshake(socket, guard);
      });
    });
    const onSession = this.#guard.wrap((session: Http2Session) => {
      const guard = this.#guard.of(() => session.destroy());
      guard.run(() => this.#admit(session, guard));
    });
    const onStream = this.#guard.wrap((stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => {
      const guard = this.#guard.of(() => stream.close(constants.NGHTTP2_INTERNAL_ERROR));
      guard.run(() => this.#serve(stream, headers, guard));
    });
    server.on("connection", onConnection);
    server.on("session", onSession);
    server.on("stream", onStream);
  }

  /** Counters of this server. The datagram counters are 0, because HTTP/2 runs over TCP. */
  get counters(): ListenerCounters {
    return { unanswerable: 0, unsent: 0, caught: this.#guard.caught };
  }

  /**
   * SHA-256 fingerprint of the server's certificate, which clients can pin. Undefined without TLS.
   */
  get fingerprint(): string | undefined {
    return this.#fingerprint;
  }

  /**
   * Changes the certificate for new connections, see {@link ProtocolServer.setIdentity}. Rejects
   * with `Unavailable` without TLS, and with `InvalidArgument` if the certificate or key is
   * invalid.
   */
  async setIdentity(identity: TlsIdentity): Promise<void> {
    if (!("setSecureContext" in this.#server)) {
      throw new VortexError(
        "Unavailable",
        "cannot change the certificate: gRPC is served without TLS",
      );
    }
    this.#server.setSecureContext(secureContext(requireIdentity(identity), this.#clientCa));
    this.#fingerprint = fingerprintOf(identity.cert);
  }

  /**
   * Stops listening, and waits at most `grace` ms (default 5,000) for the responses in progress.
   * Then destroys the remaining sessions. Responses to SyncPieces, SyncHost and Watch have no
   * foreseeable end, so they end at once with the status UNAVAILABLE.
   */
  close(options: { readonly grace?: number | undefined } = {}): Promise<void> {
    this.#closing ??= this.#end(options.grace ?? 5000);
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #end(grace: number): Promise<void> {
    this.#draining.abort();
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
    for (const session of this.#sessions.keys()) session.close();
    for (const { socket } of this.#handshaking.values()) socket.destroy();
    const timer = this.#guard.over(this.#settings.runtime.clock).setTimer(() => {
      for (const session of this.#sessions.keys()) session.destroy();
    }, grace);
    await closed;
    timer.cancel();
  }

  #awaitHandshake(socket: Socket, guard: Guard): void {
    const peer = peerOf(socket);
    const slot = this.#slots.take(socket.remoteAddress ?? "", () => socket.destroy());
    if (slot === undefined) {
      socket.destroy();
      return;
    }
    this.#handshaking.set(peer, { socket, slot });
    const onClose = guard.wrap(() => {
      slot.leave();
      if (this.#handshaking.get(peer)?.socket === socket) this.#handshaking.delete(peer);
    });
    socket.once("close", onClose);
  }

  #admit(session: Http2Session, guard: Guard): void {
    // The runtimes wrap different sockets in a session, so the handshake is found by address.
    const peer = peerOf(session.socket);
    this.#handshaking.get(peer)?.slot.leave();
    this.#handshaking.delete(peer);
    guardSession(session, guard);
    session.on("error", () => {});
    const slot =
      this.#closing === undefined
        ? this.#slots.take(session.socket.remoteAddress ?? "", () => session.destroy())
        : undefined;
    if (slot === undefined) {
      session.destroy();
      return;
    }
    const idleSince = this.#settings.runtime.clock.now();
    const state: SessionState = { slot, guard, streams: 0, idleSince, timer: undefined };
    this.#sessions.set(session, state);
    this.#supervise(session, state);
    const onClose = guard.wrap(() => {
      state.timer?.cancel();
      slot.leave();
      this.#sessions.delete(session);
    });
    session.once("close", onClose);
  }

  /**
   * Supervises a session, because it occupies a connection slot, and its streams may last as long
   * as a task grows. Sends a PING (RFC 9113, section 6.7) after each request timeout. Destroys the
   * session if the peer does not acknowledge it within another request timeout. While streams are
   * open, the stall timeout applies instead, because content may precede the PING on the
   * connection.
   *
   * The PING detects a client that never starts to speak HTTP/2. It detects one that has vanished,
   * or is stopped while its system still acknowledges TCP segments. It also detects a session that
   * has stopped after a protocol violation. Node neither closes such a session nor reads from its
   * socket, so Node does not notice when the client closes the connection.
   *
   * A live session is closed gracefully with GOAWAY (section 6.8) after {@link IDLE_TIMEOUT_MS}
   * without streams.
   */
  #supervise(session: Http2Session, state: SessionState): void {
    const { requestTimeout, stallTimeout, runtime } = this.#settings;
    const clock = state.guard.over(runtime.clock);
    const idleLeft = (): number =>
      state.streams > 0
        ? Number.POSITIVE_INFINITY
        : state.idleSince + IDLE_TIMEOUT_MS - runtime.clock.now();
    const wait = (milliseconds: number, run: () => void): void => {
      state.timer = clock.setTimer(run, milliseconds, { background: true });
    };
    const delay = Math.min(requestTimeout, idleLeft());
    wait(delay, () => {
      // The session may be closing, with its "close" event still to come.
      if (session.destroyed) return;
      if (idleLeft() <= 0) {
        session.close();
        return;
      }
      // A request has ended the idle time, which was shorter than the interval.
      if (delay < requestTimeout) {
        this.#supervise(session, state);
        return;
      }
      wait(state.streams > 0 ? stallTimeout : requestTimeout, () => session.destroy());
      const patience = state.timer;
      const onPong = state.guard.wrap((error: Error | null) => {
        patience?.cancel();
        if (error === null && state.timer === patience) this.#supervise(session, state);
      });
      session.ping(onPong);
    });
  }

  async #serve(
    stream: ServerHttp2Stream,
    headers: IncomingHttpHeaders,
    guard: Guard,
  ): Promise<void> {
    const { maxStreams, onError } = this.#settings;
    guardStream(stream, guard);
    // All code that waits for the stream's end listens to "close".
    stream.on("error", () => {});
    const { session } = stream;
    const state = session && this.#sessions.get(session);
    // SETTINGS announces the limit to the peer, but not every runtime enforces it.
    if (session === undefined || state === undefined || state.streams >= maxStreams) {
      stream.close(constants.NGHTTP2_REFUSED_STREAM);
      return;
    }
    state.streams++;
    const onClose = guard.wrap(() => {
      state.streams--;
      state.idleSince = this.#settings.runtime.clock.now();
    });
    stream.once("close", onClose);
    try {
      await this.#answer(stream, headers, state.slot, guard);
    } catch (error) {
      const failure = VortexError.from(error, "Internal");
      // Peers that disconnect or stall are not reported.
      if (failure.kind === "local") onError(failure);
      stream.close(
        failure.kind === "local" ? constants.NGHTTP2_INTERNAL_ERROR : constants.NGHTTP2_CANCEL,
      );
    }
  }

  async #answer(
    stream: ServerHttp2Stream,
    headers: IncomingHttpHeaders,
    slot: ConnectionSlot,
    guard: Guard,
  ): Promise<void> {
    const { requestTimeout, runtime } = this.#settings;
    const body = await withTimeout(
      runtime.clock,
      requestTimeout,
      readRequest(stream, guard),
      "Stalled",
      "waiting for a request",
    );
    // Events of frames in the same read follow the request. Without this turn, the answer would be
    // computed before a reset in the same read is seen (rapid reset, CVE-2023-44487).
    await nextTurn();
    if (body === undefined || stream.closed) return;
    slot.begin();
    try {
      await this.#answerRequest(stream, headers, body, slot.network, guard);
    } finally {
      slot.end();
    }
  }

  async #answerRequest(
    stream: ServerHttp2Stream,
    headers: IncomingHttpHeaders,
    body: Uint8Array,
    network: string,
    guard: Guard,
  ): Promise<void> {
    const ended = new AbortController();
    const onClose = guard.wrap(() => ended.abort());
    stream.once("close", onClose);
    const response = dispatch(this.#methods, {
      verb: headers[":method"] ?? "",
      path: headers[":path"] ?? "",
      headers: webHeaders(headers),
      body,
      signal: ended.signal,
      network,
      localIp: localIp(stream),
    });
    await this.#send(stream, response, guard);
  }

  /**
   * Writes a response as fast as the peer reads: requests the next chunk of the body when the
   * previous one has left the stream's queue. Rejects with `Stalled` if the peer reads nothing for
   * the stall timeout, and with `StreamReset` if the peer resets the stream.
   */
  async #send(
    stream: ServerHttp2Stream,
    { status, headers, body, trailers }: GrpcResponse,
    guard: Guard,
  ): Promise<void> {
    const { stallTimeout, pendingWrites, runtime } = this.#settings;
    if (body === undefined) {
      stream.respond({ ":status": status, ...Object.fromEntries(headers) }, { endStream: true });
      return;
    }
    // Bun requests the trailers even when a closed session truncates the answer. Sending them would
    // mark the answer as complete.
    let complete = false;
    const final = (): Headers | undefined => (complete ? trailers : undefined);
    for await (const chunk of body) {
      if (!stream.headersSent) respond(stream, guard, status, headers, final);
      if (chunk.length === 0) continue;
      const taking = withTimeout(
        runtime.clock,
        stallTimeout,
        write(stream, chunk, guard),
        "Stalled",
        "waiting for the peer to read",
      );
      await pendingWrites.hold(chunk.length, taking);
    }
    if (stream.destroyed) return;
    complete = true;
    if (!stream.headersSent) respond(stream, guard, status, headers, final);
    stream.end();
    // Data within the stream's queue limit is written without a wait. It stays there while the peer
    // opens no window.
    await withTimeout(
      runtime.clock,
      stallTimeout,
      flushed(stream),
      "Stalled",
      "waiting for the peer to read",
    );
  }
}

/** Returns the remote address and the remote port of a socket, as a map key. */
function peerOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}

function secureContext(
  { cert, key }: TlsIdentity,
  clientCa: string | undefined,
): SecureContextOptions {
  const ca = authoritiesOf(clientCa);
  return { cert, key, ...(ca && { ca }) };
}

/**
 * Returns the IP address of this host that the client connected to, or an empty string if the
 * session has ended. Converts an IPv4-mapped IPv6 address, which a dual-stack socket reports, to
 * IPv4.
 */
function localIp(stream: ServerHttp2Stream): string {
  return unmapped(stream.session?.socket.localAddress ?? "");
}

function respond(
  stream: ServerHttp2Stream,
  guard: Guard,
  status: number,
  headers: Headers,
  trailers: () => Headers | undefined,
): void {
  if (stream.destroyed) throw resetByPeer();
  const onWantTrailers = guard.wrap(() => {
    const trailer = trailers();
    if (trailer === undefined) stream.close(constants.NGHTTP2_CANCEL);
    else stream.sendTrailers(Object.fromEntries(trailer));
  });
  stream.once("wantTrailers", onWantTrailers);
  stream.respond({ ":status": status, ...Object.fromEntries(headers) }, { waitForTrailers: true });
}

/**
 * Writes a chunk to a stream. Resolves when the stream accepts the next chunk. Rejects with
 * `StreamReset` if the stream is closed.
 */
function write(stream: ServerHttp2Stream, chunk: Uint8Array, guard: Guard): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = guard.wrap(() => {
      stream.off("drain", settle);
      stream.off("close", settle);
      if (stream.destroyed || stream.closed) reject(resetByPeer());
      else resolve();
    });
    if (stream.destroyed || stream.closed || stream.write(chunk)) {
      settle();
      return;
    }
    stream.once("drain", settle);
    stream.once("close", settle);
  });
}

function resetByPeer(): VortexError {
  return new VortexError("StreamReset", "cannot send the answer: the peer reset the stream");
}

/** Resolves when the write queue of an ended stream is empty, or when the stream is closed. */
function flushed(stream: ServerHttp2Stream): Promise<void> {
  return new Promise((resolve) => {
    if (stream.destroyed || stream.writableFinished) resolve();
    stream.once("finish", resolve);
    stream.once("close", resolve);
  });
}

/**
 * Reads the complete request body, which is one small gRPC message. Resolves to undefined if the
 * stream closes before the end of the body. Rejects with `LimitExceeded` if the body has more than
 * {@link MAX_REQUEST_LENGTH} bytes.
 */
function readRequest(stream: ServerHttp2Stream, guard: Guard): Promise<Uint8Array | undefined> {
  return new Promise((resolve, reject) => {
    const chunks: Uint8Array[] = [];
    let length = 0;
    const onData = guard.wrap((chunk: Uint8Array) => {
      length += chunk.length;
      if (length > MAX_REQUEST_LENGTH) {
        const message = `request: expected at most ${MAX_REQUEST_LENGTH} bytes, got ${length} or more`;
        reject(new VortexError("LimitExceeded", message));
      } else chunks.push(chunk);
    });
    const onEnd = guard.wrap(() => {
      const whole = new Uint8Array(length);
      let at = 0;
      for (const chunk of chunks) {
        whole.set(chunk, at);
        at += chunk.length;
      }
      // The listeners hold the chunks for the life of the stream, which may last until a task is
      // complete.
      chunks.length = 0;
      resolve(whole);
    });
    stream.on("data", onData);
    stream.once("end", onEnd);
    stream.once("close", () => resolve(undefined));
  });
}

/**
 * Converts HTTP/2 request headers to `Headers`, without the pseudo-headers.
 */
function webHeaders(headers: IncomingHttpHeaders): Headers {
  const result = new Headers();
  for (const [name, value] of Object.entries(headers)) {
    if (name.startsWith(":") || value === undefined) continue;
    for (const each of Array.isArray(value) ? value : [value]) result.append(name, each);
  }
  return result;
}
