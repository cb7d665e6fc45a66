import { type ErrorCode, VortexError } from "../errors.ts";
import { attemptLabel, listFailures } from "../failure-list.ts";
import { formatPieceRanges } from "../piece.ts";
import type { Protocol } from "../transport/protocol.ts";
import type { RetryDecision } from "./retry-decision.ts";
import { type Exclusion, type RouteIdentity, RouteState } from "./route.ts";

/** Options of a {@link Scheduler}. Times are in ms. */
export interface SchedulerOptions {
  /** Number of the first requested piece. */
  readonly first: number;
  /** Number of the last requested piece. All pieces from `first` to `last` are requested. */
  readonly last: number;
  /** Returns the length of a piece in bytes. */
  readonly lengthOf: (number: number) => number;
  /** Maximum number of pieces in flight. A piece with two concurrent attempts counts once. */
  readonly concurrentPieceCount: number;
  /** Timeout for the transfer of one piece, in ms. */
  readonly pieceTimeout: number;
  /**
   * Time in ms without a byte from a parent after which its attempt counts as stalled. The piece
   * may then be requested from a second parent.
   */
  readonly stallThreshold: number;
  /**
   * Maximum time in ms to wait for parents to announce a missing piece, since the last complete
   * piece.
   */
  readonly announceTimeout: number;
  /**
   * Maximum time in ms to wait for the recovery of failed parents, if no other parent can deliver
   * the missing pieces.
   */
  readonly patience: number;
  /**
   * Maximum total length in bytes of the pieces that are requested from a second parent, since
   * their bytes may be buffered in memory. One such piece is always allowed. Default 64 MiB.
   */
  readonly maxHedgeBytes?: number;
  /** Returns a random number from 0 to 1. */
  readonly random: () => number;
}

/**
 * Request for one piece over one route. The attempt is in flight from the step that returns it in
 * `starts`. It ends with a call of `succeeded` or `failed`, or when another method returns it as
 * ended.
 */
export interface Attempt {
  /** Unique ID of the attempt. */
  readonly id: number;
  /** Number of the requested piece. */
  readonly number: number;
  /** ID of the route, see `RouteState.id`. */
  readonly routeId: string;
  /** Name of the parent. */
  readonly parent: string;
  /** Protocol of the route; undefined if the transport chooses the protocol. */
  readonly protocol: Protocol | undefined;
  /**
   * True for a hedged attempt: when it started, another attempt at the same piece was in flight.
   */
  readonly isHedge: boolean;
}

/** Limits outside of the scheduler that apply to one step. */
export interface StepEnvironment {
  /**
   * Returns true if the sink currently accepts the piece. If the result is false for one piece, it
   * must be false for all later pieces.
   */
  hasRoom(number: number): boolean;
  /**
   * Reserves one of the limited concurrent requests to a parent, for the attempt that is started
   * next. Returns false if the parent can take no further request now. It is then not asked again
   * in the same step.
   *
   * @param hedged attempt in flight that the next one hedges; undefined for a first attempt
   */
  takeSlot(parent: string, hedged: Attempt | undefined): boolean;
  /**
   * Additional limit of the number of pieces in flight. Default: only `concurrentPieceCount`
   * applies.
   */
  readonly maxPieces?: number;
}

/** Result of a step. */
export interface Step {
  /** Attempts to start now. */
  readonly starts: readonly Attempt[];
  /**
   * Time at which the next step is due, in ms on the monotonic clock. An event may require a step
   * earlier. Undefined if the next step is due only after an event.
   */
  readonly wakeAt: number | undefined;
  /**
   * Error that ends the round; undefined while pieces may still be fetched. Set only if no attempt
   * is in flight.
   */
  readonly failure: VortexError | undefined;
}

/**
 * Attempt in flight. It is either waiting for bytes from the parent, or paused while the sink or a
 * rate limit delays the next read. Only the time spent waiting counts for rates and stalls.
 */
