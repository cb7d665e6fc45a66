import { VortexError } from "../src/errors.ts";
import type { Clock, Timer } from "../src/runtime.ts";

/** Milliseconds without a stream after which a connection that would hold its process is closed. */
export const IDLE_CLOSE = 5000;

/**
 * Closes a client's connection that has been idle for a while. For runtimes where a connection keeps the process alive, whatever it does:
 * else a program that forgets to close its downloader would never end.
 */
export class IdleClose {
  readonly #clock: Clock;
  readonly #close: (error: VortexError) => void;
  #timer: Timer | undefined;

  /** @param close ends the connection; whatever asks for a stream at that moment fails with the error, and may ask again */
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
      () => this.#close(new VortexError("ConnectionLost", `idle for ${IDLE_CLOSE} ms: closed on this side`)),
      IDLE_CLOSE,
      { background: true },
    );
  }
}
