import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { type Client, Code, ConnectError, createClient } from "@connectrpc/connect";
import { createAsyncIterable } from "@connectrpc/connect/protocol";
import { downloaderSettings } from "../../../src/client/call/settings.ts";
import type { PieceRequest, TransferOptions } from "../../../src/client/downloader.ts";
import { GrpcDownloader } from "../../../src/client/grpc/downloader.ts";
import { digestOf } from "../../../src/digest/digest.ts";
import { portableHashers } from "../../../src/digest/hasher.ts";
import { metadataDigest } from "../../../src/digest/piece-metadata.ts";
import type { ErrorCode, VortexError } from "../../../src/errors.ts";
import { SizeScope, TaskType } from "../../../src/gen/common/v2/common_pb.ts";
import {
  DfdaemonUpload,
  DownloadPieceResponseSchema,
} from "../../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import { type PieceMetadata, pieceKinds } from "../../../src/piece.ts";
import { type ServerOptions, serverSettings } from "../../../src/server/admission/upload.ts";
import type { GrpcRequest } from "../../../src/server/grpc/call.ts";
import { dispatch, grpcDispatcher } from "../../../src/server/grpc/dispatcher.ts";
import { MemoryPieceStore } from "../../../src/store/memory-store.ts";
import type { PieceStore, StoredPiece } from "../../../src/store/store.ts";
import { parseAddress } from "../../../src/transport/address.ts";
import type { GrpcBinding } from "../../../src/transport/grpc.ts";
import { assertRejects } from "../../support/failures.ts";
import { FakeClock, fakeRuntime, settle } from "../../support/fake-clock.ts";
import {
  MemoryGrpcBinding,
  MemoryGrpcConnection,
  type Peer,
  peerServing,
  scriptedPeer,
} from "../../support/grpc.ts";
import { joined, seededBytes } from "../../support/random.ts";

const taskId = "ab".repeat(32);
const addr = "127.0.0.1:4000";
const request: PieceRequest = { addr, hostId: "10.0.0.1-host", taskId, number: 3 };
const content = seededBytes(1, 5000);
const digest = digestOf("crc32", content, portableHashers);

type PieceAnswer = MessageInitShape<typeof DownloadPieceResponseSchema>;
type PieceInit = Exclude<PieceAnswer["piece"], undefined>;

/** Consistent answer, except for `changes` to its piece. */
function answer(changes: Partial<PieceInit> = {}, metadata?: string): PieceAnswer {
  const piece = {
    number: 3,
    offset: 15_000n,
    length: 5000n,
    digest,
    content,
    ...changes,
  } as PieceInit;
  return { piece, ...(metadata !== undefined && { digest: metadata }) };
}

/** Downloader on `binding` and a stopped clock. */
function downloaderOf(binding: GrpcBinding, options: TransferOptions = {}) {
  const clock = new FakeClock();
  const downloader = new GrpcDownloader(
    async () => binding,
    downloaderSettings(options, fakeRuntime(clock)),
  );
  return { downloader, clock };
}

/** Error of downloading piece 3 with answer `given`. Asserts that nothing is left behind. */
async function failure(
  given: PieceAnswer | ConnectError,
  code: ErrorCode,
  more: Partial<PieceRequest> = {},
) {
  const binding = new MemoryGrpcBinding(
    scriptedPeer({
      downloadPiece: () => {
        if (given instanceof ConnectError) throw given;
        return given;
      },
    }),
  );
  const { downloader, clock } = downloaderOf(binding, { maxPieceLength: 8192 });
  const error = await assertRejects(downloader.downloadPiece({ ...request, ...more }), code);
  assert.equal(error.addr, addr);
  assert.equal(downloader.connections()[0]?.activeRequests ?? 0, 0);
  await downloader.close();
  assert.equal(clock.pending, 0);
  return error;
}

/** Store of one task in pieces of 5,000 bytes; its answers pass through `serve`. */
function peerOf(
  store: PieceStore,
  options: ServerOptions = {},
  clock: FakeClock = new FakeClock(),
) {
  const errors: VortexError[] = [];
  const onError = (error: VortexError): void => {
    errors.push(error);
  };
  const settings = serverSettings({ ...options, onError }, fakeRuntime(clock));
  const methods = grpcDispatcher(store, settings);
  return { methods, peer: peerServing(methods), errors, clock };
}

