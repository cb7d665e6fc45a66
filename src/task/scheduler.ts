import { type ErrorCode, VortexError } from "../errors.ts";
import type { Protocol } from "../transport/protocol.ts";
import type { RetryDecision } from "./retry-decision.ts";
import { type LeftOut, type RouteIdentity, RouteState } from "./route.ts";

/** Options of a {@link Scheduler}. Times are in ms. */
export interface SchedulerOptions {
  /** Number of the first requested piece. */
  readonly first: number;
  /** Number of the last requested piece; all between them are requested, too. */
  readonly last: number;
  /** Returns the length of a piece in bytes. */
  readonly lengthOf: (number: number) => number;
  /** Maximum number of pieces in flight. A piece with a hedged attempt counts once. */
  readonly concurrentPieceCount: number;
  /** Timeout for the transfer of one piece. */
  readonly pieceTimeout: number;
  /** Time without a byte from a parent after which an attempt is stalled and may be hedged. */
  readonly stallThreshold: number;
  /** Time to wait for a piece that no parent has announced yet. */
  readonly announceTimeout: number;
  /** Time to wait for the last parents to recover, once all are left out. */
  readonly patience: number;
  /**
   * Maximum number of bytes that hedged attempts may buffer in memory together. One hedged attempt
   * is always allowed. Default 64 MiB.
   */
  readonly maxHedgeBytes?: number;
  /** Returns a random number from 0 to 1. */
  readonly random: () => number;
}

/**
 * One request for a piece to one parent. An attempt is in flight from the step that starts it until
 * `succeeded`, `failed`, or a call that returns it as ended.
 */
export interface Attempt {
  /** Unique ID of the attempt. */
  readonly id: number;
  /** Number of the piece. */
  readonly number: number;
  /** ID of the route. */
  readonly routeId: string;
  /** Name of the parent. */
  readonly parent: string;
  /** Protocol of the route, if the parent is used over several at once. */
  readonly protocol: Protocol | undefined;
  /**
   * True for a hedged attempt: another attempt at the piece was already in flight when it started.
   */
  readonly isHedge: boolean;
}

/** Limits of the environment at the time of a step. */
export interface StepEnvironment {
  /**
   * Returns true if the sink has room for a piece. If false for one piece, it is false for all
   * later ones.
   */
  hasRoom(number: number): boolean;
  /**
   * Takes a request slot at a parent; returns false if none is free. The slot belongs to the
   * attempt that is started next.
   */
  takeSlot(parent: string): boolean;
  /** Maximum number of pieces in flight, if currently lower than `concurrentPieceCount`. */
  readonly maxPieces?: number;
}

/** Result of a step. */
export interface Step {
  /** Attempts to start now. */
  readonly starts: readonly Attempt[];
  /**
   * Time of the next step in ms, unless an event triggers one earlier; undefined to wait for an
   * event.
   */
  readonly wakeAt: number | undefined;
  /**
   * Error of the download. Set once nothing is in flight and the remaining pieces cannot be
   * fetched.
   */
  readonly failure: VortexError | undefined;
}

/**
 * Attempt in flight. It alternates between two states: waiting for bytes from the parent, and
 * paused, while the sink or a rate limit delays the next read. Only wait time counts for rates and
 * stalls.
 */
interface RunningAttempt extends Attempt {
  /** Time of the start, in ms. */
  readonly startedAt: number;
  /** Failure epoch of the route at the start. */
  readonly failureEpoch: number;
  readonly route: RouteState;
  /**
   * True for a probe that has received bytes. It suspends the wait for recovery.
   */
  isDeliveringProbe: boolean;
  /** Received bytes. */
  bytes: number;
  /** Start of the current wait, in ms; undefined while the attempt is paused. */
  waitingSince: number | undefined;
  /** Total wait time in ms, without the current wait. */
  waitedMs: number;
  /** Wait time before the first byte, in ms. */
  firstByteMs: number;
  /** Value of `waitedMs` at the start of the current pace window. */
  windowWaitedMs: number;
  /** Value of `bytes` at the start of the current pace window. */
  windowBytes: number;
  /** Pace in the previous window, in ms per byte; 0 before. */
  windowMsPerByte: number;
}

