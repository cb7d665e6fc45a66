interface Listeners {
  readonly all: Set<() => void>;
  readonly fire: () => void;
}

const bySignal = new WeakMap<AbortSignal, Listeners>();

/**
 * Runs `listener` when the signal fires, which it has not yet. Returns what takes that back. However many listen, the signal has one listener:
 * Node warns of a leak from eleven on, and whoever asks for many pieces at a time gives all calls one signal.
 */
export function onAbort(signal: AbortSignal, listener: () => void): () => void {
  const { all, fire } = bySignal.get(signal) ?? listenTo(signal);
  // One for each call, should two be given the same function.
  const each = (): void => listener();
  all.add(each);
  return () => {
    if (!all.delete(each) || all.size > 0) return;
    signal.removeEventListener("abort", fire);
    bySignal.delete(signal);
  };
}

function listenTo(signal: AbortSignal): Listeners {
  const all = new Set<() => void>();
  const fire = (): void => {
    bySignal.delete(signal);
    for (const listener of [...all]) {
      // It may have been taken back by one before it.
      if (all.delete(listener)) listener();
    }
  };
  signal.addEventListener("abort", fire, { once: true });
  const listeners = { all, fire };
  bySignal.set(signal, listeners);
  return listeners;
}
