import type { Digest } from "../../src/digest/digest.ts";
import type { HasherFactory } from "../../src/digest/hasher.ts";
import { abortedError, VortexError } from "../../src/errors.ts";
import { type Piece, pieceExtent, type TaskPlan } from "../../src/piece.ts";
import { ContiguousHash } from "./contiguous-hash.ts";
import type { Output } from "./output.ts";

/** What to fetch, and where to. */
export interface TaskFetch {
  readonly plan: TaskPlan;
  /** Pieces at a time. */
  readonly concurrency: number;
  /** Asks for a piece. */
  readonly download: (number: number, signal: AbortSignal) => Promise<Piece>;
  readonly output: Output;
  readonly hashers: HasherFactory;
  /** What the whole must turn out to be. */
  readonly digest?: Digest | undefined;
  /** Told of bytes that are written. */
  readonly onBytes: (bytes: number) => void;
  readonly signal: AbortSignal;
}

/**
 * Fetches all pieces of a task from one peer. Every piece is checked by its own digest and by its place in the plan. The
 * first failure ends it: there is one peer, and no second try.
 *
 * An output that takes bytes at any position gets them as they come. An ordered one gets whole pieces, so up to
 * `concurrency` of them are held in memory.
 */
export async function fetchTask(fetch: TaskFetch): Promise<void> {
  const { plan, output, digest, hashers } = fetch;
  const hash =
    digest && new ContiguousHash(hashers(digest.algorithm), plan, (position, length) => output.read(position, length));
  const write = async (position: number, bytes: Uint8Array): Promise<void> => {
    await output.write(position, bytes);
    hash?.add(position, bytes);
    fetch.onBytes(bytes.length);
  };
  await inParallel(fetch, output.ordered ? writeInTurn(fetch, write) : writeAsTheyCome(fetch, write));
  if (digest === undefined || hash === undefined) return;
  const encoded = await hash.encode();
  if (encoded !== digest.encoded) {
    const { algorithm } = digest;
    throw new VortexError(
      "DigestMismatch",
      `the task has digest ${algorithm}:${encoded}, expected was ${algorithm}:${digest.encoded}`,
    );
  }
}

type Write = (position: number, bytes: Uint8Array) => Promise<void>;
type FetchPiece = (number: number, signal: AbortSignal) => Promise<void>;

function writeAsTheyCome({ plan, download }: TaskFetch, write: Write): FetchPiece {
  return async (number, signal) => {
    const piece = requirePlace(await download(number, signal), plan);
    let position = piece.offset;
    for await (const chunk of piece.content) {
      await write(position, chunk);
      position += chunk.length;
    }
  };
}

function writeInTurn({ plan, download }: TaskFetch, write: Write): FetchPiece {
  /** Whether everything before the next piece has been written. */
  let last = Promise.resolve(true);
  return async (number, signal) => {
    const before = last;
    let done = (_written: boolean): void => {};
    last = new Promise((resolve) => {
      done = resolve;
    });
    let written = false;
    try {
      const piece = requirePlace(await download(number, signal), plan);
      const bytes = await piece.bytes();
      if (await before) {
        await write(piece.offset, bytes);
        written = true;
      }
    } finally {
      done(written);
    }
  };
}

/** Runs `fetchPiece` for every number, in order of beginning, and waits for all that began, also when one fails. */
async function inParallel({ plan, concurrency, signal }: TaskFetch, fetchPiece: FetchPiece): Promise<void> {
  const controller = new AbortController();
  const onAbort = (): void => controller.abort(abortedError(signal, "the download"));
  signal.addEventListener("abort", onAbort, { once: true });
  if (signal.aborted) onAbort();
  let next = 0;
  const work = async (): Promise<void> => {
    while (next < plan.pieceCount && !controller.signal.aborted) {
      try {
        await fetchPiece(next++, controller.signal);
      } catch (error) {
        // The first reason stands; what else fails, fails of it.
        controller.abort(VortexError.from(error, "Internal"));
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(concurrency, plan.pieceCount) }, work));
  signal.removeEventListener("abort", onAbort);
  if (controller.signal.aborted) throw controller.signal.reason;
}

/** The piece, if it lies where the plan has it: bytes at any other place would make a file of the wrong content. */
function requirePlace(piece: Piece, plan: TaskPlan): Piece {
  const { offset, length } = pieceExtent(plan, piece.number);
  if (piece.offset === offset && piece.length === length) return piece;
  piece.cancel();
  throw new VortexError(
    "PieceMismatch",
    `piece ${piece.number} has ${piece.length} bytes from ${piece.offset} on, expected were ${length} from ${offset} on: ` +
      "the task has another content length or piece length",
  );
}