interface RunningAttempt extends Attempt {
  /** Time of the start, in ms on the monotonic clock. */
  readonly startedAt: number;
  /** Value of `RouteState.failureEpoch` at the start of the attempt. */
  readonly failureEpoch: number;
  /** Route that carries the attempt. */
  readonly route: RouteState;
  /**
   * True if the attempt tests a route out of regular use and has received bytes. Meanwhile, the
   * option `patience` does not limit the wait for failed parents.
   */
  isDeliveringProbe: boolean;
  /** Number of received bytes. */
  bytes: number;
  /**
   * Time from which the attempt has been waiting for bytes, in ms on the monotonic clock; undefined
   * while it is paused.
   */
  waitingSince: number | undefined;
  /** Total time in ms for which the attempt has waited for bytes, up to `waitingSince`. */
  waitedMs: number;
  /** Time in ms for which the attempt waited before its first byte. */
  firstByteMs: number;
  /** Value of `waitedMs` at the start of the current interval over which the pace is measured. */
  windowWaitedMs: number;
  /** Value of `bytes` at the start of the current interval over which the pace is measured. */
  windowBytes: number;
  /**
   * Pace in the last complete measurement interval, in ms per byte; 0 before the end of the first
   * interval.
   */
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
 * - any state to `DONE`: a new round keeps the stored piece
 * - any state to `QUEUED`: a new round fetches the piece again
 */
const PieceState = {
  /** Waiting to be requested, for the first time or again. */
  QUEUED: 0,
  /** Requested by one attempt, or by two concurrent attempts. */
  IN_FLIGHT: 1,
  /** Received completely and verified. */
  DONE: 2,
  /** Stored by an earlier download, and currently being verified. */
  VERIFYING: 3,
} as const;

/**
 * Maximum number of pieces after the first unstarted piece that one step examines to find a piece
 * that some route can deliver.
 */
const QUEUE_LOOKAHEAD_PIECES = 4096;
/**
 * Maximum backoff between two attempts at a failed parent in ms, while no other parent can deliver
 * the missing pieces.
 */
export const MAX_PATIENCE_PAUSE_MS = 5000;
/**
 * Limits how often the first bytes from a failed parent restart the wait for failed parents,
 * without a complete piece in between. Otherwise, parents that send a few bytes per attempt could
 * delay the failure of the download forever.
 */
const MAX_PATIENCE_RESETS = 5;
/**
 * Maximum share of the piece timeout that the pieces in flight over one route may take together, at
 * its measured rate. If one more piece would exceed it, the route carries only one attempt at a
 * time.
 */
const MAX_PIECE_TIMEOUT_SHARE = 0.5;
/** Default of {@link SchedulerOptions.maxHedgeBytes}, in bytes. */
const DEFAULT_MAX_HEDGE_BYTES = 64 * 1024 * 1024;
/** Interval between two searches for slow pieces that need a second attempt, in ms. */
const HEDGE_INTERVAL_MS = 1000;
/**
 * Factor that defines a slow piece: its remaining time exceeds this factor times the expected time
 * of the whole piece over another route.
 */
const SLOW_FACTOR = 4;
/**
 * Replaces {@link SLOW_FACTOR} once every remaining piece is in flight, for a route without an
 * attempt in flight.
 */
const SLOW_FACTOR_AT_END = 1.5;
/** Time spent waiting for bytes over which the recent pace of an attempt is measured, in ms. */
const PACE_WINDOW_MS = 5000;
/**
 * Minimum time in ms that a second attempt at a piece must save to be worth its additional bytes.
 */
const MIN_HEDGE_GAIN_MS = 100;

/**
 * Decides which piece is requested over which route, and when. A route is one parent over one
 * protocol. This is a pure state machine without I/O, clock or timers: the caller reports events
 * with their times, and `step` returns the attempts to start.
 *
 * Pieces start in ascending order. Each piece is requested over the route with the earliest
 * expected delivery, according to its measured rate.
 *
 * If an attempt is stalled, or another route would deliver the piece much sooner, a second, hedged
 * attempt starts over that route. The first complete response wins. A piece never has more than two
 * attempts. Once no piece is left to start, idle routes hedge the slowest pieces.
 *
 * {@link PieceState} describes the states of a piece, and {@link Exclusion} those of a route. The
 * scheduler as a whole is in one of these states:
 *
 * - active: attempts are in flight, or some route may start one
 * - awaiting announcements: no attempt is in flight, and parents may still announce the missing
 *   pieces until `announceTimeout`
 * - waiting for recovery: all routes to parents with missing pieces have failed repeatedly. The
 *   scheduler retries them at intervals until the time `patience` has passed.
 * - failed: `step` returns a failure
 * - done: all pieces are stored
 */
export class Scheduler {
  readonly #options: SchedulerOptions;
  /** Routes by ID. */
  readonly #routes = new Map<string, RouteState>();
  /** Attempts in flight, by ID. */
  readonly #running = new Map<number, RunningAttempt>();
  /** Attempts in flight by piece number. A piece has one attempt, or two with a hedged attempt. */
  readonly #attemptsByPiece = new Map<number, RunningAttempt[]>();
  /** State of each requested piece, starting with the first: a {@link PieceState}. */
  readonly #pieceStates: Uint8Array;
  /** Numbers of the queued pieces that were requested or stored before. */
  readonly #retryQueue = new Set<number>();
  /** Lower bound of the numbers of all pieces that were never started. */
  #nextUnstarted: number;
  /** Number of requested pieces that are not stored and verified. */
  #remaining: number;
  /** Number of pieces of an earlier download that are being verified. */
  #verifying = 0;
  /** ID of the latest attempt. */
  #lastAttemptId = 0;
  /**
   * Time of the latest progress, in ms on the monotonic clock. Progress is the first step, a
   * complete piece or the start of a round. Undefined before the first step.
   */
  #progressAt: number | undefined;
  /**
   * Time from which the scheduler has been waiting for failed parents, in ms on the monotonic
   * clock. Undefined while another parent can deliver missing pieces.
   */
  #patienceSince: number | undefined;
  /**
   * Number of attempts at failed parents whose first bytes restarted the wait for failed parents,
   * since the last complete piece.
   */
  #patienceResets = 0;

