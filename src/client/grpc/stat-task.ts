import { parseDigest } from "../../digest/digest.ts";
import { digestOfHeader, REPR_DIGEST } from "../../digest/repr-digest.ts";
import { VortexError } from "../../errors.ts";
import type { StatLocalTaskResponse } from "../../gen/dfdaemon/v2/dfdaemon_pb.ts";
import { pieceLengthFor } from "../../piece.ts";

/** How a task is cut into pieces, as a peer tells it. */
export interface TaskStat {
  /** Bytes of the task. */
  readonly contentLength: number;
  /** Bytes of each piece but the last. */
  readonly pieceLength: number;
  /** Digest of the whole content, `algorithm:encoded`, where the peer tells one that can be checked: by a header of the origin's, or its scheduler. */
  readonly digest?: string;
}

/** What a scheduler says of a task, of any kind. */
export interface ScheduledTask {
  readonly contentLength: bigint;
  readonly pieceCount: number;
  readonly pieceLength?: bigint;
  readonly pieces?: readonly {
    readonly number: number;
    readonly offset: bigint;
    readonly length: bigint;
  }[];
  readonly digest?: string | undefined;
}

/** What StatLocalTask says. @throws `NotFound`, `ProtocolViolation` */
export function acceptLocalStat(answer: StatLocalTaskResponse, addr: string): TaskStat {
  const { contentLength, pieceLength, responseHeader } = answer;
  if (contentLength === undefined || pieceLength === undefined) throw unknownLength(addr);
  if (
    pieceLength === 0n ||
    contentLength > Number.MAX_SAFE_INTEGER ||
    pieceLength > Number.MAX_SAFE_INTEGER
  ) {
    const message = `a task of ${contentLength} bytes in pieces of ${pieceLength} announced`;
    throw new VortexError("ProtocolViolation", message, { addr });
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
 * What StatTask or a twin says, which is what the peer's scheduler knows. Few of them tell the piece length; it follows from
 * the pieces, and where none is told of from the content length, and the number of pieces shows whether that is right.
 *
 * @throws `NotFound`, `ProtocolViolation`
 */
export function acceptScheduledStat(task: ScheduledTask, addr: string): TaskStat {
  const { pieceCount, digest } = task;
  if (task.contentLength === UNKNOWN_LENGTH) throw unknownLength(addr);
  const contentLength = Number(task.contentLength);
  const pieceLength = pieceLengths(task, contentLength).find(
    (length) =>
      Number.isSafeInteger(length) &&
      length > 0 &&
      Math.ceil(contentLength / length) === pieceCount,
  );
  if (pieceLength === undefined || contentLength > Number.MAX_SAFE_INTEGER) {
    const message = `a task of ${contentLength} bytes in ${pieceCount} pieces of no known length announced`;
    throw new VortexError("ProtocolViolation", message, { addr });
  }
  const told = digest === undefined ? undefined : checkable(digest);
  return { contentLength, pieceLength, ...(told !== undefined && { digest: told }) };
}

/** The digest in its one form; undefined for one that this library cannot check, as a `blake3:` of stock peers, or that is none. */
function checkable(text: string): string | undefined {
  try {
    const { algorithm, encoded } = parseDigest(text);
    return `${algorithm}:${encoded}`;
  } catch {
    return undefined;
  }
}

/** The scheduler's word for a length that it does not know: -1 in 64 bits. */
const UNKNOWN_LENGTH = 0xffff_ffff_ffff_ffffn;

/** What the piece length may be, most certain first. */
function pieceLengths(
  { pieceLength, pieces = [] }: ScheduledTask,
  contentLength: number,
): number[] {
  const first = pieces.find(({ number }) => number === 0);
  const later = pieces.find(({ number }) => number > 0);
  return [
    Number(pieceLength ?? 0n),
    later === undefined ? 0 : Number(later.offset) / later.number,
    Number(first?.length ?? 0n),
    pieceLengthFor(contentLength),
  ];
}

function unknownLength(addr: string): VortexError {
  return new VortexError("NotFound", "the peer does not know the length of the task yet", { addr });
}
