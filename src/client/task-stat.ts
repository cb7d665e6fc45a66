/** Lengths and digest of a task, as reported by a peer. */
export interface TaskStat {
  /** Length of the task in bytes. */
  readonly contentLength: number;
  /** Length in bytes of each piece except the last. */
  readonly pieceLength: number;
  /**
   * Digest of the whole content of the task, `algorithm:encoded`. The peer has it from a response
   * header of the origin, or from the scheduler. Absent if the peer reports no digest with a
   * supported algorithm.
   */
  readonly digest?: string;
}
