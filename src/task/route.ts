import type { VortexError } from "../errors.ts";
import type { Protocol } from "../transport/protocol.ts";

/** Identifies a route: one parent over one protocol. */
export interface RouteIdentity {
  /** Name of the parent. */
  readonly parent: string;
  /**
   * Protocol of the route. Absent if the transport chooses the protocol for each piece of the
   * parent.
   */
  readonly protocol?: Protocol | undefined;
}

/** Backoff after the first failure, in ms. Each consecutive failure doubles it. */
const FIRST_PAUSE_MS = 250;
/** Maximum backoff before the next attempt, in ms. */
export const MAX_PAUSE_MS = 30_000;
/**
 * Number of consecutive failures after which a route (one parent over one protocol) is no longer in
 * regular use.
 */
export const MAX_FAILURES = 5;
/**
 * Maximum number of requests for one piece that a parent may answer with `NotFound`. Afterwards,
 * this piece is not requested from the parent again until the parent announces it.
 */
const MAX_MISSES = 3;
/**
 * Maximum number of distinct errors stored per route (one parent over one protocol). A further
 * error replaces the oldest.
 */
const MAX_REASONS = 8;
/**
 * Weight of the newest sample in the exponentially weighted moving averages of rate and latency,
 * from 0 to 1.
 */
const SAMPLE_WEIGHT = 0.3;
/**
 * Minimum time that one sample of the download rate covers, in ms. Only time during which an
 * attempt waits for bytes counts.
 */
const MIN_SAMPLE_MS = 250;
/**
 * Lower bound of a measured download rate, in bytes/ms. It makes the expected delivery times of a
 * route that delivered nothing finite, so that routes can be compared.
 */
const MIN_RATE_BYTES_PER_MS = 0.001;
/**
 * Idle time of a route in ms after which a higher rate than the measured rate is assumed. The
 * assumed rate grows with the idle time, so that a slow route is eventually tried again.
 */
const RATE_DECAY_MS = 10_000;

/**
 * Reason why a route (one parent over one protocol) is not in regular use. Such a route carries
 * only probes: single attempts that test whether the route works again, like the half-open state of
 * a circuit breaker.
 *
 * - `gone`: The route failed five times in a row. It is probed after each backoff. If no other
 *   route can deliver the missing pieces, the download waits for its recovery, but no longer than
 *   the option `patience`.
 * - `useless`: A retry would have the same result. The route is probed every 30 s; the download
 *   does not wait for its recovery.
 * - `banned`: The route delivered wrong data, or had a failure that must not be repeated. It is
 *   never used again.
 *
 * A verified piece returns a `gone` or `useless` route to regular use.
 */
export type Exclusion = "gone" | "useless" | "banned";