/**
 * States of a piece, with these transitions:
 *
 * - `VERIFYING` to `DONE`: the piece is intact
 * - `VERIFYING` to `QUEUED`: the piece is damaged
 * - `QUEUED` to `IN_FLIGHT`: an attempt starts
 * - `IN_FLIGHT` to `DONE`: an attempt succeeds
 * - `IN_FLIGHT` to `QUEUED`: the last attempt fails or is ended
 * - any state to `QUEUED` or `DONE`: a new round fetches the piece again, or keeps it
 */
const PieceState = {
  /** To be requested, for the first time or again. */
  QUEUED: 0,
  /** Requested by one attempt, or by two with a hedged attempt. */
  IN_FLIGHT: 1,
  /** Complete, verified and handed to the sink. */
  DONE: 2,
  /** Left in the sink by an earlier download, and being verified. */
  VERIFYING: 3,
} as const;

/**
 * Number of pieces after the first queued one that are examined, in search of a piece that some
 * route has.
 */
const QUEUE_LOOKAHEAD_PIECES = 4096;
/** Maximum pause between two probes of a parent during the wait for recovery, in ms. */
export const MAX_PATIENCE_PAUSE_MS = 5000;
/**
 * Maximum number of probes whose first bytes may restart the wait for recovery, without a complete
 * piece in between. Parents that send only a few bytes each time are given up after that.
 */
const MAX_PATIENCE_RESETS = 5;
/**
 * Share of the piece timeout that the pieces in flight over one route may take together, according
 * to its rate.
 */
const MAX_PIECE_TIMEOUT_SHARE = 0.5;
/** Default of {@link SchedulerOptions.maxHedgeBytes}. */
const DEFAULT_MAX_HEDGE_BYTES = 64 * 1024 * 1024;
/** Interval between two searches for slow pieces, in ms. */
const HEDGE_INTERVAL_MS = 1000;
/**
 * A piece is slow if its remaining time exceeds the time for all of it over another route by this
 * factor.
 */
const SLOW_FACTOR = 4;
/** Factor in place of {@link SLOW_FACTOR} for idle routes, once no piece is left to start. */
const SLOW_FACTOR_AT_END = 1.5;
/** Wait time over which the recent pace of an attempt is measured, in ms. */
const PACE_WINDOW_MS = 5000;
/** Minimum time that a hedged attempt must save to be worth its bytes, in ms. */
const MIN_HEDGE_GAIN_MS = 100;

/**
 * Decides which piece is requested over which route, and when. A pure state machine without I/O,
 * clock or timers: the caller reports events with their times, and `step` returns what to do.
 *
 * Pieces start in ascending order, each over the route with the earliest expected delivery,
 * according to its measured rate. A stalled piece, or one that another route would deliver far
 * sooner, gets a hedged attempt; the first complete answer wins. A piece never has more than two
 * attempts. Once no piece is left to start, idle routes hedge the slowest pieces.
 *
 * The states of a piece are {@link PieceState}, those of a route {@link LeftOut}. The download as a
 * whole is in one of these:
 *
 * - active: attempts are in flight, or some route may start one
 * - awaiting announcements: nothing is in flight, and parents may still announce the missing
 *   pieces, until `announceTimeout`
 * - waiting for recovery: every route that has missing pieces is left out as `gone`. These are
 *   probed until the `patience` ends, the time that the caller allows for a recovery.
 * - failed: `step` returns a failure
 * - done: all pieces are stored
 */
export class Scheduler {
  readonly #options: SchedulerOptions;
  readonly #routes = new Map<string, RouteState>();
  /** Attempts in flight, by ID. */
  readonly #running = new Map<number, RunningAttempt>();
  /** Attempts in flight by piece: one, or two with a hedged attempt. */
  readonly #attemptsByPiece = new Map<number, RunningAttempt[]>();
  /** A {@link PieceState} per requested piece. */
  readonly #pieceStates: Uint8Array;
  /** Queued pieces that were started before. */
  readonly #retryQueue = new Set<number>();
  /** Lower bound of the next piece to start for the first time. */
  #nextUnstarted: number;
  /** Number of pieces that are not stored. */
  #remaining: number;
  /** Number of resumed pieces in verification. */
  #verifying = 0;
  #lastAttemptId = 0;
  /** Time of the first step, last complete piece or last restart, in ms. */
  #progressAt: number | undefined;
  /** Start of the wait for recovery, in ms; undefined outside of it. */
  #patienceSince: number | undefined;
  /** Number of probes that restarted the wait for recovery since the last complete piece. */
  #patienceResets = 0;

