import { type Digest, parseDigest } from "../digest/digest.ts";
import { abortedError, VortexError, withAddress } from "../errors.ts";
import { onAbort } from "../on-abort.ts";
import { type Piece, requireInteger } from "../piece.ts";
import { RateLimiter } from "../rate-limiter.ts";
import type { Clock, Timer } from "../runtime.ts";
import { beginOperation, type Operation } from "../telemetry.ts";
import type { PeerAddress } from "../transport/peer-address.ts";
import type { Protocol } from "../transport/protocol.ts";
import { EARLIER_DOWNLOAD } from "./agreement.ts";
import { Comparison } from "./comparison.ts";
import { ContiguousHasher } from "./contiguous-hasher.ts";
import { TaskLayout } from "./layout.ts";
import { type Parent, ParentDiscovery } from "./parent-discovery.ts";
import { parentsOf } from "./parents.ts";
import { PieceTransfers } from "./piece-transfers.ts";
import { PieceWindow } from "./piece-window.ts";
import { isIntact, resumedPieces } from "./resumed-pieces.ts";
import { retryDecision } from "./retry-decision.ts";
import { RoundPlanner } from "./round-planner.ts";
import { type RouteState, reasonsOf } from "./route.ts";
import { type Attempt, Scheduler } from "./scheduler.ts";
import type { SinkPiece, SinkSession } from "./sink.ts";
import type { SlotHolder } from "./slots.ts";
import type { SharedLimits, TaskSettings, TaskSource } from "./source.ts";
import { TaskStore } from "./store.ts";
import type {
  TaskDownload,
  TaskDownloadOptions,
  TaskEvent,
  TaskProgress,
  TaskReport,
  TaskRequest,
  Verified,
} from "./task.ts";
import { TransferStats } from "./transfer-stats.ts";

/** Bytes of pieces under way where a piece is a message, which is held twice for a moment. HTTP/2's windows hold no more at a time. */
const MAX_IN_FLIGHT_MESSAGE_BYTES = 16 * 1024 * 1024;
/** A piece may lie unread for as long as our own rate limit and sink take, in ms: 30 days. A download gives up what it does not want. */
const UNREAD_TIMEOUT_MS = 30 * 24 * 3600 * 1000;
/** Milliseconds between two reports of progress. */
const PROGRESS_INTERVAL_MS = 100;

/** Pieces of an earlier download that are read before those from parents are committed. */
const VERIFIED_FIRST_PIECES = 3;

/** The download while its sink is open. */
interface OpenDownload {
  readonly layout: TaskLayout;
  readonly digest: Digest | undefined;
  readonly session: SinkSession;
  readonly scheduler: Scheduler;
  readonly transfers: PieceTransfers;
  readonly pieceWindow: PieceWindow | undefined;
  readonly comparison: Comparison;
  /** Of this round: it hashes the whole from the start. */
  readonly hasher: ContiguousHasher;
}

/** {@link TaskDownloadOptions} with every default filled in. */
type ResolvedOptions = TaskDownloadOptions &
  Required<
    Pick<TaskDownloadOptions, "concurrentPieceCount" | "pieceTimeout" | "stallTimeout" | "patience">
  >;

/**
 * One task on its way from parents to a sink. It connects the parts: the discovery learns what there is, the scheduler says
 * what to ask from whom, the transfers bring it, the comparison keeps different contents apart, the frontier hashes the whole and
 * tells the sink how far it is. Where the digest of the whole is known and a round of these does not make it, other parents get one.
 */
