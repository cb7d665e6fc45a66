import { abortedError, VortexError } from "../../src/errors.ts";
import type { Timer } from "../../src/runtime.ts";
import type { Address } from "../../src/transport/address.ts";
import { KeptSockets } from "../../src/transport/kept-sockets.ts";
import { AsyncQueue } from "../../src/transport/queue.ts";
import {
  type ByteStream,
  type CloseInfo,
  type Connection,
  type OpenStreamOptions,
  StreamCode,
} from "../../src/transport/transport.ts";
import { Exchange, type SocketByteStream, type SocketEvent } from "./exchange.ts";
import { Guard } from "./guard.ts";

/**
 * Connection to a peer over TCP. Each concurrent stream has a separate socket. After an exchange,
 * the socket is parked for later streams, as {@link KeptSockets} decides.
 */
export class DialledPeer<S extends SocketByteStream = SocketByteStream> implements Connection {
  readonly protocol = "tcp";
  readonly resumed = false;
  readonly earlyData = "none";
  readonly ready: Promise<void> = Promise.resolve();
  readonly remote: Address;
  readonly closed: Promise<CloseInfo>;
  readonly #open: (options: { readonly signal?: AbortSignal }) => Promise<S>;
  readonly #guard: Guard = new Guard({
    end: (error) => this.abort(StreamCode.Internal, "", error),
  });
  /** All open sockets: those of exchanges, and the parked ones. */
  readonly #sockets = new Set<S>();
  readonly #kept = new KeptSockets<S>();
  /** Timer that closes the next expired socket; undefined while none is parked. */
  #expiry: Timer | undefined;
  #closing = false;
  #end: CloseInfo | undefined;
  #resolveClosed: (info: CloseInfo) => void = () => {};

  private constructor(
    remote: Address,
    open: (options: { readonly signal?: AbortSignal }) => Promise<S>,
    first: S,
  ) {
    this.remote = remote;
    this.#open = open;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    this.#kept.openParked(this.#adopt(first), this.#now);
    this.#scheduleExpiry();
  }

  /**
   * Connects to a peer by opening the first socket.
   * @param open opens one socket. `dial` and `openStream` reject with its errors.
   */
  static async dial<S extends SocketByteStream>(
    remote: Address,
    options: { readonly signal?: AbortSignal },
    open: (options: { readonly signal?: AbortSignal }) => Promise<S>,
  ): Promise<DialledPeer<S>> {
    return new DialledPeer(remote, open, await open(options));
  }

  async openStream({ signal, fresh = false }: OpenStreamOptions = {}): Promise<ByteStream> {
    if (signal?.aborted) throw abortedError(signal, "opening a stream");
    if (this.#closing) throw closedHere();
    const parked = fresh ? undefined : this.#takeParked();
    if (parked !== undefined) return this.#exchangeOn(parked);
    const socket = this.#adopt(await this.#open(signal === undefined ? {} : { signal }));
    if (this.#closing) {
      socket.destroy(closedHere());
      throw closedHere();
    }
    this.#kept.open(socket);
    return this.#exchangeOn(socket);
  }

  /**
   * Yields no streams, because over TCP only the client opens streams. Ends when the connection is
   * closed.
   */
  accept(): AsyncIterable<ByteStream> {
    const none = new AsyncQueue<ByteStream>();
    void this.closed.then(() => none.end());
    return none;
  }

  async close(options: { readonly grace?: number } = {}): Promise<void> {
    if (this.#end !== undefined) return;
    this.#closing = true;
    for (let socket = this.#kept.take(); socket !== undefined; socket = this.#kept.take())
      socket.destroy(closedHere());
    await Promise.all([...this.#sockets].map((socket) => socket.drain(options.grace ?? 5000)));
    this.abort();
  }

  abort(code: number = StreamCode.None, reason = "", error: VortexError = closedHere()): void {
    if (this.#end !== undefined) return;
    this.#closing = true;
    this.#end = { code, reason, remote: false, error };
    this.#expiry?.cancel();
    for (const socket of this.#sockets) socket.destroy(this.#end.error);
    this.#resolveClosed(this.#end);
  }

  get #now(): number {
    return this.#guard.clock.now();
  }

  #adopt(socket: S): S {
    this.#sockets.add(socket);
    socket.onEvent = (event) => this.#onEvent(socket, event);
    void socket.finished.then(() => {
      this.#sockets.delete(socket);
      this.#kept.drop(socket);
    });
    return socket;
  }

  #onEvent(socket: S, event: SocketEvent): void {
    const action = event === "received" ? this.#kept.received(socket) : this.#kept.ended(socket);
    if (action === "close") socket.destroy(closedHere());
  }

  #exchangeOn(socket: S): ByteStream {
    return new Exchange(
      socket,
      () => this.#kept.isStale(socket),
      () => this.#release(socket),
    );
  }

  #release(socket: S): number {
    const { unread } = socket;
    const action = this.#kept.release(socket, unread, this.#now);
    // A socket that is not kept is closed like an idle one too, since nothing is missing.
    socket.park();
    if (action === "park" && !this.#closing) this.#scheduleExpiry();
    else socket.destroy(closedHere());
    return unread;
  }

  #takeParked(): S | undefined {
    this.#closeExpired();
    const socket = this.#kept.take();
    socket?.unpark();
    return socket;
  }

  #scheduleExpiry(): void {
    const { nextExpiry } = this.#kept;
    if (nextExpiry === undefined || this.#expiry !== undefined) return;
    this.#expiry = this.#guard.clock.setTimer(
      () => {
        this.#expiry = undefined;
        this.#closeExpired();
        this.#scheduleExpiry();
      },
      nextExpiry - this.#now,
      { background: true },
    );
  }

  #closeExpired(): void {
    for (const socket of this.#kept.expire(this.#now)) socket.destroy(closedHere());
  }
}

function closedHere(): VortexError {
  return new VortexError("Closed", "connection closed on this side");
}
