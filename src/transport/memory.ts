import { abortedError, VortexError } from "../errors.ts";
import { type Address, formatAddress } from "./address.ts";
import { AsyncQueue } from "./queue.ts";
import {
  type ByteReader,
  type ByteStream,
  type ByteWriter,
  type CloseInfo,
  type Connection,
  DEFAULT_MAX_CONNECTIONS,
  DEFAULT_MAX_STREAMS,
  type DialOptions,
  type Listener,
  type ListenOptions,
  StreamCode,
  type Transport,
} from "./transport.ts";

/** Flow control window of each direction of a stream, in bytes. */
const WINDOW_BYTES = 64 * 1024;

/**
 * Transport within one process, for tests and for programs that are server and client at once. It
 * connects only to listeners of the same instance. It is also the reference implementation of the
 * contract in `transport.ts`.
 */
export class MemoryTransport implements Transport {
  readonly protocol: "quic" | "tcp";
  readonly #listeners = new Map<string, MemoryListener>();
  #nextPort = 49152;

  constructor(protocol: "quic" | "tcp" = "quic") {
    this.protocol = protocol;
  }

  async dial(remote: Address, options: DialOptions = {}): Promise<Connection> {
    if (options.signal?.aborted) throw abortedError(options.signal, "dialling");
    // Yield once, as a network dial does, so that an abort can arrive during the dial.
    await Promise.resolve();
    if (options.signal?.aborted) throw abortedError(options.signal, "dialling");
    const listener = this.#listeners.get(formatAddress(remote));
    if (listener === undefined) {
      throw new VortexError(
        "ConnectionRefused",
        `cannot dial ${formatAddress(remote)}: no listener at this address`,
      );
    }
    const local = { host: remote.host, port: this.#nextPort++ };
    return listener.connect(this.protocol, local);
  }

  async listen(local: Address, options: ListenOptions = {}): Promise<Listener> {
    const address = { host: local.host, port: local.port === 0 ? this.#nextPort++ : local.port };
    const key = formatAddress(address);
    if (this.#listeners.has(key))
      throw new VortexError("AddressInUse", `cannot listen at ${key}: the address is in use`);
    const listener = new MemoryListener(address, options, () => this.#listeners.delete(key));
    this.#listeners.set(key, listener);
    return listener;
  }
}

class MemoryListener implements Listener {
  readonly address: Address;
  readonly fingerprint: undefined;
  readonly #options: ListenOptions;
  /** Removes the listener from the table of its transport, which frees the address. */
  readonly #unregister: () => void;
  readonly #incoming = new AsyncQueue<Connection>();
  readonly #connections = new Set<MemoryConnection>();

  constructor(address: Address, options: ListenOptions, unregister: () => void) {
    this.address = address;
    this.#options = options;
    this.#unregister = unregister;
  }

  connect(protocol: "quic" | "tcp", from: Address): Connection {
    const limit = this.#options.maxConnections ?? DEFAULT_MAX_CONNECTIONS;
    if (this.#connections.size >= limit) {
      throw new VortexError(
        "ConnectionRefused",
        `connection refused: the listener is at its limit of ${limit} (maxConnections)`,
      );
    }
    const maxStreams = this.#options.maxStreams ?? DEFAULT_MAX_STREAMS;
    const [client, server] = MemoryConnection.pair(protocol, this.address, from, maxStreams);
    this.#connections.add(server);
    void server.closed.then(() => this.#connections.delete(server));
    this.#incoming.push(server);
    return client;
  }

  accept(): AsyncIterable<Connection> {
    return this.#incoming;
  }

  async setIdentity(): Promise<void> {
    throw new VortexError(
      "Unavailable",
      "cannot set a certificate: the in-memory transport has no TLS",
    );
  }

  async close(options: { readonly grace?: number } = {}): Promise<void> {
    this.#unregister();
    this.#incoming.end();
    await Promise.all([...this.#connections].map((connection) => connection.close(options)));
  }
}

class MemoryConnection implements Connection {
  readonly protocol: "quic" | "tcp";
  readonly remote: Address;
  readonly resumed = false;
  readonly earlyData = "none";
  readonly ready: Promise<void> = Promise.resolve();
  readonly closed: Promise<CloseInfo>;
  readonly #incoming = new AsyncQueue<ByteStream>();
  readonly #streams = new Set<MemoryStream>();
  /** Maximum number of concurrent streams that this side may open. */
  readonly #maxStreams: number;
  /**
   * Callbacks that wake the calls of `openStream` waiting for stream credit, in the order of the
   * calls.
   */
  readonly #waiting: (() => void)[] = [];
  #opened = 0;
  /** True after a call of `close()`. `openStream` then rejects. */
  #closing = false;
  #peer: MemoryConnection = this;
  #resolveClosed: (info: CloseInfo) => void = () => {};
  #end: CloseInfo | undefined;

  static pair(
    protocol: "quic" | "tcp",
    server: Address,
    client: Address,
    maxStreams: number,
  ): [client: MemoryConnection, server: MemoryConnection] {
    const dialled = new MemoryConnection(protocol, server, maxStreams);
    const accepted = new MemoryConnection(protocol, client, DEFAULT_MAX_STREAMS);
    dialled.#peer = accepted;
    accepted.#peer = dialled;
    return [dialled, accepted];
  }

  private constructor(protocol: "quic" | "tcp", remote: Address, maxStreams: number) {
    this.protocol = protocol;
    this.remote = remote;
    this.#maxStreams = maxStreams;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  async openStream(options: { readonly signal?: AbortSignal } = {}): Promise<ByteStream> {
    for (;;) {
      if (options.signal?.aborted) {
        // Pass on the credit that may have woken this call.
        this.#waiting.shift()?.();
        throw abortedError(options.signal, "opening a stream");
      }
      if (this.#end !== undefined) throw this.#end.error;
      if (this.#closing) throw closedHere();
      if (this.#opened < this.#maxStreams) break;
      await this.#creditOrAbort(options.signal);
    }
    this.#opened++;
    const ours = new MemoryPipe();
    const theirs = new MemoryPipe();
    const local = new MemoryStream(theirs, ours);
    const remote = new MemoryStream(ours, theirs);
    const peer = this.#peer;
    this.#streams.add(local);
    peer.#streams.add(remote);
    void Promise.all([ours.finished, theirs.finished]).then(() => {
      this.#streams.delete(local);
      peer.#streams.delete(remote);
      this.#opened--;
      this.#waiting.shift()?.();
    });
    peer.#incoming.push(remote);
    return local;
  }

  accept(): AsyncIterable<ByteStream> {
    return this.#incoming;
  }

  async close(options: { readonly grace?: number } = {}): Promise<void> {
    if (this.#end !== undefined) return;
    this.#closing = true;
    for (const wake of this.#waiting.splice(0)) wake();
    // Give the peer time to read the directions that were ended.
    const ended = [...this.#streams]
      .filter((stream) => stream.output.ended)
      .map((stream) => stream.output.finished);
    if (ended.length > 0) {
      let timer: ReturnType<typeof setTimeout> | undefined;
      const grace = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, options.grace ?? 5000);
      });
      await Promise.race([Promise.all(ended), grace]);
      clearTimeout(timer);
    }
    this.abort(StreamCode.None, "");
  }

  abort(code: number = StreamCode.None, reason = "", error: VortexError = closedHere()): void {
    this.#finish({ code, reason, remote: false, error });
    this.#peer.#finish({
      code,
      reason,
      remote: true,
      error: new VortexError(
        "ConnectionLost",
        `connection lost: the peer closed it with code ${code}`,
      ),
    });
  }

  #finish(info: CloseInfo): void {
    if (this.#end !== undefined) return;
    this.#end = info;
    for (const stream of this.#streams) stream.fail(info.error);
    this.#streams.clear();
    this.#incoming.end();
    for (const wake of this.#waiting.splice(0)) wake();
    this.#resolveClosed(info);
  }

  #creditOrAbort(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        signal?.removeEventListener("abort", done);
        const index = this.#waiting.indexOf(done);
        if (index >= 0) this.#waiting.splice(index, 1);
        resolve();
      };
      signal?.addEventListener("abort", done);
      this.#waiting.push(done);
    });
  }
}

class MemoryStream implements ByteStream {
  readonly reader: ByteReader;
  readonly writer: ByteWriter;
  readonly output: MemoryPipe;
  readonly #input: MemoryPipe;

  constructor(input: MemoryPipe, output: MemoryPipe) {
    this.#input = input;
    this.output = output;
    this.reader = {
      read: () => input.read(),
      cancel: (code = StreamCode.Cancelled) => input.cancel(code),
    };
    this.writer = {
      write: (chunk) => output.write(chunk),
      end: (last) => output.end(last),
      abort: (code = StreamCode.Cancelled) => output.abort(code),
    };
  }

  /**
   * Rejects the reads and writes on this side with `error`. The caller must call it on the peer's
   * stream too.
   */
  fail(error: VortexError): void {
    this.#input.close({ read: error });
    this.output.close({ write: error });
  }
}

/** One direction of a stream: a queue of chunks from a writer to a reader. */
class MemoryPipe {
  /**
   * Resolves when the reader has reached the end, or either side has cancelled or aborted this
   * direction.
   */
  readonly finished: Promise<void>;
  /** True after the writer has called `end()`. */
  ended = false;
  #chunks: Uint8Array<ArrayBuffer>[] = [];
  /** Total length of the chunks in {@link #chunks}, in bytes. */
  #unread = 0;
  #readError: VortexError | undefined;
  #writeError: VortexError | undefined;
  #wakeReader: (() => void) | undefined;
  #wakeWriter: (() => void) | undefined;
  #finish: () => void = () => {};

  constructor() {
    this.finished = new Promise((resolve) => {
      this.#finish = resolve;
    });
  }

  async read(): Promise<Uint8Array<ArrayBuffer> | undefined> {
    for (;;) {
      if (this.#readError !== undefined) throw this.#readError;
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) {
        this.#unread -= chunk.length;
        this.#wakeWriter?.();
        return chunk;
      }
      if (this.ended) {
        this.#finish();
        return undefined;
      }
      await new Promise<void>((resolve) => {
        this.#wakeReader = resolve;
      });
    }
  }

  async write(chunk: Uint8Array): Promise<void> {
    if (this.ended) throw new VortexError("Closed", "the stream was ended on this side");
    if (this.#writeError !== undefined) throw this.#writeError;
    if (chunk.length === 0) return;
    // Copy: the chunk belongs to the reader, whatever the writer does with its buffer. Not `slice`:
    // that of a Node Buffer returns a view.
    this.#chunks.push(new Uint8Array(chunk));
    this.#unread += chunk.length;
    this.#wakeReader?.();
    while (this.#unread > WINDOW_BYTES && this.#writeError === undefined) {
      await new Promise<void>((resolve) => {
        this.#wakeWriter = resolve;
      });
    }
    if (this.#writeError !== undefined) throw this.#writeError;
  }

  async end(last?: Uint8Array): Promise<void> {
    if (last !== undefined) await this.write(last);
    if (this.ended) return;
    if (this.#writeError !== undefined) throw this.#writeError;
    this.ended = true;
    this.#wakeReader?.();
  }

  cancel(code: number): void {
    this.close({
      read: new VortexError("Closed", "the stream was cancelled on this side"),
      write: new VortexError("StreamReset", `stream reset: the peer cancelled with code ${code}`),
    });
  }

  abort(code: number): void {
    this.close({
      read: new VortexError("StreamReset", `stream reset: the peer aborted with code ${code}`),
      write: new VortexError("Closed", "the stream was aborted on this side"),
    });
  }

  /**
   * Discards unread chunks. Later reads reject with `errors.read` and later writes with
   * `errors.write`, if set. Does nothing if the writer has ended this direction and the reader has
   * read all chunks.
   */
  close(errors: { readonly read?: VortexError; readonly write?: VortexError }): void {
    if (this.ended && this.#chunks.length === 0) {
      this.#finish();
      return;
    }
    this.#readError ??= errors.read;
    this.#writeError ??= errors.write;
    this.#chunks = [];
    this.#unread = 0;
    this.#wakeReader?.();
    this.#wakeWriter?.();
    this.#finish();
  }
}

function closedHere(): VortexError {
  return new VortexError("Closed", "the connection was closed on this side");
}
