import { connect, createServer, type NetConnectOpts, type Server, type Socket } from "node:net";
import { abortedError, VortexError } from "../../src/errors.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import { AsyncQueue } from "../../src/transport/queue.ts";
import {
  type ByteStream,
  type CloseInfo,
  type Connection,
  DEFAULT_MAX_CONNECTIONS,
  type Listener,
  type ListenerCounters,
  type ListenOptions,
  StreamCode,
  type Transport,
} from "../../src/transport/transport.ts";
import { keepAccepting } from "../shared/accepting.ts";
import { DialledPeer } from "../shared/dialled-peer.ts";
import { Exchange } from "../shared/exchange.ts";
import { Guard } from "../shared/guard.ts";
import { listenOn } from "../shared/listening.ts";
import { requireDiallable } from "../shared/local-address.ts";
import { nativeError } from "../shared/native-error.ts";
import { dialHost, type Resolver } from "../shared/resolve.ts";
import { ReadBuffer } from "./read-buffer.ts";
import { READ_AHEAD_BYTES, SocketStream } from "./stream.ts";

/** Idle time of a socket before the kernel sends TCP keep-alive probes, in ms. */
const KEEP_ALIVE_DELAY_MS = 30_000;

/**
 * Number of unread bytes at which an accepted socket is paused. A server reads short requests, and
 * does not read while it answers one.
 */
const ACCEPTED_READ_AHEAD_BYTES = 64 * 1024;

/**
 * TCP transport on node:net, for Node, Bun and Deno. A dialled `Connection` is a peer: each
 * concurrent stream has a separate socket, which later streams reuse.
 */
export const tcpTransport: Transport = tcpTransportWith(undefined);

/**
 * Creates a transport like {@link tcpTransport} that resolves host names with `resolver`. Default:
 * the system's resolver.
 */
export function tcpTransportWith(resolver: Resolver | undefined): Transport {
  return {
    protocol: "tcp",
    async dial(remote, options = {}): Promise<Connection> {
      requireDiallable(remote);
      // Address of the last successful connect, tried first for the next socket.
      let preferred: string | undefined;
      return DialledPeer.dial(remote, options, ({ signal }) =>
        dialHost({
          remote,
          signal,
          resolver,
          preferred,
          async dial(host, own) {
            const stream = await openSocket(remote, host, own);
            preferred = host;
            return stream;
          },
          discard: (late) => late.destroy(closedHere()),
        }),
      );
    },
    listen: listenTcp,
  };
}

async function listenTcp(local: Address, options: ListenOptions = {}): Promise<Listener> {
  const server = createServer({
    allowHalfOpen: true,
    noDelay: true,
    keepAlive: true,
    highWaterMark: READ_AHEAD_BYTES,
  });
  server.maxConnections = options.maxConnections ?? DEFAULT_MAX_CONNECTIONS;
  await listenOn(server, local);
  return new TcpListener(server, local, options.onError);
}

class TcpListener implements Listener {
  readonly address: Address;
  readonly fingerprint: undefined;
  readonly #server: Server;
  readonly #guard: Guard;
  readonly #incoming = new AsyncQueue<Connection>();
  readonly #connections = new Set<AcceptedPeer>();

