import { VortexError } from "../../src/errors.ts";
import type { Clock, Timer } from "../../src/runtime.ts";

/** Time without streams after which an idle connection is closed, in ms. */
export const IDLE_CLOSE_MS = 5000;

/**
 * Closes a client's connection after {@link IDLE_CLOSE_MS} without streams. Used on runtimes where
 * an idle connection keeps the process alive: a program that does not close its downloader would
 * never exit.
 */
export class IdleClose {
  readonly #clock: Clock;
  readonly #close: (error: VortexError) => void;
  #timer: Timer | undefined;

  /**
   * @param close ends the connection. A concurrent request fails with the error and may be retried.
   */
  constructor(clock: Clock, close: (error: VortexError) => void) {
    this.#clock = clock;
    this.#close = close;
  }

  /** Sets whether the connection has streams. `false` starts the timer, `true` cancels it. */
  set busy(busy: boolean) {
    if (busy) {
      this.#timer?.cancel();
      this.#timer = undefined;
      return;
    }
    this.#timer ??= this.#clock.setTimer(
      () =>
        this.#close(
          new VortexError("ConnectionLost", `idle for ${IDLE_CLOSE_MS} ms: closed on this side`),
        ),
      IDLE_CLOSE_MS,
      { background: true },
    );
  }
}