  constructor(options: SchedulerOptions) {
    this.#options = options;
    this.#remaining = options.last - options.first + 1;
    this.#pieceStates = new Uint8Array(this.#remaining);
    this.#nextUnstarted = options.first;
  }

  /** True once all requested pieces are stored and verified. */
  get done(): boolean {
    return this.#remaining === 0;
  }

  /** All attempts in flight. */
  get attempts(): Iterable<Attempt> {
    return this.#running.values();
  }

  /** All routes. A route is one parent over one protocol. */
  get routes(): Iterable<RouteState> {
    return this.#routes.values();
  }

  /**
   * True if all remaining pieces are in flight. No piece is left to start then, unless an attempt
   * fails.
   */
  get allInFlight(): boolean {
    return this.#remaining === this.#attemptsByPiece.size;
  }

  /**
   * Adds a route: one parent over one protocol.
   *
   * @param identity parent and protocol, or only the name of the parent
   * @param announces true if the parent announces its pieces; false if it is assumed to have all
   * pieces
   */
  addRoute(identity: string | RouteIdentity, announces: boolean): RouteState {
    const route = new RouteState(
      typeof identity === "string" ? { parent: identity } : identity,
      announces,
    );
    this.#routes.set(route.id, route);
    return route;
  }

  /** Returns the route with this ID. Throws if the ID is unknown. */
  route(id: string): RouteState {
    const route = this.#routes.get(id);
    if (route === undefined) throw new VortexError("Internal", `unknown route: ${id}`);
    return route;
  }