function storeOf(
  bytes: Uint8Array,
  kind: (typeof pieceKinds)[number] = "standard",
): MemoryPieceStore {
  const store = new MemoryPieceStore();
  store.putTask(taskId, bytes, { kind, pieceLength: 5000, createdAtSeconds: 1_700_000_000n });
  return store;
}

const metadata: PieceMetadata = {
  number: 3,
  offset: 15_000n,
  length: 5000n,
  digest,
  parentId: "",
  trafficType: 2,
  costSeconds: 0n,
  createdAtSeconds: 0n,
};

/** Plain Connect client of the service. */
function clientOf(peer: Peer): Client<typeof DfdaemonUpload> {
  const connection = new MemoryGrpcConnection(peer, 1 << 20);
  return createClient(
    DfdaemonUpload,
    connection.transport(() => {}),
  );
}

/** Request without a body. */
const grpcRequest: GrpcRequest = {
  verb: "POST",
  path: "/",
  headers: new Headers({ "content-type": "application/grpc" }),
  body: new Uint8Array(0),
  signal: new AbortController().signal,
  network: "",
  localIp: "",
};

/** Store with one piece, whose bytes come from `read`. */
function storeReading(read: () => AsyncIterable<Uint8Array>): PieceStore {
  const piece: StoredPiece = { metadata, read };
  return { getPiece: async () => piece, getTask: async () => undefined };
}

describe("the metadata digest", () => {
  it("is the CRC-32 of number, offset, length and content digest, like in dfdaemon 1.2.1", () => {
    const piece = { number: 1, offset: 0n, length: 1024n, digest: "crc32:1929153120" };
    assert.equal(metadataDigest("crc32", piece, portableHashers), "crc32:3299754941");
  });

  it("covers each of the four fields", () => {
    const piece = { number: 1, offset: 0n, length: 1024n, digest: "crc32:1929153120" };
    const others = [
      { number: 2 },
      { offset: 1n << 63n },
      { length: 1025n },
      { digest: "crc32:1929153121" },
    ];
    const digests = others.map((change) =>
      metadataDigest("crc32", { ...piece, ...change }, portableHashers),
    );
    assert.equal(new Set([...digests, "crc32:3299754941"]).size, 5);
  });
});

