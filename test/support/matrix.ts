/** Tasks and messages of `test/integration/matrix.test.ts` and its peer processes. */
import { planTask, type TaskPlan } from "../../src/piece.ts";
import type { Protocol } from "../../src/transport/protocol.ts";
import { seededBytes } from "./random.ts";

const MEBI = 1024 * 1024;

/** Task that the servers of the test serve and the clients download. */
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
/** Task of one piece of 64 MiB, the longest piece of dfdaemon. */
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

/** Error of a server or client, which its process prints as JSON. */
export interface MatrixFailure {
  readonly code: string;
  readonly message: string;
}

/** Addresses of a server, which its process prints as JSON. */
export interface MatrixServer {
  /** Address for each protocol, or the error if the server could not listen. */
  readonly addrs: Readonly<Record<Protocol, string | MatrixFailure>>;
  /** Fingerprint of the server's certificate, which QUIC clients pin. */
  readonly fingerprint?: string;
}

/** Tasks that a client downloads from one server. */
export interface MatrixRequest {
  readonly protocol: Protocol;
  readonly addr: string;
  readonly fingerprint?: string;
  /**
   * Tasks, which are downloaded one after the other. The pieces of a task are downloaded
   * concurrently.
   */
  readonly tasks: readonly MatrixTask[];
  /** Number of concurrent downloads of each task. */
  readonly repeats: number;
}

/**
 * Result of a client, which its process prints as JSON: an error, or the SHA-256 of each downloaded
 * task in hex.
 */
export type MatrixResult = { readonly digests: readonly string[] } | MatrixFailure;
