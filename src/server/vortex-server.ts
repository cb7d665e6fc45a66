import { VortexError } from "../errors.ts";
import { PacketDecoder } from "../protocol/decoder.ts";
import { type DownloadPiecePacket, encodePacket, RemoteErrorCode } from "../protocol/packet.ts";
import type { Flow } from "../rate-limiter.ts";
import type { Clock, Runtime } from "../runtime.ts";
import type { PieceStore } from "../store/store.ts";
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
import { type ConnectionSlot, ConnectionSlots, NEWCOMERS } from "./admission/connection-slots.ts";
import { rateLimited } from "./admission/rate-limited.ts";
import {
  type ServerOptions,
  type ServerSettings,
  serverSettings,
  withTimeout,
} from "./admission/upload.ts";
import { exactContent } from "./exact.ts";

/** Serves a store over the Vortex protocol, on one listener. */
export class VortexServer {
  readonly #listener: Listener;
  readonly #store: PieceStore;
  readonly #settings: ServerSettings;
  readonly #places: ConnectionSlots;
  readonly #running = new Set<Promise<void>>();
  /** Fires when the server has closed, so that nothing waits on for peers that are gone. */
  readonly #gone = new AbortController();
  /** Requests that have arrived and are being answered. */
  #answering = 0;
  #onIdle: () => void = () => {};
  #closing: Promise<void> | undefined;

  /** Serves `store` to the connections of `listener`, which it owns from now on. */
  constructor(listener: Listener, store: PieceStore, settings: ServerSettings) {
    this.#listener = listener;
    this.#store = store;
    this.#settings = settings;
    this.#places = new ConnectionSlots(settings.maxConnections, settings.runtime.clock);
    this.#track(this.#acceptConnections());
  }

  /** Starts to listen. Rejects with `AddressInUse` or `InvalidArgument`. */
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
    const settings = "runtime" in options ? options : serverSettings(options, runtime);
    const listener = await transport.listen(local, {
      maxConnections: settings.maxConnections + NEWCOMERS,
      maxStreams: settings.maxStreams,
      earlyData: settings.earlyData,
      onError: settings.onError,
    });
    return new this(listener, store, settings);
  }

  /** The address in use. */
  get address(): Address {
    return this.#listener.address;
  }

  /** What clients may pin, see {@link Listener.fingerprint}. */
  get fingerprint(): string | undefined {
    return this.#listener.fingerprint;
  }

  /** Counts of the listener, see {@link Listener.counters}. */
  get counters(): ListenerCounters | undefined {
    return this.#listener.counters;
  }

  /** Shows new connections another certificate, see {@link Listener.setIdentity}. */
  setIdentity(identity: TlsIdentity): Promise<void> {
    return this.#listener.setIdentity(identity);
  }

  /**
   * Turns new requests away, lets the answers under way end for `grace` milliseconds (default 5,000), then ends them and
   * stops listening. A store that does not come back from a read within another second is not waited for. Idempotent.
   */
  close(options: { readonly grace?: number } = {}): Promise<void> {
    this.#closing ??= this.#close(options.grace ?? 5000);
    return this.#closing;
  }

  async #close(grace: number): Promise<void> {
    const { clock } = this.#settings.runtime;
    const started = clock.now();
    if (this.#answering > 0 && grace > 0) {
      const idle = new Promise<void>((resolve) => {
        this.#onIdle = resolve;
      });
      await settled(idle, clock, grace);
    }
    await this.#listener.close({ grace: Math.max(0, grace - (clock.now() - started)) });
    this.#gone.abort(new VortexError("Closed", "the server is closed"));
    // By now only the store is waited for, which hears of the end by its signal.
    await settled(this.#drained(), clock, STORE_GRACE);
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
    const refuse = (): void =>
      connection.abort(StreamCode.Busy, "as many connections as there may be");
    const place = this.#places.take(connection.remote.host, refuse);
    if (place === undefined) {
      refuse();
      return;
    }
    void connection.closed.then(() => place.leave());
    // How many streams there are at a time is the transport's to bound, by stream credit.
    for await (const stream of connection.accept()) this.#track(this.#serveStream(stream, place));
  }

  async #serveStream(stream: ByteStream, place: ConnectionSlot): Promise<void> {
    try {
      await this.#answer(stream, place, this.#gone.signal);
    } catch (error) {
      const failure = VortexError.from(error, "Internal");
      // A peer that went away or broke the protocol is its own affair.
      if (failure.kind === "local") this.#report(failure);
      abandon(stream, failure.kind === "timeout" ? StreamCode.Timeout : StreamCode.Internal);
    }
  }

  async #answer(stream: ByteStream, place: ConnectionSlot, signal: AbortSignal): Promise<void> {
    const { requestTimeout, runtime } = this.#settings;
    let request: DownloadPiecePacket;
    try {
      const reading = readRequest(stream);
      request = await withTimeout(
        runtime.clock,
        requestTimeout,
        reading,
        "Stalled",
        "waiting for a request",
      );
    } catch (error) {
      if (!(error instanceof VortexError) || error.kind !== "peer") throw error;
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
    this.#answering++;
    place.begin();
    const { taskId, kind, number } = request;
    const start = { name: "download_piece", role: "server", taskId, kind, number } as const;
    const operation = beginOperation(this.#settings.telemetry, start);
    try {
      // Not inside the call: arguments of an optional call are not even looked at when there is nobody to call.
      const outcome = await this.#reply(stream, request, place.network, signal);
      operation?.end(outcome);
    } catch (error) {
      operation?.end({ error: VortexError.from(error, "Internal") });
      throw error;
    } finally {
      place.end();
      this.#answering--;
      if (this.#answering === 0) this.#onIdle();
    }
  }

  async #reply(
    stream: ByteStream,
    request: DownloadPiecePacket,
    network: string,
    signal: AbortSignal,
  ): Promise<OperationResult> {
    const { stallTimeout, limiter, pendingWrites, runtime } = this.#settings;
    const requestEnded = expectEnd(stream);
    let piece: Awaited<ReturnType<PieceStore["getPiece"]>>;
    try {
      piece = await this.#store.getPiece(request, { signal });
    } catch (error) {
      const failure = VortexError.from(error, "StorageFailed");
      this.#report(failure);
      // What went wrong inside is not the peer's to know.
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
      const missing = new VortexError("NotFound", `${name} is not here`);
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
      const writing = last ? stream.writer.end(chunk) : stream.writer.write(chunk);
      const taking = withTimeout(
        runtime.clock,
        stallTimeout,
        writing,
        "Stalled",
        "waiting for the peer to read",
      );
      return pendingWrites.hold(chunk.length, taking);
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
        if (flow !== undefined) await this.#requireWanted(stream, portion.length, flow);
        left -= portion.length;
        await write(portion, left === 0);
      }
    }
    // Over TCP the connection ends with its answer, but not before the peer has taken all of it and ended its side.
    await withTimeout(
      runtime.clock,
      stallTimeout,
      requestEnded,
      "Stalled",
      "waiting for the end of the request",
    );
    return { bytes: Number(piece.metadata.length) };
  }

  /**
   * Fails when the peer has gone by the time its turn comes, whose bytes are then another's: else whoever asks and gives up, again
   * and again, would have all of the rate without taking a byte. (Of a write that fails half way nobody knows what went out.)
   */
  async #requireWanted({ writer }: ByteStream, bytes: number, flow: Flow): Promise<void> {
    try {
      await writer.write(NOTHING);
    } catch (error) {
      flow.giveBack(bytes);
      throw error;
    }
  }

  async #refuse(
    stream: ByteStream,
    id: number,
    code: number,
    message: string,
    requestEnded: Promise<void>,
  ): Promise<void> {
    const { runtime, stallTimeout } = this.#settings;
    const answer = encodePacket({ type: "error", id, code, message });
    await withTimeout(
      runtime.clock,
      stallTimeout,
      stream.writer.end(answer),
      "Stalled",
      "waiting for the peer to read",
    );
    // Giving up what is left of the request would, over TCP, take the answer with it.
    await withTimeout(
      runtime.clock,
      stallTimeout,
      requestEnded,
      "Stalled",
      "waiting for the end of the request",
    );
  }

  #report(error: VortexError): void {
    try {
      this.#settings.onError(error);
    } catch {
      // What the user's own callback throws must not end the process, nor the requests of others.
    }
  }

  /** Resolves when nothing runs any more. */
  async #drained(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }

  #track(work: Promise<void>): void {
    const tracked = work.finally(() => this.#running.delete(tracked));
    this.#running.add(tracked);
  }
}

