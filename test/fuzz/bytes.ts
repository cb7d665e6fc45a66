/** Fuzz properties of the packet codec and of the incremental stream decoder. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { VortexError } from "../../src/errors.ts";
import { pieceKinds } from "../../src/piece.ts";
import { type DecoderLimits, PacketDecoder } from "../../src/protocol/decoder.ts";
import { decodePacket, encodePacket, type Packet } from "../../src/protocol/packet.ts";
import { kindOfContent } from "../../src/protocol/tags.ts";
import { chunked, joined, seededRandom } from "../support/random.ts";

const plain = { noNullPrototype: true };
const uint8 = fc.nat({ max: 0xff });
const uint32 = fc.nat({ max: 0xffffffff });
const uint64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const text = fc.string({ unit: "grapheme", maxLength: 80 });
const kind = fc.constantFrom(...pieceKinds);

const packets: fc.Arbitrary<Packet> = fc.oneof(
  fc.record(
    {
      type: fc.constant("download-piece" as const),
      id: uint8,
      kind,
      taskId: fc.stringMatching(/^[0-9a-f]{64}$/),
      number: uint32,
    },
    plain,
  ),
  fc.record(
    {
      type: fc.constant("piece-content" as const),
      id: uint8,
      kind,
      metadata: fc.record(
        {
          number: uint32,
          offset: uint64,
          length: uint64,
          digest: text,
          parentId: text,
          trafficType: uint8,
          costSeconds: uint64,
          createdAtSeconds: fc.bigInt({ min: -8_334_601_228_800n, max: 8_210_266_876_799n }),
        },
        plain,
      ),
    },
    plain,
  ),
  fc.record({ type: fc.constant("close" as const), id: uint8 }, plain),
  fc.record({ type: fc.constant("error" as const), id: uint8, code: uint8, message: text }, plain),
  fc.record(
    {
      type: fc.constant("reserved" as const),
      id: uint8,
      tag: fc.integer({ min: 8, max: 253 }),
      value: fc.uint8Array({ maxLength: 100 }),
    },
    plain,
  ),
);

/** Random bytes, or an encoded packet that is changed, truncated or extended. */
const garbage: fc.Arbitrary<Uint8Array> = fc.oneof(
  fc.uint8Array({ maxLength: 200 }),
  fc
    .tuple(
      packets,
      fc.array(fc.tuple(fc.nat(), uint8), { maxLength: 4 }),
      fc.option(fc.nat()),
      fc.uint8Array({ maxLength: 4 }),
      fc.boolean(),
    )
    .map(([packet, changes, cut, more, lengthsAgree]) => {
      const whole = encodePacket(packet);
      for (const [at, to] of changes) whole[at % whole.length] = to;
      const bytes = joined([
        cut === null ? whole : whole.subarray(0, cut % (whole.length + 1)),
        more,
      ]);
      if (lengthsAgree) correctLengths(bytes);
      return bytes;
    }),
);

/** Sets the packet and metadata lengths to the actual ones, so that a decoder reads the fields. */
function correctLengths(bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (bytes.length < 6) return;
  view.setUint32(2, bytes.length - 6);
  if (kindOfContent(view.getUint8(1)) !== undefined && bytes.length >= 10)
    view.setUint32(6, bytes.length - 10);
}

/**
 * Property: an encoded packet decodes to itself. Other bytes fail with a `peer` error, or decode to
 * a packet that encodes to the same bytes. A task id that is not 64 bytes is not encoded.
 */
export const codec: fc.IProperty<[Packet, Uint8Array, string]> = fc.property(
  packets,
  garbage,
  text,
  (packet, bytes, taskId) => {
    assert.deepEqual(decodePacket(encodePacket(packet)), packet);
    if (new TextEncoder().encode(taskId).length !== 64) {
      const request = {
        type: "download-piece",
        id: 1,
        kind: "standard",
        taskId,
        number: 0,
      } as const;
      assert.throws(() => encodePacket(request), { code: "InvalidArgument" });
    }
    let decoded: Packet;
    try {
      decoded = decodePacket(bytes);
    } catch (error) {
      assertPeerFailure(error);
      return;
    }
    const again = encodePacket(decoded);
    // The decoder ignores bytes after the last metadata field.
    const both =
      decoded.type === "piece-content"
        ? [again, bytes].map((each) => each.slice(10, again.length))
        : [again, bytes];
    assert.deepEqual(both[1], both[0]);
  },
);

