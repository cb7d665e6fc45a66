interface Listeners {
  readonly all: Set<() => void>;
  readonly fire: () => void;
}

const bySignal = new WeakMap<AbortSignal, Listeners>();

/**
 * Calls `listener` when `signal` aborts. `signal` must not have aborted already. Returns a function
 * that removes the listener.
 *
 * All calls for one signal share a single event listener. Otherwise Node would warn of a memory
 * leak when a caller passes one signal to more than ten concurrent operations.
 */
export function onAbort(signal: AbortSignal, listener: () => void): () => void {
  const { all, fire } = bySignal.get(signal) ?? listenTo(signal);
  // A wrapper for each call, in case two calls pass the same function.
  const subscription = (): void => listener();
  all.add(subscription);
  return () => {
    if (!all.delete(subscription) || all.size > 0) return;
    signal.removeEventListener("abort", fire);
    bySignal.delete(signal);
  };
}

function listenTo(signal: AbortSignal): Listeners {
  const all = new Set<() => void>();
  const fire = (): void => {
    bySignal.delete(signal);
    for (const listener of [...all]) {
      // An earlier listener may have unsubscribed this one.
      if (all.delete(listener)) listener();
    }
  };
  signal.addEventListener("abort", fire, { once: true });
  const listeners = { all, fire };
  bySignal.set(signal, listeners);
  return listeners;
}
