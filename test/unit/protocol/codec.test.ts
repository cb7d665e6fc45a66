import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { VortexError } from "../../../src/errors.ts";
import { type PieceMetadata, pieceKinds } from "../../../src/piece.ts";
import { type DecoderLimits, PacketDecoder } from "../../../src/protocol/decoder.ts";
import {
  decodePacket,
  encodePacket,
  HEADER_LENGTH,
  type Packet,
} from "../../../src/protocol/packet.ts";
import {
  contentTag,
  kindOfContent,
  kindOfRequest,
  requestTag,
  Tag,
} from "../../../src/protocol/tags.ts";
import { assertThrows, thrownBy } from "../../support/failures.ts";
import { chunked, joined, seededRandom } from "../../support/random.ts";
import { loadVectors, type Vector } from "../../support/vectors.ts";

const vectors = loadVectors();
const valid = vectors.filter(({ name }) => name.startsWith("valid-"));
const taskId = "5e".repeat(32);

const metadata: PieceMetadata = {
  number: 7,
  offset: 28n * 1024n * 1024n,
  length: 1024n,
  digest: "crc32:1929153120",
  parentId: "127.0.0.1-foo",
  trafficType: 1,
  costSeconds: 3n,
  createdAtSeconds: 1_700_000_000n,
};

describe("one whole packet, compared with the reference decoder", () => {
  it("the table has 400 packets, 200 of them valid", () => {
    assert.equal(vectors.length, 400);
    assert.equal(valid.length, 200);
  });

  for (const vector of vectors) {
    if (isCloseWithPayload(vector)) {
      it(`${vector.name}: stricter than the reference, a close packet with a payload is InvalidLength`, () => {
        assert.equal(vector.decoded.ok, true);
        assertThrows(() => decodePacket(vector.bytes), "InvalidLength");
      });
      continue;
    }
    const { decoded } = vector;
    it(`${vector.name}: ${decoded.ok ? "the same fields" : decoded.error}`, () => {
      if (decoded.ok)
        assert.deepEqual(asVerdict(decodePacket(vector.bytes), vector.bytes), decoded);
      else assert.equal(thrownBy(() => decodePacket(vector.bytes)).code, decoded.error);
    });
  }

  it("exactly one packet of the table is a close with a payload, the only difference", () => {
    assert.deepEqual(vectors.filter(isCloseWithPayload).map(named), ["tag-swap-95"]);
  });

  for (const { name, bytes } of valid) {
    it(`${name} encodes back to the same bytes`, () => {
      assert.deepEqual(encodePacket(decodePacket(bytes)), bytes);
    });
  }
});

