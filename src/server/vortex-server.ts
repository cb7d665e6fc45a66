import { VortexError } from "../errors.ts";
import { PacketDecoder } from "../protocol/decoder.ts";
import {
  type DownloadPiecePacket,
  encodePacket,
  HEADER_LENGTH,
  REQUEST_LENGTH,
  RemoteErrorCode,
} from "../protocol/packet.ts";
import type { Flow } from "../rate-limiter.ts";
import type { Clock, Runtime } from "../runtime.ts";
import { checkedPiece } from "../store/checked-store.ts";
import type { PieceStore, StoredPiece } from "../store/store.ts";
import { beginOperation, type OperationResult } from "../telemetry.ts";
import type { Address } from "../transport/address.ts";
import type { TlsIdentity } from "../transport/tls.ts";
import {
  type ByteStream,
  type Connection,
  type Listener,
  type ListenerCounters,
  StreamCode,
  type Transport,
} from "../transport/transport.ts";
import {
  type ConnectionSlot,
  ConnectionSlots,
  EXTRA_CONNECTIONS,
} from "./admission/connection-slots.ts";
import { rateLimited } from "./admission/rate-limited.ts";
import {
  listenSettings,
  type ServerOptions,
  type ServerSettings,
  withTimeout,
} from "./admission/upload.ts";
import { exactContent } from "./exact.ts";

/** Serves the pieces of a store over the Vortex protocol, to the connections of one listener. */
export class VortexServer {
  readonly #listener: Listener;
  readonly #store: PieceStore;
  readonly #settings: ServerSettings;
  readonly #slots: ConnectionSlots;
  /**
   * Promises of all connections and streams that are still being served. Each promise removes
   * itself when it settles.
   */
  readonly #running = new Set<Promise<void>>();
  /**
   * Aborts when the listener has closed. Its signal ends pending reads of the store and waits for
   * the upload rate.
   */
  readonly #terminated = new AbortController();
  /** Number of requests that have arrived and whose responses are not complete yet. */
  #inFlight = 0;
  /** Called when {@link #inFlight} drops to 0. */
  #onIdle: () => void = () => {};
  /** Connections on which no byte of the next request has arrived. Only over TCP. */
  readonly #idle = new Set<Connection>();
  #closing: Promise<void> | undefined;

  /**
   * Starts to accept connections from `listener`, and serves the pieces of `store` to them. The new
   * server owns the listener: {@link close} closes it.
   */
  constructor(listener: Listener, store: PieceStore, settings: ServerSettings) {
    this.#listener = listener;
    this.#store = store;
    this.#settings = settings;
    this.#slots = new ConnectionSlots(settings.maxConnections, settings.runtime.clock);
    this.#track(this.#acceptConnections());
  }

  /**
   * Starts to listen at the address `local` on `transport`, and serves the pieces of `store` there.
   * Rejects with `AddressInUse` if the address is in use or does not belong to this host. Rejects
   * with `InvalidArgument` if an option or the address is invalid.
   */
  static async listen<T extends VortexServer>(
    this: new (
      listener: Listener,
      store: PieceStore,
      settings: ServerSettings,
    ) => T,
    transport: Transport,
    local: Address,
    store: PieceStore,
    runtime: Runtime,
    options: ServerOptions | ServerSettings = {},
  ): Promise<T> {
    const settings = listenSettings("listen", options, runtime);
    const listener = await transport.listen(local, {
      maxConnections: settings.maxConnections + EXTRA_CONNECTIONS,
      maxStreams: settings.maxStreams,
      earlyData: settings.earlyData,
      onError: settings.onError,
    });
    return new this(listener, store, settings);
  }

  /**
   * Local address that the server listens at. Contains the assigned port if port 0 was requested.
   */
  get address(): Address {
    return this.#listener.address;
  }

  /**
   * SHA-256 fingerprint of the certificate, for clients to pin; undefined if the transport has no
   * TLS. See {@link Listener.fingerprint}.
   */
  get fingerprint(): string | undefined {
    return this.#listener.fingerprint;
  }

  /**
   * Counters of the listener, see {@link Listener.counters}; undefined if the transport counts
   * nothing.
   */
  get counters(): ListenerCounters | undefined {
    return this.#listener.counters;
  }

  /**
   * Replaces the certificate for new connections; existing connections continue with the old
   * certificate. See {@link Listener.setIdentity} for the errors.
   */
  setIdentity(identity: TlsIdentity): Promise<void> {
    return this.#listener.setIdentity(identity);
  }

