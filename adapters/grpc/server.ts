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
import { createContextValues } from "@connectrpc/connect";
import {
  createAsyncIterable,
  type UniversalHandler,
  type UniversalServerResponse,
} from "@connectrpc/connect/protocol";
import { VortexError } from "../../src/errors.ts";
import type { Timer } from "../../src/runtime.ts";
import {
  type ConnectionSlot,
  ConnectionSlots,
  EXTRA_CONNECTIONS,
} from "../../src/server/admission/connection-slots.ts";
import { type ServerSettings, withTimeout } from "../../src/server/admission/upload.ts";
import {
  clientNetwork,
  type GrpcServing,
  grpcHandlers,
  localAddress,
  MAX_REQUEST_LENGTH,
} from "../../src/server/grpc/service.ts";
import type { ProtocolServer } from "../../src/server/storage-server.ts";
import type { PieceStore } from "../../src/store/store.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import type { TlsIdentity, TlsServerOptions } from "../../src/transport/tls.ts";
import type { ListenerCounters } from "../../src/transport/transport.ts";
import { keepAccepting } from "../shared/accepting.ts";
import { Guard } from "../shared/guard.ts";
import { listenOn } from "../shared/listening.ts";
import { authoritiesOf, fingerprintOf, requireIdentity, serverIdentity } from "../shared/tls.ts";
import { guardSession, guardStream } from "./session-guard.ts";

/**
 * MiB of memory a stream. A session that has queued more than its `maxSessionMemory`, 10 MB by default, is broken in both
 * runtimes, and only there: Node refuses new streams with ENHANCE_YOUR_CALM (Http2Session::CanAddStream), and Bun drops
 * the answers to open ones without a word (https://github.com/oven-sh/bun/pull/43419), which shows as PROTOCOL_ERROR, as "HTTP 0" or as
 * silence. What is queued here is held small by writing a chunk only when the one before it was taken; this keeps any
 * number of streams away from that limit. (Not `Number.MAX_SAFE_INTEGER`, which Bun takes for 1 MB:
 * https://github.com/oven-sh/bun/issues/41294.)
 */
const SESSION_MEMORY_PER_STREAM = 2;

/**
 * Milliseconds without a stream after which a session is ended. Longer than this project's clients keep an unused connection
 * (7 minutes by default), so that it is they who end it, and no request meets a session that is just ending.
 */
const IDLE_TIMEOUT = 600_000;

/** Milliseconds of silence after which the kernel asks a client whether it is still there. */
const KEEP_ALIVE = 30_000;

/** What is known of a session. */
interface SessionState {
  readonly place: ConnectionSlot;
  /** Ends the session when a callback of it fails. */
  readonly guard: Guard;
  /** Streams that are being answered. */
  streams: number;
  /** Ends the session; while there are streams it is undefined. */
  idle: Timer | undefined;
}

/** How a gRPC server shows itself. */
export interface GrpcServerOptions {
  /** TLS, with these options. Default: HTTP/2 in the clear, as stock peers serve it unless they are configured otherwise. */
  readonly tls?: TlsServerOptions;
  /** What peers are told of this host, in answers about tasks. */
  readonly serving?: GrpcServing;
}

/** Serves a store over the Dragonfly API. Rejects with `AddressInUse`, `Unreachable` or `InvalidArgument`. */
export async function grpcServer(
  local: Address,
  store: PieceStore,
  settings: ServerSettings,
  { tls, serving }: GrpcServerOptions = {},
): Promise<GrpcServer> {
  const secure = tls && { identity: await serverIdentity(tls), clientCa: tls.clientCa };
  const options = {
    settings: { maxConcurrentStreams: settings.maxStreams },
    maxSessionMemory: Math.max(64, settings.maxStreams * SESSION_MEMORY_PER_STREAM),
  };
  const server =
    secure === undefined
      ? createServer(options)
      : createSecureServer({
          ...options,
          ...secureContext(secure.identity, secure.clientCa),
          requestCert: secure.clientCa !== undefined,
          rejectUnauthorized: secure.clientCa !== undefined,
          handshakeTimeout: settings.requestTimeout,
        });
  server.maxConnections = settings.maxConnections + EXTRA_CONNECTIONS;
  await listenOn(server, local);
  return new GrpcServer(server, local, grpcHandlers(store, settings, serving), settings, secure);
}

