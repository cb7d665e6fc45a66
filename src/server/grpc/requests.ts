import { Code, ConnectError } from "@connectrpc/connect";
import { VortexError } from "../../errors.ts";
import type { Download, Range } from "../../gen/common/v2/common_pb.ts";
import { type IdVersion, standardTaskId } from "../../ids.ts";
import { planTask } from "../../piece.ts";
import type { StoredTask } from "../../store/store.ts";

/**
 * Derives the ID of a standard task from the fields of a DownloadTask request, like dfdaemon of the
 * version `idVersion`. Source: dragonfly-client, `grpc/dfdaemon_upload.rs`, `download_task`.
 *
 * @throws INVALID_ARGUMENT if the URL is not absolute
 */
export function requestedTaskId(download: Download, idVersion: IdVersion): string {
  const { url, pieceLength, tag, application, filteredQueryParams } = download;
  try {
    return standardTaskId({
      url,
      content: download.contentForCalculatingTaskId,
      blobDigest: download.enableTaskIdBasedBlobDigest,
      filteredQueryParams,
      tag,
      application,
      revision: (download.huggingFace ?? download.modelScope)?.revision,
      pieceLength,
      idVersion,
    });
  } catch (error) {
    throw invalid(VortexError.from(error, "InvalidArgument").message);
  }
}

/**
 * Range of piece numbers from `first` to `last`, both included. Empty if `last` is less than
 * `first`.
 */
export interface PieceSpan {
  readonly first: number;
  readonly last: number;
}

/**
 * Returns the numbers of the pieces that contain at least one byte of `range`. Without `range`,
 * returns all pieces of the task.
 *
 * @throws INVALID_ARGUMENT if the range is empty or starts at or after the end of the content
 */
export function spanOf(task: StoredTask, range?: Range): PieceSpan {
  const { pieceCount } = planTask(task.contentLength, task.pieceLength);
  if (range === undefined) return { first: 0, last: pieceCount - 1 };
  const contentLength = BigInt(task.contentLength);
  const end = range.start + range.length;
  if (range.length === 0n || range.start >= contentLength) {
    throw invalid(
      `range: expected bytes within 0 to ${task.contentLength}, got ${range.start} to ${end}`,
    );
  }
  const numberAt = (offset: bigint): number => Number(offset / BigInt(task.pieceLength));
  return {
    first: numberAt(range.start),
    last: numberAt((end < contentLength ? end : contentLength) - 1n),
  };
}

/** Set of the pieces that a peer requested and that have not been sent yet. */
export interface WantedPieces {
  /** Number of pieces in the set. */
  readonly size: number;
  /** Removes a piece from the set. Returns false if the set does not contain it. */
  delete(number: number): boolean;
}

/**
 * Creates the set of the pieces with the given numbers. Ignores duplicates, and numbers that are
 * not less than the number of pieces in the task. Needs one bit of memory per piece of the task,
 * however many numbers a peer sends.
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

/** Yields the piece numbers from `first` to `last` in ascending order. */
export function* numbersIn({ first, last }: PieceSpan): Generator<number, void, void> {
  for (let number = first; number <= last; number++) yield number;
}

/**
 * Checks that a request contains a task ID.
 *
 * @throws INVALID_ARGUMENT if `taskId` is empty
 */
export function requireTaskId(taskId: string): void {
  if (taskId === "") throw invalid("task_id: expected text, got none");
}

/**
 * Rejects a request that names an output file. Otherwise a peer could read and overwrite any file
 * of this host.
 *
 * @throws INVALID_ARGUMENT if `outputPath` is set
 */
export function requireNoFile(outputPath: string | undefined): void {
  if (outputPath !== undefined)
    throw invalid("output_path: expected none, since files are not written for peers");
}

/** Returns true if `header` is the name of the HTTP header `Range`, in any case. */
export function isRange(header: string): boolean {
  return header.toLowerCase() === "range";
}

export function invalid(message: string): ConnectError {
  return new ConnectError(message, Code.InvalidArgument);
}