  /**
   * Rejects new requests, closes idle TCP connections, and waits up to `grace` ms (default 5,000)
   * for responses in flight. Then aborts the responses that are still in flight, and stops
   * listening. Finally waits up to 1 s for pending reads of the store to end. Idempotent.
   */
  close(options: { readonly grace?: number | undefined } = {}): Promise<void> {
    this.#closing ??= this.#close(options.grace ?? 5000);
    return this.#closing;
  }

  async #close(grace: number): Promise<void> {
    const { clock } = this.#settings.runtime;
    const started = clock.now();
    for (const connection of this.#idle) void connection.close({ grace: 0 });
    if (this.#inFlight > 0 && grace > 0) {
      const idle = new Promise<void>((resolve) => {
        this.#onIdle = resolve;
      });
      await settledWithin(idle, clock, grace);
    }
    await this.#listener.close({ grace: Math.max(0, grace - (clock.now() - started)) });
    this.#terminated.abort(new VortexError("Closed", "the server is closed"));
    // All streams have failed by now. Only reads of the store may be pending; the signal aborts
    // them.
    await settledWithin(this.#drained(), clock, STORE_GRACE_MS);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #acceptConnections(): Promise<void> {
    for await (const connection of this.#listener.accept()) {
      if (this.#closing === undefined) this.#track(this.#serveConnection(connection));
      else connection.abort(StreamCode.Busy, "the server is closing");
    }
  }

  async #serveConnection(connection: Connection): Promise<void> {
    const refuse = (): void => connection.abort(StreamCode.Busy, "too many connections");
    const slot = this.#slots.take(connection.remote.host, refuse);
    if (slot === undefined) {
      refuse();
      return;
    }
    void connection.closed.then(() => slot.leave());
    // The transport limits the number of concurrent streams, by stream credit.
    for await (const stream of connection.accept())
      this.#track(this.#serveStream(stream, connection, slot));
  }

  async #serveStream(
    stream: ByteStream,
    connection: Connection,
    slot: ConnectionSlot,
  ): Promise<void> {
    try {
      const first = stream.kept && (await this.#firstBytes(stream, connection));
      if (stream.kept !== undefined && first === undefined) return;
      await this.#answer(stream, first, slot, this.#terminated.signal);
    } catch (error) {
      const failure = VortexError.from(error, "Internal");
      // Do not report peers that disconnect or violate the protocol.
      if (failure.kind === "local") this.#report(failure);
      abandon(stream, failure.kind === "timeout" ? StreamCode.Timeout : StreamCode.Internal);
    }
  }

  /**
   * Waits for the first bytes of a request on a TCP connection. Returns undefined after the
   * connection has ended between two requests. Ends a connection that stays idle for
   * {@link IDLE_CONNECTION_MS}.
   */
  async #firstBytes(stream: ByteStream, connection: Connection): Promise<Uint8Array | undefined> {
    const { runtime, stallTimeout } = this.#settings;
    const { reader, writer } = stream;
    const reading = reader.read(new Uint8Array(REQUEST_PACKET_BYTES));
    this.#idle.add(connection);
    const waiting = reading.finally(() => this.#idle.delete(connection));
    if (await settledWithin(waiting, runtime.clock, IDLE_CONNECTION_MS)) {
      const first = await reading;
      if (first !== undefined) return first;
    }
    const ending = writer
      .end()
      .then(() => reading)
      .then(() => expectEnd(stream));
    await withTimeout(
      runtime.clock,
      stallTimeout,
      ending,
      "Stalled",
      "waiting for the end of an idle connection",
    );
    return undefined;
  }

  async #answer(
    stream: ByteStream,
    first: Uint8Array | undefined,
    slot: ConnectionSlot,
    signal: AbortSignal,
  ): Promise<void> {
    const { requestTimeout, runtime } = this.#settings;
    let request: DownloadPiecePacket;
    try {
      const reading = readRequest(stream, first);
      request = await withTimeout(
        runtime.clock,
        requestTimeout,
        reading,
        "Stalled",
        "waiting for a request",
      );
    } catch (error) {
      if (!(error instanceof VortexError) || error.kind !== "peer") throw error;
      // Ends a TCP connection too, since the start of the next request is unknown.
      await this.#refuse(
        stream,
        0,
        RemoteErrorCode.InvalidArgument,
        error.message,
        expectEnd(stream),
      );
      return;
    }
    if (this.#closing !== undefined) throw new VortexError("Closed", "the server is closing");
    this.#inFlight++;
    slot.begin();
    const { taskId, kind, number } = request;
    const start = { name: "download_piece", role: "server", taskId, kind, number } as const;
    const operation = beginOperation(this.#settings.telemetry, start);
    try {
      // Awaited outside of the optional call below, which skips its arguments without an operation.
      const outcome = await this.#reply(stream, request, slot.network, signal);
      operation?.end(outcome);
    } catch (error) {
      operation?.end({ error: VortexError.from(error, "Internal") });
      throw error;
    } finally {
      slot.end();
      this.#inFlight--;
      if (this.#inFlight === 0) this.#onIdle();
    }
    stream.kept?.release();
  }

  async #reply(
    stream: ByteStream,
    request: DownloadPiecePacket,
    network: string,
    signal: AbortSignal,
  ): Promise<OperationResult> {
    const { stallTimeout, limiter, pendingWrites, runtime } = this.#settings;
    const { kept } = stream;
    const requestEnded = kept === undefined ? expectEnd(stream) : undefined;
    let piece: StoredPiece | undefined;
    try {
      const supplied = await this.#store.getPiece(request, { signal });
      piece = supplied && checkedPiece(supplied);
    } catch (error) {
      const failure = VortexError.from(error, "StorageFailed");
      this.#report(failure);
      // Do not disclose internal failures to the peer.
      await this.#refuse(
        stream,
        request.id,
        RemoteErrorCode.Internal,
        "the piece could not be read",
        requestEnded,
      );
      return { error: failure };
    }
    if (piece === undefined) {
      const name = `${request.kind} piece ${request.number} of task ${request.taskId}`;
      const missing = new VortexError("NotFound", `${name}: not in the store`);
      await this.#refuse(
        stream,
        request.id,
        RemoteErrorCode.NotFound,
        missing.message,
        requestEnded,
      );
      return { error: missing };
    }
    const { metadata } = piece;
    let left = Number(metadata.length);
    const write = (chunk: Uint8Array, last: boolean): Promise<void> => {
      const writing = last ? sendLast(stream, chunk) : stream.writer.write(chunk);
      const written = withTimeout(
        runtime.clock,
        stallTimeout,
        writing,
        "Stalled",
        "waiting for the peer to read",
      );
      return pendingWrites.hold(chunk.length, written);
    };
    const header = encodePacket({
      type: "piece-content",
      id: request.id,
      kind: request.kind,
      metadata,
    });
    await write(header, left === 0);
    const flow = limiter?.flow(network);
    for await (const chunk of exactContent(piece)) {
      for await (const portion of rateLimited(chunk, flow, signal, pendingWrites)) {
        if (flow !== undefined) await this.#requireReader(stream, portion.length, flow);
        left -= portion.length;
        await write(portion, left === 0);
      }
    }
    await this.#requireEnd(requestEnded);
    return { bytes: Number(piece.metadata.length) };
  }

  /**
   * Throws if the peer has reset the stream while the response waited for the upload rate limit.
   * Before that, it returns to the rate limiter the `bytes` bytes granted for the next write.
   * Otherwise a client that cancels its requests could use up the whole rate without receiving a
   * byte.
   *
   * Call it before each rate-limited write. If a write itself fails, the number of sent bytes is
   * unknown, so no bytes are returned to the limiter.
   */
  async #requireReader({ writer }: ByteStream, bytes: number, flow: Flow): Promise<void> {
    try {
      await writer.write(EMPTY);
    } catch (error) {
      flow.giveBack(bytes);
      throw error;
    }
  }

  /**
   * Sends an error packet.
   *
   * @param requestEnded promise for the end of the request. If undefined, the TCP connection is
   * kept for the next request
   */
  async #refuse(
    stream: ByteStream,
    id: number,
    code: number,
    message: string,
    requestEnded: Promise<void> | undefined,
  ): Promise<void> {
    const { runtime, stallTimeout } = this.#settings;
    const answer = encodePacket({ type: "error", id, code, message });
    await withTimeout(
      runtime.clock,
      stallTimeout,
      requestEnded === undefined ? sendLast(stream, answer) : stream.writer.end(answer),
      "Stalled",
      "waiting for the peer to read",
    );
    // Do not cancel the rest of the request: over TCP, that would reset the answer too.
    await this.#requireEnd(requestEnded);
  }

  /** Waits until the peer has ended its direction, unless the connection is kept. */
  async #requireEnd(requestEnded: Promise<void> | undefined): Promise<void> {
    if (requestEnded === undefined) return;
    await withTimeout(
      this.#settings.runtime.clock,
      this.#settings.stallTimeout,
      requestEnded,
      "Stalled",
      "waiting for the end of the request",
    );
  }

  #report(error: VortexError): void {
    try {
      this.#settings.onError(error);
    } catch {
      // An exception in the user's callback must not end the process or other requests.
    }
  }

  /** Resolves when no connection or stream is being served any more. */
  async #drained(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }

  #track(work: Promise<void>): void {
    const tracked = work.finally(() => this.#running.delete(tracked));
    this.#running.add(tracked);
  }
}

