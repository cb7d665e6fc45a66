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
import { formatAddress, parseAddress } from "../../transport/address.ts";
import {
  type ByteReader,
  type ByteStream,
  type Connection,
  type EarlyData,
  StreamCode,
  type Transport,
} from "../../transport/transport.ts";
import { acceptAnnouncement } from "../call/announcement.ts";
import type { ContentSource } from "../call/piece-content.ts";
import type { PieceClient } from "../call/pooled-downloader.ts";
import type { CallScope } from "../call/scope.ts";
import type { DownloaderSettings, PieceRequest } from "../downloader.ts";

/**
 * Bytes that are read of an answer before it is known what it is. A piece is announced in some 150; what comes with them is handed
 * on from here, all after it is read to where the caller wants it.
 */
const BEGINNING = 1024;

/**
 * A connection to one peer that speaks the Vortex protocol: one stream a request. Source: dragonfly-client-storage,
 * `client/quic.rs` and `client/tcp.rs`.
 */
export class VortexClient implements PieceClient {
  /** The peer, `host:port`. */
  readonly addr: string;
  readonly closed: Promise<unknown>;
  readonly ready: Promise<void>;
  readonly #connection: Connection;
  readonly #settings: DownloaderSettings;
  /** Of the next request; the peer answers with the same. */
  #nextId: number;
  /** Reads that were answered, of all streams. */
  #heard = 0;
  /** Memory that the beginnings of answers are read into, a part of it for each. */
  #memory: Uint8Array = new Uint8Array(0);

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

  /** Connects to a peer. Rejects as {@link Transport.dial} does. */
  static async connect<T extends VortexClient>(
    this: new (
      connection: Connection,
      settings: DownloaderSettings,
    ) => T,
    transport: Transport,
    addr: string,
    settings: DownloaderSettings,
    signal?: AbortSignal,
  ): Promise<T> {
    const { earlyData } = settings;
    const connection = await transport.dial(parseAddress(addr), {
      earlyData,
      ...(signal !== undefined && { signal }),
    });
    return new this(connection, settings);
  }

