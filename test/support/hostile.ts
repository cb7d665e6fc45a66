import { portableHashers } from "../../src/digest/hasher.ts";
import type { PieceMetadata } from "../../src/piece.ts";
import { encodePacket, HEADER_LENGTH, REQUEST_LENGTH } from "../../src/protocol/packet.ts";
import type { Address } from "../../src/transport/address.ts";
import {
  type ByteStream,
  type Connection,
  type Listener,
  StreamCode,
  type Transport,
} from "../../src/transport/transport.ts";
import { joined, seededBytes } from "./random.ts";

/** Request that a {@link ScriptedServer} has received, with methods to respond to it. */
export interface Exchange {
  /** All bytes of the request. */
  readonly request: Uint8Array;
  /** Number of requests whose responses the server had finished before this request, from 0. */
  readonly index: number;
  readonly stream: ByteStream;
  readonly connection: Connection;
  /**
   * Sends bytes on the stream. Resolves to true, or to false if the write fails, for example after
   * a reset by the client.
   */
  send(bytes: Uint8Array): Promise<boolean>;
  /** Ends the server's direction of the stream cleanly. */
  finish(): Promise<void>;
  /** Resets the server's direction of the stream. */
  reset(): void;
  /** Aborts the connection of the request. */
  drop(): void;
}

/**
 * Function by which a {@link ScriptedServer} responds to one request. The stream stays open when
 * the function returns.
 */
export type Script = (exchange: Exchange) => Promise<void> | void;

/** Vortex server whose script responds to each request, and may violate the protocol. */
export class ScriptedServer {
  readonly #listener: Listener;
  readonly #script: Script;
  readonly #running: Promise<void>[] = [];
  #requests = 0;
  #waiting: (() => void)[] = [];

  private constructor(listener: Listener, script: Script) {
    this.#listener = listener;
    this.#script = script;
    this.#running.push(this.#acceptConnections());
  }

  static async listen(
    transport: Transport,
    local: Address,
    script: Script,
  ): Promise<ScriptedServer> {
    return new ScriptedServer(await transport.listen(local), script);
  }

  get address(): Address {
    return this.#listener.address;
  }

  /** Number of requests for which the script of this server has finished. */
  get requests(): number {
    return this.#requests;
  }

  /** Resolves when the script of this server has finished for `count` requests in total. */
  async answered(count: number): Promise<void> {
    while (this.#requests < count) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
    }
  }

  /** Closes the listener and all connections of this server. Rejects if the script has failed. */
  async close(): Promise<void> {
    await this.#listener.close({ grace: 0 });
    await Promise.all(this.#running);
  }

  async #acceptConnections(): Promise<void> {
    for await (const connection of this.#listener.accept())
      this.#running.push(this.#acceptStreams(connection));
  }

  async #acceptStreams(connection: Connection): Promise<void> {
    for await (const stream of connection.accept())
      this.#running.push(this.#answer(stream, connection));
  }

  async #answer(stream: ByteStream, connection: Connection): Promise<void> {
    const request = await readRequest(stream).catch(() => undefined);
    if (request === undefined) return;
    // An empty request is a client's liveness probe. Every live server answers or resets it.
    if (request.length === 0) {
      stream.writer.abort(StreamCode.Internal);
      return;
    }
    await this.#script({
      request,
      index: this.#requests,
      stream,
      connection,
      send: (bytes) => stream.writer.write(bytes).then(yes, no),
      finish: () => stream.writer.end().catch(() => {}),
      reset: () => stream.writer.abort(StreamCode.Internal),
      drop: () => connection.abort(StreamCode.Internal),
    });
    this.#requests++;
    for (const wake of this.#waiting.splice(0)) wake();
  }
}

/**
 * Reads a request. Over TCP, reads until it is complete or the stream ends, since clients keep the
 * connection open. Over QUIC, reads until the end of the stream.
 */
async function readRequest(stream: ByteStream): Promise<Uint8Array> {
  if (stream.kept === undefined) return readAll(stream);
  let request = new Uint8Array(0);
  while (request.length < REQUEST_BYTES) {
    const chunk = await stream.reader.read(new Uint8Array(REQUEST_BYTES - request.length));
    if (chunk === undefined) break;
    request = Uint8Array.of(...request, ...chunk);
  }
  return request;
}

