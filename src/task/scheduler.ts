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
  readonly stallAfter: number;
  /** Milliseconds for which pieces are waited for that no parent has announced yet. */
  readonly announceTimeout: number;
  /** Milliseconds for which the last parents are waited for when they are gone. */
  readonly patience: number;
  /** Bytes that racers may hold in memory together; one racer is always allowed. Default 64 MiB. */
  readonly raceBytes?: number;
  /** From 0 to 1. */
  readonly random: () => number;
}

/** One try to fetch a piece from one parent. */
export interface Attempt {
  readonly id: number;
  readonly number: number;
  /** The route's id. */
  readonly route: string;
  /** The name of the route's parent. */
  readonly parent: string;
  /** What the route goes over, where a parent has several. */
  readonly protocol: Protocol | undefined;
  /** Whether another parent was on the piece already when this one was asked. */
  readonly racer: boolean;
}

/** What the surroundings allow at the time of a step. */
export interface StepEnvironment {
  /** Whether the sink has room for a piece. Once false, it is false for all greater numbers. */
  allows(number: number): boolean;
  /** Takes a slot for one more request to a parent; false when there is none now. What is taken belongs to the attempt. */
  admit(parent: string): boolean;
  /** Pieces at a time, if fewer than `concurrentPieceCount` are allowed now. */
  readonly most?: number;
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

interface Running extends Attempt {
  readonly startedAt: number;
  /** The route's failure epoch at the start. */
  readonly epoch: number;
  readonly from: RouteState;
  /** True for a probe that has brought bytes: while it runs, others are not waited for. */
  hopeful: boolean;
  bytes: number;
  /** Since when the parent owes a byte; undefined while the wait is ours: the sink's, or a rate limit's. */
  owedSince: number | undefined;
  /** Milliseconds in which bytes were owed, before `owedSince`. */
  active: number;
  /** Those of them before the first byte. */
  latency: number;
  /** `active` and `bytes` at the beginning of the current window, and milliseconds a byte in the one before. */
  windowActive: number;
  windowBytes: number;
  windowPace: number;
}

const QUEUED = 0;
const RUNNING = 1;
const DONE = 2;
/** An earlier download left it, and it is being compared. */
const FOUND = 3;

/** Pieces behind the first one in the queue that are looked at for a parent that has them. */
const LOOK_AHEAD = 4096;
/** Longest pause between two probes of the last parents, in ms. */
export const LAST_HOPE_PAUSE = 5000;
/**
 * Probes that may end a wait by their first bytes, with no whole piece in between. Parents that
 * send a little each time are given up.
 */
const MAX_HOPES = 5;
/** Part of the piece timeout that pieces under way at one route may take together, as far as its rate tells. */
const IN_TIME = 0.5;
const RACE_BYTES = 64 * 1024 * 1024;
/** Milliseconds between two looks for pieces that are slow. */
const LOOK = 1000;
/** A piece is slow when its rest would take so many times as long as all of it from another parent. */
const SLOW = 4;
/** The same when nothing is left to begin, and parents are idle. */
const SLOW_AT_END = 1.5;
/** Milliseconds of activity in which the newest pace of an attempt is measured. */
const WINDOW = 5000;
/** Milliseconds that a race must win to be worth its bytes. */
const MIN_GAIN_MS = 100;

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
  readonly #running = new Map<number, Running>();
  /** Attempts by piece, one or two. */
  readonly #byPiece = new Map<number, Running[]>();
  readonly #states: Uint8Array;
  /** Pieces that began, and are to begin again. */
  readonly #again = new Set<number>();
  /** No piece before it is queued for the first time. */
  #fresh: number;
  #left: number;
  #found = 0;
  #attempts = 0;
  #progressAt: number | undefined;
  /** Start of the wait for the last parents; undefined while others are there, or bytes come. */
  #waitingSince: number | undefined;
  /** Attempts that have ended a wait by their first bytes, since the last whole piece. */
  #hopes = 0;

  constructor(options: SchedulerOptions) {
    this.#options = options;
    this.#left = options.last - options.first + 1;
    this.#states = new Uint8Array(this.#left);
    this.#fresh = options.first;
  }

  /** Whether every piece is there. */
  get done(): boolean {
    return this.#left === 0;
  }

  /** Attempts under way, for whoever ends them all. */
  get attempts(): Iterable<Attempt> {
    return this.#running.values();
  }

  get routes(): Iterable<RouteState> {
    return this.#routes.values();
  }

