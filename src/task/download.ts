import { type Digest, parseDigest } from "../digest/digest.ts";
import { abortedError, VortexError, withAddress } from "../errors.ts";
import { onAbort } from "../on-abort.ts";
import { type Piece, requireInteger } from "../piece.ts";
import { RateLimiter } from "../rate-limiter.ts";
import type { Clock, Timer } from "../runtime.ts";
import { beginOperation, type Operation } from "../telemetry.ts";
import type { PeerAddress } from "../transport/peer-address.ts";
import type { Protocol } from "../transport/protocol.ts";
import { earlierSource } from "./agreement.ts";
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

/**
 * Maximum number of bytes in flight if a piece is one gRPC message, which is briefly held twice.
 * The flow control windows of HTTP/2 hold no more at a time.
 */
const MAX_IN_FLIGHT_MESSAGE_BYTES = 16 * 1024 * 1024;
/**
 * Unread timeout of a piece in ms: 30 days, since a local rate limit or a slow sink may delay reads
 * indefinitely. The download itself ends pieces that it no longer needs.
 */
const UNREAD_TIMEOUT_MS = 30 * 24 * 3600 * 1000;
/** Minimum interval between two progress reports, in ms. */
const PROGRESS_INTERVAL_MS = 100;

/**
 * Number of resumed pieces that are verified before pieces from parents may be committed, since
 * parents are asked about these.
 */
const VERIFIED_FIRST_PIECES = 3;

/** Parts of a download whose sink is open. */
interface OpenDownload {
  readonly layout: TaskLayout;
  readonly digest: Digest | undefined;
  readonly session: SinkSession;
  readonly scheduler: Scheduler;
  readonly transfers: PieceTransfers;
  readonly pieceWindow: PieceWindow | undefined;
  readonly comparison: Comparison;
  /** Hasher of the current round. Each round hashes the content from its start. */
  readonly hasher: ContiguousHasher;
}

/** {@link TaskDownloadOptions} with every default filled in. */
type ResolvedOptions = TaskDownloadOptions &
  Required<
    Pick<TaskDownloadOptions, "concurrentPieceCount" | "pieceTimeout" | "stallTimeout" | "patience">
  >;

/**
 * Download of one task from its parents to a sink. It connects these parts:
 *
 * - {@link ParentDiscovery} asks the parents for the layout, and follows what they announce.
 * - {@link Scheduler} decides which piece is requested from which parent, and when.
 * - {@link PieceTransfers} fetches the pieces, verifies them and writes them to the sink.
 * - {@link Comparison} keeps parents with different contents apart.
 * - {@link ContiguousHasher} hashes the whole content.
 * - {@link RoundPlanner} selects other parents after a round whose pieces were wrong.
 *
 * The method `#run` is the life of a download: ask for the layout, open the sink, transfer all
 * pieces in one or more rounds, report. After a failed round, the next one uses other parents, if
 * the digest of the whole is known. Any other failure ends in `#close`.
 */
export class Download implements TaskDownload {
  readonly done: Promise<TaskReport>;
  /** Store that serves the verified pieces during the download. */
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
  /**
   * Aborts everything in progress when the download ends; its reason is the error of the download.
   */
  readonly #ending = new AbortController();
  /** Promises that must settle before the sink is closed. */
  readonly #background = new Set<Promise<unknown>>();
  readonly #slotHolder: SlotHolder = { onSlot: () => this.#wake() };
  readonly #rounds: RoundPlanner;
  /** IDs of attempts whose request slot was released when all bytes had arrived. */
  readonly #slotReleased = new Set<number>();
  /** Attempts in flight. */
  readonly #attempts = new Set<Promise<void>>();
  /** Parts that exist once the sink is open; undefined before. */
  #opened: OpenDownload | undefined;
  /** Timer of the next step. */
  #timer: Timer | undefined;
  /** True while a step is queued as a microtask. */
  #isStepScheduled = false;
  #isPaused = false;
  /** True once all pieces are stored and compared. */
  #isFinishing = false;
  /** True if the committed pieces are known to be wrong, so that the sink must not keep them. */
  #discardOnAbort = false;
  #progressAt = Number.NEGATIVE_INFINITY;
  /** True while the resumed pieces that parents are asked about are being verified. */
  #isVerifyingResumed = false;
  /** True while the pieces of a failed round are dropped; nothing is started meanwhile. */
  #isChangingRound = false;
  /**
   * Ends the current round: with undefined when all pieces are stored, otherwise with the reason
   * why some are unavailable.
   */
  #endRound: (unavailable: VortexError | undefined) => void = () => {};

