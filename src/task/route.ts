import type { VortexError } from "../errors.ts";
import type { Protocol } from "../transport/protocol.ts";

/** Identity of a {@link RouteState}. */
export interface RouteIdentity {
  /** Name of the parent. */
  readonly parent: string;
  /** Protocol of the route, if the parent is used over several at once. */
  readonly protocol?: Protocol | undefined;
}

/** Backoff after the first failure, in ms; doubled with every further failure. */
const FIRST_PAUSE_MS = 250;
/** Maximum backoff between two attempts, in ms. */
export const MAX_PAUSE_MS = 30_000;
/** Consecutive failures after which a route is left out as `gone`. */
export const MAX_FAILURES = 5;
/**
 * Requests for one piece that a parent may answer with "not found" before it is no longer asked for
 * that piece.
 */
const MAX_MISSES = 3;
/** Maximum number of distinct errors kept per route. */
const MAX_REASONS = 8;
/** Weight of the newest sample in the exponentially weighted moving averages. */
const SAMPLE_WEIGHT = 0.3;
/** Minimum wait time covered by one rate sample, in ms. */
const MIN_SAMPLE_MS = 250;
/**
 * Lower bound of a measured rate, in bytes/ms. It keeps the estimates of a route that delivered
 * nothing finite, and so comparable.
 */
const MIN_RATE_BYTES_PER_MS = 0.001;
/**
 * Idle time in ms after which a higher rate than the measured one is assumed. The assumed rate
 * grows with the idle time, so that a slow route is eventually tried again.
 */
const RATE_DECAY_MS = 10_000;

/**
 * State of a route that is left out. It carries no regular attempts, only probes: single attempts
 * that test whether it has recovered, like the half-open state of a circuit breaker.
 *
 * - `gone`: entered after five consecutive failures. Probed after each backoff. If no other route
 *   is left, the download waits for it as long as its patience lasts.
 * - `useless`: entered after an answer that a retry would not change. Probed every 30 s; the
 *   download does not wait for it.
 * - `banned`: entered after wrong data, or a failure that must not be repeated. Never asked again.
 *
 * A verified piece ends `gone` and `useless`; `banned` is final.
 */
export type LeftOut = "gone" | "useless" | "banned";

/** State and statistics of one route: one parent over one protocol. */
export class RouteState {
  /** Unique ID: the name of the parent, with the protocol if it has several. */
  readonly id: string;
  /** Name of the parent. Routes of one parent share its request slots, and a ban for wrong data. */
  readonly parent: string;
  readonly protocol: Protocol | undefined;
  /** Number of attempts in flight. */
  inFlight = 0;
  /** Number of attempts in flight that wait for bytes from the parent. */
  #waitingCount = 0;
  /** Undefined while the route is in regular use. */
  #leftOut: LeftOut | undefined;
  /**
   * True while the parent is excluded from the current round, since its content differs from that
   * of the participating parents.
   */
  excludedFromRound = false;
  /** Earliest time of the next attempt, in ms. */
  retryAt = 0;
  /** Number of consecutive failures, since the last success. */
  failures = 0;
  /** Distinct errors, the newest last; at most eight. */
  readonly reasons: VortexError[] = [];
  /** Number of all failures. */
  errors = 0;
  /** Number of pieces delivered first and verified. */
  pieces = 0;
  /** Bytes received. */
  bytes = 0;
  /** Average time from request to answer, in ms; undefined before the first answer. */
  latency: number | undefined;
  /** Average rate of all attempts together, in bytes/ms; undefined before the first sample. */
  #rate: number | undefined;
  /** Time of the last counted failure. */
  #lastFailureAt = Number.NEGATIVE_INFINITY;
  /** Number of counted failures. A timestamp could not order events within one millisecond. */
  #failureEpoch = 0;
  /** True after the announcement stream broke, until it delivers again. */
  #announcementsInterrupted = false;
  /** Time at which the last attempt ended. */
  #idleSince = 0;
  /** Time of the last update of the current rate sample, in ms. */
  #sampleUpdatedAt = 0;
  /** Wait time in the current rate sample, in ms. */
  #sampleWaitedMs = 0;
  /** Bytes in the current rate sample. */
  #sampleBytes = 0;
  /** Announced pieces; undefined if the route is assumed to have all pieces. */
  #announced: Set<number> | undefined;
  /** True while further announcements are possible. */
  #announcing = false;
  /** Pieces that the parent turned out to lack: number of requests, and time of the next one. */
  readonly #misses = new Map<number, { count: number; retryAt: number }>();

