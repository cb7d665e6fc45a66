import { abortedError, VortexError, withAddress } from "../../errors.ts";
import { onAbort } from "../../on-abort.ts";
import type { Clock, Timer } from "../../runtime.ts";

/** Silence after which a peer that owes something is suspected, and between suspicions, in ms. */
export const SUSPICIOUS_SILENCE = 1500;

/** What ends one call: its AbortSignal, its piece timeout, and silence. */
export interface CallScopeOptions {
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds, see `CallOptions`. */
  readonly pieceTimeout: number;
  readonly stallTimeout: number;
  /** Milliseconds that one hold may last, see {@link CallScope.hold}. Default: the piece timeout. */
  readonly unreadTimeout?: number | undefined;
  /** For messages: `piece 3 of 10.0.0.1:4006`. */
  readonly what: string;
  readonly addr: string;
}

/**
 * The life of one call, from `downloadPiece` to the last byte of its content. Whatever fails it first is what every part
 * of it fails with: `signal` fires with that error as its reason. `finish` ends the scope, exactly once, in every case.
 */
export class CallScope {
  /** Fires when the call fails, with the `VortexError` as its reason. */
  readonly signal: AbortSignal;
  readonly #controller = new AbortController();
  #failure: VortexError | undefined;
  readonly #listeners: (() => void)[] = [];
  readonly #clock: Clock;
  readonly #options: CallScopeOptions;
  readonly #cleanups: (() => void)[] = [];
  readonly #startedAt: number;
  #deadline: Timer;
  /** When `#deadline` fires. */
  #deadlineAt = 0;
  /** Milliseconds of the holds that are over. */
  #held = 0;
  #heldSince: number | undefined;
  #watchdog: Timer | undefined;
  #onSilence: (() => void) | undefined;
  #waits = 0;
  #lastProgress = 0;
  #finished = false;

  constructor(clock: Clock, options: CallScopeOptions) {
    this.#clock = clock;
    this.#options = options;
    this.signal = this.#controller.signal;
    const { signal, pieceTimeout, what } = options;
    this.#startedAt = clock.now();
    this.#deadline = this.#deadlineIn(pieceTimeout);
    if (signal?.aborted) {
      this.fail(abortedError(signal, what));
    } else if (signal !== undefined) {
      this.#cleanups.push(onAbort(signal, () => this.fail(abortedError(signal, what))));
    }
  }

  /** What the call failed with, if it has failed. */
  get failure(): VortexError | undefined {
    return this.#failure;
  }

