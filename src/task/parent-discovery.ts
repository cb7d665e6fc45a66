import { type Digest, parseDigest } from "../digest/digest.ts";
import { VortexError, withAddress } from "../errors.ts";
import type { Clock } from "../runtime.ts";
import { iterateInOperation, type Operation } from "../telemetry.ts";
import type { PeerAddress } from "../transport/peer-address.ts";
import type { TaskOutline } from "./discovery.ts";
import { TaskLayout } from "./layout.ts";
import type { KnownParent } from "./parents.ts";
import { requireExtent, requireSameOutline, requireTaskDigest } from "./piece-check.ts";
import { retryDecision } from "./retry-decision.ts";
import { backoffMs, MAX_FAILURES, MAX_PAUSE_MS, type RouteState } from "./route.ts";
import { MAX_PATIENCE_PAUSE_MS } from "./scheduler.ts";
import type { TaskSource } from "./source.ts";
import type { TaskRequest } from "./task.ts";

/** Parent with the addresses known so far. */
export interface Parent extends KnownParent {
  /** Address that the parent announced for its pieces; one per parent. */
  announcedAddr?: PeerAddress;
}

/** Layout and digest of the whole task, as reported by the parents. */
export interface DiscoveredTask {
  readonly layout: TaskLayout;
  /** Digest of the whole content, if a parent names one. */
  readonly digest: Digest | undefined;
}

/** Dependencies and listeners of {@link ParentDiscovery}. */
export interface DiscoveryContext {
  readonly request: TaskRequest;
  readonly source: TaskSource;
  /** Digest of the whole content, if the caller gave one. */
  readonly digest: Digest | undefined;
  readonly maxPieceLength: number;
  /** Parents in the order of the request. */
  readonly parents: readonly Parent[];
  readonly clock: Clock;
  /** Returns a random number from 0 to 1. */
  readonly random: () => number;
  /** Aborts all calls to parents. */
  readonly signal: AbortSignal;
  /** Telemetry operation that the calls to parents belong to. */
  readonly operation: Operation | undefined;
  /** Called when new pieces may be available. */
  readonly onChange: () => void;
  /** Time to keep asking a parent that fails, in ms. */
  readonly patience: number;
  /** Called when a parent does not have the task, or, with `banned`, has different content. */
  readonly onUseless: (parent: string, banned: boolean) => void;
  /** Called when a parent that was reported as useless announces pieces again. */
  readonly onRestored: (parent: string) => void;
}

/** Asks the parents for the layout of the task, and follows their announcements of pieces. */
export class ParentDiscovery {
  readonly #context: DiscoveryContext;
  /** Answers of the parents that were asked for the layout. */
  readonly #answers = new Map<Parent, Promise<TaskOutline>>();
  /** Answer that the download uses: the first usable one. */
  #outline: TaskOutline | undefined;
  /** Deadline in ms of each parent that fails while the layout is being asked for. */
  readonly #patienceEndsAt = new Map<Parent, number>();
  /** Number of parents that may still answer with the layout. */
  #pendingCount = 0;
  /** Aborts when the layout is known, to stop further questions about it. */
  readonly #layoutKnown = new AbortController();

  constructor(context: DiscoveryContext) {
    this.#context = context;
  }

