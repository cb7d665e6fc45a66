import { VortexError } from "../errors.ts";
import { onAbort } from "../on-abort.ts";
import type { Clock, Timer } from "../runtime.ts";

/** Action that a {@link StaggeredRace} requests from its caller after an event. */
export type RaceStep =
  /**
   * Start the attempt with this number. If `last` is false, also restart the timer for the delay.
   */
  | { readonly type: "start"; readonly attempt: number; readonly last: boolean }
  /** Do nothing until the next event. */
  | { readonly type: "wait" }
  /** Report failure to the user: all attempts have started and failed. */
  | { readonly type: "exhausted" };

const WAIT: RaceStep = { type: "wait" };

/**
 * State machine of Happy Eyeballs (RFC 8305, section 5): starts attempts one after another, until
 * an attempt succeeds. The next attempt starts when an attempt fails, or when a delay has passed.
 * The class performs no I/O and has no timer; the caller reports events to it. Attempts are
 * numbered from 0.
 */
export class StaggeredRace {
  readonly #attempts: number;
  readonly #running = new Set<number>();
  #next = 0;
  #over = false;

  /** @param attempts maximum number of attempts, at least 1 */
  constructor(attempts: number) {
    this.#attempts = attempts;
  }

  /** True once an attempt has succeeded, all attempts have failed, or {@link stop} was called. */
  get over(): boolean {
    return this.#over;
  }

