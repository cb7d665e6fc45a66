import { type Digest, parseDigest } from "../digest/digest.ts";
import { abortedError, VortexError, withAddress } from "../errors.ts";
import { notify } from "../notify.ts";
import { onAbort } from "../on-abort.ts";
import type { Piece } from "../piece.ts";
import { RateLimiter } from "../rate-limiter.ts";
import type { Resolved } from "../resolved.ts";
import type { Clock, Timer } from "../runtime.ts";
import { beginOperation, type Operation } from "../telemetry.ts";
import type { Protocol } from "../transport/protocol.ts";
import { earlierSource } from "./agreement.ts";
import { Comparison } from "./comparison.ts";
import { ContiguousHasher } from "./contiguous-hasher.ts";
import { TaskLayout } from "./layout.ts";
import { openSink } from "./open-sink.ts";
import { addressOf, type Parent, ParentDiscovery } from "./parent-discovery.ts";
import { parentsOf } from "./parents.ts";
import { PieceTransfers, type TransferTiming } from "./piece-transfers.ts";
import { PieceWindow } from "./piece-window.ts";
import { isIntact, resumedPieces } from "./resumed-pieces.ts";
import { retryDecision } from "./retry-decision.ts";
import { RoundPlanner } from "./round-planner.ts";
import { type RouteState, reasonsOf } from "./route.ts";
import { type Attempt, Scheduler } from "./scheduler.ts";
import type { SinkPiece, SinkSession, TaskSink } from "./sink.ts";
import type { SlotHolder } from "./slots.ts";
import type { SharedLimits, TaskSettings, TaskSource } from "./source.ts";
import { TaskStore } from "./store.ts";
import type { TaskDownloadOptions, TaskEvent, TaskProgress, TaskReport, Verified } from "./task.ts";
import { TransferStats } from "./transfer-stats.ts";

/**
 * Maximum number of bytes in flight if each piece is one gRPC message. A received message is
 * briefly held in memory twice. The flow-control windows of HTTP/2 also allow no more bytes in
 * flight.
 */
const MAX_IN_FLIGHT_MESSAGE_BYTES = 16 * 1024 * 1024;
/**
 * Maximum time in ms between two reads of the content of a piece: 30 days. The value is high since
 * a local rate limit or a slow sink may delay reads for any time. The download itself cancels
 * pieces that it no longer needs.
 */
const UNREAD_TIMEOUT_MS = 30 * 24 * 3600 * 1000;
/** Minimum interval between two calls of the caller's `onProgress`, in ms. */
const PROGRESS_INTERVAL_MS = 100;

/**
 * Number of pieces of an earlier download that are verified before any piece from a parent is
 * committed. Parents are compared with these pieces.
 */
const VERIFIED_FIRST_PIECES = 3;

/** Timing of a piece that an earlier download stored. */
const NOT_TRANSFERRED: TransferTiming = { cost: 0, startedAt: undefined };

/** Parts of a download that exist while its sink is open. */
interface OpenDownload {
  /** Layout of the task. */
  readonly layout: TaskLayout;
  /** Digest of the whole content, from the caller or the parents; undefined if unknown. */
  readonly digest: Digest | undefined;
  /** Session of the sink that the pieces are written to. */
  readonly session: SinkSession;
  /** Decides which piece is requested from which parent, and when. */
  readonly scheduler: Scheduler;
  /** Transfers the pieces to the sink. */
  readonly transfers: PieceTransfers;
  /** Limits the number of pieces in flight under a rate limit; undefined without a rate limit. */
  readonly pieceWindow: PieceWindow | undefined;
  /** Compares the content of the parents with each other. */
  readonly comparison: Comparison;
  /** Hashes the content of the current round, starting at its first byte. */
  readonly hasher: ContiguousHasher;
}

/** Options of a {@link Download}, which writes to a sink. */
export interface DownloadOptions extends TaskDownloadOptions {
  readonly to: TaskSink;
}

/** {@link DownloadOptions} with every default filled in. */
type ResolvedOptions = DownloadOptions &
  Resolved<
    Pick<
      DownloadOptions,
      "hostId" | "kind" | "concurrentPieceCount" | "pieceTimeout" | "stallTimeout" | "patience"
    >
  >;

