import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { encodeEnvelope } from "@connectrpc/connect/protocol";
import {
  DfdaemonUpload,
  DownloadPieceRequestSchema,
  SyncPiecesRequestSchema,
} from "../../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import { Health } from "../../../src/gen/grpc/health/v1/health_pb.ts";
import { serverSettings } from "../../../src/server/admission/upload.ts";
import { type GrpcRequest, MAX_REQUEST_LENGTH } from "../../../src/server/grpc/call.ts";
import { dispatch, grpcDispatcher } from "../../../src/server/grpc/dispatcher.ts";
import { MemoryPieceStore } from "../../../src/store/memory-store.ts";
import type { PieceStore } from "../../../src/store/store.ts";
import { peerMarker } from "../../../src/transport/peer-marker.ts";
import { FakeClock, fakeRuntime, settle } from "../../support/fake-clock.ts";
import { joined, seededBytes } from "../../support/random.ts";

const taskId = "ab".repeat(32);
const content = seededBytes(1, 12_000);
const service = "/dfdaemon.v2.DfdaemonUpload";
const onePiece = encodeEnvelope(
  0,
  toBinary(DownloadPieceRequestSchema, create(DownloadPieceRequestSchema, { taskId })),
);

/** Dispatcher on a stopped clock, over a store with a complete task. */
function server(options: { readonly uploadRateLimit?: number } = {}) {
  const clock = new FakeClock();
  const store = new MemoryPieceStore();
  store.putTask(taskId, content, { pieceLength: 5000 });
  const settings = serverSettings(options, fakeRuntime(clock));
  return { methods: grpcDispatcher(store, settings), store, clock };
}

function requestOf(
  changes: Partial<Omit<GrpcRequest, "headers">> & {
    readonly headers?: Record<string, string>;
  } = {},
): GrpcRequest {
  return {
    verb: "POST",
    path: `${service}/DownloadPiece`,
    body: onePiece,
    signal: new AbortController().signal,
    network: "10.0.0.1",
    localIp: "10.0.0.9",
    ...changes,
    headers: new Headers({ "content-type": "application/grpc", ...changes.headers }),
  };
}

/** Request for SyncPieces, for all pieces of a task. */
function syncRequest(id: string, changes: Parameters<typeof requestOf>[0] = {}): GrpcRequest {
  const schema = SyncPiecesRequestSchema;
  const body = encodeEnvelope(0, toBinary(schema, create(schema, { taskId: id })));
  return requestOf({ path: `${service}/SyncPieces`, body, ...changes });
}

/** Reads the whole response to a request. */
async function respond(
  request: GrpcRequest,
  { methods }: Pick<ReturnType<typeof server>, "methods"> = server(),
) {
  const { status, headers, body, trailers } = dispatch(methods, request);
  const chunks: Uint8Array[] = [];
  for await (const chunk of body ?? []) chunks.push(chunk);
  return { status, headers, length: joined(chunks).length, trailers };
}

describe("the dispatcher", () => {
  it("has every method of its services by its path", () => {
    const { methods } = server();
    const expected = [DfdaemonUpload, Health].flatMap(({ typeName, methods }) =>
      methods.map(({ name }) => [`/${typeName}/${name}`, name]),
    );
    assert.deepEqual(
      [...methods].map(([path, { descriptor }]) => [path, descriptor.name]).toSorted(),
      expected.toSorted(),
    );
  });

  it("responds UNIMPLEMENTED in the headers to an unknown path, whatever the request", async () => {
    for (const path of ["", "/", `${service}/Nothing`, "/other.Service/DownloadPiece"]) {
      const response = await respond(requestOf({ path, verb: "GET" }));
      assert.equal(response.status, 200);
      assert.deepEqual(Object.fromEntries(response.headers), {
        [peerMarker.name]: peerMarker.value,
        "content-type": "application/grpc",
        "grpc-status": "12",
        "grpc-message": "no such method",
      });
      assert.deepEqual([...response.trailers], []);
    }
  });

  it("marks every response as one of this library", async () => {
    assert.deepEqual(peerMarker, { name: "vortex-peer", value: "1" });
    const { methods } = server();
    const requests = [
      ...[...methods.keys()].map((path) => requestOf({ path, body: new Uint8Array(0) })),
      requestOf(),
      syncRequest("ef".repeat(32)),
      requestOf({ verb: "GET" }),
      requestOf({ path: "/nothing" }),
      requestOf({ headers: { "content-type": "text/plain" } }),
    ];
    for (const request of requests)
      assert.equal(dispatch(methods, request).headers.get("vortex-peer"), "1", request.path);
  });

  it("refuses other HTTP methods with 405, and other media types with 415", async () => {
    assert.equal((await respond(requestOf({ verb: "GET" }))).status, 405);
    const types = ["application/grpc+json", "application/grpc-web", "application/json", "", "x"];
    for (const type of types) {
      const response = await respond(requestOf({ headers: { "content-type": type } }));
      assert.equal(response.status, 415, type);
    }
    const given = requestOf();
    given.headers.delete("content-type");
    assert.equal((await respond(given)).status, 415);
  });

  it("sets the status at the end of the content", async () => {
    const { methods } = server();
    const { body, trailers } = dispatch(methods, requestOf());
    assert.ok(body);
    await body.next();
    assert.equal(trailers.get("grpc-status"), null);
    for await (const _chunk of body);
    assert.equal(trailers.get("grpc-status"), "0");
  });

  const tooLong = encodeEnvelope(0, new Uint8Array(0));
  new DataView(tooLong.buffer).setUint32(1, MAX_REQUEST_LENGTH + 1);
  for (const [what, code, changes] of [
    ["without a message", Code.Unimplemented, { body: new Uint8Array(0) }],
    ["with two messages", Code.Unimplemented, { body: joined([onePiece, onePiece]) }],
    ["with an incomplete message", Code.InvalidArgument, { body: onePiece.subarray(0, 20) }],
    ["with an incomplete prefix", Code.InvalidArgument, { body: onePiece.subarray(0, 4) }],
    ["that announces a message over the limit", Code.ResourceExhausted, { body: tooLong }],
    ["that is not protobuf", Code.Internal, { body: encodeEnvelope(0, Uint8Array.of(255)) }],
    ["with a compressed message", Code.Internal, { body: encodeEnvelope(1, onePiece) }],
    ["with an unknown compression", Code.Unimplemented, { headers: { "grpc-encoding": "gzip" } }],
    ["with a malformed deadline", Code.InvalidArgument, { headers: { "grpc-timeout": "1" } }],
  ] as const) {
    it(`responds ${Code[code]} to a request ${what}`, async () => {
      const response = await respond(requestOf(changes));
      assert.equal(response.status, 200);
      assert.equal(response.trailers.get("grpc-status"), `${code}`);
      assert.equal(response.length, 0);
    });
  }

  it("accepts an identity encoding and a deadline that never passes", async () => {
    for (const timeout of ["1S", "2147484S", "99999999H"]) {
      const { clock, ...rest } = server();
      const headers = { "grpc-encoding": "identity", "grpc-timeout": timeout };
      const response = await respond(requestOf({ headers }), rest);
      assert.equal(response.trailers.get("grpc-status"), "0", timeout);
      assert.ok(response.length > 5000);
      assert.equal(clock.pending, 0);
    }
  });
});

