import { requireInteger } from "./arguments.ts";
import { onAbort } from "./on-abort.ts";
import type { Clock, Timer } from "./runtime.ts";

/**
 * Maximum number of grants per second. A grant lets one waiter pass 1/64 of the rate limit, but at
 * least {@link MIN_GRANT_BYTES}, so that a low limit has fewer grants.
 */
const GRANTS_PER_SECOND = 64;
/**
 * Minimum size of a grant in bytes, so that a packet is worth sending. At rates below 4 KiB/s, the
 * minimum is the number of bytes in a quarter of a second.
 */
const MIN_GRANT_BYTES = 1024;
/**
 * Minimum time in ms that a flow waits before it gets a keep-alive grant, see {@link RateLimiter}.
 */
const MIN_KEEP_ALIVE_MS = 1000;
/**
 * Maximum time in ms that a flow waits before it gets a keep-alive grant. It is a third of the
 * default stall timeout of peers, so they do not mistake the wait for a stall.
 */
const MAX_KEEP_ALIVE_MS = 10_000;
/**
 * Maximum number of keep-alive grants per second, over all flows. If more flows wait, each of them
 * waits for longer.
 */
const KEEP_ALIVES_PER_SECOND = 256;
/** Divisor of the rate: all keep-alive grants together use 1/16 of the rate. */
const KEEP_ALIVE_SHARE = 16;

/**
 * One transfer whose bytes a {@link RateLimiter} limits. The limiter grants bytes to the flow,
 * which may then send them.
 */
export interface Flow {
  /**
   * Grants 1 to `max` bytes and returns their number. Returns 0 if no bytes are available at once.
   */
  takeNow(max: number): number;
  /**
   * Waits until bytes are available. Resolves to the number of granted bytes, 1 to `max`. Resolves
   * to 0 when `signal` aborts. Only one call may be pending at a time.
   *
   * @param max maximum number of bytes to grant, at least 1
   */
  take(max: number, signal: AbortSignal): Promise<number>;
  /**
   * Waits until the limiter has granted `bytes` bytes in total. If `signal` aborts first, the bytes
   * granted so far return to the limiter. The promise resolves in both cases, so the caller must
   * check the signal.
   */
  takeAll(bytes: number, signal: AbortSignal): Promise<void>;
  /**
   * Returns to the limiter `bytes` bytes that were granted but not sent, so that other flows can
   * use them.
   */
  giveBack(bytes: number): void;
}

/** Call of {@link Flow.take} that waits for its grant. */
interface PendingTake {
  /** Sequence number of the flow that called `take`. An older flow has a lower number. */
  readonly age: number;
  readonly share: Share;
  /** Maximum size of the grant, in bytes. */
  readonly max: number;
  /** Time of the call, in ms on the monotonic clock of the limiter. */
  readonly since: number;
  grant(bytes: number): void;
}

/**
 * State of one payer for start-time fair queueing. A payer is a party that shares the rate equally
 * with others, such as a client's network.
 */
interface Share {
  /**
   * Virtual time of the payer, in granted bytes. Of the payers with waiting flows, the payer with
   * the lowest virtual time gets the next grant.
   */
  granted: number;
  readonly waiting: Set<PendingTake>;
}

/**
 * Token bucket that grants bytes at a steady rate. After a pause, it grants up to one second's
 * bytes in a burst. Each flow belongs to a payer, such as a client's network. Payers are compared
 * by identity (`Map` keys).
 *
 * When flows have to wait:
 * - Each payer gets an equal share, in bytes. The next grant goes to the payer that has been
 *   granted the fewest bytes since its flows began to wait. This is start-time fair queueing
 *   (https://doi.org/10.1109/90.649569).
 * - Of the flows of one payer, the oldest is served first. If all flows of a payer had equal
 *   shares, each flow would take as long as all of them together. At a low rate, all of them would
 *   then miss the receiver's time limit.
 * - A flow that waits for a second without a grant gets a keep-alive grant of a few bytes.
 *   Otherwise its receiver would assume a stall. With many flows or a low rate, the interval is
 *   longer. It is at most 20 s if the rate is at least one byte in 10 s for each flow.
 */
