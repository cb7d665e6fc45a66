/** What the two ends of `test/integration/matrix.test.ts` and the test itself know alike. */
import { planTask, type TaskPlan } from "../../src/piece.ts";
import type { Protocol } from "../../src/transport/protocol.ts";
import { seededBytes } from "./random.ts";

const MEBI = 1024 * 1024;

/** A task that servers have and clients know. */
export interface MatrixTask {
  readonly taskId: string;
  readonly plan: TaskPlan;
}

/** Several pieces, and an odd last one. */
export const oddTask: MatrixTask = {
  taskId: "0d".repeat(32),
  plan: planTask(5 * MEBI + 123_457, MEBI),
};
/** 64 MiB in 16 pieces. */
export const manyPieces: MatrixTask = {
  taskId: "a".repeat(64),
  plan: planTask(64 * MEBI, 4 * MEBI),
};
/** 64 MiB in one piece, the longest that stock Dragonfly makes. */
export const longPiece: MatrixTask = {
  taskId: "b".repeat(64),
  plan: planTask(64 * MEBI, 64 * MEBI),
};

const contents = new Map<number, Uint8Array>();

/** The bytes of a task. */
export function contentOf({ plan: { contentLength } }: MatrixTask): Uint8Array {
  const content = contents.get(contentLength) ?? seededBytes(9, contentLength);
  contents.set(contentLength, content);
  return content;
}

/** Why something could not be had. */
export interface MatrixFailure {
  readonly code: string;
  readonly message: string;
}

/** What a server prints. */
export interface MatrixServer {
  /** Where each protocol is served, or why it is not. */
  readonly addrs: Readonly<Record<Protocol, string | MatrixFailure>>;
  /** What clients pin over QUIC. */
  readonly fingerprint?: string;
}

/** What a client is told to fetch. */
export interface MatrixOrder {
  readonly protocol: Protocol;
  readonly addr: string;
  readonly fingerprint?: string;
  /** Each is fetched piece by piece, several at a time. */
  readonly tasks: readonly MatrixTask[];
  /** How often; all times at once. */
  readonly times: number;
}

/** What a client prints: SHA-256 of each task as it came, in hex. */
export type MatrixResult = { readonly digests: readonly string[] } | MatrixFailure;