describe("the incremental decoder on the same table", () => {
  it("decodes each valid packet fed whole", () => {
    for (const { name, bytes } of valid)
      assert.deepEqual(feed([bytes]), complete([decodePacket(bytes)]), name);
  });

  it("decodes each valid packet fed byte by byte, and not before its last byte", () => {
    for (const { name, bytes } of valid) {
      const decoder = new PacketDecoder();
      for (const [at, byte] of bytes.entries()) {
        assert.equal(decoder.next(), undefined, `${name} at byte ${at}`);
        decoder.push(Uint8Array.of(byte));
      }
      assert.deepEqual(decoder.next(), decodePacket(bytes), name);
      assert.equal(decoder.midPacket, false, name);
    }
  });

  it("decodes each valid packet fed in seeded random chunks", () => {
    const random = seededRandom(1);
    for (const { name, bytes } of valid) {
      for (let round = 0; round < 10; round++) {
        const chunks = chunked(bytes, random, bytes.length);
        assert.deepEqual(
          feed(chunks),
          complete([decodePacket(bytes)]),
          `${name} in ${chunks.map(lengthOf)}`,
        );
      }
    }
  });

  it("decodes all valid packets from one buffer, in order", () => {
    const all = joined(valid.map(({ bytes }) => bytes));
    assert.deepEqual(feed([all]), complete(valid.map(({ bytes }) => decodePacket(bytes))));
  });

  it("decodes all valid packets from random chunks across their borders", () => {
    const all = joined(valid.map(({ bytes }) => bytes));
    const expected = complete(valid.map(({ bytes }) => decodePacket(bytes)));
    for (const greatest of [1, 2, 7, 100, 5000]) {
      assert.deepEqual(
        feed(chunked(all, seededRandom(greatest), greatest)),
        expected,
        `chunks up to ${greatest}`,
      );
    }
  });

  // Differences between a stream of packets and one whole packet, with their number in the table.
  const differences = {
    "bytes to spare belong to the next packet": 31,
    "a truncated packet may still be completed": 27,
    "an announced length beyond its bound is refused at once": 1,
    "stricter than the reference: a close packet with a payload": 1,
  };
  type Difference = keyof typeof differences;
  const classified = vectors.map((vector) => ({ vector, difference: differenceOf(vector) }));

  function differenceOf(vector: Vector): Difference | undefined {
    const announced = announcedLength(vector);
    if (isCloseWithPayload(vector))
      return "stricter than the reference: a close packet with a payload";
    if (announced === undefined) return "a truncated packet may still be completed";
    if (vector.bytes.length > HEADER_LENGTH + announced)
      return "bytes to spare belong to the next packet";
    if (vector.bytes.length < HEADER_LENGTH + announced) {
      const [, tag = 0] = vector.bytes;
      // A wrong length of a request or close, or an impossible content header, is the same error
      // earlier.
      if (announced !== 0xffffffff) return "a truncated packet may still be completed";
      if (tag > Tag.CachePieceContent && tag !== Tag.Close) {
        return "an announced length beyond its bound is refused at once";
      }
    }
    return undefined;
  }

  it("differs from whole packets only in the listed ways", () => {
    const counted = Object.fromEntries(
      Object.keys(differences).map((name) => [
        name,
        classified.filter(({ difference }) => difference === name).length,
      ]),
    );
    assert.deepEqual(counted, differences);
  });

  for (const { vector, difference } of classified) {
    const { name, bytes, decoded } = vector;
    if (name.startsWith("valid-")) continue;
    it(`${name}: ${difference ?? (decoded.ok ? "the same packet" : `the same ${decoded.error}`)}`, () => {
      for (const chunks of [[bytes], [...bytes].map((byte) => Uint8Array.of(byte))]) {
        const { packets, failure, midPacket } = feed(chunks);
        switch (difference) {
          case "bytes to spare belong to the next packet":
            assert.deepEqual(
              packets[0],
              decodePacket(bytes.subarray(0, HEADER_LENGTH + (announcedLength(vector) ?? 0))),
            );
            assert.equal(midPacket, true);
            break;
          case "a truncated packet may still be completed":
            assert.deepEqual(
              { packets, failure, midPacket },
              { packets: [], failure: undefined, midPacket: bytes.length > 0 },
            );
            break;
          case "an announced length beyond its bound is refused at once":
            assert.equal(failure, "LimitExceeded");
            break;
          case "stricter than the reference: a close packet with a payload":
            assert.equal(failure, "InvalidLength");
            break;
          default:
            if (decoded.ok)
              assert.deepEqual(
                { packets, failure },
                { packets: [decodePacket(bytes)], failure: undefined },
              );
            else assert.deepEqual({ packets, failure }, { packets: [], failure: decoded.error });
        }
      }
    });
  }
});

