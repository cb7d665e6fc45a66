/** Time that one bucket covers, in ms. */
const BUCKET_MS = 250;
/** Number of buckets in the sliding window. */
const BUCKET_COUNT = 20;

/**
 * Measures throughput over a sliding window of five seconds. The window consists of buckets that
 * each count the bytes of 250 ms.
 */
export class ThroughputMeter {
  /** Number of received bytes per bucket, as a ring buffer. */
  readonly #buckets = new Float64Array(BUCKET_COUNT);
  /** Start of the measurement, in ms on the monotonic clock. */
  readonly #since: number;
  /** Number of the current bucket, counted from the start of the measurement. */
  #bucket = 0;

  /** @param now start of the measurement, in ms on the monotonic clock */
  constructor(now: number) {
    this.#since = now;
  }

  /** Counts bytes that arrived at time `now`, in ms on the monotonic clock. */
  add(bytes: number, now: number): void {
    this.#moveTo(now);
    const index = this.#bucket % BUCKET_COUNT;
    this.#buckets[index] = (this.#buckets[index] ?? 0) + bytes;
  }

  /**
   * Returns the average throughput in the five seconds before time `now`, in bytes/s. Before five
   * seconds have passed, averages over the time since the start. Returns 0 at the start.
   *
   * @param now current time in ms on the monotonic clock
   */
  rate(now: number): number {
    this.#moveTo(now);
    const span = Math.min(
      now - this.#since,
      (BUCKET_COUNT - 1) * BUCKET_MS + ((now - this.#since) % BUCKET_MS),
    );
    if (span <= 0) return 0;
    return (this.#buckets.reduce((sum, bytes) => sum + bytes, 0) * 1000) / span;
  }

  /** Moves the window so that it ends at time `now`, and clears the buckets that enter it. */
  #moveTo(now: number): void {
    const bucket = Math.floor((now - this.#since) / BUCKET_MS);
    const steps = Math.min(bucket - this.#bucket, BUCKET_COUNT);
    for (let step = 1; step <= steps; step++)
      this.#buckets[(this.#bucket + step) % BUCKET_COUNT] = 0;
    // After a long pause all buckets are empty, so it does not matter which bucket comes next.
    this.#bucket = Math.max(this.#bucket, bucket);
  }
}