describe("GrpcDownloader against a store", () => {
  for (const kind of pieceKinds) {
    it(`fetches a ${kind} piece by the call for its kind, with all its metadata`, async () => {
      const bytes = seededBytes(2, 12_000);
      const { peer } = peerOf(storeOf(bytes, kind));
      const { downloader, clock } = downloaderOf(new MemoryGrpcBinding(peer));
      const piece = await downloader.downloadPiece({ ...request, number: 2, kind });
      assert.deepEqual(await piece.bytes(), bytes.subarray(10_000));
      assert.deepEqual(
        { number: piece.number, kind: piece.kind, offset: piece.offset, length: piece.length },
        { number: 2, kind, offset: 10_000, length: 2000 },
      );
      assert.equal(piece.digest, digestOf("crc32", bytes.subarray(10_000), portableHashers));
      assert.equal(piece.metadata.createdAtSeconds, 1_700_000_000n);
      assert.equal(piece.metadata.trafficType, 2);
      const other = kind === "cache" ? "standard" : "cache";
      await assertRejects(
        downloader.downloadPiece({ ...request, number: 2, kind: other }),
        "NotFound",
      );
      await downloader.close();
      assert.equal(clock.pending, 0);
    });
  }

  it("returns a range of a piece, and rejects one outside it", async () => {
    const bytes = seededBytes(2, 12_000);
    const { downloader } = downloaderOf(new MemoryGrpcBinding(peerOf(storeOf(bytes)).peer));
    const ask = (start: number, end?: number) =>
      downloader.downloadPiece({
        ...request,
        number: 1,
        range: { start, ...(end !== undefined && { end }) },
      });
    assert.deepEqual(await (await ask(100, 4000)).bytes(), bytes.subarray(5100, 9000));
    assert.deepEqual(await (await ask(4999)).bytes(), bytes.subarray(9999, 10_000));
    assert.deepEqual(await (await ask(0, 0)).bytes(), new Uint8Array(0));
    assert.equal((await ask(7, 8)).length, 5000);
    await assertRejects(ask(0, 5001), "InvalidArgument");
    await downloader.close();
  });

  it("reads the content into the caller's memory, whatever its size", async () => {
    const bytes = seededBytes(2, 12_000);
    const { downloader } = downloaderOf(new MemoryGrpcBinding(peerOf(storeOf(bytes)).peer));
    const memory = new Uint8Array(700);
    // Twice: the memory freed after the first answer is not the server's.
    for (let time = 0; time < 2; time++) {
      const piece = await downloader.downloadPiece({ ...request, number: 1 });
      const parts: Uint8Array[] = [];
      for (
        let part = await piece.read(memory);
        part !== undefined;
        part = await piece.read(memory)
      ) {
        assert.equal(part.buffer, memory.buffer);
        parts.push(part.slice());
      }
      assert.equal(parts.length, 8);
      assert.deepEqual(joined(parts), bytes.subarray(5000, 10_000));
    }
    await downloader.close();
  });

  it("also returns the content as a stream, and counts as active until it is read", async () => {
    const { downloader } = downloaderOf(new MemoryGrpcBinding(peerOf(storeOf(content)).peer));
    const piece = await downloader.downloadPiece({ ...request, number: 0 });
    assert.equal(downloader.connections()[0]?.activeRequests, 1);
    assert.deepEqual(new Uint8Array(await new Response(piece.content).arrayBuffer()), content);
    assert.equal(downloader.connections()[0]?.activeRequests, 0);
    await downloader.close();
  });

  it("dials one connection for all requests to an address", async () => {
    const binding = new MemoryGrpcBinding(peerOf(storeOf(content)).peer);
    const { downloader } = downloaderOf(binding);
    const pieces = await Promise.all(
      Array.from({ length: 5 }, () => downloader.downloadPiece({ ...request, number: 0 })),
    );
    for (const piece of pieces) assert.deepEqual(await piece.bytes(), content);
    await (await downloader.downloadPiece({ ...request, addr: "[::1]:4000", number: 0 })).bytes();
    assert.deepEqual(binding.dialled, [addr, "[::1]:4000"]);
    await downloader.close();
    await assertRejects(downloader.downloadPiece(request), "Closed");
  });

  it("gets the lengths of a task", async () => {
    const { downloader, clock } = downloaderOf(
      new MemoryGrpcBinding(peerOf(storeOf(seededBytes(2, 12_000))).peer),
    );
    assert.deepEqual(await downloader.statTask(addr, taskId), {
      contentLength: 12_000,
      pieceLength: 5000,
    });
    await assertRejects(downloader.statTask(addr, "cd".repeat(32)), "NotFound");
    await downloader.close();
    assert.equal(clock.pending, 0);
  });
});

