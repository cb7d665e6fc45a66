import { abortedError, VortexError } from "../../src/errors.ts";
import type { Address } from "../../src/transport/address.ts";
import { AsyncQueue } from "../../src/transport/queue.ts";
import {
  type ByteStream,
  type CloseInfo,
  type Connection,
  StreamCode,
} from "../../src/transport/transport.ts";

/** Byte stream on one TCP socket, for a {@link DialledPeer}. */
export interface SocketByteStream extends ByteStream {
  /** True until the first byte is received, either direction ends, or the socket fails. */
  readonly pristine: boolean;
  /** Resolves when the socket is closed. Never rejects. */
  readonly finished: Promise<void>;
  /**
   * Waits until the written data is delivered and the peer has ended its direction, but at most
   * `grace` ms. Returns at once if this side has not ended its sending direction.
   */
  drain(grace: number): Promise<void>;
  /** Ends both directions of the stream at once. Pending calls fail with `error`. */
  destroy(error: VortexError): void;
}

/**
 * Connection to a peer that accepts only one stream per TCP connection, like dfdaemon. Opens a
 * separate socket for each stream.
 */
export class DialledPeer implements Connection {
  readonly protocol = "tcp";
  readonly resumed = false;
  readonly earlyData = "none";
  readonly ready: Promise<void> = Promise.resolve();
  readonly remote: Address;
  readonly closed: Promise<CloseInfo>;
  readonly #open: (options: { readonly signal?: AbortSignal }) => Promise<SocketByteStream>;
  readonly #streams = new Set<SocketByteStream>();
  /** Socket that {@link DialledPeer.dial} opened, until the first stream uses the socket. */
  #spare: SocketByteStream | undefined;
  #closing = false;
  #end: CloseInfo | undefined;
  #resolveClosed: (info: CloseInfo) => void = () => {};

  private constructor(
    remote: Address,
    open: (options: { readonly signal?: AbortSignal }) => Promise<SocketByteStream>,
    first: SocketByteStream,
  ) {
    this.remote = remote;
    this.#open = open;
    this.#spare = this.#adopt(first);
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  /**
   * Connects to a peer by opening the first socket.
   * @param open opens one socket. `dial` and `openStream` reject with its errors.
   */
  static async dial(
    remote: Address,
    options: { readonly signal?: AbortSignal },
    open: (options: { readonly signal?: AbortSignal }) => Promise<SocketByteStream>,
  ): Promise<DialledPeer> {
    return new DialledPeer(remote, open, await open(options));
  }

  async openStream(options: { readonly signal?: AbortSignal } = {}): Promise<ByteStream> {
    if (options.signal?.aborted) throw abortedError(options.signal, "opening a stream");
    if (this.#closing) throw closedHere();
    const spare = this.#spare;
    this.#spare = undefined;
    // The peer may have closed the spare socket after a long wait for a request.
    if (spare?.pristine) return spare;
    const stream = this.#adopt(await this.#open(options));
    if (!this.#closing) return stream;
    stream.destroy(closedHere());
    throw closedHere();
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
    this.#spare?.destroy(closedHere());
    await Promise.all([...this.#streams].map((stream) => stream.drain(options.grace ?? 5000)));
    this.abort();
  }

  abort(code: number = StreamCode.None, reason = "", error: VortexError = closedHere()): void {
    if (this.#end !== undefined) return;
    this.#closing = true;
    this.#end = { code, reason, remote: false, error };
    for (const stream of this.#streams) stream.destroy(this.#end.error);
    this.#resolveClosed(this.#end);
  }

  #adopt(stream: SocketByteStream): SocketByteStream {
    this.#streams.add(stream);
    void stream.finished.then(() => this.#streams.delete(stream));
    return stream;
  }
}

function closedHere(): VortexError {
  return new VortexError("Closed", "connection closed on this side");
}