  /**
   * Records that the sink contains a piece of an earlier download that is being verified. The piece
   * is not requested before {@link endVerification}.
   */
  beginVerification(number: number): void {
    if (this.#pieceState(number) !== PieceState.QUEUED) return;
    this.#setPieceState(number, PieceState.VERIFYING);
    this.#verifying++;
  }

  /**
   * Records the result of verifying a piece of an earlier download.
   *
   * @param isIntact true if the piece counts as stored; false if it is damaged and must be fetched
   * again
   */
  endVerification(number: number, isIntact: boolean): void {
    if (this.#pieceState(number) !== PieceState.VERIFYING) return;
    this.#verifying--;
    this.#setPieceState(number, isIntact ? PieceState.DONE : PieceState.QUEUED);
    if (isIntact) this.#remaining--;
    else this.#retryQueue.add(number);
  }

  /** Records that the response to an attempt has started, before the first byte of content. */
  answered(id: number, now: number): void {
    const attempt = this.#running.get(id);
    attempt?.route.answered(now - attempt.startedAt);
  }

  /** Records the number of bytes that an attempt received. */
  arrived(id: number, bytes: number, now: number): void {
    const attempt = this.#running.get(id);
    if (attempt === undefined) return;
    if (
      attempt.bytes === 0 &&
      attempt.route.isExcluded &&
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

  /**
   * Records that an attempt starts or stops waiting for bytes from its parent. Repeated calls with
   * the same value have no effect.
   *
   * @param isWaiting true if the attempt starts to wait, false if it stops
   */
  setWaiting(id: number, isWaiting: boolean, now: number): void {
    const attempt = this.#running.get(id);
    if (attempt === undefined || (attempt.waitingSince !== undefined) === isWaiting) return;
    if (attempt.waitingSince !== undefined) attempt.waitedMs += now - attempt.waitingSince;
    attempt.waitingSince = isWaiting ? now : undefined;
    attempt.route.setWaiting(isWaiting, now);
  }

  /**
   * Records that the piece of an attempt is complete and verified. Returns the other attempts at
   * the same piece, which have ended.
   *
   * Such an attempt counts as a failure of its route if it has stalled. It has stalled if its
   * parent sent no byte for about as long as the successful attempt took.
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

  /**
   * Returns the route of a parent that most likely answers a request for a piece, out of those in
   * regular use. Prefers routes that may have the piece, then those without a stalled attempt, then
   * those that have delivered bytes. Returns undefined if no route is in regular use.
   */
  bestRouteOf(parent: string, number: number, now: number): RouteState | undefined {
    const stalled = this.#stalledRoutes(now);
    const usable = this.routesOf(parent).filter(({ isUsable }) => isUsable);
    const having = usable.filter((route) => route.mayHave(number));
    const moving = having.filter((route) => !stalled.has(route));
    return moving.find(({ bytes }) => bytes > 0) ?? moving[0] ?? having[0] ?? usable[0];
  }

  /**
   * Returns the remaining time in ms to wait for the recovery of failed parents. Returns undefined
   * while another parent can deliver missing pieces.
   */
  patienceLeft(now: number): number | undefined {
    const end = this.#patienceEndsAt;
    return end === undefined ? undefined : Math.max(0, end - now);
  }

  /**
   * Records a failed attempt. If this takes routes out of regular use, their other attempts end and
   * are returned. If the parent sent wrong data, all its routes are banned, since wrong data does
   * not depend on the protocol.
   *
   * @param decision consequence of the error for the parent
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
    const excludedBefore = new Set(routes.filter(({ isExcluded }) => isExcluded));
    if (decision === "missing") route.missed(number, error, failureEpoch, now, random);
    else if (decision === "retry") route.failed(error, failureEpoch, now, random);
    else {
      route.addReason(error);
      route.exclude(decision === "exclude" ? "useless" : "banned", now);
      if (error.kind === "peer") for (const each of routes) each.exclude("banned", now);
    }
    const endedRoutes = routes.filter(
      (route) => route.exclusion === "banned" || (route.isExcluded && !excludedBefore.has(route)),
    );
    return endedRoutes.flatMap((route) => this.#endAttempts(route, now));
  }

  /**
   * Takes a route out of regular use for a reason other than a failed attempt. Its attempts end and
   * are returned.
   */
  exclude(id: string, as: Exclude<Exclusion, "gone">, now: number): readonly Attempt[] {
    const route = this.route(id);
    route.exclude(as, now);
    return this.#endAttempts(route, now);
  }

  /**
   * Stops using a parent in the current round (pass over all pieces), since its content contradicts
   * that of other parents. The attempts over all its routes end and are returned.
   */
  excludeFromRound(parent: string, error: VortexError, now: number): readonly Attempt[] {
    return this.routesOf(parent).flatMap((route) => {
      route.addReason(error);
      route.excludedFromRound = true;
      return this.#endAttempts(route, now);
    });
  }

  /**
   * Starts a new round, which is another pass over all pieces. No attempt may be in flight.
   *
   * @param kept numbers of the stored pieces that are not fetched again
   * @param parents names of the only parents that this round uses
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

  /**
   * Advances the state machine to the time `now`, in ms on the monotonic clock. Returns the
   * attempts to start, the time of the next step, and the error if no missing piece can be fetched.
   */
  step(now: number, environment: StepEnvironment): Step {
    this.#progressAt ??= now;
    this.#updatePatience(now);
    const starts: Attempt[] = [];
    const candidates: Candidates = {
      open: new Set(this.#routes.values()),
      stalled: this.#stalledRoutes(now),
      wake: new Earliest(),
      gone: new Earliest(),
      useless: new Earliest(),
    };
    const { wake, gone, useless } = candidates;
    // Reasons to wait that end with an event outside of the scheduler.
    const blocked = { bySlots: false, byRoom: false };
    const maxPieces = Math.min(
      this.#options.concurrentPieceCount,
      environment.maxPieces ?? Number.POSITIVE_INFINITY,
    );
    while (this.#attemptsByPiece.size < maxPieces) {
      const start = this.#startNext(now, environment, candidates, blocked);
      if (start === undefined) break;
      starts.push(start);
    }
    if (this.#routes.size > 1) this.#startHedges(now, environment, maxPieces, candidates, starts);
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

  /**
   * Starts an attempt at the first queued piece that some route can deliver now. Returns undefined
   * if there is no such piece.
   *
   * @param blocked receives which limits outside of the scheduler prevented an attempt
   */
  #startNext(
    now: number,
    environment: StepEnvironment,
    candidates: Candidates,
    blocked: { bySlots: boolean; byRoom: boolean },
  ): Attempt | undefined {
    const { open, stalled } = candidates;
    let isFirst = true;
    for (const number of this.#queue()) {
      if (!environment.hasRoom(number)) {
        // The sink gets room when all earlier pieces have been consumed. If an earlier piece is
        // queued but unavailable, the sink never gets room.
        blocked.byRoom = isFirst;
        return undefined;
      }
      isFirst = false;
      const ready = this.#readyRoutes(number, now, candidates);
      for (const route of this.#rank(ready, this.#options.lengthOf(number), now, stalled)) {
        if (environment.takeSlot(route.parent, undefined)) return this.#start(number, route, now);
        blocked.bySlots = true;
        closeParent(open, route.parent);
      }
      if (open.size === 0) return undefined;
    }
    return undefined;
  }

  /**
   * Yields the numbers of the queued pieces in ascending order. Of the pieces that were never
   * started, it yields only the first 4,096.
   */
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
   * Returns the routes that may start an attempt at a piece now. Closes the routes that can start
   * no attempt in this step, whatever the piece, and notes when their backoff ends.
   */
  #readyRoutes(number: number, now: number, candidates: Candidates): readonly RouteState[] {
    const { open, wake, gone, useless } = candidates;
    const ready: RouteState[] = [];
    for (const route of open) {
      const availability = this.#isGivenUp(route) ? undefined : route.availability(number);
      if (availability === undefined) {
        if (this.#isGivenUp(route) || !route.mayBeUsed) open.delete(route);
      } else if (availability.from > now) {
        const { exclusion } = route;
        (exclusion === undefined ? wake : exclusion === "gone" ? gone : useless).note(
          availability.from,
        );
        // Other pieces are available at the same time or later.
        if (availability.from === route.retryAt) open.delete(route);
      } else if (!this.#isBusy(route, this.#options.lengthOf(number), now)) ready.push(route);
    }
    return ready;
  }

  /**
   * Returns true if a route must deliver its attempt in flight before it may start another one.
   *
   * A route carries only one attempt at a time after a failure. The same applies if it is so slow
   * that several pieces of `length` bytes in flight would time out.
   */
  #isBusy(route: RouteState, length: number, now: number): boolean {
    return (
      route.inFlight > 0 &&
      (route.isRecovering ||
        route.expectedMs(length, now) > this.#options.pieceTimeout * MAX_PIECE_TIMEOUT_SHARE)
    );
  }

  /**
   * Sorts routes by the expected delivery of a piece of `length` bytes, the earliest first. Routes
   * without a measured rate are expected to deliver at once. Among equal routes, the one with the
   * fewest attempts in flight comes first. Routes in `doubtful` come last.
   */
  #rank(
    routes: readonly RouteState[],
    length: number,
    now: number,
    doubtful: ReadonlySet<RouteState>,
  ): readonly RouteState[] {
    if (routes.length < 2) return routes;
    return routes
      .map((route) => ({
        route,
        expected: route.expectedMs(length, now),
        isDoubtful: doubtful.has(route),
      }))
      .sort(
        (a, b) =>
          Number(a.isDoubtful) - Number(b.isDoubtful) ||
          a.expected - b.expected ||
          a.route.inFlight - b.route.inFlight,
      )
      .map(({ route }) => route);
  }

  /**
   * Starts second, hedged attempts at stalled and slow pieces, and adds them to `starts`. Notes the
   * time of the next search.
   */
  #startHedges(
    now: number,
    environment: StepEnvironment,
    maxPieces: number,
    { stalled: stalledRoutes, wake }: Candidates,
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
    const usable = new Set(
      [...this.#routes.values()].filter((route) => route.isUsable && !stalledRoutes.has(route)),
    );
    // Another route to a stalled parent probably stalls too, so it comes last.
    const stalledParents = new Set([...stalledRoutes].map(({ parent }) => parent));
    const doubtful = new Set([...usable].filter(({ parent }) => stalledParents.has(parent)));
    // The ranking, by length of the piece. Nearly all pieces have the same length.
    const ranked = new Map<number, readonly RouteState[]>();
    for (const { attempt, remaining, stalled } of slowestFirst) {
      if (!stalled) wake.note(this.#stalledAt(attempt));
      const { number } = attempt;
      const length = this.#options.lengthOf(number);
      if (
        hedgeBytes > 0 &&
        hedgeBytes + length > (this.#options.maxHedgeBytes ?? DEFAULT_MAX_HEDGE_BYTES)
      )
        continue;
      const routes = ranked.get(length) ?? this.#rank([...usable], length, now, doubtful);
      ranked.set(length, routes);
      for (const route of routes) {
        if (route === attempt.route || !usable.has(route)) continue;
        const availability = route.availability(number);
        if (availability === undefined || availability.from > now) continue;
        if (this.#isBusy(route, length, now)) continue;
        const expected = route.expectedMs(length, now);
        const isIdle = isAtEnd && route.inFlight === 0;
        const factor = isIdle ? SLOW_FACTOR_AT_END : SLOW_FACTOR;
        // The pace of an attempt that has just started does not predict the rest: on a shared link,
        // each piece waits for its turn.
        const isSooner =
          route.rate !== undefined &&
          this.#waitedMs(attempt, now) >= expected &&
          remaining > factor * expected + MIN_HEDGE_GAIN_MS;
        if (!stalled && !isSooner) continue;
        if (!environment.takeSlot(route.parent, attempt)) {
          // Another route to the parent of the stalled attempt is refused only here.
          if (route.parent !== attempt.parent) closeParent(usable, route.parent);
          continue;
        }
        starts.push(this.#start(number, route, now));
        hedgeBytes += length;
        ranked.clear();
        break;
      }
    }
    wake.note(now + HEDGE_INTERVAL_MS);
  }

  /** Starts an attempt at a piece over a route, and returns it. */
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

  /**
   * Removes an attempt that has ended from the attempts in flight, and returns it. Returns
   * undefined if it is not in flight.
   */
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

  /** Ends all attempts over a route and queues their pieces again. Returns these attempts. */
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

  /**
   * Returns the time at which an attempt counts as stalled if no byte arrives, in ms on the
   * monotonic clock. Infinity while the attempt does not wait for bytes.
   */
  #stalledAt({ waitingSince }: RunningAttempt): number {
    return waitingSince === undefined
      ? Number.POSITIVE_INFINITY
      : waitingSince + this.#options.stallThreshold;
  }

  /** Returns the routes with a stalled attempt. */
  #stalledRoutes(now: number): ReadonlySet<RouteState> {
    const stalled = new Set<RouteState>();
    for (const attempt of this.#running.values())
      if (this.#stalledAt(attempt) <= now) stalled.add(attempt.route);
    return stalled;
  }

  /**
   * Estimates the remaining time of an attempt in ms, from its average pace and its recent pace,
   * whichever is slower. The recent pace detects a parent that sends most bytes at once and the
   * last few very slowly.
   *
   * A silent attempt is assumed to stay silent for as long as it has been silent.
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

  /** Returns the total time in ms for which an attempt has waited for bytes from its parent. */
  #waitedMs({ waitedMs, waitingSince }: RunningAttempt, now: number): number {
    return waitedMs + (waitingSince === undefined ? 0 : now - waitingSince);
  }

  /**
   * Decides what to do when no attempt is in flight and none can start. Returns the time of the
   * next step in ms if parents may still announce missing pieces, or if failed parents may recover.
   * Otherwise returns the error with which the download fails.
   *
   * @param gone earliest time in ms at which a failed parent may be tried again
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
    // If a working parent is only excluded from this round, the round fails at once, and the next
    // round uses that parent.
    const patienceEnd = routes.some(
      ({ excludedFromRound, exclusion }) => excludedFromRound && exclusion === undefined,
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
    const lacking = mayBeAnnounced ? undefined : this.#lackedPieces(routes);
    const what =
      lacking === undefined || /^\d+$/.test(lacking)
        ? `piece ${lacking ?? number}`
        : `pieces ${lacking}`;
    const failure = this.#failure(`${what} ${why}`, mayBeAnnounced, lacking !== undefined);
    return { wakeAt: undefined, failure };
  }

  /**
   * Starts to wait for the recovery of failed parents if no other parent can deliver the missing
   * pieces, and ends the wait otherwise. During the wait, each failed parent is retried at least
   * every 5 s.
   */
  #updatePatience(now: number): void {
    const routes = [...this.#routes.values()];
    const gone = routes.filter(
      (route) => route.exclusion === "gone" && (route.inFlight > 0 || this.#canProvideAny(route)),
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
      // Each route is probed once more at the end of the wait, even if the download was paused.
      if (!this.#isGivenUp(route))
        route.retryBy(Math.min(route.lastFailureAt + MAX_PATIENCE_PAUSE_MS, patienceEnd));
    }
  }

  /**
   * Returns true if a route in regular use may deliver or announce a missing piece. Also returns
   * true if a route out of regular use is delivering bytes.
   */
  #hasActiveRoute(routes: readonly RouteState[]): boolean {
    if (
      routes.some(
        (route) =>
          !route.isExcluded &&
          (route.inFlight > 0 || route.mayAnnounceMore || this.#canProvideAny(route)),
      )
    )
      return true;
    return [...this.#running.values()].some(({ isDeliveringProbe }) => isDeliveringProbe);
  }

  /**
   * Time in ms on the monotonic clock until which the scheduler waits for the recovery of failed
   * parents. Undefined while another parent can deliver missing pieces.
   */
  get #patienceEndsAt(): number | undefined {
    return this.#patienceSince === undefined
      ? undefined
      : this.#patienceSince + this.#options.patience;
  }

  /**
   * Returns true if a failed route is not retried any more, because it failed again after the end
   * of the wait for its recovery.
   */
  #isGivenUp(route: RouteState): boolean {
    const end = this.#patienceEndsAt;
    return end !== undefined && route.exclusion === "gone" && route.lastFailureAt >= end;
  }

  /**
   * Returns true if any queued piece may be requested over the route, now or after its backoff.
   */
  #canProvideAny(route: RouteState): boolean {
    for (const number of this.#queue()) if (route.availability(number) !== undefined) return true;
    return false;
  }

  /**
   * Returns the ranges of the pieces that no parent has, although a parent in regular use has
   * announced all of its pieces. Returns undefined if all parents failed, or each piece is known to
   * some parent.
   */
  #lackedPieces(routes: readonly RouteState[]): string | undefined {
    if (!routes.some(({ isUsable }) => isUsable)) return undefined;
    const lacking = [...this.#queue()].filter(
      (number) => !routes.some((route) => route.mayHave(number)),
    );
    return lacking.length === 0 ? undefined : formatPieceRanges(lacking.sort((a, b) => a - b));
  }

  /**
   * Returns the error for a piece that cannot be fetched. Its message contains the last error of
   * each route.
   *
   * The code is `Stalled` if a parent might still have announced the piece. It is `PieceNotFound`
   * if no parent has the piece, and all parents are in regular use or lack the task. Otherwise it
   * is the code of the last errors of all routes, or `Unreachable` if these codes differ.
   *
   * @param what description of the piece that cannot be fetched
   * @param mayBeAnnounced true if a parent might still have announced the piece
   * @param isLacking true if no parent has the piece
   */
  #failure(what: string, mayBeAnnounced: boolean, isLacking: boolean): VortexError {
    const routes = [...this.#routes.values()];
    const codes = new Set<ErrorCode>(
      routes.map(({ isUsable, reasons }) => (!isUsable && reasons.at(-1)?.code) || "NotFound"),
    );
    const [sharedCode] = codes;
    // If all parents failed with the same code, this code is the most specific one.
    const code = mayBeAnnounced
      ? "Stalled"
      : codes.size !== 1 || sharedCode === undefined
        ? "Unreachable"
        : sharedCode === "NotFound" && isLacking
          ? "PieceNotFound"
          : sharedCode;
    const attempts = routes.map(({ id, parent, protocol, isUsable, reasons }) => {
      const error = reasons.at(-1);
      const fails = error !== undefined && !isUsable;
      return {
        error,
        label: fails ? attemptLabel(parent, protocol, error) : `${id} does not have it`,
      };
    });
    const message = `${what}: ${listFailures(attempts, code) || "there is no parent"}`;
    const errors = routes.flatMap(({ reasons }) => reasons);
    return new VortexError(code, message, { cause: new AggregateError(errors, message) });
  }

  /**
   * Returns the state of a piece, a {@link PieceState}; `DONE` for a piece that is not requested.
   */
  #pieceState(number: number): number {
    return this.#pieceStates[number - this.#options.first] ?? PieceState.DONE;
  }

  /** Sets the state of a piece to `state`, a {@link PieceState}. */
  #setPieceState(number: number, state: number): void {
    this.#pieceStates[number - this.#options.first] = state;
  }
}

/** Routes that one step considers, and the times at which those in backoff may be used again. */
interface Candidates {
  /** Routes that may still start an attempt in this step. */
  readonly open: Set<RouteState>;
  /** Routes with a stalled attempt. */
  readonly stalled: ReadonlySet<RouteState>;
  /** Time for the routes in regular use. */
  readonly wake: Earliest;
  /** Time for the routes that are excluded as `gone`. */
  readonly gone: Earliest;
  /** Time for the routes that are excluded as `useless`. */
  readonly useless: Earliest;
}

/** Removes all routes of a parent. */
function closeParent(routes: Set<RouteState>, parent: string): void {
  for (const route of routes) if (route.parent === parent) routes.delete(route);
}

/** Minimum of several recorded times. */
class Earliest {
  /** Earliest recorded time, in ms on the monotonic clock; undefined if none was recorded. */
  at: number | undefined;

  /** Records a time, in ms on the monotonic clock. */
  note(time: number): void {
    this.at = Math.min(this.at ?? time, time);
  }
}
