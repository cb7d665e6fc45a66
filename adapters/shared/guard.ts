import { VortexError } from "../../src/errors.ts";
import { type Clock, systemClock } from "../../src/runtime.ts";

/** Options of a {@link Guard}. */
export interface GuardOptions {
  /** Ends the connection or socket of the callbacks. Called at most once. Default: no action. */
  readonly end?: (error: VortexError) => void;
  /** Receives each caught exception. Default: no listener. */
  readonly onError?: ((error: VortexError) => void) | undefined;
}

/**
 * Runs event callbacks of sockets, timers and bindings, and catches their exceptions. Uncaught,
 * such an exception would end the process. The guard counts it, ends the connection concerned and
 * reports it to `onError`.
 *
 * `test/unit/project/guard.test.ts` checks that every callback in the adapters runs under a guard.
 */
export class Guard {
  /** System clock whose timer callbacks run under this guard. */
  readonly clock: Clock;
  #end: ((error: VortexError) => void) | undefined;
  readonly #report: (error: VortexError) => void;
  #caught = 0;

  constructor({ end, onError }: GuardOptions = {}) {
    this.#end = end;
    this.#report = (error) => {
      this.#caught++;
      onError?.(error);
    };
    this.clock = this.over(systemClock);
  }

  /** Number of exceptions caught by this guard and by the guards created with {@link of}. */
  get caught(): number {
    return this.#caught;
  }

  /**
   * Creates a guard for one of many connections. Its exceptions end only that connection. They are
   * counted and reported by this guard.
   */
  of(end: (error: VortexError) => void): Guard {
    return new Guard({ end, onError: (error) => this.#report(error) });
  }

  /** Wraps a callback so that it never throws. */
  wrap<A extends unknown[]>(callback: (...args: A) => unknown): (...args: A) => void {
    return (...args) => this.run(() => callback(...args));
  }

  /** Runs `work` now and catches its exception, or the rejection of its promise. */
  run(work: () => unknown): void {
    try {
      const result = work();
      if (result instanceof Promise) result.catch((error: unknown) => this.#catch(error));
    } catch (error) {
      this.#catch(error);
    }
  }

  /** Wraps a clock so that its timer callbacks run under this guard. */
  over(clock: Clock): Clock {
    return {
      now: () => clock.now(),
      setTimer: (callback, milliseconds, options) =>
        clock.setTimer(this.wrap(callback), milliseconds, options),
    };
  }

  #catch(cause: unknown): void {
    const error = VortexError.from(cause, "Internal", "event callback failed");
    const end = this.#end;
    // Called once only: `end` may trigger callbacks that fail too.
    this.#end = undefined;
    // Exceptions of these two must not end the process either, and have nothing left to end.
    for (const handle of [end, this.#report]) {
      try {
        handle?.(error);
      } catch {
        // See above.
      }
    }
  }
}
