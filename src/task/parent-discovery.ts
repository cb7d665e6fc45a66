import { type Digest, parseDigest } from "../digest/digest.ts";
import { VortexError, withAddress } from "../errors.ts";
import { attemptLabel, listFailures } from "../failure-list.ts";
import type { Resolved } from "../resolved.ts";
import type { Clock } from "../runtime.ts";
import { iterateInOperation, type Operation } from "../telemetry.ts";
import type { PeerAddress } from "../transport/peer-address.ts";
import type { ExcludedProtocol, Protocol } from "../transport/protocol.ts";
import type { PieceLocation, TaskOutline } from "./discovery.ts";
import { TaskLayout } from "./layout.ts";
import type { KnownParent } from "./parents.ts";
import { requireExtent, requireSameOutline, requireTaskDigest } from "./piece-check.ts";
import { retryDecision } from "./retry-decision.ts";
import { backoffMs, MAX_FAILURES, MAX_PAUSE_MS, type RouteState } from "./route.ts";
import { MAX_PATIENCE_PAUSE_MS } from "./scheduler.ts";
import type { TaskSource } from "./source.ts";
import type { TaskStreamOptions } from "./task.ts";

/** Parent with the addresses that the request gives or the parent has announced so far. */
export interface Parent extends KnownParent {
  /**
   * Address at which the parent serves its pieces, according to its latest announcement; absent
   * before an announcement with an address.
   */
  announcedAddr?: PeerAddress;
}

/** Layout and digest of a task, as reported by a parent. */
export interface DiscoveredTask {
  /** Layout of the task, with the requested range. */
  readonly layout: TaskLayout;
  /** Digest of the whole content; undefined if the parent reported none. */
  readonly digest: Digest | undefined;
}

/** Dependencies and callbacks of {@link ParentDiscovery}. */
export interface DiscoveryContext {
  /** Request of the caller. */
  readonly request: Pick<TaskStreamOptions, "taskId" | "range"> &
    Resolved<Pick<TaskStreamOptions, "hostId" | "kind">>;
  /** Transport with the directory that sends requests to the parents. */
  readonly source: TaskSource;
  /** Digest of the whole content; undefined if the caller gave none. */
  readonly digest: Digest | undefined;
  /** Maximum length of a piece in bytes. A response with longer pieces is an error. */
  readonly maxPieceLength: number;
  /** Parents in the order of the request. */
  readonly parents: readonly Parent[];
  /** Clock and timers of the runtime. */
  readonly clock: Clock;
  /** Returns a random number from 0 to 1. */
  readonly random: () => number;
  /** Aborts all requests to parents when the download ends. */
  readonly signal: AbortSignal;
  /** Telemetry operation that all requests to parents belong to; undefined without telemetry. */
  readonly operation: Operation | undefined;
  /** Called when a parent has announced a piece, or its announcements have ended or broken off. */
  readonly onChange: () => void;
  /**
   * Maximum time in ms for which a parent is asked again for the layout, after temporary errors.
   */
  readonly patience: number;
  /**
   * Called with `banned` = false if a parent does not have the task, or with `banned` = true if its
   * content differs from that of other parents.
   */
  readonly onUseless: (parent: string, banned: boolean) => void;
  /** Called when a parent announces a piece again after its announcements failed. */
  readonly onRestored: (parent: string) => void;
  /** Called after each announcement, which may change the address of the parent. */
  readonly onAddress: (parent: Parent) => void;
}

/**
 * Requests the layout of the task (its length and piece length) from the parents, and receives
 * their announcements of pieces.
 */
export class ParentDiscovery {
  /** Dependencies and callbacks. */
  readonly #context: DiscoveryContext;
  /**
   * Promises of the lengths and digest that each parent reports. Empty if the caller gave the
   * lengths.
   */
  readonly #answers = new Map<Parent, Promise<TaskOutline>>();
  /**
   * Lengths and digest of the task in the first valid response, which the download uses. Undefined
   * if the caller gave the lengths.
   */
  #outline: TaskOutline | undefined;
  /**
   * Deadline for asking a parent again for the layout, in ms on the monotonic clock. Contains only
   * parents whose last response was a temporary error.
   */
  readonly #patienceEndsAt = new Map<Parent, number>();
  /** Number of parents that have not yet reported the layout or finally failed. */
  #pendingCount = 0;
  /**
   * Aborts when a parent has reported the layout, so that requests for it are no longer repeated.
   */
  readonly #layoutKnown = new AbortController();

