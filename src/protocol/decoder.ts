import { VortexError } from "../errors.ts";
import { requireInteger } from "../piece.ts";
import {
  decodeHeader,
  decodeMetadata,
  decodeValue,
  HEADER_LENGTH,
  type Header,
  METADATA_PREFIX_LENGTH,
  type Packet,
  REQUEST_LENGTH,
} from "./packet.ts";
import { kindOfContent, kindOfRequest, Tag } from "./tags.ts";

/** Bounds on what a peer may announce, in bytes. Checked before a byte of it is read or allocated. */
export interface DecoderLimits {
  /** Metadata of a piece. Default 64 KiB. */
  readonly metadata: number;
  /** Message of an error packet. Default 64 KiB. */
  readonly errorMessage: number;
  /** Value of a packet with a reserved tag. Default 64 KiB. */
  readonly reserved: number;
}

/** The bounds in force unless others are given. */
export const defaultDecoderLimits: DecoderLimits = {
  metadata: 64 * 1024,
  errorMessage: 64 * 1024,
  reserved: 64 * 1024,
};

/**
 * Decodes a stream of packets, fed in chunks of any size. No I/O: `push` bytes, then call `next` until it wants more.
 *
 * The content of a piece is not part of its packet: after a `piece-content` packet, `metadata.length` raw bytes follow,
 * which the caller takes from {@link takeRest} and then from the stream itself. Both forms of the header are accepted: the
 * one that stock peers send, whose length ends with the metadata, and the one of the written specification, whose length
 * counts the content too.
 *
 * A decoder that threw stays failed: it throws the same error again.
 */
export class PacketDecoder {
  readonly #limits: DecoderLimits;
  #buffer: Uint8Array = new Uint8Array(0);
  #storage: Uint8Array = new Uint8Array(0);
  #header: Header | undefined;
  #failure: VortexError | undefined;

  constructor(limits: Partial<DecoderLimits> = {}) {
    this.#limits = { ...defaultDecoderLimits, ...limits };
    for (const [name, value] of Object.entries(this.#limits)) {
      requireInteger(`limit of ${name}`, value, 0, 0xffffffff);
    }
  }

  /** Adds bytes. The decoder keeps a reference to `chunk` until it has been consumed. */
  push(chunk: Uint8Array): void {
    const waiting = this.#buffer;
    if (waiting.length === 0) {
      this.#buffer = chunk;
      return;
    }
    // The waiting bytes move to storage with room to grow, so that a packet fed byte by byte costs linear time.
    const end = waiting.byteOffset + waiting.length;
    if (waiting.buffer !== this.#storage.buffer || end + chunk.length > this.#storage.length) {
      this.#storage = new Uint8Array(2 * (waiting.length + chunk.length));
      this.#storage.set(waiting);
      this.#buffer = this.#storage.subarray(0, waiting.length);
    }
    const start = this.#buffer.byteOffset;
    this.#storage.set(chunk, start + waiting.length);
    this.#buffer = this.#storage.subarray(start, start + waiting.length + chunk.length);
  }

  /**
   * The next packet, or undefined when more bytes are needed.
   * @throws `InvalidPacket`, `InvalidLength`, `InvalidUtf8`, or `LimitExceeded` for an announced length beyond its bound
   */
  next(): Packet | undefined {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      return this.#advance();
    } catch (error) {
      this.#failure = VortexError.from(error, "Internal");
      throw this.#failure;
    }
  }

  /** True when bytes of an unfinished packet are waiting, so that an end of stream here is a truncation. */
  get midPacket(): boolean {
    return this.#header !== undefined || this.#buffer.length > 0;
  }

  /** Takes the bytes that no packet has consumed: after a `piece-content` packet, the first bytes of its content. */
  takeRest(): Uint8Array {
    const rest = this.#buffer;
    this.#buffer = new Uint8Array(0);
    return rest;
  }

  #advance(): Packet | undefined {
    this.#header ??= this.#readHeader();
    const header = this.#header;
    if (header === undefined) return undefined;

    const kind = kindOfContent(header.tag);
    if (kind === undefined) {
      const value = this.#take(header.length);
      if (value === undefined) return undefined;
      this.#header = undefined;
      return decodeValue(header, value);
    }

    if (this.#buffer.length < METADATA_PREFIX_LENGTH) return undefined;
    const metadataLength = new DataView(this.#buffer.buffer, this.#buffer.byteOffset).getUint32(0);
    const stockLength = METADATA_PREFIX_LENGTH + metadataLength;
    if (stockLength > header.length) {
      throw new VortexError(
        "InvalidPacket",
        `content packet of ${header.length} bytes, with ${metadataLength} bytes of metadata announced`,
      );
    }
    this.#bound("metadata", metadataLength, this.#limits.metadata);
    const value = this.#take(stockLength);
    if (value === undefined) return undefined;
    const metadata = decodeMetadata(value.subarray(METADATA_PREFIX_LENGTH));
    if (header.length !== stockLength && BigInt(header.length - stockLength) !== metadata.length) {
      throw new VortexError(
        "InvalidLength",
        `content packet of ${header.length} bytes fits neither its metadata (${stockLength}) nor metadata and content`,
      );
    }
    this.#header = undefined;
    return { type: "piece-content", id: header.id, kind, metadata };
  }

  #readHeader(): Header | undefined {
    const bytes = this.#take(HEADER_LENGTH);
    if (bytes === undefined) return undefined;
    const header = decodeHeader(bytes);
    if (kindOfRequest(header.tag) !== undefined) {
      // A request has one length only, so a wrong one is refused without waiting for its bytes.
      if (header.length !== REQUEST_LENGTH) {
        throw new VortexError(
          "InvalidLength",
          `request of ${header.length} bytes: expected ${REQUEST_LENGTH}`,
        );
      }
    } else if (kindOfContent(header.tag) !== undefined) {
      if (header.length < METADATA_PREFIX_LENGTH) {
        throw new VortexError(
          "InvalidPacket",
          `content packet of ${header.length} bytes has no metadata length`,
        );
      }
    } else if (header.tag === Tag.Close) {
      if (header.length !== 0) {
        throw new VortexError(
          "InvalidLength",
          `close packet with ${header.length} bytes: expected none`,
        );
      }
    } else if (header.tag === Tag.Error) {
      this.#bound("error message", header.length - 1, this.#limits.errorMessage);
    } else {
      this.#bound(`packet with reserved tag ${header.tag}`, header.length, this.#limits.reserved);
    }
    return header;
  }

  #bound(what: string, length: number, limit: number): void {
    if (length > limit) {
      throw new VortexError(
        "LimitExceeded",
        `${what} of ${length} bytes announced: the limit is ${limit}`,
      );
    }
  }

  #take(count: number): Uint8Array | undefined {
    if (this.#buffer.length < count) return undefined;
    const taken = this.#buffer.subarray(0, count);
    this.#buffer = this.#buffer.subarray(count);
    return taken;
  }
}
