/** What a download to a file has to make of what is there, told by the documents alone: `fileSink`, and the journal's form. */
import { digestOf } from "../../src/digest/digest.ts";
import type { DigestAlgorithm } from "../../src/digest/hasher.ts";
import { portableHashers } from "../../src/digest/hasher.ts";
import type { PieceKind } from "../../src/piece.ts";
import type { KnownLayout } from "../../src/task/layout.ts";
import type { TaskRequest } from "../../src/task/task.ts";
import { seededBytes } from "../support/random.ts";

/** What somebody asks for. */
export interface Plan {
  readonly task: number;
  /** The parents have another content under the same task id, of the same length, when this is another one. */
  readonly content: number;
  readonly kind: PieceKind;
  readonly contentLength: number;
  /** Bytes of a piece; or of each, and the last one has the rest. */
  readonly cut: number | readonly number[];
  readonly range: { readonly start: number; readonly end: number } | undefined;
  /** Digests of pieces that the caller names; a wrong one is that of piece 2. */
  readonly named: "none" | "right" | "wrong";
  /** Digest of the whole that the caller names, where there is no range. */
  readonly whole: "none" | "crc32" | "sha256" | "wrong";
  /** What parents announce digests by. */
  readonly algorithm: DigestAlgorithm;
}

/** A piece, and what is wanted of it. */
export interface Part {
  readonly number: number;
  /** Where what is wanted of it lies in the file. */
  readonly position: number;
  readonly bytes: Uint8Array;
  /** Whether all of it is wanted. */
  readonly whole: boolean;
  /** The line of the journal, once it is there. */
  readonly line: string;
  /** The digest that the caller names, and whether it is another's. */
  readonly named: string | undefined;
  readonly misnamed: boolean;
}

/** The files of a download, each absent when undefined. */
export interface Files {
  path: Buffer | undefined;
  part: Buffer | undefined;
  journal: Buffer | undefined;
}

/** A plan, worked out. */
export interface Task {
  readonly request: TaskRequest;
  readonly content: Uint8Array;
  /** What the file has to be. */
  readonly wanted: Uint8Array;
  readonly pieces: readonly { readonly offset: number; readonly length: number }[];
  readonly parts: readonly Part[];
  /** What the parent announces of each part's piece. */
  readonly announced: readonly string[];
  /** The first line of a journal that this begins. */
  readonly header: string;
  /** Whether the caller names the digest of every piece that is wanted: then no parent is asked about what is there. */
  readonly isNamed: boolean;
  /** Whether the caller names a digest of the whole that it does not have. */
  readonly wrong: boolean;
}

/** What a download has to make of what is there. */
export interface Outlook {
  /** Lines of the journal that stay, the first one among them. */
  readonly kept: string;
  /** The first of them. */
  readonly header: string;
  /** Whether the journal tells of any piece, wanted or not. */
  readonly tells: boolean;
  /** Whether the file with its name is worked on again, since the process that made it was killed just then. */
  readonly moved: boolean;
  /** Pieces that are wanted and said to be there. */
  readonly found: readonly number[];
  /** Those of them that are; the others are fetched. */
  readonly right: readonly number[];
  /** Those of the right ones for which the parent announces another digest by the same algorithm. */
  readonly others: readonly number[];
  /** Those of the right ones whose digest cannot be compared with the parent's: it is by another algorithm, and not all of the piece is there. */
  readonly incomparable: readonly number[];
}

/** Says that all pieces are there. */
export const COMPLETE = '{"complete":true}';

/** Another content for each task, number and length. */
export function contentOf(task: number, length: number, number: number = 0): Uint8Array {
  return seededBytes(length + task + 100 * number, length);
}

