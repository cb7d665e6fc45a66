/**
 * The items of several iterations, as they come. An iteration goes on when its item has been taken. Ends when all have ended, and
 * throws what the first throws that fails.
 *
 * @param iterate begins them; they end with the signal, so that whoever leaves early leaves all of them
 * @param signal ends the whole
 */
export async function* merged<T>(
  iterate: (signal: AbortSignal) => readonly AsyncIterable<T>[],
  signal?: AbortSignal,
): AsyncGenerator<T, void, void> {
  const leaving = new AbortController();
  const ready: { readonly item: T; readonly taken: () => void }[] = [];
  let failure: { readonly error: unknown } | undefined;
  let wake = (): void => {};
  const sources = iterate(
    signal === undefined ? leaving.signal : AbortSignal.any([signal, leaving.signal]),
  );
  let open = sources.length;
  const pump = async (source: AsyncIterable<T>): Promise<void> => {
    try {
      for await (const item of source) {
        await new Promise<void>((taken) => {
          ready.push({ item, taken });
          wake();
        });
        if (leaving.signal.aborted) break;
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
      next.taken();
    }
    if (failure !== undefined) throw failure.error;
  } finally {
    leaving.abort();
    for (const { taken } of ready) taken();
  }
}