/** {@link VortexServer} for a QUIC transport. Its name comes from Dragonfly's design document. */
export class QuicServer extends VortexServer {}

/** {@link VortexServer} for a TCP transport. Its name comes from Dragonfly's design document. */
export class TcpServer extends VortexServer {}

/** Time that `close` waits for pending reads of the store after all streams have ended, in ms. */
const STORE_GRACE_MS = 1000;

/**
 * Time in ms after which the server ends an idle TCP connection with a FIN. Clients of this library
 * and of dfdaemon stop using a connection earlier.
 */
const IDLE_CONNECTION_MS = 30_000;

/**
 * Resolves to true when `promise` has resolved or rejected, or to false after `milliseconds`,
 * whichever comes first. Never rejects.
 */
function settledWithin(
  promise: Promise<unknown>,
  clock: Clock,
  milliseconds: number,
): Promise<boolean> {
  return new Promise((resolve) => {
    const timer = clock.setTimer(() => resolve(false), milliseconds);
    const over = (): void => {
      timer.cancel();
      resolve(true);
    };
    promise.then(over, over);
  });
}

/** Sends the last bytes of a response. Ends the direction, unless the TCP connection is kept. */
function sendLast({ writer, kept }: ByteStream, last: Uint8Array): Promise<void> {
  return kept === undefined ? writer.end(last) : kept.send(last);
}

