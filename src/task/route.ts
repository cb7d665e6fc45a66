import type { VortexError } from "../errors.ts";
import type { Protocol } from "../transport/protocol.ts";

/** How a {@link RouteState} is told from others. */
export interface RouteIdentity {
  /** The parent's name. */
  readonly parent: string;
  /** What it is asked over, where several are used at once. */
  readonly protocol?: Protocol | undefined;
}

/** Milliseconds before a parent that failed once is asked again; doubled with every further failure. */
const FIRST_PAUSE_MS = 250;
/** The longest of these pauses, in ms. */
export const MAX_PAUSE_MS = 30_000;
/** Failures in a row after which a parent is left out: it is asked only as a probe. */
export const MAX_FAILURES = 5;
/** Times that a parent is asked for a piece that it says it does not have. */
const MAX_MISSES = 3;
/** Reasons kept of each parent. */
const MAX_REASONS = 8;
/** Weight of the newest sample in the averages. */
const SAMPLE_WEIGHT = 0.3;
/** Milliseconds of activity in one sample of the rate. */
const MIN_SAMPLE_MS = 250;
/** Bytes a millisecond that every parent is trusted with, so that one which delivered nothing can be compared. */
const MIN_RATE_BYTES_PER_MS = 0.001;
/** Milliseconds without an attempt in which trust in the measured rate fades, so that a slow parent is tried again. */
const RATE_DECAY_MS = 10_000;

/**
 * Reasons to leave a route out.
 *
 * | reason | asked again | download waits for it |
 * | --- | --- | --- |
 * | `gone` | on the schedule of its pauses | for its patience, when no other route is left |
 * | `useless` | every 30 s | no: without a change at the parent the next answer is the same |
 * | `banned` | never | no |
 */
export type LeftOut = "gone" | "useless" | "banned";

/** What is known of one way to fetch pieces: a parent, by one protocol. */
export class RouteState {
  readonly id: string;
  /** Routes of one parent share its slots, and its end when it has delivered what is wrong. */
  readonly parent: string;
  readonly protocol: Protocol | undefined;
  /** Attempts under way. */
  inFlight = 0;
  /** Attempts under way whose bytes are owed. */
  #waitingCount = 0;
  #leftOut: LeftOut | undefined;
  /** No piece is asked for in this round: the parent has another content than the parents that take part in it. */
  excludedFromRound = false;
  /** Not asked before this time. */
  retryAt = 0;
  /** Failures since the last success. */
  failures = 0;
  /** What went wrong, the newest last. */
  readonly reasons: VortexError[] = [];
  errors = 0;
  pieces = 0;
  bytes = 0;
  /** Milliseconds from asking for a piece to its first byte. */
  latency: number | undefined;
  /** Bytes a millisecond, of all attempts together. */
  #rate: number | undefined;
  /** When the last failure was counted. */
  #lastFailureAt = Number.NEGATIVE_INFINITY;
  /** Number of failures counted so far. A time could not order events within one millisecond. */
  #failureEpoch = 0;
  /** Its announcements have broken off, and are asked for again. */
  #announcementsInterrupted = false;
  /** End of the last attempt. */
  #idleSince = 0;
  /** Activity that is not in the rate yet. */
  #sampleSince = 0;
  #sampleActive = 0;
  #sampleBytes = 0;
  /** Undefined: everything; else the pieces that it announced. */
  #announced: Set<number> | undefined;
  /** Whether further announcements may come. */
  #announcing = false;
  readonly #misses = new Map<number, { count: number; retryAt: number }>();

  constructor({ parent, protocol }: RouteIdentity, announces: boolean) {
    this.id = protocol === undefined ? parent : `${parent} over ${protocol}`;
    this.parent = parent;
    this.protocol = protocol;
    if (announces) {
      this.#announced = new Set();
      this.#announcing = true;
    }
  }

  /** Why the route is left out; undefined for one that is counted on. */
  get leftOut(): LeftOut | undefined {
    return this.#leftOut;
  }

  /** True for a route that is left out: it is asked as a probe, if at all. */
  get isLeftOut(): boolean {
    return this.#leftOut !== undefined;
  }

  /** Number of failures counted so far. Attempts keep it for {@link failed}. */
  get failureEpoch(): number {
    return this.#failureEpoch;
  }

  /** When the last failure was counted; negative infinity without one. */
  get lastFailureAt(): number {
    return this.#lastFailureAt;
  }

  /** The route announced that it has the piece. */
  announce(number: number): void {
    this.#announcementsInterrupted = false;
    this.#announced?.add(number);
    this.#misses.delete(number);
  }

  /** No further announcements come: those so far are all, or, with `everything`, they say nothing about what is there. */
  endAnnouncements(everything: boolean): void {
    this.#announcing = false;
    if (everything) this.#announced = undefined;
  }

  /** The announcements have broken off; they may come again. */
  interruptAnnouncements(): void {
    this.#announcementsInterrupted = true;
  }

  /** Whether the route could come to have the piece without being asked for it. */
  get mayAnnounceMore(): boolean {
    return this.#announcing && !this.#announcementsInterrupted && this.isUsable;
  }

  /** True while announcements that have broken off may come again. */
  get awaitsReannouncement(): boolean {
    return (
      this.#announcing &&
      this.#announcementsInterrupted &&
      this.#leftOut !== "banned" &&
      !this.excludedFromRound
    );
  }

