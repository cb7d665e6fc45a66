import { VortexError } from "../../src/errors.ts";
import type { Clock, Timer } from "../../src/runtime.ts";

/** Time without streams after which a client closes its connection, in ms. */
export const IDLE_CLOSE_MS = 5000;

/**
 * Closes a client's connection after {@link IDLE_CLOSE_MS} without streams. It is used on runtimes
 * where an idle connection keeps the process alive. There, a program that does not close its
 * downloader would otherwise never exit.
 */
export class IdleClose {
  readonly #clock: Clock;
  readonly #close: (error: VortexError) => void;
  #timer: Timer | undefined;

  /**
   * @param close closes the connection. A request that starts at the same time fails with the given
   * error, and may be retried.
   */
  constructor(clock: Clock, close: (error: VortexError) => void) {
    this.#clock = clock;
    this.#close = close;
  }

  /**
   * Set to true while the connection has open streams. Setting true cancels the close timer.
   * Setting false starts the timer, unless it is already running.
   */
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
