import { remoteText, VortexError, withAddress } from "../../errors.ts";
import type { Piece, PieceMetadata } from "../../piece.ts";
import { PacketDecoder } from "../../protocol/decoder.ts";
import {
  FOREIGN_HEAD_LENGTH,
  type ForeignProtocol,
  foreignProtocol,
} from "../../protocol/foreign.ts";
import { encodePacket, type Packet, RemoteErrorCode } from "../../protocol/packet.ts";
import type { Clock } from "../../runtime.ts";
import { type Address, formatAddress } from "../../transport/address.ts";
import {
  type ByteReader,
  type ByteStream,
  type Connection,
  type EarlyData,
  StreamCode,
  type Transport,
} from "../../transport/transport.ts";
import { readVerified, validateAnnouncement } from "../call/announcement.ts";
import type { ContentSource } from "../call/piece-content.ts";
import type { PieceClient } from "../call/pooled-downloader.ts";
import type { CallScope } from "../call/scope.ts";
import type { DownloaderSettings, PieceRequest } from "../downloader.ts";

/**
 * Size in bytes of the buffer for the first read of a response. The Vortex packet that announces a
 * piece takes about 150 bytes. Content from the same read is copied out of this buffer. All further
 * content is read directly into the memory of the caller.
 */
const ANSWER_HEAD_BYTES = 1024;

/**
 * Client of the Vortex protocol on one connection, with one stream per request. Over TCP, streams
 * reuse the sockets of earlier ones. Source: dragonfly-client-storage, `client/quic.rs` and
 * `client/tcp.rs`.
 */
export class VortexClient implements PieceClient {
  /** Address of the peer, `host:port`. */
  readonly addr: string;
  readonly closed: Promise<unknown>;
  readonly ready: Promise<void>;
  readonly #connection: Connection;
  readonly #settings: DownloaderSettings;
  /** Packet id of the next request, 0 to 255. The peer repeats it in its response. */
  #nextId: number;
  /**
   * Number of completed reads on all streams of the connection. If it has grown, the peer is alive.
   */
  #completedReads = 0;
  /** Unused part of the block of memory from which {@link #takeHeadBuffer} takes buffers. */
  #headMemory: Uint8Array<ArrayBuffer> = new Uint8Array(0);

