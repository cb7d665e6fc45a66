import { VortexError } from "../../src/errors.ts";
import { type Clock, systemClock } from "../../src/runtime.ts";

/** Options of a {@link Guard}. */
export interface GuardOptions {
  /**
   * Ends the connection or socket that the callbacks belong to, after the first exception. Called
   * at most once. Default: no action.
   */
  readonly end?: (error: VortexError) => void;
  /** Receives each caught exception. Default: exceptions are counted but not reported. */
  readonly onError?: ((error: VortexError) => void) | undefined;
}

/**
 * Runs event callbacks of sockets, timers and bindings, and catches their exceptions. An uncaught
 * exception would end the process. The guard counts each exception, ends the connection that the
 * callback belongs to, and reports the exception to `onError`.
 *
 * `test/unit/project/guard.test.ts` checks that every callback in the adapters runs under a guard.
 */
export class Guard {
  /** System clock. This guard catches the exceptions of its timer callbacks. */
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
   * Creates a guard for one of many connections. An exception in a callback of this connection
   * calls `end`, which ends only this connection. The parent guard also counts and reports the
   * exception.
   */
  of(end: (error: VortexError) => void): Guard {
    return new Guard({ end, onError: (error) => this.#report(error) });
  }

  /**
   * Returns a function that calls `callback` and never throws. The guard catches all exceptions of
   * `callback`.
   */
  wrap<A extends unknown[]>(callback: (...args: A) => unknown): (...args: A) => void {
    return (...args) => this.run(() => callback(...args));
  }

  /**
   * Calls `work` at once. Catches its exception, or the rejection of the promise that it returns.
   */
  run(work: () => unknown): void {
    try {
      const result = work();
      if (result instanceof Promise) result.catch((error: unknown) => this.#catch(error));
    } catch (error) {
      this.#catch(error);
    }
  }

  /** Returns a clock like `clock`. This guard catches the exceptions of its timer callbacks. */
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
