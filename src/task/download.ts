import { type Digest, parseDigest } from "../digest/digest.ts";
import { abortedError, VortexError, withAddress } from "../errors.ts";
import { type Piece, requireInteger } from "../piece.ts";
import { RateLimiter } from "../rate-limiter.ts";
import type { Clock, Timer } from "../runtime.ts";
import { beginOperation, type Operation } from "../telemetry.ts";
import type { TaskOutline } from "./discovery.ts";
import { Frontier } from "./frontier.ts";
import { TaskLayout } from "./layout.ts";
import { Meter } from "./meter.ts";
import { type KnownParent, parentsOf } from "./parents.ts";
import { PieceCheck, requireDigest, requirePlace, requireSameTask } from "./piece-check.ts";
import { type AttemptWrite, PieceWrite } from "./piece-write.ts";
import { MOST_FAILURES, pauseAfter, type RouteState } from "./route.ts";
import { type Attempt, Scheduler } from "./scheduler.ts";
import type { SinkSession, SunkPiece } from "./sink.ts";
import type { SlotHolder } from "./slots.ts";
import type { SharedLimits, TaskSettings, TaskSource } from "./source.ts";
import { TaskStore } from "./store.ts";
import type {
  ParentProgress,
  TaskDownload,
  TaskDownloadOptions,
  TaskEvent,
  TaskProgress,
  TaskReport,
  TaskRequest,
} from "./task.ts";
import { verdictOn } from "./verdict.ts";

/** Bytes in one read of what an earlier download left. */
const READ = 1024 * 1024;
/** Milliseconds between two reports of progress. */
const PROGRESS_INTERVAL = 100;

/** A parent, and what is known of where it serves. */
interface Parent extends KnownParent {
  /** What it announced for the protocol in use; pieces of one parent are served at one address. */
  announcedAddr?: string;
}

/** An attempt that is under way. */
interface Fetch {
  readonly attempt: Attempt;
  readonly controller: AbortController;
  readonly startedAt: number;
  /** Wanted bytes that came. */
  bytes: number;
  /** The scheduler counts on it no more: another one was first, or its parent is out. */
  over: boolean;
}

/** The download while its sink is open. */
interface Open {
  readonly layout: TaskLayout;
  readonly digest: Digest | undefined;
  readonly session: SinkSession;
  readonly scheduler: Scheduler;
  readonly frontier: Frontier;
}

/**
 * One task on its way from parents to a sink. It connects the parts: the scheduler says what to ask from whom, `PieceWrite`
 * keeps the attempts at a piece apart, the frontier hashes the whole and tells the sink how far it is.
 */
