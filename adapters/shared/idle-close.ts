import { VortexError } from "../../src/errors.ts";
import type { Clock, Timer } from "../../src/runtime.ts";

/** Milliseconds without a stream after which a connection that would hold its process is closed. */
export const IDLE_CLOSE = 5000;

/**
 * Closes an idle connection of a client after a while. For runtimes where an idle connection
 * keeps the process alive: a program that forgets to close its downloader would never end.
 */
export class IdleClose {
  readonly #clock: Clock;
  readonly #close: (error: VortexError) => void;
  #timer: Timer | undefined;

  /** @param close ends the connection. A request at that moment fails with the error and may retry. */
  constructor(clock: Clock, close: (error: VortexError) => void) {
    this.#clock = clock;
    this.#close = close;
  }

  /** Notes whether the connection is in use. */
  set busy(busy: boolean) {
    if (busy) {
      this.#timer?.cancel();
      this.#timer = undefined;
      return;
    }
    this.#timer ??= this.#clock.setTimer(
      () =>
        this.#close(
          new VortexError("ConnectionLost", `idle for ${IDLE_CLOSE} ms: closed on this side`),
        ),
      IDLE_CLOSE,
      { background: true },
    );
  }
}