describe("fields keep every bit", () => {
  const extremes: Partial<PieceMetadata>[] = [
    { offset: 2n ** 64n - 1n, length: 2n ** 64n - 1n, costSeconds: 2n ** 64n - 1n },
    { offset: 2n ** 53n + 1n, length: 2n ** 53n - 1n, costSeconds: 2n ** 63n },
    { offset: 0n, length: 0n, costSeconds: 0n, createdAtSeconds: 0n, number: 0, trafficType: 0 },
    { number: 0xffffffff, trafficType: 0xff },
    { createdAtSeconds: -1n },
    { createdAtSeconds: 8_210_266_876_799n },
    { createdAtSeconds: -8_334_601_228_800n },
    { digest: "", parentId: "" },
    { digest: "é€😀", parentId: "\u{feff}a byte order mark is a character here" },
  ];
  for (const fields of extremes) {
    it(`${Object.entries(fields).map(([name, value]) => `${name} ${value}`)}`, () => {
      for (const kind of pieceKinds) {
        const packet: Packet = {
          type: "piece-content",
          id: 255,
          kind,
          metadata: { ...metadata, ...fields },
        };
        const bytes = encodePacket(packet);
        assert.deepEqual(decodePacket(bytes), packet);
        assert.deepEqual(feed([bytes]), complete([packet]));
      }
    });
  }

  it("created-at outside of the dates of the reference is InvalidPacket", () => {
    for (const beyond of [8_210_266_876_800n, -8_334_601_228_801n, 2n ** 63n - 1n, -(2n ** 63n)]) {
      const bytes = encodePacket({ type: "piece-content", id: 0, kind: "standard", metadata });
      new DataView(bytes.buffer).setBigInt64(bytes.length - 8, beyond);
      assertThrows(() => decodePacket(bytes), "InvalidPacket");
    }
  });

  it("bytes after the last field of the metadata are ignored, like in the reference decoder", () => {
    const plain = encodePacket({ type: "piece-content", id: 0, kind: "cache", metadata });
    const longer = joined([plain, Uint8Array.of(1, 2, 3)]);
    const view = new DataView(longer.buffer);
    view.setUint32(2, view.getUint32(2) + 3);
    view.setUint32(6, view.getUint32(6) + 3);
    assert.deepEqual(decodePacket(longer), decodePacket(plain));
    assert.deepEqual(feed([longer]), complete([decodePacket(plain)]));
  });

  it("metadata that ends inside any of its fields is InvalidPacket", () => {
    const whole = encodePacket({
      type: "piece-content",
      id: 0,
      kind: "standard",
      metadata,
    }).subarray(10);
    for (let length = 0; length < whole.length; length++) {
      const packet = new Uint8Array(10 + length);
      packet.set([0, Tag.PieceContent]);
      new DataView(packet.buffer).setUint32(2, 4 + length);
      new DataView(packet.buffer).setUint32(6, length);
      packet.set(whole.subarray(0, length), 10);
      assertThrows(() => decodePacket(packet), "InvalidPacket");
      assert.equal(feed([packet]).failure, "InvalidPacket");
    }
  });
});

describe("one whole packet whose announced length is correct, but wrong for its tag", () => {
  const wrong: [
    what: string,
    tag: number,
    length: number,
    code: "InvalidLength" | "InvalidPacket",
  ][] = [
    ["a request of 67 bytes", Tag.DownloadPiece, 67, "InvalidLength"],
    ["a request of 69 bytes", Tag.DownloadCachePiece, 69, "InvalidLength"],
    ["a request without a value", Tag.DownloadPersistentPiece, 0, "InvalidLength"],
    ["a content packet without a value", Tag.PieceContent, 0, "InvalidPacket"],
    ["a content packet of 3 bytes", Tag.CachePieceContent, 3, "InvalidPacket"],
    ["a content packet with empty metadata", Tag.PieceContent, 4, "InvalidPacket"],
    ["an error packet without a value", Tag.Error, 0, "InvalidLength"],
    ["a close packet of one byte", Tag.Close, 1, "InvalidLength"],
  ];
  for (const [what, tag, length, code] of wrong) {
    it(`${what}: ${code}`, () => {
      assertThrows(() => decodePacket(joined([header(tag, length), new Uint8Array(length)])), code);
    });
  }
});

