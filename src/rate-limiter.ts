import { onAbort } from "./on-abort.ts";
import { requireInteger } from "./piece.ts";
import type { Clock, Timer } from "./runtime.ts";

/** Grants per second; sets the size of a grant, unless {@link MIN_GRANT_BYTES} is larger. */
const GRANTS_PER_SECOND = 64;
/**
 * Minimum size of a grant, in bytes, so that a packet is worth sending. At less than 4 KiB/s it is
 * a quarter of a second's worth instead.
 */
const MIN_GRANT_BYTES = 1024;
/** Minimum time after which a waiting flow gets a keep-alive grant, in ms. */
const MIN_KEEP_ALIVE_MS = 1000;
/**
 * Maximum time after which a waiting flow gets a keep-alive grant, in ms: a third of the default
 * stall timeout of peers.
 */
const MAX_KEEP_ALIVE_MS = 10_000;
/** Keep-alive grants per second; with more waiting flows, each waits for longer. */
const KEEP_ALIVES_PER_SECOND = 256;
/** Divisor of the rate: keep-alive grants take one 16th of it. */
const KEEP_ALIVE_SHARE = 16;

/** One transfer whose bytes pass through a {@link RateLimiter}. */
export interface Flow {
  /** Grants 1 to `max` bytes without waiting; returns 0 if the caller would have to wait. */
  takeNow(max: number): number;
  /**
   * Waits for a grant. Resolves to its size, 1 to `max` bytes, or to 0 once the signal has aborted.
   * Only one call at a time.
   *
   * @param max bytes requested, at least 1
   */
  take(max: number, signal: AbortSignal): Promise<number>;
  /**
   * Waits until all of `bytes` are granted. Also resolves when the signal aborts, and then returns
   * the granted bytes to the limiter; the caller must check the signal.
   */
  takeAll(bytes: number, signal: AbortSignal): Promise<void>;
  /** Returns granted bytes that are not sent after all, so that waiting flows get them. */
  giveBack(bytes: number): void;
}

/** Call of {@link Flow.take} that waits for its grant. */
interface PendingTake {
  /** Sequence number of its flow; lower is older. */
  readonly age: number;
  readonly share: Share;
  /** Maximum size of the grant, in bytes. */
  readonly max: number;
  /** Time at which the wait started, in ms on the clock. */
  readonly since: number;
  grant(bytes: number): void;
}

/** Fair-queueing state of one payer. */
interface Share {
  /** Virtual time of the payer, in bytes granted. The payer with the lowest one is served next. */
  granted: number;
  readonly waiting: Set<PendingTake>;
}

/**
 * Token bucket that grants bytes at a steady rate, with a burst of up to one second's worth after a
 * pause. A flow belongs to a payer; payers are compared by identity.
 *
 * When flows have to wait:
 * - Payers get equal shares, in bytes: the next grant goes to the payer that was granted least
 *   since it began to wait (start-time fair queueing, https://doi.org/10.1109/90.649569).
 * - Among the flows of one payer, the oldest is served first. With equal shares, each flow would
 *   take as long as all of them together. At a low rate none would then meet the receiver's
 *   deadline.
 * - Every other flow gets a keep-alive grant of a few bytes after a second, so that no receiver
 *   mistakes the wait for a stall. With many flows or a low rate the interval is longer. It is at
 *   most 20 s while the rate is at least one byte in 10 s for each flow.
 */
export class RateLimiter {
  readonly #clock: Clock;
  /** Rate in bytes/s. */
  readonly rate: number;
  /** Available bytes, in thousandths of a byte: each millisecond then earns an integer. */
  #credit: number;
  /** Time up to which {@link #credit} has been earned, in ms. */
  #earnedAt: number;
  readonly #shares = new Map<unknown, Share>();
  /** Pending takes of all payers, the longest waiting first. */
  readonly #waiting = new Set<PendingTake>();
  /** Number of flows so far. */
  #flows = 0;
  /** Virtual time: `granted` of the payer served last, before that grant. */
  #virtualTime = 0;
  #timer: Timer | undefined;
  #waitedAt = Number.NEGATIVE_INFINITY;

  /** @throws `InvalidArgument` unless `bytesPerSecond` is a positive integer */
  constructor(bytesPerSecond: number, clock: Clock) {
    requireInteger("bytes per second", bytesPerSecond, 1, Number.MAX_SAFE_INTEGER);
    this.#clock = clock;
    this.rate = bytesPerSecond;
    this.#credit = bytesPerSecond * 1000;
    this.#earnedAt = clock.now();
  }

  /**
   * Latest time at which a flow was waiting, in ms on the clock; the current time while one waits.
   * Negative infinity if none has waited yet.
   */
  get waitedAt(): number {
    return this.#waiting.size > 0 ? this.#clock.now() : this.#waitedAt;
  }

