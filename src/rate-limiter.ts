import { onAbort } from "./on-abort.ts";
import { requireInteger } from "./piece.ts";
import type { Clock, Timer } from "./runtime.ts";

/** Grants in a second at most, while there is more than a packet's worth to each. */
const GRANTS_PER_SECOND = 64;
/** Fewer bytes are not worth a packet, unless a quarter of a second earns no more. */
const MIN_GRANT = 1024;
/** Bounds of the time that a flow waits at most, in ms. The longer one is a third of the stall timeout that peers have by default. */
const MIN_WAIT = 1000;
const MAX_WAIT = 10_000;
/** Flows a second that are kept alive by a few bytes, before they wait for longer. */
const KEPT_ALIVE_PER_SECOND = 256;
/** Part of the rate for flows that are kept alive, one in so many. */
const KEEP_ALIVE_SHARE = 16;

/** Bytes of one transfer on their way through a {@link RateLimiter}. */
export interface Flow {
  /** Grants 1 to `most` bytes if that takes no wait, and else none: 0. */
  takeNow(most: number): number;
  /**
   * Resolves to a number of bytes that may pass, 1 to `most`; to 0 when the signal has fired. One call at a time.
   *
   * @param most at least 1
   */
  take(most: number, signal: AbortSignal): Promise<number>;
  /** Takes all of `bytes`, grant after grant. Resolves early when the signal fires; the caller looks at it afterwards. */
  takeAll(bytes: number, signal: AbortSignal): Promise<void>;
  /** Takes back bytes that were granted and are not sent after all, for the flows that wait. */
  giveBack(bytes: number): void;
}

interface Waiting {
  /** Position of its flow among all, by age. */
  readonly age: number;
  readonly share: Share;
  readonly most: number;
  readonly since: number;
  grant(bytes: number): void;
}

/** Bytes of one payer. */
interface Share {
  /** Bytes granted, on a scale of all payers together: payers with less are served first. */
  had: number;
  readonly waiting: Set<Waiting>;
}

/**
 * A token bucket: grants bytes at a steady rate. One second's worth may be taken at once after a pause.
 *
 * When there is less than is asked for:
 * - Payers have equal shares, in bytes: the next one is the payer that was granted least since it began to wait (start-time fair
 *   queueing, https://doi.org/10.1109/90.649569).
 * - Of one payer's flows the oldest is served first. Where all had equal shares, each would take as long as all of them together,
 *   and at a low rate none would be complete before the receiver's deadline.
 * - Every other flow is kept alive: it is granted a few bytes after a second, so that no receiver takes the wait for a stall.
 *   With many flows or a low rate it waits for longer, but no more than 20 s while the rate is a byte in 10 s for each flow.
 */
export class RateLimiter {
  readonly #clock: Clock;
  /** Bytes a second. */
  readonly rate: number;
  /** Thousandths of a byte, so that each millisecond earns a whole number of them. */
  #credit: number;
  #earnedAt: number;
  readonly #shares = new Map<unknown, Share>();
  /** The longest waiting first. */
  readonly #waiting = new Set<Waiting>();
  #flows = 0;
  /** Bytes that the payer served last had been granted by then. */
  #had = 0;
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

  /** The last time at which a flow had to wait, as the clock has it: now, while one does. */
  get waitedAt(): number {
    return this.#waiting.size > 0 ? this.#clock.now() : this.#waitedAt;
  }