/** State and statistics of one route: one parent over one protocol. */
export class RouteState {
  /**
   * Unique ID of the route: the name of the parent, followed by the protocol if the route has one.
   */
  readonly id: string;
  /**
   * Name of the parent. All routes of a parent share the limit of concurrent requests to it, and
   * are all banned if it delivers wrong data.
   */
  readonly parent: string;
  /** Protocol of the route; undefined if the transport chooses the protocol for each piece. */
  readonly protocol: Protocol | undefined;
  /** Number of attempts in flight over this route. */
  inFlight = 0;
  /** Number of attempts in flight that wait for bytes from the parent. */
  #waitingCount = 0;
  /** Reason why the route is not in regular use; undefined while it is in regular use. */
  #exclusion: Exclusion | undefined;
  /**
   * True while the parent is not used in the current round (pass over all pieces). Reasons are that
   * its content contradicts that of other parents, or that the round uses only other parents.
   */
  excludedFromRound = false;
  /** Earliest time of the next attempt, in ms on the monotonic clock. */
  retryAt = 0;
  /**
   * Number of failures since the last verified piece. Attempts that fail together count as one.
   */
  failures = 0;
  /** Distinct errors of the route, the newest last; at most eight. */
  readonly reasons: VortexError[] = [];
  /** Number of all errors of the route. */
  errors = 0;
  /** Number of verified pieces that this route delivered. */
  pieces = 0;
  /** Number of bytes received over this route. */
  bytes = 0;
  /**
   * Moving average of the time from a request to the start of its response, in ms; undefined before
   * the first response.
   */
  latency: number | undefined;
  /**
   * Moving average of the total download rate of all attempts over this route, in bytes/ms;
   * undefined before the first sample.
   */
  #rate: number | undefined;
  /**
   * Time of the last counted failure, in ms on the monotonic clock; negative infinity before the
   * first.
   */
  #lastFailureAt = Number.NEGATIVE_INFINITY;
  /**
   * Number of counted failures so far. An attempt that started before the latest counted failure
   * does not count as another failure. Timestamps could not order these events within one
   * millisecond.
   */
  #failureEpoch = 0;
  /** True after the stream of announcements broke, until the parent announces a piece again. */
  #announcementsInterrupted = false;
  /** Time at which the last attempt ended, in ms on the monotonic clock. */
  #idleSince = 0;
  /** Time of the last update of the current rate sample, in ms on the monotonic clock. */
  #sampleUpdatedAt = 0;
  /** Time in the current rate sample during which attempts waited for bytes, in ms. */
  #sampleWaitedMs = 0;
  /** Number of bytes received in the current rate sample. */
  #sampleBytes = 0;
  /** Numbers of the announced pieces; undefined if the parent is assumed to have all pieces. */
  #announced: Set<number> | undefined;
  /** True until the announcements of the parent have finally ended. */
  #announcing = false;
  /**
   * Pieces that the parent reported as `NotFound` although it may have them, by number. Stores the
   * count of such responses, and the earliest time of the next request in ms.
   */
  readonly #misses = new Map<number, { count: number; retryAt: number }>();

  /**
   * @param announces true if the parent announces its pieces; false if it is assumed to have all
   * pieces
   */
  constructor({ parent, protocol }: RouteIdentity, announces: boolean) {
    this.id = protocol === undefined ? parent : `${parent} over ${protocol}`;
    this.parent = parent;
    this.protocol = protocol;
    if (announces) {
      this.#announced = new Set();
      this.#announcing = true;
    }
  }

  /** Reason why the route is not in regular use; undefined while it is in regular use. */
  get exclusion(): Exclusion | undefined {
    return this.#exclusion;
  }

  /**
   * True if the route is not in regular use. It is then used only for single test requests, or
   * never if it is banned.
   */
  get isExcluded(): boolean {
    return this.#exclusion !== undefined;
  }

  /**
   * Number of counted failures so far. An attempt stores this number when it starts, and passes it
   * to {@link failed} if it fails.
   */
  get failureEpoch(): number {
    return this.#failureEpoch;
  }

  /**
   * Time of the last counted failure, in ms on the monotonic clock; negative infinity before the
   * first.
   */
  get lastFailureAt(): number {
    return this.#lastFailureAt;
  }

  /**
   * Records that the parent announced a piece. The piece may be requested even if earlier responses
   * were `NotFound`.
   */
  announce(number: number): void {
    this.#announcementsInterrupted = false;
    this.#announced?.add(number);
    this.#misses.delete(number);
  }

  /**
   * Records that the parent will announce no further pieces.
   *
   * @param everything true to assume that the parent has all pieces; false if it has only the
   * announced pieces
   */
  endAnnouncements(everything: boolean): void {
    this.#announcing = false;
    if (everything) this.#announced = undefined;
  }

  /** Records that the stream of announcements broke. It may be reopened. */
  interruptAnnouncements(): void {
    this.#announcementsInterrupted = true;
  }

  /**
   * True if the parent may announce further pieces on an open stream, and the route is usable in
   * this round.
   */
  get mayAnnounceMore(): boolean {
    return this.#announcing && !this.#announcementsInterrupted && this.isUsable;
  }

  /**
   * True if the stream of announcements broke and may be reopened. False if the route is banned or
   * excluded from this round.
   */
  get awaitsReannouncement(): boolean {
    return this.#announcing && this.#announcementsInterrupted && this.mayBeUsed;
  }

  /** True if the route is in regular use and takes part in the current round. */
  get isUsable(): boolean {
    return !this.isExcluded && !this.excludedFromRound;
  }

