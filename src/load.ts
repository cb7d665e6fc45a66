import { oneLine, VortexError } from "./errors.ts";

/**
 * Loads a part of the library by dynamic import, at its first use. Rejects with `Unavailable` if a
 * module is missing or fails to load.
 *
 * @param name name of the part, for the error message
 */
export async function loadPart<T>(name: string, load: () => Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (error) {
    if (error instanceof VortexError) throw error;
    const reason = oneLine(error instanceof Error ? error.message : String(error));
    throw new VortexError(
      "Unavailable",
      `cannot load ${name}: ${reason}; install vortex-peer with its dependencies, then restart`,
      { cause: error },
    );
  }
}