  /** Asks for a piece; the scope is the life of the call, and stays open when this throws, so that it can be tried again. */
  async downloadPiece(request: PieceRequest, scope: CallScope): Promise<Piece> {
    const kind = request.kind ?? "standard";
    const packet = encodePacket({
      type: "download-piece",
      id: this.#takeId(),
      kind,
      taskId: request.taskId,
      number: request.number,
    });
    const stream = await scope.waitFor(this.#connection.openStream(scope));
    scope.onFailure(() => abandonStream(stream, scope.failure));
    try {
      if (scope.failure !== undefined) throw scope.failure;
      await scope.waitFor(stream.writer.end(packet));
      const decoder = new PacketDecoder({ metadata: this.#settings.maxMetadataLength });
      const answer = await readPacket(
        stream.reader,
        decoder,
        scope,
        this.#takeMemory(),
        request.addr,
      );
      this.#heard++;
      const metadata = expectContent(answer, kind, request.addr);
      const source = contentSource(stream.reader, decoder.takeRest(), () => this.#heard++);
      return acceptAnnouncement(request, metadata, source, scope, this.#settings);
    } catch (error) {
      const failure = scope.failure ?? withAddress(error, request.addr);
      abandonStream(stream, failure);
      throw failure;
    }
  }

  #takeId(): number {
    const id = this.#nextId;
    this.#nextId = (id + 1) % 256;
    return id;
  }

  #takeMemory(): Uint8Array {
    if (this.#memory.length < BEGINNING) this.#memory = new Uint8Array(32 * BEGINNING);
    const part = this.#memory.subarray(0, BEGINNING);
    this.#memory = this.#memory.subarray(BEGINNING);
    return part;
  }

  /**
   * Asks the peer for a sign of life by an empty request, which needs nothing of its store. Waits
   * `patience` ms for an answer, an authentic packet or progress of another request. False when
   * nothing came. True also where silence proves nothing: over TCP, without stream credit,
   * and on a connection that has ended.
   */
  async isAlive(patience: number): Promise<boolean> {
    const connection = this.#connection;
    if (connection.protocol !== "quic") return true;
    const heard = this.#heard;
    const { received } = connection;
    const abort = new AbortController();
    const { signal } = abort;
    let asked = false;
    const asking = (async (): Promise<void> => {
      const stream = await connection.openStream({ signal });
      asked = true;
      signal.addEventListener("abort", () => abandonStream(stream, undefined), { once: true });
      await stream.writer.end();
      await stream.reader.read();
    })();
    const settled = await settledWithin(asking, patience, this.#settings.runtime.clock);
    abort.abort();
    return settled || !asked || this.#heard !== heard || connection.received !== received;
  }

  /** Ends the connection at once: its requests fail with `error`. */
  abort(error: VortexError): void {
    this.#connection.abort(StreamCode.Timeout, "", error);
  }

  /** Ends the connection. */
  close(): Promise<void> {
    // Nothing that this side has sent matters to the peer once its answer is not wanted.
    return this.#connection.close({ grace: 0 });
  }
}

/** A {@link VortexClient} over a QUIC connection, under its name in Dragonfly's design document. */
export class QuicClient extends VortexClient {}

/** A {@link VortexClient} over TCP: one connection a request, as stock peers want it. */
export class TcpClient extends VortexClient {}

/** Reads one whole packet. Each chunk has the stall timeout to itself, since a slow peer is not a silent one. */
async function readPacket(
  reader: ByteReader,
  decoder: PacketDecoder,
  scope: CallScope,
  memory: Uint8Array,
  addr: string,
): Promise<Packet> {
  let room: Uint8Array | undefined = memory;
  let head: Uint8Array = new Uint8Array(0);
  try {
    for (;;) {
      const packet = decoder.next();
      if (packet !== undefined) return packet;
      const chunk: Uint8Array | undefined = await scope.waitFor(reader.read(room));
      // The decoder keeps what it was given until it has consumed it.
      room = undefined;
      if (chunk === undefined) {
        throw new VortexError(
          "TruncatedContent",
          decoder.midPacket
            ? "the answer ended inside its packet"
            : "the peer ended the stream without an answer",
        );
      }
      if (head.length < FOREIGN_HEAD_LENGTH) head = head.length === 0 ? chunk : joined(head, chunk);
      decoder.push(chunk);
    }
  } catch (cause) {
    const protocol = scope.failure === undefined ? foreignProtocol(head) : undefined;
    if (protocol === undefined) throw cause;
    throw new VortexError("ProtocolNotSupported", foreignMessage[protocol](addr), { cause, addr });
  }
}

function joined(head: Uint8Array, more: Uint8Array): Uint8Array {
  return Uint8Array.of(...head, ...more.subarray(0, FOREIGN_HEAD_LENGTH));
}

const foreignMessage: Readonly<Record<ForeignProtocol, (addr: string) => string>> = {
  "HTTP/2": (addr) =>
    `${addr} speaks HTTP/2, not Vortex: is it the gRPC port? Name the Vortex port, or protocol "grpc"`,
  "HTTP/1": (addr) => `${addr} speaks HTTP/1, not Vortex: name the peer's Vortex port`,
  TLS: (addr) =>
    `${addr} speaks TLS, which Vortex over TCP does not: is it the gRPC port? Name the peer's Vortex port`,
};

function expectContent(packet: Packet, kind: string, addr: string): PieceMetadata {
  switch (packet.type) {
    case "piece-content":
      if (packet.kind !== kind) {
        throw new VortexError(
          "PieceMismatch",
          `asked for a ${kind} piece, got a ${packet.kind} one`,
          { addr },
        );
      }
      return packet.metadata;
    case "error":
      throw remoteError(packet.code, packet.message, addr);
    case "close":
      throw new VortexError("ProtocolViolation", "the peer answered with a close packet", { addr });
    case "download-piece":
      throw new VortexError("ProtocolViolation", "the peer answered with a request", { addr });
    case "reserved":
      throw new VortexError(
        "ProtocolViolation",
        `the peer answered with the reserved tag ${packet.tag}`,
        { addr },
      );
  }
}

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
 * Reads first the rest that the decoder holds, then the stream. Calls `onRead` for each read: the
 * one before it was answered.
 */
function contentSource(reader: ByteReader, first: Uint8Array, onRead: () => void): ContentSource {
  let rest: Uint8Array | undefined = first.length > 0 ? first : undefined;
  return {
    read(into) {
      onRead();
      if (rest === undefined) return reader.read(into);
      const chunk = Promise.resolve(rest);
      rest = undefined;
      return chunk;
    },
    cancel: () => reader.cancel(StreamCode.Cancelled),
  };
}

/** Resolves to true when `promise` settles within so many milliseconds. */
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

function abandonStream(stream: ByteStream, failure: VortexError | undefined): void {
  const code = failure?.kind === "peer" ? StreamCode.Violation : StreamCode.Cancelled;
  stream.reader.cancel(code);
  stream.writer.abort(code);
}
