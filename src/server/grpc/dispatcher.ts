import {
  create,
  type DescMethod,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { TaskSchema } from "../../gen/common/v2/common_pb.ts";
import { DfdaemonUpload } from "../../gen/dfdaemon/v2/dfdaemon_pb.ts";
import { Health } from "../../gen/grpc/health/v1/health_pb.ts";
import type { PieceStore } from "../../store/store.ts";
import { peerMarker } from "../../transport/peer-marker.ts";
import type { ServerSettings } from "../admission/upload.ts";
import {
  type Call,
  encodedMessage,
  type GrpcMethod,
  type GrpcRequest,
  type GrpcResponse,
  grpcMethod,
  HEADERS_ONLY,
  type Implementation,
  pathOf,
} from "./call.ts";
import { downloadPiece } from "./download-piece.ts";
import {
  downloadTask,
  persistentCacheDownload,
  persistentDownload,
  standardDownload,
} from "./download-task.ts";
import { checkHealth, watchHealth } from "./health.ts";
import { listingOf } from "./listing.ts";
import {
  localTaskMessage,
  persistentCacheTaskMessage,
  persistentTaskMessage,
  taskMessage,
} from "./messages.ts";
import { stat } from "./stat.ts";
import { syncHost } from "./sync-host.ts";
import { syncPieces } from "./sync-pieces.ts";
import { type UploadServiceOptions, uploadService } from "./upload-service.ts";

/** Methods of a gRPC server, by request path. */
export type GrpcDispatcher = ReadonlyMap<string, GrpcMethod>;

/**
 * Creates the table of the gRPC methods that serve the tasks of `store` as the service
 * `dfdaemon.v2.DfdaemonUpload`: DownloadPiece, DownloadTask, SyncPieces and StatTask, their
 * variants for other kinds of task, StatLocalTask and SyncHost; and the service
 * `grpc.health.v1.Health`.
 *
 * The server sends only tasks that are in `store`, complete or growing. It downloads nothing on
 * behalf of a peer. An internal failure goes to `settings.onError`; the peer receives INTERNAL
 * without details.
 */
export function grpcDispatcher(
  store: PieceStore,
  settings: ServerSettings,
  options: UploadServiceOptions = {},
): GrpcDispatcher {
  const service = uploadService(store, settings, options);
  const { hashers } = settings.runtime;
  const methods = new MethodTable(settings);
  const rpc = DfdaemonUpload.method;

  methods.add(rpc.downloadPiece, (request, call) =>
    downloadPiece(service, "standard", request, call),
  );
  methods.add(rpc.downloadPersistentPiece, (request, call) =>
    downloadPiece(service, "persistent", request, call),
  );
  methods.add(rpc.downloadPersistentCachePiece, (request, call) =>
    downloadPiece(service, "persistent-cache", request, call),
  );
  methods.add(rpc.downloadCachePiece, (request, call) =>
    downloadPiece(service, "cache", request, call),
  );

  methods.add(rpc.downloadTask, (request, call) =>
    downloadTask(service, standardDownload(request, settings.idVersion), call),
  );
  methods.add(rpc.downloadPersistentTask, (request, call) =>
    downloadTask(service, persistentDownload(request, hashers), call),
  );
  methods.add(rpc.downloadPersistentCacheTask, (request, call) =>
    downloadTask(service, persistentCacheDownload(request), call),
  );

  methods.addStreaming(rpc.syncPieces, (request, call) =>
    syncPieces(service, "standard", request, call),
  );
  methods.addStreaming(rpc.syncPersistentPieces, (request, call) =>
    syncPieces(service, "persistent", request, call),
  );
  methods.addStreaming(rpc.syncPersistentCachePieces, (request, call) =>
    syncPieces(service, "persistent-cache", request, call),
  );
  methods.addStreaming(rpc.syncCachePieces, (message, call) => {
    const { taskId, interestedCachePieceNumbers: interestedPieceNumbers } = message;
    message.interestedCachePieceNumbers = [];
    return syncPieces(service, "cache", { taskId, interestedPieceNumbers }, call);
  });

  methods.addUnary(rpc.statTask, async (request, call) => {
    const task = await stat(service, "stat_task", undefined, request, call);
    const pieces = listingOf(task).stored(task, TaskSchema.field.pieces.number);
    return Object.assign(create(TaskSchema, taskMessage(task)), { $unknown: pieces });
  });
  methods.addUnary(rpc.statLocalTask, async (request, call) =>
    localTaskMessage(await stat(service, "stat_local_task", undefined, request, call)),
  );
  methods.addUnary(rpc.statPersistentTask, async (request, call) =>
    persistentTaskMessage(await stat(service, "stat_task", "persistent", request, call)),
  );
  methods.addUnary(rpc.statPersistentCacheTask, async (request, call) =>
    persistentCacheTaskMessage(await stat(service, "stat_task", "persistent-cache", request, call)),
  );

  methods.addStreaming(rpc.syncHost, (_request, call) => syncHost(service, call));
  methods.addUnary(Health.method.check, async (request) => checkHealth(service, request.service));
  methods.addStreaming(Health.method.watch, (request, call) =>
    watchHealth(service, request.service, call),
  );
  return methods.byPath;
}

/**
 * Passes a request to the method with its path, and returns the response. For an unknown path, the
 * response is UNIMPLEMENTED (https://grpc.io/docs/guides/status-codes/). Every response has the
 * header {@link peerMarker}.
 */
export function dispatch(methods: GrpcDispatcher, request: GrpcRequest): GrpcResponse {
  const response = methods.get(request.path)?.handler(request) ?? noSuchMethod();
  response.headers.set(peerMarker.name, peerMarker.value);
  return response;
}

/** Chunk of a response that sends its headers and no message. */
const EMPTY = new Uint8Array(0);

function noSuchMethod(): GrpcResponse {
  const headers = new Headers({
    "content-type": "application/grpc",
    "grpc-status": `${Code.Unimplemented}`,
    "grpc-message": "no such method",
  });
  return { status: 200, headers, trailers: new Headers() };
}

/** Collects the methods of a server. */
class MethodTable {
  readonly byPath = new Map<string, GrpcMethod>();
  readonly #settings: ServerSettings;

  constructor(settings: ServerSettings) {
    this.#settings = settings;
  }

  /** Adds a method whose implementation encodes the messages of the response. */
  add<M extends DescMethod>(descriptor: M, implementation: Implementation<M>): void {
    this.byPath.set(pathOf(descriptor), grpcMethod(descriptor, implementation, this.#settings));
  }

  /**
   * Adds a method whose implementation yields the messages of the response. {@link HEADERS_ONLY}
   * among them sends the response headers.
   */
  addStreaming<M extends DescMethod>(
    descriptor: M,
    implementation: (
      request: MessageShape<M["input"]>,
      call: Call,
    ) => AsyncIterable<MessageInitShape<M["output"]> | typeof HEADERS_ONLY>,
  ): void {
    this.add(descriptor, async function* (request, call) {
      for await (const message of implementation(request, call)) {
        if (message === HEADERS_ONLY) yield EMPTY;
        else yield encodedMessage<M["output"]>(descriptor.output, message);
      }
    });
  }

  /** Adds a method whose implementation returns the only message of the response. */
  addUnary<M extends DescMethod>(
    descriptor: M,
    implementation: (
      request: MessageShape<M["input"]>,
      call: Call,
    ) => Promise<MessageInitShape<M["output"]>>,
  ): void {
    this.add(descriptor, async function* (request, call) {
      yield encodedMessage<M["output"]>(descriptor.output, await implementation(request, call));
    });
  }
}
