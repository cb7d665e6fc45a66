import { invalid, toInteger } from "../arguments.ts";
import { VortexError } from "../errors.ts";
import type { PieceMetadata } from "../piece.ts";
import type { StoredPiece, StoredTask } from "./store.ts";

type SuppliedMetadata = PieceMetadata<number | bigint>;
type SuppliedTask = StoredTask<number | bigint>;

/**
 * Checks the integers of a piece where it enters the server, and converts them to one type. They
 * may be of type number or bigint; each must be from 0 to `Number.MAX_SAFE_INTEGER`. A custom store
 * may come from JavaScript without types, and a negative length would corrupt the answer.
 *
 * @throws `StorageFailed` if an integer is invalid
 */
export function checkedPiece(piece: StoredPiece<number | bigint>): StoredPiece {
  const metadata = checkedMetadata(piece.metadata);
  return { metadata, read: (range) => piece.read(range) };
}

const checkedTasks = new WeakMap<SuppliedTask, StoredTask>();

/**
 * Checks the integers of a task like {@link checkedPiece}, and those of its pieces when they are
 * read. Returns the same object for the same task, so that caches by task still work.
 *
 * @throws `StorageFailed` if an integer is invalid
 */
export function checkedTask(task: SuppliedTask): StoredTask {
  const known = checkedTasks.get(task);
  if (known !== undefined) return known;
  const checked = orStorageFailed(`task ${task.taskId}`, () => new CheckedTask(task));
  checkedTasks.set(task, checked);
  return checked;
}

/** Task of a store with checked fields. Reads the fields that change from the store's object. */
class CheckedTask implements StoredTask {
  readonly contentLength: number;
  readonly pieceLength: number;
  readonly createdAtSeconds: bigint;
  readonly digest?: string;
  readonly watch?: NonNullable<StoredTask["watch"]>;
  readonly #task: SuppliedTask;

  constructor(task: SuppliedTask) {
    this.#task = task;
    this.contentLength = safeInteger("contentLength", task.contentLength);
    this.pieceLength = safeInteger("pieceLength", task.pieceLength, 1);
    this.createdAtSeconds = safeBigint("createdAtSeconds", task.createdAtSeconds);
    if (task.digest !== undefined) this.digest = task.digest;
    if (task.watch !== undefined) this.watch = (options) => this.#watched(options);
  }

  get taskId(): string {
    return this.#task.taskId;
  }

  get kind(): StoredTask["kind"] {
    return this.#task.kind;
  }

  get complete(): boolean {
    return this.#task.complete ?? true;
  }

  *pieces(): Generator<PieceMetadata, void, void> {
    for (const metadata of this.#task.pieces()) yield checkedMetadata(metadata);
  }

  async *#watched(options: {
    readonly signal: AbortSignal;
  }): AsyncGenerator<PieceMetadata, void, void> {
    for await (const metadata of this.#task.watch?.(options) ?? []) yield checkedMetadata(metadata);
  }
}

function checkedMetadata(metadata: SuppliedMetadata): PieceMetadata {
  return orStorageFailed(`piece ${metadata.number}`, () => {
    const { digest, parentId } = metadata;
    for (const text of [digest, parentId])
      if (typeof text !== "string") throw invalid("digest and parentId", "text", text);
    const long = (name: "offset" | "length" | "costSeconds" | "createdAtSeconds"): bigint =>
      safeBigint(name, metadata[name]);
    return {
      number: safeInteger("number", metadata.number, 0, 0xffffffff),
      offset: long("offset"),
      length: long("length"),
      digest,
      parentId,
      trafficType: safeInteger("trafficType", metadata.trafficType, 0, 0xff),
      costSeconds: long("costSeconds"),
      createdAtSeconds: long("createdAtSeconds"),
    };
  });
}

function safeInteger(
  name: string,
  value: number | bigint,
  min = 0,
  max: number = Number.MAX_SAFE_INTEGER,
): number {
  return toInteger(name, value, min, max);
}

function safeBigint(name: string, value: number | bigint): bigint {
  return BigInt(safeInteger(name, value));
}

/** Calls `check`. Converts its error to the `StorageFailed` of a faulty store. */
function orStorageFailed<T>(what: string, check: () => T): T {
  try {
    return check();
  } catch (cause) {
    const { message } = VortexError.from(cause, "StorageFailed");
    throw new VortexError("StorageFailed", `${what} from the store: ${message}`, { cause });
  }
}
