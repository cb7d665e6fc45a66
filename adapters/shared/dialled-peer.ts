import { abortedError, VortexError } from "../../src/errors.ts";
import type { Address } from "../../src/transport/address.ts";
import { AsyncQueue } from "../../src/transport/queue.ts";
import {
  type ByteStream,
  type CloseInfo,
  type Connection,
  StreamCode,
} from "../../src/transport/transport.ts";

/** A socket as a stream, as a {@link DialledPeer} uses it. */
export interface SocketByteStream extends ByteStream {
  /** True while nothing has come and nothing has ended. */
  readonly pristine: boolean;
  /** Resolves, never rejects, when the socket is closed. */
  readonly finished: Promise<void>;
  /** Waits until an ended direction has been delivered and the peer has ended its own, for at most `grace` milliseconds. */
  drain(grace: number): Promise<void>;
  /** Ends both directions at once. */
  destroy(error: VortexError): void;
}

/** A peer that takes one stream a connection, as stock Dragonfly peers do over TCP: each stream is a socket of its own. */
export class DialledPeer implements Connection {
  readonly protocol = "tcp";
  readonly resumed = false;
  readonly earlyData = "none";
  readonly ready: Promise<void> = Promise.resolve();
  readonly remote: Address;
  readonly closed: Promise<CloseInfo>;
  readonly #open: (options: { readonly signal?: AbortSignal }) => Promise<SocketByteStream>;
  readonly #streams = new Set<SocketByteStream>();
  /** The socket of the dial, until the first stream takes it. */
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

  /** @param open connects one socket to the peer; what it rejects with, this does too, and later `openStream` */
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
    // A peer that waited long for a request on the spare socket may have closed it.
    if (spare?.pristine) return spare;
    const stream = this.#adopt(await this.#open(options));
    if (!this.#closing) return stream;
    stream.destroy(closedHere());
    throw closedHere();
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
  return new VortexError("Closed", "the connection was closed on this side");
}