  /**
   * Starts the next attempt. If there is none, returns the step `wait`. The caller calls it once at
   * the beginning, and whenever the delay after the latest start has passed.
   */
  advance(): RaceStep {
    if (this.#over || this.#next === this.#attempts) return WAIT;
    const attempt = this.#next++;
    this.#running.add(attempt);
    return { type: "start", attempt, last: this.#next === this.#attempts };
  }

  /**
   * Records that an attempt has failed, and starts the next attempt. If there is none, returns the
   * step `wait` while other attempts run, else the step `exhausted`.
   */
  failed(attempt: number): RaceStep {
    this.#running.delete(attempt);
    if (this.#over || this.#next < this.#attempts) return this.advance();
    if (this.#running.size > 0) return WAIT;
    this.#over = true;
    return { type: "exhausted" };
  }

  /**
   * Records that an attempt has succeeded; no further attempt starts. Returns the numbers of the
   * other running attempts; the caller must abort them.
   */
  won(attempt: number): readonly number[] {
    this.#running.delete(attempt);
    return this.stop();
  }

  /**
   * Cancels the race: no further attempt starts. Returns the numbers of the running attempts; the
   * caller must abort them.
   */
  stop(): readonly number[] {
    this.#over = true;
    return [...this.#running];
  }
}

/**
 * Candidate of {@link runStaggered} whose attempt has failed, or was still running when the next
 * attempt started.
 */
export interface Setback<C> {
  readonly candidate: C;
  /** Error of the failed attempt; undefined if the attempt was still running. */
  readonly error: VortexError | undefined;
}

/**
 * Options of {@link runStaggered}. `C` is the type of a candidate, such as an address, and `T` the
 * type of the result, such as a connection.
 */
export interface StaggeredRaceOptions<C, T> {
  /** Candidates in the order in which their attempts start; at least one. */
  readonly candidates: readonly C[];
  /** Time in ms after the start of an attempt at which the attempt of the next candidate starts. */
  readonly delay: number;
  readonly clock: Clock;
  /** Aborts all attempts; {@link runStaggered} then rejects. */
  readonly signal: AbortSignal | undefined;
  /**
   * Creates the error for {@link signal} after it has aborted. {@link runStaggered} rejects with
   * this error, and aborts the running attempts with it.
   */
  aborted(signal: AbortSignal): VortexError;
  /**
   * Creates the reason with which the other running attempts are aborted when `candidate` succeeds.
   */
  beatenBy(candidate: C): VortexError;
  /**
   * Starts the attempt of a candidate. When `signal` aborts, the attempt must end. If it still
   * succeeds, its result is passed to {@link discard}; if it fails, its error is ignored.
   *
   * @param setbacks other candidates that have failed or were too slow so far
   */
  run(candidate: C, signal: AbortSignal, setbacks: readonly Setback<C>[]): Promise<T>;
  /**
   * Returns true if no other candidate can help after an attempt has failed with `error`.
   * {@link runStaggered} then settles at once.
   */
  isFinal(error: VortexError): boolean;
  /** Releases the result of an attempt that succeeded after {@link runStaggered} had settled. */
  discard(result: T): void;
  /** Called when an attempt ends after {@link runStaggered} has settled. Default: no callback. */
  onLost?(candidate: C): void;
}

/**
 * Outcome of {@link runStaggered}. `C` is the type of a candidate, and `T` the type of a result.
 */
export type RaceOutcome<C, T> =
  /**
   * The attempt of `candidate` succeeded with `result`. `setbacks` lists the candidates that had
   * failed or were too slow before it started.
   */
  | { readonly candidate: C; readonly setbacks: readonly Setback<C>[]; readonly result: T }
  /** The attempt of `candidate` failed with an error for which `isFinal` returned true. */
  | {
      readonly candidate: C;
      readonly setbacks: readonly Setback<C>[];
      readonly error: VortexError;
    }
  /** The attempts of all candidates failed. */
  | { readonly setbacks: readonly Setback<C>[] };

/**
 * Runs Happy Eyeballs (RFC 8305) over any kind of attempt: starts the attempts of the candidates
 * one after another, see {@link StaggeredRace}. Each attempt receives a separate abort signal.
 *
 * Resolves when an attempt succeeds, when all have failed, or when an attempt fails with an error
 * for which `isFinal` returns true. Rejects when `signal` aborts. Afterwards, no further attempt
 * starts, and `signal` has no event listener of this call.
 */
export function runStaggered<C, T>(
  options: StaggeredRaceOptions<C, T>,
): Promise<RaceOutcome<C, T>> {
  const { candidates, delay, clock, signal } = options;
  if (signal?.aborted) return Promise.reject(options.aborted(signal));
  return new Promise((resolve, reject) => {
    const race = new StaggeredRace(candidates.length);
    const controllers: AbortController[] = [];
    const setbacks: Setback<C>[] = [];
    let timer: Timer | undefined;

    /**
     * Stops the timer, removes the listener of `signal`, and aborts the attempts `losers` with
     * `reason`.
     */
    const finish = (losers: readonly number[], reason: VortexError | undefined): void => {
      timer?.cancel();
      unsubscribe?.();
      for (const attempt of losers) controllers[attempt]?.abort(reason);
    };
    const unsubscribe =
      signal &&
      onAbort(signal, () => {
        const reason = options.aborted(signal);
        finish(race.stop(), reason);
        reject(reason);
      });
    const follow = (step: RaceStep): void => {
      if (step.type === "start") {
        start(step.attempt, step.last);
      } else if (step.type === "exhausted") {
        finish([], undefined);
        resolve({ setbacks });
      }
    };
    const start = (attempt: number, last: boolean): void => {
      const candidate = candidates[attempt] as C;
      timer?.cancel();
      if (!last) {
        timer = clock.setTimer(() => {
          setbacks.push({ candidate, error: undefined });
          follow(race.advance());
        }, delay);
      }
      const controller = new AbortController();
      controllers.push(controller);
      const before = [...setbacks];
      void settle(() => options.run(candidate, controller.signal, before)).then((settled) => {
        if (race.over) {
          if ("result" in settled) options.discard(settled.result);
          options.onLost?.(candidate);
        } else if ("result" in settled || options.isFinal(settled.error)) {
          finish(race.won(attempt), options.beatenBy(candidate));
          resolve({ candidate, setbacks: before, ...settled });
        } else {
          setbacks.push({ candidate, error: settled.error });
          follow(race.failed(attempt));
        }
      });
    };
    follow(race.advance());
  });
}

async function settle<T>(
  run: () => Promise<T>,
): Promise<{ readonly result: T } | { readonly error: VortexError }> {
  try {
    return { result: await run() };
  } catch (error) {
    return { error: VortexError.from(error, "Internal") };
  }
}
