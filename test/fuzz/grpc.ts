/** Fuzz property of the gRPC client: responses range from valid messages to arbitrary bytes. */
import assert from "node:assert/strict";
import { create, type DescMessage, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import { GrpcDownloader } from "../../src/client/grpc/downloader.ts";
import { digestOf, parseDigest } from "../../src/digest/digest.ts";
import { portableHashers } from "../../src/digest/hasher.ts";
import { VortexError } from "../../src/errors.ts";
import type { PieceSchema } from "../../src/gen/common/v2/common_pb.ts";
import {
  DownloadPersistentCacheTaskResponseSchema,
  DownloadPieceResponseSchema,
  StatLocalTaskResponseSchema,
  SyncPiecesResponseSchema,
} from "../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import { fakeRuntime } from "../support/fake-clock.ts";
import { abortable, MemoryGrpcBinding, type Peer } from "../support/grpc.ts";
import { chunked, joined, seededBytes, seededRandom } from "../support/random.ts";

const addr = "10.0.0.7:4000";
const taskId = "ab".repeat(32);
const PIECE_LENGTH = 100;
const content = seededBytes(9, 2 * PIECE_LENGTH + 33);
const MAX_PIECE_LENGTH = 1000;

type PieceInit = MessageInitShape<typeof PieceSchema>;

/** Pieces of the task, as an honest peer sends them. */
const honest: readonly PieceInit[] = [0, 1, 2].map((number) => {
  const bytes = content.subarray(number * PIECE_LENGTH, (number + 1) * PIECE_LENGTH);
  const digest = digestOf("crc32", bytes, portableHashers);
  return {
    number,
    offset: BigInt(number * PIECE_LENGTH),
    length: BigInt(bytes.length),
    digest,
    content: bytes,
  };
});

/** Generates `undefined` in 4 of 5 cases, so that few fields change at a time. */
const sometimes = <T>(other: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
  fc.oneof({ weight: 4, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: other });
const uint32 = fc.oneof(fc.nat({ max: 4 }), fc.nat({ max: 0xffffffff }));
const uint64 = fc.oneof(
  fc.bigInt({ min: 0n, max: 300n }),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.constantFrom(2n ** 53n - 1n, 2n ** 53n, 2n ** 64n - 1n),
);
const digest = fc.oneof(
  fc.nat({ max: 0xffffffff }).map((value) => `crc32:${value}`),
  fc.constantFrom(
    "",
    "crc32:",
    "md5:00",
    "sha256:00",
    `sha256:${"0".repeat(64)}`,
    "blake3:00",
    ":",
  ),
  fc.string({ unit: "grapheme", maxLength: 20 }),
);

/** Replacement values for fields of a message. An undefined field stays unchanged. */
interface FieldChanges {
  /** Index of the changed piece. */
  readonly at: number;
  readonly number: number | undefined;
  readonly offset: bigint | undefined;
  readonly length: bigint | undefined;
  readonly digest: string | undefined;
  readonly content: Uint8Array | undefined;
  /** Content length of the task. */
  readonly contentLength: bigint | undefined;
  readonly pieceLength: bigint | undefined;
}

const fieldChanges: fc.Arbitrary<FieldChanges> = fc.record({
  at: fc.nat({ max: 2 }),
  number: sometimes(uint32),
  offset: sometimes(uint64),
  length: sometimes(uint64),
  digest: sometimes(digest),
  content: sometimes(fc.uint8Array({ maxLength: 150 })),
  contentLength: sometimes(uint64),
  pieceLength: sometimes(uint64),
});

/** Changes to the encoded response: message order, bytes, HTTP status, headers and trailers. */
interface Corruption {
  readonly order: readonly number[];
  readonly changes: readonly (readonly [at: number, to: number])[];
  readonly cut: number | undefined;
  readonly before: Uint8Array;
  readonly after: Uint8Array;
  readonly status: number;
  readonly contentType: string;
  readonly trailer: Readonly<Record<string, string>>;
}

const fewBytes = fc.uint8Array({ maxLength: 8 });
const trailers: fc.Arbitrary<Readonly<Record<string, string>>> = fc.oneof(
  { weight: 6, arbitrary: fc.constant({ "grpc-status": "0" }) },
  {
    weight: 2,
    arbitrary: fc.record({
      "grpc-status": fc.oneof(
        fc.integer({ min: -1, max: 20 }).map(String),
        fc.constantFrom("", "x", "1e1", "0x5"),
      ),
      "grpc-message": fc.stringMatching(/^[ -~]{0,30}$/),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ "grpc-status-details-bin": fc.base64String({ maxLength: 40 }) }),
  },
  { weight: 1, arbitrary: fc.constant({}) },
);
const rarely = <T>(usual: T, other: fc.Arbitrary<T>): fc.Arbitrary<T> =>
  fc.oneof({ weight: 8, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: other });
const inOrder = [0, 1, 2, 3] as const;
const corruption: fc.Arbitrary<Corruption> = fc.record({
  order: rarely<readonly number[]>(inOrder, fc.array(fc.nat({ max: 3 }), { maxLength: 6 })),
  changes: rarely<Corruption["changes"]>(
    [],
    fc.array(fc.tuple(fc.nat(), fc.nat({ max: 0xff })), { minLength: 1, maxLength: 4 }),
  ),
  cut: rarely<number | undefined>(undefined, fc.nat()),
  before: rarely(new Uint8Array(0), fewBytes),
  after: rarely(new Uint8Array(0), fewBytes),
  status: rarely(200, fc.constantFrom(204, 302, 404, 429, 500, 503)),
  contentType: rarely(
    "application/grpc",
    fc.constantFrom("application/grpc+json", "text/html", ""),
  ),
  trailer: trailers,
});

/**
 * Client call under test: builds its response messages, and makes the call and checks the result.
 */
interface Call {
  readonly messages: (lie: FieldChanges) => Uint8Array[];
  readonly make: (client: GrpcDownloader) => Promise<void>;
}

const withChanges = (
  { at, number, offset, length, digest, content }: FieldChanges,
  pieces: readonly PieceInit[],
): PieceInit[] =>
  pieces.map((piece, index) => {
    if (index !== at % pieces.length) return piece;
    const changed = Object.entries({ number, offset, length, digest, content }).filter(
      ([, value]) => value !== undefined,
    );
    return { ...piece, ...Object.fromEntries(changed) };
  });

const calls: Readonly<Record<string, Call>> = {
  downloadPiece: {
    messages: (lie) =>
      withChanges(lie, honest.slice(1, 2)).map((piece) =>
        encoded(DownloadPieceResponseSchema, { piece }),
      ),
    async make(client) {
      const piece = await client.downloadPiece({ addr, hostId: "h", taskId, number: 1 });
      const bytes = await piece.bytes();
      assert.equal(piece.number, 1);
      assert.equal(piece.length, bytes.length);
      assertDigest(bytes, piece.digest);
    },
  },
  statLocalTask: {
    messages: ({ contentLength = BigInt(content.length), pieceLength = BigInt(PIECE_LENGTH) }) => [
      encoded(StatLocalTaskResponseSchema, { contentLength, pieceLength }),
    ],
    async make(client) {
      const { contentLength, pieceLength } = await client.statTask(addr, taskId);
      assert.ok(
        Number.isSafeInteger(contentLength) && contentLength >= 0,
        `${contentLength} bytes`,
      );
      assert.ok(
        Number.isSafeInteger(pieceLength) && pieceLength > 0,
        `pieces of ${pieceLength} bytes`,
      );
    },
  },
  syncPieces: {
    messages: (lie) =>
      withChanges(lie, honest).map(({ number = 0, offset = 0n, length = 0n }) =>
        encoded(SyncPiecesResponseSchema, {
          number,
          offset,
          length,
          ip: "10.0.0.8",
          tcpPort: 4005,
        }),
      ),
    async make(client) {
      const seen: { readonly number: number; readonly offset: number; readonly length: number }[] =
        [];
      for await (const piece of client.syncPieces(addr, {
        taskId,
        hostId: "h",
        interestedPieceNumbers: [0, 1, 2],
      })) {
        assert.ok([0, 1, 2].includes(piece.number), `piece ${piece.number} was not asked for`);
        assert.ok(Number.isSafeInteger(piece.offset + piece.length), `piece at ${piece.offset}`);
        seen.push(piece);
      }
      assertDisjoint(seen);
    },
  },
  downloadPersistentCacheTask: {
    messages(lie) {
      const { contentLength = BigInt(content.length) } = lie;
      const ids = { hostId: "h", taskId, peerId: "p" };
      const schema = DownloadPersistentCacheTaskResponseSchema;
      const started = {
        case: "downloadPersistentCacheTaskStartedResponse",
        value: { contentLength },
      } as const;
      return [
        encoded(schema, { ...ids, response: started }),
        ...withChanges(lie, honest).map((piece) =>
          encoded(schema, {
            ...ids,
            response: { case: "downloadPieceFinishedResponse", value: { piece } },
          }),
        ),
      ];
    },
    async make(client) {
      const task = await client.downloadTask(addr, { kind: "persistent-cache", taskId });
      const seen: { readonly number: number; readonly offset: number; readonly length: number }[] =
        [];
      for await (const piece of task) {
        assert.equal(piece.content.length, piece.length);
        assertDigest(piece.content, piece.digest);
        seen.push(piece);
      }
      assertDisjoint(seen);
      const bytes = seen.reduce((sum, { length }) => sum + length, 0);
      assert.equal(bytes, task.contentLength, "a task that ended well has all its bytes");
    },
  },
};

/**
 * Property: for any response, a call yields consistent data or fails with one `VortexError` of kind
 * `peer`, `remote`, `transport` or `timeout`. An unchanged response never fails.
 */
export const grpc: fc.IAsyncProperty<[string, FieldChanges, Corruption, number]> = fc.asyncProperty(
  fc.constantFrom(...Object.keys(calls)),
  fieldChanges,
  corruption,
  fc.nat(),
  async (name, changes, corruption, seed) => {
    const call = calls[name];
    assert.ok(call !== undefined);
    const answer = answerOf(call.messages(changes), corruption);
    const binding = new MemoryGrpcBinding(peerSending(answer, corruption, seed));
    const runtime = fakeRuntime();
    const client = new GrpcDownloader(
      async () => binding,
      downloaderSettings({ maxPieceLength: MAX_PIECE_LENGTH }, runtime),
    );
    let failure: unknown;
    await call.make(client).catch((error: unknown) => {
      failure = error;
    });
    for (const { activeRequests } of client.connections())
      assert.equal(activeRequests, 0, "a request is left");
    await client.close();
    assert.equal(runtime.clock.pending, 0, "timers left");
    if (failure === undefined) return;
    if (!(failure instanceof VortexError)) throw failure;
    const { code, kind, message } = failure;
    assert.ok(
      ["peer", "remote", "transport", "timeout"].includes(kind),
      `${name}: ${code}, ${message}`,
    );
    // Only a changed response may fail.
    assert.ok(isCorrupted(changes, corruption), `${name} of an honest peer: ${code}, ${message}`);
  },
);

function isCorrupted(
  fieldChanges: FieldChanges,
  { order, changes, cut, before, after, status, contentType, trailer }: Corruption,
): boolean {
  const { at: _, ...lies } = fieldChanges;
  return (
    Object.values(lies).some((value) => value !== undefined) ||
    order !== inOrder ||
    changes.length + before.length + after.length > 0 ||
    cut !== undefined ||
    status !== 200 ||
    contentType !== "application/grpc" ||
    trailer["grpc-status"] !== "0"
  );
}

/**
 * Encodes messages with their gRPC prefix (a flag byte and four bytes of length), and applies the
 * corruption.
 */
function answerOf(
  messages: readonly Uint8Array[],
  { order, changes, cut, before, after }: Corruption,
): Uint8Array {
  const chosen = order.flatMap((index) => messages[index] ?? []);
  const frames = chosen.flatMap((message) => {
    const head = new Uint8Array(5);
    new DataView(head.buffer).setUint32(1, message.length);
    return [head, message];
  });
  const bytes = joined([before, ...frames, after]);
  for (const [at, to] of changes) if (bytes.length > 0) bytes[at % bytes.length] = to;
  return cut === undefined ? bytes : bytes.subarray(0, cut % (bytes.length + 1));
}

/** Creates a peer that responds to every call with `bytes` in chunks. */
function peerSending(
  bytes: Uint8Array,
  { status, contentType, trailer }: Corruption,
  seed: number,
): Peer {
  return async ({ signal }) => ({
    status,
    header: new Headers({ "content-type": contentType }),
    trailer: new Headers(trailer),
    body: abortable(
      (async function* () {
        yield* chunked(bytes, seededRandom(seed), 64);
      })(),
      signal,
    ),
  });
}

function encoded<S extends DescMessage>(schema: S, message: MessageInitShape<S>): Uint8Array {
  return toBinary(schema, create(schema, message));
}

function assertDigest(bytes: Uint8Array, text: string): void {
  const { algorithm, encoded } = parseDigest(text);
  assert.equal(digestOf(algorithm, bytes, portableHashers), `${algorithm}:${encoded}`);
}

/** Asserts that pieces have distinct numbers and do not overlap. */
function assertDisjoint(
  pieces: readonly { readonly number: number; readonly offset: number; readonly length: number }[],
) {
  const sorted = pieces.toSorted((a, b) => a.number - b.number);
  for (const [index, { number, offset, length }] of sorted.entries()) {
    assert.ok(length > 0 && length <= MAX_PIECE_LENGTH, `piece ${number} of ${length} bytes`);
    const next = sorted[index + 1];
    if (next === undefined) continue;
    assert.ok(
      next.number > number && next.offset >= offset + length,
      `pieces ${number} and ${next.number} overlap`,
    );
  }
}