describe("verification of a piece over gRPC", () => {
  it("a consistent answer passes, with and without a metadata digest", async () => {
    const answers = [answer(), answer({}, metadataDigest("crc32", metadata, portableHashers))];
    const peer = scriptedPeer({ downloadPiece: () => answers.shift() ?? {} });
    const { downloader } = downloaderOf(new MemoryGrpcBinding(peer));
    for (let turn = 0; turn < 2; turn++) {
      assert.deepEqual(await (await downloader.downloadPiece(request)).bytes(), content);
    }
    await assertRejects(downloader.downloadPiece(request), "ProtocolViolation");
    await downloader.close();
  });

  it("64-bit fields keep all their bits", async () => {
    const seconds = (1n << 62n) + 1n;
    const given = answer({
      cost: { seconds },
      createdAt: { seconds: -seconds },
      parentId: "parent",
      trafficType: 1,
    });
    const { downloader } = downloaderOf(
      new MemoryGrpcBinding(scriptedPeer({ downloadPiece: () => given })),
    );
    const piece = await downloader.downloadPiece(request);
    assert.equal(piece.metadata.costSeconds, seconds);
    assert.equal(piece.metadata.createdAtSeconds, -seconds);
    assert.equal(piece.metadata.parentId, "parent");
    assert.equal(piece.metadata.trafficType, 1);
    piece.cancel();
    await downloader.close();
  });

  it("an answer without a piece is a ProtocolViolation", async () => {
    await failure({}, "ProtocolViolation");
  });

  it("another piece number is a PieceMismatch", async () => {
    await failure(answer({ number: 4 }), "PieceMismatch");
  });

  it("more or fewer bytes than announced are a LengthMismatch", async () => {
    await failure(answer({ content: content.subarray(1) }), "LengthMismatch");
    await failure(answer({ length: 4999n }), "LengthMismatch");
    await failure({ piece: { number: 3, length: 5000n, digest } }, "LengthMismatch");
  });

  it("a wrong metadata digest is a DigestMismatch, an unsupported one a ProtocolViolation", async () => {
    const wrong = metadataDigest("crc32", { ...metadata, offset: 0n }, portableHashers);
    assert.match((await failure(answer({}, wrong), "DigestMismatch")).message, /metadata/);
    await failure(answer({}, "md5:900150983cd24fb0d6963f7d28e17f72"), "ProtocolViolation");
    await failure(answer({}, ""), "ProtocolViolation");
  });

  it("a wrong content digest is a DigestMismatch, even for a range", async () => {
    const damaged = content.slice();
    damaged[4000] = (damaged[4000] ?? 0) ^ 1;
    assert.match(
      (await failure(answer({ content: damaged }), "DigestMismatch")).message,
      /content/,
    );
    await failure(answer({ content: damaged }), "DigestMismatch", { range: { start: 0, end: 10 } });
  });

  it("an unsupported content digest is a ProtocolViolation", async () => {
    await failure(answer({ digest: "crc32" }), "ProtocolViolation");
    await failure(answer({ digest: "blake3:00" }), "ProtocolViolation");
  });

  it("a piece without a digest is accepted, unless unverifiedPieces refuses it", async () => {
    const peer = scriptedPeer({ downloadPiece: () => answer({ digest: "" }) });
    const { downloader } = downloaderOf(new MemoryGrpcBinding(peer));
    const piece = await downloader.downloadPiece(request);
    assert.equal(piece.digest, "");
    assert.deepEqual(await piece.bytes(), content);
    const refused = { ...request, unverifiedPieces: "refuse" } as const;
    await assertRejects(downloader.downloadPiece(refused), "ProtocolViolation");
    await failure(answer({ digest: "", length: 4999n }), "LengthMismatch");
  });

  it("a piece over the limit or beyond 2^53 is a LimitExceeded", async () => {
    await failure(answer({ length: 8193n }), "LimitExceeded");
    await failure(answer({ offset: 1n << 53n }), "LimitExceeded");
  });

  it("a message over the limit is a LimitExceeded", async () => {
    await failure(answer({ content: new Uint8Array(80_000), length: 80_000n }), "LimitExceeded");
  });

  it("a stat without lengths is NotFound, one with invalid lengths a ProtocolViolation", async () => {
    const stats = [
      { taskId },
      { taskId, contentLength: 1n },
      { taskId, contentLength: 1n, pieceLength: 0n },
    ];
    const huge = { taskId, contentLength: 1n << 63n, pieceLength: 1n << 22n };
    const answers = [...stats, huge];
    const peer = scriptedPeer({ statLocalTask: () => answers.shift() ?? {} });
    const { downloader } = downloaderOf(new MemoryGrpcBinding(peer));
    await assertRejects(downloader.statTask(addr, taskId), "NotFound");
    await assertRejects(downloader.statTask(addr, taskId), "NotFound");
    await assertRejects(downloader.statTask(addr, taskId), "ProtocolViolation");
    await assertRejects(downloader.statTask(addr, taskId), "ProtocolViolation");
    await downloader.close();
  });
});