/**
 * Download of one task from its parents to a sink. It connects these parts:
 *
 * - {@link ParentDiscovery} requests the layout from the parents, and receives their announcements
 *   of pieces.
 * - {@link Scheduler} decides which piece is requested from which parent, and when.
 * - {@link PieceTransfers} transfers the pieces, verifies them and writes them to the sink.
 * - {@link Comparison} compares parents with each other, so that different contents are not mixed.
 * - {@link ContiguousHasher} hashes the whole content.
 * - {@link RoundPlanner} selects other parents after a round whose content had the wrong digest.
 *
 * The method `#run` runs all phases of a download: request the layout, open the sink, transfer all
 * pieces in one or more rounds, and report. A round is one pass over all requested pieces with one
 * set of parents.
 *
 * After a failed round, the next round uses other parents, if the digest of the whole content is
 * known. Any other failure ends the download in `#close`.
 */
export class Download {
  /** Resolves with the report of the successful download, or rejects with its error. */
  readonly done: Promise<TaskReport>;
  /** Store that serves the verified pieces to other peers during the download. */
  readonly store: TaskStore;
  /** Options of the caller, with every default filled in. */
  readonly #options: ResolvedOptions;
  /** Transport that fetches pieces from parents. */
  readonly #source: TaskSource;
  /** Settings of the downloader. */
  readonly #settings: TaskSettings;
  /** Limits that all downloads of the downloader share. */
  readonly #shared: SharedLimits;
  /** Clock and timers of the runtime. */
  readonly #clock: Clock;
  /** Parents by name, in the order of the request. */
  readonly #parents: ReadonlyMap<string, Parent>;
  /** Requests the layout and the announcements of pieces from the parents. */
  readonly #discovery: ParentDiscovery;
  /** Rate limiters of this download and of the downloader, as far as limits are set. */
  readonly #limiters: readonly RateLimiter[];
  /** Telemetry operation of the download; undefined without telemetry. */
  readonly #operation: Operation | undefined;
  /** Counters for progress and report. */
  readonly #stats: TransferStats;
  /**
   * Aborts everything in progress when the download ends. Its abort reason is the error of the
   * download.
   */
  readonly #ending = new AbortController();
  /** Aborts the completion of the sink, if the download is ended meanwhile. */
  readonly #finishing = new AbortController();
  /** Promises that must settle before the sink is closed. */
  readonly #background = new Set<Promise<unknown>>();
  /**
   * Represents this download in the limit of concurrent requests per parent. Schedules a step when
   * another request to a parent may be allowed.
   */
  readonly #slotHolder: SlotHolder = { onSlot: () => this.#wake() };
  /** Selects the parents of each round. */
  readonly #rounds: RoundPlanner;
  /**
   * IDs of attempts that no longer count as a concurrent request to their parent, since all bytes
   * have arrived.
   */
  readonly #slotReleased = new Set<number>();
  /** Promises of the attempts in flight. */
  readonly #attempts = new Set<Promise<void>>();
  /** Parts that exist once the sink is open; undefined before. */
  #opened: OpenDownload | undefined;
  /** Timer of the next step; undefined if no step has a fixed time. */
  #timer: Timer | undefined;
  /** True while a step is queued as a microtask. */
  #isStepScheduled = false;
  /** True between `pause` and `resume`. */
  #isPaused = false;
  /** True once all pieces of the current pass over the pieces are stored, hashed and compared. */
  #isFinishing = false;
  /**
   * True if the committed pieces are known to contain wrong content, so that a failing download
   * deletes them from the sink.
   */
  #discardOnAbort = false;
  /** Time of the last call of the caller's `onProgress`, in ms on the monotonic clock. */
  #progressAt = Number.NEGATIVE_INFINITY;
  /**
   * True during the verification of those pieces of an earlier download that parents are compared
   * with.
   */
  #isVerifyingResumed = false;
  /**
   * True from the failure of a round (pass over all pieces) until the next round starts. No attempt
   * is started meanwhile.
   */
  #isChangingRound = false;
  /**
   * Ends the current round, which is one pass over all pieces. The parameter is undefined if all
   * pieces are stored. Otherwise it is the error that explains why some pieces are unavailable.
   */
  #endRound: (unavailable: VortexError | undefined) => void = () => {};

