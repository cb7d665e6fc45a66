import { Code, ConnectError } from "@connectrpc/connect";
import { onAbort } from "../../on-abort.ts";
import { FairSet } from "../admission/fair-set.ts";

/** Permission to send one response to SyncPieces, DownloadTask or a variant. */
export interface TaskSlot {
  /** Aborts when the call ends early, and when the response is evicted. */
  readonly signal: AbortSignal;
  /**
   * Checks that the response was not evicted in favour of a response to another network.
   *
   * @throws RESOURCE_EXHAUSTED if the response was evicted
   */
  throwIfEvicted(): void;
  /** Frees the slot at the end of the response. Idempotent. */
  leave(): void;
}

/**
 * Limits the number of responses in flight that may last until a task is complete, see
 * `maxTaskStreams`.
 */
export class TaskSlots {
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
   * @throws RESOURCE_EXHAUSTED if an eviction would leave that network with no more responses than
   * `network` has
   */
  take(network: string, signal: AbortSignal): TaskSlot {
    if (this.#streams.size >= this.#limit) {
      const evictOther = this.#streams.evictionCandidate(network);
      if (evictOther === undefined) throw this.#busy();
      evictOther();
    }
    const ended = new AbortController();
    let evicted = false;
    const evict = (): void => {
      evicted = true;
      this.#streams.delete(network, evict);
      ended.abort();
    };
    this.#streams.add(network, evict);
    const unsubscribe = signal.aborted
      ? ended.abort(signal.reason)
      : onAbort(signal, () => ended.abort(signal.reason));
    return {
      signal: ended.signal,
      throwIfEvicted: () => {
        if (evicted) throw this.#busy();
      },
      leave: () => {
        unsubscribe?.();
        this.#streams.delete(network, evict);
      },
    };
  }

  #busy(): ConnectError {
    return new ConnectError(
      `too many answers about tasks: the limit is ${this.#limit} (maxTaskStreams)`,
      Code.ResourceExhausted,
    );
  }
}
