/** Length of a bucket in ms. */
const BUCKET_MS = 250;
/** Number of buckets in the window. */
const BUCKET_COUNT = 20;

/** Measures throughput over a sliding window of five seconds. */
export class ThroughputMeter {
  /** Received bytes per bucket, as a ring. */
  readonly #buckets = new Float64Array(BUCKET_COUNT);
  readonly #since: number;
  /** Number of the current bucket since the start. */
  #bucket = 0;

  constructor(now: number) {
    this.#since = now;
  }

  /** Adds bytes that arrived at the time `now`, in ms. */
  add(bytes: number, now: number): void {
    this.#moveTo(now);
    const index = this.#bucket % BUCKET_COUNT;
    this.#buckets[index] = (this.#buckets[index] ?? 0) + bytes;
  }

  /** Returns the throughput at the time `now`, in bytes/s. */
  rate(now: number): number {
    this.#moveTo(now);
    const span = Math.min(
      now - this.#since,
      (BUCKET_COUNT - 1) * BUCKET_MS + ((now - this.#since) % BUCKET_MS),
    );
    if (span <= 0) return 0;
    return (this.#buckets.reduce((sum, bytes) => sum + bytes, 0) * 1000) / span;
  }

  /** Moves the window to the time `now`. */
  #moveTo(now: number): void {
    const bucket = Math.floor((now - this.#since) / BUCKET_MS);
    const steps = Math.min(bucket - this.#bucket, BUCKET_COUNT);
    for (let step = 1; step <= steps; step++)
      this.#buckets[(this.#bucket + step) % BUCKET_COUNT] = 0;
    // After a long pause all buckets are empty, so it does not matter which one comes next.
    this.#bucket = Math.max(this.#bucket, bucket);
  }
}
