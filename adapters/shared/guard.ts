import { VortexError } from "../../src/errors.ts";
import { type Clock, systemClock } from "../../src/runtime.ts";

/** Whom a {@link Guard} tells. */
export interface GuardOptions {
  /** Ends what the callbacks belong to: a connection, a socket. Called once at most. Default: nothing ends. */
  readonly end?: (error: VortexError) => void;
  /** Hears of each exception that was caught. Default: no listener. */
  readonly onError?: ((error: VortexError) => void) | undefined;
}

/**
 * Runs event callbacks of sockets, timers and bindings. An exception there has no caller: it would end the process. Here it ends the
 * connection concerned, is counted, and goes to `onError`.
 *
 * `test/unit/project/guard.test.ts` holds every callback in the adapters to it.
 */
export class Guard {
  /** Timers of the runtime that run under this guard. */
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

  /** Exceptions caught, by this guard and by those made with {@link of}. */
  get caught(): number {
    return this.#caught;
  }

  /** A guard for one connection of many: ends that one, and counts and reports here. */
  of(end: (error: VortexError) => void): Guard {
    return new Guard({ end, onError: (error) => this.#report(error) });
  }

  /** The callback, which throws nothing. */
  wrap<A extends unknown[]>(callback: (...args: A) => unknown): (...args: A) => void {
    return (...args) => this.run(() => callback(...args));
  }

  /** Runs `work` now, and takes its exception or the rejection of its promise. */
  run(work: () => unknown): void {
    try {
      const result = work();
      if (result instanceof Promise) result.catch((error: unknown) => this.#catch(error));
    } catch (error) {
      this.#catch(error);
    }
  }

  /** A clock whose timers run under this guard. */
  over(clock: Clock): Clock {
    return {
      now: () => clock.now(),
      setTimer: (callback, milliseconds, options) =>
        clock.setTimer(this.wrap(callback), milliseconds, options),
    };
  }

  #catch(cause: unknown): void {
    const error = VortexError.from(cause, "Internal", "an event callback failed");
    const end = this.#end;
    // Once: ending may have callbacks of its own, which may fail too.
    this.#end = undefined;
    // What fails in turn must not end the process either; there is nothing left that it could end.
    for (const tell of [end, this.#report]) {
      try {
        tell?.(error);
      } catch {
        // See above.
      }
    }
  }
}