  /**
   * @param announces true if the parent announces its pieces; otherwise it is assumed to have all
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

  /** State of a route that is left out; undefined for a route in regular use. */
  get leftOut(): LeftOut | undefined {
    return this.#leftOut;
  }

  /** True if the route is left out, and carries at most probes. */
  get isLeftOut(): boolean {
    return this.#leftOut !== undefined;
  }

  /** Number of counted failures. An attempt records it at its start, for {@link failed}. */
  get failureEpoch(): number {
    return this.#failureEpoch;
  }

  /** Time of the last counted failure; negative infinity before the first. */
  get lastFailureAt(): number {
    return this.#lastFailureAt;
  }

  /** Records the announcement of a piece by the parent. */
  announce(number: number): void {
    this.#announcementsInterrupted = false;
    this.#announced?.add(number);
    this.#misses.delete(number);
  }

  /**
   * Ends the announcements of the parent. The announced pieces are final, or with `everything`, the
   * route is assumed to have all pieces.
   */
  endAnnouncements(everything: boolean): void {
    this.#announcing = false;
    if (everything) this.#announced = undefined;
  }

  /** Records that the announcement stream broke and may be reopened. */
  interruptAnnouncements(): void {
    this.#announcementsInterrupted = true;
  }

  /** True if the parent may announce further pieces by itself. */
  get mayAnnounceMore(): boolean {
    return this.#announcing && !this.#announcementsInterrupted && this.isUsable;
  }

  /** True while a broken announcement stream may still be reopened. */
  get awaitsReannouncement(): boolean {
    return (
      this.#announcing &&
      this.#announcementsInterrupted &&
      this.#leftOut !== "banned" &&
      !this.excludedFromRound
    );
  }

  /** True if the route may carry regular attempts in this round. */
  get isUsable(): boolean {
    return !this.isLeftOut && !this.excludedFromRound;
  }

  /** Returns true if the parent announced the piece, or is assumed to have all pieces. */
  mayHave(number: number): boolean {
    return this.#announced?.has(number) !== false;
  }

