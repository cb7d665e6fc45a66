import type { LeftOutProtocol } from "../transport/protocol.ts";
import type { TaskLayout } from "./layout.ts";
import { type RouteState, reasonsOf } from "./route.ts";
import type { ParentProgress, RouteProgress, TaskProgress, TaskReport, Verified } from "./task.ts";
import { ThroughputMeter } from "./throughput-meter.ts";

/** Time in ms after the first received bytes, before which no remaining time is estimated. */
const MIN_MEASURED_MS = 2000;
/** Share of the content that is enough for an estimate earlier than that. */
const MIN_MEASURED_SHARE = 0.01;

/** State of a download that its counters do not contain. */
export interface ProgressContext {
  /** Received bytes of pieces in flight. */
  readonly inFlightBytes: number;
  readonly routes: Iterable<RouteState>;
  readonly paused: boolean;
  /** Remaining patience in ms, see {@link TaskProgress.patienceLeft}. */
  readonly patienceLeft: number | undefined;
}

/**
 * Counts the pieces and bytes of one download, for its progress and its report. Times are in ms.
 */
export class TransferStats {
  readonly #startedAt: number;
  readonly #meter: ThroughputMeter;
  /** Time of the first received bytes, in ms. */
  #firstByteAt: number | undefined;
  /** Number of all received bytes. */
  #arrivedBytes = 0;
  /** Verified pieces. */
  #pieces = 0;
  /** Bytes of verified pieces. */
  #bytes = 0;
  #resumedPieces = 0;
  #resumedBytes = 0;
  /** Protocols that are not used, by parent. */
  readonly #leftOut = new Map<string, readonly LeftOutProtocol[]>();

  /** @param now start of the download, in ms */
  constructor(now: number) {
    this.#startedAt = now;
    this.#meter = new ThroughputMeter(now);
  }

  /** Number of verified pieces. */
  get pieces(): number {
    return this.#pieces;
  }

  /** Counts received bytes, whether requested or not. */
  addBytes(bytes: number, now: number): void {
    this.#firstByteAt ??= now;
    this.#arrivedBytes += bytes;
    this.#meter.add(bytes, now);
  }

  /** Counts a verified piece. `resumed` is true for a piece of an earlier download. */
  addPiece(length: number, resumed: boolean): void {
    this.#pieces++;
    this.#bytes += length;
    if (!resumed) return;
    this.#resumedPieces++;
    this.#resumedBytes += length;
  }

  /** Records the protocols that are not used with a parent. */
  setLeftOutProtocols(parent: string, protocols: readonly LeftOutProtocol[]): void {
    if (protocols.length > 0) this.#leftOut.set(parent, protocols);
  }

  /** Resets the counters of pieces, for a round that fetches pieces again. */
  restart(): void {
    this.#pieces = 0;
    this.#bytes = 0;
    this.#resumedPieces = 0;
    this.#resumedBytes = 0;
  }

  /** Returns a snapshot for the caller of the download. */
  progress(
    now: number,
    layout: TaskLayout | undefined,
    { inFlightBytes, routes, paused, patienceLeft }: ProgressContext,
  ): TaskProgress {
    const rate = this.#meter.rate(now);
    const bytes = this.#bytes + inFlightBytes;
    const left = layout === undefined ? undefined : layout.length - bytes;
    return {
      bytes,
      totalBytes: layout?.length,
      pieces: this.#pieces,
      totalPieces: layout?.wantedCount,
      resumedBytes: this.#resumedBytes,
      rate,
      timeLeft:
        left === 0
          ? 0
          : left === undefined || !this.#isMeasured(now, layout)
            ? undefined
            : timeFor(left, rate),
      paused,
      patienceLeft,
      parents: parentProgress(now, routes, this.#leftOut),
    };
  }

  /**
   * Returns true once enough of the content has arrived to estimate the remaining time. Bytes of an
   * earlier download do not count.
   */
  #isMeasured(now: number, layout: TaskLayout | undefined): boolean {
    if (layout === undefined || this.#firstByteAt === undefined) return false;
    return (
      now - this.#firstByteAt >= MIN_MEASURED_MS ||
      this.#arrivedBytes >= (layout.length - this.#resumedBytes) * MIN_MEASURED_SHARE
    );
  }

  /** Returns the report of a successful download. */
  report(
    now: number,
    layout: TaskLayout,
    verified: Verified,
    routes: Iterable<RouteState>,
  ): TaskReport {
    return {
      taskId: layout.taskId,
      bytes: layout.length,
      pieces: layout.wantedCount,
      resumedBytes: this.#resumedBytes,
      resumedPieces: this.#resumedPieces,
      verified,
      duration: now - this.#startedAt,
      parents: parentProgress(now, routes, this.#leftOut),
    };
  }
}

/** Returns the time in ms for a number of bytes at a rate in bytes/s; undefined at rate 0. */
function timeFor(bytes: number, rate: number): number | undefined {
  return rate === 0 ? undefined : (bytes * 1000) / rate;
}

/** Returns the statistics of each parent, summed over its routes. */
function parentProgress(
  now: number,
  routes: Iterable<RouteState>,
  leftOutOf: ReadonlyMap<string, readonly LeftOutProtocol[]>,
): readonly ParentProgress[] {
  const byParent = new Map<string, RouteState[]>();
  for (const route of routes)
    byParent.set(route.parent, [...(byParent.get(route.parent) ?? []), route]);
  return [...byParent].map(([parent, own]) => {
    const each = own.map((route) => routeProgress(route, now));
    const states = each.map(({ state }) => state);
    const parts = own.flatMap(({ protocol }, index) => {
      const progress = each[index];
      return protocol === undefined || progress === undefined ? [] : [{ protocol, ...progress }];
    });
    const leftOut = leftOutOf.get(parent);
    return {
      parent,
      state: states.includes("active")
        ? "active"
        : states.includes("waiting")
          ? "waiting"
          : "left-out",
      rate: sumOf(each, "rate"),
      bytes: sumOf(each, "bytes"),
      pieces: sumOf(each, "pieces"),
      errors: sumOf(each, "errors"),
      reasons: reasonsOf(own),
      ...(parts.length > 0 && { routes: parts }),
      ...(leftOut && { leftOut }),
    };
  });
}

/** Returns the statistics of one route. */
function routeProgress(route: RouteState, now: number): Omit<RouteProgress, "protocol"> {
  return {
    state: !route.isUsable ? "left-out" : route.retryAt > now ? "waiting" : "active",
    rate: (route.rate ?? 0) * 1000,
    bytes: route.bytes,
    pieces: route.pieces,
    errors: route.errors,
  };
}

/** Returns the sum of one field over all records. */
function sumOf<K extends string>(all: readonly Readonly<Record<K, number>>[], key: K): number {
  return all.reduce((sum, one) => sum + one[key], 0);
}