  /**
   * Returns the layout from the first parent with a usable answer. An unusable answer is ignored,
   * however fast it was. Parents with a different layout are left out later, in {@link follow}.
   */
  async discover(): Promise<DiscoveredTask> {
    const { request, parents } = this.#context;
    const { taskId, range } = request;
    this.#pendingCount = parents.length;
    const answers = parents.map((parent) => this.#statWithPatience(parent));
    const known = await Promise.any(answers).catch((error: unknown) => {
      throw error instanceof AggregateError
        ? noOutlineError(taskId, error.errors as VortexError[])
        : error;
    });
    this.#layoutKnown.abort();
    for (const [index, parent] of parents.entries()) {
      const answer = answers[index]?.then(({ outline }) => outline);
      if (answer === undefined) continue;
      // Nothing awaits the later answers yet; they may reject.
      answer.catch(() => {});
      this.#answers.set(parent, answer);
    }
    this.#outline = known.outline;
    // A part cannot be verified by the digest of the whole.
    return { layout: known.layout, digest: range === undefined ? known.digest : undefined };
  }

  /**
   * Returns the remaining time in ms to wait for the layout; undefined unless all parents that may
   * have it fail.
   */
  patienceLeft(now: number): number | undefined {
    const ends = [...this.#patienceEndsAt.values()];
    return ends.length === 0 || ends.length < this.#pendingCount
      ? undefined
      : Math.max(0, Math.max(...ends) - now);
  }

  /** Asks a parent for the layout, with backoff until it answers or the patience ends. */
  async #statWithPatience(parent: Parent): Promise<Answer> {
    const { clock, patience, random } = this.#context;
    try {
      for (let failures = 1; ; failures++) {
        try {
          return await this.#stat(parent);
        } catch (error) {
          const failure = VortexError.from(error, "Internal");
          const now = clock.now();
          const until = this.#patienceEndsAt.get(parent) ?? now + patience;
          if (
            retryDecision(failure) !== "retry" ||
            now >= until ||
            this.#layoutKnown.signal.aborted
          )
            throw failure;
          this.#patienceEndsAt.set(parent, until);
          await this.#wait(
            Math.min(backoffMs(failures, random), MAX_PATIENCE_PAUSE_MS, until - now),
            this.#layoutKnown.signal,
          );
          if (this.#layoutKnown.signal.aborted || this.#context.signal.aborted) throw failure;
        }
      }
    } finally {
      this.#patienceEndsAt.delete(parent);
      this.#pendingCount--;
    }
  }

  /** Asks a parent for the layout once and validates its answer. */
  async #stat(parent: Parent): Promise<Answer> {
    const { request, source, digest: wanted, maxPieceLength, signal, operation } = this.#context;
    const { taskId, hostId, kind = "standard", range } = request;
    const { directory } = source;
    const { apiAddr } = parent;
    if (directory === undefined)
      throw new VortexError(
        "Internal",
        "asking parents for the lengths: the source has no directory",
      );
    if (apiAddr === undefined)
      throw new VortexError(
        "Internal",
        `asking ${parent.name} for the lengths: it has no API address`,
      );
    try {
      const stat = (): Promise<TaskOutline> =>
        directory.stat(apiAddr, taskId, { signal, hostId, kind });
      const outline = await (operation === undefined ? stat() : operation.run(stat));
      const layout = TaskLayout.announced({ taskId, kind, range }, outline);
      layout.requirePieceLength(maxPieceLength);
      if (wanted !== undefined) requireTaskDigest(outline, wanted);
      return {
        outline,
        layout,
        digest: outline.digest === undefined ? undefined : parseDigest(outline.digest),
      };
    } catch (error) {
      throw withAddress(error, parent.name);
    }
  }

  /** Returns true if the parent is asked for its pieces. */
  isFollowed({ apiAddr }: Parent): boolean {
    return this.#context.source.directory !== undefined && apiAddr !== undefined;
  }