  /**
   * Starts a flow.
   *
   * @param payer payer whose share the flow uses. Default: one shared by all flows without a payer
   */
  flow(payer: unknown = ""): Flow {
    const age = this.#flows++;
    const giveBack = (bytes: number): void => {
      this.#credit += bytes * 1000;
      if (this.#timer !== undefined) this.#serve();
    };
    const flow: Flow = {
      takeNow: (max) => this.#takeNow(max),
      take: (max, signal) => this.#take(age, payer, max, signal),
      giveBack,
      async takeAll(bytes, signal) {
        for (let left = bytes; left > 0; ) {
          const granted = flow.takeNow(left) || (await flow.take(left, signal));
          if (granted === 0) {
            giveBack(bytes - left);
            return;
          }
          left -= granted;
        }
      },
    };
    return flow;
  }

  #takeNow(max: number): number {
    if (this.#waiting.size > 0) return 0;
    this.#earn();
    this.#credit = Math.min(this.#credit, this.rate * 1000);
    const bytes = Math.min(max, this.#grantSize());
    if (this.#credit < bytes * 1000) return 0;
    this.#credit -= bytes * 1000;
    return bytes;
  }

  #take(age: number, payer: unknown, max: number, signal: AbortSignal): Promise<number> {
    if (signal.aborted) return Promise.resolve(0);
    const now = this.#takeNow(max);
    if (now > 0) return Promise.resolve(now);
    return new Promise((resolve) => {
      const share = this.#share(payer);
      const settle = (bytes: number): void => {
        unsubscribe();
        share.waiting.delete(pending);
        this.#waiting.delete(pending);
        this.#waitedAt = this.#clock.now();
        resolve(bytes);
      };
      const pending: PendingTake = { age, share, max, since: this.#clock.now(), grant: settle };
      const unsubscribe = onAbort(signal, () => {
        settle(0);
        this.#serve();
      });
      share.waiting.add(pending);
      this.#waiting.add(pending);
      this.#serve();
    });
  }

  /** Serves pending takes from the available credit, and sets a timer for the next one. */
  #serve(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#earn();
    for (let next = this.#next(); next !== undefined; next = this.#next()) {
      const { pending, bytes, inTurn } = next;
      const missing = bytes * 1000 - this.#credit;
      if (missing > 0) {
        this.#timer = this.#clock.setTimer(() => this.#serve(), Math.ceil(missing / this.rate));
        return;
      }
      const { share } = pending;
      this.#credit -= bytes * 1000;
      if (inTurn) this.#virtualTime = share.granted;
      share.granted += bytes;
      pending.grant(bytes);
    }
    // Nothing waits any more, so the shares have no meaning.
    this.#shares.clear();
  }

  /**
   * Selects the next take to serve, and the size of its grant. A keep-alive grant ignores the order
   * of the payers; then `inTurn` is false.
   */
  #next():
    | { readonly pending: PendingTake; readonly bytes: number; readonly inTurn: boolean }
    | undefined {
    const [longest] = this.#waiting;
    if (longest === undefined) return undefined;
    if (this.#clock.now() - longest.since >= this.#keepAliveInterval()) {
      const bytes = Math.min(longest.max, this.#keepAliveSize());
      return { pending: longest, bytes, inTurn: false };
    }
    const share = this.#nextShare() ?? longest.share;
    let pending = longest;
    for (const other of share.waiting) {
      if (pending.share !== share || other.age < pending.age) pending = other;
    }
    return { pending, bytes: Math.min(pending.max, this.#grantSize()), inTurn: true };
  }

  /** Returns the share of the waiting payer with the lowest virtual time. */
  #nextShare(): Share | undefined {
    let next: Share | undefined;
    for (const [payer, share] of this.#shares) {
      if (share.waiting.size === 0) {
        // A new share would start at this virtual time or later, so this one can be dropped.
        if (share.granted <= this.#virtualTime) this.#shares.delete(payer);
      } else if (next === undefined || share.granted < next.granted) {
        next = share;
      }
    }
    return next;
  }

  #share(payer: unknown): Share {
    let share = this.#shares.get(payer);
    if (share === undefined) {
      share = { granted: this.#virtualTime, waiting: new Set() };
      this.#shares.set(payer, share);
    } else if (share.waiting.size === 0) {
      // A payer does not save up credit while it requests nothing.
      share.granted = Math.max(share.granted, this.#virtualTime);
    }
    return share;
  }

  /** Returns the size of one grant in turn, in bytes. */
  #grantSize(): number {
    return Math.max(
      Math.ceil(this.rate / GRANTS_PER_SECOND),
      Math.min(MIN_GRANT_BYTES, Math.ceil(this.rate / 4)),
    );
  }

  /** Returns the wait after which a flow gets a keep-alive grant, in ms. */
  #keepAliveInterval(): number {
    const flows = this.#waiting.size;
    const seconds = Math.max(
      flows / KEEP_ALIVES_PER_SECOND,
      (KEEP_ALIVE_SHARE * flows) / this.rate,
    );
    return Math.min(MAX_KEEP_ALIVE_MS, Math.max(MIN_KEEP_ALIVE_MS, seconds * 1000));
  }

  /** Returns the size of a keep-alive grant, in bytes: all of them take a 16th of the rate. */
  #keepAliveSize(): number {
    const share =
      (this.rate * this.#keepAliveInterval()) / 1000 / KEEP_ALIVE_SHARE / this.#waiting.size;
    return Math.max(1, Math.min(MIN_GRANT_BYTES, Math.floor(share)));
  }

  /**
   * Adds the credit earned since the last call. Does not cap it at a second's worth: while a flow
   * waits, a timer may be late.
   */
  #earn(): void {
    const now = this.#clock.now();
    this.#credit += (now - this.#earnedAt) * this.rate;
    this.#earnedAt = now;
  }
}