  /** @throws `InvalidArgument` if an option is invalid */
  constructor(
    options: DownloadOptions,
    source: TaskSource,
    settings: TaskSettings,
    shared: SharedLimits,
  ) {
    const { taskId, kind = "standard", range, digest } = options;
    const { clock } = settings.runtime;
    this.#source = source;
    this.#settings = settings;
    this.#shared = shared;
    this.#clock = clock;
    this.#options = resolveOptions(options, settings);
    const layout = TaskLayout.known({ taskId, kind, range }, options);
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
    const apiDefault = layout !== undefined ? "no" : source.usesGrpc ? "same-address" : "same-host";
    this.#parents = new Map(
      parentsOf(options.parents, apiDefault, (addr) => source.resolve?.(addr) ?? addr).map(
        (parent) => [parent.name, { ...parent }],
      ),
    );
    const ownLimiter =
      options.rateLimit === undefined
        ? undefined
        : new RateLimiter(Number(options.rateLimit), clock);
    this.#limiters = [ownLimiter, shared.limiter].filter((limiter) => limiter !== undefined);
    // Nothing below throws, so the telemetry operation always ends.
    this.#operation = beginOperation(settings.telemetry, {
      name: "download_task",
      role: "client",
      taskId,
      kind,
    });
    this.#discovery = new ParentDiscovery({
      request: this.#options,
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
      onUseless: (parent, banned) => this.#excludeParent(parent, banned),
      onRestored: (parent) => this.#restoreParent(parent),
      onAddress: (parent) => this.#recordExclusions(parent),
    });
    this.#rounds = new RoundPlanner([...this.#parents.keys()]);
    this.#stats = new TransferStats(clock.now());
    this.store = new TaskStore(taskId);
    this.done = this.#run(layout, givenDigest);
    this.done.then(
      ({ bytes }) => this.#operation?.end({ bytes }),
      (error: VortexError) => this.#operation?.end({ error }),
    );
    // The handles of the download report the rejection.
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

  /**
   * Ends the download with an error. Does nothing if the download has already ended: only the first
   * error counts. If all pieces are stored, only a sink that waits for others ends with the error.
   */
  end(error: VortexError): void {
    if (this.#isFinishing) this.#finishing.abort(error);
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

  /**
   * Runs all phases of the download and returns its report.
   *
   * @param known layout from the lengths that the caller gave; undefined to request the lengths
   * from the parents
   * @param digest digest of the whole content given by the caller
   */
  async #run(known: TaskLayout | undefined, digest: Digest | undefined): Promise<TaskReport> {
    const { signal } = this.#options;
    const onCallerAbort = (): void => {
      if (signal !== undefined)
        this.end(abortedError(signal, `the download of task ${this.#options.taskId}`));
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

  /** Returns the report of a successful download. */
  #report({ layout, digest, scheduler, comparison }: OpenDownload): TaskReport {
    const verified: Verified =
      digest === undefined
        ? { level: comparison.complete ? "pieces" : "none" }
        : {
            level: "whole",
            digest: formatDigest(digest),
            by: this.#options.digest === undefined ? "parents" : "caller",
          };
    return this.#stats.report(this.#clock.now(), layout, verified, scheduler.routes);
  }

  /**
   * Cancels everything in progress, waits until it has ended, and then aborts the session of the
   * sink.
   */
  async #close(failure: VortexError): Promise<void> {
    this.#ending.abort(failure);
    this.#opened?.transfers.endAll(failure);
    await Promise.allSettled([...this.#background]);
    await this.#opened?.hasher.stop();
    this.store.fail(failure);
    await this.#opened?.session.abort(failure, { discard: this.#discardOnAbort });
  }

  /**
   * Ends the download with an error of the sink. An error that is not a `VortexError` becomes
   * `StorageFailed`.
   */
  #onSinkFailure(error: unknown): void {
    this.end(VortexError.from(error, "StorageFailed"));
  }

  // --- opening the sink

  /** Opens the sink, and creates the parts of the download that depend on the layout. */
  async #openSink(layout: TaskLayout, digest: Digest | undefined): Promise<OpenDownload> {
    layout.requirePieceLength(this.#settings.maxPieceLength);
    const { signal } = this.#ending;
    if (signal.aborted) throw signal.reason;
    const session = await openSink(this.#options.to, layout, {
      signal,
      digest: digest && formatDigest(digest),
      onLimitIncrease: () => this.#wake(),
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
   * Returns the maximum number of pieces in flight. Over gRPC, each piece is one message in memory,
   * so the number is lower if the pieces are long.
   */
  #maxConcurrentPieces({ longestPiece }: TaskLayout): number {
    const { concurrentPieceCount } = this.#options;
    if (!this.#source.usesGrpc) return concurrentPieceCount;
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

  /**
   * Creates the comparison of the parents. Its requests count towards the limit of concurrent
   * requests per parent.
   */
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
      piecesAreMessages: this.#source.usesGrpc,
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

  /**
   * Creates the transfers of pieces. Their callbacks update the statistics, the store and the
   * number of concurrent requests per parent.
   */
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
      onCommitted: (piece, parent, sequence, timing) =>
        this.#onPieceDone(piece, parent, sequence, timing),
      onRouteRestored: (attempt) => this.#reportRestored(attempt),
      onSinkFailure: (error) => this.#onSinkFailure(error),
    });
  }

  /**
   * Creates the limit of the number of pieces in flight under a rate limit. Returns undefined if no
   * rate limit is set.
   */
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

  /** Creates the hasher of the content for one round, which is one pass over all pieces. */
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

  /**
   * Transfers and verifies all pieces in one or more rounds, then completes the sink and the store.
   */
  async #transferAll(open: OpenDownload): Promise<void> {
    const { layout, scheduler, session } = open;
    const resumed = resumedPieces(open);
    for (const { number } of resumed) scheduler.beginVerification(number);
    for (const parent of this.#parents.values()) {
      const isFollowed = this.#discovery.isFollowed(parent);
      const addr = addressOf(parent);
      const protocols = this.#source.protocolsOf?.(addr, isFollowed) ?? [undefined];
      const routes = protocols.map((protocol) =>
        scheduler.addRoute({ parent: parent.name, protocol }, isFollowed),
      );
      this.#recordExclusions(parent);
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
      // If a later round fails because of a missing piece, the earlier error about the wrong digest
      // is reported.
      mismatch ??= wrongDigest;
      round = this.#nextRound();
      if (await this.#startNextRound(failure, wrongDigest !== undefined)) continue;
      // With a wrong digest of the whole content, any piece may be wrong, so no piece is kept.
      this.#discardOnAbort = mismatch !== undefined;
      throw mismatch ?? failure;
    }
    await session.finish({ signal: this.#finishing.signal });
    this.store.complete(open.digest && formatDigest(open.digest));
    // The download can no longer fail. Stop receiving announcements from the parents.
    this.#ending.abort(new VortexError("Closed", "the download is done"));
  }

  /** Records for the report which protocols are not used with a parent. */
  #recordExclusions(parent: Parent): void {
    const excluded = this.#source.excluded?.(addressOf(parent)) ?? [];
    this.#stats.setExcludedProtocols(parent.name, excluded);
  }

  // --- rounds

  /**
   * Begins a round, which is one pass over all pieces. The promise resolves when the round ends:
   * with undefined if all pieces are stored, or with the error that explains why some pieces are
   * unavailable.
   */
  #nextRound(): Promise<VortexError | undefined> {
    return new Promise((resolve) => {
      this.#endRound = resolve;
      if (this.#ending.signal.aborted) resolve(this.#ending.signal.reason as VortexError);
    });
  }

  /**
   * Verifies the digest of the whole content, after all pieces are stored. Returns undefined if the
   * digest is right or unknown, otherwise the error.
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
   * Fetches missing and dropped pieces again from other parents, in a new round. Returns false if
   * the digest of the whole content is unknown or all sets of parents were tried. Also returns
   * false if the sink cannot drop pieces.
   *
   * @param failure error of the failed round
   * @param isMismatch true if the content of the failed round had the wrong digest
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
    this.#emit({ type: "restarted", parents, error: failure });
    this.#isChangingRound = false;
    // The download was ended while the old content was being completed.
    if (this.#finishing.signal.aborted) this.end(this.#finishing.signal.reason as VortexError);
    this.#finishIfDone();
    this.#wake();
    return true;
  }

  /**
   * Handles a parent whose content contradicts that of other parents. If the digest of the whole
   * content is known, the parent is excluded from the current pass over the pieces. Otherwise the
   * download fails, since it is unknown which content is right.
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
    this.#emit({ type: "parent-excluded", parent, reasons: reasonsOf(scheduler.routesOf(parent)) });
    this.#wake();
  }

  // --- pieces of an earlier download

  /**
   * Verifies the pieces of an earlier download. Counts the intact pieces as stored, and queues the
   * damaged pieces to be fetched again.
   */
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
        this.#onPieceDone(piece, undefined, order.get(piece.number) ?? -1, NOT_TRANSFERRED);
      } else {
        this.#emit({ type: "piece-damaged", number: piece.number });
      }
      if (index + 1 === Math.min(VERIFIED_FIRST_PIECES, resumed.length)) {
        this.#isVerifyingResumed = false;
        comparison.wake();
      }
      // A step is also necessary after an intact piece. After the last one, the scheduler may find
      // that the remaining pieces are unavailable.
      this.#wake();
    }
  }

  // --- pieces

  /** Schedules a step as a microtask. Repeated calls before the step have no effect. */
  #wake(): void {
    if (this.#isStepScheduled) return;
    this.#isStepScheduled = true;
    queueMicrotask(() => {
      this.#isStepScheduled = false;
      this.#step();
    });
  }

  /**
   * Sends due comparison requests to parents, starts the attempts that the scheduler returns, and
   * sets the timer of the next step.
   */
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
      takeSlot: (parent, hedged) => this.#takeSlot(open, parent, hedged),
      ...(pieceWindow && { maxPieces: pieceWindow.size(now) }),
    });
    for (const attempt of starts) {
      if (attempt.isHedge)
        this.#emit({ type: "hedged", number: attempt.number, parent: attempt.parent });
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

  /**
   * Reserves one of the limited concurrent requests to a parent. Returns false if the limit is
   * reached, or if another request to the parent must be announced first. The latter may be hedged
   * over another route of the same parent.
   */
  #takeSlot(open: OpenDownload, parent: string, hedged: Attempt | undefined): boolean {
    const { scheduler, comparison } = open;
    if (comparison.mustAnnounceFirst(parent)) {
      for (const attempt of scheduler.attempts)
        if (attempt.parent === parent && attempt !== hedged) return false;
    }
    return this.#shared.slots.take(parent, this.#slotHolder);
  }

  /**
   * True if no attempt may be started: all pieces are stored, the current round has failed, or the
   * download has ended.
   */
  get #isSuspended(): boolean {
    return this.#isFinishing || this.#isChangingRound || this.#ending.signal.aborted;
  }

  /** Runs an attempt to its end. If it fails, handles its error. */
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

  /**
   * Requests a piece from a parent, as part of the telemetry operation of the download.
   *
   * @param name name of the parent
   * @param protocol protocol to use; undefined if the transport chooses it
   * @param stallTimeout maximum silence of the parent, in ms
   */
  async #fetchPiece(
    name: string,
    protocol: Protocol | undefined,
    number: number,
    signal: AbortSignal,
    stallTimeout: number = this.#options.stallTimeout,
  ): Promise<Piece> {
    const parent = this.#parents.get(name);
    const address = parent && addressOf(parent);
    if (address === undefined)
      throw new VortexError(
        "Internal",
        `requesting a piece from ${name}: it has not announced an address`,
      );
    const target =
      typeof address === "string" ? { addr: address } : { addr: name, addresses: address };
    const { hostId, taskId, kind, pieceTimeout, unverifiedPieces } = this.#options;
    const policy = unverifiedPieces === undefined ? {} : { unverifiedPieces };
    const fetch = (): Promise<Piece> =>
      this.#source.fetchPiece(
        { ...target, ...(protocol && { protocol }), ...policy, hostId, taskId, kind, number },
        { pieceTimeout, stallTimeout, unreadTimeout: UNREAD_TIMEOUT_MS, signal },
      );
    return this.#operation === undefined ? fetch() : this.#operation.run(fetch);
  }

  /**
   * Returns the address at which pieces are requested from a parent, or the name of the parent if
   * the transport chooses the address.
   */
  #dialledAddress(name: string, protocol: Protocol | undefined): string {
    const parent = this.#parents.get(name);
    const address = parent && addressOf(parent);
    if (typeof address === "string") return address;
    return (protocol && address?.[protocol]) ?? name;
  }

  /**
   * Requests a piece that is already in the sink from a parent, to compare the announced digest.
   * The maximum silence of the parent is the stall timeout.
   *
   * If `last` is true, it is a quarter of the stall timeout, since the end of the download waits
   * for the response. An attempt at a piece is hedged after the same time.
   */
  #askAboutPiece(
    scheduler: Scheduler,
    parent: string,
    number: number,
    last: boolean,
  ): Promise<Piece> {
    const route = scheduler.bestRouteOf(parent, number, this.#clock.now());
    const { stallTimeout } = this.#options;
    const timeout = last ? Math.ceil(stallTimeout / 4) : stallTimeout;
    return this.#fetchPiece(parent, route?.protocol, number, this.#ending.signal, timeout);
  }

  /**
   * Returns true if a parent may be asked for a piece to compare its digest. If `last` is true,
   * this includes a parent that may still announce the piece.
   */
  #mayAskAbout(scheduler: Scheduler, parent: string, number: number, last: boolean): boolean {
    const known = this.#parents.get(parent);
    if (known === undefined || addressOf(known) === undefined) return false;
    const routes = scheduler.routesOf(parent).filter(({ isUsable }) => isUsable);
    return routes.some((route) => route.mayHave(number) || (last && route.mayAnnounceMore));
  }

  /**
   * Handles a failed attempt. An error that no other parent can avoid ends the download. Any other
   * error is reported to the scheduler, which may stop using the parent.
   */
  #onAttemptFailed(
    scheduler: Scheduler,
    { id, number, routeId, parent, protocol }: Attempt,
    error: unknown,
  ): void {
    const failure = withAddress(error, this.#dialledAddress(parent, protocol));
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
    const wasExcluded = state.isExcluded;
    const ended = scheduler.failed(id, failure, decision, this.#clock.now());
    for (const attempt of ended) this.#opened?.transfers.end(attempt);
    if (state.isExcluded && !wasExcluded) this.#reportExclusion(scheduler, state);
  }

  /**
   * Excludes all routes of a parent from regular use.
   *
   * @param banned true if the parent has different content, so that it is never used again. With
   * false, the parent does not have the task and is retried every 30 s.
   */
  #excludeParent(parent: string, banned: boolean): void {
    if (this.#opened === undefined) return;
    const { scheduler, transfers } = this.#opened;
    const [route, ...others] = scheduler.routesOf(parent).filter(({ isExcluded }) => !isExcluded);
    if (route === undefined) return;
    for (const { id } of [route, ...others]) {
      const as = banned ? "banned" : "useless";
      for (const attempt of scheduler.exclude(id, as, this.#clock.now())) transfers.end(attempt);
    }
    this.#reportExclusion(scheduler, route);
  }

  /** Uses a parent regularly again, which was excluded because it did not have the task. */
  #restoreParent(parent: string): void {
    const routes =
      this.#opened?.scheduler.routesOf(parent).filter(({ exclusion }) => exclusion === "useless") ??
      [];
    for (const route of routes) route.restore();
    if (routes.length > 0) this.#reportRestored({ parent });
  }

  /** Emits the event that an excluded parent delivers or announces pieces again. */
  #reportRestored({
    parent,
    protocol,
  }: {
    readonly parent: string;
    readonly protocol?: Protocol | undefined;
  }): void {
    this.#emit({ type: "parent-restored", parent, ...(protocol && { protocol }) });
  }

  /**
   * Emits the event that a route was excluded. If the parent has no other route in regular use, the
   * event reports the parent instead.
   */
  #reportExclusion(scheduler: Scheduler, { parent, protocol, reasons }: RouteState): void {
    const routes = scheduler.routesOf(parent);
    if (protocol !== undefined && routes.some(({ isExcluded }) => !isExcluded)) {
      this.#emit({ type: "protocol-excluded", parent, protocol, reasons: [...reasons] });
    } else {
      this.#emit({ type: "parent-excluded", parent, reasons: reasonsOf(routes) });
    }
  }

  /**
   * Records a stored and verified piece.
   *
   * @param parent parent that delivered the piece; undefined for a piece of an earlier download
   * @param sequence sequence number of the announcement of the piece
   * @param timing start and duration of the transfer
   */
  #onPieceDone(
    piece: SinkPiece,
    parent: string | undefined,
    sequence: number,
    { cost, startedAt }: TransferTiming,
  ): void {
    if (this.#opened === undefined) return;
    const { comparison, layout } = this.#opened;
    comparison.hold(piece, parent ?? earlierSource(piece.source), sequence);
    const bytes = this.#addPiece(piece, parent === undefined, cost / 1000);
    const { number, digest } = piece;
    const { offset, length } = layout.extent(number);
    this.#emit({ type: "piece", number, bytes, parent, offset, length, digest, cost, startedAt });
    this.#finishIfDone();
  }

  /**
   * Adds a stored piece to the statistics, the store and the hasher. Returns the length of its
   * requested part in bytes.
   *
   * @param resumed true for a piece of an earlier download
   * @param costSeconds duration of the transfer in seconds
   */
  #addPiece(piece: SinkPiece, resumed: boolean, costSeconds: number): number {
    const { length = 0 } = this.#opened?.layout.part(piece.number) ?? {};
    this.#stats.addPiece(length, resumed);
    this.store.add(piece, costSeconds);
    this.#opened?.hasher.add(piece.number, piece.crc32);
    return length;
  }

  /** Ends the current round with success if all pieces are stored, hashed and compared. */
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

  /** Passes an event to the caller's `onEvent`. */
  #emit(event: TaskEvent): void {
    notify(() => this.#options.onEvent?.(event));
  }

  /**
   * Passes the progress to the caller's `onProgress`, at most every 100 ms. If `always` is true,
   * the progress is passed regardless of the interval.
   */
  #reportProgress(always = false): void {
    if (this.#options.onProgress === undefined) return;
    const now = this.#clock.now();
    if (!always && now - this.#progressAt < PROGRESS_INTERVAL_MS) return;
    this.#progressAt = now;
    const { onProgress } = this.#options;
    const progress = this.progress();
    notify(() => onProgress?.(progress));
  }

  // --- helpers

  /** Returns a random number from 0 to 1. */
  #random(): number {
    const [byte = 0, next = 0] = this.#settings.runtime.random(new Uint8Array(2));
    return (byte * 256 + next) / 65536;
  }

  /**
   * Adds a promise to those that must settle before the sink is closed. If the promise rejects, the
   * download ends with its error.
   */
  #track(task: Promise<unknown>): void {
    const tracked = task
      .catch((error: unknown) => this.end(VortexError.from(error, "Internal")))
      .finally(() => this.#background.delete(tracked));
    this.#background.add(tracked);
  }
}

/**
 * Fills in the defaults of the options from the settings of the downloader, and checks their
 * ranges.
 *
 * @throws `InvalidArgument` if an option is out of range
 */
function resolveOptions(options: DownloadOptions, settings: TaskSettings): ResolvedOptions {
  const {
    hostId = settings.hostId,
    kind = "standard",
    concurrentPieceCount = settings.concurrentPieceCount,
    pieceTimeout = settings.pieceTimeout,
    stallTimeout = settings.stallTimeout,
    patience = settings.patience,
  } = options;
  return {
    ...options,
    hostId,
    kind,
    concurrentPieceCount,
    pieceTimeout,
    stallTimeout,
    patience,
  };
}

/** Formats a digest as `algorithm:encoded`. */
function formatDigest({ algorithm, encoded }: Digest): string {
  return `${algorithm}:${encoded}`;
}