describe("tags", () => {
  it("each kind of piece has a request tag and a content tag, and no other tag has a kind", () => {
    assert.deepEqual(pieceKinds.map(requestTag), [0, 2, 4, 6]);
    assert.deepEqual(pieceKinds.map(contentTag), [1, 3, 5, 7]);
    for (let tag = 0; tag < 256; tag++) {
      assert.equal(kindOfRequest(tag), tag < 8 && tag % 2 === 0 ? pieceKinds[tag / 2] : undefined);
      assert.equal(
        kindOfContent(tag),
        tag < 8 && tag % 2 === 1 ? pieceKinds[(tag - 1) / 2] : undefined,
      );
    }
  });
});

describe("the encoder rejects values that do not fit their field", () => {
  const request: Packet = { type: "download-piece", id: 1, kind: "standard", taskId, number: 1 };
  const content: Packet = { type: "piece-content", id: 1, kind: "standard", metadata };
  const misfits: [what: string, packet: Packet][] = [
    ["an id over 255", { ...request, id: 256 }],
    ["a negative id", { type: "close", id: -1 }],
    ["a task id of 63 bytes", { ...request, taskId: taskId.slice(1) }],
    ["a task id of 64 characters and 65 bytes", { ...request, taskId: `é${taskId.slice(1)}` }],
    ["a piece number beyond 32 bits", { ...request, number: 2 ** 32 }],
    ["a fraction as piece number", { ...request, number: 0.5 }],
    ["an unknown kind in a request", { ...request, kind: "other" as "standard" }],
    ["an unknown kind in a content packet", { ...content, kind: "other" as "standard" }],
    ["an offset beyond 64 bits", { ...content, metadata: { ...metadata, offset: 2n ** 64n } }],
    ["a negative length", { ...content, metadata: { ...metadata, length: -1n } }],
    ["a negative cost", { ...content, metadata: { ...metadata, costSeconds: -1n } }],
    ["a traffic type over 255", { ...content, metadata: { ...metadata, trafficType: 256 } }],
    [
      "a negative piece number in a content packet",
      { ...content, metadata: { ...metadata, number: -1 } },
    ],
    [
      "a created-at that is not a date",
      { ...content, metadata: { ...metadata, createdAtSeconds: 2n ** 62n } },
    ],
    ["an error code over 255", { type: "error", id: 1, code: 256, message: "" }],
    [
      "a tag that is not reserved in a reserved packet",
      { type: "reserved", id: 1, tag: 7, value: new Uint8Array(0) },
    ],
    [
      "the close tag in a reserved packet",
      { type: "reserved", id: 1, tag: Tag.Close, value: new Uint8Array(0) },
    ],
  ];
  for (const [what, packet] of misfits) {
    it(what, () => {
      assertThrows(() => encodePacket(packet), "InvalidArgument");
    });
  }
});

