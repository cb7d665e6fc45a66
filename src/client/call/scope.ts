import { abortedError, VortexError, withAddress } from "../../errors.ts";
import { onAbort } from "../../on-abort.ts";
import type { Clock, Timer } from "../../runtime.ts";

/**
 * Interval in ms between calls of the {@link CallScope.onSilence} listener, while a call waits for
 * the peer and receives no bytes.
 */
export const SILENCE_INTERVAL_MS = 1500;

/** Options of {@link CallScope}: abort signal and timeouts of one call. */
export interface CallScopeOptions {
  /** Signal of the caller. Its abort fails the call with `Aborted`. */
  readonly signal?: AbortSignal | undefined;
  /** Piece timeout in ms, see `CallOptions.pieceTimeout`. */
  readonly pieceTimeout: number;
  /** Stall timeout in ms, see `CallOptions.stallTimeout`. */
  readonly stallTimeout: number;
  /**
   * Maximum time in ms between two reads of the content by the caller, see {@link CallScope.hold}.
   * Default: `pieceTimeout`.
   */
  readonly unreadTimeout?: number | undefined;
  /** Name of the call in error messages, such as `piece 3 from 10.0.0.1:4006`. */
  readonly what: string;
  /** Address of the peer, added to each error of the call. */
  readonly addr: string;
}

/**
 * Timeouts, abort signal and error of one call, from `downloadPiece` to the last byte of the
 * content. The first failure becomes the error of every part of the call.
 *
 * The scope ends once: when the call fails, or when {@link finish} reports its success.
 */
export class CallScope {
  /** Signal that aborts when the call fails, with the `VortexError` of the call as its reason. */
  readonly signal: AbortSignal;
  readonly #controller = new AbortController();
  #failure: VortexError | undefined;
  readonly #listeners: (() => void)[] = [];
  readonly #clock: Clock;
  readonly #options: CallScopeOptions;
  readonly #cleanups: (() => void)[] = [];
  readonly #startedAt: number;
  #deadline: Timer;
  /** Time at which the timer `#deadline` fires, in ms of the clock. */
  #deadlineAt = 0;
  /**
   * Total time in ms for which the piece timeout was paused, without the current pause, see
   * {@link hold}.
   */
  #heldMs = 0;
  /**
   * Time at which {@link hold} paused the piece timeout, in ms of the clock. Undefined while the
   * piece timeout runs.
   */
  #heldSince: number | undefined;
  /** Timer of the next check for a silent peer; undefined while no check is scheduled. */
  #watchdog: Timer | undefined;
  #onSilence: (() => void) | undefined;
  /** Number of parts of the call that wait for bytes of the peer. */
  #waits = 0;
  /** Time at which the current wait for bytes of the peer began, in ms of the clock. */
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

  /** Error of the call; undefined while the call has not failed. */
  get failure(): VortexError | undefined {
    return this.#failure;
  }

  /**
   * Calls `listener` when the call fails, or immediately if the call has failed. Cheaper than an
   * abort listener on `signal`.
   */
  onFailure(listener: () => void): void {
    if (this.#failure !== undefined) listener();
    else this.#listeners.push(listener);
  }

  /**
   * Calls `listener` every {@link SILENCE_INTERVAL_MS} while the call waits for the peer and
   * receives no bytes. Replaces the previous listener.
   */
  onSilence(listener: () => void): void {
    this.#onSilence = listener;
  }

  /**
   * Fails the call with `error`, to which the address of the peer is added. Does nothing if the
   * call has already failed or finished.
   */
  fail(error: VortexError): void {
    if (this.#finished || this.#failure !== undefined) return;
    this.#failure = withAddress(error, this.#options.addr);
    this.#controller.abort(this.#failure);
    for (const listener of this.#listeners.splice(0)) listener();
    this.finish();
  }

  /**
   * Fails the call with `error`, and returns the error of the call. If the call has already failed,
   * that is the earlier error.
   */
  end(error: unknown): VortexError {
    const failure = withAddress(error, this.#options.addr);
    this.fail(failure);
    this.finish();
    return this.failure ?? failure;
  }

  /** Calls `cleanup` when the call fails or finishes, or immediately if it has. */
  onFinish(cleanup: () => void): void {
    if (this.#finished) cleanup();
    else this.#cleanups.push(cleanup);
  }

  /**
   * Ends the call: cancels its timers and runs its cleanups, which release the pooled connection.
   * Also called after a failure. Idempotent.
   */
  finish(): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#deadline.cancel();
    this.#watchdog?.cancel();
    for (const cleanup of this.#cleanups.splice(0)) cleanup();
  }

  /**
   * Awaits a promise that settles when the peer responds, and applies the stall timeout meanwhile.
   *
   * The stall timeout runs only during such waits. So time in which the caller does not read is not
   * counted.
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
   * Starts to apply the stall timeout, until {@link endWait}. Does the same as {@link waitFor} with
   * fewer promises, for loops that wait for each chunk.
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

  /** Ends a wait for the peer that {@link beginWait} started. */
  endWait(): void {
    this.#waits--;
  }

  /**
   * Pauses the piece timeout until {@link resume} is called. Used while received data waits for the
   * caller, so that its rate limits, slow disks and slow readers do not count against the peer.
   *
   * If the pause exceeds `unreadTimeout`, the call fails with `PieceTimeout`. This frees the
   * resources of a piece that the caller never reads to its end.
   */
  hold(): void {
    if (this.#heldSince !== undefined) return;
    const { pieceTimeout, unreadTimeout = pieceTimeout } = this.#options;
    this.#heldSince = this.#clock.now();
    this.#advanceDeadline(this.#heldSince + unreadTimeout);
  }

  /** Continues the piece timeout that {@link hold} has paused. */
  resume(): void {
    if (this.#heldSince === undefined) return;
    const now = this.#clock.now();
    this.#heldMs += now - this.#heldSince;
    this.#heldSince = undefined;
    this.#advanceDeadline(now + this.#timeLeft(now));
  }

  /**
   * Makes the deadline timer fire at `time` (in ms of the clock) or earlier. When the timer fires,
   * it checks the timeout and restarts if time is left. So it is replaced only if it would fire too
   * late.
   */
  #advanceDeadline(time: number): void {
    if (this.#finished || this.#deadlineAt <= time) return;
    this.#deadline.cancel();
    this.#deadline = this.#deadlineIn(time - this.#clock.now());
  }

  /** Returns the remaining time of the piece timeout at time `now`, in ms. */
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