  /** Whether pieces are asked for here. */
  get isUsable(): boolean {
    return !this.isLeftOut && !this.excludedFromRound;
  }

  /** Whether the parent has the piece, as far as it announced. */
  mayHave(number: number): boolean {
    return this.#announced?.has(number) !== false;
  }

  /** Whether the piece may be asked for here, as far as the piece is concerned, and if later, from when on. */
  availability(number: number): { readonly from: number } | undefined {
    if (this.#leftOut === "banned" || this.excludedFromRound || !this.mayHave(number))
      return undefined;
    const misses = this.#misses.get(number);
    if (misses === undefined) return { from: this.retryAt };
    return misses.count >= MAX_MISSES
      ? undefined
      : { from: Math.max(misses.retryAt, this.retryAt) };
  }

  /** One more request may go to a route that has just failed; any number to others. */
  get isRecovering(): boolean {
    return this.failures > 0;
  }

  begin(now: number): void {
    this.inFlight++;
    this.setWaiting(true, now);
  }

  end(owing: boolean, now: number): void {
    if (owing) this.setWaiting(false, now);
    // Also when nothing came: that is a rate too.
    this.#updateRate();
    this.inFlight--;
    this.#idleSince = now;
  }

  /** An attempt waits for the parent, or does not any more: only such time counts for the rate. */
  setWaiting(owing: boolean, now: number): void {
    this.#countWaiting(now);
    this.#waitingCount += owing ? 1 : -1;
  }

  arrived(bytes: number, now: number): void {
    this.bytes += bytes;
    this.#sampleBytes += bytes;
    this.#countWaiting(now);
    this.#updateRate();
  }

  answered(milliseconds: number): void {
    this.latency = movingAverage(this.latency, milliseconds);
  }

  succeeded(now: number): void {
    this.pieces++;
    this.restore();
    // Small pieces come faster than samples are taken; one sample is better than none.
    if (this.#rate === undefined && this.#sampleActive > 0) {
      this.#rate = Math.max(MIN_RATE_BYTES_PER_MS, this.#sampleBytes / this.#sampleActive);
      this.#sampleActive = 0;
      this.#sampleBytes = 0;
      this.#sampleSince = now;
    }
  }

  /**
   * Notes a failed attempt. Attempts that were in flight at the same failure count once.
   *
   * @param epoch {@link epoch} when the attempt began
   * @param as why the route is left out once it has failed too often
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

  /** The route does not have the piece, whatever it announced. One that never delivered anything may not have the task. */
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

  /** Leaves the route out at once; a ban is for good. */
  leaveOut(as: Exclude<LeftOut, "gone">, now: number): void {
    if (this.#leftOut === "banned") return;
    this.#leftOut = as;
    this.#lastFailureAt = now;
    this.#failureEpoch++;
    this.failures++;
    this.retryAt = now + MAX_PAUSE_MS;
  }

  /** Counts on the route again, unless it is banned. */
  restore(): void {
    if (this.#leftOut === "banned") return;
    this.#leftOut = undefined;
    this.failures = 0;
    this.retryAt = 0;
  }

  /** Has the route asked again at `time`, if that is sooner. */
  retryBy(time: number): void {
    this.retryAt = Math.min(this.retryAt, time);
  }

  addReason(error: VortexError): void {
    this.errors++;
    if (this.reasons.some(({ code, message }) => code === error.code && message === error.message))
      return;
    this.reasons.push(error);
    if (this.reasons.length > MAX_REASONS) this.reasons.shift();
  }

  /** Counts the time since the last change, if bytes were owed in it. */
  #countWaiting(now: number): void {
    if (this.#waitingCount > 0) this.#sampleActive += now - this.#sampleSince;
    this.#sampleSince = now;
  }

  #updateRate(): void {
    if (this.#sampleActive < MIN_SAMPLE_MS) return;
    this.#rate = Math.max(
      MIN_RATE_BYTES_PER_MS,
      movingAverage(this.#rate, this.#sampleBytes / this.#sampleActive),
    );
    this.#sampleActive = 0;
    this.#sampleBytes = 0;
  }

  /** Measured bytes a millisecond; undefined before anything was measured. */
  get rate(): number | undefined {
    return this.#rate;
  }

  /** Milliseconds until a further piece of `length` bytes is expected; 0 when nothing is known yet. */
  expectedMs(length: number, now: number): number {
    if (this.#rate === undefined) return 0;
    const idle = this.inFlight === 0 ? now - this.#idleSince : 0;
    const faded = 1 + Math.max(0, idle - RATE_DECAY_MS) / RATE_DECAY_MS;
    return (this.latency ?? 0) + ((this.inFlight + 1) * length) / (this.#rate * faded);
  }
}

/** What went wrong over any of several routes, each reason once. */
export function reasonsOf(routes: readonly RouteState[]): readonly VortexError[] {
  const reasons = routes.flatMap((route) => route.reasons);
  const isFirst = ({ code, message }: VortexError, at: number): boolean =>
    reasons.findIndex((other) => other.code === code && other.message === message) === at;
  return reasons.filter(isFirst).slice(-MAX_REASONS);
}

function movingAverage(before: number | undefined, sample: number): number {
  return before === undefined ? sample : before + SAMPLE_WEIGHT * (sample - before);
}

/** Milliseconds to wait after so many failures in a row: exponential backoff with equal jitter. */
export function backoffMs(failures: number, random: () => number): number {
  return Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (failures - 1)) * (0.5 + random() / 2);
}
