import { onAbort } from "./on-abort.ts";
import { requireInteger } from "./piece.ts";
import type { Clock, Timer } from "./runtime.ts";

/** Bytes; fewer are not worth a packet. */
const LEAST_PORTION = 1024;
/** Portions in a second's worth: what many wait for in turn has to come to each of them long before it takes the wait for a stall. */
const PORTIONS = 64;

interface Waiting {
  readonly bytes: number;
  readonly grant: () => void;
}

/** What one payer has had, and asks for. */
interface Share {
  /** Bytes it has had, on a scale of all payers together: those with less are served before it. */
  had: number;
  /** The first to ask is the first. */
  readonly waiting: Set<Waiting>;
}

/**
 * A token bucket: grants bytes at a steady rate. One second's worth may be taken at once after a pause.
 *
 * When there is less than is asked for, payers have equal shares of it, in bytes, however much each of them asks for: the next to be served is
 * who has had least since it began to wait (start-time fair queueing, https://doi.org/10.1109/90.649569). One payer's requests are
 * served in the order in which they came.
 */
export class RateLimiter {
  readonly #clock: Clock;
  readonly #bytesPerSecond: number;
  /** Thousandths of a byte, so that each millisecond earns a whole number of them. */
  #credit: number;
  #earnedAt: number;
  readonly #shares = new Map<string, Share>();
  /** What the payer that was served last had had by then. */
  #had = 0;
  #timer: Timer | undefined;

  /** @throws `InvalidArgument` unless `bytesPerSecond` is a positive integer */
  constructor(bytesPerSecond: number, clock: Clock) {
    requireInteger("bytes per second", bytesPerSecond, 1, Number.MAX_SAFE_INTEGER);
    this.#clock = clock;
    this.#bytesPerSecond = bytesPerSecond;
    this.#credit = bytesPerSecond * 1000;
    this.#earnedAt = clock.now();
  }

  /** The chunk in portions of a 64th of a second each, so that bytes keep coming to each of many at a low rate. */
  *portions(chunk: Uint8Array): Generator<Uint8Array, void, void> {
    const length = Math.max(LEAST_PORTION, Math.ceil(this.#bytesPerSecond / PORTIONS));
    for (let at = 0; at < chunk.length; at += length) yield chunk.subarray(at, at + length);
  }

  /** Takes `bytes` if they may pass without a wait; else nothing, and tells so by false. */
  takeNow(bytes: number): boolean {
    if (this.#timer !== undefined) return false;
    this.#earn();
    this.#credit = Math.min(this.#credit, this.#bytesPerSecond * 1000);
    if (this.#credit < bytes * 1000) return false;
    this.#credit -= bytes * 1000;
    return true;
  }

  /**
   * Resolves when `bytes` may pass, or when the signal fires, and then takes nothing; the caller looks at the signal afterwards.
   *
   * @param payer whose share it is; default: the one of all who name none
   */
  take(bytes: number, signal: AbortSignal, payer = ""): Promise<void> {
    if (signal.aborted || this.takeNow(bytes)) return Promise.resolve();
    return new Promise((resolve) => {
      const share = this.#share(payer);
      const waiting: Waiting = {
        bytes,
        grant: () => {
          settled();
          share.waiting.delete(waiting);
          resolve();
        },
      };
      const settled = onAbort(signal, () => {
        waiting.grant();
        this.#serve();
      });
      share.waiting.add(waiting);
      this.#serve();
    });
  }

  /** Takes back what was granted and is not sent after all, for those who wait. */
  giveBack(bytes: number): void {
    this.#credit += bytes * 1000;
    if (this.#timer !== undefined) this.#serve();
  }

  /** Grants what there is, and sees to it that the rest is granted in time. */
  #serve(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#earn();
    for (let next = this.#next(); next !== undefined; next = this.#next()) {
      const { share, first } = next;
      const missing = first.bytes * 1000 - this.#credit;
      if (missing > 0) {
        const wait = Math.ceil(missing / this.#bytesPerSecond);
        this.#timer = this.#clock.setTimer(() => this.#serve(), wait);
        return;
      }
      this.#credit -= first.bytes * 1000;
      this.#had = share.had;
      share.had += first.bytes;
      first.grant();
    }
    // What payers had counts among those who wait only.
    this.#shares.clear();
  }

  /** Whose turn it is: of those who wait, the payer that has had least. */
  #next(): { readonly share: Share; readonly first: Waiting } | undefined {
    let next: { readonly share: Share; readonly first: Waiting } | undefined;
    for (const [payer, share] of this.#shares) {
      const [first] = share.waiting;
      if (first === undefined) {
        // Has had no more than others by now, so it would begin anew like this.
        if (share.had <= this.#had) this.#shares.delete(payer);
      } else if (next === undefined || share.had < next.share.had) {
        next = { share, first };
      }
    }
    return next;
  }

  #share(payer: string): Share {
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

  /** While somebody waits, more than a second's worth may come together, if that is what it takes. */
  #earn(): void {
    const now = this.#clock.now();
    this.#credit += (now - this.#earnedAt) * this.#bytesPerSecond;
    this.#earnedAt = now;
  }
}
