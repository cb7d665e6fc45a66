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

/**
 * Maximum lengths that a peer may announce, in bytes. They are checked before any of the announced
 * bytes are read or allocated.
 */
export interface DecoderLimits {
  /** Maximum length of piece metadata. Default 64 KiB. */
  readonly metadata: number;
  /** Maximum length of the message in an error packet. Default 64 KiB. */
  readonly errorMessage: number;
  /** Maximum length of the value of a packet with a reserved tag. Default 64 KiB. */
  readonly reserved: number;
}

/** Default limits of a {@link PacketDecoder}. */
export const defaultDecoderLimits: DecoderLimits = {
  metadata: 64 * 1024,
  errorMessage: 64 * 1024,
  reserved: 64 * 1024,
};

/**
 * Incremental decoder for a stream of packets, fed in chunks of any size. Performs no I/O: the
 * caller passes bytes to `push`, and calls `next` until it returns undefined.
 *
 * The content of a piece is not part of its packet. After a `piece-content` packet, the caller
 * reads `metadata.length` raw bytes: first those from {@link takeRest}, then the rest from the
 * stream.
 *
 * Two forms of its header are accepted. In the form of stock peers, the length ends with the
 * metadata. In the form of the written specification, it includes the content.
 *
 * An error is final: every later call of `next` throws it again.
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

  /**
   * Appends bytes. `chunk` must not change until its packets are decoded, because it is not copied.
   */
  push(chunk: Uint8Array): void {
    const pending = this.#buffer;
    if (pending.length === 0) {
      this.#buffer = chunk;
      return;
    }
    // Amortised growth: pending bytes move to storage with spare capacity, so that a packet fed
    // byte by byte takes linear time.
    const end = pending.byteOffset + pending.length;
    if (pending.buffer !== this.#storage.buffer || end + chunk.length > this.#storage.length) {
      this.#storage = new Uint8Array(2 * (pending.length + chunk.length));
      this.#storage.set(pending);
      this.#buffer = this.#storage.subarray(0, pending.length);
    }
    const start = this.#buffer.byteOffset;
    this.#storage.set(chunk, start + pending.length);
    this.#buffer = this.#storage.subarray(start, start + pending.length + chunk.length);
  }

  /**
   * Decodes the next packet. Returns undefined when it needs more bytes.
   *
   * @throws `InvalidPacket`, `InvalidLength`, `InvalidUtf8`, or `LimitExceeded` for an announced
   * length over its limit
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

  /** True while a packet is incomplete. A stream that ends here is truncated. */
  get midPacket(): boolean {
    return this.#header !== undefined || this.#buffer.length > 0;
  }

  /**
   * Removes and returns the bytes after the last packet. After a `piece-content` packet, they are
   * the start of its content.
   */
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
        `content packet: expected at least ${stockLength} bytes, got ${header.length}`,
      );
    }
    this.#requireLength("metadata", metadataLength, this.#limits.metadata);
    const value = this.#take(stockLength);
    if (value === undefined) return undefined;
    const metadata = decodeMetadata(value.subarray(METADATA_PREFIX_LENGTH));
    if (header.length !== stockLength && BigInt(header.length - stockLength) !== metadata.length) {
      const withContent = BigInt(stockLength) + metadata.length;
      throw new VortexError(
        "InvalidLength",
        `content packet: expected ${stockLength} or ${withContent} bytes, got ${header.length}`,
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
      // A request has a fixed length, so a wrong one is rejected without waiting for its bytes.
      if (header.length !== REQUEST_LENGTH) {
        throw new VortexError(
          "InvalidLength",
          `request value: expected ${REQUEST_LENGTH} bytes, got ${header.length}`,
        );
      }
    } else if (kindOfContent(header.tag) !== undefined) {
      if (header.length < METADATA_PREFIX_LENGTH) {
        throw new VortexError(
          "InvalidPacket",
          `content packet: expected a metadata length of 4 bytes, got ${header.length} bytes`,
        );
      }
    } else if (header.tag === Tag.Close) {
      if (header.length !== 0) {
        throw new VortexError(
          "InvalidLength",
          `close packet: expected no value, got ${header.length} bytes`,
        );
      }
    } else if (header.tag === Tag.Error) {
      this.#requireLength("error message", header.length - 1, this.#limits.errorMessage);
    } else {
      const what = `packet with reserved tag ${header.tag}`;
      this.#requireLength(what, header.length, this.#limits.reserved);
    }
    return header;
  }

  #requireLength(what: string, length: number, limit: number): void {
    if (length > limit) {
      throw new VortexError(
        "LimitExceeded",
        `announced ${what}: expected at most ${limit} bytes, got ${length}`,
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
