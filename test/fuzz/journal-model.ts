/**
 * Model of a download to a file: the expected use of leftover files. It follows only the
 * documentation of `fileSink` and of the journal's format.
 */
import { digestOf } from "../../src/digest/digest.ts";
import type { DigestAlgorithm } from "../../src/digest/hasher.ts";
import { portableHashers } from "../../src/digest/hasher.ts";
import type { PieceKind } from "../../src/piece.ts";
import type { KnownLayout } from "../../src/task/layout.ts";
import type { TaskStreamOptions } from "../../src/task/task.ts";
import { seededBytes } from "../support/random.ts";

/** Parameters of a download. */
export interface Plan {
  /** Selects the task id. */
  readonly task: number;
  /** Selects the parents' content among several of the same task id and length. */
  readonly content: number;
  readonly kind: PieceKind;
  readonly contentLength: number;
  /** Length of all pieces, or of each piece, in bytes. The last piece has the rest. */
  readonly pieceLengths: number | readonly number[];
  readonly range: { readonly start: number; readonly end: number } | undefined;
  /** Piece digests given by the caller. With `wrong`, the digest of piece 2 does not match. */
  readonly pieceDigests: "none" | "right" | "wrong";
  /** Digest of the whole content given by the caller; unused with a range. */
  readonly taskDigest: "none" | "crc32" | "sha256" | "wrong";
  /** Digest algorithm of the parents. */
  readonly algorithm: DigestAlgorithm;
}

/** Piece, and the requested part of it. */
export interface Part {
  readonly number: number;
  /** Offset of the requested part in the output file. */
  readonly position: number;
  readonly bytes: Uint8Array;
  /** True if the whole piece is requested. */
  readonly isWholePiece: boolean;
  /** Journal line written after the piece is stored. */
  readonly line: string;
  /** Piece digest given by the caller. */
  readonly callerDigest: string | undefined;
  /** True if `callerDigest` does not match the piece. */
  readonly hasWrongDigest: boolean;
}

/** Files of a download. Undefined means absent. */
export interface Files {
  path: Buffer | undefined;
  part: Buffer | undefined;
  journal: Buffer | undefined;
}

/** Request and expected data derived from a {@link Plan}. */
export interface Task {
  readonly request: TaskStreamOptions;
  readonly content: Uint8Array;
  /** Expected content of the output file. */
  readonly wanted: Uint8Array;
  readonly pieces: readonly { readonly offset: number; readonly length: number }[];
  readonly parts: readonly Part[];
  /** Digest announced by the parent for the piece of each part. */
  readonly announced: readonly string[];
  /** First line of a journal started by this download. */
  readonly header: string;
  /**
   * True if the caller gives a digest for every requested piece; leftovers are then not compared.
   */
  readonly hasPieceDigests: boolean;
  /** True if the caller's digest of the whole content does not match. */
  readonly hasWrongDigest: boolean;
}

/** Expected interpretation of the files left by earlier downloads. */
export interface Expectation {
  /** Text of the journal that the download keeps, including the first line. */
  readonly keptText: string;
  /** First line of the kept journal. */
  readonly header: string;
  /** True if the journal records any piece, requested or not. */
  readonly hasEntries: boolean;
  /**
   * True if the process was killed after the rename, so the output file is used as the part file.
   */
  readonly renamed: boolean;
  /** Requested pieces recorded in the journal. */
  readonly recorded: readonly number[];
  /** Recorded pieces whose bytes match; all other pieces are fetched. */
  readonly intact: readonly number[];
  /** Intact pieces whose digest differs from the parent's: they belong to other content. */
  readonly differing: readonly number[];
  /**
   * Intact pieces whose digest is not comparable with the parent's. The algorithms differ, and only
   * a part of the piece is stored.
   */
  readonly incomparable: readonly number[];
}

/** Journal line that marks all pieces as stored. */
export const COMPLETE = '{"complete":true}';

/** Returns seeded content, distinct for each task, number and length. */
export function contentOf(task: number, length: number, number: number = 0): Uint8Array {
  return seededBytes(length + task + 100 * number, length);
}