export class Download implements TaskDownload {
  readonly done: Promise<TaskReport>;
  readonly store: TaskStore;
  readonly #request: TaskRequest;
  readonly #options: ResolvedOptions;
  readonly #source: TaskSource;
  readonly #settings: TaskSettings;
  readonly #shared: SharedLimits;
  readonly #clock: Clock;
  readonly #parents: ReadonlyMap<string, Parent>;
  readonly #discovery: ParentDiscovery;
  readonly #limiters: readonly RateLimiter[];
  readonly #operation: Operation | undefined;
  readonly #stats: TransferStats;
  /** Ends everything that waits; its reason is what the download failed with. */
  readonly #ending = new AbortController();
  /** What has to end before the sink is closed. */
  readonly #background = new Set<Promise<unknown>>();
  readonly #slotHolder: SlotHolder = { onSlot: () => this.#wake() };
  readonly #rounds: RoundPlanner;
  /** Attempts whose slot was given back when all of the piece had come. */
  readonly #slotReleased = new Set<number>();
  readonly #attempts = new Set<Promise<void>>();
  #opened: OpenDownload | undefined;
  #timer: Timer | undefined;
  #isStepScheduled = false;
  #isPaused = false;
  #isFinishing = false;
  #discardOnAbort = false;
  #progressAt = Number.NEGATIVE_INFINITY;
  /** Those pieces of an earlier download are being read that parents are asked about. */
  #isVerifyingResumed = false;
  /** Pieces are taken back: nothing begins meanwhile. */
  #isChangingRound = false;
  /** The round is over: all pieces are here, or `stuck` says why they cannot be. */
  #endRound: (stuck: VortexError | undefined) => void = () => {};

