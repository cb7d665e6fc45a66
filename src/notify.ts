/**
 * Calls a callback of the program that only observes, such as `onEvent`. Ignores its exception, and
 * the rejection of the promise that an async callback returns: neither may fail the operation.
 */
export function notify(callback: () => unknown): void {
  try {
    const result = callback();
    if (result instanceof Promise) result.catch(() => {});
  } catch {
    // See above.
  }
}