  constructor(options: SchedulerOptions) {
    this.#options = options;
    this.#remaining = options.last - options.first + 1;
    this.#pieceStates = new Uint8Array(this.#remaining);
    this.#nextUnstarted = options.first;
  }

  /** True once all pieces are stored. */
  get done(): boolean {
    return this.#remaining === 0;
  }

  /** Attempts in flight. */
  get attempts(): Iterable<Attempt> {
    return this.#running.values();
  }

  /** All routes. */
  get routes(): Iterable<RouteState> {
    return this.#routes.values();
  }

  /**
   * True if all remaining pieces are in flight, so that none is left to start unless an attempt
   * fails.
   */
  get allInFlight(): boolean {
    return this.#remaining === this.#attemptsByPiece.size;
  }

  /**
   * Adds a route.
   * @param announces true if the parent announces its pieces; otherwise it is assumed to have all
   */
  addRoute(identity: string | RouteIdentity, announces: boolean): RouteState {
    const route = new RouteState(
      typeof identity === "string" ? { parent: identity } : identity,
      announces,
    );
    this.#routes.set(route.id, route);
    return route;
  }

  /** Returns the route with this ID. */
  route(id: string): RouteState {
    const route = this.#routes.get(id);
    if (route === undefined) throw new VortexError("Internal", `unknown route: ${id}`);
    return route;
  }

