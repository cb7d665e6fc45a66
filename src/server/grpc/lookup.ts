import { Code, ConnectError } from "@connectrpc/connect";
import type { PieceKind, PieceMetadata } from "../../piece.ts";
import { checkedPiece, checkedTask } from "../../store/checked-store.ts";
import type { PieceStore, StoredPiece, StoredTask } from "../../store/store.ts";
import type { ServerSettings } from "../admission/upload.ts";
import { reportFailure } from "./answer.ts";
import { requireTaskId } from "./requests.ts";

/**
 * Looks up tasks and pieces in a store. A failed lookup throws a `ConnectError` with the gRPC
 * status for the client.
 */
export class Lookup {
  readonly #store: PieceStore;
  readonly #settings: ServerSettings;

  constructor(store: PieceStore, settings: ServerSettings) {
    this.#store = store;
    this.#settings = settings;
  }

  /**
   * Looks up a task. If `kind` is set, the task must be of that kind.
   *
   * @throws INVALID_ARGUMENT if `taskId` is empty
   * @throws NOT_FOUND if the store does not have such a task
   */
  async task(
    kind: PieceKind | undefined,
    taskId: string,
    signal: AbortSignal,
  ): Promise<StoredTask> {
    requireTaskId(taskId);
    const task = await this.#read(
      async () => {
        const supplied = await this.#store.getTask(taskId, { signal });
        return supplied && checkedTask(supplied);
      },
      "the task",
      signal,
    );
    if (task === undefined || (kind !== undefined && task.kind !== kind))
      throw notFound(`${kind === undefined ? "" : `${kind} `}task ${taskId}`);
    return task;
  }

  /**
   * Looks up a piece of a task of the given kind.
   *
   * @throws INVALID_ARGUMENT if `taskId` is empty
   * @throws NOT_FOUND if the store does not have such a piece
   */
  async piece(
    kind: PieceKind,
    taskId: string,
    number: number,
    signal: AbortSignal,
  ): Promise<StoredPiece> {
    requireTaskId(taskId);
    const request = { taskId, number, kind };
    const piece = await this.#read(
      async () => {
        const supplied = await this.#store.getPiece(request, { signal });
        return supplied && checkedPiece(supplied);
      },
      "the piece",
      signal,
    );
    if (piece === undefined) throw notFound(`${kind} piece ${number} of task ${taskId}`);
    return piece;
  }

  async #read<T>(read: () => Promise<T>, what: string, signal: AbortSignal): Promise<T> {
    try {
      return await read();
    } catch (error) {
      throw reportFailure(error, what, signal, this.#settings);
    }
  }
}

/**
 * Iterates over the pieces of a task in the store. For a growing task, also yields each further
 * piece when it arrives, until the task is complete or `signal` aborts.
 */
export function piecesOf(
  task: StoredTask,
  signal: AbortSignal,
): Iterable<PieceMetadata> | AsyncIterable<PieceMetadata> {
  return task.watch?.({ signal }) ?? task.pieces();
}

function notFound(what: string): ConnectError {
  return new ConnectError(`${what}: not in the store`, Code.NotFound);
}
