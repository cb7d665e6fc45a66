import { abortedError, VortexError } from "../../src/errors.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import { AsyncQueue } from "../../src/transport/queue.ts";
import {
  type ByteStream,
  type CloseInfo,
  type Connection,
  type DialOptions,
  type Listener,
  StreamCode,
  type Transport,
} from "../../src/transport/transport.ts";
import { loadConnect, type WorkerSocket } from "./native.ts";
import { SocketStream } from "./stream.ts";

/**
 * TCP on `cloudflare:sockets`, for edge workers. It dials and does not listen. As stock Dragonfly peers want it, each stream is
 * a connection of its own: what this calls a connection is the peer that sockets are opened to.
 *
 * A socket belongs to the incoming request that opened it, and ends with it.
 */
export const workersTransport: Transport = {
  protocol: "tcp",
  async dial(remote, options = {}): Promise<Connection> {
    return new DialledPeer(remote, await openSocket(remote, options));
  },
  async listen(): Promise<Listener> {
    throw new VortexError("Unavailable", "an edge worker cannot listen; serve from Node, Bun or Deno");
  },
};

/** A peer, and one socket for each stream to it. */
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

  constructor(remote: Address, socket: WorkerSocket) {
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
    if (spare !== undefined && !spare.ended) return spare;
    const socket = await openSocket(this.remote, options);
    const stream = this.#adopt(socket);
    if (this.#closing) {
      stream.destroy(closedHere());
      throw closedHere();
    }
    return stream;
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

  #adopt(socket: WorkerSocket): SocketStream {
    const stream = new SocketStream(socket);
    this.#streams.add(stream);
    void stream.finished.then(() => this.#streams.delete(stream));
    return stream;
  }
}

async function openSocket(remote: Address, options: DialOptions): Promise<WorkerSocket> {
  const addr = formatAddress(remote);
  const { signal } = options;
  const connect = await loadConnect();
  if (signal?.aborted) throw abortedError(signal, `dialling ${addr}`);
  let socket: WorkerSocket;
  try {
    socket = connect(addr, { allowHalfOpen: true });
  } catch (error) {
    throw VortexError.from(error, "Unreachable", `cannot connect to ${addr}`);
  }
  await new Promise<void>((resolve, reject) => {
    const onAbort = (): void => {
      socket.close().catch(() => {});
      if (signal !== undefined) reject(abortedError(signal, `dialling ${addr}`));
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    socket.opened
      .then(
        () => resolve(),
        (error: unknown) => reject(dialError(error, addr)),
      )
      .finally(() => signal?.removeEventListener("abort", onAbort));
    // Whoever waits hears of it from `opened`, and later from the streams.
    socket.closed.catch(() => {});
  });
  return socket;
}

/**
 * workerd says the same of a port where nobody listens, a name that does not resolve and an address that it may not reach:
 * "proxy request failed, cannot connect to the specified address".
 */
function dialError(error: unknown, addr: string): VortexError {
  const refused = error instanceof Error && error.message.includes("cannot connect to the specified address");
  return VortexError.from(error, refused ? "ConnectionRefused" : "Unreachable", `cannot connect to ${addr}`);
}

function closedHere(): VortexError {
  return new VortexError("Closed", "the connection was closed on this side");
}