export class RateLimiter {
  readonly #clock: Clock;
  /** Rate of the limiter, in bytes/s. */
  readonly rate: number;
  /**
   * Number of available bytes, in thousandths of a byte. A millisecond then adds an integer, equal
   * to the rate in bytes/s.
   */
  #credit: number;
  /** Time on the clock, in ms, up to which {@link #credit} includes the earned bytes. */
  #earnedAt: number;
  readonly #shares = new Map<unknown, Share>();
  /** Pending calls of `take` of all payers, in the order of the calls. */
  readonly #waiting = new Set<PendingTake>();
  /** Number of flows that were created so far. */
  #flows = 0;
  /**
   * Virtual time of the limiter, in granted bytes. It equals the virtual time of the payer served
   * last, before its last grant.
   */
  #virtualTime = 0;
  #timer: Timer | undefined;
  #waitedAt = Number.NEGATIVE_INFINITY;

  /**
   * Creates a limiter that grants `bytesPerSecond` bytes per second.
   *
   * @throws `InvalidArgument` if `bytesPerSecond` is not a positive integer
   */
  constructor(bytesPerSecond: number, clock: Clock) {
    requireInteger("bytes per second", bytesPerSecond, 1, Number.MAX_SAFE_INTEGER);
    this.#clock = clock;
    this.rate = bytesPerSecond;
    this.#credit = bytesPerSecond * 1000;
    this.#earnedAt = clock.now();
  }

  /**
   * Latest time at which a flow waited for a grant, in ms on the limiter's monotonic clock. It is
   * the current time while a flow waits, and negative infinity if no flow has waited yet.
   */
  get waitedAt(): number {
    return this.#waiting.size > 0 ? this.#clock.now() : this.#waitedAt;
  }

  /**
   * Creates a flow for one transfer.
   *
   * @param payer party whose share of the rate the flow uses. Default: a payer that all flows
   * without this argument share
   */
  flow(payer: unknown = ""): Flow {
    const age = this.#flows++;
    const giveBack = (bytes: number): void => {
      this.#credit += bytes * 1000;
      this.#serve();
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

  /**
   * Grants the available bytes to the pending calls of `take`. If calls remain, sets a timer for
   * the time at which the next grant is available.
   */
  #serve(): void {
    this.#timer?.cancel();
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
   * Selects the pending call of `take` to serve next, and the size of its grant in bytes.
   *
   * A keep-alive grant ignores the order of the payers; `inTurn` is then false.
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

  /**
   * Returns the share of the payer with the lowest virtual time among the payers with waiting
   * flows. Returns undefined if no flow waits.
   */
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
    const share = this.#shares.get(payer) ?? { granted: 0, waiting: new Set() };
    // A payer does not save up credit while it requests nothing. While it waits, it is not behind.
    share.granted = Math.max(share.granted, this.#virtualTime);
    this.#shares.set(payer, share);
    return share;
  }

  /** Returns the maximum size of a regular grant, in bytes. */
  #grantSize(): number {
    return Math.max(
      Math.ceil(this.rate / GRANTS_PER_SECOND),
      Math.min(MIN_GRANT_BYTES, Math.ceil(this.rate / 4)),
    );
  }

  /** Returns the time in ms that a flow waits before it gets a keep-alive grant. */
  #keepAliveInterval(): number {
    const flows = this.#waiting.size;
    const seconds = Math.max(
      flows / KEEP_ALIVES_PER_SECOND,
      (KEEP_ALIVE_SHARE * flows) / this.rate,
    );
    return Math.min(MAX_KEEP_ALIVE_MS, Math.max(MIN_KEEP_ALIVE_MS, seconds * 1000));
  }

  /**
   * Returns the maximum size of a keep-alive grant, in bytes. All keep-alive grants together use
   * 1/16 of the rate.
   */
  #keepAliveSize(): number {
    const share =
      (this.rate * this.#keepAliveInterval()) / 1000 / KEEP_ALIVE_SHARE / this.#waiting.size;
    return Math.max(1, Math.min(MIN_GRANT_BYTES, Math.floor(share)));
  }

  /**
   * Adds the bytes earned since the last call to the available bytes. Does not limit the sum to one
   * second's bytes: while a flow waits, a late timer must not reduce the rate.
   */
  #earn(): void {
    const now = this.#clock.now();
    this.#credit += (now - this.#earnedAt) * this.rate;
    this.#earnedAt = now;
  }
}
