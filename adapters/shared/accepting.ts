import type { Server } from "node:net";
import { setImmediate, setInterval } from "node:timers";
import { VortexError } from "../../src/errors.ts";
import { Guard } from "./guard.ts";
import { nativeError } from "./native-error.ts";

/** Interval at which Deno's listening socket is polled, and min time between two reports, in ms. */
const POLL_INTERVAL_MS = 1000;

/** Event-loop turns after a poll within which the waiting connections are accepted. */
const ACCEPT_TURNS = 4;

/**
 * Number of connections accepted within {@link ACCEPT_TURNS} that proves that connections had
 * waited. A single one may have arrived at that moment by chance.
 */
const MIN_WAITING_CONNECTIONS = 2;

/** Default backlog of node:net, in connections. */
const BACKLOG_CONNECTIONS = 511;

/**
 * Keeps `server` accepting connections after a failed accept, for example when the process has no
 * free file descriptors. Reports such failures to `onError` as `Unreachable`, at most once per
 * second.
 *
 * - Node closes a connection without a free descriptor, or emits "error", and continues.
 * - Bun leaves connections in the backlog until descriptors are free, and reports nothing.
 * - Deno never polls a listening socket again after a failed accept, and reports nothing. Its
 *   `poll_tcp_handle` (libs/core/uv_compat/tcp.rs) drops the error, and with it the waker.
 *   Listening again on the same handle restarts the polling, so that is done once per second. A
 *   burst of connections right after a second without any had been waiting, which is reported.
 *
 * @param address listening address, for the report
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
 * Polls Deno's listening socket at intervals. Calls `onWaited` when connections had been waiting.
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
 * Returns the native handle, on which `server.listen` calls `listen` too. Undefined after close.
 */
function listeningHandle(server: Server): { listen(backlog: number): number } | undefined {
  const { _handle: handle } = server as { _handle?: { listen?(backlog: number): number } | null };
  return typeof handle?.listen === "function"
    ? (handle as { listen(backlog: number): number })
    : undefined;
}

/** Runs `run` after a number of event-loop turns. */
function afterTurns(turns: number, guard: Guard, run: () => void): void {
  if (turns === 0) run();
  else setImmediate(guard.wrap(() => afterTurns(turns - 1, guard, run)));
}
