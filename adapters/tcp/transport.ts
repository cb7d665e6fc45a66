import { connect, createServer, type Server, type Socket } from "node:net";
import { abortedError, VortexError } from "../../src/errors.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import { AsyncQueue } from "../../src/transport/queue.ts";
import {
  type ByteReader,
  type ByteStream,
  type ByteWriter,
  type CloseInfo,
  type Connection,
  DEFAULT_MAX_CONNECTIONS,
  type DialOptions,
  type Listener,
  StreamCode,
  type Transport,
} from "../../src/transport/transport.ts";
import { listenError, nativeError } from "../native-error.ts";

/** Bytes that a stream holds for its reader before the socket is paused. */
const READ_AHEAD = 512 * 1024;
/** Milliseconds of silence after which the kernel asks a peer whether it is still there. */
const KEEP_ALIVE = 30_000;

/**
 * TCP on node:net, for Node, Bun and Deno. As stock Dragonfly peers want it, each stream is a connection of its own: what
 * this calls a connection is the peer that sockets are opened to.
 */
export const tcpTransport: Transport = {
  protocol: "tcp",
  async dial(remote, options = {}): Promise<Connection> {
    return new DialledPeer(remote, await openSocket(remote, options));
  },
  async listen(local, options = {}): Promise<Listener> {
    const server = createServer({ allowHalfOpen: true, noDelay: true, keepAlive: true, highWaterMark: READ_AHEAD });
    server.maxConnections = options.maxConnections ?? DEFAULT_MAX_CONNECTIONS;
    await new Promise<void>((resolve, reject) => {
      server.once("error", (error) => reject(listenError(error, formatAddress(local))));
      server.listen({ host: local.host, port: local.port }, resolve);
    });
    return new TcpListener(server, local);
  },
};

class TcpListener implements Listener {
  readonly address: Address;
  readonly fingerprint: undefined;
  readonly #server: Server;
  readonly #incoming = new AsyncQueue<Connection>();
  readonly #connections = new Set<AcceptedPeer>();