/** Length of a request packet in bytes. */
const REQUEST_PACKET_BYTES = HEADER_LENGTH + REQUEST_LENGTH;
/** Size of the buffer for reading the only request of a stream, in bytes. */
const REQUEST_BUFFER_BYTES = 128;

/**
 * Reads one request packet from a stream. Over TCP, reads no bytes beyond it: they belong to the
 * next request.
 *
 * @param first bytes that were read already
 * @throws `ProtocolViolation` if the peer sends another kind of packet, or bytes after the request
 * @throws `TruncatedContent` if the stream ends before the request is complete
 */
async function readRequest(
  stream: ByteStream,
  first: Uint8Array | undefined,
): Promise<DownloadPiecePacket> {
  // Only a request is valid here, so the limits for other packets are 0.
  const decoder = new PacketDecoder({ metadata: 0, errorMessage: 0, reserved: 0 });
  let missing = REQUEST_PACKET_BYTES;
  for (let chunk = first; ; ) {
    if (chunk !== undefined) {
      decoder.push(chunk);
      missing = Math.max(1, missing - chunk.length);
    }
    const packet = decoder.next();
    if (packet !== undefined) {
      if (packet.type !== "download-piece") {
        throw new VortexError(
          "ProtocolViolation",
          `request: expected a download-piece packet, got ${packet.type}`,
        );
      }
      if (decoder.midPacket)
        throw new VortexError("ProtocolViolation", "request: expected one packet, got more bytes");
      return packet;
    }
    const room = stream.kept === undefined ? REQUEST_BUFFER_BYTES : missing;
    chunk = await stream.reader.read(new Uint8Array(room));
    if (chunk === undefined) {
      throw new VortexError(
        "TruncatedContent",
        "request: expected a complete packet, got the end of the stream",
      );
    }
  }
}

const EMPTY = new Uint8Array(0);

/**
 * Maximum number of bytes after a request that {@link expectEnd} discards. If the peer sends more,
 * the server cancels the receiving direction of the stream.
 */
const MAX_DISCARDED_BYTES = 64 * 1024;
/**
 * Scratch buffer for bytes that are read and discarded. All streams share it, because nothing reads
 * its contents.
 */
const DISCARD_BUFFER = new Uint8Array(1024);

/**
 * Reads and discards what a peer sends after its request, until the peer ends its direction of the
 * stream. The transport can then free the stream. After 64 KiB, cancels the direction instead.
 * Never rejects.
 */
async function expectEnd({ reader }: ByteStream): Promise<void> {
  try {
    let discarded = 0;
    for (
      let chunk = await reader.read(DISCARD_BUFFER);
      chunk !== undefined;
      chunk = await reader.read(DISCARD_BUFFER)
    ) {
      discarded += chunk.length;
      if (discarded > MAX_DISCARDED_BYTES) return reader.cancel(StreamCode.Violation);
    }
  } catch {
    // The stream failed; writing the answer fails with the same error.
  }
}

function abandon(stream: ByteStream, code: number): void {
  stream.reader.cancel(code);
  stream.writer.abort(code);
}