  /**
   * Returns the earliest time at which the route may be asked for the piece; undefined if never. A
   * route that is left out has such a time too, for probes.
   */
  availability(number: number): { readonly from: number } | undefined {
    if (this.#leftOut === "banned" || this.excludedFromRound || !this.mayHave(number))
      return undefined;
    const misses = this.#misses.get(number);
    if (misses === undefined) return { from: this.retryAt };
    return misses.count >= MAX_MISSES
      ? undefined
      : { from: Math.max(misses.retryAt, this.retryAt) };
  }

  /** True after a failure until the next success: the route is limited to one attempt at a time. */
  get isRecovering(): boolean {
    return this.failures > 0;
  }

  /** Records the start of an attempt, which waits for bytes at first. */
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
   * Records that an attempt starts or stops waiting for bytes from the parent. Only such wait time
   * counts for the rate.
   */
  setWaiting(isWaiting: boolean, now: number): void {
    this.#countWaiting(now);
    this.#waitingCount += isWaiting ? 1 : -1;
  }

  /** Records received bytes. */
  arrived(bytes: number, now: number): void {
    this.bytes += bytes;
    this.#sampleBytes += bytes;
    this.#countWaiting(now);
    this.#updateRate();
  }

  /** Records the time from a request to its answer. */
  answered(milliseconds: number): void {
    this.latency = movingAverage(this.latency, milliseconds);
  }

  /** Records a verified piece, and returns a left-out route to regular use. */
  succeeded(now: number): void {
    this.pieces++;
    this.restore();
    // Small pieces complete faster than samples fill; a partial sample is better than none.
    if (this.#rate === undefined && this.#sampleWaitedMs > 0) {
      this.#rate = Math.max(MIN_RATE_BYTES_PER_MS, this.#sampleBytes / this.#sampleWaitedMs);
      this.#sampleWaitedMs = 0;
      this.#sampleBytes = 0;
      this.#sampleUpdatedAt = now;
    }
  }

  /**
   * Records a failed attempt and starts the backoff. Concurrent attempts that fail together count
   * as one failure.
   *
   * @param epoch {@link failureEpoch} at the start of the attempt
   * @param as state of the route after too many consecutive failures
   */
  failed(
    error: VortexError,
    epoch: number,
    now: number,
    random: () => number,
    as: LeftOut = "gone",
  ): void {
    this.addReason(error);
    if (epoch < this.#failureEpoch || this.#leftOut === "banned") return;
    this.#lastFailureAt = now;
    this.#failureEpoch++;
    this.failures++;
    this.retryAt = now + backoffMs(this.failures, random);
    if (this.failures >= MAX_FAILURES) this.#leftOut = as;
  }

  /**
   * Records that the parent does not have the piece, whatever it announced. A route that never
   * delivered a piece may lack the whole task, so this also counts as a failure.
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

  /** Leaves the route out immediately. A ban is final. */
  leaveOut(as: Exclude<LeftOut, "gone">, now: number): void {
    if (this.#leftOut === "banned") return;
    this.#leftOut = as;
    this.#lastFailureAt = now;
    this.#failureEpoch++;
    this.failures++;
    this.retryAt = now + MAX_PAUSE_MS;
  }

  /** Returns the route to regular use and resets its backoff, unless it is banned. */
  restore(): void {
    if (this.#leftOut === "banned") return;
    this.#leftOut = undefined;
    this.failures = 0;
    this.retryAt = 0;
  }

  /** Moves the next attempt forward to `time`, unless it is due earlier. */
  retryBy(time: number): void {
    this.retryAt = Math.min(this.retryAt, time);
  }

  /** Counts a failure, and keeps its error if it is a new one. */
  addReason(error: VortexError): void {
    this.errors++;
    if (this.reasons.some(({ code, message }) => code === error.code && message === error.message))
      return;
    this.reasons.push(error);
    if (this.reasons.length > MAX_REASONS) this.reasons.shift();
  }

  /** Adds the time since the last update to the sample, if any attempt was waiting for bytes. */
  #countWaiting(now: number): void {
    if (this.#waitingCount > 0) this.#sampleWaitedMs += now - this.#sampleUpdatedAt;
    this.#sampleUpdatedAt = now;
  }

  /** Folds a full sample into the average rate. */
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
   * Returns 0 before the first measurement, so that new routes are tried first.
   */
  expectedMs(length: number, now: number): number {
    if (this.#rate === undefined) return 0;
    const idle = this.inFlight === 0 ? now - this.#idleSince : 0;
    const growth = 1 + Math.max(0, idle - RATE_DECAY_MS) / RATE_DECAY_MS;
    return (this.latency ?? 0) + ((this.inFlight + 1) * length) / (this.#rate * growth);
  }
}

/** Returns the distinct errors of several routes, the newest last; at most eight. */
export function reasonsOf(routes: readonly RouteState[]): readonly VortexError[] {
  const reasons = routes.flatMap((route) => route.reasons);
  const isFirst = ({ code, message }: VortexError, at: number): boolean =>
    reasons.findIndex((other) => other.code === code && other.message === message) === at;
  return reasons.filter(isFirst).slice(-MAX_REASONS);
}

/** Returns the exponentially weighted moving average after one more sample. */
function movingAverage(before: number | undefined, sample: number): number {
  return before === undefined ? sample : before + SAMPLE_WEIGHT * (sample - before);
}

/**
 * Returns the pause in ms after a number of consecutive failures: exponential backoff with equal
 * jitter.
 */
export function backoffMs(failures: number, random: () => number): number {
  return Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (failures - 1)) * (0.5 + random() / 2);
}
