interface Listeners {
  readonly all: Set<() => void>;
  readonly fire: () => void;
}

const bySignal = new WeakMap<AbortSignal, Listeners>();

/**
 * Calls `listener` when `signal` aborts. Returns a function that unsubscribes. The signal must not
 * be aborted already.
 *
 * All subscriptions of a signal share one event listener. Node warns of a leak from eleven
 * listeners on, and a caller may pass one signal to many concurrent calls.
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
