import { type Digest, parseDigest } from "../digest/digest.ts";
import { VortexError, withAddress } from "../errors.ts";
import type { Clock } from "../runtime.ts";
import { eachInOperation, type Operation } from "../telemetry.ts";
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

/** A parent, and what is known of where it serves. */
export interface Parent extends KnownParent {
  /** Where it announced to serve; pieces of one parent are served at one address. */
  announcedAddr?: PeerAddress;
}

/** What the parents told of the whole task. */
export interface DiscoveredTask {
  readonly layout: TaskLayout;
  /** Digest of the content that will be had, if the parents know one. */
  readonly digest: Digest | undefined;
}

/** What a discovery works with. */
export interface DiscoveryContext {
  readonly request: TaskRequest;
  readonly source: TaskSource;
  /** What the caller says of the whole. */
  readonly digest: Digest | undefined;
  readonly maxPieceLength: number;
  /** In the caller's order. */
  readonly parents: readonly Parent[];
  readonly clock: Clock;
  /** From 0 to 1. */
  readonly random: () => number;
  /** Ends all questions. */
  readonly signal: AbortSignal;
  /** What the questions belong to, for whoever watches. */
  readonly operation: Operation | undefined;
  /** Told when pieces may have come within reach. */
  readonly onChange: () => void;
  /** Milliseconds for which parents that are gone are asked on. */
  readonly patience: number;
  /** Reports a useless parent: it does not have the task, or, banned, it has another one. */
  readonly onUseless: (parent: string, banned: boolean) => void;
  /** Reports a parent that was useless, and announces pieces now. */
  readonly onRestored: (parent: string) => void;
}

/** Asks parents how the task is cut into pieces, and follows what they announce of the pieces that they have. */
export class ParentDiscovery {
  readonly #context: DiscoveryContext;
  /** The answers of the parents that were asked for the layout; and the one that counts. */
  readonly #answers = new Map<Parent, Promise<TaskOutline>>();
  #outline: TaskOutline | undefined;
  /** Until when each parent is asked on that is gone, while the layout is asked for. */
  readonly #patienceEndsAt = new Map<Parent, number>();
  /** Parents that have not told the layout, and may. */
  #pendingCount = 0;
  /** Fires when the layout is known, so that no parent is asked for it again. */
  readonly #layoutKnown = new AbortController();

  constructor(context: DiscoveryContext) {
    this.#context = context;
  }

  /**
   * The layout as the first parent tells it that has what is wanted. Those who tell another one have another content. A parent whose
   * answer cannot be used must not stand in the way of others because it was quick.
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
      // Those that are not listened to any more may fail unheard.
      answer.catch(() => {});
      this.#answers.set(parent, answer);
    }
    this.#outline = known.outline;
    // A digest of the whole says nothing of a part.
    return { layout: known.layout, digest: range === undefined ? known.digest : undefined };
  }

  /** Milliseconds left to wait for the layout when all parents that may have it are gone. */
  patienceLeft(now: number): number | undefined {
    const ends = [...this.#patienceEndsAt.values()];
    return ends.length === 0 || ends.length < this.#pendingCount
      ? undefined
      : Math.max(0, Math.max(...ends) - now);
  }

  /** Asks a parent for the layout, again and again while it is gone and there is patience. */
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

  async #stat(parent: Parent): Promise<Answer> {
    const { request, source, digest: wanted, maxPieceLength, signal, operation } = this.#context;
    const { taskId, hostId, kind = "standard", range } = request;
    const { directory } = source;
    const { apiAddr } = parent;
    if (directory === undefined)
      throw new VortexError("Internal", "a download without a layout or a directory");
    if (apiAddr === undefined)
      throw new VortexError("Internal", "a parent without an address to ask");
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

  /** Whether a parent is asked which pieces it has. */
  isFollowed({ apiAddr }: Parent): boolean {
    return this.#context.source.directory !== undefined && apiAddr !== undefined;
  }

  /**
   * Follows what a parent announces, for as long as the download lasts. One that breaks off is
   * asked again; a banned one is not. A parent that serves pieces without announcing them is asked
   * for all of them meanwhile.
   */
  async follow(layout: TaskLayout, parent: Parent, routes: readonly RouteState[]): Promise<void> {
    const { signal, random, onChange, onUseless, onRestored } = this.#context;
    let answer = this.#answers.get(parent);
    let failures = 0;
    while (!signal.aborted && routes.some(({ leftOut }) => leftOut !== "banned")) {
      try {
        const outline = await answer;
        // A directory need not heed the signal.
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
        const untold = answer !== undefined && (await isFulfilled(answer)) === false;
        const silent = decision === "retry" && (untold || failures >= MAX_FAILURES);
        if (parent.addr !== undefined && (silent || failure.code === "RemoteUnimplemented")) {
          // It may serve pieces and not tell of them, so it is asked for all of them.
          for (const route of routes) route.endAnnouncements(true);
          if (decision !== "retry") break;
        } else if (silent) {
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
        // What failed once would fail for ever.
        if (!untold) continue;
        answer = this.#stat(parent).then(({ outline }) => outline);
        answer.catch(() => {});
      }
    }
    onChange();
  }

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
    for await (const location of eachInOperation(operation, locations)) {
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

  /** Resolves after a time, when the download ends, or when `early` fires. */
  #wait(milliseconds: number, early?: AbortSignal): Promise<void> {
    const { signal, clock } = this.#context;
    const signals = early === undefined ? [signal] : [signal, early];
    return new Promise((resolve) => {
      const over = (): void => {
        timer.cancel();
        for (const each of signals) each.removeEventListener("abort", over);
        resolve();
      };
      const timer = clock.setTimer(over, milliseconds);
      for (const each of signals) each.addEventListener("abort", over, { once: true });
      if (signals.some(({ aborted }) => aborted)) over();
    });
  }
}

/** Answer of one parent about the whole task. */
interface Answer extends DiscoveredTask {
  readonly outline: TaskOutline;
}

/** Waits for a promise, and returns true when it is fulfilled. */
function isFulfilled(promise: Promise<unknown>): Promise<boolean> {
  return promise.then(
    () => true,
    () => false,
  );
}

/** What is told when no parent knows the task. */
function noOutlineError(taskId: string, failures: readonly VortexError[]): VortexError {
  const told = failures.map(({ addr, code, message }) => `${addr}: ${code}, ${message}`).join("; ");
  const [first] = failures;
  const same = first !== undefined && failures.every(({ code }) => code === first.code);
  const message = `no parent tells the length of task ${taskId}: ${told}`;
  return new VortexError(same ? first.code : "Unreachable", message, { cause: failures });
}