/** Works a plan out. */
export function taskOf(plan: Plan): Task {
  const { task, kind, contentLength, cut, range, named, whole, algorithm } = plan;
  const content = contentOf(task, contentLength, plan.content);
  const { start, end } = range ?? { start: 0, end: contentLength };
  const pieces = piecesOf(contentLength, cut);
  const parts = pieces.flatMap(({ offset, length }, number): Part[] => {
    const from = Math.max(offset, start);
    const to = Math.min(offset + length, end);
    if (from >= to) return [];
    const bytes = content.subarray(from, to);
    const piece = content.subarray(offset, offset + length);
    const name = named === "none" ? undefined : sum("sha256", piece);
    const misnamed = named === "wrong" && number === 2;
    return [
      {
        number,
        position: from - start,
        bytes,
        whole: bytes.length === length,
        line: lineOf(number, name ?? sum(algorithm, piece), crc32(bytes)),
        named: misnamed ? sum("sha256", content) : name,
        misnamed,
      },
    ];
  });
  const taskId = `a${task}`.repeat(32);
  const pieceLength = typeof cut === "number" ? cut : null;
  const sized = { contentLength, pieceLength, start, length: end - start };
  const wrong = whole === "wrong" && range === undefined;
  const digest: { readonly digest?: string } =
    whole === "none" || range !== undefined ? {} : { digest: digestOfWhole(whole, content) };
  const layout: KnownLayout =
    typeof cut === "number" && named === "none"
      ? { contentLength, pieceLength: cut }
      : {
          pieces: pieces.map((piece, number) => {
            const digest = parts.find((part) => part.number === number)?.named;
            return { number, ...piece, ...(digest !== undefined && { digest }) };
          }),
        };
  return {
    content,
    wanted: content.subarray(start, end),
    pieces,
    parts,
    wrong,
    header: JSON.stringify({ version: 2, taskId, kind, ...sized, digest: digest.digest ?? null }),
    isNamed: named !== "none" || parts.length === 0,
    announced: parts.map(({ number }) =>
      sum(algorithm, content.subarray(pieces[number]?.offset, endOf(pieces[number]))),
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

/** The line that tells of a piece. */
export function lineOf(
  number: unknown,
  digest: unknown,
  crc32: unknown,
  source: unknown = "a:1",
): string {
  return JSON.stringify({ number, digest, crc32, source });
}

/** The digest of bytes, `algorithm:encoded`. */
export function sum(algorithm: DigestAlgorithm, bytes: Uint8Array): string {
  return digestOf(algorithm, bytes, portableHashers);
}

export function crc32(bytes: Uint8Array): number {
  return Number(sum("crc32", bytes).slice("crc32:".length));
}

/**
 * A journal of the same task, cut and range counts, whose digest of the whole, if it has one, does not contradict the caller's; up to
 * its last whole line, and of several lines for a piece the last one. A piece is right when its bytes have every checksum that is
 * named for them.
 */
export function outlookOf(
  { header, parts, wanted, announced }: Task,
  { path, part, journal }: Files,
): Outlook {
  const text = journal?.toString("latin1", 0, journal.lastIndexOf("\n") + 1) ?? "";
  const first = text.slice(0, Math.max(0, text.indexOf("\n")));
  const known = continues(first, header);
  const lines = known ? text.split("\n").slice(1, -1) : [];
  const noted = new Map(lines.flatMap(noteOf));
  const made = lines.includes(COMPLETE) && noted.size > 0;
  const moved = made && part === undefined && path?.length === wanted.length;
  const bytes = moved ? path : part;
  const found = parts.filter(({ number }) => noted.has(number));
  const right = found.filter(({ number, whole, position, bytes: expected, named }) => {
    const there = bytes?.subarray(position, position + expected.length) ?? new Uint8Array(0);
    const { digest = "", crc32: check } = noted.get(number) ?? {};
    if (there.length < expected.length || crc32(there) !== check) return false;
    if (!whole) return named === undefined || inLowerCase(digest) === named;
    return [digest, named ?? digest].every(
      (each) => sum(algorithmOf(each), there) === inLowerCase(each),
    );
  });
  const kinds = right.map(({ number, whole, position, bytes: expected }) => {
    const { digest = "" } = noted.get(number) ?? {};
    const told = announced[parts.findIndex((each) => each.number === number)] ?? "";
    const there = bytes?.subarray(position, position + expected.length) ?? new Uint8Array(0);
    if (algorithmOf(digest) === algorithmOf(told))
      return inLowerCase(digest) === told ? "same" : "other";
    if (!whole) return "incomparable";
    return sum(algorithmOf(told), there) === told ? "same" : "other";
  });
  const ofKind = (kind: string): number[] =>
    right.filter((_, at) => kinds[at] === kind).map(({ number }) => number);
  return {
    others: ofKind("other"),
    incomparable: ofKind("incomparable"),
    header: known ? first : header,
    kept: known ? text : `${header}\n`,
    tells: noted.size > 0,
    moved,
    found: found.map(({ number }) => number),
    right: right.map(({ number }) => number),
  };
}

/** Whether a journal with this first line is one that a download with that header goes on with. */
function continues(first: string, header: string): boolean {
  const whole = /"digest":(?:null|"([^"]*)")\}$/;
  const [found, known] = [whole.exec(first), whole.exec(header)];
  if (found === null || known === null || first.replace(whole, "") !== header.replace(whole, ""))
    return false;
  const [told, own] = [found[1], known[1]];
  if (told === undefined) return true;
  if (!isDigest(told)) return false;
  return own === undefined || algorithmOf(told) !== algorithmOf(own) || inLowerCase(told) === own;
}

function endOf(piece: { readonly offset: number; readonly length: number } | undefined): number {
  return (piece?.offset ?? 0) + (piece?.length ?? 0);
}

/** What a line says, if it makes sense. */
function noteOf(line: string): [number, { readonly digest: string; readonly crc32: number }][] {
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

/** Hex digits may be of either case. */
function inLowerCase(digest: string): string {
  return digest.replace(/:.*$/, (encoded) => encoded.toLowerCase());
}

function algorithmOf(digest: string): DigestAlgorithm {
  return digest.slice(0, digest.indexOf(":")) as DigestAlgorithm;
}

function digestOfWhole(whole: "crc32" | "sha256" | "wrong", content: Uint8Array): string {
  return whole === "wrong" ? sum("sha256", content.subarray(1)) : sum(whole, content);
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
