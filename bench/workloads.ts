/** Workload of a subject: pieces of one length, with a fixed concurrency. */
export interface Workload {
  readonly name: string;
  /** Length of each piece, in bytes. */
  readonly pieceLength: number;
  /** Concurrent requests. */
  readonly concurrency: number;
}

const KIBI = 1024;
const MEBI = 1024 * KIBI;

/** Large files, one piece at a time. */
export const bulk: Workload = { name: "4 MiB ×1", pieceLength: 4 * MEBI, concurrency: 1 };
/** Large files, as a task of several concurrent pieces. */
export const bulkParallel: Workload = { name: "4 MiB ×8", pieceLength: 4 * MEBI, concurrency: 8 };
/** Small files, many at a time. */
export const small: Workload = { name: "64 KiB ×32", pieceLength: 64 * KIBI, concurrency: 32 };
/** Cost of a single request. */
export const single: Workload = { name: "16 KiB ×1", pieceLength: 16 * KIBI, concurrency: 1 };
/** Workload of the long link: the bytes in flight are several times what the link holds. */
export const long: Workload = { name: "1 MiB ×8", pieceLength: MEBI, concurrency: 8 };

/** Workloads on one host. */
export const workloads: readonly Workload[] = [bulk, bulkParallel, small, single];
