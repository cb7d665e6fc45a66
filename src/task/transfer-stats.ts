import type { ExcludedProtocol } from "../transport/protocol.ts";
import type { TaskLayout } from "./layout.ts";
import { type RouteState, reasonsOf } from "./route.ts";
import type { ParentProgress, RouteProgress, TaskProgress, TaskReport, Verified } from "./task.ts";
import { ThroughputMeter } from "./throughput-meter.ts";

/**
 * Time in ms from the first received bytes until the remaining time of the download is estimated.
 */
const MIN_MEASURED_MS = 2000;
/**
 * Share of the bytes to download, from 0 to 1. Once it has arrived, the remaining time is estimated
 * even before {@link MIN_MEASURED_MS}.
 */
const MIN_MEASURED_SHARE = 0.01;

/** State of a download that {@link TransferStats} does not count itself. */
export interface ProgressContext {
  /** Number of received bytes of pieces in flight. */
  readonly inFlightBytes: number;
  /** Routes with their statistics. A route is one parent over one protocol. */
  readonly routes: Iterable<RouteState>;
  /** True if the caller has paused the download. */
  readonly paused: boolean;
  /** Remaining time in ms to wait for failed parents, see {@link TaskProgress.patienceLeft}. */
  readonly patienceLeft: number | undefined;
}

/**
 * Counts the pieces and bytes of one download, for its progress and its report. All times are in ms
 * on the monotonic clock.
 */
export class TransferStats {
  /** Start of the download, in ms on the monotonic clock. */
  readonly #startedAt: number;
  /** Measures the download rate. */
  readonly #meter: ThroughputMeter;
  /** Time of the first received bytes, in ms on the monotonic clock; undefined before. */
  #firstByteAt: number | undefined;
  /** Number of bytes received from parents, including bytes of failed attempts. */
  #arrivedBytes = 0;
  /** Number of verified pieces. */
  #pieces = 0;
  /** Number of requested bytes in verified pieces. */
  #bytes = 0;
  /** Number of verified pieces of an earlier download. */
  #resumedPieces = 0;
  /** Number of requested bytes in verified pieces of an earlier download. */
  #resumedBytes = 0;
  /** Protocols that are not used with a parent, by name of the parent. */
  readonly #excluded = new Map<string, readonly ExcludedProtocol[]>();

  /** @param now start of the download, in ms on the monotonic clock */
  constructor(now: number) {
    this.#startedAt = now;
    this.#meter = new ThroughputMeter(now);
  }

  /** Number of verified pieces. */
  get pieces(): number {
    return this.#pieces;
  }

  /** Counts bytes received from a parent, including bytes outside the requested range. */
  addBytes(bytes: number, now: number): void {
    this.#firstByteAt ??= now;
    this.#arrivedBytes += bytes;
    this.#meter.add(bytes, now);
  }

  /**
   * Counts a verified piece.
   *
   * @param length number of bytes of the piece that lie in the requested range
   * @param resumed true if an earlier, interrupted download had stored the piece already
   */
  addPiece(length: number, resumed: boolean): void {
    this.#pieces++;
    this.#bytes += length;
    if (!resumed) return;
    this.#resumedPieces++;
    this.#resumedBytes += length;
  }

  /** Records the protocols that are not used with a parent, each with the reason. */
  setExcludedProtocols(parent: string, protocols: readonly ExcludedProtocol[]): void {
    if (protocols.length > 0) this.#excluded.set(parent, protocols);
    else this.#excluded.delete(parent);
  }

  /** Resets the counts of verified pieces and their bytes, since pieces will be fetched again. */
  restart(): void {
    this.#pieces = 0;
    this.#bytes = 0;
    this.#resumedPieces = 0;
    this.#resumedBytes = 0;
  }

  /**
   * Returns a snapshot of the progress at time `now`.
   *
   * @param layout layout of the task; undefined while unknown
   */
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
      parents: parentProgress(now, routes, this.#excluded),
    };
  }

  /**
   * Returns true once enough bytes were received from parents to estimate the remaining time. Bytes
   * of an earlier download do not count.
   */
  #isMeasured(now: number, layout: TaskLayout | undefined): boolean {
    if (layout === undefined || this.#firstByteAt === undefined) return false;
    return (
      now - this.#firstByteAt >= MIN_MEASURED_MS ||
      this.#arrivedBytes >= (layout.length - this.#resumedBytes) * MIN_MEASURED_SHARE
    );
  }

  /**
   * Returns the report of a successful download that ends at time `now`.
   *
   * @param verified strength of the verification of the content
   * @param routes routes with their statistics, one per parent and protocol
   */
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
      parents: parentProgress(now, routes, this.#excluded),
    };
  }
}

/**
 * Returns the time in ms to transfer a number of bytes at a rate in bytes/s, or undefined if the
 * rate is 0.
 */
function timeFor(bytes: number, rate: number): number | undefined {
  return rate === 0 ? undefined : (bytes * 1000) / rate;
}

/**
 * Returns the statistics of each parent, summed over its protocols.
 *
 * @param routes routes with their statistics, one per parent and protocol
 * @param excludedOf protocols that are not used with a parent, by name of the parent
 */
function parentProgress(
  now: number,
  routes: Iterable<RouteState>,
  excludedOf: ReadonlyMap<string, readonly ExcludedProtocol[]>,
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
    const excluded = excludedOf.get(parent);
    return {
      parent,
      state: states.includes("active")
        ? "active"
        : states.includes("waiting")
          ? "waiting"
          : "excluded",
      rate: sumOf(each, "rate"),
      bytes: sumOf(each, "bytes"),
      pieces: sumOf(each, "pieces"),
      errors: sumOf(each, "errors"),
      reasons: reasonsOf(own),
      ...(parts.length > 0 && { routes: parts }),
      ...(excluded && { excluded }),
    };
  });
}

/** Returns the statistics of one route: one parent over one protocol. */
function routeProgress(route: RouteState, now: number): Omit<RouteProgress, "protocol"> {
  return {
    state: !route.isUsable ? "excluded" : route.retryAt > now ? "waiting" : "active",
    rate: (route.rate ?? 0) * 1000,
    bytes: route.bytes,
    pieces: route.pieces,
    errors: route.errors,
  };
}

/** Returns the sum of the values of field `key` over all records. */
function sumOf<K extends string>(all: readonly Readonly<Record<K, number>>[], key: K): number {
  return all.reduce((sum, one) => sum + one[key], 0);
}