/** HTTP/2 on node:http2, for Node, Bun and Deno. */
export class GrpcServer implements ProtocolServer {
  /** Where it listens; the port is the real one where 0 was asked for. */
  readonly address: Address;
  readonly #server: Http2Server | Http2SecureServer;
  readonly #clientCa: string | undefined;
  #fingerprint: string | undefined;
  readonly #settings: ServerSettings;
  readonly #handlers: ReadonlyMap<string, UniversalHandler>;
  readonly #places: ConnectionSlots;
  readonly #guard: Guard;
  readonly #sessions = new Map<Http2Session, SessionState>();
  /** Connections whose TLS handshake is not over, by the peer's address. */
  readonly #handshaking = new Map<
    string,
    { readonly socket: Socket; readonly place: ConnectionSlot }
  >();
  #closing: Promise<void> | undefined;

  constructor(
    server: Http2Server | Http2SecureServer,
    local: Address,
    handlers: readonly UniversalHandler[],
    settings: ServerSettings,
    secure?: { readonly identity: TlsIdentity; readonly clientCa: string | undefined },
  ) {
    const bound = server.address();
    const port = typeof bound === "object" && bound !== null ? bound.port : local.port;
    this.address = { host: local.host, port };
    this.#fingerprint = secure && fingerprintOf(secure.identity.cert);
    this.#clientCa = secure?.clientCa;
    this.#server = server;
    this.#settings = settings;
    this.#places = new ConnectionSlots(settings.maxConnections, settings.runtime.clock);
    this.#handlers = new Map(handlers.map((handler) => [handler.requestPath, handler]));
    keepAccepting(server, formatAddress(this.address), settings.onError);
    // A client that speaks no HTTP/2 or TLS; the server goes on.
    for (const event of ["sessionError", "tlsClientError"]) server.on(event, () => {});
    this.#guard = new Guard({ onError: settings.onError });
    const onConnection = this.#guard.wrap((socket: Socket) => {
      const guard = this.#guard.of(() => socket.destroy());
      guard.run(() => {
        // A client that vanishes while pieces are announced to it would have its place as long as none come.
        socket.setKeepAlive(true, KEEP_ALIVE);
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

  /** HTTP/2 has no datagrams to count. */
  get counters(): ListenerCounters {
    return { unanswerable: 0, unsent: 0, caught: this.#guard.caught };
  }

  /** SHA-256 fingerprint of the certificate, for clients to pin; undefined without TLS. */
  get fingerprint(): string | undefined {
    return this.#fingerprint;
  }

  /** Shows new connections another certificate, see {@link ProtocolServer.setIdentity}. */
  async setIdentity(identity: TlsIdentity): Promise<void> {
    if (!("setSecureContext" in this.#server)) {
      throw new VortexError(
        "Unavailable",
        "gRPC is served in the clear, so there is no certificate to change",
      );
    }
    this.#server.setSecureContext(secureContext(requireIdentity(identity), this.#clientCa));
    this.#fingerprint = fingerprintOf(identity.cert);
  }

  /** Stops listening, lets the answers under way end for `grace` milliseconds (default 5,000), then ends them. */
  close(options: { readonly grace?: number } = {}): Promise<void> {
    this.#closing ??= this.#end(options.grace ?? 5000);
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #end(grace: number): Promise<void> {
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
    const place = this.#places.take(socket.remoteAddress ?? "", () => socket.destroy());
    if (place === undefined) {
      socket.destroy();
      return;
    }
    this.#handshaking.set(peer, { socket, place });
    const onClose = guard.wrap(() => {
      place.leave();
      if (this.#handshaking.get(peer)?.socket === socket) this.#handshaking.delete(peer);
    });
    socket.once("close", onClose);
  }

  #admit(session: Http2Session, guard: Guard): void {
    // Of what a session is made, runtimes have different notions.
    const peer = peerOf(session.socket);
    this.#handshaking.get(peer)?.place.leave();
    this.#handshaking.delete(peer);
    guardSession(session, guard);
    session.on("error", () => {});
    const place =
      this.#closing === undefined
        ? this.#places.take(session.socket.remoteAddress ?? "", () => session.destroy())
        : undefined;
    if (place === undefined) {
      session.destroy();
      return;
    }
    const state: SessionState = { place, guard, streams: 0, idle: undefined };
    this.#sessions.set(session, state);
    this.#awaitStream(session, state);
    const onClose = guard.wrap(() => {
      state.idle?.cancel();
      place.leave();
      this.#sessions.delete(session);
    });
    session.once("close", onClose);
  }

  /**
   * Looks after a session without a stream: it is asked for a sign of life (PING, RFC 9113, section 6.7), and ended when there is
   * none, since it takes up a place. That is whoever does not begin to speak HTTP/2. And after frames that break the protocol Node
   * neither ends a session nor reads on, and so never learns that its client has gone.
   *
   * One that lives is of no use to its peer after {@link IDLE_TIMEOUT}. What is under way by then goes on: it is a graceful end
   * (section 6.8).
   */
  #awaitStream(session: Http2Session, state: SessionState, left: number = IDLE_TIMEOUT): void {
    const { requestTimeout, runtime } = this.#settings;
    const clock = state.guard.over(runtime.clock);
    const wait = (run: () => void): Timer =>
      clock.setTimer(run, Math.min(requestTimeout, left), { background: true });
    state.idle = wait(() => {
      // It may be ending, and tell so later.
      if (session.destroyed) return;
      if (left <= requestTimeout) {
        session.close();
        return;
      }
      const patience = wait(() => session.destroy());
      state.idle = patience;
      const onPong = state.guard.wrap((error: Error | null) => {
        patience.cancel();
        // A stream may have come in the meantime.
        if (error === null && state.idle === patience && state.streams === 0) {
          this.#awaitStream(session, state, left - requestTimeout);
        }
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
    // The stream's end reaches whoever waits for it by "close".
    stream.on("error", () => {});
    const { session } = stream;
    const state = session && this.#sessions.get(session);
    // The peer was told of the limit by SETTINGS; not every runtime holds it to that.
    if (session === undefined || state === undefined || state.streams >= maxStreams) {
      stream.close(constants.NGHTTP2_REFUSED_STREAM);
      return;
    }
    state.streams++;
    state.idle?.cancel();
    const onClose = guard.wrap(() => {
      if (--state.streams === 0 && this.#sessions.has(session)) this.#awaitStream(session, state);
    });
    stream.once("close", onClose);
    try {
      await this.#answer(stream, headers, state.place, guard);
    } catch (error) {
      const failure = VortexError.from(error, "Internal");
      // A peer that went away, or is too slow, is its own affair.
      if (failure.kind === "local") onError(failure);
      stream.close(
        failure.kind === "local" ? constants.NGHTTP2_INTERNAL_ERROR : constants.NGHTTP2_CANCEL,
      );
    }
  }

  async #answer(
    stream: ServerHttp2Stream,
    headers: IncomingHttpHeaders,
    place: ConnectionSlot,
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
    // What comes with a request in one read is told after it. So a reset that does would find the answer made (CVE-2023-44487).
    await nextTurn();
    if (body === undefined || stream.closed) return;
    place.begin();
    try {
      await this.#answerRequest(stream, headers, body, place.network, guard);
    } finally {
      place.end();
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
    const path = headers[":path"] ?? "";
    const handler = this.#handlers.get(path);
    if (handler === undefined) {
      // As gRPC's protocol has it for methods that are not known: https://grpc.io/docs/guides/status-codes/
      const unknown = {
        "content-type": "application/grpc",
        "grpc-status": "12",
        "grpc-message": "no such method",
      };
      stream.respond({ ":status": 200, ...unknown }, { endStream: true });
      return;
    }
    // Connect would take requests in JSON, which answers past it are not, and which are slow to read.
    if (/^application\/grpc\+json/i.test(headers["content-type"] ?? "")) {
      stream.respond({ ":status": 415 }, { endStream: true });
      return;
    }
    const response = await handler({
      httpVersion: "2.0",
      method: headers[":method"] ?? "",
      url: `http://${headers[":authority"] ?? "localhost"}${path}`,
      header: webHeaders(headers),
      body: createAsyncIterable([body]),
      signal: ended.signal,
      contextValues: createContextValues()
        .set(localAddress, localIp(stream))
        .set(clientNetwork, network),
    });
    await this.#send(stream, response, guard);
  }

  /** Writes an answer as fast as the peer takes it: a chunk is asked for when the one before has left the queue. */
  async #send(
    stream: ServerHttp2Stream,
    { status, header, body, trailer }: UniversalServerResponse,
    guard: Guard,
  ): Promise<void> {
    const { stallTimeout, pendingWrites, runtime } = this.#settings;
    // Bun asks for the trailers of an answer that a closed session cuts off, and they would say that it was complete.
    let complete = false;
    const trailers = (): Headers | undefined => (complete ? (trailer ?? new Headers()) : undefined);
    for await (const chunk of body ?? []) {
      if (!stream.headersSent) respond(stream, guard, status, header, trailers);
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
    if (!stream.headersSent) respond(stream, guard, status, header, trailers);
    stream.end();
    // What is less than the stream's queue takes has been written without a wait, and stays there while the peer opens no window.
    await withTimeout(
      runtime.clock,
      stallTimeout,
      taken(stream),
      "Stalled",
      "waiting for the peer to read",
    );
  }
}

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

/** The address of this host that the peer connected to, in the form that IPv4 has on a socket for both. */
function localIp(stream: ServerHttp2Stream): string {
  return stream.session?.socket.localAddress?.replace(/^::ffff:(?=[0-9.]+$)/i, "") ?? "";
}

function respond(
  stream: ServerHttp2Stream,
  guard: Guard,
  status: number,
  header: Headers | undefined,
  trailers: () => Headers | undefined,
): void {
  if (stream.destroyed) throw new VortexError("StreamReset", "the peer reset the stream");
  const onWantTrailers = guard.wrap(() => {
    const trailer = trailers();
    if (trailer === undefined) stream.close(constants.NGHTTP2_CANCEL);
    else stream.sendTrailers(Object.fromEntries(trailer));
  });
  stream.once("wantTrailers", onWantTrailers);
  stream.respond(
    { ":status": status, ...Object.fromEntries(header ?? []) },
    { waitForTrailers: true },
  );
}

/** Resolves when more may be written. */
function write(stream: ServerHttp2Stream, chunk: Uint8Array, guard: Guard): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = guard.wrap(() => {
      stream.off("drain", settle);
      stream.off("close", settle);
      if (stream.destroyed || stream.closed)
        reject(new VortexError("StreamReset", "the peer reset the stream"));
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

/** Resolves when nothing waits in the stream's queue any more. */
function taken(stream: ServerHttp2Stream): Promise<void> {
  return new Promise((resolve) => {
    if (stream.destroyed || stream.writableFinished) resolve();
    stream.once("finish", resolve);
    stream.once("close", resolve);
  });
}

/** The whole request, one small message; or undefined if the stream ends before it. */
function readRequest(stream: ServerHttp2Stream, guard: Guard): Promise<Uint8Array | undefined> {
  return new Promise((resolve, reject) => {
    const chunks: Uint8Array[] = [];
    let length = 0;
    const onData = guard.wrap((chunk: Uint8Array) => {
      length += chunk.length;
      if (length > MAX_REQUEST_LENGTH)
        reject(new VortexError("LimitExceeded", "the request is too long"));
      else chunks.push(chunk);
    });
    const onEnd = guard.wrap(() => {
      const whole = new Uint8Array(length);
      let at = 0;
      for (const chunk of chunks) {
        whole.set(chunk, at);
        at += chunk.length;
      }
      // Its listeners live as long as the stream, which may be as long as a task grows.
      chunks.length = 0;
      resolve(whole);
    });
    stream.on("data", onData);
    stream.once("end", onEnd);
    stream.once("close", () => resolve(undefined));
  });
}

function webHeaders(headers: IncomingHttpHeaders): Headers {
  const result = new Headers();
  for (const [name, value] of Object.entries(headers)) {
    if (name.startsWith(":") || value === undefined) continue;
    for (const each of Array.isArray(value) ? value : [value]) result.append(name, each);
  }
  if (isBeyondTimers(result.get("grpc-timeout") ?? "")) result.delete("grpc-timeout");
  return result;
}

/** Whether a deadline is so far off that it is none: timers of 2^31 milliseconds and more fire at once. */
function isBeyondTimers(timeout: string): boolean {
  const [, amount, unit = ""] = /^(\d{1,8})([HMS])$/.exec(timeout) ?? [];
  const milliseconds = { H: 3_600_000, M: 60_000, S: 1000 }[unit] ?? 0;
  return Number(amount) * milliseconds > 0x7fffffff;
}