describe("announced lengths over their limit are rejected before any following byte arrives", () => {
  const cases: [what: string, announced: Uint8Array, limits: Partial<DecoderLimits>][] = [
    ["metadata of 64 KiB and a byte", contentHeader(4 + 65537, 65537), {}],
    ["metadata of 2^32 - 5 bytes", contentHeader(0xffffffff, 0xffffffff - 4), {}],
    ["metadata over its configured limit", contentHeader(4 + 101, 101), { metadata: 100 }],
    ["an error text of 4 GiB", header(Tag.Error, 0xffffffff), {}],
    ["an error text of 64 KiB and a byte", header(Tag.Error, 1 + 65537), {}],
    ["an error text over its configured limit", header(Tag.Error, 1 + 11), { errorMessage: 10 }],
    ["a reserved packet of 4 GiB", header(8, 0xffffffff), {}],
    ["a reserved packet of 64 KiB and a byte", header(253, 65537), {}],
    ["a reserved packet over its configured limit", header(100, 1), { reserved: 0 }],
  ];
  for (const [what, announced, limits] of cases) {
    it(`${what}: LimitExceeded`, () => {
      const decoder = new PacketDecoder(limits);
      decoder.push(announced.subarray(0, -1));
      assert.equal(decoder.next(), undefined);
      decoder.push(announced.subarray(-1));
      assertThrows(() => decoder.next(), "LimitExceeded");
    });
  }

  const lengthsThatCannotBe: [
    what: string,
    announced: Uint8Array,
    code: "InvalidLength" | "InvalidPacket",
  ][] = [
    ["a request of 67 bytes", header(Tag.DownloadPiece, 67), "InvalidLength"],
    ["a request of 4 GiB", header(Tag.DownloadCachePiece, 0xffffffff), "InvalidLength"],
    ["a close packet with a byte", header(Tag.Close, 1), "InvalidLength"],
    ["an error without a code", header(Tag.Error, 0), "InvalidLength"],
    [
      "a content packet too short for a metadata length",
      header(Tag.PieceContent, 3),
      "InvalidPacket",
    ],
    [
      "metadata of 2^32 - 1 bytes in a shorter packet",
      contentHeader(65, 0xffffffff),
      "InvalidPacket",
    ],
    [
      "metadata of 2^32 - 1 bytes in the longest packet",
      contentHeader(0xffffffff, 0xffffffff),
      "InvalidPacket",
    ],
  ];
  for (const [what, announced, code] of lengthsThatCannotBe) {
    it(`${what}: ${code}`, () => {
      const decoder = new PacketDecoder();
      decoder.push(announced);
      assertThrows(() => decoder.next(), code);
    });
  }

  it("lengths just within the limits are decoded", () => {
    const message = "m".repeat(65536);
    const error: Packet = { type: "error", id: 0, code: 1, message };
    const reserved: Packet = {
      type: "reserved",
      id: 0,
      tag: 9,
      value: new Uint8Array(65536).fill(5),
    };
    const digest = "d".repeat(65536 - 45);
    const content: Packet = {
      type: "piece-content",
      id: 0,
      kind: "cache",
      metadata: { ...metadata, digest, parentId: "" },
    };
    assert.deepEqual(
      feed([error, reserved, content].map(encodePacket)),
      complete([error, reserved, content]),
    );
  });

  it("a limit that is not an unsigned 32-bit integer is InvalidArgument", () => {
    for (const limit of [-1, 0.5, 2 ** 32, Number.NaN]) {
      assertThrows(() => new PacketDecoder({ metadata: limit }), "InvalidArgument");
    }
  });
});

describe("the two forms of a content header", () => {
  const stock = encodePacket({ type: "piece-content", id: 9, kind: "persistent", metadata });
  const content = new Uint8Array(Number(metadata.length)).fill(0xab);

  function withLength(length: number): Uint8Array {
    const bytes = stock.slice();
    new DataView(bytes.buffer).setUint32(2, length);
    return bytes;
  }
  const stockLength = stock.length - HEADER_LENGTH;

  for (const [form, length] of [
    ["stock: its length ends with the metadata", stockLength],
    ["specification: its length counts the content", stockLength + content.length],
  ] as const) {
    it(`${form}, fed whole and byte by byte, leaves the content to takeRest`, () => {
      const bytes = joined([withLength(length), content]);
      for (const chunks of [[bytes], [...bytes].map((byte) => Uint8Array.of(byte))]) {
        const decoder = new PacketDecoder();
        let packet: Packet | undefined;
        const rest: Uint8Array[] = [];
        for (const chunk of chunks) {
          if (packet !== undefined) {
            rest.push(chunk);
            continue;
          }
          decoder.push(chunk);
          packet = decoder.next();
          if (packet !== undefined) rest.push(decoder.takeRest());
        }
        assert.deepEqual(packet, { type: "piece-content", id: 9, kind: "persistent", metadata });
        assert.deepEqual(joined(rest), content);
        assert.equal(decoder.midPacket, false);
      }
    });
  }

  for (const length of [
    stockLength + 1,
    stockLength + content.length - 1,
    stockLength + content.length + 1,
    0xffffffff,
  ]) {
    it(`a length of ${length}, which fits neither form, is InvalidLength`, () => {
      assert.equal(feed([withLength(length)]).failure, "InvalidLength");
    });
  }

  it("a content of 2^64 - 1 bytes is possible only in the stock form", () => {
    const huge = { ...metadata, length: 2n ** 64n - 1n };
    const bytes = encodePacket({ type: "piece-content", id: 9, kind: "standard", metadata: huge });
    const [packet] = feed([bytes]).packets;
    assert.equal(packet?.type === "piece-content" && packet.metadata.length, 2n ** 64n - 1n);
    new DataView(bytes.buffer).setUint32(2, 0xffffffff);
    assert.equal(feed([bytes]).failure, "InvalidLength");
  });
});

