import { abortedError, VortexError, withAddress } from "../../errors.ts";
import { onAbort } from "../../on-abort.ts";
import type { Clock, Timer } from "../../runtime.ts";

/** Interval of {@link CallScope.onSilence} while the peer is silent, in ms. */
export const SILENCE_INTERVAL_MS = 1500;

/** Options of {@link CallScope}: the signal and the timeouts that can fail the call. */
export interface CallScopeOptions {
  /** Signal of the caller; its abort fails the call with `Aborted`. */
  readonly signal?: AbortSignal | undefined;
  /** See `CallOptions.pieceTimeout`, in ms. */
  readonly pieceTimeout: number;
  /** See `CallOptions.stallTimeout`, in ms. */
  readonly stallTimeout: number;
  /** Maximum duration of a hold in ms, see {@link CallScope.hold}. Default: `pieceTimeout`. */
  readonly unreadTimeout?: number | undefined;
  /** Name of the call in messages, such as `piece 3 from 10.0.0.1:4006`. */
  readonly what: string;
  /** Address of the peer, added to each error. */
  readonly addr: string;
}

/**
 * Lifetime of one call, from `downloadPiece` to the last byte of its content. The first failure
 * becomes the error of every part of the call, and the reason of {@link signal}. The scope ends
 * exactly once: when it fails, or by {@link finish}.
 */
export class CallScope {
  /** Aborts when the call fails, with its `VortexError` as the reason. */
  readonly signal: AbortSignal;
  readonly #controller = new AbortController();
  #failure: VortexError | undefined;
  readonly #listeners: (() => void)[] = [];
  readonly #clock: Clock;
  readonly #options: CallScopeOptions;
  readonly #cleanups: (() => void)[] = [];
  readonly #startedAt: number;
  #deadline: Timer;
  /** Time at which `#deadline` fires, in ms of the clock. */
  #deadlineAt = 0;
  /** Total duration of all ended holds, in ms. */
  #heldMs = 0;
  /** Start of the current hold, in ms of the clock; undefined outside a hold. */
  #heldSince: number | undefined;
  /** Timer of the next check for silence; undefined while none is scheduled. */
  #watchdog: Timer | undefined;
  #onSilence: (() => void) | undefined;
  /** Number of waits for the peer in progress. */
  #waits = 0;
  /** Start of the current silence, in ms of the clock. */
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

  /** Error of the call; undefined unless it has failed. */
  get failure(): VortexError | undefined {
    return this.#failure;
  }

  /**
   * Calls `listener` when the call fails, at once if it has. Cheaper than a listener on `signal`.
   */
  onFailure(listener: () => void): void {
    if (this.#failure !== undefined) listener();
    else this.#listeners.push(listener);
  }

  /**
   * Calls `listener` after each {@link SILENCE_INTERVAL_MS} without bytes from the peer during a
   * wait. Replaces the previous listener.
   */
  onSilence(listener: () => void): void {
    this.#onSilence = listener;
  }

  /**
   * Fails the call with `error`, adds the peer's address to it, and ends the scope. No-op once it
   * has ended.
   */
  fail(error: VortexError): void {
    if (this.#finished || this.#failure !== undefined) return;
    this.#failure = withAddress(error, this.#options.addr);
    this.#controller.abort(this.#failure);
    for (const listener of this.#listeners.splice(0)) listener();
    this.finish();
  }

  /** Fails the call with `error` unless it has failed before, and returns the error of the call. */
  end(error: unknown): VortexError {
    const failure = withAddress(error, this.#options.addr);
    this.fail(failure);
    this.finish();
    return this.failure ?? failure;
  }

  /** Calls `cleanup` when the scope ends, at once if it has. */
  onFinish(cleanup: () => void): void {
    if (this.#finished) cleanup();
    else this.#cleanups.push(cleanup);
  }

  /**
   * Ends the scope: cancels its timers and runs the cleanups, which return the pool's lease.
   * Idempotent.
   */
  finish(): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#deadline.cancel();
    this.#watchdog?.cancel();
    for (const cleanup of this.#cleanups.splice(0)) cleanup();
  }

  /**
   * Awaits a promise that the peer has to settle, under the stall timeout. Only such waits count as
   * silence of the peer; time in which the caller does not read does not.
   */
  async waitFor<T>(promise: Promise<T>): Promise<T> {
    this.beginWait();
    try {
      return await promise;
    } catch (error) {
      throw this.failure ?? error;
    } finally {
      this.endWait();
    }
  }

  /**
   * Starts a wait for the peer, like {@link waitFor} without its promises: for loops that wait for
   * each chunk. {@link endWait} ends it.
   */
  beginWait(): void {
    if (this.#waits++ > 0) return;
    this.#lastProgress = this.#clock.now();
    // One timer serves many short waits: it checks the silence when it fires, so that no timer is
    // set and cleared for each chunk.
    this.#watchdog ??= this.#checkSilenceIn(
      Math.min(SILENCE_INTERVAL_MS, this.#options.stallTimeout),
    );
  }

  /** Ends a wait of {@link beginWait}. */
  endWait(): void {
    this.#waits--;
  }

  /**
   * Pauses the piece timeout while the caller does not read: rate limits, slow disks and slow
   * readers do not count against the peer. A hold longer than the unread timeout fails the call,
   * which frees the resources of an abandoned piece.
   */
  hold(): void {
    if (this.#heldSince !== undefined) return;
    const { pieceTimeout, unreadTimeout = pieceTimeout } = this.#options;
    this.#heldSince = this.#clock.now();
    this.#advanceDeadline(this.#heldSince + unreadTimeout);
  }

  /** Resumes the piece timeout after {@link hold}. */
  resume(): void {
    if (this.#heldSince === undefined) return;
    const now = this.#clock.now();
    this.#heldMs += now - this.#heldSince;
    this.#heldSince = undefined;
    this.#advanceDeadline(now + this.#timeLeft(now));
  }

  /**
   * Makes the deadline timer fire no later than at `time`. One timer serves many short holds: it is
   * replaced only if it would fire too late, and checks the deadline when it fires.
   */
  #advanceDeadline(time: number): void {
    if (this.#finished || this.#deadlineAt <= time) return;
    this.#deadline.cancel();
    this.#deadline = this.#deadlineIn(time - this.#clock.now());
  }

  /** Returns the rest of the piece timeout, in ms. */
  #timeLeft(now: number): number {
    return this.#options.pieceTimeout - (now - this.#startedAt - this.#heldMs);
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
        ? `${what}: not complete within ${pieceTimeout} ms (pieceTimeout)`
        : `${what}: content not read for ${unreadTimeout} ms (unreadTimeout)`;
    this.fail(new VortexError("PieceTimeout", message, { addr }));
  }

  #checkSilence(): void {
    this.#watchdog = undefined;
    if (this.#finished || this.#waits === 0) return;
    const { stallTimeout, what, addr } = this.#options;
    const silence = this.#clock.now() - this.#lastProgress;
    if (silence >= stallTimeout) {
      this.fail(
        new VortexError("Stalled", `${what}: no bytes for ${stallTimeout} ms (stallTimeout)`, {
          addr,
        }),
      );
      return;
    }
    const silent = silence >= SILENCE_INTERVAL_MS;
    const next = silent ? SILENCE_INTERVAL_MS : SILENCE_INTERVAL_MS - silence;
    this.#watchdog = this.#checkSilenceIn(Math.min(next, stallTimeout - silence));
    if (silent) this.#onSilence?.();
  }

  #checkSilenceIn(milliseconds: number): Timer {
    return this.#clock.setTimer(() => this.#checkSilence(), milliseconds);
  }
}