/**
 * Property: decoding is independent of chunk boundaries. Valid packets decode up to the point of
 * truncation, and packets beyond a limit are refused.
 */
export const decoder: fc.IProperty<[Uint8Array[], Packet[], number, number, number, number]> =
  fc.property(
    fc.array(garbage, { minLength: 1, maxLength: 4 }),
    fc.array(packets, { maxLength: 4 }),
    fc.nat(),
    fc.nat(),
    fc.integer({ min: 1, max: 100 }),
    fc.integer({ min: 1, max: 100 }),
    (parts, valid, cut, seed, maxChunk, bound) => {
      const chunks = (bytes: Uint8Array): Uint8Array[] =>
        chunked(bytes, seededRandom(seed), maxChunk);
      const bytes = joined(parts);
      assert.deepEqual(decodeAll(chunks(bytes)), decodeAll([bytes]));

      const encoded = valid.map(encodePacket);
      const whole = joined(encoded);
      const received = whole.subarray(0, cut % (whole.length + 1));
      const complete = encoded.filter(
        (_, index) => joined(encoded.slice(0, index + 1)).length <= received.length,
      );
      const rest = received.length - joined(complete).length;
      assert.deepEqual(decodeAll(chunks(received)), {
        packets: valid.slice(0, complete.length),
        end: rest > 0 ? "more is needed" : "between packets",
      });

      // An impossible header is refused before further bytes arrive.
      for (const packet of valid) {
        const header = encodePacket(packet).slice(0, 6);
        const view = new DataView(header.buffer);
        const { announced, code } = refusedLength(packet, view.getUint32(2));
        view.setUint32(2, announced);
        assert.deepEqual(decodeAll([header]), { packets: [], end: code });
      }

      const limits = { metadata: bound, errorMessage: bound, reserved: bound };
      const bounded = decodeAll(chunks(whole), limits);
      const firstTooLong = valid.findIndex((packet) => boundedLength(packet) > bound);
      const allowed = firstTooLong < 0 ? valid : valid.slice(0, firstTooLong);
      assert.deepEqual(bounded, {
        packets: allowed,
        end: firstTooLong < 0 ? "between packets" : "LimitExceeded",
      });
    },
  );

/**
 * Returns a length that a decoder must refuse from the header alone, and the expected error code.
 */
function refusedLength(
  { type }: Packet,
  length: number,
): { readonly announced: number; readonly code: string } {
  switch (type) {
    case "download-piece":
      return { announced: length - 1, code: "InvalidLength" };
    case "piece-content":
      return { announced: length % 4, code: "InvalidPacket" };
    case "close":
      return { announced: length + 1, code: "InvalidLength" };
    default:
      return { announced: 0xffffffff, code: "LimitExceeded" };
  }
}

/** Returns the packet length in bytes to which a decoder limit applies; 0 if there is no limit. */
function boundedLength(packet: Packet): number {
  const { length } = encodePacket(packet);
  switch (packet.type) {
    case "piece-content":
      return length - 10;
    case "error":
      return length - 7;
    case "reserved":
      return length - 6;
    default:
      return 0;
  }
}

/** Decodes chunks. Returns the packets, and the final state or the error's code. */
function decodeAll(
  chunks: readonly Uint8Array[],
  limits?: DecoderLimits,
): { readonly packets: Packet[]; readonly end: string } {
  const decoder = new PacketDecoder(limits);
  const packets: Packet[] = [];
  try {
    for (const chunk of chunks) {
      decoder.push(chunk);
      for (let packet = decoder.next(); packet !== undefined; packet = decoder.next()) {
        // The value of a reserved packet is a view into a chunk.
        packets.push(
          packet.type === "reserved" ? { ...packet, value: packet.value.slice() } : packet,
        );
      }
    }
  } catch (error) {
    assertPeerFailure(error);
    assert.throws(() => decoder.next(), error);
    return { packets, end: error.code };
  }
  return { packets, end: decoder.midPacket ? "more is needed" : "between packets" };
}

function assertPeerFailure(error: unknown): asserts error is VortexError {
  if (!(error instanceof VortexError) || error.kind !== "peer") throw error;
}