  /**
   * Follows the announcements of a parent until the download ends. A broken stream of announcements
   * is reopened with backoff, unless the parent is banned. A parent that serves pieces but does not
   * announce them is assumed to have all pieces.
   */
  async follow(layout: TaskLayout, parent: Parent, routes: readonly RouteState[]): Promise<void> {
    const { signal, random, onChange, onUseless, onRestored } = this.#context;
    let answer = this.#answers.get(parent);
    let failures = 0;
    while (!signal.aborted && routes.some(({ leftOut }) => leftOut !== "banned")) {
      try {
        const outline = await answer;
        // A directory may ignore the signal.
        if (signal.aborted) return;
        if (outline !== undefined && this.#outline !== undefined)
          requireSameOutline(outline, this.#outline);
        await this.#followOnce(layout, parent, routes, () => {
          if (failures > 0) onRestored(parent.name);
          failures = 0;
        });
        if (signal.aborted) return;
        for (const route of routes) route.endAnnouncements(false);
        break;
      } catch (error) {
        if (signal.aborted) return;
        const failure = withAddress(error, parent.name);
        const decision = retryDecision(failure);
        for (const route of routes) route.addReason(failure);
        failures++;
        const answerFailed = answer !== undefined && (await isFulfilled(answer)) === false;
        const isUnresponsive = decision === "retry" && (answerFailed || failures >= MAX_FAILURES);
        if (
          parent.addr !== undefined &&
          (isUnresponsive || failure.code === "RemoteUnimplemented")
        ) {
          // The parent may serve pieces without announcing them, so all pieces are requested from
          // it.
          for (const route of routes) route.endAnnouncements(true);
          if (decision !== "retry") break;
        } else if (isUnresponsive) {
          for (const route of routes) route.interruptAnnouncements();
        } else if (decision !== "retry") {
          onUseless(parent.name, decision === "ban");
        }
        onChange();
        const pause = parent.addr === undefined ? MAX_PATIENCE_PAUSE_MS : MAX_PAUSE_MS;
        await this.#wait(
          decision === "retry" ? Math.min(pause, backoffMs(failures, random)) : MAX_PAUSE_MS,
        );
        if (signal.aborted) return;
        // Awaiting the rejected answer again would fail at once, so the parent is asked again.
        if (!answerFailed) continue;
        answer = this.#stat(parent).then(({ outline }) => outline);
        answer.catch(() => {});
      }
    }
    onChange();
  }

  /** Reads the announcements of a parent until the stream ends, and passes them to its routes. */
  async #followOnce(
    layout: TaskLayout,
    parent: Parent,
    routes: readonly RouteState[],
    onPiece: () => void,
  ): Promise<void> {
    const { request, source, signal, operation, onChange } = this.#context;
    const { taskId, hostId, kind = "standard" } = request;
    const { directory } = source;
    if (directory === undefined || parent.apiAddr === undefined) return;
    const numbers = Array.from({ length: layout.wantedCount }, (_, index) => layout.first + index);
    const locations = directory.sync(parent.apiAddr, taskId, { signal, hostId, kind, numbers });
    for await (const location of iterateInOperation(operation, locations)) {
      if (signal.aborted) return;
      if (layout.part(location.number) === undefined) continue;
      requireExtent(location, layout);
      const addr = source.speaksApi ? parent.apiAddr : source.addressOf(location, parent.apiAddr);
      if (addr !== undefined) parent.announcedAddr = addr;
      if (parent.addr === undefined && parent.announcedAddr === undefined) continue;
      const served = source.protocolsOf?.(parent.addresses ?? parent.addr ?? parent.announcedAddr);
      for (const route of routes) {
        if (route.protocol === undefined || served?.includes(route.protocol))
          route.announce(location.number);
      }
      onPiece();
      onChange();
    }
  }

  /** Waits for a time in ms; returns early when the download ends or `early` aborts. */
  #wait(milliseconds: number, early?: AbortSignal): Promise<void> {
    const { signal, clock } = this.#context;
    const signals = early === undefined ? [signal] : [signal, early];
    return new Promise((resolve) => {
      const finish = (): void => {
        timer.cancel();
        for (const each of signals) each.removeEventListener("abort", finish);
        resolve();
      };
      const timer = clock.setTimer(finish, milliseconds);
      for (const each of signals) each.addEventListener("abort", finish, { once: true });
      if (signals.some(({ aborted }) => aborted)) finish();
    });
  }
}

/** Answer of one parent about the whole task. */
interface Answer extends DiscoveredTask {
  readonly outline: TaskOutline;
}

/** Resolves with true if the promise is fulfilled, with false if it is rejected. */
function isFulfilled(promise: Promise<unknown>): Promise<boolean> {
  return promise.then(
    () => true,
    () => false,
  );
}

/** Returns the error for a task whose layout no parent reported. */
function noOutlineError(taskId: string, failures: readonly VortexError[]): VortexError {
  const reasons = failures
    .map(({ addr, code, message }) => `${addr}: ${code}, ${message}`)
    .join("; ");
  const [first] = failures;
  const isSameCode = first !== undefined && failures.every(({ code }) => code === first.code);
  const message = `lengths of task ${taskId}: no parent reports them: ${reasons}`;
  return new VortexError(isSameCode ? first.code : "Unreachable", message, { cause: failures });
}