/** Derives the request and the expected data of a plan. */
export function taskOf(plan: Plan): Task {
  const { task, kind, contentLength, pieceLengths, range, pieceDigests, taskDigest, algorithm } =
    plan;
  const content = contentOf(task, contentLength, plan.content);
  const { start, end } = range ?? { start: 0, end: contentLength };
  const pieces = piecesOf(contentLength, pieceLengths);
  const parts = pieces.flatMap(({ offset, length }, number): Part[] => {
    const from = Math.max(offset, start);
    const to = Math.min(offset + length, end);
    if (from >= to) return [];
    const bytes = content.subarray(from, to);
    const piece = content.subarray(offset, offset + length);
    const pieceDigest = pieceDigests === "none" ? undefined : digestBytes("sha256", piece);
    const hasWrongDigest = pieceDigests === "wrong" && number === 2;
    return [
      {
        number,
        position: from - start,
        bytes,
        isWholePiece: bytes.length === length,
        line: lineOf(number, pieceDigest ?? digestBytes(algorithm, piece), crc32(bytes)),
        callerDigest: hasWrongDigest ? digestBytes("sha256", content) : pieceDigest,
        hasWrongDigest,
      },
    ];
  });
  const taskId = `a${task}`.repeat(32);
  const pieceLength = typeof pieceLengths === "number" ? pieceLengths : null;
  const sized = { contentLength, pieceLength, start, length: end - start };
  const hasWrongTaskDigest = taskDigest === "wrong" && range === undefined;
  const digest: { readonly digest?: string } =
    taskDigest === "none" || range !== undefined
      ? {}
      : { digest: digestOfTask(taskDigest, content) };
  const layout: KnownLayout =
    typeof pieceLengths === "number" && pieceDigests === "none"
      ? { contentLength, pieceLength: pieceLengths }
      : {
          pieces: pieces.map((piece, number) => {
            const digest = parts.find((part) => part.number === number)?.callerDigest;
            return { number, ...piece, ...(digest !== undefined && { digest }) };
          }),
        };
  return {
    content,
    wanted: content.subarray(start, end),
    pieces,
    parts,
    hasWrongDigest: hasWrongTaskDigest,
    header: JSON.stringify({ version: 2, taskId, kind, ...sized, digest: digest.digest ?? null }),
    hasPieceDigests: pieceDigests !== "none" || parts.length === 0,
    announced: parts.map(({ number }) =>
      digestBytes(algorithm, content.subarray(pieces[number]?.offset, endOf(pieces[number]))),
    ),
    request: {
      taskId,
      kind,
      hostId: "h",
      parents: ["a:1"],
      ...layout,
      ...digest,
      ...(range && { range }),
    },
  };
}

/** Formats the journal line of a piece. */
export function lineOf(
  number: unknown,
  digest: unknown,
  crc32: unknown,
  source: unknown = "a:1",
): string {
  return JSON.stringify({ number, digest, crc32, source });
}

/** Returns the digest of `bytes`, as `algorithm:encoded`. */
export function digestBytes(algorithm: DigestAlgorithm, bytes: Uint8Array): string {
  return digestOf(algorithm, bytes, portableHashers);
}

export function crc32(bytes: Uint8Array): number {
  return Number(digestBytes("crc32", bytes).slice("crc32:".length));
}

/**
 * Derives the expected interpretation of leftover files.
 *
 * A journal is valid for the same task, piece lengths and range, unless its digest of the whole
 * contradicts the caller's. It is read up to its last complete line; the last line of a piece
 * counts. A piece is intact if its bytes match every checksum given for them.
 */
