/** Properties of what reads bytes from the network: the codec and the decoder of streams. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { VortexError } from "../../src/errors.ts";
import { pieceKinds } from "../../src/piece.ts";
import { PacketDecoder } from "../../src/protocol/decoder.ts";
import { decodePacket, encodePacket, type Packet } from "../../src/protocol/packet.ts";
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
);

/** A packet, and what may become of it on its way: bytes changed, cut off, or of another origin altogether. */
const garbage: fc.Arbitrary<Uint8Array> = fc.oneof(
  fc.uint8Array({ maxLength: 200 }),
  fc
    .tuple(packets, fc.array(fc.tuple(fc.nat(), uint8), { maxLength: 4 }), fc.option(fc.nat()))
    .map(([packet, changes, cut]) => {
      const bytes = encodePacket(packet);
      for (const [at, to] of changes) bytes[at % bytes.length] = to;
      return cut === null ? bytes : bytes.subarray(0, cut % (bytes.length + 1));
    }),
);

/** A packet encoded and decoded is the same; anything else is a packet or a failure of the peer. */
export const codec: fc.IProperty<[Packet, Uint8Array]> = fc.property(packets, garbage, (packet, bytes) => {
  assert.deepEqual(decodePacket(encodePacket(packet)), packet);
  try {
    decodePacket(bytes);
  } catch (error) {
    assertPeerFailure(error);
  }
});

/** In whatever chunks bytes come, the verdict is that of the whole. */
export const decoder: fc.IProperty<[Uint8Array[], number, number]> = fc.property(
  fc.array(garbage, { minLength: 1, maxLength: 4 }),
  fc.nat(),
  fc.integer({ min: 1, max: 100 }),
  (parts, seed, greatest) => {
    const bytes = joined(parts);
    assert.deepEqual(verdict(chunked(bytes, seededRandom(seed), greatest)), verdict([bytes]));
  },
);

/** What a decoder makes of chunks: its packets, and how it ended. */
function verdict(chunks: readonly Uint8Array[]): { readonly packets: Packet[]; readonly end: string } {
  const decoder = new PacketDecoder();
  const packets: Packet[] = [];
  try {
    for (const chunk of chunks) {
      decoder.push(chunk);
      for (let packet = decoder.next(); packet !== undefined; packet = decoder.next()) {
        // Some chunk's memory is behind the value of a reserved packet.
        packets.push(packet.type === "reserved" ? { ...packet, value: packet.value.slice() } : packet);
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