describe("the deadline of a call", () => {
  it("ends with the headers of SyncPieces, which lasts as long as the task grows", async () => {
    const { methods, store, clock } = server();
    const growing = "cd".repeat(32);
    const task = store.startTask(growing, 12_000, { pieceLength: 5000 });
    const headers = { "grpc-timeout": "10S" };
    const { body, trailers } = dispatch(methods, syncRequest(growing, { headers }));
    assert.ok(body);
    // The headers go out before the first piece: a child gives up when none arrive in its deadline.
    assert.deepEqual(await body.next(), { done: false, value: new Uint8Array(0) });
    const announced = body.next();
    await clock.advance(3_600_000);
    assert.equal(clock.pending, 0);
    for (const number of [0, 1, 2])
      task.putPiece(number, content.subarray(number * 5000, (number + 1) * 5000));
    assert.equal((await announced).done, false);
    for await (const _chunk of body);
    assert.equal(trailers.get("grpc-status"), "0");
  });

  it("ends the lookup of a task for SyncPieces with DEADLINE_EXCEEDED", async () => {
    const clock = new FakeClock();
    const settings = serverSettings({}, fakeRuntime(clock));
    const hanging: PieceStore = {
      getPiece: async () => undefined,
      getTask: (_taskId, options) =>
        new Promise((_resolve, reject) => {
          options?.signal?.addEventListener("abort", () => reject(options.signal?.reason));
        }),
    };
    const methods = grpcDispatcher(hanging, settings);
    const headers = { "grpc-timeout": "2S" };
    const response = respond(syncRequest(taskId, { headers }), { methods });
    await settle();
    await clock.advance(1999);
    assert.equal(clock.pending, 1);
    await clock.advance(1);
    const { trailers } = await response;
    assert.equal(trailers.get("grpc-status"), `${Code.DeadlineExceeded}`);
    assert.match(trailers.get("grpc-message") ?? "", /deadline/);
    assert.equal(clock.pending, 0);
  });

  it("ends content that waits for the upload rate limit with DEADLINE_EXCEEDED", async () => {
    const { methods, clock } = server({ uploadRateLimit: 1000 });
    const response = respond(requestOf({ headers: { "grpc-timeout": "1500m" } }), { methods });
    await settle();
    await clock.advanceUntil(response, 10_000, 250);
    const { length, trailers } = await response;
    assert.equal(trailers.get("grpc-status"), `${Code.DeadlineExceeded}`);
    assert.ok(length > 1000 && length < 5000, `${length} bytes`);
  });

  it("is not reported when the peer cancels the call", async () => {
    const { methods, store, clock } = server();
    const growing = "cd".repeat(32);
    store.startTask(growing, 12_000, { pieceLength: 5000 });
    for (const early of [true, false]) {
      const peer = new AbortController();
      const { signal } = peer;
      if (early) peer.abort();
      const headers = { "grpc-timeout": "2S" };
      const response = respond(syncRequest(growing, { headers, signal }), { methods });
      await settle();
      peer.abort();
      const { trailers } = await response;
      assert.equal(trailers.get("grpc-status"), `${Code.Canceled}`);
      assert.equal(clock.pending, 0);
    }
  });
});