  /** True if the route may be used in the current round, if only for test requests. */
  get mayBeUsed(): boolean {
    return this.#exclusion !== "banned" && !this.excludedFromRound;
  }

  /** Returns true if the parent announced the piece, or is assumed to have all pieces. */
  mayHave(number: number): boolean {
    return this.#announced?.has(number) !== false;
  }

  /**
   * Returns the earliest time at which the piece may be requested over this route, in ms on the
   * monotonic clock. For a route out of regular use, this is the time of the next test request.
   *
   * Returns undefined if the route is banned or excluded from this round, or if its parent does not
   * have the piece.
   */
  availability(number: number): { readonly from: number } | undefined {
    if (!this.mayBeUsed || !this.mayHave(number)) return undefined;
    const misses = this.#misses.get(number);
    if (misses === undefined) return { from: this.retryAt };
    return misses.count >= MAX_MISSES
      ? undefined
      : { from: Math.max(misses.retryAt, this.retryAt) };
  }

  /**
   * True from a failure until the next verified piece. Meanwhile the route carries only one attempt
   * at a time.
   */
  get isRecovering(): boolean {
    return this.failures > 0;
  }

  /** Records the start of an attempt. The attempt initially waits for bytes from the parent. */
  begin(now: number): void {
    this.inFlight++;
    this.setWaiting(true, now);
  }

  /**
   * Records the end of an attempt.
   * @param wasWaiting true if the attempt was waiting for bytes from the parent
   */
  end(wasWaiting: boolean, now: number): void {
    if (wasWaiting) this.setWaiting(false, now);
    // An attempt without any byte is a sample, too.
    this.#updateRate();
    this.inFlight--;
    this.#idleSince = now;
  }

  /**
   * Records that an attempt starts or stops waiting for bytes from the parent. Only such time
   * counts for the measured rate.
   *
   * @param isWaiting true if the attempt starts to wait, false if it stops
   */
  setWaiting(isWaiting: boolean, now: number): void {
    this.#countWaiting(now);
    this.#waitingCount += isWaiting ? 1 : -1;
  }

  /** Records the number of bytes that an attempt received. */
  arrived(bytes: number, now: number): void {
    this.bytes += bytes;
    this.#sampleBytes += bytes;
    this.#countWaiting(now);
    this.#updateRate();
  }

  /** Records the time from a request to the start of its response, in ms. */
  answered(milliseconds: number): void {
    this.latency = movingAverage(this.latency, milliseconds);
  }

  /**
   * Records that a verified piece came over this route. If the route was excluded, it is in regular
   * use again, unless it is banned.
   */
  succeeded(now: number): void {
    this.pieces++;
    this.restore();
    // A small piece may complete before a rate sample is full. The partial sample is used if no
    // rate was measured yet.
    if (this.#rate === undefined && this.#sampleWaitedMs > 0) {
      this.#rate = Math.max(MIN_RATE_BYTES_PER_MS, this.#sampleBytes / this.#sampleWaitedMs);
      this.#sampleWaitedMs = 0;
      this.#sampleBytes = 0;
      this.#sampleUpdatedAt = now;
    }
  }

