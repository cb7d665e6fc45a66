import { Code, ConnectError } from "@connectrpc/connect";
import { VortexError } from "../../errors.ts";
import type { Download, Range } from "../../gen/common/v2/common_pb.ts";
import { isBlobUrl, taskIdOfBlob, taskIdOfContent, taskIdOfUrl } from "../../ids.ts";
import { planTask } from "../../piece.ts";
import type { StoredTask } from "../../store/store.ts";

/** As stock peers name a task for DownloadTask: dragonfly-client, `grpc/dfdaemon_upload.rs`, `download_task`. */
export function standardTaskId(download: Download): string {
  const {
    url,
    contentForCalculatingTaskId: content,
    pieceLength,
    tag,
    application,
    filteredQueryParams,
  } = download;
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

/** Numbers of pieces that follow each other; none where `last` is less than `first`. */
export interface PieceSpan {
  readonly first: number;
  readonly last: number;
}

/** The pieces that hold bytes of the range, or all. */
export function spanOf(task: StoredTask, range?: Range): PieceSpan {
  const { pieceCount } = planTask(task.contentLength, task.pieceLength);
  if (range === undefined) return { first: 0, last: pieceCount - 1 };
  const contentLength = BigInt(task.contentLength);
  const end = range.start + range.length;
  if (range.length === 0n || range.start >= contentLength) {
    throw invalid(`range ${range.start} to ${end}: the task has ${task.contentLength} bytes`);
  }
  const numberAt = (offset: bigint): number => Number(offset / BigInt(task.pieceLength));
  return {
    first: numberAt(range.start),
    last: numberAt((end < contentLength ? end : contentLength) - 1n),
  };
}

/** Pieces that a peer still waits for. */
export interface WantedPieces {
  readonly size: number;
  /** False when it does not wait for the piece. */
  delete(number: number): boolean;
}

/**
 * The pieces of the task whose numbers are given. Whoever names many keeps a bit for each piece of the task here, as long as it grows;
 * a number that the task will not have is not waited for.
 */
export function wantedPieces(task: StoredTask, numbers: Iterable<number>): WantedPieces {
  const { pieceCount } = planTask(task.contentLength, task.pieceLength);
  const bits = new Uint8Array(Math.ceil(pieceCount / 8));
  let size = 0;
  const has = (number: number): boolean => ((bits[number >>> 3] ?? 0) & (1 << (number & 7))) !== 0;
  const flip = (number: number): void => {
    bits[number >>> 3] = (bits[number >>> 3] ?? 0) ^ (1 << (number & 7));
  };
  for (const number of numbers) {
    if (number >= pieceCount || has(number)) continue;
    flip(number);
    size++;
  }
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

/** The numbers themselves, ascending. */
export function* numbersIn({ first, last }: PieceSpan): Generator<number, void, void> {
  for (let number = first; number <= last; number++) yield number;
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
