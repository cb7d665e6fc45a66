import process from "node:process";

/** Signals that end a program, with the exit codes of a shell: 128 plus the signal number. */
const exitCodes = { SIGINT: 130, SIGTERM: 143 } as const;

type EndSignal = keyof typeof exitCodes;

const endSignals: readonly EndSignal[] = ["SIGINT", "SIGTERM"];

/** Functions that close a server. The signals have handlers while there are some. */
const closers = new Set<() => Promise<void>>();

let isClosing = false;

/**
 * Calls `close` at the first SIGINT or SIGTERM, and then lets the signal take its default effect. A
 * second signal does not wait. Returns a function that unsubscribes.
 *
 * All servers of a process share one handler of each signal, which ends the process when all of
 * them are closed.
 */
export function closeOnSignals(close: () => Promise<void>): () => void {
  if (closers.size === 0) for (const name of endSignals) process.on(name, onSignal);
  closers.add(close);
  return () => {
    if (closers.delete(close) && closers.size === 0 && !isClosing) uninstall();
  };
}

function onSignal(name: NodeJS.Signals): void {
  if (isClosing) {
    raise(name);
    return;
  }
  isClosing = true;
  void Promise.allSettled([...closers].map((close) => close())).then(() => raise(name));
}

function uninstall(): void {
  for (const name of endSignals) process.off(name, onSignal);
}

/** Lets a signal take its default effect, which ends the process. */
function raise(name: NodeJS.Signals): void {
  uninstall();
  isClosing = false;
  // The program handles the signal itself, and has received it.
  if (process.listenerCount(name) > 0) return;
  try {
    process.kill(process.pid, name);
  } catch {
    // Deno requires --allow-run to send a signal.
  }
  process.exit(exitCodes[name as EndSignal]);
}