  /**
   * Records that the sink contains a piece of an earlier download. It is not requested until
   * {@link endVerification}.
   */
  beginVerification(number: number): void {
    if (this.#pieceState(number) !== PieceState.QUEUED) return;
    this.#setPieceState(number, PieceState.VERIFYING);
    this.#verifying++;
  }

  /** Records the result of a verification. A piece that is not intact is requested again. */
  endVerification(number: number, isIntact: boolean): void {
    if (this.#pieceState(number) !== PieceState.VERIFYING) return;
    this.#verifying--;
    this.#setPieceState(number, isIntact ? PieceState.DONE : PieceState.QUEUED);
    if (isIntact) this.#remaining--;
    else this.#retryQueue.add(number);
  }

  /** Records that the answer to an attempt has started, before its first byte of content. */
  answered(id: number, now: number): void {
    const attempt = this.#running.get(id);
    attempt?.route.answered(now - attempt.startedAt);
  }

  /** Records received bytes of an attempt. */
  arrived(id: number, bytes: number, now: number): void {
    const attempt = this.#running.get(id);
    if (attempt === undefined) return;
    if (
      attempt.bytes === 0 &&
      attempt.route.isLeftOut &&
      this.#patienceResets < MAX_PATIENCE_RESETS
    ) {
      this.#patienceResets++;
      attempt.isDeliveringProbe = true;
      this.#patienceSince = undefined;
    }
    attempt.route.arrived(bytes, now);
    if (attempt.waitingSince !== undefined) {
      attempt.waitedMs += now - attempt.waitingSince;
      attempt.waitingSince = now;
    }
    if (attempt.bytes === 0) {
      attempt.firstByteMs = attempt.waitedMs;
      attempt.windowWaitedMs = attempt.waitedMs;
    }
    attempt.bytes += bytes;
    const windowMs = attempt.waitedMs - attempt.windowWaitedMs;
    if (windowMs < PACE_WINDOW_MS) return;
    attempt.windowMsPerByte = windowMs / Math.max(1, attempt.bytes - attempt.windowBytes);
    attempt.windowWaitedMs = attempt.waitedMs;
    attempt.windowBytes = attempt.bytes;
  }

  /** Records that an attempt starts or stops waiting for bytes from its parent. */
  setWaiting(id: number, isWaiting: boolean, now: number): void {
    const attempt = this.#running.get(id);
    if (attempt === undefined || (attempt.waitingSince !== undefined) === isWaiting) return;
    if (attempt.waitingSince !== undefined) attempt.waitedMs += now - attempt.waitingSince;
    attempt.waitingSince = isWaiting ? now : undefined;
    attempt.route.setWaiting(isWaiting, now);
  }

  /**
   * Records that the piece of an attempt is complete and verified. Returns the other attempts at
   * the piece, which have ended. A parent that was silent for as long as the winner took has
   * stalled, and its attempt counts as a failure.
   */
  succeeded(id: number, now: number): readonly Attempt[] {
    const winner = this.#remove(id, now);
    if (winner === undefined) return [];
    const { number, route, startedAt } = winner;
    route.succeeded(now);
    this.#progressAt = now;
    this.#patienceSince = undefined;
    this.#patienceResets = 0;
    const losers = [...(this.#attemptsByPiece.get(number) ?? [])];
    for (const loser of losers) {
      const silence = loser.waitingSince === undefined ? 0 : now - loser.waitingSince;
      this.#remove(loser.id, now);
      if (silence < Math.min(this.#options.stallThreshold, now - startedAt + MIN_HEDGE_GAIN_MS))
        continue;
      const error = new VortexError(
        "Stalled",
        "parent stalled: it sent no byte while another parent delivered the whole piece",
      );
      loser.route.failed(error, loser.failureEpoch, now, this.#options.random);
    }
    this.#setPieceState(number, PieceState.DONE);
    this.#remaining--;
    return losers;
  }

  /** Returns all routes of a parent. */
  routesOf(parent: string): readonly RouteState[] {
    return [...this.#routes.values()].filter((route) => route.parent === parent);
  }

  /** Returns the time left in the wait for recovery, in ms; undefined outside of it. */
  patienceLeft(now: number): number | undefined {
    const end = this.#patienceEndsAt;
    return end === undefined ? undefined : Math.max(0, end - now);
  }

  /**
   * Records a failed attempt. Returns further attempts that have ended because their route is left
   * out now. Wrong data is wrong over every protocol, so it bans all routes of the parent.
   */
  failed(
    id: number,
    error: VortexError,
    decision: Exclude<RetryDecision, "fatal">,
    now: number,
  ): readonly Attempt[] {
    const attempt = this.#remove(id, now);
    if (attempt === undefined) return [];
    const { route, number, failureEpoch } = attempt;
    this.#requeue(number);
    const { random } = this.#options;
    const routes = this.routesOf(route.parent);
    const leftOutBefore = new Set(routes.filter(({ isLeftOut }) => isLeftOut));
    if (decision === "missing") route.missed(number, error, failureEpoch, now, random);
    else if (decision === "retry") route.failed(error, failureEpoch, now, random);
    else {
      route.addReason(error);
      route.leaveOut(decision === "leave-out" ? "useless" : "banned", now);
      if (error.kind === "peer") for (const each of routes) each.leaveOut("banned", now);
    }
    const endedRoutes = routes.filter(
      (route) => route.leftOut === "banned" || (route.isLeftOut && !leftOutBefore.has(route)),
    );
    return endedRoutes.flatMap((route) => this.#endAttempts(route, now));
  }

  /**
   * Leaves a route out for a reason other than a failed attempt. Returns its attempts, which have
   * ended.
   */
  leaveOut(id: string, as: Exclude<LeftOut, "gone">, now: number): readonly Attempt[] {
    const route = this.route(id);
    route.leaveOut(as, now);
    return this.#endAttempts(route, now);
  }

  /**
   * Excludes a parent from the current round, since its content differs from that of the others.
   * Returns its attempts, which have ended.
   */
  excludeFromRound(parent: string, error: VortexError, now: number): readonly Attempt[] {
    return this.routesOf(parent).flatMap((route) => {
      route.addReason(error);
      route.excludedFromRound = true;
      return this.#endAttempts(route, now);
    });
  }

  /**
   * Starts a new round: keeps the pieces of `kept`, and fetches all others from the given parents
   * only. No attempt may be in flight.
   */
  restart(kept: ReadonlySet<number>, parents: readonly string[], now: number): void {
    const { first, last } = this.#options;
    for (const route of this.#routes.values())
      route.excludedFromRound = !parents.includes(route.parent);
    this.#retryQueue.clear();
    this.#remaining = 0;
    for (let number = first; number <= last; number++) {
      const isKept = kept.has(number);
      this.#setPieceState(number, isKept ? PieceState.DONE : PieceState.QUEUED);
      if (!isKept) this.#remaining++;
    }
    this.#nextUnstarted = first;
    this.#progressAt = now;
    this.#patienceSince = undefined;
  }

  /** Advances the state machine to the time `now`, in ms, and returns what to do. */
  step(now: number, environment: StepEnvironment): Step {
    this.#progressAt ??= now;
    this.#updatePatience(now);
    const starts: Attempt[] = [];
    const times: RetryTimes = {
      wake: new Earliest(),
      gone: new Earliest(),
      useless: new Earliest(),
    };
    const { wake, gone, useless } = times;
    // Reasons to wait that end with an event outside of the scheduler.
    const blocked = { bySlots: false, byRoom: false };
    const maxPieces = Math.min(
      this.#options.concurrentPieceCount,
      environment.maxPieces ?? Number.POSITIVE_INFINITY,
    );
    while (this.#attemptsByPiece.size < maxPieces) {
      const start = this.#startNext(now, environment, times, blocked);
      if (start === undefined) break;
      starts.push(start);
    }
    if (this.#routes.size > 1) this.#startHedges(now, environment, maxPieces, wake, starts);
    if (
      this.#running.size > 0 ||
      this.done ||
      this.#verifying > 0 ||
      blocked.bySlots ||
      blocked.byRoom ||
      wake.at !== undefined
    ) {
      for (const { at } of [gone, useless]) if (at !== undefined) wake.note(at);
      return { starts, wakeAt: wake.at, failure: undefined };
    }
    return { starts, ...this.#waitOrFail(now, gone) };
  }

  /** Starts an attempt at the first queued piece that some route can deliver now. */
  #startNext(
    now: number,
    environment: StepEnvironment,
    times: RetryTimes,
    blocked: { bySlots: boolean; byRoom: boolean },
  ): Attempt | undefined {
    let isFirst = true;
    for (const number of this.#queue()) {
      if (!environment.hasRoom(number)) {
        // Room appears when the sink has passed on all earlier pieces. If an earlier piece is
        // queued and unavailable, no room will appear.
        blocked.byRoom = isFirst;
        return undefined;
      }
      isFirst = false;
      for (const candidate of this.#rankRoutes(number, now, times)) {
        if (environment.takeSlot(candidate.parent)) return this.#start(number, candidate, now);
        blocked.bySlots = true;
      }
    }
    return undefined;
  }

  /** Yields the queued pieces in ascending order. */
  *#queue(): Generator<number> {
    const retryQueue = [...this.#retryQueue].sort((a, b) => a - b);
    let position = 0;
    while (
      this.#nextUnstarted <= this.#options.last &&
      this.#pieceState(this.#nextUnstarted) !== PieceState.QUEUED
    )
      this.#nextUnstarted++;
    const end = Math.min(this.#options.last, this.#nextUnstarted + QUEUE_LOOKAHEAD_PIECES);
    for (let number = this.#nextUnstarted; number <= end; number++) {
      for (
        let next = retryQueue[position];
        next !== undefined && next < number;
        next = retryQueue[++position]
      )
        yield next;
      if (this.#pieceState(number) === PieceState.QUEUED && !this.#retryQueue.has(number))
        yield number;
    }
    yield* retryQueue.slice(position);
  }

  /**
   * Returns the routes that may be asked for a piece now, earliest expected delivery first. Records
   * in `times` when the others may be asked.
   */
  #rankRoutes(
    number: number,
    now: number,
    times: RetryTimes,
    except?: RouteState,
  ): readonly RouteState[] {
    const length = this.#options.lengthOf(number);
    const candidates: { route: RouteState; expected: number; isStalled: boolean }[] = [];
    for (const route of this.#routes.values()) {
      if (route === except || this.#isGivenUp(route)) continue;
      const availability = route.availability(number);
      if (availability === undefined) continue;
      if (availability.from > now) {
        const { wake, gone, useless } = times;
        (route.leftOut === undefined ? wake : route.leftOut === "gone" ? gone : useless).note(
          availability.from,
        );
        continue;
      }
      const expected = route.expectedMs(length, now);
      // Only one attempt at a time: on a route that has just failed, and on one so slow that
      // several pieces in flight would time out.
      if (
        route.inFlight > 0 &&
        (route.isRecovering || expected > this.#options.pieceTimeout * MAX_PIECE_TIMEOUT_SHARE)
      )
        continue;
      candidates.push({ route, expected, isStalled: this.#hasStalledAttempt(route, now) });
    }
    // Unmeasured routes come first, and share the pieces evenly.
    candidates.sort(
      (a, b) =>
        Number(a.isStalled) - Number(b.isStalled) ||
        a.expected - b.expected ||
        a.route.inFlight - b.route.inFlight,
    );
    return candidates.map(({ route }) => route);
  }

  /** Starts hedged attempts at stalled and slow pieces. */
  #startHedges(
    now: number,
    environment: StepEnvironment,
    maxPieces: number,
    wake: Earliest,
    starts: Attempt[],
  ): void {
    const unhedged = [...this.#attemptsByPiece.values()].flatMap((attempts) =>
      attempts.length === 1 ? attempts : [],
    );
    if (unhedged.length === 0) return;
    const isAtEnd = this.#attemptsByPiece.size < maxPieces;
    let hedgeBytes = 0;
    for (const { isHedge, number } of this.#running.values())
      if (isHedge) hedgeBytes += this.#options.lengthOf(number);
    const slowestFirst = unhedged
      .map((attempt) => ({
        attempt,
        remaining: this.#remainingMs(attempt, now),
        stalled: this.#stalledAt(attempt) <= now,
      }))
      .sort((a, b) => Number(b.stalled) - Number(a.stalled) || b.remaining - a.remaining);
    for (const { attempt, remaining, stalled } of slowestFirst) {
      if (!stalled) wake.note(this.#stalledAt(attempt));
      const length = this.#options.lengthOf(attempt.number);
      if (
        hedgeBytes > 0 &&
        hedgeBytes + length > (this.#options.maxHedgeBytes ?? DEFAULT_MAX_HEDGE_BYTES)
      )
        continue;
      // While another attempt is in flight, the retry times of these routes are irrelevant.
      const times = { wake: new Earliest(), gone: new Earliest(), useless: new Earliest() };
      const routes = this.#rankRoutes(attempt.number, now, times, attempt.route);
      const route = routes.find((candidate) => {
        if (candidate.isLeftOut || this.#hasStalledAttempt(candidate, now)) return false;
        if (stalled) return true;
        const expected = candidate.expectedMs(length, now);
        // The pace of a new piece says nothing about its rest: on a shared link, each piece waits
        // for its turn.
        if (candidate.rate === undefined || this.#waitedMs(attempt, now) < expected) return false;
        const isIdle = isAtEnd && candidate.inFlight === 0;
        return (
          remaining > (isIdle ? SLOW_FACTOR_AT_END : SLOW_FACTOR) * expected + MIN_HEDGE_GAIN_MS
        );
      });
      if (route === undefined || !environment.takeSlot(route.parent)) continue;
      starts.push(this.#start(attempt.number, route, now));
      hedgeBytes += length;
    }
    wake.note(now + HEDGE_INTERVAL_MS);
  }

  /** Starts an attempt at a piece. */
  #start(number: number, route: RouteState, now: number): Attempt {
    const others = this.#attemptsByPiece.get(number) ?? [];
    const attempt: RunningAttempt = {
      id: ++this.#lastAttemptId,
      number,
      routeId: route.id,
      parent: route.parent,
      protocol: route.protocol,
      isHedge: others.length > 0,
      startedAt: now,
      failureEpoch: route.failureEpoch,
      route,
      isDeliveringProbe: false,
      bytes: 0,
      waitingSince: now,
      waitedMs: 0,
      firstByteMs: 0,
      windowWaitedMs: 0,
      windowBytes: 0,
      windowMsPerByte: 0,
    };
    this.#running.set(attempt.id, attempt);
    this.#attemptsByPiece.set(number, [...others, attempt]);
    this.#setPieceState(number, PieceState.IN_FLIGHT);
    this.#retryQueue.delete(number);
    route.begin(now);
    return attempt;
  }

  /** Removes an attempt that has ended; undefined if it had ended before. */
  #remove(id: number, now: number): RunningAttempt | undefined {
    const attempt = this.#running.get(id);
    if (attempt === undefined) return undefined;
    this.#running.delete(id);
    const others = (this.#attemptsByPiece.get(attempt.number) ?? []).filter(
      (other) => other !== attempt,
    );
    if (others.length > 0) this.#attemptsByPiece.set(attempt.number, others);
    else this.#attemptsByPiece.delete(attempt.number);
    attempt.route.end(attempt.waitingSince !== undefined, now);
    return attempt;
  }

  /** Ends all attempts over a route, and queues their pieces again. */
  #endAttempts(route: RouteState, now: number): readonly Attempt[] {
    const ended = [...this.#running.values()].filter((attempt) => attempt.route === route);
    for (const { id, number } of ended) {
      this.#remove(id, now);
      this.#requeue(number);
    }
    return ended;
  }

  /** Queues a piece again, unless another attempt at it is in flight. */
  #requeue(number: number): void {
    if (this.#attemptsByPiece.has(number)) return;
    this.#setPieceState(number, PieceState.QUEUED);
    this.#retryQueue.add(number);
  }

  /** Returns the time at which an attempt becomes stalled. */
  #stalledAt({ waitingSince }: RunningAttempt): number {
    return waitingSince === undefined
      ? Number.POSITIVE_INFINITY
      : waitingSince + this.#options.stallThreshold;
  }

  /** Returns true if any attempt over the route is stalled. */
  #hasStalledAttempt(route: RouteState, now: number): boolean {
    if (route.inFlight === 0) return false;
    for (const attempt of this.#running.values()) {
      if (attempt.route === route && this.#stalledAt(attempt) <= now) return true;
    }
    return false;
  }

  /**
   * Estimates the remaining time of an attempt in ms, by its average pace and its recent pace,
   * whichever is slower. The recent pace detects a parent that sends all bytes but the last few at
   * once, then one byte per second. A silent attempt is assumed to stay silent for as long again.
   */
  #remainingMs(attempt: RunningAttempt, now: number): number {
    const { bytes, firstByteMs, number, waitingSince } = attempt;
    const waited = this.#waitedMs(attempt, now);
    if (bytes === 0) return waited;
    const msPerByte = Math.max((waited - firstByteMs) / bytes, attempt.windowMsPerByte);
    return Math.max(
      msPerByte * (this.#options.lengthOf(number) - bytes),
      waitingSince === undefined ? 0 : now - waitingSince,
    );
  }

  /** Returns the total wait time of an attempt in ms. */
  #waitedMs({ waitedMs, waitingSince }: RunningAttempt, now: number): number {
    return waitedMs + (waitingSince === undefined ? 0 : now - waitingSince);
  }

  /**
   * Handles a step with nothing in flight: waits for announcements or for a parent to recover, or
   * fails.
   */
  #waitOrFail(
    now: number,
    gone: Earliest,
  ): { wakeAt: number | undefined; failure: VortexError | undefined } {
    const { announceTimeout, patience } = this.#options;
    const routes = [...this.#routes.values()];
    const wake = new Earliest();
    const announceDeadline = (this.#progressAt ?? now) + announceTimeout;
    const mayBeAnnounced = routes.some((route) => route.mayAnnounceMore);
    if (mayBeAnnounced && now < announceDeadline) wake.note(announceDeadline);
    // If other parents are only excluded from this round, the next round tries them instead of
    // waiting.
    const patienceEnd = routes.some(
      ({ excludedFromRound, leftOut }) => excludedFromRound && leftOut === undefined,
    )
      ? undefined
      : this.#patienceEndsAt;
    if (
      patienceEnd !== undefined &&
      now < patienceEnd &&
      routes.some((route) => route.awaitsReannouncement)
    )
      wake.note(patienceEnd);
    if (patienceEnd !== undefined && gone.at !== undefined) wake.note(gone.at);
    if (wake.at !== undefined) return { wakeAt: wake.at, failure: undefined };
    const number = this.#queue().next().value ?? this.#options.first;
    const suffix =
      patienceEnd === undefined || patience === 0
        ? ""
        : `, and no parent recovered within the patience of ${patience} ms`;
    const why = mayBeAnnounced
      ? `was not announced by any parent within ${announceTimeout} ms`
      : `cannot be fetched${suffix}`;
    return { wakeAt: undefined, failure: this.#failure(`piece ${number} ${why}`, mayBeAnnounced) };
  }

  /** Starts or ends the wait for recovery. During it, shortens the pauses of the probed routes. */
  #updatePatience(now: number): void {
    const routes = [...this.#routes.values()];
    const gone = routes.filter(
      (route) => route.leftOut === "gone" && (route.inFlight > 0 || this.#canProvideAny(route)),
    );
    const awaitsReannouncement = routes.some((route) => route.awaitsReannouncement);
    if ((gone.length === 0 && !awaitsReannouncement) || this.#hasActiveRoute(routes)) {
      this.#patienceSince = undefined;
      return;
    }
    this.#patienceSince ??= awaitsReannouncement
      ? now
      : Math.max(...gone.map(({ lastFailureAt }) => lastFailureAt));
    const patienceEnd = this.#patienceSince + this.#options.patience;
    for (const route of gone) {
      // Each route is probed once more at the end, even after a pause of the download.
      if (!this.#isGivenUp(route))
        route.retryBy(Math.min(route.lastFailureAt + MAX_PATIENCE_PAUSE_MS, patienceEnd));
    }
  }

  /** Returns true if a route in regular use may deliver a piece, or a probe is receiving bytes. */
  #hasActiveRoute(routes: readonly RouteState[]): boolean {
    if (
      routes.some(
        (route) =>
          !route.isLeftOut &&
          (route.inFlight > 0 || route.mayAnnounceMore || this.#canProvideAny(route)),
      )
    )
      return true;
    return [...this.#running.values()].some(({ isDeliveringProbe }) => isDeliveringProbe);
  }

  /** End of the wait for recovery, in ms; undefined outside of it. */
  get #patienceEndsAt(): number | undefined {
    return this.#patienceSince === undefined
      ? undefined
      : this.#patienceSince + this.#options.patience;
  }

  /** Returns true for a route that failed once more after the end of the wait for recovery. */
  #isGivenUp(route: RouteState): boolean {
    const end = this.#patienceEndsAt;
    return end !== undefined && route.leftOut === "gone" && route.lastFailureAt >= end;
  }

  /** Returns true if a route may be asked for any queued piece, now or later. */
  #canProvideAny(route: RouteState): boolean {
    for (const number of this.#queue()) if (route.availability(number) !== undefined) return true;
    return false;
  }

  /** Returns the error of the download, with the reasons of every route. */
  #failure(what: string, mayBeAnnounced: boolean): VortexError {
    const routes = [...this.#routes.values()];
    const descriptions = routes.map(({ id, isUsable, reasons }) => {
      const last = reasons.at(-1);
      if (last !== undefined)
        return `${id}${isUsable ? " does not have it" : ""}: ${last.code}, ${last.message}`;
      return `${id} does not have it`;
    });
    const codes = new Set<ErrorCode>(
      routes.map(({ isUsable, reasons }) => (!isUsable && reasons.at(-1)?.code) || "NotFound"),
    );
    const [sharedCode] = codes;
    // A code that all parents share is the most specific one.
    const code = mayBeAnnounced
      ? "Stalled"
      : codes.size === 1 && sharedCode !== undefined
        ? sharedCode
        : "Unreachable";
    const message = `${what}: ${descriptions.length === 0 ? "there is no parent" : descriptions.join("; ")}`;
    return new VortexError(code, message, { cause: routes.flatMap(({ reasons }) => reasons) });
  }

  #pieceState(number: number): number {
    return this.#pieceStates[number - this.#options.first] ?? PieceState.DONE;
  }

  #setPieceState(number: number, state: number): void {
    this.#pieceStates[number - this.#options.first] = state;
  }
}

/** Earliest retry times of the routes in a pause. */
interface RetryTimes {
  /** Routes in regular use. */
  readonly wake: Earliest;
  /** Routes that are left out as `gone`. */
  readonly gone: Earliest;
  /** Routes that are left out as `useless`. */
  readonly useless: Earliest;
}

/** Minimum of several times. */
class Earliest {
  /** Earliest recorded time in ms; undefined without any. */
  at: number | undefined;

  /** Records a time; infinity is ignored. */
  note(time: number): void {
    if (time !== Number.POSITIVE_INFINITY && (this.at === undefined || time < this.at))
      this.at = time;
  }
}