  /**
   * Begins a flow.
   *
   * @param payer whose share it takes; default: the one of all flows that name none
   */
  flow(payer: unknown = ""): Flow {
    const age = this.#flows++;
    const giveBack = (bytes: number): void => {
      this.#credit += bytes * 1000;
      if (this.#timer !== undefined) this.#serve();
    };
    const flow: Flow = {
      takeNow: (most) => this.#takeNow(most),
      take: (most, signal) => this.#take(age, payer, most, signal),
      giveBack,
      async takeAll(bytes, signal) {
        for (let left = bytes; left > 0; ) {
          const granted = flow.takeNow(left) || (await flow.take(left, signal));
          if (granted === 0) {
            // The caller gives up all of it.
            giveBack(bytes - left);
            return;
          }
          left -= granted;
        }
      },
    };
    return flow;
  }

  #takeNow(most: number): number {
    if (this.#waiting.size > 0) return 0;
    this.#earn();
    this.#credit = Math.min(this.#credit, this.rate * 1000);
    const bytes = Math.min(most, this.#portion());
    if (this.#credit < bytes * 1000) return 0;
    this.#credit -= bytes * 1000;
    return bytes;
  }

  #take(age: number, payer: unknown, most: number, signal: AbortSignal): Promise<number> {
    if (signal.aborted) return Promise.resolve(0);
    const now = this.#takeNow(most);
    if (now > 0) return Promise.resolve(now);
    return new Promise((resolve) => {
      const share = this.#share(payer);
      const settle = (bytes: number): void => {
        unsubscribe();
        share.waiting.delete(waiting);
        this.#waiting.delete(waiting);
        this.#waitedAt = this.#clock.now();
        resolve(bytes);
      };
      const waiting: Waiting = { age, share, most, since: this.#clock.now(), grant: settle };
      const unsubscribe = onAbort(signal, () => {
        settle(0);
        this.#serve();
      });
      share.waiting.add(waiting);
      this.#waiting.add(waiting);
      this.#serve();
    });
  }

  /** Grants what there is, and sees to it that the rest is granted in time. */
  #serve(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#earn();
    for (let next = this.#next(); next !== undefined; next = this.#next()) {
      const { waiting, bytes, inTurn } = next;
      const missing = bytes * 1000 - this.#credit;
      if (missing > 0) {
        this.#timer = this.#clock.setTimer(() => this.#serve(), Math.ceil(missing / this.rate));
        return;
      }
      const { share } = waiting;
      this.#credit -= bytes * 1000;
      if (inTurn) this.#had = share.had;
      share.had += bytes;
      waiting.grant(bytes);
    }
    // Shares matter only among payers that wait.
    this.#shares.clear();
  }

  /** Whose turn it is, and bytes for it. */
  #next():
    | { readonly waiting: Waiting; readonly bytes: number; readonly inTurn: boolean }
    | undefined {
    const [longest] = this.#waiting;
    if (longest === undefined) return undefined;
    if (this.#clock.now() - longest.since >= this.#longestWait()) {
      return { waiting: longest, bytes: Math.min(longest.most, this.#keepAlive()), inTurn: false };
    }
    const share = this.#nextShare() ?? longest.share;
    let waiting = longest;
    for (const other of share.waiting) {
      if (waiting.share !== share || other.age < waiting.age) waiting = other;
    }
    return { waiting, bytes: Math.min(waiting.most, this.#portion()), inTurn: true };
  }

  /** The waiting payer that was granted least. */
  #nextShare(): Share | undefined {
    let next: Share | undefined;
    for (const [payer, share] of this.#shares) {
      if (share.waiting.size === 0) {
        // It was granted no more than others by now, so it would begin like this again.
        if (share.had <= this.#had) this.#shares.delete(payer);
      } else if (next === undefined || share.had < next.had) {
        next = share;
      }
    }
    return next;
  }

  #share(payer: unknown): Share {
    let share = this.#shares.get(payer);
    if (share === undefined) {
      share = { had: this.#had, waiting: new Set() };
      this.#shares.set(payer, share);
    } else if (share.waiting.size === 0) {
      // What it did not ask for meanwhile is not saved up.
      share.had = Math.max(share.had, this.#had);
    }
    return share;
  }

  /** Bytes of one grant. */
  #portion(): number {
    return Math.max(
      Math.ceil(this.rate / GRANTS_PER_SECOND),
      Math.min(MIN_GRANT, Math.ceil(this.rate / 4)),
    );
  }

  /** Milliseconds after which a flow is granted a few bytes before its turn. */
  #longestWait(): number {
    const flows = this.#waiting.size;
    const seconds = Math.max(flows / KEPT_ALIVE_PER_SECOND, (KEEP_ALIVE_SHARE * flows) / this.rate);
    return Math.min(MAX_WAIT, Math.max(MIN_WAIT, seconds * 1000));
  }

  /** Bytes that keep a flow alive, such that all flows together take a 16th of the rate for it. */
  #keepAlive(): number {
    const share = (this.rate * this.#longestWait()) / 1000 / KEEP_ALIVE_SHARE / this.#waiting.size;
    return Math.max(1, Math.min(MIN_GRANT, Math.floor(share)));
  }

  /** While a flow waits, more than a second's worth may come together: a timer may be late. */
  #earn(): void {
    const now = this.#clock.now();
    this.#credit += (now - this.#earnedAt) * this.rate;
    this.#earnedAt = now;
  }
}