export class Download implements TaskDownload {
  readonly done: Promise<TaskReport>;
  readonly store: TaskStore;
  readonly #request: TaskRequest;
  readonly #options: TaskDownloadOptions;
  readonly #source: TaskSource;
  readonly #settings: TaskSettings;
  readonly #shared: SharedLimits;
  readonly #clock: Clock;
  readonly #parents: ReadonlyMap<string, Parent>;
  readonly #limiters: readonly RateLimiter[];
  readonly #operation: Operation | undefined;
  readonly #meter: Meter;
  readonly #startedAt: number;
  /** Ends everything that waits; its reason is what the download failed with. */
  readonly #ending = new AbortController();
  readonly #fetches = new Map<number, Fetch>();
  readonly #writes = new Map<number, PieceWrite>();
  /** What has to end before the sink is closed. */
  readonly #tasks = new Set<Promise<unknown>>();
  readonly #holder: SlotHolder = { onSlot: () => this.#wake() };
  /** The answers of the parents, in their order, where they were asked for the layout; and the one that counts. */
  #answers: readonly Promise<TaskOutline>[] | undefined;
  #outline: TaskOutline | undefined;
  #open: Open | undefined;
  #timer: Timer | undefined;
  #stepping = false;
  #paused = false;
  #finishing = false;
  #discard = false;
  #committedPieces = 0;
  #committedBytes = 0;
  #resumedPieces = 0;
  #resumedBytes = 0;
  #progressAt = Number.NEGATIVE_INFINITY;
  #complete: (error: VortexError | undefined) => void = () => {};

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
    this.#options = {
      ...options,
      concurrentPieceCount: options.concurrentPieceCount ?? settings.concurrentPieceCount,
      pieceTimeout: options.pieceTimeout ?? settings.pieceTimeout,
      stallTimeout: options.stallTimeout ?? settings.stallTimeout,
    };
    requireInteger("concurrentPieceCount", this.#concurrentPieceCount, 1, 1024);
    requireInteger("pieceTimeout", this.#timeouts.pieceTimeout, 1, Number.MAX_SAFE_INTEGER);
    requireInteger("stallTimeout", this.#timeouts.stallTimeout, 1, Number.MAX_SAFE_INTEGER);
    const layout = TaskLayout.known({ taskId, kind, range }, request);
    const given = digest === undefined ? undefined : parseDigest(digest);
    if (given !== undefined && range !== undefined) {
      throw new VortexError("InvalidArgument", "digest and range: a digest of the whole cannot be checked over a part");
    }
    if (layout === undefined && source.directory === undefined) {
      throw new VortexError("InvalidArgument", "parents cannot be asked here: expected contentLength, or pieces");
    }
    const ask = layout !== undefined ? "no" : source.speaksApi ? "same-address" : "same-host";
    this.#parents = new Map(parentsOf(request.parents, ask).map((parent) => [parent.name, { ...parent }]));
    const own = options.rateLimit === undefined ? undefined : new RateLimiter(options.rateLimit, clock);
    this.#limiters = [own, shared.limiter].filter((limiter) => limiter !== undefined);
    this.#startedAt = clock.now();
    this.#meter = new Meter(this.#startedAt);
    this.store = new TaskStore(taskId);
    this.#operation = beginOperation(settings.telemetry, { name: "download_task", role: "client", taskId, kind });
    this.done = this.#run(layout, given);
    this.done.then(
      ({ bytes }) => this.#operation?.end({ bytes }),
      (error: VortexError) => this.#operation?.end({ error }),
    );
    // Whoever does not look at `done` looks at the sink.
    this.done.catch(() => {});
  }

  pause(): void {
    this.#paused = true;
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  resume(): void {
    this.#paused = false;
    this.#wake();
  }

  cancel(reason?: unknown): void {
    this.end(
      new VortexError("Aborted", `the download of task ${this.#request.taskId} was cancelled`, { cause: reason }),
    );
  }

  /** Ends the download with an error, unless it has ended. What comes first stands. */
  end(error: VortexError): void {
    if (this.#finishing || this.#ending.signal.aborted) return;
    this.#ending.abort(error);
    this.#complete(error);
  }

  progress(): TaskProgress {
    const now = this.#clock.now();
    const rate = this.#meter.rate(now);
    const layout = this.#open?.layout;
    const underWay = new Map<number, number>();
    for (const { attempt, bytes, over } of this.#fetches.values()) {
      if (!over) underWay.set(attempt.number, Math.max(bytes, underWay.get(attempt.number) ?? 0));
    }
    const bytes = [...underWay.values()].reduce((sum, count) => sum + count, this.#committedBytes);
    const left = layout === undefined ? undefined : layout.length - bytes;
    return {
      bytes,
      totalBytes: layout?.length,
      pieces: this.#committedPieces,
      totalPieces: layout?.wantedCount,
      resumedBytes: this.#resumedBytes,
      rate,
      timeLeft: left === 0 ? 0 : left === undefined || rate === 0 ? undefined : (left * 1000) / rate,
      paused: this.#paused,
      parents: this.#parentProgress(now),
    };
  }

  async #run(known: TaskLayout | undefined, digest: Digest | undefined): Promise<TaskReport> {
    const { signal } = this.#options;
    const onAbort = (): void => {
      if (signal !== undefined) this.end(abortedError(signal, `the download of task ${this.#request.taskId}`));
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    if (signal?.aborted) onAbort();
    try {
      // The caller has the handle before anything happens.
      await undefined;
      const told = known === undefined ? await this.#ask() : { layout: known, digest: undefined };
      const open = await this.#openSink(told.layout, digest ?? told.digest);
      await this.#transferAll(open);
      return this.#report(open);
    } catch (error) {
      const failure = (this.#ending.signal.reason as VortexError | undefined) ?? VortexError.from(error, "Internal");
      await this.#close(failure);
      throw failure;
    } finally {
      signal?.removeEventListener("abort", onAbort);
      this.#timer?.cancel();
      this.#shared.slots.leave(this.#holder);
      this.#tellProgress(true);
    }
  }

  /** Ends whatever is under way, then the sink. */
  async #close(failure: VortexError): Promise<void> {
    this.#ending.abort(failure);
    for (const fetch of this.#fetches.values()) {
      fetch.over = true;
      fetch.controller.abort(failure);
    }
    await Promise.allSettled([...this.#tasks]);
    await this.#open?.frontier.stop();
    this.store.fail(failure);
    await this.#open?.session.abort(failure, { discard: this.#discard });
  }

  // --- where the pieces are

  /** The layout as the first parent tells it. Those who tell another one have another content. */
  async #ask(): Promise<{ readonly layout: TaskLayout; readonly digest: Digest | undefined }> {
    const { taskId, hostId, kind = "standard", range } = this.#request;
    const { directory } = this.#source;
    if (directory === undefined) throw new VortexError("Internal", "a download without a layout or a directory");
    const { signal } = this.#ending;
    const answers = [...this.#parents.values()].map(async (parent) => {
      if (parent.apiAddr === undefined) throw new VortexError("Internal", "a parent without an address to ask");
      try {
        const outline = await directory.stat(parent.apiAddr, taskId, { signal, hostId, kind });
        const layout = TaskLayout.announced({ taskId, kind, range }, outline);
        return { outline, layout, digest: outline.digest === undefined ? undefined : parseDigest(outline.digest) };
      } catch (error) {
        throw withAddress(error, parent.name);
      }
    });
    const known = await Promise.any(answers).catch((error: unknown) => {
      throw error instanceof AggregateError ? noneTold(taskId, error.errors as VortexError[]) : error;
    });
    this.#answers = answers.map((answer) => answer.then(({ outline }) => outline));
    // Those that are not listened to any more may fail unheard.
    for (const answer of this.#answers) answer.catch(() => {});
    this.#outline = known.outline;
    // A digest of the whole says nothing of a part.
    return { layout: known.layout, digest: range === undefined ? known.digest : undefined };
  }

  /** Follows what a parent announces. One that breaks off is asked anew, as often in a row as a piece would be. */
  async #follow(open: Open, parent: Parent, answer: Promise<TaskOutline> | undefined): Promise<void> {
    const route = open.scheduler.route(parent.name);
    const { signal } = this.#ending;
    let failures = 0;
    let known = answer === undefined;
    while (!signal.aborted && !route.out) {
      try {
        const outline = await answer;
        if (outline !== undefined && this.#outline !== undefined) requireSameTask(outline, this.#outline);
        known = true;
        await this.#listen(open, parent, route, () => {
          failures = 0;
        });
        route.endAnnouncements(false);
        break;
      } catch (error) {
        if (signal.aborted) return;
        const failure = withAddress(error, parent.name);
        const verdict = verdictOn(failure);
        route.note(failure);
        if (known && verdict === "again" && ++failures < MOST_FAILURES) {
          await this.#wait(pauseAfter(failures, () => this.#random()));
        } else if (parent.addr !== undefined && (verdict === "again" || failure.code === "RemoteUnimplemented")) {
          // It may serve pieces and not tell of them, so it is asked for all of them.
          route.endAnnouncements(true);
          break;
        } else {
          this.#leaveOut(open.scheduler, route);
        }
      }
    }
    this.#wake();
  }

  async #listen({ layout }: Open, parent: Parent, route: RouteState, onPiece: () => void): Promise<void> {
    const { directory } = this.#source;
    const { taskId, hostId, kind = "standard" } = this.#request;
    if (directory === undefined || parent.apiAddr === undefined) return;
    const { signal } = this.#ending;
    const numbers = Array.from({ length: layout.wantedCount }, (_, index) => layout.first + index);
    for await (const location of directory.sync(parent.apiAddr, taskId, { signal, hostId, kind, numbers })) {
      if (layout.part(location.number) === undefined) continue;
      requirePlace(location, layout);
      const addr = this.#source.speaksApi ? parent.apiAddr : this.#source.addressOf(location);
      if (addr !== undefined) parent.announcedAddr = addr;
      if (parent.addr === undefined && parent.announcedAddr === undefined) continue;
      route.announce(location.number);
      onPiece();
      this.#wake();
    }
  }

  /** Resolves after a time, or when the download ends. */
  #wait(milliseconds: number): Promise<void> {
    const { signal } = this.#ending;
    return new Promise((resolve) => {
      const over = (): void => {
        timer.cancel();
        signal.removeEventListener("abort", over);
        resolve();
      };
      const timer = this.#clock.setTimer(over, milliseconds);
      signal.addEventListener("abort", over, { once: true });
      if (signal.aborted) over();
    });
  }

  // --- the sink

  async #openSink(layout: TaskLayout, digest: Digest | undefined): Promise<Open> {
    if (layout.longestPiece > this.#settings.maxPieceLength) {
      const message = `pieces of ${layout.longestPiece} bytes: the limit is ${this.#settings.maxPieceLength}`;
      throw new VortexError("LimitExceeded", message);
    }
    const { signal } = this.#ending;
    if (signal.aborted) throw signal.reason;
    const session = await this.#options.to.open(layout, {
      signal,
      onRoom: () => this.#wake(),
      onFailure: (error) => this.end(VortexError.from(error, "StorageFailed")),
    });
    const scheduler = new Scheduler({
      first: layout.first,
      last: layout.last,
      lengthOf: (number) => layout.extent(number).length,
      concurrentPieceCount: this.#concurrentPieceCount,
      stallAfter: this.#timeouts.stallTimeout / 4,
      patience: this.#timeouts.pieceTimeout,
      random: () => this.#random(),
    });
    const frontier = new Frontier({
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
    const open: Open = { layout, digest, session, scheduler, frontier };
    this.#open = open;
    this.store.open(layout, session);
    return open;
  }

  async #transferAll(open: Open): Promise<void> {
    const { layout, scheduler, session, frontier } = open;
    const found = new Map(session.found.map((piece) => [piece.number, piece]));
    for (const number of found.keys()) if (layout.part(number) === undefined) found.delete(number);
    for (const number of found.keys()) scheduler.find(number);
    for (const [index, parent] of [...this.#parents.values()].entries()) {
      const asked = this.#source.directory !== undefined && parent.apiAddr !== undefined;
      scheduler.addRoute(parent.name, asked);
      if (asked) this.#track(this.#follow(open, parent, this.#answers?.[index]));
    }
    const completed = new Promise<void>((resolve, reject) => {
      this.#complete = (error) => (error === undefined ? resolve() : reject(error));
    });
    if (this.#ending.signal.aborted) this.#complete(this.#ending.signal.reason as VortexError);
    this.#tell({
      type: "started",
      totalBytes: layout.length,
      totalPieces: layout.wantedCount,
      foundPieces: found.size,
    });
    this.#track(
      this.#compare(
        open,
        [...found.values()].sort((a, b) => a.number - b.number),
      ),
    );
    this.#finishIfDone();
    this.#wake();
    await completed;
    try {
      frontier.verify();
    } catch (error) {
      // Which of the pieces is wrong cannot be told, so none is worth keeping.
      this.#discard = true;
      throw error;
    }
    await session.finish();
    this.store.complete(open.digest && `${open.digest.algorithm}:${open.digest.encoded}`);
    // Nothing fails any more; whoever still announces pieces is not listened to.
    this.#ending.abort(new VortexError("Closed", "the download is done"));
  }

  /** Reads what an earlier download left, and counts it when it is what it is said to be. */
  async #compare(open: Open, found: readonly SunkPiece[]): Promise<void> {
    for (const piece of found) {
      const right = await this.#isRight(open, piece).catch(() => false);
      if (this.#ending.signal.aborted) return;
      open.scheduler.settle(piece.number, right);
      if (right) {
        const { length = 0 } = open.layout.part(piece.number) ?? {};
        this.#resumedPieces++;
        this.#resumedBytes += length;
        this.#count(open, piece, undefined, 0);
      } else {
        this.#tell({ type: "piece-damaged", number: piece.number });
        this.#wake();
      }
    }
  }

  async #isRight({ layout, session }: Open, { number, crc32, digest }: SunkPiece): Promise<boolean> {
    const part = layout.part(number);
    if (part === undefined) return false;
    const expected: Digest[] = [{ algorithm: "crc32", encoded: String(crc32) }];
    // A part of a piece has no digest of its own.
    if (part.length === layout.extent(number).length) {
      expected.push(parseDigest(digest), layout.digest(number) ?? parseDigest(digest));
    }
    const algorithms = new Set(expected.map(({ algorithm }) => algorithm));
    const hashes = new Map([...algorithms].map((name) => [name, this.#settings.runtime.hashers(name)]));
    for (let at = 0; at < part.length; ) {
      const bytes = await session.read(number, part.position + at, Math.min(READ, part.length - at));
      if (this.#ending.signal.aborted) return false;
      for (const hash of hashes.values()) hash.update(bytes);
      at += bytes.length;
    }
    return expected.every(({ algorithm, encoded }) => hashes.get(algorithm)?.encode() === encoded);
  }

  // --- pieces

  /** Steps soon: many things may happen at once, and each of them calls this. */
  #wake(): void {
    if (this.#stepping) return;
    this.#stepping = true;
    queueMicrotask(() => {
      this.#stepping = false;
      this.#step();
    });
  }

  #step(): void {
    const open = this.#open;
    if (open === undefined || this.#paused || this.#finishing || this.#ending.signal.aborted) return;
    const { layout, scheduler, session } = open;
    this.#timer?.cancel();
    this.#timer = undefined;
    const now = this.#clock.now();
    const { starts, wakeAt, failure } = scheduler.step(now, {
      allows: (number) => {
        const part = layout.part(number);
        if (part === undefined || session.limit === undefined) return true;
        return part.position + part.length <= session.limit;
      },
      admit: (route) => this.#shared.slots.take(route, this.#holder),
    });
    for (const attempt of starts) {
      if (attempt.racer) this.#tell({ type: "race", number: attempt.number, parent: attempt.route });
      this.#track(this.#fetch(open, attempt));
    }
    if (failure !== undefined) this.end(failure);
    else if (wakeAt !== undefined) this.#timer = this.#clock.setTimer(() => this.#wake(), Math.max(0, wakeAt - now));
  }

  async #fetch(open: Open, attempt: Attempt): Promise<void> {
    const { number } = attempt;
    const part = open.layout.part(number);
    if (part === undefined) throw new VortexError("Internal", `piece ${number} is not wanted`);
    const controller = new AbortController();
    const fetch: Fetch = { attempt, controller, startedAt: this.#clock.now(), bytes: 0, over: false };
    if (this.#ending.signal.aborted) controller.abort(this.#ending.signal.reason);
    this.#fetches.set(attempt.id, fetch);
    const write = this.#writeOf(open, number).begin();
    try {
      await this.#transfer(open, fetch, write);
    } catch (error) {
      // So that another attempt does not wait for this one's way into the sink.
      write.end();
      this.#failed(open, fetch, error);
    } finally {
      write.end();
      this.#fetches.delete(attempt.id);
      this.#shared.slots.release(attempt.route, this.#holder);
      this.#wake();
    }
  }

  /** Fetches a piece to the sink, and counts it when it is right. Rejects with what the parent did. */
  async #transfer(open: Open, fetch: Fetch, write: AttemptWrite): Promise<void> {
    const { layout, scheduler, session } = open;
    const { attempt, controller } = fetch;
    const { number } = attempt;
    const { signal } = controller;
    const piece = await this.#ofParent(attempt, signal);
    scheduler.answered(attempt.id, this.#clock.now());
    let content: ReadableStreamDefaultReader<Uint8Array>;
    try {
      if (fetch.over) throw new VortexError("Aborted", "the piece is not wanted any more");
      requirePlace(piece, layout);
      requireDigest(piece, layout);
      content = piece.content.getReader();
    } catch (error) {
      piece.cancel();
      throw error;
    }
    const check = new PieceCheck(layout, piece, this.#settings.runtime.hashers);
    try {
      for (;;) {
        const { value: chunk, done } = await content.read();
        const now = this.#clock.now();
        if (fetch.over) throw new VortexError("Aborted", "the piece is not wanted any more");
        if (done) break;
        scheduler.arrived(attempt.id, chunk.length, now);
        this.#meter.add(chunk.length, now);
        // What follows is our own time, and not the parent's.
        scheduler.owes(attempt.id, false, now);
        const wanted = check.pass(chunk);
        fetch.bytes += wanted.length;
        if (wanted.length > 0) await this.#sink(write.write(wanted));
        for (const limiter of this.#limiters) await limiter.take(chunk.length, signal);
        this.#tellProgress();
        scheduler.owes(attempt.id, true, this.#clock.now());
      }
      check.verify();
    } catch (error) {
      piece.cancel();
      throw error;
    }
    for (const loser of scheduler.succeeded(attempt.id, this.#clock.now())) this.#endFetch(loser);
    await this.#sink(write.finish());
    const sunk: SunkPiece = { number, digest: check.digest, crc32: check.crc32 };
    await this.#sink(session.commit(sunk));
    this.#writes.delete(number);
    if (this.#ending.signal.aborted) return;
    this.#count(open, sunk, attempt.route, (this.#clock.now() - fetch.startedAt) / 1000);
  }

  async #ofParent({ route, number }: Attempt, signal: AbortSignal): Promise<Piece> {
    const parent = this.#parents.get(route);
    const addr = parent?.addr ?? parent?.announcedAddr;
    if (addr === undefined) throw new VortexError("Internal", `${route} has not announced an address`);
    const { hostId, taskId, kind = "standard" } = this.#request;
    const fetch = (): Promise<Piece> =>
      this.#source.fetchPiece({ addr, hostId, taskId, kind, number }, { ...this.#timeouts, signal });
    return this.#operation === undefined ? fetch() : this.#operation.run(fetch);
  }

  /** Waits for the sink. Its failure is the download's, and not the parent's. */
  async #sink(operation: Promise<void>): Promise<void> {
    try {
      await operation;
    } catch (error) {
      this.end(VortexError.from(error, "StorageFailed"));
      throw error;
    }
  }

  #failed({ scheduler }: Open, fetch: Fetch, error: unknown): void {
    if (fetch.over || this.#ending.signal.aborted) return;
    const { id, number, route } = fetch.attempt;
    const failure = withAddress(error, route);
    const verdict = verdictOn(failure);
    if (verdict === "fatal") {
      this.end(failure);
      return;
    }
    this.#tell({ type: "piece-failed", number, parent: route, error: failure });
    const state = scheduler.route(route);
    const wasOut = state.out;
    for (const attempt of scheduler.failed(id, failure, verdict, this.#clock.now())) this.#endFetch(attempt);
    if (state.out && !wasOut) this.#tell({ type: "parent-left-out", parent: route, reasons: [...state.reasons] });
  }

  #leaveOut(scheduler: Scheduler, route: RouteState): void {
    if (route.out) return;
    for (const attempt of scheduler.leaveOut(route.id, this.#clock.now())) this.#endFetch(attempt);
    this.#tell({ type: "parent-left-out", parent: route.id, reasons: [...route.reasons] });
  }

  #endFetch({ id }: Attempt): void {
    const fetch = this.#fetches.get(id);
    if (fetch === undefined) return;
    fetch.over = true;
    fetch.controller.abort(new VortexError("Aborted", "the piece is not wanted from this parent any more"));
  }

  #writeOf({ layout, session }: Open, number: number): PieceWrite {
    const part = layout.part(number);
    if (part === undefined) throw new VortexError("Internal", `piece ${number} is not wanted`);
    const write = this.#writes.get(number) ?? new PieceWrite(session, part);
    this.#writes.set(number, write);
    return write;
  }

  /** A piece is in the sink and right. */
  #count({ layout, frontier }: Open, piece: SunkPiece, parent: string | undefined, costSeconds: number): void {
    const { length = 0 } = layout.part(piece.number) ?? {};
    this.#committedPieces++;
    this.#committedBytes += length;
    this.store.add(piece, costSeconds);
    frontier.add(piece.number, piece.crc32);
    this.#tell({ type: "piece", number: piece.number, bytes: length, parent });
    this.#finishIfDone();
  }

  #finishIfDone(): void {
    const open = this.#open;
    if (open === undefined || this.#finishing || this.#ending.signal.aborted) return;
    const { layout, frontier } = open;
    if (this.#committedPieces < layout.wantedCount || frontier.next <= layout.last) return;
    this.#finishing = true;
    this.#complete(undefined);
  }

  // --- telling

  #tell(event: TaskEvent): void {
    this.#call(() => this.#options.onEvent?.(event));
  }

  #tellProgress(always = false): void {
    if (this.#options.onProgress === undefined) return;
    const now = this.#clock.now();
    if (!always && now - this.#progressAt < PROGRESS_INTERVAL) return;
    this.#progressAt = now;
    this.#call(() => this.#options.onProgress?.(this.progress()));
  }

  /** A listener that throws ends the download: it is part of what the caller wanted done. */
  #call(listener: () => void): void {
    try {
      listener();
    } catch (error) {
      this.end(new VortexError("Aborted", "a listener of the download threw", { cause: error }));
    }
  }

  #parentProgress(now: number): readonly ParentProgress[] {
    const routes = this.#open?.scheduler.routes;
    return [...(routes ?? [])].map((route) => ({
      parent: route.id,
      state: route.out ? "left-out" : route.retryAt > now ? "waiting" : "active",
      rate: (route.rate ?? 0) * 1000,
      bytes: route.bytes,
      pieces: route.pieces,
      errors: route.errors,
      reasons: [...route.reasons],
    }));
  }

  #report({ layout, digest }: Open): TaskReport {
    const now = this.#clock.now();
    return {
      taskId: layout.taskId,
      bytes: layout.length,
      pieces: layout.wantedCount,
      resumedBytes: this.#resumedBytes,
      resumedPieces: this.#resumedPieces,
      digest: digest && `${digest.algorithm}:${digest.encoded}`,
      duration: now - this.#startedAt,
      parents: this.#parentProgress(now),
    };
  }

  // --- small things

  get #concurrentPieceCount(): number {
    return this.#options.concurrentPieceCount ?? this.#settings.concurrentPieceCount;
  }

  get #timeouts(): { readonly pieceTimeout: number; readonly stallTimeout: number } {
    const { pieceTimeout, stallTimeout } = this.#options;
    return {
      pieceTimeout: pieceTimeout ?? this.#settings.pieceTimeout,
      stallTimeout: stallTimeout ?? this.#settings.stallTimeout,
    };
  }

  #random(): number {
    const [byte = 0, next = 0] = this.#settings.runtime.random(new Uint8Array(2));
    return (byte * 256 + next) / 65536;
  }

  #track(task: Promise<unknown>): void {
    const tracked = task
      .catch((error: unknown) => this.end(VortexError.from(error, "Internal")))
      .finally(() => this.#tasks.delete(tracked));
    this.#tasks.add(tracked);
  }
}

/** What is told when no parent knows the task. */
function noneTold(taskId: string, failures: readonly VortexError[]): VortexError {
  const told = failures.map(({ addr, code, message }) => `${addr}: ${code}, ${message}`).join("; ");
  const [first] = failures;
  const same = first !== undefined && failures.every(({ code }) => code === first.code);
  const message = `no parent tells the length of task ${taskId}: ${told}`;
  return new VortexError(same ? first.code : "Unreachable", message, { cause: failures });
}
