/**
 * Merges several async iterables into one, in order of arrival. Requests the next item of an
 * iterable only after its previous item was consumed. Ends when all iterables have ended. Throws
 * the error of the first iterable that fails.
 *
 * @param iterate returns the iterables to merge; its signal aborts when the merged iteration ends,
 * and the iterables must then end too
 * @param signal signal of the caller; its abort also aborts the signal of `iterate`
 */
export async function* merged<T>(
  iterate: (signal: AbortSignal) => readonly AsyncIterable<T>[],
  signal?: AbortSignal,
): AsyncGenerator<T, void, void> {
  const ending = new AbortController();
  const ready: { readonly item: T; readonly onConsumed: () => void }[] = [];
  let failure: { readonly error: unknown } | undefined;
  let wake = (): void => {};
  const sources = iterate(
    signal === undefined ? ending.signal : AbortSignal.any([signal, ending.signal]),
  );
  let open = sources.length;
  const pump = async (source: AsyncIterable<T>): Promise<void> => {
    try {
      for await (const item of source) {
        await new Promise<void>((onConsumed) => {
          ready.push({ item, onConsumed });
          wake();
        });
        if (ending.signal.aborted) break;
      }
    } catch (error) {
      failure ??= { error };
    }
    open--;
    wake();
  };
  for (const source of sources) void pump(source);
  try {
    while (open > 0 || ready.length > 0) {
      if (failure !== undefined) throw failure.error;
      const next = ready.shift();
      if (next === undefined) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        continue;
      }
      yield next.item;
      next.onConsumed();
    }
    if (failure !== undefined) throw failure.error;
  } finally {
    ending.abort();
    for (const { onConsumed } of ready) onConsumed();
  }
}