/** Length of a request for a piece, in bytes. */
const REQUEST_BYTES = HEADER_LENGTH + REQUEST_LENGTH;

/** Reads all bytes of a stream until its end. */
export async function readAll({ reader }: ByteStream): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for (let chunk = await reader.read(); chunk !== undefined; chunk = await reader.read())
    chunks.push(chunk);
  return joined(chunks);
}

/** Valid response to a piece request, complete and in parts, for tests that change it. */
export interface Answer {
  readonly metadata: PieceMetadata;
  readonly content: Uint8Array;
  /** Encoded packet header and piece metadata, without the content. */
  readonly packet: Uint8Array;
  /** `packet` followed by `content`. */
  readonly whole: Uint8Array;
}

/**
 * Creates a valid response to a request for piece 3, with `length` bytes of content. `fields`
 * overrides fields of the metadata.
 */
export function answer(length = 40, fields: Partial<PieceMetadata> = {}): Answer {
  const content = seededBytes(length, length);
  const metadata: PieceMetadata = {
    number: 3,
    offset: 12n * 1024n * 1024n,
    length: BigInt(length),
    digest: crc32Of(content),
    parentId: "parent-1",
    trafficType: 2,
    costSeconds: 1n,
    createdAtSeconds: 1_700_000_000n,
    ...fields,
  };
  const packet = encodePacket({ type: "piece-content", id: 9, kind: "standard", metadata });
  return { metadata, content, packet, whole: joined([packet, content]) };
}

/**
 * Returns the packet of a response, with the header length that the written Vortex specification
 * requires. That length includes the content.
 */
export function specificationForm({ packet, content }: Answer): Uint8Array {
  const bytes = packet.slice();
  new DataView(bytes.buffer).setUint32(2, packet.length - HEADER_LENGTH + content.length);
  return bytes;
}

/**
 * Returns the end offset of each field in the packet of a response, in bytes. The last offset is
 * the length of the packet.
 */
export function fieldEnds({ metadata, packet }: Answer): number[] {
  const widths = [
    1,
    1,
    4,
    4,
    4,
    8,
    8,
    4,
    metadata.digest.length,
    4,
    metadata.parentId.length,
    1,
    8,
    8,
  ];
  const ends: number[] = [];
  for (const width of widths) ends.push((ends.at(-1) ?? 0) + width);
  if (ends.at(-1) !== packet.length) throw new Error("the fields do not add up to the packet");
  return ends;
}

/** Encodes a Vortex packet header with any tag and any length. */
export function rawHeader(tag: number, length: number): Uint8Array {
  const bytes = new Uint8Array(HEADER_LENGTH);
  bytes[0] = 9;
  bytes[1] = tag;
  new DataView(bytes.buffer).setUint32(2, length);
  return bytes;
}

/**
 * Task ids of 64 bytes that are dangerous if a program uses them as a path, key or command. Each
 * has a description.
 */
export const trickyIds: readonly (readonly [what: string, taskId: string])[] = [
  ["a path to parent directories", "../".repeat(20).concat("pass")],
  ["an absolute path with zero bytes", "/etc/passwd".padEnd(64, "\0")],
  ["a path with backslashes", "..\\".repeat(20).concat("pass")],
  ["a path in percent-encoding", "%2e%2e%2f".repeat(7).padEnd(64, "a")],
  ["zero bytes", "\0".repeat(64)],
  ["a property of every object", "__proto__".padEnd(64, " ")],
  ["a property of every object with zero bytes", "constructor".padEnd(64, "\0")],
  ["a URL of a file", "file:///etc/shadow".padEnd(64, "#")],
  ["shell commands", "$(reboot);`reboot`|reboot".padEnd(64, "&")],
  ["SQL", "' OR 1=1; DROP TABLE tasks; --".padEnd(64, " ")],
  ["slashes", ".".padEnd(64, "/")],
  ["right-to-left text", "\u202e".repeat(21).concat("a")],
];

/** Returns the CRC-32 digest of `content` in Dragonfly's format, `crc32:<decimal>`. */
export function crc32Of(content: Uint8Array): string {
  const hasher = portableHashers("crc32");
  hasher.update(content);
  return `crc32:${hasher.encode()}`;
}

function yes(): true {
  return true;
}

function no(): false {
  return false;
}