  constructor(server: Server, local: Address) {
    const bound = server.address();
    const port = typeof bound === "object" && bound !== null ? bound.port : local.port;
    this.address = { host: local.host, port };
    this.#server = server;
    // An accept that fails (no file descriptors left, say) concerns one client; the listener goes on.
    server.on("error", () => {});
    server.on("connection", (socket: Socket) => {
      const connection = new AcceptedPeer(socket);
      this.#connections.add(connection);
      void connection.closed.then(() => this.#connections.delete(connection));
      if (!this.#incoming.push(connection)) connection.abort();
    });
  }

  accept(): AsyncIterable<Connection> {
    return this.#incoming;
  }

  async setIdentity(): Promise<void> {
    throw new VortexError(
      "Unavailable",
      "the Vortex protocol over TCP has no TLS, so there is no certificate to change",
    );
  }

  async close(options: { readonly grace?: number } = {}): Promise<void> {
    this.#incoming.end();
    this.#server.close();
    await Promise.all([...this.#connections].map((connection) => connection.close(options)));
  }
}

/** The client's side: a peer, and one socket for each stream to it. */
class DialledPeer implements Connection {
  readonly protocol = "tcp";
  readonly resumed = false;
  readonly earlyData = "none";
  readonly ready: Promise<void> = Promise.resolve();
  readonly remote: Address;
  readonly closed: Promise<CloseInfo>;
  readonly #streams = new Set<SocketStream>();
  /** The socket of the dial, until the first stream takes it. */
  #spare: SocketStream | undefined;
  #closing = false;
  #end: CloseInfo | undefined;
  #resolveClosed: (info: CloseInfo) => void = () => {};

  constructor(remote: Address, socket: Socket) {
    this.remote = remote;
    this.#spare = this.#adopt(socket);
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  async openStream(options: { readonly signal?: AbortSignal } = {}): Promise<ByteStream> {
    if (options.signal?.aborted) throw abortedError(options.signal, "opening a stream");
    if (this.#closing) throw closedHere();
    const spare = this.#spare;
    this.#spare = undefined;
    // A peer that waited long for a request on the spare socket may have closed it.
    if (spare?.pristine) return spare;
    const socket = await openSocket(this.remote, options);
    if (this.#closing) {
      socket.destroy();
      throw closedHere();
    }
    return this.#adopt(socket);
  }

  /** Peers open no streams towards a client. */
  accept(): AsyncIterable<ByteStream> {
    const none = new AsyncQueue<ByteStream>();
    void this.closed.then(() => none.end());
    return none;
  }

  async close(options: { readonly grace?: number } = {}): Promise<void> {
    if (this.#end !== undefined) return;
    this.#closing = true;
    this.#spare?.destroy(closedHere());
    await Promise.all([...this.#streams].map((stream) => stream.drain(options.grace ?? 5000)));
    this.abort();
  }

  abort(code: number = StreamCode.None, reason = ""): void {
    if (this.#end !== undefined) return;
    this.#closing = true;
    this.#end = { code, reason, remote: false, error: closedHere() };
    for (const stream of this.#streams) stream.destroy(this.#end.error);
    this.#resolveClosed(this.#end);
  }

  #adopt(socket: Socket): SocketStream {
    const stream = new SocketStream(socket);
    this.#streams.add(stream);
    socket.once("close", () => this.#streams.delete(stream));
    return stream;
  }
}

/** The server's side: one socket, which is one stream. */
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

  constructor(socket: Socket) {
    this.remote = { host: socket.remoteAddress ?? "", port: socket.remotePort ?? 0 };
    this.#stream = new SocketStream(socket);
    this.#incoming.push(this.#stream);
    this.closed = new Promise((resolve) => {
      socket.once("close", () => {
        this.#incoming.end();
        const error = this.#stream.failure ?? new VortexError("ConnectionLost", "the connection ended");
        resolve(this.#local ?? { code: StreamCode.None, reason: "", remote: true, error });
      });
    });
  }

  async openStream(): Promise<ByteStream> {
    throw new VortexError("Unavailable", "over TCP a server opens no streams to its clients");
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

  abort(code: number = StreamCode.None, reason = ""): void {
    const error = closedHere();
    this.#local ??= { code, reason, remote: false, error };
    this.#stream.destroy(error);
  }
}

/** A socket as a stream of bytes. */
class SocketStream implements ByteStream {
  readonly reader: ByteReader;
  readonly writer: ByteWriter;
  readonly #socket: Socket;
  #chunks: Uint8Array[] = [];
  #held = 0;
  #readEnded = false;
  #writeEnded = false;
  #cancelled = false;
  #failure: VortexError | undefined;
  #wakeReader: (() => void) | undefined;
  #wakeWriter: (() => void) | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk: Uint8Array) => this.#onData(chunk));
    socket.on("end", () => {
      // Bun tells of an end also when this side destroys the socket.
      if (this.#failure !== undefined) return;
      this.#readEnded = true;
      this.#wakeReader?.();
    });
    socket.on("drain", () => this.#wakeWriter?.());
    socket.on("error", (error) => this.#fail(nativeError(error, "ConnectionLost", "the connection failed")));
    socket.on("close", () => this.#fail(new VortexError("ConnectionLost", "the connection ended")));
    this.reader = { read: () => this.#read(), cancel: () => this.#cancel() };
    this.writer = {
      write: (chunk) => this.#write(chunk),
      end: () => this.#endWriting(),
      abort: () => this.#abortWriting(),
    };
  }

  /** What ended the socket, if anything did. */
  get failure(): VortexError | undefined {
    return this.#failure;
  }

  /** True while nothing has come and nothing has ended. */
  get pristine(): boolean {
    return this.#failure === undefined && !this.#readEnded && this.#held === 0;
  }

  /** Waits until an ended direction has been delivered and the peer has ended its own, for at most `grace` ms. */
  async drain(grace: number): Promise<void> {
    if (!this.#writeEnded || this.#failure !== undefined || grace === 0) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, grace);
      this.#socket.once("close", () => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  /** Ends both directions at once with a reset. */
  destroy(error: VortexError): void {
    this.#fail(error);
    const socket = this.#socket;
    if (socket.destroyed) return;
    // A reset tells the peer that bytes are missing, where a plain close could pass for the end of the stream. After the
    // end it is needless, and Node's fails while the shutdown is under way (EINVAL), after which its process never exits.
    if (socket.writableEnded) socket.destroy();
    else socket.resetAndDestroy();
  }

  #onData(chunk: Uint8Array): void {
    if (this.#cancelled) return;
    // Not a Buffer: users get plain bytes on every runtime.
    this.#chunks.push(new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.length));
    this.#held += chunk.length;
    if (this.#held >= READ_AHEAD) this.#socket.pause();
    this.#wakeReader?.();
  }

  async #read(): Promise<Uint8Array | undefined> {
    for (;;) {
      if (this.#cancelled) throw new VortexError("Closed", "the stream was cancelled on this side");
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) {
        this.#held -= chunk.length;
        if (this.#held < READ_AHEAD && this.#socket.isPaused()) this.#socket.resume();
        return chunk;
      }
      if (this.#readEnded) return undefined;
      if (this.#failure !== undefined) throw this.#failure;
      await new Promise<void>((resolve) => {
        this.#wakeReader = resolve;
      });
    }
  }

  #cancel(): void {
    if (this.#cancelled || this.#readEnded) return;
    this.#cancelled = true;
    this.#chunks = [];
    this.#held = 0;
    this.#wakeReader?.();
    // TCP has no way to refuse one direction. Once this side has nothing more to say, a reset ends both; before that,
    // what comes is dropped unread.
    if (this.#writeEnded) this.destroy(new VortexError("Closed", "the stream was cancelled on this side"));
    else this.#socket.resume();
  }

  async #write(chunk: Uint8Array): Promise<void> {
    if (this.#writeEnded) throw new VortexError("Closed", "the stream was ended on this side");
    if (this.#failure !== undefined) throw this.#failure;
    if (chunk.length === 0 || this.#socket.write(chunk)) return;
    await new Promise<void>((resolve) => {
      this.#wakeWriter = resolve;
    });
    if (this.#failure !== undefined) throw this.#failure;
  }

  async #endWriting(): Promise<void> {
    if (this.#writeEnded) return;
    if (this.#failure !== undefined) throw this.#failure;
    this.#writeEnded = true;
    this.#socket.end();
  }

  #abortWriting(): void {
    if (this.#writeEnded && this.#failure === undefined) return;
    this.#writeEnded = true;
    this.destroy(new VortexError("Closed", "the stream was aborted on this side"));
  }

  #fail(error: VortexError): void {
    this.#failure ??= error;
    this.#wakeReader?.();
    this.#wakeWriter?.();
  }
}

async function openSocket(remote: Address, options: DialOptions): Promise<Socket> {
  const addr = formatAddress(remote);
  const { signal } = options;
  if (signal?.aborted) throw abortedError(signal, `dialling ${addr}`);
  const settings = {
    host: remote.host,
    port: remote.port,
    allowHalfOpen: true,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: KEEP_ALIVE,
    highWaterMark: READ_AHEAD,
  };
  return new Promise((resolve, reject) => {
    const socket = connect(settings);
    const onAbort = (): void => {
      socket.destroy();
      if (signal !== undefined) reject(abortedError(signal, `dialling ${addr}`));
    };
    const onError = (error: Error): void => {
      signal?.removeEventListener("abort", onAbort);
      reject(nativeError(error, "Unreachable", `cannot connect to ${addr}`));
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    socket.once("error", onError);
    socket.once("connect", () => {
      signal?.removeEventListener("abort", onAbort);
      socket.off("error", onError);
      resolve(socket);
    });
  });
}

function closedHere(): VortexError {
  return new VortexError("Closed", "the connection was closed on this side");
}
