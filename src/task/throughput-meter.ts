/** Milliseconds in a bucket, and how many of them are looked at. */
const BUCKET = 250;
const BUCKETS = 20;

/** Bytes a second over the last five seconds. */
export class ThroughputMeter {
  readonly #buckets = new Float64Array(BUCKETS);
  readonly #since: number;
  #bucket = 0;

  constructor(now: number) {
    this.#since = now;
  }

  add(bytes: number, now: number): void {
    this.#moveTo(now);
    const index = this.#bucket % BUCKETS;
    this.#buckets[index] = (this.#buckets[index] ?? 0) + bytes;
  }

  rate(now: number): number {
    this.#moveTo(now);
    const span = Math.min(
      now - this.#since,
      (BUCKETS - 1) * BUCKET + ((now - this.#since) % BUCKET),
    );
    if (span <= 0) return 0;
    return (this.#buckets.reduce((sum, bytes) => sum + bytes, 0) * 1000) / span;
  }

  #moveTo(now: number): void {
    const bucket = Math.floor((now - this.#since) / BUCKET);
    const steps = Math.min(bucket - this.#bucket, BUCKETS);
    for (let step = 1; step <= steps; step++) this.#buckets[(this.#bucket + step) % BUCKETS] = 0;
    // After a long pause all buckets are empty, and which one is next does not matter.
    this.#bucket = Math.max(this.#bucket, bucket);
  }
}