/** A {@link VortexServer} over a QUIC transport, under its name in Dragonfly's design document. */
export class QuicServer extends VortexServer {}

/** A {@link VortexServer} over a TCP transport. */
export class TcpServer extends VortexServer {}

/** Milliseconds that a server which closes waits for reads of its store that go on. */
const STORE_GRACE = 1000;

/** Resolves when `promise` has settled, or after `milliseconds`. */
function settled(promise: Promise<unknown>, clock: Clock, milliseconds: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = clock.setTimer(resolve, milliseconds);
    const over = (): void => {
      timer.cancel();
      resolve();
    };
    promise.then(over, over);
  });
}

/** Bytes that are read of a request at a time. It has 74. */
const REQUEST_ROOM = 128;

/** One request, and nothing after it. */
async function readRequest(stream: ByteStream): Promise<DownloadPiecePacket> {
  // A request has 74 bytes; no other packet is of use here, so their bounds are as small.
  const decoder = new PacketDecoder({ metadata: 0, errorMessage: 0, reserved: 0 });
  for (;;) {
    const packet = decoder.next();
    if (packet !== undefined) {
      if (packet.type !== "download-piece") {
        throw new VortexError(
          "ProtocolViolation",
          `expected a request for a piece, got ${packet.type}`,
        );
      }
      if (decoder.midPacket) throw new VortexError("ProtocolViolation", "bytes follow the request");
      return packet;
    }
    const chunk = await stream.reader.read(new Uint8Array(REQUEST_ROOM));
    if (chunk === undefined) {
      throw new VortexError("TruncatedContent", "the stream ended before a request was complete");
    }
    decoder.push(chunk);
  }
}

const NOTHING = new Uint8Array(0);

/** Bytes behind a request that are dropped before the stream is cancelled. */
const DROPPED = 64 * 1024;
/** Where they go: memory for all streams, since nobody looks at it. */
const NOWHERE = new Uint8Array(1024);

/** Reads the end of the request's direction, so that the stream can be forgotten; bytes before it are dropped. */
async function expectEnd({ reader }: ByteStream): Promise<void> {
  try {
    let dropped = 0;
    for (
      let chunk = await reader.read(NOWHERE);
      chunk !== undefined;
      chunk = await reader.read(NOWHERE)
    ) {
      dropped += chunk.length;
      if (dropped > DROPPED) return reader.cancel(StreamCode.Violation);
    }
  } catch {
    // The stream failed; whoever writes the answer hears of it.
  }
}

function abandon(stream: ByteStream, code: number): void {
  stream.reader.cancel(code);
  stream.writer.abort(code);
}
