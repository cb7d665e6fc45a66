import { type ErrorCode, VortexError } from "../errors.ts";
import type { Protocol } from "../transport/protocol.ts";
import type { RetryDecision } from "./retry-decision.ts";
import { type LeftOut, type RouteIdentity, RouteState } from "./route.ts";

/** What the scheduler is told when it is made. */
export interface SchedulerOptions {
  /** The pieces that are wanted: all from `first` to `last`. */
  readonly first: number;
  readonly last: number;
  /** Bytes of a piece. */
  readonly lengthOf: (number: number) => number;
  /** Pieces at a time. One that two parents race for counts once. */
  readonly concurrentPieceCount: number;
  /** Milliseconds in which a parent must deliver a piece. */
  readonly pieceTimeout: number;
  /** Milliseconds without a byte that a parent owes, after which another one is asked too. */
  readonly stallThreshold: number;
  /** Milliseconds for which pieces are waited for that no parent has announced yet. */
  readonly announceTimeout: number;
  /** Milliseconds for which the last parents are waited for when they are gone. */
  readonly patience: number;
  /** Bytes that racers may hold in memory together; one racer is always allowed. Default 64 MiB. */
  readonly maxHedgeBytes?: number;
  /** From 0 to 1. */
  readonly random: () => number;
}

/** One try to fetch a piece from one parent. */
export interface Attempt {
  readonly id: number;
  readonly number: number;
  /** The route's id. */
  readonly routeId: string;
  /** The name of the route's parent. */
  readonly parent: string;
  /** What the route goes over, where a parent has several. */
  readonly protocol: Protocol | undefined;
  /** Whether another parent was on the piece already when this one was asked. */
  readonly isHedge: boolean;
}

/** What the surroundings allow at the time of a step. */
export interface StepEnvironment {
  /** Whether the sink has room for a piece. Once false, it is false for all greater numbers. */
  hasRoom(number: number): boolean;
  /** Takes a slot for one more request to a parent; false when there is none now. What is taken belongs to the attempt. */
  takeSlot(parent: string): boolean;
  /** Pieces at a time, if fewer than `concurrentPieceCount` are allowed now. */
  readonly maxPieces?: number;
}

/** What to do now. */
export interface Step {
  /** Attempts to begin. */
  readonly starts: readonly Attempt[];
  /** When to step again if nothing else happens. */
  readonly wakeAt: number | undefined;
  /** Why the pieces that are left cannot be fetched, once nothing is under way and nothing can change that. */
  readonly failure: VortexError | undefined;
}

interface RunningAttempt extends Attempt {
  readonly startedAt: number;
  /** The route's failure epoch at the start. */
  readonly failureEpoch: number;
  readonly route: RouteState;
  /** True for a probe that has brought bytes: while it runs, others are not waited for. */
  isDeliveringProbe: boolean;
  bytes: number;
  /** Since when the parent owes a byte; undefined while the wait is ours: the sink's, or a rate limit's. */
  waitingSince: number | undefined;
  /** Milliseconds in which bytes were owed, before `owedSince`. */
  waitedMs: number;
  /** Those of them before the first byte. */
  firstByteMs: number;
  /** `active` and `bytes` at the beginning of the current window, and milliseconds a byte in the one before. */
  windowWaitedMs: number;
  windowBytes: number;
  windowMsPerByte: number;
}

const QUEUED = 0;
const RUNNING = 1;
const DONE = 2;
/** An earlier download left it, and it is being compared. */
const VERIFYING = 3;

/** Pieces behind the first one in the queue that are looked at for a parent that has them. */
const QUEUE_LOOKAHEAD_PIECES = 4096;
/** Longest pause between two probes of the last parents, in ms. */
export const MAX_PATIENCE_PAUSE_MS = 5000;
/**
 * Probes that may end a wait by their first bytes, with no whole piece in between. Parents that
 * send a little each time are given up.
 */
