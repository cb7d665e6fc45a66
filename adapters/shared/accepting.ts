import type { Server } from "node:net";
import { setImmediate, setInterval } from "node:timers";
import { VortexError } from "../../src/errors.ts";
import { Guard } from "./guard.ts";
import { nativeError } from "./native-error.ts";

/**
 * Interval in ms at which Deno's listening socket is polled. Also the min time in ms between two
 * reports of failed accepts.
 */
const POLL_INTERVAL_MS = 1000;

/**
 * Number of event-loop turns after a poll of the listening socket during which accepted connections
 * are counted.
 */
const ACCEPT_TURNS = 4;

/**
 * Min number of connections accepted within {@link ACCEPT_TURNS} that proves that connections had
 * waited in the backlog. A single connection may have arrived during the poll by chance.
 */
const MIN_WAITING_CONNECTIONS = 2;

/** Max number of connections in the backlog of a listening socket, the default of node:net. */
const BACKLOG_CONNECTIONS = 511;

/**
 * Makes `server` accept connections again after a failed accept, for example when the process had
 * no free file descriptors. Reports failed accepts to `onError` as `Unreachable`, at most once per
 * second. The runtimes differ after a failed accept:
 *
 * - Node closes the connection or emits "error", and continues to accept connections.
 * - Bun leaves connections in the backlog until file descriptors are free, and reports nothing.
 * - Deno stops polling the listening socket, and reports nothing. Its `poll_tcp_handle`
 *   (libs/core/uv_compat/tcp.rs) discards both the error and the waker. Calling `listen` on the
 *   handle again restarts the polling, so this function calls `listen` once per second. If several
 *   connections arrive right after a second without any, they had waited in the backlog. This is
 *   reported.
 *
 * @param address listening address, for the error message
 */
export function keepAccepting(
  server: Server,
  address: string,
  onError: (error: VortexError) => void,
): void {
  let reported = Number.NEGATIVE_INFINITY;
  // Also catches exceptions of the user's callback. The listener survives them.
  const guard = new Guard();
  const report = (error: VortexError): void => {
    const now = performance.now();
    if (now - reported < POLL_INTERVAL_MS) return;
    reported = now;
    onError(error);
  };
  const onRefused = guard.wrap((error: Error) =>
    report(nativeError(error, "Unreachable", `cannot accept connections on ${address}`)),
  );
  server.on("error", onRefused);
  if ("Deno" in globalThis)
    pollPeriodically(server, guard, () => report(outOfDescriptorsError(address)));
}

function outOfDescriptorsError(address: string): VortexError {
  const message = `cannot accept connections on ${address}: no free file descriptors; raise the limit (ulimit -n)`;
  return new VortexError("Unreachable", message);
}

/**
 * Restarts the polling of Deno's listening socket once per second. Calls `onWaited` if connections
 * had waited in the backlog.
 */
function pollPeriodically(server: Server, guard: Guard, onWaited: () => void): void {
  let accepted = 0;
  const onConnection = guard.wrap(() => accepted++);
  const poll = guard.wrap(() => {
    const handle = listeningHandle(server);
    if (handle === undefined) return;
    const silent = accepted === 0;
    accepted = 0;
    handle.listen(BACKLOG_CONNECTIONS);
    if (!silent) return;
    afterTurns(ACCEPT_TURNS, guard, () => {
      if (accepted >= MIN_WAITING_CONNECTIONS) onWaited();
    });
  });
  const timer = setInterval(poll, POLL_INTERVAL_MS);
  timer.unref();
  const onClose = guard.wrap(() => clearInterval(timer));
  server.on("connection", onConnection);
  server.once("close", onClose);
}

/**
 * Returns the native handle of a listening server, on which `server.listen` also calls `listen`.
 * Returns undefined if the server is closed.
 */
function listeningHandle(server: Server): { listen(backlog: number): number } | undefined {
  const { _handle: handle } = server as { _handle?: { listen?(backlog: number): number } | null };
  return typeof handle?.listen === "function"
    ? (handle as { listen(backlog: number): number })
    : undefined;
}

/** Calls `run` after `turns` event-loop turns; at once for 0 turns. */
function afterTurns(turns: number, guard: Guard, run: () => void): void {
  if (turns === 0) run();
  else setImmediate(guard.wrap(() => afterTurns(turns - 1, guard, run)));
}
