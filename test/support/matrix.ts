/** Tasks and messages shared by `test/integration/matrix.test.ts` and its peer processes. */
import { planTask, type TaskPlan } from "../../src/piece.ts";
import type { Protocol } from "../../src/transport/protocol.ts";
import { seededBytes } from "./random.ts";

const MEBI = 1024 * 1024;

/** Task known to servers and clients. */
export interface MatrixTask {
  readonly taskId: string;
  readonly plan: TaskPlan;
}

/** Task of 6 pieces whose last piece is shorter. */
export const oddTask: MatrixTask = {
  taskId: "0d".repeat(32),
  plan: planTask(5 * MEBI + 123_457, MEBI),
};
/** Task of 64 MiB in 16 pieces. */
export const manyPieces: MatrixTask = {
  taskId: "a".repeat(64),
  plan: planTask(64 * MEBI, 4 * MEBI),
};
/** Task of one 64 MiB piece, the longest piece of stock Dragonfly. */
export const longPiece: MatrixTask = {
  taskId: "b".repeat(64),
  plan: planTask(64 * MEBI, 64 * MEBI),
};

const contents = new Map<number, Uint8Array>();

/** Returns the content of a task. */
export function contentOf({ plan: { contentLength } }: MatrixTask): Uint8Array {
  const content = contents.get(contentLength) ?? seededBytes(9, contentLength);
  contents.set(contentLength, content);
  return content;
}

/** Error of a server or client, as printed. */
export interface MatrixFailure {
  readonly code: string;
  readonly message: string;
}

/** Addresses of a server, as printed. */
export interface MatrixServer {
  /** Address for each protocol, or the error that prevented it from listening. */
  readonly addrs: Readonly<Record<Protocol, string | MatrixFailure>>;
  /** Certificate fingerprint that QUIC clients pin. */
  readonly fingerprint?: string;
}

/** Tasks for a client to download from one server. */
export interface MatrixRequest {
  readonly protocol: Protocol;
  readonly addr: string;
  readonly fingerprint?: string;
  /** Tasks, downloaded one after the other; the pieces of a task are downloaded concurrently. */
  readonly tasks: readonly MatrixTask[];
  /** Number of concurrent downloads of each task. */
  readonly repeats: number;
}

/** Result of a client, as printed: SHA-256 of each downloaded task in hex, or an error. */
export type MatrixResult = { readonly digests: readonly string[] } | MatrixFailure;