  /**
   * Records a failed attempt and starts the backoff. Attempts that were in flight together and all
   * fail count as one failure.
   *
   * @param epoch value of {@link failureEpoch} at the start of the attempt
   * @param random returns a random number from 0 to 1
   * @param as reason why the route is excluded after five consecutive failures
   */
  failed(
    error: VortexError,
    epoch: number,
    now: number,
    random: () => number,
    as: Exclusion = "gone",
  ): void {
    this.addReason(error);
    if (epoch < this.#failureEpoch || this.#exclusion === "banned") return;
    this.#lastFailureAt = now;
    this.#failureEpoch++;
    this.failures++;
    this.retryAt = now + backoffMs(this.failures, random);
    if (this.failures >= MAX_FAILURES) this.#exclusion = as;
  }

  /**
   * Records a `NotFound` response for a piece that the parent may have. If the route has never
   * delivered a piece, the parent may lack the whole task, so the response also counts as a
   * failure.
   *
   * @param epoch value of {@link failureEpoch} at the start of the attempt
   * @param random returns a random number from 0 to 1
   */
  missed(
    number: number,
    error: VortexError,
    epoch: number,
    now: number,
    random: () => number,
  ): void {
    const count = (this.#misses.get(number)?.count ?? 0) + 1;
    this.#misses.set(number, { count, retryAt: now + backoffMs(count, random) });
    if (this.pieces === 0) this.failed(error, epoch, now, random, "useless");
    else this.addReason(error);
  }

  /** Takes the route out of regular use immediately. Does nothing if the route is banned. */
  exclude(as: Exclude<Exclusion, "gone">, now: number): void {
    if (this.#exclusion === "banned") return;
    this.#exclusion = as;
    this.#lastFailureAt = now;
    this.#failureEpoch++;
    this.failures++;
    this.retryAt = now + MAX_PAUSE_MS;
  }

  /**
   * Returns the route to regular use and ends its backoff. Does nothing if the route is banned.
   */
  restore(): void {
    if (this.#exclusion === "banned") return;
    this.#exclusion = undefined;
    this.failures = 0;
    this.retryAt = 0;
  }

  /**
   * Shortens the backoff so that the next attempt may start at `time`, in ms on the monotonic
   * clock. Does nothing if the backoff ends earlier.
   */
  retryBy(time: number): void {
    this.retryAt = Math.min(this.retryAt, time);
  }

  /** Counts an error. Stores it if no stored error has the same code and message. */
  addReason(error: VortexError): void {
    this.errors++;
    if (this.reasons.some(({ code, message }) => code === error.code && message === error.message))
      return;
    this.reasons.push(error);
    if (this.reasons.length > MAX_REASONS) this.reasons.shift();
  }

  /**
   * Adds the time since the last update to the current rate sample, if any attempt waited for
   * bytes.
   */
  #countWaiting(now: number): void {
    if (this.#waitingCount > 0) this.#sampleWaitedMs += now - this.#sampleUpdatedAt;
    this.#sampleUpdatedAt = now;
  }

  /**
   * Adds the current sample to the average rate and begins a new sample, if the sample covers
   * enough time.
   */
  #updateRate(): void {
    if (this.#sampleWaitedMs < MIN_SAMPLE_MS) return;
    this.#rate = Math.max(
      MIN_RATE_BYTES_PER_MS,
      movingAverage(this.#rate, this.#sampleBytes / this.#sampleWaitedMs),
    );
    this.#sampleWaitedMs = 0;
    this.#sampleBytes = 0;
  }

  /** Measured rate in bytes/ms; undefined before the first sample. */
  get rate(): number | undefined {
    return this.#rate;
  }

  /**
   * Estimates the time in ms until the route would deliver one more piece of `length` bytes.
   * Returns 0 before the first rate sample, so that new routes are tried first.
   */
  expectedMs(length: number, now: number): number {
    if (this.#rate === undefined) return 0;
    const idle = this.inFlight === 0 ? now - this.#idleSince : 0;
    const growth = 1 + Math.max(0, idle - RATE_DECAY_MS) / RATE_DECAY_MS;
    return (this.latency ?? 0) + ((this.inFlight + 1) * length) / (this.#rate * growth);
  }
}

/** Returns the distinct errors of several routes; at most eight. */
export function reasonsOf(routes: readonly RouteState[]): readonly VortexError[] {
  const reasons = routes.flatMap((route) => route.reasons);
  const isFirst = ({ code, message }: VortexError, at: number): boolean =>
    reasons.findIndex((other) => other.code === code && other.message === message) === at;
  return reasons.filter(isFirst).slice(-MAX_REASONS);
}

/**
 * Returns the exponentially weighted moving average after another sample.
 *
 * @param before average before the sample; undefined if this is the first sample
 */
function movingAverage(before: number | undefined, sample: number): number {
  return before === undefined ? sample : before + SAMPLE_WEIGHT * (sample - before);
}

/**
 * Returns the backoff in ms after a number of consecutive failures: exponential backoff with equal
 * jitter.
 *
 * @param random returns a random number from 0 to 1
 */
export function backoffMs(failures: number, random: () => number): number {
  return Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (failures - 1)) * (0.5 + random() / 2);
}
