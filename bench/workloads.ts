/** What is asked of every subject: pieces of one length, so many at a time. */
export interface Workload {
  readonly name: string;
  /** Bytes. */
  readonly pieceLength: number;
  /** Requests at a time. */
  readonly concurrency: number;
}

const KIBI = 1024;
const MEBI = 1024 * KIBI;

/** Large files: one piece at a time. */
export const bulk: Workload = { name: "4 MiB ×1", pieceLength: 4 * MEBI, concurrency: 1 };
/** Large files, as a task of several pieces at a time. */
export const bulkParallel: Workload = { name: "4 MiB ×8", pieceLength: 4 * MEBI, concurrency: 8 };
/** Small files, many at a time. */
export const small: Workload = { name: "64 KiB ×32", pieceLength: 64 * KIBI, concurrency: 32 };
/** The cost of one request. */
export const single: Workload = { name: "16 KiB ×1", pieceLength: 16 * KIBI, concurrency: 1 };
/** Over the long link: what is under way at a time is several times what the link holds. */
export const long: Workload = { name: "1 MiB ×8", pieceLength: MEBI, concurrency: 8 };

/** The workloads on one host. */
export const workloads: readonly Workload[] = [bulk, bulkParallel, small, single];
