import { Code, ConnectError } from "@connectrpc/connect";
import { onAbort } from "../../on-abort.ts";
import { FairSet } from "../admission/fair-set.ts";

/** Permission to send one response that may last long, such as one to SyncPieces. */
export interface StreamSlot {
  /** Aborts when the call ends early, when the response is evicted, and when the server closes. */
  readonly signal: AbortSignal;
  /**
   * Checks that the server did not end the response.
   *
   * @throws RESOURCE_EXHAUSTED if the response was evicted in favour of one to another network
   * @throws UNAVAILABLE if the server closes
   */
  throwIfEnded(): void;
  /** Frees the slot at the end of the response. Idempotent. */
  leave(): void;
}

/**
 * Limits the number of responses in flight that may last until a task is complete, or as long as
 * the peer reads; see `maxTaskStreams`.
 */
export class StreamSlots {
  readonly #limit: number;
  readonly #streams = new FairSet<() => void>();

  constructor(limit: number) {
    this.#limit = limit;
  }

  /**
   * Counts one more response in flight for `network`. At the limit, evicts the oldest response of
   * the network with the most responses.
   *
   * @param signal aborts when the call ends early
   * @param draining aborts when the server closes, which ends the response. Default: a closing
   * server waits for the end of the response
   * @throws RESOURCE_EXHAUSTED if an eviction would leave that network with no more responses than
   * `network` has
   */
  take(network: string, signal: AbortSignal, draining?: AbortSignal): StreamSlot {
    if (this.#streams.size >= this.#limit) {
      const evictOther = this.#streams.evictionCandidate(network);
      if (evictOther === undefined) throw this.#busy();
      evictOther();
    }
    const ended = new AbortController();
    let failure: ConnectError | undefined;
    const end = (reason: ConnectError): void => {
      failure ??= reason;
      ended.abort();
    };
    const evict = (): void => {
      this.#streams.delete(network, evict);
      end(this.#busy());
    };
    this.#streams.add(network, evict);
    const subscriptions = [
      whenAborted(signal, () => ended.abort(signal.reason)),
      draining && whenAborted(draining, () => end(closing())),
    ];
    return {
      signal: ended.signal,
      throwIfEnded: () => {
        if (failure !== undefined) throw failure;
      },
      leave: () => {
        for (const unsubscribe of subscriptions) unsubscribe?.();
        this.#streams.delete(network, evict);
      },
    };
  }

  #busy(): ConnectError {
    return new ConnectError(
      `too many open streams: the limit is ${this.#limit} (maxTaskStreams)`,
      Code.ResourceExhausted,
    );
  }
}

/** Status for a call that ends because the server closes. The client retries elsewhere or later. */
function closing(): ConnectError {
  return new ConnectError("the server is closing", Code.Unavailable);
}

/**
 * Calls `listener` when `signal` aborts, at once if it has. Returns a function that unsubscribes.
 */
function whenAborted(signal: AbortSignal, listener: () => void): (() => void) | undefined {
  if (!signal.aborted) return onAbort(signal, listener);
  listener();
  return undefined;
}
