import { constants } from "node:fs";
import { open, stat } from "node:fs/promises";

/**
 * Ends a blocked open or read of a named pipe, by opening and closing its other end. Without that,
 * the runtime waits for the blocked operation before it exits. Does nothing for other files. Never
 * rejects.
 */
export async function unblockPipe(path: string): Promise<void> {
  try {
    if (!(await stat(path)).isFIFO()) return;
    // Linux and macOS open a pipe for reading and writing without waiting for another process.
    const handle = await open(path, constants.O_RDWR | constants.O_NONBLOCK);
    await handle.close();
  } catch {
    // The pipe was removed, or the user may not open its other end.
  }
}