  /** Whether no piece is left to begin, unless an attempt fails. */
  get exhausted(): boolean {
    return this.#left === this.#byPiece.size;
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
    if (route === undefined) throw new VortexError("Internal", `there is no route ${id}`);
    return route;
  }

  /** A piece that an earlier download left; it is not fetched before `settle` has said whether it is right. */
  find(number: number): void {
    if (this.#stateOf(number) !== QUEUED) return;
    this.#setState(number, FOUND);
    this.#found++;
  }

  /** A piece that was found is right, or is to be fetched. */
  settle(number: number, right: boolean): void {
    if (this.#stateOf(number) !== FOUND) return;
    this.#found--;
    this.#setState(number, right ? DONE : QUEUED);
    if (right) this.#left--;
    else this.#again.add(number);
  }

  /** The answer to an attempt has begun to come. */
  answered(id: number, now: number): void {
    const attempt = this.#running.get(id);
    attempt?.from.answered(now - attempt.startedAt);
  }

  /** Bytes of an attempt came. */
  arrived(id: number, bytes: number, now: number): void {
    const attempt = this.#running.get(id);
    if (attempt === undefined) return;
    if (attempt.bytes === 0 && attempt.from.out && this.#hopes < MAX_HOPES) {
      this.#hopes++;
      attempt.hopeful = true;
      this.#waitingSince = undefined;
    }
    attempt.from.arrived(bytes, now);
    if (attempt.owedSince !== undefined) {
      attempt.active += now - attempt.owedSince;
      attempt.owedSince = now;
    }
    if (attempt.bytes === 0) {
      attempt.latency = attempt.active;
      attempt.windowActive = attempt.active;
    }
    attempt.bytes += bytes;
    const active = attempt.active - attempt.windowActive;
    if (active < WINDOW) return;
    attempt.windowPace = active / Math.max(1, attempt.bytes - attempt.windowBytes);
    attempt.windowActive = attempt.active;
    attempt.windowBytes = attempt.bytes;
  }

  /** The attempt waits for its parent, or for something on our side. */
  owes(id: number, owing: boolean, now: number): void {
    const attempt = this.#running.get(id);
    if (attempt === undefined || (attempt.owedSince !== undefined) === owing) return;
    if (attempt.owedSince !== undefined) attempt.active += now - attempt.owedSince;
    attempt.owedSince = owing ? now : undefined;
    attempt.from.owes(owing, now);
  }

  /**
   * The piece is there and right. Returns the attempts at it that lost, which are over. A parent that was silent for all the
   * time that the winner took has stalled, and is blamed for it.
   */
  succeeded(id: number, now: number): readonly Attempt[] {
    const winner = this.#end(id, now);
    if (winner === undefined) return [];
    const { number, from, startedAt } = winner;
    from.succeeded(now);
    this.#progressAt = now;
    this.#waitingSince = undefined;
    this.#hopes = 0;
    const losers = [...(this.#byPiece.get(number) ?? [])];
    for (const loser of losers) {
      const silence = loser.owedSince === undefined ? 0 : now - loser.owedSince;
      this.#end(loser.id, now);
      if (silence < Math.min(this.#options.stallAfter, now - startedAt + MIN_GAIN_MS)) continue;
      const error = new VortexError(
        "Stalled",
        "no byte came while another parent delivered the whole piece",
      );
      loser.from.failed(error, loser.epoch, now, this.#options.random);
    }
    this.#setState(number, DONE);
    this.#left--;
    return losers;
  }

  /** All routes to a parent. */
  routesOf(parent: string): readonly RouteState[] {
    return [...this.#routes.values()].filter((route) => route.parent === parent);
  }

  /** Milliseconds left to wait for the last parents; undefined while there are others. */
  patienceLeft(now: number): number | undefined {
    const until = this.#patientUntil;
    return until === undefined ? undefined : Math.max(0, until - now);
  }

  /**
   * The attempt failed. Returns those that are over because their route is left out now. What is
   * wrong is wrong over every protocol, so it bans all routes of its parent.
   */
  failed(
    id: number,
    error: VortexError,
    verdict: Exclude<RetryDecision, "fatal">,
    now: number,
  ): readonly Attempt[] {
    const attempt = this.#end(id, now);
    if (attempt === undefined) return [];
    const { from, number, epoch } = attempt;
    this.#requeue(number);
    const { random } = this.#options;
    const routes = this.routesOf(from.parent);
    const before = new Set(routes.filter(({ out }) => out));
    if (verdict === "absent") from.missed(number, error, epoch, now, random);
    else if (verdict === "again") from.failed(error, epoch, now, random);
    else {
      from.note(error);
      from.leaveOut(verdict === "later" ? "useless" : "banned", now);
      if (error.kind === "peer") for (const route of routes) route.leaveOut("banned", now);
    }
    const over = routes.filter(
      (route) => route.leftOut === "banned" || (route.out && !before.has(route)),
    );
    return over.flatMap((route) => this.#endRoute(route, now));
  }

  /** Leaves a route out for a reason outside of attempts. Returns its attempts, which are over. */
  leaveOut(id: string, as: Exclude<LeftOut, "gone">, now: number): readonly Attempt[] {
    const route = this.route(id);
    route.leaveOut(as, now);
    return this.#endRoute(route, now);
  }

  /** The parent has another content than the others: it takes no part before `restart`. Returns its attempts, which are over. */
  setAside(parent: string, error: VortexError, now: number): readonly Attempt[] {
    return this.routesOf(parent).flatMap((route) => {
      route.note(error);
      route.aside = true;
      return this.#endRoute(route, now);
    });
  }

  /** Only the pieces of `kept` are there, and only these parents are asked for the others. Nothing is under way. */
  restart(kept: ReadonlySet<number>, parents: readonly string[], now: number): void {
    const { first, last } = this.#options;
    for (const route of this.#routes.values()) route.aside = !parents.includes(route.parent);
    this.#again.clear();
    this.#left = 0;
    for (let number = first; number <= last; number++) {
      const isKept = kept.has(number);
      this.#setState(number, isKept ? DONE : QUEUED);
      if (!isKept) this.#left++;
    }
    this.#fresh = first;
    this.#progressAt = now;
    this.#waitingSince = undefined;
  }

  /** What to do now. */
  step(now: number, environment: StepEnvironment): Step {
    this.#progressAt ??= now;
    this.#watchLast(now);
    const starts: Attempt[] = [];
    const times: Times = { wake: new Earliest(), gone: new Earliest(), useless: new Earliest() };
    const { wake, gone, useless } = times;
    // Whether something outside will call for another step.
    const held = { refused: false, room: false };
    const most = Math.min(
      this.#options.concurrentPieceCount,
      environment.most ?? Number.POSITIVE_INFINITY,
    );
    while (this.#byPiece.size < most) {
      const start = this.#nextStart(now, environment, times, held);
      if (start === undefined) break;
      starts.push(start);
    }
    if (this.#routes.size > 1) this.#race(now, environment, most, wake, starts);
    if (
      this.#running.size > 0 ||
      this.done ||
      this.#found > 0 ||
      held.refused ||
      held.room ||
      wake.at !== undefined
    ) {
      for (const { at } of [gone, useless]) if (at !== undefined) wake.note(at);
      return { starts, wakeAt: wake.at, failure: undefined };
    }
    return { starts, ...this.#stuck(now, gone) };
  }

  #nextStart(
    now: number,
    environment: StepEnvironment,
    times: Times,
    held: { refused: boolean; room: boolean },
  ): Attempt | undefined {
    let first = true;
    for (const number of this.#queue()) {
      if (!environment.allows(number)) {
        // Room comes when the sink has passed on what is before. What is before and cannot be had makes none.
        held.room = first;
        return undefined;
      }
      first = false;
      for (const candidate of this.#best(number, now, times)) {
        if (environment.admit(candidate.parent)) return this.#begin(number, candidate, now);
        held.refused = true;
      }
    }
    return undefined;
  }

  /** Queued pieces, in ascending order. */
  *#queue(): Generator<number> {
    const again = [...this.#again].sort((a, b) => a - b);
    let position = 0;
    while (this.#fresh <= this.#options.last && this.#stateOf(this.#fresh) !== QUEUED)
      this.#fresh++;
    const end = Math.min(this.#options.last, this.#fresh + LOOK_AHEAD);
    for (let number = this.#fresh; number <= end; number++) {
      for (
        let next = again[position];
        next !== undefined && next < number;
        next = again[++position]
      )
        yield next;
      if (this.#stateOf(number) === QUEUED && !this.#again.has(number)) yield number;
    }
    yield* again.slice(position);
  }

  /** The routes that may be asked for a piece now, the one that is expected to be first with it in front. */
  #best(number: number, now: number, times: Times, except?: RouteState): readonly RouteState[] {
    const length = this.#options.lengthOf(number);
    const candidates: { route: RouteState; expected: number; suspect: boolean }[] = [];
    for (const route of this.#routes.values()) {
      if (route === except || this.#givenUp(route)) continue;
      const offer = route.offers(number);
      if (offer === undefined) continue;
      if (offer.from > now) {
        const { wake, gone, useless } = times;
        (route.leftOut === undefined ? wake : route.leftOut === "gone" ? gone : useless).note(
          offer.from,
        );
        continue;
      }
      const expected = route.expected(length, now);
      // One more request goes to a route that failed, and to one so slow that pieces under way together would time out.
      if (route.inFlight > 0 && (route.probing || expected > this.#options.pieceTimeout * IN_TIME))
        continue;
      candidates.push({ route, expected, suspect: this.#suspect(route, now) });
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
  #race(
    now: number,
    environment: StepEnvironment,
    most: number,
    wake: Earliest,
    starts: Attempt[],
  ): void {
    const alone = [...this.#byPiece.values()].flatMap((attempts) =>
      attempts.length === 1 ? attempts : [],
    );
    if (alone.length === 0) return;
    const atEnd = this.#byPiece.size < most;
    let held = 0;
    for (const { racer, number } of this.#running.values())
      if (racer) held += this.#options.lengthOf(number);
    const slowest = alone
      .map((attempt) => ({
        attempt,
        rest: this.#restOf(attempt, now),
        stalled: this.#stalledAt(attempt) <= now,
      }))
      .sort((a, b) => Number(b.stalled) - Number(a.stalled) || b.rest - a.rest);
    for (const { attempt, rest, stalled } of slowest) {
      if (!stalled) wake.note(this.#stalledAt(attempt));
      const length = this.#options.lengthOf(attempt.number);
      if (held > 0 && held + length > (this.#options.raceBytes ?? RACE_BYTES)) continue;
      // The time at which this route may be asked again is of no concern while another is at work.
      const times = { wake: new Earliest(), gone: new Earliest(), useless: new Earliest() };
      const routes = this.#best(attempt.number, now, times, attempt.from);
      const route = routes.find((candidate) => {
        if (candidate.out || this.#suspect(candidate, now)) return false;
        if (stalled) return true;
        const expected = candidate.expected(length, now);
        // The pace of a piece that has just begun says nothing of its rest: where many share a link, each waits for its turn.
        if (candidate.rate === undefined || this.#activeOf(attempt, now) < expected) return false;
        const idle = atEnd && candidate.inFlight === 0;
        return rest > (idle ? SLOW_AT_END : SLOW) * expected + MIN_GAIN_MS;
      });
      if (route === undefined || !environment.admit(route.parent)) continue;
      starts.push(this.#begin(attempt.number, route, now));
      held += length;
    }
    wake.note(now + LOOK);
  }

  #begin(number: number, route: RouteState, now: number): Attempt {
    const others = this.#byPiece.get(number) ?? [];
    const attempt: Running = {
      id: ++this.#attempts,
      number,
      route: route.id,
      parent: route.parent,
      protocol: route.protocol,
      racer: others.length > 0,
      startedAt: now,
      epoch: route.epoch,
      from: route,
      hopeful: false,
      bytes: 0,
      owedSince: now,
      active: 0,
      latency: 0,
      windowActive: 0,
      windowBytes: 0,
      windowPace: 0,
    };
    this.#running.set(attempt.id, attempt);
    this.#byPiece.set(number, [...others, attempt]);
    this.#setState(number, RUNNING);
    this.#again.delete(number);
    route.begin(now);
    return attempt;
  }

  #end(id: number, now: number): Running | undefined {
    const attempt = this.#running.get(id);
    if (attempt === undefined) return undefined;
    this.#running.delete(id);
    const others = (this.#byPiece.get(attempt.number) ?? []).filter((other) => other !== attempt);
    if (others.length > 0) this.#byPiece.set(attempt.number, others);
    else this.#byPiece.delete(attempt.number);
    attempt.from.end(attempt.owedSince !== undefined, now);
    return attempt;
  }

  #endRoute(route: RouteState, now: number): readonly Attempt[] {
    const over = [...this.#running.values()].filter(({ from }) => from === route);
    for (const { id, number } of over) {
      this.#end(id, now);
      this.#requeue(number);
    }
    return over;
  }

  #requeue(number: number): void {
    if (this.#byPiece.has(number)) return;
    this.#setState(number, QUEUED);
    this.#again.add(number);
  }

  /** When an attempt counts as stalled. */
  #stalledAt({ owedSince }: Running): number {
    return owedSince === undefined
      ? Number.POSITIVE_INFINITY
      : owedSince + this.#options.stallAfter;
  }

  /** Whether a route has an attempt that stalls now. */
  #suspect(route: RouteState, now: number): boolean {
    if (route.inFlight === 0) return false;
    for (const attempt of this.#running.values()) {
      if (attempt.from === route && this.#stalledAt(attempt) <= now) return true;
    }
    return false;
  }

  /**
   * Milliseconds that the rest of an attempt will take, by its own pace so far; when it is silent, at least as long again. Nor is it
   * faster than it was of late: a parent that sends all but the end at once, and then a byte a second, would be waited for.
   */
  #restOf(attempt: Running, now: number): number {
    const { bytes, latency, number, owedSince } = attempt;
    const active = this.#activeOf(attempt, now);
    if (bytes === 0) return active;
    const pace = Math.max((active - latency) / bytes, attempt.windowPace);
    return Math.max(
      pace * (this.#options.lengthOf(number) - bytes),
      owedSince === undefined ? 0 : now - owedSince,
    );
  }

  /** Milliseconds in which bytes of an attempt were owed. */
  #activeOf({ active, owedSince }: Running, now: number): number {
    return active + (owedSince === undefined ? 0 : now - owedSince);
  }

  /** Nothing is under way: waits for an announcement or for the return of a parent, or fails. */
  #stuck(
    now: number,
    gone: Earliest,
  ): { wakeAt: number | undefined; failure: VortexError | undefined } {
    const { announceTimeout, patience } = this.#options;
    const routes = [...this.#routes.values()];
    const wake = new Earliest();
    const announced = (this.#progressAt ?? now) + announceTimeout;
    const awaited = routes.some((route) => route.awaited);
    if (awaited && now < announced) wake.note(announced);
    // Where other parents were set aside, they are tried instead of waiting for those that are gone.
    const until = routes.some(({ aside, leftOut }) => aside && leftOut === undefined)
      ? undefined
      : this.#patientUntil;
    if (until !== undefined && now < until && routes.some((route) => route.unheard))
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
  #watchLast(now: number): void {
    const routes = [...this.#routes.values()];
    const gone = routes.filter(
      (route) => route.leftOut === "gone" && (route.inFlight > 0 || this.#helps(route)),
    );
    const unheard = routes.some((route) => route.unheard);
    if ((gone.length === 0 && !unheard) || this.#countsOnOthers(routes)) {
      this.#waitingSince = undefined;
      return;
    }
    this.#waitingSince ??= unheard ? now : Math.max(...gone.map(({ failedAt }) => failedAt));
    const until = this.#waitingSince + this.#options.patience;
    for (const route of gone) {
      // Each is asked once more at the end, also when the download was paused meanwhile.
      if (!this.#givenUp(route)) route.hasten(Math.min(route.failedAt + LAST_HOPE_PAUSE, until));
    }
  }

  /** Returns true when a route that is not left out may help, or a probe brings bytes. */
  #countsOnOthers(routes: readonly RouteState[]): boolean {
    if (
      routes.some(
        (route) => !route.out && (route.inFlight > 0 || route.awaited || this.#helps(route)),
      )
    )
      return true;
    return [...this.#running.values()].some(({ hopeful }) => hopeful);
  }

  /** When patience with the last parents ends; undefined while there are others. */
  get #patientUntil(): number | undefined {
    return this.#waitingSince === undefined
      ? undefined
      : this.#waitingSince + this.#options.patience;
  }

  /** Returns true for a route that has failed after patience was over. */
  #givenUp(route: RouteState): boolean {
    const until = this.#patientUntil;
    return until !== undefined && route.leftOut === "gone" && route.failedAt >= until;
  }

  /** Returns true for a route that may be asked for any queued piece, now or later. */
  #helps(route: RouteState): boolean {
    for (const number of this.#queue()) if (route.offers(number) !== undefined) return true;
    return false;
  }

  #failure(what: string, awaited: boolean): VortexError {
    const routes = [...this.#routes.values()];
    const told = routes.map(({ id, used, reasons }) => {
      const last = reasons.at(-1);
      if (last !== undefined)
        return `${id}${used ? " does not have it" : ""}: ${last.code}, ${last.message}`;
      return `${id} does not have it`;
    });
    const codes = new Set<ErrorCode>(
      routes.map(({ used, reasons }) => (!used && reasons.at(-1)?.code) || "NotFound"),
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

  #stateOf(number: number): number {
    return this.#states[number - this.#options.first] ?? DONE;
  }

  #setState(number: number, state: number): void {
    this.#states[number - this.#options.first] = state;
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