describe("PacketDecoder", () => {
  it("throws the same error again after a failure, whatever is pushed", () => {
    const decoder = new PacketDecoder();
    decoder.push(header(Tag.Close, 1));
    const first = thrownBy(() => decoder.next());
    decoder.push(encodePacket({ type: "close", id: 1 }));
    assert.equal(
      thrownBy(() => decoder.next()),
      first,
    );
  });

  it("midPacket distinguishes a truncation from a clean end", () => {
    const decoder = new PacketDecoder();
    const bytes = encodePacket({ type: "error", id: 1, code: 2, message: "no" });
    assert.equal(decoder.midPacket, false);
    for (let at = 0; at < bytes.length; at++) {
      decoder.push(bytes.subarray(at, at + 1));
      if (at < bytes.length - 1) decoder.next();
      assert.equal(decoder.midPacket, true, `after ${at + 1} bytes`);
    }
    decoder.next();
    assert.equal(decoder.midPacket, false);
  });

  it("takeRest returns bytes of an ArrayBuffer, also after shared memory was pushed", () => {
    const decoder = new PacketDecoder();
    const shared = new Uint8Array(new SharedArrayBuffer(3));
    shared.set([1, 2, 3]);
    decoder.push(shared);
    const rest = decoder.takeRest();
    assert.ok(rest.buffer instanceof ArrayBuffer);
    assert.deepEqual(rest, Uint8Array.of(1, 2, 3));
  });

  it("takeRest returns the unconsumed bytes once", () => {
    const decoder = new PacketDecoder();
    decoder.push(joined([encodePacket({ type: "close", id: 1 }), Uint8Array.of(1, 2, 3)]));
    decoder.next();
    assert.deepEqual(decoder.takeRest(), Uint8Array.of(1, 2, 3));
    assert.deepEqual(decoder.takeRest(), new Uint8Array(0));
    assert.equal(decoder.midPacket, false);
  });

  it("the value of a reserved packet stays unchanged while decoding continues", () => {
    const random = seededRandom(5);
    const sent: Packet[] = [];
    for (let at = 0; at < 50; at++) {
      sent.push({ type: "reserved", id: at, tag: 8 + at, value: new Uint8Array(at * 3).fill(at) });
    }
    const decoder = new PacketDecoder();
    const got: Packet[] = [];
    for (const chunk of chunked(joined(sent.map(encodePacket)), random, 11)) {
      decoder.push(chunk);
      for (let packet = decoder.next(); packet !== undefined; packet = decoder.next())
        got.push(packet);
    }
    assert.deepEqual(got, sent);
  });

  it("reads chunks that are views of a larger buffer", () => {
    const packet = encodePacket({ type: "piece-content", id: 3, kind: "standard", metadata });
    const padded = joined([new Uint8Array(13).fill(0xff), packet, new Uint8Array(9).fill(0xff)]);
    const view = padded.subarray(13, 13 + packet.length);
    assert.deepEqual(
      feed([view.subarray(0, 8), view.subarray(8)]),
      complete([decodePacket(packet)]),
    );
  });

  it("ignores empty chunks", () => {
    const packet: Packet = { type: "close", id: 3 };
    const bytes = encodePacket(packet);
    const nothing = new Uint8Array(0);
    assert.deepEqual(
      feed([nothing, bytes.subarray(0, 3), nothing, bytes.subarray(3), nothing]),
      complete([packet]),
    );
  });
});