export function expectationOf(
  { header, parts, wanted, announced }: Task,
  { path, part, journal }: Files,
): Expectation {
  const text = journal?.toString("latin1", 0, journal.lastIndexOf("\n") + 1) ?? "";
  const firstLine = text.slice(0, Math.max(0, text.indexOf("\n")));
  const isKnown = isResumable(firstLine, header);
  const lines = isKnown ? text.split("\n").slice(1, -1) : [];
  const entries = new Map(lines.flatMap(parseLine));
  const isComplete = lines.includes(COMPLETE) && entries.size > 0;
  const renamed = isComplete && part === undefined && path?.length === wanted.length;
  const bytes = renamed ? path : part;
  const found = parts.filter(({ number }) => entries.has(number));
  const intact = found.filter(
    ({ number, isWholePiece, position, bytes: expected, callerDigest }) => {
      const actual = bytes?.subarray(position, position + expected.length) ?? new Uint8Array(0);
      const { digest = "", crc32: checksum } = entries.get(number) ?? {};
      if (actual.length < expected.length || crc32(actual) !== checksum) return false;
      if (!isWholePiece) return callerDigest === undefined || inLowerCase(digest) === callerDigest;
      return [digest, callerDigest ?? digest].every(
        (each) => digestBytes(algorithmOf(each), actual) === inLowerCase(each),
      );
    },
  );
  const kinds = intact.map(({ number, isWholePiece, position, bytes: expected }) => {
    const { digest = "" } = entries.get(number) ?? {};
    const parentDigest = announced[parts.findIndex((each) => each.number === number)] ?? "";
    const there = bytes?.subarray(position, position + expected.length) ?? new Uint8Array(0);
    if (algorithmOf(digest) === algorithmOf(parentDigest))
      return inLowerCase(digest) === parentDigest ? "same" : "other";
    if (!isWholePiece) return "incomparable";
    return digestBytes(algorithmOf(parentDigest), there) === parentDigest ? "same" : "other";
  });
  const ofKind = (kind: string): number[] =>
    intact.filter((_, at) => kinds[at] === kind).map(({ number }) => number);
  return {
    differing: ofKind("other"),
    incomparable: ofKind("incomparable"),
    header: isKnown ? firstLine : header,
    keptText: isKnown ? text : `${header}\n`,
    hasEntries: entries.size > 0,
    renamed,
    recorded: found.map(({ number }) => number),
    intact: intact.map(({ number }) => number),
  };
}

/** Returns true if a download with `header` resumes a journal that begins with the line `first`. */
function isResumable(first: string, header: string): boolean {
  const taskDigest = /"digest":(?:null|"([^"]*)")\}$/;
  const [found, known] = [taskDigest.exec(first), taskDigest.exec(header)];
  if (
    found === null ||
    known === null ||
    first.replace(taskDigest, "") !== header.replace(taskDigest, "")
  )
    return false;
  const [recordedDigest, callerDigest] = [found[1], known[1]];
  if (recordedDigest === undefined) return true;
  if (!isDigest(recordedDigest)) return false;
  return (
    callerDigest === undefined ||
    algorithmOf(recordedDigest) !== algorithmOf(callerDigest) ||
    inLowerCase(recordedDigest) === callerDigest
  );
}

function endOf(piece: { readonly offset: number; readonly length: number } | undefined): number {
  return (piece?.offset ?? 0) + (piece?.length ?? 0);
}

/** Parses the journal line of a piece. Returns an empty array if it is invalid. */
function parseLine(line: string): [number, { readonly digest: string; readonly crc32: number }][] {
  try {
    const { number, digest, crc32 } = JSON.parse(line);
    if (!Number.isInteger(number) || typeof digest !== "string" || typeof crc32 !== "number")
      return [];
    return isDigest(digest) ? [[number, { digest, crc32 }]] : [];
  } catch {
    return [];
  }
}

function isDigest(text: string): boolean {
  const shape = /^(crc32:(0|[1-9]\d{0,9})|sha256:[\da-f]{64}|sha512:[\da-f]{128})$/;
  return shape.test(inLowerCase(text)) && !(Number(text.slice(6)) > 0xffffffff);
}

/** Lowers the case of a digest's hex digits, which may be of either case. */
function inLowerCase(digest: string): string {
  return digest.replace(/:.*$/, (encoded) => encoded.toLowerCase());
}

function algorithmOf(digest: string): DigestAlgorithm {
  return digest.slice(0, digest.indexOf(":")) as DigestAlgorithm;
}

function digestOfTask(whole: "crc32" | "sha256" | "wrong", content: Uint8Array): string {
  return whole === "wrong"
    ? digestBytes("sha256", content.subarray(1))
    : digestBytes(whole, content);
}

function piecesOf(
  length: number,
  cut: number | readonly number[],
): { offset: number; length: number }[] {
  const pieces: { offset: number; length: number }[] = [];
  for (let offset = 0; offset < length; ) {
    const next = typeof cut === "number" ? cut : (cut[pieces.length] ?? length);
    pieces.push({ offset, length: Math.min(next, length - offset) });
    offset += next;
  }
  return pieces;
}