  constructor(context: DiscoveryContext) {
    this.#context = context;
  }

  /**
   * Requests the layout (length and piece length of the task) from all parents. Returns the layout
   * and digest in the first valid response, and ignores invalid responses. Rejects if all parents
   * fail. Parents with a different layout are excluded later, by {@link follow}.
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
      // The later responses are not awaited yet, and their rejection must not be unhandled.
      answer.catch(() => {});
      this.#answers.set(parent, answer);
    }
    this.#outline = known.outline;
    // The digest of the whole content cannot verify a part of it.
    return { layout: known.layout, digest: range === undefined ? known.digest : undefined };
  }

  /**
   * Returns how long the request for the layout still waits for a failed parent to recover, in ms.
   * Returns undefined if no parent is being asked, or while at least one of them has not failed.
   *
   * @param now current time in ms on the monotonic clock
   */
  patienceLeft(now: number): number | undefined {
    const ends = [...this.#patienceEndsAt.values()];
    return ends.length === 0 || ends.length < this.#pendingCount
      ? undefined
      : Math.max(0, Math.max(...ends) - now);
  }

  /**
   * Requests the layout from a parent. After a temporary error, repeats the request with backoff.
   * Rejects with the last error once the option `patience` has passed or another parent has
   * reported the layout.
   */
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

  /** Requests the layout from a parent once, and validates the response. */
  async #stat(parent: Parent): Promise<Answer> {
    const { request, source, digest: wanted, maxPieceLength, signal, operation } = this.#context;
    const { taskId, hostId, kind, range } = request;
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

  /**
   * Returns true if the parent has an address for the Dragonfly gRPC API, so that it announces its
   * pieces.
   */
  isFollowed({ apiAddr }: Parent): boolean {
    return this.#context.source.directory !== undefined && apiAddr !== undefined;
  }

  /**
   * Passes the announcements of a parent to its routes, until the download ends. A broken stream of
   * announcements is reopened with backoff, unless all routes of the parent are banned.
   *
   * Some parents serve pieces but cannot announce them. A parent with a known address for pieces is
   * assumed to have all pieces in these cases:
   *
   * - The parent does not implement the RPC method.
   * - The request for the layout failed with a temporary error.
   * - The stream of announcements failed five times in a row.
   *
   * @param routes one route per protocol of the parent
   */
  async follow(layout: TaskLayout, parent: Parent, routes: readonly RouteState[]): Promise<void> {
    const { signal, random, onChange, onUseless, onRestored } = this.#context;
    let answer = this.#answers.get(parent);
    let failures = 0;
    let hasPieces = false;
    while (!signal.aborted && routes.some(({ exclusion }) => exclusion !== "banned")) {
      try {
        const outline = await answer;
        // A directory may ignore the signal.
        if (signal.aborted) return;
        if (outline !== undefined && this.#outline !== undefined)
          requireSameOutline(outline, this.#outline);
        await this.#followOnce(layout, parent, routes, () => {
          if (failures > 0) onRestored(parent.name);
          failures = 0;
          hasPieces = true;
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
          // The parent may serve pieces without announcing them, so any piece may be requested from
          // it.
          const served = this.#servedProtocols(parent);
          for (const route of routes) route.endAnnouncements(isServed(route, served));
          if (decision !== "retry") break;
        } else if (failure.code === "NotFound" && hasPieces) {
          // Its own download of the task has failed or was of a range: it keeps what it announced.
          for (const route of routes) route.endAnnouncements(false);
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

  /**
   * Passes the announcements of a parent to its routes, until the stream of announcements ends or
   * fails.
   *
   * @param onPiece called after each announced piece
   */
  async #followOnce(
    layout: TaskLayout,
    parent: Parent,
    routes: readonly RouteState[],
    onPiece: () => void,
  ): Promise<void> {
    const { request, source, signal, operation, onChange, onAddress } = this.#context;
    const { taskId, hostId, kind } = request;
    const { directory } = source;
    if (directory === undefined || parent.apiAddr === undefined) return;
    const numbers = Array.from({ length: layout.wantedCount }, (_, index) => layout.first + index);
    const locations = directory.sync(parent.apiAddr, taskId, { signal, hostId, kind, numbers });
    for await (const location of iterateInOperation(operation, locations)) {
      if (signal.aborted) return;
      if (layout.part(location.number) === undefined) continue;
      requireExtent(location, layout);
      const addr = source.usesGrpc ? parent.apiAddr : source.addressOf(location, parent.apiAddr);
      if (addr !== undefined) parent.announcedAddr = addr;
      onAddress(parent);
      if (parent.addr === undefined && parent.announcedAddr === undefined) {
        requireUsable(location, source.excluded?.(undefined) ?? []);
        continue;
      }
      const served = this.#servedProtocols(parent);
      for (const route of routes) {
        if (isServed(route, served)) route.announce(location.number);
      }
      onPiece();
      onChange();
    }
  }

  /**
   * Returns the protocols over which a parent serves pieces at its known addresses, or undefined if
   * the transport chooses the protocol.
   */
  #servedProtocols(parent: Parent): readonly Protocol[] | undefined {
    return this.#context.source.protocolsOf?.(addressOf(parent), false);
  }

  /** Resolves after a time in ms. Resolves earlier if the download ends or `early` aborts. */
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

/** Validated response of a parent to the request for the layout. */
interface Answer extends DiscoveredTask {
  /** Lengths and digest as the parent reported them. */
  readonly outline: TaskOutline;
}

/**
 * Returns the address of a parent for piece requests. If the request gives none, returns the
 * address that the parent announced; undefined before that announcement.
 */
export function addressOf(parent: Parent): PeerAddress | undefined {
  return parent.addresses ?? parent.addr ?? parent.announcedAddr;
}

/**
 * Returns true if a parent that serves the protocols `served` serves the protocol of its route.
 * True for a route whose protocol the transport chooses.
 */
function isServed({ protocol }: RouteState, served: readonly Protocol[] | undefined): boolean {
  return protocol === undefined || served?.includes(protocol) === true;
}

/**
 * Requires that a parent without a usable address has announced none that the transport refuses.
 *
 * @param excluded protocols that are not used at announced addresses
 * @throws `ProtocolNotSupported` if the address for one of these protocols was announced
 */
function requireUsable(
  { tcpAddr, quicAddr }: PieceLocation,
  excluded: readonly ExcludedProtocol[],
): void {
  for (const { protocol, reason } of excluded) {
    const addr = { quic: quicAddr, tcp: tcpAddr, grpc: undefined }[protocol];
    if (addr === undefined) continue;
    throw new VortexError("ProtocolNotSupported", `${protocol} at ${addr} is not used: ${reason}`, {
      addr,
    });
  }
}

/** Resolves with true if the promise is fulfilled, with false if it is rejected. */
function isFulfilled(promise: Promise<unknown>): Promise<boolean> {
  return promise.then(
    () => true,
    () => false,
  );
}

/**
 * Returns the error for a task whose layout no parent reported. Its code is the code of all
 * failures if these are the same, otherwise `Unreachable`.
 */
function noOutlineError(taskId: string, failures: readonly VortexError[]): VortexError {
  const [first] = failures;
  const isSameCode = first !== undefined && failures.every(({ code }) => code === first.code);
  const code = isSameCode ? first.code : "Unreachable";
  const attempts = failures.map((error) => ({
    error,
    label: error.addr === undefined ? "" : attemptLabel(error.addr, undefined, error),
  }));
  // A wrong digest or range has nothing to do with lengths: that parent reported them.
  const answered = failures.some(
    ({ code }) => code === "DigestMismatch" || code === "InvalidArgument",
  );
  const what = answered ? `task ${taskId}` : `lengths of task ${taskId}: no parent reports them`;
  const message = `${what}: ${listFailures(attempts, code)}`;
  return new VortexError(code, message, { cause: new AggregateError(failures, message) });
}