  /** @throws `InvalidArgument` for an invalid request or option */
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
    const givenDigest = digest === undefined ? undefined : parseDigest(digest);
    if (givenDigest !== undefined && range !== undefined) {
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
    const apiDefault =
      layout !== undefined ? "no" : source.speaksApi ? "same-address" : "same-host";
    this.#parents = new Map(
      parentsOf(request.parents, apiDefault, (addr) => source.resolve?.(addr) ?? addr).map(
        (parent) => [parent.name, { ...parent }],
      ),
    );
    const ownLimiter =
      options.rateLimit === undefined ? undefined : new RateLimiter(options.rateLimit, clock);
    this.#limiters = [ownLimiter, shared.limiter].filter((limiter) => limiter !== undefined);
    // Nothing below throws, so the telemetry operation always ends.
    this.#operation = beginOperation(settings.telemetry, {
      name: "download_task",
      role: "client",
      taskId,
      kind,
    });
    this.#discovery = new ParentDiscovery({
      request,
      source,
      digest: givenDigest,
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
    this.done = this.#run(layout, givenDigest);
    this.done.then(
      ({ bytes }) => this.#operation?.end({ bytes }),
      (error: VortexError) => this.#operation?.end({ error }),
    );
    // A caller may watch only the sink; that must not raise an unhandled rejection.
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

  /** Ends the download with an error, unless it has ended. The first error wins. */
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
    const inFlightBytes = transfers?.bytes ?? 0;
    return this.#stats.progress(now, layout, {
      inFlightBytes,
      routes,
      paused: this.#isPaused,
      patienceLeft,
    });
  }

  /** Runs the download from the layout to the report. */
  async #run(known: TaskLayout | undefined, digest: Digest | undefined): Promise<TaskReport> {
    const { signal } = this.#options;
    const onCallerAbort = (): void => {
      if (signal !== undefined)
        this.end(abortedError(signal, `the download of task ${this.#request.taskId}`));
    };
    const unsubscribe = signal && onAbort(signal, onCallerAbort);
    if (signal?.aborted) onCallerAbort();
    try {
      // The caller receives the handle before anything happens.
      await undefined;
      const found =
        known === undefined
          ? await this.#discovery.discover()
          : { layout: known, digest: undefined };
      const open = await this.#openSink(found.layout, digest ?? found.digest);
      await this.#transferAll(open);
      return this.#report(open);
    } catch (error) {
      const failure =
        (this.#ending.signal.reason as VortexError | undefined) ??
        VortexError.from(error, "Internal");
      await this.#close(failure);
      throw failure;
    } finally {
      unsubscribe?.();
      this.#timer?.cancel();
      this.#shared.slots.leave(this.#slotHolder);
      this.#reportProgress(true);
    }
  }

  /** Returns the report of the successful download. */
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

  /** Ends everything in progress, then aborts the sink. */
  async #close(failure: VortexError): Promise<void> {
    this.#ending.abort(failure);
    this.#opened?.transfers.endAll(failure);
    await Promise.allSettled([...this.#background]);
    await this.#opened?.hasher.stop();
    this.store.fail(failure);
    await this.#opened?.session.abort(failure, { discard: this.#discardOnAbort });
  }

  /** Ends the download with the error of the sink. */
  #onSinkFailure(error: unknown): void {
    this.end(VortexError.from(error, "StorageFailed"));
  }

  // --- opening the sink

  /** Opens the sink, and creates the parts that depend on the layout. */
  async #openSink(layout: TaskLayout, digest: Digest | undefined): Promise<OpenDownload> {
    layout.requirePieceLength(this.#settings.maxPieceLength);
    const { signal } = this.#ending;
    if (signal.aborted) throw signal.reason;
    const session = await this.#options.to.open(layout, {
      signal,
      digest: digest && formatDigest(digest),
      onRoom: () => this.#wake(),
      onFailure: (error) => this.#onSinkFailure(error),
    });
    const maxPieces = this.#maxConcurrentPieces(layout);
    const scheduler = this.#createScheduler(layout, maxPieces);
    const parts = { layout, session, scheduler };
    const comparison = this.#createComparison(parts, digest);
    const transfers = this.#createTransfers(parts, comparison);
    const hasher = this.#createHasher(layout, session, digest);
    const pieceWindow = this.#createPieceWindow(layout, maxPieces);
    const open: OpenDownload = {
      layout,
      digest,
      session,
      scheduler,
      transfers,
      comparison,
      pieceWindow,
      hasher,
    };
    this.#opened = open;
    this.store.open(layout, session);
    return open;
  }

  /**
   * Returns the maximum number of pieces in flight. Over gRPC, a piece is one message in memory, so
   * long pieces lower the number.
   */
  #maxConcurrentPieces({ longestPiece }: TaskLayout): number {
    const { concurrentPieceCount } = this.#options;
    if (!this.#source.speaksApi) return concurrentPieceCount;
    return Math.min(
      concurrentPieceCount,
      Math.max(1, Math.floor(MAX_IN_FLIGHT_MESSAGE_BYTES / longestPiece)),
    );
  }

  /** Creates the scheduler with the timeouts of this download. */
  #createScheduler(layout: TaskLayout, maxPieces: number): Scheduler {
    const { pieceTimeout, stallTimeout, patience } = this.#options;
    return new Scheduler({
      first: layout.first,
      last: layout.last,
      lengthOf: (number) => layout.extent(number).length,
      concurrentPieceCount: maxPieces,
      pieceTimeout,
      stallThreshold: stallTimeout / 4,
      announceTimeout: pieceTimeout,
      patience,
      random: () => this.#random(),
    });
  }

  /** Creates the comparison, which asks parents within the slots of this download. */
  #createComparison(
    { layout, session, scheduler }: Pick<OpenDownload, "layout" | "session" | "scheduler">,
    digest: Digest | undefined,
  ): Comparison {
    return new Comparison({
      layout,
      session,
      hashers: this.#settings.runtime.hashers,
      random: () => this.#random(),
      parents: [...this.#parents.keys()],
      piecesAreMessages: this.#source.speaksApi,
      hasTaskDigest: digest !== undefined,
      isVerifyingResumed: () => this.#isVerifyingResumed,
      signal: this.#ending.signal,
      ask: (parent, number, last) => this.#askAboutPiece(scheduler, parent, number, last),
      isUnavailable: (parent) => !scheduler.routesOf(parent).some(({ isUsable }) => isUsable),
      mayHave: (parent, number, last) => this.#mayAskAbout(scheduler, parent, number, last),
      takeSlot: (parent) => this.#shared.slots.take(parent, this.#slotHolder),
      releaseSlot: (parent) => this.#shared.slots.release(parent, this.#slotHolder),
      onChange: () => this.#wake(),
      onDisagreement: (parent, error) => this.#onDisagreement(parent, error),
    });
  }

  /** Creates the transfers, which report to the slots, the statistics and the store. */
  #createTransfers(
    { layout, session, scheduler }: Pick<OpenDownload, "layout" | "session" | "scheduler">,
    comparison: Comparison,
  ): PieceTransfers {
    return new PieceTransfers({
      layout,
      session,
      scheduler,
      hashers: this.#settings.runtime.hashers,
      clock: this.#clock,
      limiters: this.#limiters,
      signal: this.#ending.signal,
      comparison,
      fetchPiece: ({ parent, protocol, number }, ended) =>
        this.#fetchPiece(parent, protocol, number, ended),
      onReceived: ({ id, parent }) => {
        this.#slotReleased.add(id);
        this.#shared.slots.release(parent, this.#slotHolder);
      },
      onBytes: (bytes, at) => this.#stats.addBytes(bytes, at),
      onProgress: () => this.#reportProgress(),
      onCommitted: (piece, parent, sequence, costSeconds) =>
        this.#onPieceDone(piece, parent, sequence, costSeconds),
      onRouteRestored: (attempt) => this.#reportRestored(attempt),
      onSinkFailure: (error) => this.#onSinkFailure(error),
    });
  }

  /** Creates the window of pieces in flight under a rate limit; undefined without a limit. */
  #createPieceWindow(layout: TaskLayout, maxPieces: number): PieceWindow | undefined {
    const limiters = this.#limiters;
    if (limiters.length === 0) return undefined;
    return new PieceWindow({
      limiters,
      pieceLength: layout.longestPiece,
      passTimeMs: this.#options.stallTimeout / 2,
      maxPieces,
      now: this.#clock.now(),
    });
  }

  /** Creates the hasher of a round. */
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
      onFailure: (error) => this.#onSinkFailure(error),
    });
  }

  /** Fetches and verifies all pieces, in as many rounds as necessary, and completes the sink. */
  async #transferAll(open: OpenDownload): Promise<void> {
    const { layout, scheduler, session } = open;
    const resumed = resumedPieces(open);
    for (const { number } of resumed) scheduler.beginVerification(number);
    for (const parent of this.#parents.values()) {
      const isFollowed = this.#discovery.isFollowed(parent);
      const protocols = this.#source.protocolsOf?.(parent.addresses ?? parent.addr) ?? [undefined];
      const routes = protocols.map((protocol) =>
        scheduler.addRoute({ parent: parent.name, protocol }, isFollowed),
      );
      this.#stats.setLeftOutProtocols(
        parent.name,
        this.#source.leftOut?.(parent.addresses ?? parent.addr) ?? [],
      );
      if (isFollowed) this.#track(this.#discovery.follow(layout, parent, routes));
    }
    let round = this.#nextRound();
    this.#emit({
      type: "started",
      totalBytes: layout.length,
      totalPieces: layout.wantedCount,
      resumedPieces: resumed.length,
    });
    this.#isVerifyingResumed = resumed.length > 0;
    this.#track(this.#verifyResumed(open, resumed));
    this.#finishIfDone();
    this.#wake();
    let mismatch: VortexError | undefined;
    for (;;) {
      const unavailable = await round;
      if (this.#ending.signal.aborted) throw this.#ending.signal.reason;
      const wrongDigest = unavailable === undefined ? this.#taskMismatch() : undefined;
      const failure = unavailable ?? wrongDigest;
      if (failure === undefined) break;
      // A wrong digest explains more than a piece missing in a later round.
      mismatch ??= wrongDigest;
      round = this.#nextRound();
      if (await this.#startNextRound(failure, wrongDigest !== undefined)) continue;
      // It is unknown which of the pieces is wrong, so none is kept.
      this.#discardOnAbort = mismatch !== undefined;
      throw mismatch ?? failure;
    }
    await session.finish();
    this.store.complete(open.digest && formatDigest(open.digest));
    // Nothing can fail any more; stops following the announcements of parents.
    this.#ending.abort(new VortexError("Closed", "the download is done"));
  }

  // --- rounds

  /**
   * Begins a round. Resolves when it ends: with undefined if all pieces are stored, otherwise with
   * the reason why some are unavailable.
   */
  #nextRound(): Promise<VortexError | undefined> {
    return new Promise((resolve) => {
      this.#endRound = resolve;
      if (this.#ending.signal.aborted) resolve(this.#ending.signal.reason as VortexError);
    });
  }

  /**
   * Returns the error for a wrong digest of the whole, after all pieces are stored; undefined if it
   * is right.
   */
  #taskMismatch(): VortexError | undefined {
    try {
      this.#opened?.hasher.verify();
      return undefined;
    } catch (error) {
      return VortexError.from(error, "Internal");
    }
  }

  /**
   * Starts a round with other parents, if the digest of the whole is known. Returns false if no
   * other parents are left to try, or the sink cannot drop pieces.
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

  /**
   * Handles a parent whose content contradicts that of the others. Without a digest of the whole it
   * is unknown which is right, so the download fails.
   */
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

  // --- pieces of an earlier download

  /** Verifies the resumed pieces and counts the intact ones. */
  async #verifyResumed(
    { layout, session, scheduler, comparison }: OpenDownload,
    resumed: readonly SinkPiece[],
  ): Promise<void> {
    const { signal } = this.#ending;
    const { hashers } = this.#settings.runtime;
    const order = new Map(
      session.resumed.map(({ number }, index) => [number, index - session.resumed.length]),
    );
    for (const [index, piece] of resumed.entries()) {
      const intact = await isIntact(piece, { layout, session, hashers, signal });
      if (signal.aborted) return;
      scheduler.endVerification(piece.number, intact);
      if (intact) {
        this.#onPieceDone(piece, undefined, order.get(piece.number) ?? -1, 0);
      } else {
        this.#emit({ type: "piece-damaged", number: piece.number });
      }
      if (index + 1 === Math.min(VERIFIED_FIRST_PIECES, resumed.length)) {
        this.#isVerifyingResumed = false;
        comparison.wake();
      }
      // Also after an intact piece: the last one may show that the remaining pieces are
      // unavailable.
      this.#wake();
    }
  }

  // --- pieces

  /** Schedules a step; repeated calls are coalesced into one. */
  #wake(): void {
    if (this.#isStepScheduled) return;
    this.#isStepScheduled = true;
    queueMicrotask(() => {
      this.#isStepScheduled = false;
      this.#step();
    });
  }

  /** Advances the comparison and the scheduler, and starts the attempts that they ask for. */
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

  /** True if no attempt may be started. */
  get #isSuspended(): boolean {
    return this.#isFinishing || this.#isChangingRound || this.#ending.signal.aborted;
  }

  /** Runs an attempt, and handles its failure. */
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

  /** Requests a piece from a parent, within the telemetry operation of the download. */
  async #fetchPiece(
    name: string,
    protocol: Protocol | undefined,
    number: number,
    signal: AbortSignal,
    stallTimeout: number = this.#options.stallTimeout,
  ): Promise<Piece> {
    const address = addressOf(this.#parents.get(name));
    if (address === undefined)
      throw new VortexError(
        "Internal",
        `requesting a piece from ${name}: it has not announced an address`,
      );
    const target =
      typeof address === "string" ? { addr: address } : { addr: name, addresses: address };
    const { hostId, taskId, kind = "standard" } = this.#request;
    const { pieceTimeout } = this.#options;
    const fetch = (): Promise<Piece> =>
      this.#source.fetchPiece(
        { ...target, ...(protocol && { protocol }), hostId, taskId, kind, number },
        { pieceTimeout, stallTimeout, unreadTimeout: UNREAD_TIMEOUT_MS, signal },
      );
    return this.#operation === undefined ? fetch() : this.#operation.run(fetch);
  }

  /**
   * Asks a parent about a piece that is already stored. The final question delays the end of the
   * task, so it gets only a quarter of the stall timeout. An attempt is hedged after the same time.
   */
  #askAboutPiece(
    scheduler: Scheduler,
    parent: string,
    number: number,
    last: boolean,
  ): Promise<Piece> {
    const route = scheduler.routesOf(parent).find(({ isUsable }) => isUsable);
    const { stallTimeout } = this.#options;
    const timeout = last ? Math.ceil(stallTimeout / 4) : stallTimeout;
    return this.#fetchPiece(parent, route?.protocol, number, this.#ending.signal, timeout);
  }

  /**
   * Returns true if a parent may be asked about a piece. The final question also goes to a parent
   * that has not announced its pieces yet.
   */
  #mayAskAbout(scheduler: Scheduler, parent: string, number: number, last: boolean): boolean {
    if (addressOf(this.#parents.get(parent)) === undefined) return false;
    const routes = scheduler.routesOf(parent).filter(({ isUsable }) => isUsable);
    return routes.some((route) => route.mayHave(number) || (last && route.mayAnnounceMore));
  }

  /** Handles a failed attempt: ends the download, or reports the failure to the scheduler. */
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
    const wasLeftOut = state.isLeftOut;
    const ended = scheduler.failed(id, failure, decision, this.#clock.now());
    for (const attempt of ended) this.#opened?.transfers.end(attempt);
    if (state.isLeftOut && !wasLeftOut) this.#reportLeftOut(scheduler, state);
  }

  /** Leaves out all routes of a parent that does not have the task, or has different content. */
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

  /** Returns a parent to regular use that was left out as useless. */
  #restoreParent(parent: string): void {
    const routes =
      this.#opened?.scheduler.routesOf(parent).filter(({ leftOut }) => leftOut === "useless") ?? [];
    for (const route of routes) route.restore();
    if (routes.length > 0) this.#reportRestored({ parent });
  }

  /** Reports that a left-out parent delivers or announces pieces again. */
  #reportRestored({
    parent,
    protocol,
  }: {
    readonly parent: string;
    readonly protocol?: Protocol | undefined;
  }): void {
    this.#emit({ type: "parent-back", parent, ...(protocol && { protocol }) });
  }

  /** Reports a route that was left out; with the last route of a parent, the parent itself. */
  #reportLeftOut(scheduler: Scheduler, { parent, protocol, reasons }: RouteState): void {
    const routes = scheduler.routesOf(parent);
    if (protocol !== undefined && routes.some(({ isLeftOut }) => !isLeftOut)) {
      this.#emit({ type: "protocol-left-out", parent, protocol, reasons: [...reasons] });
    } else {
      this.#emit({ type: "parent-left-out", parent, reasons: reasonsOf(routes) });
    }
  }

  /** Counts a committed piece. `parent` is undefined for a piece of an earlier download. */
  #onPieceDone(
    piece: SinkPiece,
    parent: string | undefined,
    sequence: number,
    costSeconds: number,
  ): void {
    if (this.#opened === undefined) return;
    this.#opened.comparison.hold(piece, parent ?? earlierSource(piece.source), sequence);
    const bytes = this.#addPiece(piece, parent === undefined, costSeconds);
    this.#emit({ type: "piece", number: piece.number, bytes, parent });
    this.#finishIfDone();
  }

  /** Adds a piece to the statistics, the store and the hasher. Returns its length in bytes. */
  #addPiece(piece: SinkPiece, resumed: boolean, costSeconds: number): number {
    const { length = 0 } = this.#opened?.layout.part(piece.number) ?? {};
    this.#stats.addPiece(length, resumed);
    this.store.add(piece, costSeconds);
    this.#opened?.hasher.add(piece.number, piece.crc32);
    return length;
  }

  /** Ends the round once all pieces are stored, hashed and compared. */
  #finishIfDone(): void {
    const open = this.#opened;
    if (open === undefined || this.#isSuspended) return;
    const { layout, hasher, comparison } = open;
    if (this.#stats.pieces < layout.wantedCount || hasher.next <= layout.last) return;
    if (!comparison.finish()) return;
    this.#isFinishing = true;
    this.#endRound(undefined);
  }

  // --- events and reports

  /** Passes an event to the listener of the caller. */
  #emit(event: TaskEvent): void {
    this.#callListener(() => this.#options.onEvent?.(event));
  }

  /**
   * Passes the progress to the listener of the caller, at most every 100 ms unless `always` is set.
   */
  #reportProgress(always = false): void {
    if (this.#options.onProgress === undefined) return;
    const now = this.#clock.now();
    if (!always && now - this.#progressAt < PROGRESS_INTERVAL_MS) return;
    this.#progressAt = now;
    this.#callListener(() => this.#options.onProgress?.(this.progress()));
  }

  /**
   * Calls a listener of the caller. An exception ends the download, since listeners are part of its
   * contract.
   */
  #callListener(listener: () => void): void {
    try {
      listener();
    } catch (error) {
      this.end(new VortexError("Aborted", "a listener of the download threw", { cause: error }));
    }
  }

  // --- helpers

  /** Returns a random number from 0 to 1. */
  #random(): number {
    const [byte = 0, next = 0] = this.#settings.runtime.random(new Uint8Array(2));
    return (byte * 256 + next) / 65536;
  }

  /**
   * Adds a promise to those that must settle before the sink is closed. Its rejection ends the
   * download.
   */
  #track(task: Promise<unknown>): void {
    const tracked = task
      .catch((error: unknown) => this.end(VortexError.from(error, "Internal")))
      .finally(() => this.#background.delete(tracked));
    this.#background.add(tracked);
  }
}

/**
 * Fills in the defaults and checks the ranges.
 * @throws `InvalidArgument`
 */
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

/** Returns the address of a parent for piece requests; undefined if it is not known yet. */
function addressOf(parent: Parent | undefined): PeerAddress | undefined {
  return parent?.addresses ?? parent?.addr ?? parent?.announcedAddr;
}

/** Formats a digest as `algorithm:encoded`. */
function formatDigest({ algorithm, encoded }: Digest): string {
  return `${algorithm}:${encoded}`;
}