const MAX_PATIENCE_RESETS = 5;
/** Part of the piece timeout that pieces under way at one route may take together, as far as its rate tells. */
const MAX_PIECE_TIMEOUT_SHARE = 0.5;
const DEFAULT_MAX_HEDGE_BYTES = 64 * 1024 * 1024;
/** Milliseconds between two looks for pieces that are slow. */
const HEDGE_INTERVAL_MS = 1000;
/** A piece is slow when its rest would take so many times as long as all of it from another parent. */
const SLOW_FACTOR = 4;
/** The same when nothing is left to begin, and parents are idle. */
const SLOW_FACTOR_AT_END = 1.5;
/** Milliseconds of activity in which the newest pace of an attempt is measured. */
const PACE_WINDOW_MS = 5000;
/** Milliseconds that a race must win to be worth its bytes. */
const MIN_HEDGE_GAIN_MS = 100;

/**
 * Which piece is asked from which parent, and when. A state machine: it does no I/O, has no clock and no timers; whoever
 * uses it tells it what has happened, and calls `step` to hear what to do.
 *
 * Pieces begin in ascending order, each at the parent that is expected to deliver it first by what was measured of it. A
 * piece that stalls, or is far slower than another parent would be, is asked from a second one; the first whole answer
 * wins. There are never more than two attempts at a piece. When nothing is left to begin, idle parents join in with the
 * slowest.
 */
export class Scheduler {
  readonly #options: SchedulerOptions;
  readonly #routes = new Map<string, RouteState>();
  readonly #running = new Map<number, RunningAttempt>();
  /** Attempts by piece, one or two. */
  readonly #attemptsByPiece = new Map<number, RunningAttempt[]>();
  readonly #pieceStates: Uint8Array;
  /** Pieces that began, and are to begin again. */
  readonly #retryQueue = new Set<number>();
  /** No piece before it is queued for the first time. */
  #nextUnstarted: number;
  #remaining: number;
  #verifying = 0;
  #lastAttemptId = 0;
  #progressAt: number | undefined;
  /** Start of the wait for the last parents; undefined while others are there, or bytes come. */
  #patienceSince: number | undefined;
  /** Attempts that have ended a wait by their first bytes, since the last whole piece. */
  #patienceResets = 0;

  constructor(options: SchedulerOptions) {
    this.#options = options;
    this.#remaining = options.last - options.first + 1;
    this.#pieceStates = new Uint8Array(this.#remaining);
    this.#nextUnstarted = options.first;
  }

  /** Whether every piece is there. */
  get done(): boolean {
    return this.#remaining === 0;
  }

  /** Attempts under way, for whoever ends them all. */
  get attempts(): Iterable<Attempt> {
    return this.#running.values();
  }

  get routes(): Iterable<RouteState> {
    return this.#routes.values();
  }

  /** Whether no piece is left to begin, unless an attempt fails. */
  get allInFlight(): boolean {
    return this.#remaining === this.#attemptsByPiece.size;
  }

  /** @param announces whether the route tells which pieces it has; one that does not is held to have all */
  addRoute(identity: string | RouteIdentity, announces: boolean): RouteState {
    const route = new RouteState(
      typeof identity === "string" ? { parent: identity } : identity,
      announces,
    );
    this.#routes.set(route.id, route);
    return route;
  }

  route(id: string): RouteState {
    const route = this.#routes.get(id);
    if (route === undefined) throw new VortexError("Internal", `unknown route: ${id}`);
    return route;
  }

