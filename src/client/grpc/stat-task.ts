import { parseDigest } from "../../digest/digest.ts";
import { digestOfHeader, REPR_DIGEST } from "../../digest/repr-digest.ts";
import { VortexError } from "../../errors.ts";
import { SizeScope } from "../../gen/common/v2/common_pb.ts";
import type { StatLocalTaskResponse } from "../../gen/dfdaemon/v2/dfdaemon_pb.ts";
import { pieceLengthFor } from "../../piece.ts";
import type { TaskStat } from "../task-stat.ts";
import { knownLength } from "./unknown-length.ts";

/** Response of a scheduler about a task of any kind, forwarded by a peer. */
export interface ScheduledTask {
  readonly contentLength: bigint;
  readonly pieceCount: number;
  readonly pieceLength?: bigint;
  /** Size class of the task; standard tasks only. */
  readonly sizeScope?: SizeScope;
  readonly pieces?: readonly {
    readonly number: number;
    readonly offset: bigint;
    readonly length: bigint;
  }[];
  readonly digest?: string | undefined;
}

/**
 * Checks and converts a response of the RPC method StatLocalTask.
 *
 * @throws `NotFound` if the peer does not know the length of the task yet
 * @throws `ProtocolViolation` if the lengths are invalid
 */
export function acceptLocalStat(answer: StatLocalTaskResponse, addr: string): TaskStat {
  const { responseHeader } = answer;
  const contentLength = knownLength(answer.contentLength);
  const pieceLength = knownLength(answer.pieceLength);
  if (contentLength === undefined || pieceLength === undefined) throw unknownLength(addr);
  if (
    pieceLength === 0n ||
    contentLength > Number.MAX_SAFE_INTEGER ||
    pieceLength > Number.MAX_SAFE_INTEGER
  ) {
    throw new VortexError(
      "ProtocolViolation",
      "lengths of the task: expected pieces of 1 or more bytes and at most 2^53 - 1 bytes in all, " +
        `got ${contentLength} bytes in pieces of ${pieceLength}`,
      { addr },
    );
  }
  const header = Object.entries(responseHeader).find(
    ([name]) => name.toLowerCase() === REPR_DIGEST,
  )?.[1];
  const digest = header === undefined ? undefined : digestOfHeader(header);
  return {
    contentLength: Number(contentLength),
    pieceLength: Number(pieceLength),
    ...(digest !== undefined && { digest }),
  };
}

/**
 * Checks and converts a response of the RPC method StatTask, or of its variants for other kinds of
 * task.
 *
 * If the response has no piece length, derives it from the listed pieces, or else from the content
 * length. The piece length must yield the number of pieces in the response.
 *
 * @throws `NotFound` if the scheduler does not know the length of the task yet
 * @throws `ProtocolViolation` if the lengths are invalid, or no piece length fits them
 */
export function acceptScheduledStat(task: ScheduledTask, addr: string): TaskStat {
  const { pieceCount, digest } = task;
  const isUnknown = knownLength(task.contentLength) === undefined;
  if (isUnknown || task.sizeScope === SizeScope.UNKNOW) throw unknownLength(addr);
  const contentLength = Number(task.contentLength);
  const pieceLength = pieceLengths(task, contentLength).find(
    (length) =>
      Number.isSafeInteger(length) &&
      length > 0 &&
      Math.ceil(contentLength / length) === pieceCount,
  );
  if (pieceLength === undefined || contentLength > Number.MAX_SAFE_INTEGER) {
    throw new VortexError(
      "ProtocolViolation",
      "lengths of the task: expected a piece length that yields its number of pieces, " +
        `got ${contentLength} bytes in ${pieceCount} pieces`,
      { addr },
    );
  }
  const supported = digest === undefined ? undefined : normalizedDigest(digest);
  return { contentLength, pieceLength, ...(supported !== undefined && { digest: supported }) };
}

/**
 * Returns a digest in normal form, `algorithm:encoded`. Returns undefined if it is malformed or has
 * an unsupported algorithm, such as `blake3` from stock peers.
 */
function normalizedDigest(text: string): string | undefined {
  try {
    const { algorithm, encoded } = parseDigest(text);
    return `${algorithm}:${encoded}`;
  } catch {
    return undefined;
  }
}

/**
 * Returns candidates for the piece length of a task in bytes, the most reliable one first. A
 * candidate is 0 if it is not known.
 */
function pieceLengths(
  { pieceLength, pieces = [] }: ScheduledTask,
  contentLength: number,
): number[] {
  const first = pieces.find(({ number }) => number === 0);
  const later = pieces.find(({ number }) => number > 0);
  return [
    Number(knownLength(pieceLength) ?? 0n),
    later === undefined ? 0 : Number(later.offset) / later.number,
    Number(first?.length ?? 0n),
    pieceLengthFor(contentLength),
  ];
}

function unknownLength(addr: string): VortexError {
  return new VortexError("NotFound", "length of the task: not known to the peer yet", { addr });
}