  constructor(connection: Connection, settings: DownloaderSettings) {
    this.#connection = connection;
    this.#settings = settings;
    this.addr = formatAddress(connection.remote);
    this.closed = connection.closed;
    this.ready = connection.ready;
    [this.#nextId = 0] = settings.runtime.random(new Uint8Array(1));
  }

  get earlyData(): EarlyData {
    return this.#connection.earlyData;
  }

  get repeatsStaleRequests(): boolean {
    return this.#connection.protocol === "tcp";
  }

  /** Connects to a peer. Rejects with the errors of {@link Transport.dial}. */
  static async connect<T extends VortexClient>(
    this: new (
      connection: Connection,
      settings: DownloaderSettings,
    ) => T,
    transport: Transport,
    remote: Address,
    settings: DownloaderSettings,
    signal?: AbortSignal,
  ): Promise<T> {
    const { earlyData } = settings;
    const connection = await transport.dial(remote, {
      earlyData,
      ...(signal !== undefined && { signal }),
    });
    return new this(connection, settings);
  }

  /**
   * Requests a piece. If the promise rejects, `scope` stays open, so that the caller can retry with
   * the same scope.
   */
  async downloadPiece(request: PieceRequest, scope: CallScope): Promise<Piece> {
    const kind = request.kind ?? "standard";
    const packet = encodePacket({
      type: "download-piece",
      id: this.#takeId(),
      kind,
      taskId: request.taskId,
      number: request.number,
    });
    for (let fresh = false; ; fresh = true) {
      const { signal } = scope;
      const stream = await scope.waitFor(this.#connection.openStream({ signal, fresh }));
      scope.onFailure(() => abandonStream(stream, scope.failure));
      try {
        return await this.#exchange(stream, packet, request, scope);
      } catch (error) {
        // The peer may close a reused socket before the request arrives. That is no failure of the
        // peer, so the request is repeated once on a new socket.
        const isStale = stream.kept?.stale === true && scope.failure === undefined;
        const failure = scope.failure ?? withAddress(error, request.addr);
        abandonStream(stream, failure);
        if (!isStale) throw failure;
      }
    }
  }

  /** Sends a request on a stream, and reads the response up to its content. */
  async #exchange(
    stream: ByteStream,
    packet: Uint8Array,
    request: PieceRequest,
    scope: CallScope,
  ): Promise<Piece> {
    if (scope.failure !== undefined) throw scope.failure;
    const { reader, writer, kept } = stream;
    await scope.waitFor(kept === undefined ? writer.end(packet) : kept.send(packet));
    const decoder = new PacketDecoder({ metadata: this.#settings.maxMetadataLength });
    const answer = await readPacket(reader, decoder, scope, this.#takeHeadBuffer(), request.addr);
    this.#completedReads++;
    // Nothing follows an error, so the socket can carry the next request.
    if (answer.type === "error" && !decoder.midPacket) kept?.release();
    const metadata = expectContent(answer, request.kind ?? "standard", request.addr);
    const source = contentSource(stream, decoder.takeRest(), () => this.#completedReads++);
    const announcement = validateAnnouncement(request, metadata, this.#settings);
    return readVerified(announcement, source, scope, this.#settings.runtime.hashers);
  }

  #takeId(): number {
    const id = this.#nextId;
    this.#nextId = (id + 1) % 256;
    return id;
  }

  /** Returns a new buffer of {@link ANSWER_HEAD_BYTES} bytes. */
  #takeHeadBuffer(): Uint8Array<ArrayBuffer> {
    if (this.#headMemory.length < ANSWER_HEAD_BYTES)
      this.#headMemory = new Uint8Array(32 * ANSWER_HEAD_BYTES);
    const part = this.#headMemory.subarray(0, ANSWER_HEAD_BYTES);
    this.#headMemory = this.#headMemory.subarray(ANSWER_HEAD_BYTES);
    return part;
  }

  /**
   * Checks whether the peer still has the connection. Over QUIC, opens a stream and sends an empty
   * request, to which a peer responds without access to its stored pieces.
   *
   * Resolves to false if the peer is silent for `timeout` ms: no response, no authenticated packet,
   * and no progress of another request. Resolves to true otherwise, and in cases that prove
   * nothing: over TCP, without stream credit, or if the connection has ended.
   */
  async isAlive(timeout: number): Promise<boolean> {
    const connection = this.#connection;
    if (connection.protocol !== "quic") return true;
    const completedReads = this.#completedReads;
    const { received } = connection;
    const abort = new AbortController();
    const { signal } = abort;
    let opened = false;
    const probe = (async (): Promise<void> => {
      const stream = await connection.openStream({ signal });
      opened = true;
      signal.addEventListener("abort", () => abandonStream(stream, undefined), { once: true });
      await stream.writer.end();
      await stream.reader.read();
    })();
    const settled = await settledWithin(probe, timeout, this.#settings.runtime.clock);
    abort.abort();
    return (
      settled ||
      !opened ||
      this.#completedReads !== completedReads ||
      connection.received !== received
    );
  }

  /** Closes the connection immediately. Pending requests on it fail with `error`. */
  abort(error: VortexError): void {
    this.#connection.abort(StreamCode.Timeout, "", error);
  }

  /** Closes the connection without waiting for unsent bytes to be delivered. */
  close(): Promise<void> {
    // Unsent requests need no delivery: their responses would not be used.
    return this.#connection.close({ grace: 0 });
  }
}

/**
 * Client of the Vortex protocol on a QUIC connection. The name is from Dragonfly's design document.
 */
export class QuicClient extends VortexClient {}

/**
 * Client of the Vortex protocol over TCP. Opens one TCP connection per concurrent request, and
 * reuses it for later ones.
 */
export class TcpClient extends VortexClient {}

/**
 * Reads one whole Vortex packet. The stall timeout applies to each chunk, so a packet may take
 * longer than the timeout.
 *
 * @param memory buffer for the first chunk
 * @throws `TruncatedContent` if the stream ends before the packet
 * @throws `ProtocolNotSupported` if the response is HTTP or TLS
 */
async function readPacket(
  reader: ByteReader,
  decoder: PacketDecoder,
  scope: CallScope,
  memory: Uint8Array<ArrayBuffer>,
  addr: string,
): Promise<Packet> {
  let into: Uint8Array<ArrayBuffer> | undefined = memory;
  let head: Uint8Array = new Uint8Array(0);
  try {
    for (;;) {
      const packet = decoder.next();
      if (packet !== undefined) return packet;
      const chunk: Uint8Array<ArrayBuffer> | undefined = await scope.waitFor(reader.read(into));
      // The decoder may still hold the first chunk, so its buffer is not reused.
      into = undefined;
      if (chunk === undefined) {
        throw new VortexError(
          "TruncatedContent",
          decoder.midPacket
            ? "end of the stream: expected the rest of the packet, got nothing"
            : "end of the stream: expected an answer, got nothing",
        );
      }
      if (head.length < FOREIGN_HEAD_LENGTH)
        head = head.length === 0 ? chunk : appendToHead(head, chunk);
      decoder.push(chunk);
    }
  } catch (cause) {
    const protocol = scope.failure === undefined ? foreignProtocol(head) : undefined;
    if (protocol === undefined) throw cause;
    throw new VortexError("ProtocolNotSupported", foreignMessage[protocol](addr), { cause, addr });
  }
}

/**
 * Appends a chunk to the first bytes of a response, up to the length that {@link foreignProtocol}
 * needs.
 */
function appendToHead(head: Uint8Array, more: Uint8Array): Uint8Array {
  return Uint8Array.of(...head, ...more.subarray(0, FOREIGN_HEAD_LENGTH));
}

const foreignMessage: Readonly<Record<ForeignProtocol, (addr: string) => string>> = {
  "HTTP/2": (addr) =>
    `wrong protocol at ${addr}: expected Vortex, got HTTP/2; this may be the gRPC port: ` +
    `use the peer's Vortex port, or protocol "grpc"`,
  "HTTP/1": (addr) =>
    `wrong protocol at ${addr}: expected Vortex, got HTTP/1; use the peer's Vortex port`,
  TLS: (addr) =>
    `wrong protocol at ${addr}: expected Vortex without TLS, got TLS; this may be the gRPC port: ` +
    `use the peer's Vortex port`,
};

/**
 * Returns the metadata in a packet of type `piece-content`.
 *
 * @throws the error that the peer sent, if the packet is an error packet
 * @throws `PieceMismatch` if the piece is of another kind
 * @throws `ProtocolViolation` if the packet is of any other type
 */
function expectContent(packet: Packet, kind: string, addr: string): PieceMetadata {
  switch (packet.type) {
    case "piece-content":
      if (packet.kind !== kind) {
        throw new VortexError(
          "PieceMismatch",
          `kind of the piece: expected ${kind}, got ${packet.kind}`,
          { addr },
        );
      }
      return packet.metadata;
    case "error":
      throw remoteError(packet.code, packet.message, addr);
    case "close":
      throw unexpectedAnswer("a close packet", addr);
    case "download-piece":
      throw unexpectedAnswer("a request", addr);
    case "reserved":
      throw unexpectedAnswer(`a packet with reserved tag ${packet.tag}`, addr);
  }
}

function unexpectedAnswer(got: string, addr: string): VortexError {
  return new VortexError("ProtocolViolation", `answer: expected a piece or an error, got ${got}`, {
    addr,
  });
}

/** Converts the code and message of an error packet from the peer to a `VortexError`. */
function remoteError(code: number, message: string, addr: string): VortexError {
  const text = remoteText(message) || "without a message";
  switch (code) {
    case RemoteErrorCode.InvalidArgument:
      return new VortexError("RemoteInvalidArgument", `the peer refused the request: ${text}`, {
        addr,
      });
    case RemoteErrorCode.NotFound:
      return new VortexError("NotFound", `the peer does not have the piece: ${text}`, { addr });
    case RemoteErrorCode.Internal:
      return new VortexError("RemoteInternal", `the peer failed: ${text}`, { addr });
    default:
      return new VortexError("RemoteUnknown", `the peer answered with error ${code}: ${text}`, {
        addr,
      });
  }
}

/**
 * Creates a reader of piece content: first the bytes that the packet decoder has already read, then
 * the rest of the stream. The content ends with the stream, or over TCP, with its announced length.
 *
 * @param onRead called at each read, which shows that the previous read has completed
 */
function contentSource(
  stream: ByteStream,
  first: Uint8Array<ArrayBuffer>,
  onRead: () => void,
): ContentSource {
  const { reader, kept } = stream;
  let rest: Uint8Array<ArrayBuffer> | undefined = first.length > 0 ? first : undefined;
  return {
    async end() {
      if (rest !== undefined) return rest.length;
      return kept === undefined ? ((await reader.read())?.length ?? 0) : kept.release();
    },
    read(into) {
      onRead();
      if (rest === undefined) return reader.read(into);
      const chunk = Promise.resolve(rest);
      rest = undefined;
      return chunk;
    },
    cancel() {
      // TCP cannot cancel one direction, so unread content ends the socket.
      if (kept === undefined) reader.cancel(StreamCode.Cancelled);
      else abandonStream(stream, undefined);
    },
  };
}

/** Resolves to true if `promise` settles within `milliseconds`, else to false. */
function settledWithin(
  promise: Promise<unknown>,
  milliseconds: number,
  clock: Clock,
): Promise<boolean> {
  return new Promise((resolve) => {
    const timer = clock.setTimer(() => resolve(false), milliseconds);
    const settle = (): void => {
      timer.cancel();
      resolve(true);
    };
    promise.then(settle, settle);
  });
}

/**
 * Cancels both directions of a stream. The error code for the peer depends on `failure`:
 * `Violation` if the peer violated the protocol, else `Cancelled`.
 */
function abandonStream(stream: ByteStream, failure: VortexError | undefined): void {
  const code = failure?.kind === "peer" ? StreamCode.Violation : StreamCode.Cancelled;
  stream.reader.cancel(code);
  stream.writer.abort(code);
}