  /** A piece that an earlier download left; it is not fetched before `settle` has said whether it is right. */
  beginVerification(number: number): void {
    if (this.#pieceState(number) !== QUEUED) return;
    this.#setPieceState(number, VERIFYING);
    this.#verifying++;
  }

  /** A piece that was found is right, or is to be fetched. */
  endVerification(number: number, right: boolean): void {
    if (this.#pieceState(number) !== VERIFYING) return;
    this.#verifying--;
    this.#setPieceState(number, right ? DONE : QUEUED);
    if (right) this.#remaining--;
    else this.#retryQueue.add(number);
  }

  /** The answer to an attempt has begun to come. */
  answered(id: number, now: number): void {
    const attempt = this.#running.get(id);
    attempt?.route.answered(now - attempt.startedAt);
  }

  /** Bytes of an attempt came. */
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
    const active = attempt.waitedMs - attempt.windowWaitedMs;
    if (active < PACE_WINDOW_MS) return;
    attempt.windowMsPerByte = active / Math.max(1, attempt.bytes - attempt.windowBytes);
    attempt.windowWaitedMs = attempt.waitedMs;
    attempt.windowBytes = attempt.bytes;
  }

  /** The attempt waits for its parent, or for something on our side. */
  setWaiting(id: number, owing: boolean, now: number): void {
    const attempt = this.#running.get(id);
    if (attempt === undefined || (attempt.waitingSince !== undefined) === owing) return;
    if (attempt.waitingSince !== undefined) attempt.waitedMs += now - attempt.waitingSince;
    attempt.waitingSince = owing ? now : undefined;
    attempt.route.setWaiting(owing, now);
  }

  /**
   * The piece is there and right. Returns the attempts at it that lost, which are over. A parent that was silent for all the
   * time that the winner took has stalled, and is blamed for it.
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
    this.#setPieceState(number, DONE);
    this.#remaining--;
    return losers;
  }

  /** All routes to a parent. */
  routesOf(parent: string): readonly RouteState[] {
    return [...this.#routes.values()].filter((route) => route.parent === parent);
  }

  /** Milliseconds left to wait for the last parents; undefined while there are others. */
  patienceLeft(now: number): number | undefined {
    const until = this.#patienceEndsAt;
    return until === undefined ? undefined : Math.max(0, until - now);
  }

  /**
   * The attempt failed. Returns those that are over because their route is left out now. What is
   * wrong is wrong over every protocol, so it bans all routes of its parent.
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
    const before = new Set(routes.filter(({ isLeftOut }) => isLeftOut));
    if (decision === "missing") route.missed(number, error, failureEpoch, now, random);
    else if (decision === "retry") route.failed(error, failureEpoch, now, random);
    else {
      route.addReason(error);
      route.leaveOut(decision === "leave-out" ? "useless" : "banned", now);
      if (error.kind === "peer") for (const route of routes) route.leaveOut("banned", now);
    }
    const over = routes.filter(
      (route) => route.leftOut === "banned" || (route.isLeftOut && !before.has(route)),
    );
    return over.flatMap((route) => this.#endAttempts(route, now));
  }

  /** Leaves a route out for a reason outside of attempts. Returns its attempts, which are over. */
  leaveOut(id: string, as: Exclude<LeftOut, "gone">, now: number): readonly Attempt[] {
    const route = this.route(id);
    route.leaveOut(as, now);
    return this.#endAttempts(route, now);
  }

  /** The parent has another content than the others: it takes no part before `restart`. Returns its attempts, which are over. */
  excludeFromRound(parent: string, error: VortexError, now: number): readonly Attempt[] {
    return this.routesOf(parent).flatMap((route) => {
      route.addReason(error);
      route.excludedFromRound = true;
      return this.#endAttempts(route, now);
    });
  }

  /** Only the pieces of `kept` are there, and only these parents are asked for the others. Nothing is under way. */
  restart(kept: ReadonlySet<number>, parents: readonly string[], now: number): void {
    const { first, last } = this.#options;
    for (const route of this.#routes.values())
      route.excludedFromRound = !parents.includes(route.parent);
    this.#retryQueue.clear();
    this.#remaining = 0;
    for (let number = first; number <= last; number++) {
      const isKept = kept.has(number);
      this.#setPieceState(number, isKept ? DONE : QUEUED);
      if (!isKept) this.#remaining++;
    }
    this.#nextUnstarted = first;
    this.#progressAt = now;
    this.#patienceSince = undefined;
  }

  /** What to do now. */
  step(now: number, environment: StepEnvironment): Step {
    this.#progressAt ??= now;
    this.#updatePatience(now);
    const starts: Attempt[] = [];
    const times: Times = { wake: new Earliest(), gone: new Earliest(), useless: new Earliest() };
    const { wake, gone, useless } = times;
    // Whether something outside will call for another step.
    const held = { refused: false, room: false };
    const most = Math.min(
      this.#options.concurrentPieceCount,
      environment.maxPieces ?? Number.POSITIVE_INFINITY,
    );
    while (this.#attemptsByPiece.size < most) {
      const start = this.#startNext(now, environment, times, held);
      if (start === undefined) break;
      starts.push(start);
    }
    if (this.#routes.size > 1) this.#startHedges(now, environment, most, wake, starts);
    if (
      this.#running.size > 0 ||
      this.done ||
      this.#verifying > 0 ||
      held.refused ||
      held.room ||
      wake.at !== undefined
    ) {
      for (const { at } of [gone, useless]) if (at !== undefined) wake.note(at);
      return { starts, wakeAt: wake.at, failure: undefined };
    }
    return { starts, ...this.#waitOrFail(now, gone) };
  }

  #startNext(
    now: number,
    environment: StepEnvironment,
    times: Times,
    held: { refused: boolean; room: boolean },
  ): Attempt | undefined {
    let first = true;
    for (const number of this.#queue()) {
      if (!environment.hasRoom(number)) {
        // Room comes when the sink has passed on what is before. What is before and cannot be had makes none.
        held.room = first;
        return undefined;
      }
      first = false;
      for (const candidate of this.#rankRoutes(number, now, times)) {
        if (environment.takeSlot(candidate.parent)) return this.#start(number, candidate, now);
        held.refused = true;
      }
    }
    return undefined;
  }

  /** Queued pieces, in ascending order. */
  *#queue(): Generator<number> {
    const retryQueue = [...this.#retryQueue].sort((a, b) => a - b);
    let position = 0;
    while (
      this.#nextUnstarted <= this.#options.last &&
      this.#pieceState(this.#nextUnstarted) !== QUEUED
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
      if (this.#pieceState(number) === QUEUED && !this.#retryQueue.has(number)) yield number;
    }
    yield* retryQueue.slice(position);
  }

  /** The routes that may be asked for a piece now, the one that is expected to be first with it in front. */
  #rankRoutes(
    number: number,
    now: number,
    times: Times,
    except?: RouteState,
  ): readonly RouteState[] {
    const length = this.#options.lengthOf(number);
    const candidates: { route: RouteState; expected: number; suspect: boolean }[] = [];
    for (const route of this.#routes.values()) {
      if (route === except || this.#isGivenUp(route)) continue;
      const offer = route.availability(number);
      if (offer === undefined) continue;
      if (offer.from > now) {
        const { wake, gone, useless } = times;
        (route.leftOut === undefined ? wake : route.leftOut === "gone" ? gone : useless).note(
          offer.from,
        );
        continue;
      }
      const expected = route.expectedMs(length, now);
      // One more request goes to a route that failed, and to one so slow that pieces under way together would time out.
      if (
        route.inFlight > 0 &&
        (route.isRecovering || expected > this.#options.pieceTimeout * MAX_PIECE_TIMEOUT_SHARE)
      )
        continue;
      candidates.push({ route, expected, suspect: this.#hasStalledAttempt(route, now) });
    }
    // Those of which nothing is known yet come first, and share out what there is.
    candidates.sort(
      (a, b) =>
        Number(a.suspect) - Number(b.suspect) ||
        a.expected - b.expected ||
        a.route.inFlight - b.route.inFlight,
    );
    return candidates.map(({ route }) => route);
  }

  /** Asks second parents for pieces that stall or are slow. */
  #startHedges(
    now: number,
    environment: StepEnvironment,
    most: number,
    wake: Earliest,
    starts: Attempt[],
  ): void {
    const alone = [...this.#attemptsByPiece.values()].flatMap((attempts) =>
      attempts.length === 1 ? attempts : [],
    );
    if (alone.length === 0) return;
    const atEnd = this.#attemptsByPiece.size < most;
    let held = 0;
    for (const { isHedge, number } of this.#running.values())
      if (isHedge) held += this.#options.lengthOf(number);
    const slowest = alone
      .map((attempt) => ({
        attempt,
        rest: this.#remainingMs(attempt, now),
        stalled: this.#stalledAt(attempt) <= now,
      }))
      .sort((a, b) => Number(b.stalled) - Number(a.stalled) || b.rest - a.rest);
    for (const { attempt, rest, stalled } of slowest) {
      if (!stalled) wake.note(this.#stalledAt(attempt));
      const length = this.#options.lengthOf(attempt.number);
      if (held > 0 && held + length > (this.#options.maxHedgeBytes ?? DEFAULT_MAX_HEDGE_BYTES))
        continue;
      // The time at which this route may be asked again is of no concern while another is at work.
      const times = { wake: new Earliest(), gone: new Earliest(), useless: new Earliest() };
      const routes = this.#rankRoutes(attempt.number, now, times, attempt.route);
      const route = routes.find((candidate) => {
        if (candidate.isLeftOut || this.#hasStalledAttempt(candidate, now)) return false;
        if (stalled) return true;
        const expected = candidate.expectedMs(length, now);
        // The pace of a piece that has just begun says nothing of its rest: where many share a link, each waits for its turn.
        if (candidate.rate === undefined || this.#waitedMs(attempt, now) < expected) return false;
        const idle = atEnd && candidate.inFlight === 0;
        return rest > (idle ? SLOW_FACTOR_AT_END : SLOW_FACTOR) * expected + MIN_HEDGE_GAIN_MS;
      });
      if (route === undefined || !environment.takeSlot(route.parent)) continue;
      starts.push(this.#start(attempt.number, route, now));
      held += length;
    }
    wake.note(now + HEDGE_INTERVAL_MS);
  }

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
      route: route,
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
    this.#setPieceState(number, RUNNING);
    this.#retryQueue.delete(number);
    route.begin(now);
    return attempt;
  }

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

  #endAttempts(route: RouteState, now: number): readonly Attempt[] {
    const over = [...this.#running.values()].filter((attempt) => attempt.route === route);
    for (const { id, number } of over) {
      this.#remove(id, now);
      this.#requeue(number);
    }
    return over;
  }

  #requeue(number: number): void {
    if (this.#attemptsByPiece.has(number)) return;
    this.#setPieceState(number, QUEUED);
    this.#retryQueue.add(number);
  }

  /** When an attempt counts as stalled. */
  #stalledAt({ waitingSince }: RunningAttempt): number {
    return waitingSince === undefined
      ? Number.POSITIVE_INFINITY
      : waitingSince + this.#options.stallThreshold;
  }

  /** Whether a route has an attempt that stalls now. */
  #hasStalledAttempt(route: RouteState, now: number): boolean {
    if (route.inFlight === 0) return false;
    for (const attempt of this.#running.values()) {
      if (attempt.route === route && this.#stalledAt(attempt) <= now) return true;
    }
    return false;
  }

  /**
   * Milliseconds that the rest of an attempt will take, by its own pace so far; when it is silent, at least as long again. Nor is it
   * faster than it was of late: a parent that sends all but the end at once, and then a byte a second, would be waited for.
   */
  #remainingMs(attempt: RunningAttempt, now: number): number {
    const { bytes, firstByteMs, number, waitingSince } = attempt;
    const active = this.#waitedMs(attempt, now);
    if (bytes === 0) return active;
    const pace = Math.max((active - firstByteMs) / bytes, attempt.windowMsPerByte);
    return Math.max(
      pace * (this.#options.lengthOf(number) - bytes),
      waitingSince === undefined ? 0 : now - waitingSince,
    );
  }

  /** Milliseconds in which bytes of an attempt were owed. */
  #waitedMs({ waitedMs, waitingSince }: RunningAttempt, now: number): number {
    return waitedMs + (waitingSince === undefined ? 0 : now - waitingSince);
  }

  /** Nothing is under way: waits for an announcement or for the return of a parent, or fails. */
  #waitOrFail(
    now: number,
    gone: Earliest,
  ): { wakeAt: number | undefined; failure: VortexError | undefined } {
    const { announceTimeout, patience } = this.#options;
    const routes = [...this.#routes.values()];
    const wake = new Earliest();
    const announced = (this.#progressAt ?? now) + announceTimeout;
    const awaited = routes.some((route) => route.mayAnnounceMore);
    if (awaited && now < announced) wake.note(announced);
    // Where other parents were set aside, they are tried instead of waiting for those that are gone.
    const until = routes.some(
      ({ excludedFromRound: aside, leftOut }) => aside && leftOut === undefined,
    )
      ? undefined
      : this.#patienceEndsAt;
    if (until !== undefined && now < until && routes.some((route) => route.awaitsReannouncement))
      wake.note(until);
    if (until !== undefined && gone.at !== undefined) wake.note(gone.at);
    if (wake.at !== undefined) return { wakeAt: wake.at, failure: undefined };
    const number = this.#queue().next().value ?? this.#options.first;
    const lost =
      until === undefined || patience === 0 ? "" : `, and no parent came back for ${patience} ms`;
    const why = awaited
      ? `was not announced by any parent for ${announceTimeout} ms`
      : `cannot be fetched${lost}`;
    return { wakeAt: undefined, failure: this.#failure(`piece ${number} ${why}`, awaited) };
  }

  /** Notes whether the download waits for its last parents, and has them asked more often then. */
  #updatePatience(now: number): void {
    const routes = [...this.#routes.values()];
    const gone = routes.filter(
      (route) => route.leftOut === "gone" && (route.inFlight > 0 || this.#canProvideAny(route)),
    );
    const unheard = routes.some((route) => route.awaitsReannouncement);
    if ((gone.length === 0 && !unheard) || this.#hasActiveRoute(routes)) {
      this.#patienceSince = undefined;
      return;
    }
    this.#patienceSince ??= unheard
      ? now
      : Math.max(...gone.map(({ lastFailureAt }) => lastFailureAt));
    const until = this.#patienceSince + this.#options.patience;
    for (const route of gone) {
      // Each is asked once more at the end, also when the download was paused meanwhile.
      if (!this.#isGivenUp(route))
        route.retryBy(Math.min(route.lastFailureAt + MAX_PATIENCE_PAUSE_MS, until));
    }
  }

  /** Returns true when a route that is not left out may help, or a probe brings bytes. */
  #hasActiveRoute(routes: readonly RouteState[]): boolean {
    if (
      routes.some(
        (route) =>
          !route.isLeftOut &&
          (route.inFlight > 0 || route.mayAnnounceMore || this.#canProvideAny(route)),
      )
    )
      return true;
    return [...this.#running.values()].some(({ isDeliveringProbe: hopeful }) => hopeful);
  }

  /** When patience with the last parents ends; undefined while there are others. */
  get #patienceEndsAt(): number | undefined {
    return this.#patienceSince === undefined
      ? undefined
      : this.#patienceSince + this.#options.patience;
  }

  /** Returns true for a route that has failed after patience was over. */
  #isGivenUp(route: RouteState): boolean {
    const until = this.#patienceEndsAt;
    return until !== undefined && route.leftOut === "gone" && route.lastFailureAt >= until;
  }

  /** Returns true for a route that may be asked for any queued piece, now or later. */
  #canProvideAny(route: RouteState): boolean {
    for (const number of this.#queue()) if (route.availability(number) !== undefined) return true;
    return false;
  }

  #failure(what: string, awaited: boolean): VortexError {
    const routes = [...this.#routes.values()];
    const told = routes.map(({ id, isUsable, reasons }) => {
      const last = reasons.at(-1);
      if (last !== undefined)
        return `${id}${isUsable ? " does not have it" : ""}: ${last.code}, ${last.message}`;
      return `${id} does not have it`;
    });
    const codes = new Set<ErrorCode>(
      routes.map(({ isUsable, reasons }) => (!isUsable && reasons.at(-1)?.code) || "NotFound"),
    );
    const [only] = codes;
    // What all parents failed with says it best; where they differ, none is reachable any more.
    const code = awaited
      ? "Stalled"
      : codes.size === 1 && only !== undefined
        ? only
        : "Unreachable";
    const message = `${what}: ${told.length === 0 ? "there is no parent" : told.join("; ")}`;
    return new VortexError(code, message, { cause: routes.flatMap(({ reasons }) => reasons) });
  }

  #pieceState(number: number): number {
    return this.#pieceStates[number - this.#options.first] ?? DONE;
  }

  #setPieceState(number: number, state: number): void {
    this.#pieceStates[number - this.#options.first] = state;
  }
}

/** When routes in a pause may be asked again, by how far they are counted on. */
interface Times {
  /** Routes that are not left out. */
  readonly wake: Earliest;
  readonly gone: Earliest;
  readonly useless: Earliest;
}

/** The earliest of several times. */
class Earliest {
  at: number | undefined;

  note(time: number): void {
    if (time !== Number.POSITIVE_INFINITY && (this.at === undefined || time < this.at))
      this.at = time;
  }
}
