import type { MessageInitShape } from "@bufbuild/protobuf";
import { REPR_DIGEST, reprDigestOf } from "../../digest/repr-digest.ts";
import {
  type PersistentCacheTaskSchema,
  type PersistentTaskSchema,
  type PieceSchema,
  SizeScope,
  type TaskSchema,
  TaskType,
  type TrafficType,
} from "../../gen/common/v2/common_pb.ts";
import type { StatLocalTaskResponseSchema } from "../../gen/dfdaemon/v2/dfdaemon_pb.ts";
import type { PieceKind, PieceMetadata } from "../../piece.ts";
import type { StoredTask } from "../../store/store.ts";

/**
 * Builds the response to StatTask, without the list of pieces. A scheduler would send the same
 * response if this host were the only peer with the task.
 */
export function taskMessage(task: StoredTask): MessageInitShape<typeof TaskSchema> {
  const { contentLength, digest } = task;
  const { pieceCount, ...common } = commonFields(task);
  return {
    ...common,
    type: taskTypes[task.kind],
    ...(digest !== undefined && { digest }),
    pieceCount,
    sizeScope: sizeScopeOf(contentLength, pieceCount),
    peerCount: 1,
    hasAvailablePeer: true,
  };
}

/**
 * Builds the response to StatPersistentTask, without the list of pieces. It reports one persistent
 * replica, because only this host has a copy and nothing replicates it.
 */
export function persistentTaskMessage(
  task: StoredTask,
): MessageInitShape<typeof PersistentTaskSchema> {
  return { ...commonFields(task), ...oneCopy };
}

/**
 * Builds the response to StatPersistentCacheTask, without the list of pieces. Like
 * {@link persistentTaskMessage}, it reports one persistent replica.
 */
export function persistentCacheTaskMessage(
  task: StoredTask,
): MessageInitShape<typeof PersistentCacheTaskSchema> {
  return { ...commonFields(task), ...oneCopy, pieceLength: BigInt(task.pieceLength) };
}

/**
 * Builds the response to StatLocalTask. The store does not record when a task was completed, so
 * `finishedAt` of a complete task is its creation time.
 */
export function localTaskMessage(
  task: StoredTask,
): MessageInitShape<typeof StatLocalTaskResponseSchema> {
  const { taskId, contentLength, pieceLength, createdAtSeconds: seconds } = task;
  return {
    taskId,
    pieceLength: BigInt(pieceLength),
    contentLength: BigInt(contentLength),
    responseHeader: responseHeader(task),
    createdAt: { seconds },
    updatedAt: { seconds },
    ...(task.complete !== false && { finishedAt: { seconds } }),
  };
}

/**
 * Returns the HTTP response headers of the task's origin, as far as the store has them. The only
 * one is `Repr-Digest` with the digest of the content. The result is empty if the task has no
 * digest, or a crc32 digest.
 */
export function responseHeader({ digest }: StoredTask): Record<string, string> {
  const value = digest === undefined ? undefined : reprDigestOf(digest);
  return value === undefined ? {} : { [REPR_DIGEST]: value };
}

/** Builds the protobuf message of a piece from its metadata, without the content. */
export function pieceFields(metadata: PieceMetadata): MessageInitShape<typeof PieceSchema> {
  const { number, offset, length, digest, parentId, costSeconds, createdAtSeconds } = metadata;
  return {
    number,
    offset,
    length,
    digest,
    ...(parentId !== "" && { parentId }),
    // Enums of proto3 are open: a value without a name is encoded as it is.
    trafficType: metadata.trafficType as TrafficType,
    cost: { seconds: costSeconds },
    createdAt: { seconds: createdAtSeconds },
  };
}

interface CommonFields {
  readonly id: string;
  readonly contentLength: bigint;
  readonly pieceCount: number;
  readonly state: string;
  readonly createdAt: { readonly seconds: bigint };
  readonly updatedAt: { readonly seconds: bigint };
}

function commonFields(task: StoredTask): CommonFields {
  const { taskId: id, contentLength, pieceLength, createdAtSeconds: seconds } = task;
  const pieceCount = Math.ceil(contentLength / pieceLength);
  return {
    id,
    contentLength: BigInt(contentLength),
    pieceCount,
    // Scheduler states of a complete task, and of one that is being fetched.
    state: task.complete === false ? "Running" : "Succeeded",
    createdAt: { seconds },
    updatedAt: { seconds },
  };
}

const oneCopy = {
  persistentReplicaCount: 1n,
  currentPersistentReplicaCount: 1n,
  currentReplicaCount: 1n,
};

const taskTypes: Record<PieceKind, TaskType> = {
  standard: TaskType.STANDARD,
  persistent: TaskType.PERSISTENT,
  "persistent-cache": TaskType.PERSISTENT_CACHE,
  cache: TaskType.CACHE,
};

function sizeScopeOf(contentLength: number, pieceCount: number): SizeScope {
  if (contentLength === 0) return SizeScope.EMPTY;
  if (contentLength < 128) return SizeScope.TINY;
  return pieceCount === 1 ? SizeScope.SMALL : SizeScope.NORMAL;
}