describe("properties, seeded", () => {
  const uint64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
  const uint8 = fc.nat({ max: 0xff });
  const uint32 = fc.nat({ max: 0xffffffff });
  // Lone surrogates have no UTF-8 form.
  const text = fc
    .string({ unit: "binary", maxLength: 200 })
    .filter((value) => !/\p{Surrogate}/u.test(value));
  const kind = fc.constantFrom(...pieceKinds);
  const plain = { noNullPrototype: true };
  const anyMetadata: fc.Arbitrary<PieceMetadata> = fc.record(
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
  );
  const anyPacket: fc.Arbitrary<Packet> = fc.oneof(
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
      { type: fc.constant("piece-content" as const), id: uint8, kind, metadata: anyMetadata },
      plain,
    ),
    fc.record({ type: fc.constant("close" as const), id: uint8 }, plain),
    fc.record(
      { type: fc.constant("error" as const), id: uint8, code: uint8, message: text },
      plain,
    ),
    fc.record(
      {
        type: fc.constant("reserved" as const),
        id: uint8,
        tag: fc.integer({ min: 8, max: 253 }),
        value: fc.uint8Array({ maxLength: 300 }).map((bytes) => Uint8Array.from(bytes)),
      },
      plain,
    ),
  );

  it("any packet survives encoding and decoding, whole and in random chunks", () => {
    fc.assert(
      fc.property(
        fc.array(anyPacket, { minLength: 1, maxLength: 5 }),
        fc.nat(),
        (packets, seed) => {
          for (const packet of packets)
            assert.deepEqual(decodePacket(encodePacket(packet)), packet);
          const chunks = chunked(joined(packets.map(encodePacket)), seededRandom(seed), 50);
          assert.deepEqual(feed(chunks), complete(packets));
        },
      ),
      { seed: 20_240, numRuns: 300 },
    );
  });

  // Mostly plausible tags and small lengths, so that the bytes get past the header.
  const noise = fc
    .array(
      fc.record({
        tag: fc.oneof(fc.nat({ max: 8 }), fc.constantFrom(254, 255), uint8),
        length: fc.oneof(fc.nat({ max: 100 }), fc.constant(68), uint32),
        metadataLength: fc.oneof(fc.nat({ max: 100 }), uint32),
        tail: fc.uint8Array({ maxLength: 120 }),
      }),
      { minLength: 1, maxLength: 4 },
    )
    .map((parts) =>
      joined(
        parts.flatMap(({ tag, length, metadataLength, tail }) => [
          contentHeader(length, metadataLength, tag),
          Uint8Array.from(tail),
        ]),
      ),
    );

  for (const [what, bytes] of [
    ["random bytes", fc.uint8Array({ maxLength: 400 }).map((some) => Uint8Array.from(some))],
    ["bytes that look like packets", noise],
    [
      "valid packets with one byte changed",
      fc
        .record({ which: fc.nat({ max: valid.length - 1 }), at: fc.nat(), to: uint8 })
        .map(({ which, at, to }) => {
          const bytes = (valid[which] ?? valid[0])?.bytes.slice() ?? new Uint8Array(0);
          bytes[at % bytes.length] = to;
          return bytes;
        }),
    ],
  ] as const) {
    it(`${what}: the same outcome for all chunkings, and only errors of kind peer`, () => {
      fc.assert(
        fc.property(bytes, fc.nat(), (some, seed) => {
          const whole = feed([some]);
          assert.deepEqual(feed([...some].map((byte) => Uint8Array.of(byte))), whole);
          assert.deepEqual(feed(chunked(some, seededRandom(seed), 40)), whole);
          try {
            decodePacket(some);
          } catch (error) {
            assert.ok(error instanceof VortexError && error.kind === "peer", String(error));
          }
        }),
        { seed: 77, numRuns: 500 },
      );
    });
  }
});