describe("codes for gRPC statuses", () => {
  const table: [status: Code, code: ErrorCode][] = [
    [Code.NotFound, "NotFound"],
    [Code.InvalidArgument, "RemoteInvalidArgument"],
    [Code.OutOfRange, "RemoteInvalidArgument"],
    [Code.Unimplemented, "RemoteUnimplemented"],
    [Code.Unavailable, "RemoteBusy"],
    [Code.ResourceExhausted, "RemoteBusy"],
    [Code.Internal, "RemoteInternal"],
    [Code.DataLoss, "RemoteInternal"],
    [Code.DeadlineExceeded, "PieceTimeout"],
    [Code.Canceled, "StreamReset"],
    [Code.Aborted, "RemoteUnknown"],
    [Code.AlreadyExists, "RemoteUnknown"],
    [Code.FailedPrecondition, "RemoteUnknown"],
    [Code.PermissionDenied, "RemoteUnknown"],
    [Code.Unauthenticated, "RemoteUnknown"],
    [Code.Unknown, "RemoteUnknown"],
  ];

  it("cover every status", () => {
    const all = Object.values(Code).filter((value) => typeof value === "number");
    assert.deepEqual(new Set(table.map(([status]) => status)), new Set(all));
  });

  for (const [status, code] of table) {
    it(`${Code[status]} becomes ${code}`, async () => {
      const error = await failure(new ConnectError("so it\nis", status), code);
      assert.match(error.message, /so it is/);
    });
  }

  it("explain what to do about a peer without DownloadPiece", async () => {
    const { downloader } = downloaderOf(new MemoryGrpcBinding(scriptedPeer({})));
    const error = await assertRejects(downloader.downloadPiece(request), "RemoteUnimplemented");
    assert.match(error.message, /1\.2\.1.*"tcp" or "quic"/);
    const stat = await assertRejects(downloader.statTask(addr, taskId), "RemoteUnimplemented");
    assert.doesNotMatch(stat.message, /tcp/);
    await downloader.close();
  });
});

describe("a call ends", () => {
  /** Binding to a peer that never answers. */
  const silent = () => scriptedPeer({ downloadPiece: () => new Promise<never>(() => {}) });

  it("at once by the caller's signal", async () => {
    const { downloader, clock } = downloaderOf(new MemoryGrpcBinding(silent()));
    const controller = new AbortController();
    const call = downloader.downloadPiece({ ...request, signal: controller.signal });
    await settle();
    controller.abort(new Error("enough"));
    const error = await assertRejects(call, "Aborted");
    assert.equal((error.cause as Error).message, "enough");
    await assertRejects(
      downloader.downloadPiece({ ...request, signal: controller.signal }),
      "Aborted",
    );
    assert.equal(downloader.connections()[0]?.activeRequests, 0);
    await downloader.close();
    assert.equal(clock.pending, 0);
  });

  it("by the stall timeout, and its silent connection is not reused", async () => {
    const binding = new MemoryGrpcBinding(silent());
    const { downloader, clock } = downloaderOf(binding, { stallTimeout: 5000 });
    for (let turn = 1; turn <= 2; turn++) {
      const call = assertRejects(downloader.downloadPiece(request), "Stalled");
      assert.equal(await clock.advanceUntil(call, 20_000), 5000);
      assert.equal(binding.dialled.length, turn);
    }
    assert.deepEqual(
      binding.connections.map(({ open }) => open),
      [false, false],
    );
    await downloader.close();
    assert.equal(clock.pending, 0);
  });

  it("by the piece timeout, but not by the stall timeout while bytes keep coming", async () => {
    const binding = new MemoryGrpcBinding(silent());
    const { downloader, clock } = downloaderOf(binding, {
      stallTimeout: 5000,
      pieceTimeout: 60_000,
    });
    const call = assertRejects(downloader.downloadPiece(request), "PieceTimeout");
    for (let seconds = 0; seconds < 59; seconds++) {
      await clock.advance(1000);
      binding.connections[0]?.onBytes();
    }
    await clock.advance(1000);
    await call;
    await downloader.close();
    assert.equal(clock.pending, 0);
  });

  it("by the connect timeout, which aborts the dial", async () => {
    let reason: unknown;
    const never: GrpcBinding = {
      dial: (_remote, { signal }) =>
        new Promise((_resolve, reject) => {
          signal?.addEventListener("abort", () => {
            reason = signal.reason;
            reject(signal.reason);
          });
        }),
    };
    const { downloader, clock } = downloaderOf(never, { connectTimeout: 1500 });
    const call = assertRejects(downloader.downloadPiece(request), "ConnectTimeout");
    assert.equal(await clock.advanceUntil(call, 10_000, 500), 1500);
    assert.equal((reason as VortexError).code, "ConnectTimeout");
    await downloader.close();
    assert.equal(clock.pending, 0);
  });

  it("by a lost connection; a dead pooled connection is replaced once", async () => {
    const binding = new MemoryGrpcBinding(peerOf(storeOf(content)).peer);
    const { downloader } = downloaderOf(binding);
    await (await downloader.downloadPiece({ ...request, number: 0 })).bytes();
    binding.connections[0]?.lose();
    assert.deepEqual(
      await (await downloader.downloadPiece({ ...request, number: 0 })).bytes(),
      content,
    );
    assert.equal(binding.dialled.length, 2);
    await downloader.close();

    const lost = new MemoryGrpcBinding(silent());
    const { downloader: other } = downloaderOf(lost);
    const call = assertRejects(other.downloadPiece(request), "ConnectionLost");
    await settle();
    lost.connections[0]?.lose();
    await call;
    assert.equal(lost.dialled.length, 1);
    await other.close();
  });

  it("when the downloader is closed", async () => {
    const { downloader, clock } = downloaderOf(new MemoryGrpcBinding(silent()));
    const call = assertRejects(downloader.downloadPiece(request), "Closed");
    await settle();
    await downloader.close();
    await call;
    assert.equal(clock.pending, 0);
  });

  it("before the dial for invalid arguments", async () => {
    const binding = new MemoryGrpcBinding(silent());
    const { downloader } = downloaderOf(binding);
    await assertRejects(downloader.downloadPiece({ ...request, number: -1 }), "InvalidArgument");
    await assertRejects(
      downloader.downloadPiece({ ...request, addr: "nowhere" }),
      "InvalidArgument",
    );
    await assertRejects(
      downloader.downloadPiece({ ...request, stallTimeout: 0 }),
      "InvalidArgument",
    );
    assert.deepEqual(binding.dialled, []);
    await downloader.close();
  });
});

