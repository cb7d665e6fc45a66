import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { VortexError } from "../errors.ts";
import type { Download, PieceSchema, Range } from "../gen/common/v2/common_pb.ts";
import { isBlobUrl, taskIdOfBlob, taskIdOfContent, taskIdOfUrl } from "../ids.ts";
import { pieceExtent, planTask } from "../piece.ts";
import { pieceFields } from "./grpc-messages.ts";
import type { StoredTask } from "./store.ts";

/** As stock peers name a task for DownloadTask: dragonfly-client, `grpc/dfdaemon_upload.rs`, `download_task`. */
export function standardTaskId(download: Download): string {
  const { url, contentForCalculatingTaskId: content, pieceLength, tag, application, filteredQueryParams } = download;
  const revision = (download.huggingFace ?? download.modelScope)?.revision;
  if (content !== undefined) return taskIdOfContent(content);
  try {
    if (download.enableTaskIdBasedBlobDigest && isBlobUrl(url)) return taskIdOfBlob(url);
    return taskIdOfUrl({
      url,
      filteredQueryParams,
      ...(tag !== undefined && { tag }),
      ...(application !== undefined && { application }),
      ...(revision !== undefined && { revision }),
      ...(pieceLength !== undefined && { pieceLength: Number(pieceLength) }),
    });
  } catch (error) {
    throw invalid(VortexError.from(error, "InvalidArgument").message);
  }
}

/** The pieces that hold bytes of the range, or all, by number; those to come without a digest. */
export function plannedPieces(task: StoredTask, range?: Range): Map<number, MessageInitShape<typeof PieceSchema>> {
  const plan = planTask(task.contentLength, task.pieceLength);
  const start = range?.start ?? 0n;
  const end = range === undefined ? BigInt(task.contentLength) : start + range.length;
  if (range !== undefined && (range.length === 0n || start >= BigInt(task.contentLength))) {
    throw invalid(`range ${start} to ${end}: the task has ${task.contentLength} bytes`);
  }
  const known = new Map(Array.from(task.pieces(), (piece) => [piece.number, piece]));
  const pieces = new Map<number, MessageInitShape<typeof PieceSchema>>();
  for (let number = Number(start / BigInt(task.pieceLength)); number < plan.pieceCount; number++) {
    const { offset, length } = pieceExtent(plan, number);
    if (BigInt(offset) >= end) break;
    const piece = known.get(number);
    const toCome = { number, offset: BigInt(offset), length: BigInt(length) };
    pieces.set(number, piece === undefined ? toCome : pieceFields(piece));
  }
  return pieces;
}

/** Pieces that a peer still waits for. */
export interface WantedPieces {
  readonly size: number;
  /** False when it does not wait for the piece. */
  delete(number: number): boolean;
}

/**
 * The pieces of the task whose numbers are given, or all for none. Whoever names many keeps a bit for each piece of the task here, as long
 * as it grows; a number that the task will not have is not waited for.
 */
export function wantedPieces(task: StoredTask, numbers: readonly number[]): WantedPieces {
  const { pieceCount } = planTask(task.contentLength, task.pieceLength);
  const bits = new Uint8Array(Math.ceil(pieceCount / 8));
  let size = 0;
  const has = (number: number): boolean => ((bits[number >>> 3] ?? 0) & (1 << (number & 7))) !== 0;
  const flip = (number: number): void => {
    bits[number >>> 3] = (bits[number >>> 3] ?? 0) ^ (1 << (number & 7));
  };
  const add = (number: number): void => {
    if (number >= pieceCount || has(number)) return;
    flip(number);
    size++;
  };
  if (numbers.length > 0) for (const number of numbers) add(number);
  else for (let number = 0; number < pieceCount; number++) add(number);
  return {
    get size() {
      return size;
    },
    delete(number) {
      if (!has(number)) return false;
      flip(number);
      size--;
      return true;
    },
  };
}

export function requireTaskId(taskId: string): void {
  if (taskId === "") throw invalid("task_id is empty");
}

/** A peer that could name files here could read and replace any. */
export function requireNoFile(outputPath: string | undefined): void {
  if (outputPath !== undefined) throw invalid("output_path: no files are written here for peers");
}

export function isRange(header: string): boolean {
  return header.toLowerCase() === "range";
}

export function invalid(message: string): ConnectError {
  return new ConnectError(message, Code.InvalidArgument);
}