interface Outcome {
  readonly packets: Packet[];
  /** Code of the error that ended decoding. */
  readonly failure: string | undefined;
  readonly midPacket: boolean;
}

/** Feeds chunks to a decoder and collects packets after each, until the chunks end or it throws. */
function feed(chunks: readonly Uint8Array[], limits: Partial<DecoderLimits> = {}): Outcome {
  const decoder = new PacketDecoder(limits);
  const packets: Packet[] = [];
  try {
    for (const chunk of chunks) {
      decoder.push(chunk);
      for (let packet = decoder.next(); packet !== undefined; packet = decoder.next())
        packets.push(packet);
    }
  } catch (error) {
    assert.ok(error instanceof VortexError, String(error));
    assert.equal(error.kind, "peer");
    return { packets, failure: error.code, midPacket: true };
  }
  return { packets, failure: undefined, midPacket: decoder.midPacket };
}

function complete(packets: Packet[]): Outcome {
  return { packets, failure: undefined, midPacket: false };
}

/** Converts a packet to the names in the table of vectors. */
function asVerdict(packet: Packet, bytes: Uint8Array): Record<string, unknown> {
  const { id } = packet;
  switch (packet.type) {
    case "download-piece":
      return {
        ok: true,
        id,
        tag: requestTag(packet.kind),
        taskId: packet.taskId,
        number: packet.number,
      };
    case "piece-content": {
      const { offset, length, costSeconds, createdAtSeconds, ...rest } = packet.metadata;
      return {
        ok: true,
        id,
        tag: contentTag(packet.kind),
        metadataLength: bytes.length - HEADER_LENGTH - 4,
        ...rest,
        offset: String(offset),
        length: String(length),
        costSeconds: String(costSeconds),
        createdAtSeconds: String(createdAtSeconds),
      };
    }
    case "close":
      return { ok: true, id, tag: Tag.Close };
    case "error":
      return { ok: true, id, tag: Tag.Error, code: packet.code, message: packet.message };
    case "reserved":
      assert.deepEqual(packet.value, bytes.subarray(HEADER_LENGTH));
      return { ok: true, id, tag: packet.tag };
  }
}

function isCloseWithPayload({ bytes }: Vector): boolean {
  return (
    bytes[1] === Tag.Close &&
    bytes.length > HEADER_LENGTH &&
    bytes.length === HEADER_LENGTH + lengthField(bytes)
  );
}

/** Returns the length in the header; undefined for a truncated header. */
function announcedLength({ bytes }: Vector): number | undefined {
  return bytes.length < HEADER_LENGTH ? undefined : lengthField(bytes);
}

function lengthField(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(2);
}

function header(tag: number, length: number): Uint8Array {
  const bytes = new Uint8Array(HEADER_LENGTH);
  bytes[1] = tag;
  new DataView(bytes.buffer).setUint32(2, length);
  return bytes;
}

function contentHeader(
  length: number,
  metadataLength: number,
  tag: number = Tag.PieceContent,
): Uint8Array {
  const bytes = new Uint8Array(HEADER_LENGTH + 4);
  bytes.set(header(tag, length));
  new DataView(bytes.buffer).setUint32(HEADER_LENGTH, metadataLength);
  return bytes;
}

function named({ name }: Vector): string {
  return name;
}

function lengthOf(chunk: Uint8Array): number {
  return chunk.length;
}