  /** @throws `InvalidArgument` */
  constructor(
    request: TaskRequest,
    options: TaskDownloadOptions,
    source: TaskSource,
    settings: TaskSettings,
    shared: SharedLimits,
  ) {
    const { taskId, kind = "standard", range, digest } = request;
    const { clock } = settings.runtime;
    this.#request = request;
    this.#source = source;
    this.#settings = settings;
    this.#shared = shared;
    this.#clock = clock;
    this.#options = resolveOptions(options, settings);
    const layout = TaskLayout.known({ taskId, kind, range }, request);
    const given = digest === undefined ? undefined : parseDigest(digest);
    if (given !== undefined && range !== undefined) {
      const { start, end = "the end" } = range;
      throw new VortexError(
        "InvalidArgument",
        `digest ${digest} and range ${start} to ${end}: expected one of them, got both; a part cannot be verified by the digest of the whole`,
      );
    }
    if (layout === undefined && source.directory === undefined) {
      throw new VortexError(
        "InvalidArgument",
        "lengths of the task: expected contentLength or pieces, got neither; parents cannot be asked without a directory",
      );
    }
    const ask = layout !== undefined ? "no" : source.speaksApi ? "same-address" : "same-host";
    this.#parents = new Map(
      parentsOf(request.parents, ask, (addr) => source.resolve?.(addr) ?? addr).map((parent) => [
        parent.name,
        { ...parent },
      ]),
    );
    const own =
      options.rateLimit === undefined ? undefined : new RateLimiter(options.rateLimit, clock);
    this.#limiters = [own, shared.limiter].filter((limiter) => limiter !== undefined);
    // Nothing throws from here on: what has begun has its end.
    this.#operation = beginOperation(settings.telemetry, {
      name: "download_task",
      role: "client",
      taskId,
      kind,
    });
    this.#discovery = new ParentDiscovery({
      request,
      source,
      digest: given,
      maxPieceLength: settings.maxPieceLength,
      parents: [...this.#parents.values()],
      clock,
      random: () => this.#random(),
      signal: this.#ending.signal,
      operation: this.#operation,
      onChange: () => this.#wake(),
      patience: this.#options.patience,
      onUseless: (parent, banned) => this.#leaveParentOut(parent, banned),
      onRestored: (parent) => this.#restoreParent(parent),
    });
    this.#rounds = new RoundPlanner([...this.#parents.keys()]);
    this.#stats = new TransferStats(clock.now());
    this.store = new TaskStore(taskId);
    this.done = this.#run(layout, given);
    this.done.then(
      ({ bytes }) => this.#operation?.end({ bytes }),
      (error: VortexError) => this.#operation?.end({ error }),
    );
    // Whoever does not look at `done` looks at the sink.
    this.done.catch(() => {});
  }

  pause(): void {
    this.#isPaused = true;
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  resume(): void {
    this.#isPaused = false;
    this.#wake();
  }

  cancel(reason?: unknown): void {
    this.end(
      new VortexError("Aborted", `the download of task ${this.#request.taskId} was cancelled`, {
        cause: reason,
      }),
    );
  }

  /** Ends the download with an error, unless it has ended. What comes first stands. */
  end(error: VortexError): void {
    if (this.#isFinishing || this.#ending.signal.aborted) return;
    this.#ending.abort(error);
    this.#endRound(error);
  }

  progress(): TaskProgress {
    const { layout, transfers, scheduler } = this.#opened ?? {};
    const routes = scheduler?.routes ?? [];
    const now = this.#clock.now();
    const patienceLeft =
      scheduler === undefined ? this.#discovery.patienceLeft(now) : scheduler.patienceLeft(now);
    const underWay = transfers?.bytes ?? 0;
    return this.#stats.progress(now, layout, {
      inFlightBytes: underWay,
      routes,
      paused: this.#isPaused,
      patienceLeft,
    });
  }

  async #run(known: TaskLayout | undefined, digest: Digest | undefined): Promise<TaskReport> {
    const { signal } = this.#options;
    const over = (): void => {
      if (signal !== undefined)
        this.end(abortedError(signal, `the download of task ${this.#request.taskId}`));
    };
    const settled = signal && onAbort(signal, over);
    if (signal?.aborted) over();
    try {
      // The caller has the handle before anything happens.
      await undefined;
      const told =
        known === undefined
          ? await this.#discovery.discover()
          : { layout: known, digest: undefined };
      const open = await this.#openSink(told.layout, digest ?? told.digest);
      await this.#transferAll(open);
      return this.#report(open);
    } catch (error) {
      const failure =
        (this.#ending.signal.reason as VortexError | undefined) ??
        VortexError.from(error, "Internal");
      await this.#close(failure);
      throw failure;
    } finally {
      settled?.();
      this.#timer?.cancel();
      this.#shared.slots.leave(this.#slotHolder);
      this.#reportProgress(true);
    }
  }

  /** Ends whatever is under way, then the sink. */
  async #close(failure: VortexError): Promise<void> {
    this.#ending.abort(failure);
    this.#opened?.transfers.endAll(failure);
    await Promise.allSettled([...this.#background]);
    await this.#opened?.hasher.stop();
    this.store.fail(failure);
    await this.#opened?.session.abort(failure, { discard: this.#discardOnAbort });
  }

  // --- the sink

  /** A piece over gRPC is one message, and all of it in memory, so that long ones are held to fewer at a time. */
  #maxConcurrentPieces({ longestPiece }: TaskLayout): number {
    const { concurrentPieceCount } = this.#options;
    if (!this.#source.speaksApi) return concurrentPieceCount;
    return Math.min(
      concurrentPieceCount,
      Math.max(1, Math.floor(MAX_IN_FLIGHT_MESSAGE_BYTES / longestPiece)),
    );
  }

  async #openSink(layout: TaskLayout, digest: Digest | undefined): Promise<OpenDownload> {
    layout.requirePieceLength(this.#settings.maxPieceLength);
    const { signal } = this.#ending;
    if (signal.aborted) throw signal.reason;
    const onSinkFailure = (error: unknown): void =>
      this.end(VortexError.from(error, "StorageFailed"));
    const session = await this.#options.to.open(layout, {
      signal,
      digest: digest && formatDigest(digest),
      onRoom: () => this.#wake(),
      onFailure: onSinkFailure,
    });
    const most = this.#maxConcurrentPieces(layout);
    const scheduler = new Scheduler({
      first: layout.first,
      last: layout.last,
      lengthOf: (number) => layout.extent(number).length,
      concurrentPieceCount: most,
      pieceTimeout: this.#options.pieceTimeout,
      stallThreshold: this.#options.stallTimeout / 4,
      announceTimeout: this.#options.pieceTimeout,
      patience: this.#options.patience,
      random: () => this.#random(),
    });
    const { hashers } = this.#settings.runtime;
    const comparison = new Comparison({
      layout,
      session,
      hashers,
      random: () => this.#random(),
      parents: [...this.#parents.keys()],
      piecesAreMessages: this.#source.speaksApi,
      hasTaskDigest: digest !== undefined,
      isVerifyingResumed: () => this.#isVerifyingResumed,
      signal,
      ask: (parent, number, last) => this.#askAboutPiece(scheduler, parent, number, last),
      isUnavailable: (parent) => !scheduler.routesOf(parent).some(({ isUsable }) => isUsable),
      mayHave: (parent, number, last) => this.#mayAskAbout(scheduler, parent, number, last),
      takeSlot: (parent) => this.#shared.slots.take(parent, this.#slotHolder),
      releaseSlot: (parent) => this.#shared.slots.release(parent, this.#slotHolder),
      onChange: () => this.#wake(),
      onDisagreement: (parent, error) => this.#onDisagreement(parent, error),
    });
    const transfers = new PieceTransfers({
      layout,
      session,
      scheduler,
      hashers,
      clock: this.#clock,
      limiters: this.#limiters,
      signal,
      comparison,
      fetchPiece: ({ parent, protocol, number }, ended) =>
        this.#fetchPiece(parent, protocol, number, ended),
      onReceived: ({ id, parent }) => {
        this.#slotReleased.add(id);
        this.#shared.slots.release(parent, this.#slotHolder);
      },
      onBytes: (bytes, at) => this.#stats.addBytes(bytes, at),
      onProgress: () => this.#reportProgress(),
      onCommitted: (piece, parent, at, costSeconds) =>
        this.#onPieceDone(piece, parent, at, costSeconds),
      onRouteRestored: (attempt) => this.#reportRestored(attempt),
      onSinkFailure,
    });
    const frontier = this.#createHasher(layout, session, digest);
    const limiters = this.#limiters;
    const span = this.#options.stallTimeout / 2;
    const pieceWindow =
      limiters.length === 0
        ? undefined
        : new PieceWindow({
            limiters,
            pieceLength: layout.longestPiece,
            passTimeMs: span,
            maxPieces: most,
            now: this.#clock.now(),
          });
    const open: OpenDownload = {
      layout,
      digest,
      session,
      scheduler,
      transfers,
      comparison,
      pieceWindow,
      hasher: frontier,
    };
    this.#opened = open;
    this.store.open(layout, session);
    return open;
  }

  #createHasher(
    layout: TaskLayout,
    session: SinkSession,
    digest: Digest | undefined,
  ): ContiguousHasher {
    return new ContiguousHasher({
      layout,
      session,
      hashers: this.#settings.runtime.hashers,
      digest,
      onAdvance: () => {
        this.#wake();
        this.#finishIfDone();
      },
      onFailure: (error) => this.end(VortexError.from(error, "StorageFailed")),
    });
  }

  async #transferAll(open: OpenDownload): Promise<void> {
    const { layout, scheduler, session } = open;
    const found = resumedPieces(open);
    for (const { number } of found) scheduler.beginVerification(number);
    for (const parent of this.#parents.values()) {
      const asked = this.#discovery.isFollowed(parent);
      const protocols = this.#source.protocolsOf?.(parent.addresses ?? parent.addr) ?? [undefined];
      const routes = protocols.map((protocol) =>
        scheduler.addRoute({ parent: parent.name, protocol }, asked),
      );
      this.#stats.setLeftOutProtocols(
        parent.name,
        this.#source.leftOut?.(parent.addresses ?? parent.addr) ?? [],
      );
      if (asked) this.#track(this.#discovery.follow(layout, parent, routes));
    }
    let round = this.#nextRound();
    this.#emit({
      type: "started",
      totalBytes: layout.length,
      totalPieces: layout.wantedCount,
      resumedPieces: found.length,
    });
    this.#isVerifyingResumed = found.length > 0;
    this.#track(this.#verifyResumed(open, found));
    this.#finishIfDone();
    this.#wake();
    let mismatch: VortexError | undefined;
    for (;;) {
      const stuck = await round;
      if (this.#ending.signal.aborted) throw this.#ending.signal.reason;
      const wrong = stuck === undefined ? this.#taskMismatch() : undefined;
      const failure = stuck ?? wrong;
      if (failure === undefined) break;
      // That the whole is wrong says more than what is missing in a later round.
      mismatch ??= wrong;
      round = this.#nextRound();
      if (await this.#startNextRound(failure, wrong !== undefined)) continue;
      // Which of the pieces is wrong cannot be told, so none is worth keeping.
      this.#discardOnAbort = mismatch !== undefined;
      throw mismatch ?? failure;
    }
    await session.finish();
    this.store.complete(open.digest && formatDigest(open.digest));
    // Nothing fails any more; whoever still announces pieces is not listened to.
    this.#ending.abort(new VortexError("Closed", "the download is done"));
  }

  // --- rounds

  /** Resolves when all pieces are here, or with why they cannot be. */
  #nextRound(): Promise<VortexError | undefined> {
    return new Promise((resolve) => {
      this.#endRound = resolve;
      if (this.#ending.signal.aborted) resolve(this.#ending.signal.reason as VortexError);
    });
  }

  /** How the whole differs from what it should be, now that all pieces are here. */
  #taskMismatch(): VortexError | undefined {
    try {
      this.#opened?.hasher.verify();
      return undefined;
    } catch (error) {
      return VortexError.from(error, "Internal");
    }
  }

  /**
   * Begins a round with other parents, where the digest of the whole tells which are right. Returns false when no other parents are
   * left to try, or the sink cannot take pieces back.
   */
  async #startNextRound(failure: VortexError, isMismatch: boolean): Promise<boolean> {
    if (this.#opened === undefined) return false;
    const { layout, digest, session, scheduler, comparison, hasher } = this.#opened;
    if (digest === undefined || session.restart === undefined) return false;
    const sources = comparison.contributors;
    const parents = this.#rounds.next({ mismatch: isMismatch, sources });
    if (parents === undefined) return false;
    for (const route of scheduler.routes) {
      if (isMismatch && sources.includes(route.parent) && !parents.includes(route.parent))
        route.addReason(failure);
    }
    this.#isChangingRound = true;
    this.#isFinishing = false;
    await Promise.allSettled([...this.#attempts]);
    await hasher.stop();
    const kept = comparison.restart(new Set(parents));
    await session.restart(kept);
    if (this.#ending.signal.aborted) throw this.#ending.signal.reason;
    this.store.restart(failure);
    this.#stats.restart();
    scheduler.restart(new Set(kept.map(({ number }) => number)), parents, this.#clock.now());
    const next = this.#createHasher(layout, session, digest);
    this.#opened = { ...this.#opened, hasher: next };
    for (const piece of kept) this.#addPiece(piece, false, 0);
    this.#emit({ type: "started-over", parents, error: failure });
    this.#isChangingRound = false;
    this.#finishIfDone();
    this.#wake();
    return true;
  }

  /** A parent has another content than the others. Where the whole is not checked, nobody can tell which is right. */
  #onDisagreement(parent: string, error: VortexError): void {
    if (this.#opened === undefined) return;
    const { digest, scheduler, transfers } = this.#opened;
    if (digest === undefined) {
      this.#discardOnAbort = true;
      this.end(error);
      return;
    }
    this.#rounds.exclude(parent);
    for (const attempt of scheduler.excludeFromRound(parent, error, this.#clock.now()))
      transfers.end(attempt);
    this.#emit({ type: "parent-left-out", parent, reasons: reasonsOf(scheduler.routesOf(parent)) });
    this.#wake();
  }

  // --- what an earlier download left

  /** Counts what an earlier download left and is what it is said to be. */
  async #verifyResumed(
    { layout, session, scheduler, comparison }: OpenDownload,
    found: readonly SinkPiece[],
  ): Promise<void> {
    const { signal } = this.#ending;
    const { hashers } = this.#settings.runtime;
    for (const [index, piece] of found.entries()) {
      const right = await isIntact(piece, { layout, session, hashers, signal });
      if (signal.aborted) return;
      scheduler.endVerification(piece.number, right);
      if (right) {
        this.#onPieceDone(piece, undefined, 0, 0);
      } else {
        this.#emit({ type: "piece-damaged", number: piece.number });
      }
      if (index + 1 === Math.min(VERIFIED_FIRST_PIECES, found.length)) {
        this.#isVerifyingResumed = false;
        comparison.wake();
      }
      // Also when it is right: with the last one it shows that what is left cannot be fetched, when no parent is left.
      this.#wake();
    }
  }

  // --- pieces

  /** Steps soon: many things may happen at once, and each of them calls this. */
  #wake(): void {
    if (this.#isStepScheduled) return;
    this.#isStepScheduled = true;
    queueMicrotask(() => {
      this.#isStepScheduled = false;
      this.#step();
    });
  }

  #step(): void {
    const open = this.#opened;
    if (open === undefined || this.#isSuspended) return;
    const { layout, scheduler, session, comparison, pieceWindow } = open;
    comparison.step(scheduler.allInFlight);
    this.#finishIfDone();
    if (this.#isPaused || this.#isSuspended) return;
    this.#timer?.cancel();
    this.#timer = undefined;
    const now = this.#clock.now();
    const { starts, wakeAt, failure } = scheduler.step(now, {
      hasRoom: (number) => {
        const part = layout.part(number);
        if (part === undefined || session.limit === undefined) return true;
        return part.position + part.length <= session.limit;
      },
      takeSlot: (parent) => this.#shared.slots.take(parent, this.#slotHolder),
      ...(pieceWindow && { maxPieces: pieceWindow.size(now) }),
    });
    for (const attempt of starts) {
      if (attempt.isHedge)
        this.#emit({ type: "race", number: attempt.number, parent: attempt.parent });
      const fetched = this.#runAttempt(open, attempt).finally(() => this.#attempts.delete(fetched));
      this.#attempts.add(fetched);
      this.#track(fetched);
    }
    const next = Math.min(
      wakeAt ?? Number.POSITIVE_INFINITY,
      pieceWindow?.changesAt ?? Number.POSITIVE_INFINITY,
    );
    if (failure !== undefined) {
      this.#isChangingRound = true;
      this.#endRound(failure);
    } else if (next !== Number.POSITIVE_INFINITY) {
      this.#timer = this.#clock.setTimer(() => this.#wake(), Math.max(0, next - now));
    }
  }

  /** Whether nothing is to begin now. */
  get #isSuspended(): boolean {
    return this.#isFinishing || this.#isChangingRound || this.#ending.signal.aborted;
  }

  async #runAttempt({ transfers, scheduler }: OpenDownload, attempt: Attempt): Promise<void> {
    try {
      await transfers.run(attempt);
    } catch (error) {
      if (!this.#ending.signal.aborted) this.#onAttemptFailed(scheduler, attempt, error);
    } finally {
      if (!this.#slotReleased.delete(attempt.id))
        this.#shared.slots.release(attempt.parent, this.#slotHolder);
      this.#wake();
    }
  }

  async #fetchPiece(
    name: string,
    protocol: Protocol | undefined,
    number: number,
    signal: AbortSignal,
    stallTimeout: number = this.#options.stallTimeout,
  ): Promise<Piece> {
    const told = addressOf(this.#parents.get(name));
    if (told === undefined)
      throw new VortexError(
        "Internal",
        `requesting a piece from ${name}: it has not announced an address`,
      );
    const where = typeof told === "string" ? { addr: told } : { addr: name, addresses: told };
    const { hostId, taskId, kind = "standard" } = this.#request;
    const { pieceTimeout } = this.#options;
    const fetch = (): Promise<Piece> =>
      this.#source.fetchPiece(
        { ...where, ...(protocol && { protocol }), hostId, taskId, kind, number },
        { pieceTimeout, stallTimeout, unreadTimeout: UNREAD_TIMEOUT_MS, signal },
      );
    return this.#operation === undefined ? fetch() : this.#operation.run(fetch);
  }

  /** Asks a parent about a piece that is here. The end of the task waits no longer for it than for a piece before another is asked. */
  #askAboutPiece(
    scheduler: Scheduler,
    parent: string,
    number: number,
    last: boolean,
  ): Promise<Piece> {
    const route = scheduler.routesOf(parent).find(({ isUsable }) => isUsable);
    const { stallTimeout } = this.#options;
    const within = last ? Math.ceil(stallTimeout / 4) : stallTimeout;
    return this.#fetchPiece(parent, route?.protocol, number, this.#ending.signal, within);
  }

  /** Whether a parent may be asked about a piece. The last time, also one that has not told yet what it has. */
  #mayAskAbout(scheduler: Scheduler, parent: string, number: number, last: boolean): boolean {
    if (addressOf(this.#parents.get(parent)) === undefined) return false;
    const routes = scheduler.routesOf(parent).filter(({ isUsable }) => isUsable);
    return routes.some((route) => route.mayHave(number) || (last && route.mayAnnounceMore));
  }

  #onAttemptFailed(
    scheduler: Scheduler,
    { id, number, routeId, parent, protocol }: Attempt,
    error: unknown,
  ): void {
    const failure = withAddress(error, parent);
    const decision = retryDecision(failure);
    if (decision === "fatal") {
      this.end(failure);
      return;
    }
    this.#emit({
      type: "piece-failed",
      number,
      parent,
      error: failure,
      ...(protocol && { protocol }),
    });
    const state = scheduler.route(routeId);
    const wasOut = state.isLeftOut;
    const over = scheduler.failed(id, failure, decision, this.#clock.now());
    for (const attempt of over) this.#opened?.transfers.end(attempt);
    if (state.isLeftOut && !wasOut) this.#reportLeftOut(scheduler, state);
  }

  #leaveParentOut(parent: string, banned: boolean): void {
    if (this.#opened === undefined) return;
    const { scheduler, transfers } = this.#opened;
    const [route, ...others] = scheduler.routesOf(parent).filter(({ isLeftOut }) => !isLeftOut);
    if (route === undefined) return;
    for (const { id } of [route, ...others]) {
      const as = banned ? "banned" : "useless";
      for (const attempt of scheduler.leaveOut(id, as, this.#clock.now())) transfers.end(attempt);
    }
    this.#reportLeftOut(scheduler, route);
  }

  /** Counts on a parent again that had been left out. */
  #restoreParent(parent: string): void {
    const routes =
      this.#opened?.scheduler.routesOf(parent).filter(({ leftOut }) => leftOut === "useless") ?? [];
    for (const route of routes) route.restore();
    if (routes.length > 0) this.#reportRestored({ parent });
  }

  #reportRestored({
    parent,
    protocol,
  }: {
    readonly parent: string;
    readonly protocol?: Protocol | undefined;
  }): void {
    this.#emit({ type: "parent-back", parent, ...(protocol && { protocol }) });
  }

  /** Reports a route that is left out: its parent, when that was the last one. */
  #reportLeftOut(scheduler: Scheduler, { parent, protocol, reasons }: RouteState): void {
    const routes = scheduler.routesOf(parent);
    if (protocol !== undefined && routes.some(({ isLeftOut }) => !isLeftOut)) {
      this.#emit({ type: "protocol-left-out", parent, protocol, reasons: [...reasons] });
    } else {
      this.#emit({ type: "parent-left-out", parent, reasons: reasonsOf(routes) });
    }
  }

  /** A piece is in the sink and right. One that an earlier download left has no parent. */
  #onPieceDone(
    piece: SinkPiece,
    parent: string | undefined,
    at: number,
    costSeconds: number,
  ): void {
    if (this.#opened === undefined) return;
    this.#opened.comparison.hold(piece, parent ?? EARLIER_DOWNLOAD, at);
    const bytes = this.#addPiece(piece, parent === undefined, costSeconds);
    this.#emit({ type: "piece", number: piece.number, bytes, parent });
    this.#finishIfDone();
  }

  /** Adds a piece to what is counted, served and hashed. Returns its bytes. */
  #addPiece(piece: SinkPiece, resumed: boolean, costSeconds: number): number {
    const { length = 0 } = this.#opened?.layout.part(piece.number) ?? {};
    this.#stats.addPiece(length, resumed);
    this.store.add(piece, costSeconds);
    this.#opened?.hasher.add(piece.number, piece.crc32);
    return length;
  }

  #finishIfDone(): void {
    const open = this.#opened;
    if (open === undefined || this.#isSuspended) return;
    const { layout, hasher, comparison } = open;
    if (this.#stats.pieces < layout.wantedCount || hasher.next <= layout.last) return;
    if (!comparison.finish()) return;
    this.#isFinishing = true;
    this.#endRound(undefined);
  }

  // --- telling

  #emit(event: TaskEvent): void {
    this.#callListener(() => this.#options.onEvent?.(event));
  }

  #reportProgress(always = false): void {
    if (this.#options.onProgress === undefined) return;
    const now = this.#clock.now();
    if (!always && now - this.#progressAt < PROGRESS_INTERVAL_MS) return;
    this.#progressAt = now;
    this.#callListener(() => this.#options.onProgress?.(this.progress()));
  }

  /** A listener that throws ends the download: it is part of what the caller wanted done. */
  #callListener(listener: () => void): void {
    try {
      listener();
    } catch (error) {
      this.end(new VortexError("Aborted", "a listener of the download threw", { cause: error }));
    }
  }

  #report({ layout, digest, scheduler, comparison }: OpenDownload): TaskReport {
    const verified: Verified =
      digest === undefined
        ? { level: comparison.complete ? "pieces" : "none" }
        : {
            level: "whole",
            digest: formatDigest(digest),
            by: this.#request.digest === undefined ? "parents" : "caller",
          };
    return this.#stats.report(this.#clock.now(), layout, verified, scheduler.routes);
  }

  // --- small things

  #random(): number {
    const [byte = 0, next = 0] = this.#settings.runtime.random(new Uint8Array(2));
    return (byte * 256 + next) / 65536;
  }

  #track(task: Promise<unknown>): void {
    const tracked = task
      .catch((error: unknown) => this.end(VortexError.from(error, "Internal")))
      .finally(() => this.#background.delete(tracked));
    this.#background.add(tracked);
  }
}

/** @throws `InvalidArgument` */
function resolveOptions(options: TaskDownloadOptions, settings: TaskSettings): ResolvedOptions {
  const {
    concurrentPieceCount = settings.concurrentPieceCount,
    pieceTimeout = settings.pieceTimeout,
    stallTimeout = settings.stallTimeout,
    patience = settings.patience,
  } = options;
  requireInteger("concurrentPieceCount", concurrentPieceCount, 1, 1024);
  requireInteger("pieceTimeout", pieceTimeout, 1, Number.MAX_SAFE_INTEGER);
  requireInteger("stallTimeout", stallTimeout, 1, Number.MAX_SAFE_INTEGER);
  requireInteger("patience", patience, 0, Number.MAX_SAFE_INTEGER);
  return { ...options, concurrentPieceCount, pieceTimeout, stallTimeout, patience };
}

/** Where a parent serves pieces, as far as it is known. */
function addressOf(parent: Parent | undefined): PeerAddress | undefined {
  return parent?.addresses ?? parent?.addr ?? parent?.announcedAddr;
}

function formatDigest({ algorithm, encoded }: Digest): string {
  return `${algorithm}:${encoded}`;
}
