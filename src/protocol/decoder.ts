import { requireInteger } from "../arguments.ts";
import { VortexError } from "../errors.ts";
import { unshared } from "../unshared.ts";
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
 * Maximum lengths that a peer may announce in packets, in bytes. The decoder checks an announced
 * length before it reads or allocates that number of bytes.
 */
export interface DecoderLimits {
  /** Maximum length of the metadata of a piece, in bytes. Default 64 KiB. */
  readonly metadata: number;
  /** Maximum length of the message in an error packet, in bytes. Default 64 KiB. */
  readonly errorMessage: number;
  /**
   * Maximum length of the value of a packet with a reserved tag (8 to 253), in bytes. Default 64
   * KiB.
   */
  readonly reserved: number;
}

/** Limits that a {@link PacketDecoder} applies if the caller sets no others: 64 KiB each. */
export const defaultDecoderLimits: DecoderLimits = {
  metadata: 64 * 1024,
  errorMessage: 64 * 1024,
  reserved: 64 * 1024,
};

/**
 * Incremental decoder for a stream of Vortex packets. It performs no I/O: the caller passes
 * received bytes to {@link push} in chunks of any size, and calls {@link next} until that returns
 * undefined.
 *
 * The content of a piece is not part of a packet. After a `piece-content` packet, the stream
 * contains `metadata.length` bytes of raw content. The caller obtains their start from
 * {@link takeRest}, and reads the remaining bytes from the stream.
 *
 * The decoder accepts two meanings of the length in the header of a `piece-content` packet. Stock
 * Dragonfly peers count only the metadata. The written specification counts the content too.
 *
 * After an error, every later call of {@link next} throws the same error.
 */
export class PacketDecoder {
  readonly #limits: DecoderLimits;
  #buffer: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  #storage: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  #header: Header | undefined;
  #failure: VortexError | undefined;

  constructor(limits: Partial<DecoderLimits> = {}) {
    this.#limits = { ...defaultDecoderLimits, ...limits };
    for (const [name, value] of Object.entries(this.#limits)) {
      requireInteger(`limit of ${name}`, value, 0, 0xffffffff);
    }
  }

  /**
   * Appends received bytes. The decoder may not copy `chunk`, so the caller must not change it
   * until its packets are decoded. A chunk in a `SharedArrayBuffer` is copied.
   */
  push(chunk: Uint8Array): void {
    const pending = this.#buffer;
    if (pending.length === 0) {
      this.#buffer = unshared(chunk);
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
   * Decodes and returns the next packet, or returns undefined if it is not complete yet.
   *
   * @throws `InvalidPacket` or `InvalidLength` if the bytes are not a valid packet
   * @throws `InvalidUtf8` if a text field is not valid UTF-8
   * @throws `LimitExceeded` if an announced length exceeds its limit in {@link DecoderLimits}
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

  /**
   * True if {@link push} has received a part of a packet, or bytes that {@link next} has not
   * decoded. A stream that ends in this state is truncated.
   */
  get midPacket(): boolean {
    return this.#header !== undefined || this.#buffer.length > 0;
  }

  /**
   * Removes and returns the bytes that follow the last decoded packet. After a `piece-content`
   * packet, they are the start of the content of the piece.
   */
  takeRest(): Uint8Array<ArrayBuffer> {
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