  constructor(server: Server, local: Address, onError: (error: VortexError) => void = () => {}) {
    const bound = server.address();
    const port = typeof bound === "object" && bound !== null ? bound.port : local.port;
    this.address = { host: local.host, port };
    this.#server = server;
    keepAccepting(server, formatAddress(this.address), onError);
    this.#guard = new Guard({ onError });
    const onConnection = this.#guard.wrap((socket: Socket) => {
      const guard = this.#guard.of(() => socket.destroy());
      guard.run(() => this.#onConnection(socket, guard));
    });
    server.on("connection", onConnection);
  }

  /** Counters of this listener. The datagram counters are 0, because TCP has no datagrams. */
  get counters(): ListenerCounters {
    return { unanswerable: 0, unsent: 0, caught: this.#guard.caught };
  }

  #onConnection(socket: Socket, guard: Guard): void {
    const connection = new AcceptedPeer(socket, guard);
    this.#connections.add(connection);
    void connection.closed.then(() => this.#connections.delete(connection));
    if (!this.#incoming.push(connection)) connection.abort();
  }

  accept(): AsyncIterable<Connection> {
    return this.#incoming;
  }

  async setIdentity(): Promise<void> {
    throw new VortexError(
      "Unavailable",
      "cannot change the certificate: Vortex over TCP has no TLS",
    );
  }

  async close(options: { readonly grace?: number } = {}): Promise<void> {
    this.#incoming.end();
    this.#server.close();
    await Promise.all([...this.#connections].map((connection) => connection.close(options)));
  }
}

/**
 * Connection that a server has accepted. It consists of one socket, and yields one stream after
 * another: each carries one exchange.
 */
class AcceptedPeer implements Connection {
  readonly protocol = "tcp";
  readonly resumed = false;
  readonly earlyData = "none";
  readonly ready: Promise<void> = Promise.resolve();
  readonly remote: Address;
  readonly closed: Promise<CloseInfo>;
  readonly #stream: SocketStream;
  readonly #incoming = new AsyncQueue<ByteStream>();
  #local: CloseInfo | undefined;

  constructor(socket: Socket, guard: Guard) {
    this.remote = { host: socket.remoteAddress ?? "", port: socket.remotePort ?? 0 };
    this.#stream = new SocketStream(socket, guard, undefined, ACCEPTED_READ_AHEAD_BYTES);
    this.#yieldExchange();
    this.closed = new Promise((resolve) => {
      const onClose = guard.wrap(() => {
        this.#incoming.end();
        const error =
          this.#stream.failure ??
          new VortexError("ConnectionLost", "connection lost: the socket is closed");
        resolve(this.#local ?? { code: StreamCode.None, reason: "", remote: true, error });
      });
      socket.once("close", onClose);
    });
  }

  #yieldExchange(): void {
    const release = (): number => {
      // Bytes may have arrived already: the start of the next request.
      if (this.#stream.unread === 0) this.#stream.park();
      this.#yieldExchange();
      return this.#stream.unread;
    };
    this.#incoming.push(new Exchange(this.#stream, never, release));
  }

  async openStream(): Promise<ByteStream> {
    throw new VortexError(
      "Unavailable",
      "cannot open a stream: over TCP, a server opens no streams to its clients",
    );
  }

  accept(): AsyncIterable<ByteStream> {
    return this.#incoming;
  }

  async close(options: { readonly grace?: number } = {}): Promise<void> {
    this.#incoming.end();
    await this.#stream.drain(options.grace ?? 5000);
    this.abort();
    await this.closed;
  }

  abort(code: number = StreamCode.None, reason = "", error: VortexError = closedHere()): void {
    this.#local ??= { code, reason, remote: false, error };
    this.#stream.destroy(error);
  }
}

/** Opens a TCP connection to one IP address of a peer, and returns its byte stream. */
async function openSocket(
  remote: Address,
  host: string,
  signal: AbortSignal | undefined,
): Promise<SocketStream> {
  const addr = formatAddress(remote);
  if (signal?.aborted) throw abortedError(signal, `dialling ${addr}`);
  const buffer = "Bun" in globalThis ? undefined : new ReadBuffer();
  const settings = {
    host,
    port: remote.port,
    allowHalfOpen: true,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: KEEP_ALIVE_DELAY_MS,
    // Bun's `onread` copies the bytes anyway, so it has no benefit there.
    ...(buffer === undefined
      ? { highWaterMark: READ_AHEAD_BYTES }
      : { onread: { buffer: buffer.memory, callback: (length: number) => buffer.fill(length) } }),
  };
  return new Promise((resolve, reject) => {
    const guard: Guard = new Guard({
      end: (error) => {
        reject(error);
        socket.destroy();
      },
    });
    const socket = connectTo(settings, addr);
    const onClose = guard.wrap(() => buffer?.close());
    const onAbort = guard.wrap(() => {
      socket.destroy();
      if (signal !== undefined) reject(abortedError(signal, `dialling ${addr}`));
    });
    const onError = guard.wrap((error: Error) => {
      signal?.removeEventListener("abort", onAbort);
      reject(nativeError(error, "Unreachable", `cannot connect to ${addr}`));
    });
    const onConnect = guard.wrap(() => {
      signal?.removeEventListener("abort", onAbort);
      socket.off("error", onError);
      resolve(new SocketStream(socket, guard, buffer));
    });
    socket.once("close", onClose);
    signal?.addEventListener("abort", onAbort, { once: true });
    socket.once("error", onError);
    socket.once("connect", onConnect);
  });
}

/**
 * Calls `connect` of node:net, and returns the connecting socket.
 * @throws `Unreachable` if the port is out of range
 */
function connectTo(settings: NetConnectOpts, addr: string): Socket {
  try {
    return connect(settings);
  } catch (error) {
    throw nativeError(error, "Unreachable", `cannot connect to ${addr}`);
  }
}

function never(): boolean {
  return false;
}

function closedHere(): VortexError {
  return new VortexError("Closed", "connection closed on this side");
}