  /** Runs `listener` when the call fails; at once if it has. Costs less than listening to the signal. */
  onFailure(listener: () => void): void {
    if (this.#failure !== undefined) listener();
    else this.#listeners.push(listener);
  }

  /** Calls `listener` after each {@link SUSPICIOUS_SILENCE}. Replaces an earlier listener. */
  onSilence(listener: () => void): void {
    this.#onSilence = listener;
  }

  /** Fails the call: whoever waits on the signal hears of it, with the peer's address. The first failure stands. */
  fail(error: VortexError): void {
    if (this.#finished || this.#failure !== undefined) return;
    this.#failure = withAddress(error, this.#options.addr);
    this.#controller.abort(this.#failure);
    for (const listener of this.#listeners.splice(0)) listener();
    this.finish();
  }

  /** Fails the call with `error` if nothing has yet, and returns what it failed with. */
  end(error: unknown): VortexError {
    const failure = withAddress(error, this.#options.addr);
    this.fail(failure);
    this.finish();
    return this.failure ?? failure;
  }

  /** Runs `cleanup` when the scope ends, at once if it has. */
  onFinish(cleanup: () => void): void {
    if (this.#finished) cleanup();
    else this.#cleanups.push(cleanup);
  }

  /** Ends the scope: timers stop, listeners are gone, the pool has its lease back. Idempotent. */
  finish(): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#deadline.cancel();
    this.#watchdog?.cancel();
    for (const cleanup of this.#cleanups.splice(0)) cleanup();
  }

  /**
   * Waits for something that the peer owes: silence for longer than the stall timeout fails the call. A caller who reads
   * slowly is not silence of the peer, so only such waits count.
   */
  async waitFor<T>(owed: Promise<T>): Promise<T> {
    this.beginWait();
    try {
      return await owed;
    } catch (error) {
      throw this.failure ?? error;
    } finally {
      this.endWait();
    }
  }

  /** The peer owes something from now on; for loops that wait for each chunk, where {@link waitFor} would add its own promises. */
  beginWait(): void {
    if (this.#waits++ > 0) return;
    this.#lastProgress = this.#clock.now();
    // One timer for many short waits: it looks when it fires, instead of being set and cleared for each chunk.
    this.#watchdog ??= this.#lookIn(Math.min(SUSPICIOUS_SILENCE, this.#options.stallTimeout));
  }

  /** What was owed since {@link beginWait} has come, or will not. */
  endWait(): void {
    this.#waits--;
  }

  /**
   * Stops the piece timeout while the caller does not read: a rate limit, a slow disk and a slow reader are our own time and
   * not the peer's. A hold longer than the unread timeout fails the call, so that a piece that nobody reads is freed.
   */
  hold(): void {
    if (this.#heldSince !== undefined) return;
    const { pieceTimeout, unreadTimeout = pieceTimeout } = this.#options;
    this.#heldSince = this.#clock.now();
    this.#deadlineBefore(this.#heldSince + unreadTimeout);
  }

  /** Lets the piece timeout run on after {@link hold}. */
  resume(): void {
    if (this.#heldSince === undefined) return;
    const now = this.#clock.now();
    this.#held += now - this.#heldSince;
    this.#heldSince = undefined;
    this.#deadlineBefore(now + this.#timeLeft(now));
  }

  /** One timer serves many short holds: it is set again only when it would fire too late, and looks when it fires. */
  #deadlineBefore(time: number): void {
    if (this.#finished || this.#deadlineAt <= time) return;
    this.#deadline.cancel();
    this.#deadline = this.#deadlineIn(time - this.#clock.now());
  }

  /** Milliseconds of the piece timeout that are left. */
  #timeLeft(now: number): number {
    return this.#options.pieceTimeout - (now - this.#startedAt - this.#held);
  }

  #deadlineIn(milliseconds: number): Timer {
    this.#deadlineAt = this.#clock.now() + milliseconds;
    return this.#clock.setTimer(() => this.#checkDeadline(), milliseconds);
  }

  #checkDeadline(): void {
    const { pieceTimeout, unreadTimeout = pieceTimeout, what, addr } = this.#options;
    const now = this.#clock.now();
    const held = this.#heldSince;
    const left = held === undefined ? this.#timeLeft(now) : held + unreadTimeout - now;
    if (left > 0) {
      this.#deadline = this.#deadlineIn(left);
      return;
    }
    const message =
      held === undefined
        ? `${what} was not complete within ${pieceTimeout} ms`
        : `${what} was not read for ${unreadTimeout} ms`;
    this.fail(new VortexError("PieceTimeout", message, { addr }));
  }

  #look(): void {
    this.#watchdog = undefined;
    if (this.#finished || this.#waits === 0) return;
    const { stallTimeout, what, addr } = this.#options;
    const silence = this.#clock.now() - this.#lastProgress;
    if (silence >= stallTimeout) {
      this.fail(
        new VortexError("Stalled", `no byte of ${what} came for ${stallTimeout} ms`, { addr }),
      );
      return;
    }
    const suspicious = silence >= SUSPICIOUS_SILENCE;
    const next = suspicious ? SUSPICIOUS_SILENCE : SUSPICIOUS_SILENCE - silence;
    this.#watchdog = this.#lookIn(Math.min(next, stallTimeout - silence));
    if (suspicious) this.#onSilence?.();
  }

  #lookIn(milliseconds: number): Timer {
    return this.#clock.setTimer(() => this.#look(), milliseconds);
  }
}
