import { VortexError } from "../errors.ts";
import { onAbort } from "../on-abort.ts";
import type { Clock, Timer } from "../runtime.ts";

/** Action that the caller must take after an event of a {@link StaggeredRace}. */
export type RaceStep =
  /** Start the attempt. Unless it is the last one, restart the delay. */
  | { readonly type: "start"; readonly attempt: number; readonly last: boolean }
  /** Do nothing. */
  | { readonly type: "wait" }
  /** Report failure: all attempts have started, and all have failed. */
  | { readonly type: "exhausted" };

const WAIT: RaceStep = { type: "wait" };

/**
 * State machine of Happy Eyeballs (RFC 8305, section 5), without I/O or clock. Attempts are
 * numbered from 0 and start in turn: the next one starts when one fails or the delay is over.
 */
export class StaggeredRace {
  readonly #attempts: number;
  readonly #running = new Set<number>();
  #next = 0;
  #over = false;

  /** @param attempts number of attempts, at least 1 */
  constructor(attempts: number) {
    this.#attempts = attempts;
  }

  /** True once an attempt has won, or the race was stopped or exhausted. */
  get over(): boolean {
    return this.#over;
  }

  /** Handles the start of the race or the end of the delay: starts the next attempt, if any. */
  advance(): RaceStep {
    if (this.#over || this.#next === this.#attempts) return WAIT;
    const attempt = this.#next++;
    this.#running.add(attempt);
    return { type: "start", attempt, last: this.#next === this.#attempts };
  }

  /** Handles the failure of an attempt: starts the next one, or ends the race after the last. */
  failed(attempt: number): RaceStep {
    this.#running.delete(attempt);
    if (this.#over || this.#next < this.#attempts) return this.advance();
    if (this.#running.size > 0) return WAIT;
    this.#over = true;
    return { type: "exhausted" };
  }

  /**
   * Handles the success of an attempt. Returns the other running attempts, which must be aborted.
   */
  won(attempt: number): readonly number[] {
    this.#running.delete(attempt);
    return this.stop();
  }

  /** Cancels the race. Returns the running attempts, which must be aborted. */
  stop(): readonly number[] {
    this.#over = true;
    return [...this.#running];
  }
}

/** Setback of a candidate: its attempt failed, or did not settle before the delay was over. */
export interface Setback<C> {
  readonly candidate: C;
  /** Error of the attempt; undefined if it had not settled. */
  readonly error: VortexError | undefined;
}

/** Options of {@link runStaggered}: candidates of type `C`, a result of type `T`. */
export interface StaggeredRaceOptions<C, T> {
  /** Candidates, in the order in which they start; at least one. */
  readonly candidates: readonly C[];
  /** Head start of a candidate before the next one, in ms. */
  readonly delay: number;
  readonly clock: Clock;
  /** Aborts the race and all its attempts. */
  readonly signal: AbortSignal | undefined;
  /** Returns the error for the race and its attempts when `signal` aborts. */
  aborted(signal: AbortSignal): VortexError;
  /** Returns the abort reason of the other attempts when `candidate` wins. */
  beatenBy(candidate: C): VortexError;
  /**
   * Starts an attempt. `setbacks` lists those of other candidates so far. After its signal aborts,
   * the result goes to `discard`, and an error is dropped.
   */
  run(candidate: C, signal: AbortSignal, setbacks: readonly Setback<C>[]): Promise<T>;
  /** Returns true for an error that ends the race, because other candidates would not help. */
  isFinal(error: VortexError): boolean;
  /** Releases a result that arrived after the race was over. */
  discard(result: T): void;
  /** Called when an aborted attempt has settled. */
  onLost?(candidate: C): void;
}

/** Outcome of a race. */
export type RaceOutcome<C, T> =
  /** The candidate won; `setbacks` lists those before its start. */
  | { readonly candidate: C; readonly setbacks: readonly Setback<C>[]; readonly result: T }
  /** The candidate failed with a final error. */
  | {
      readonly candidate: C;
      readonly setbacks: readonly Setback<C>[];
      readonly error: VortexError;
    }
  /** All candidates failed. */
  | { readonly setbacks: readonly Setback<C>[] };

/**
 * Runs a {@link StaggeredRace}, with a separate signal for each attempt. Resolves when one
 * succeeds, when one fails with a final error, or when all have failed. Rejects when `signal`
 * aborts. After it settles, no attempt starts, and `signal` has no listener left.
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

    /** Aborts the losers, and releases the timer and the subscription. */
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