describe("grpcDispatcher", () => {
  it("reject an empty task id with INVALID_ARGUMENT", async () => {
    const binding = new MemoryGrpcBinding(peerOf(storeOf(content)).peer);
    const connection = await binding.dial(parseAddress(addr), { maxMessageLength: 1024 });
    const client = createClient(
      DfdaemonUpload,
      connection.transport(() => {}, {}),
    );
    for (const call of [client.downloadPiece({ taskId: "" }), client.statTask({ taskId: "" })])
      await assert.rejects(call, { code: Code.InvalidArgument });
    await connection.close();
  });

  it("report an internal failure to the owner, and hide it from the peer", async () => {
    const broken: PieceStore = {
      getPiece: () => Promise.reject(new Error("/secret/path is gone")),
      getTask: () => Promise.reject(new Error("/secret/path is gone")),
    };
    const { peer, errors } = peerOf(broken);
    const { downloader } = downloaderOf(new MemoryGrpcBinding(peer));
    for (const call of [downloader.downloadPiece(request), downloader.statTask(addr, taskId)]) {
      const error = await assertRejects(call, "RemoteInternal");
      assert.doesNotMatch(error.message, /secret/);
    }
    assert.deepEqual(
      errors.map(({ code, message }) => [code, message]),
      [
        ["StorageFailed", "/secret/path is gone"],
        ["StorageFailed", "/secret/path is gone"],
      ],
    );
    await downloader.close();
  });

  it("answer INTERNAL for a piece that cannot be read", async () => {
    const { peer, errors } = peerOf(
      // biome-ignore lint/correctness/useYield: it fails before its first chunk
      storeReading(async function* () {
        throw new Error("bad sector");
      }),
    );
    const { downloader } = downloaderOf(new MemoryGrpcBinding(peer));
    const error = await assertRejects(downloader.downloadPiece(request), "RemoteInternal");
    assert.doesNotMatch(error.message, /sector/);
    assert.equal(errors.length, 1);
    await downloader.close();
  });

  for (const [what, chunks, code] of [
    ["ends early", [content.subarray(0, 100)], "TruncatedContent"],
    // All announced bytes are sent before, so the status reaches the client.
    ["goes on too long", [content, content], "RemoteInternal"],
    [
      "has a chunk too many in its last",
      [content.subarray(0, 4999), content.subarray(0, 2)],
      "TruncatedContent",
    ],
  ] as const) {
    it(`detect a store whose piece ${what}`, async () => {
      const { peer, errors } = peerOf(storeReading(() => createAsyncIterable([...chunks])));
      const { downloader } = downloaderOf(new MemoryGrpcBinding(peer));
      const call = downloader.downloadPiece(request);
      await assertRejects(call, code);
      assert.equal(errors[0]?.code, "StorageFailed");
      await downloader.close();
    });
  }

  it("read a chunk from the store after the previous one was sent, and release it when the peer leaves", async () => {
    let asked = 0;
    let ended = false;
    const store = storeReading(async function* () {
      try {
        for (let at = 0; at < 5000; at += 500) {
          asked++;
          yield content.subarray(at, at + 500);
        }
      } finally {
        ended = true;
      }
    });
    const { methods } = peerOf(store);
    // Envelope of 66 bytes with field 2, the task id.
    const body = new Uint8Array([0, 0, 0, 0, 66, 0x12, 64, ...new TextEncoder().encode(taskId)]);
    const response = dispatch(methods, {
      ...grpcRequest,
      path: "/dfdaemon.v2.DfdaemonUpload/DownloadPiece",
      body,
    });
    const iterator = response.body;
    assert.ok(iterator);
    assert.equal(asked, 0);
    const head = await iterator.next();
    assert.equal(asked, 1);
    const chunk = await iterator.next();
    assert.deepEqual(chunk.value, content.subarray(0, 500));
    assert.equal(asked, 1);
    assert.ok(!ended);
    await iterator.return();
    assert.ok(ended);
    // Head and content form one envelope around one message, readable for any client of the API.
    const message = new Uint8Array([...(head.value ?? []), ...content]);
    assert.equal(new DataView(message.buffer).getUint32(1), message.length - 5);
    const decoded = fromBinary(DownloadPieceResponseSchema, message.subarray(5));
    assert.deepEqual(decoded.piece?.content, content);
    assert.equal(decoded.piece?.number, 3);
    assert.equal(decoded.piece?.digest, digest);
    assert.equal(decoded.digest, metadataDigest("crc32", metadata, portableHashers));
  });

  it("obey the upload rate limit", async () => {
    const clock = new FakeClock();
    const bytes = seededBytes(4, 25_000);
    const { peer } = peerOf(storeOf(bytes), { uploadRateLimit: 10_000 }, clock);
    const { downloader } = downloaderOf(new MemoryGrpcBinding(peer));
    const calls = Array.from({ length: 5 }, async (_, number) =>
      (await downloader.downloadPiece({ ...request, number })).bytes(),
    );
    // The first second's bytes at once, then 15,000 bytes at 10,000 bytes/s.
    assert.equal(await clock.advanceUntil(Promise.all(calls), 10_000, 500), 1500);
    await downloader.close();
  });

  it("answer StatTask and StatLocalTask from the store", async () => {
    const bytes = seededBytes(2, 12_000);
    const { peer } = peerOf(storeOf(bytes, "cache"));
    const client = clientOf(peer);
    const task = await client.statTask({ taskId });
    assert.equal(task.id, taskId);
    assert.equal(task.type, TaskType.CACHE);
    assert.equal(task.contentLength, 12_000n);
    assert.equal(task.pieceCount, 3);
    assert.equal(task.sizeScope, SizeScope.NORMAL);
    assert.equal(task.state, "Succeeded");
    assert.deepEqual(
      task.pieces.map(({ number, offset, length, content: carried }) => [
        number,
        offset,
        length,
        carried,
      ]),
      [
        [0, 0n, 5000n, undefined],
        [1, 5000n, 5000n, undefined],
        [2, 10_000n, 2000n, undefined],
      ],
    );
    const local = await client.statLocalTask({ taskId });
    assert.equal(local.contentLength, 12_000n);
    assert.equal(local.pieceLength, 5000n);
    assert.equal(local.createdAt?.seconds, 1_700_000_000n);
  });
});
