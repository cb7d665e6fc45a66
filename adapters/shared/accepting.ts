import type { Server } from "node:net";
import { setImmediate, setInterval } from "node:timers";
import { VortexError } from "../../src/errors.ts";
import { Guard } from "./guard.ts";
import { nativeError } from "./native-error.ts";

/** Interval in ms at which a listening socket of Deno is polled again, and the least time between two reports. */
const INTERVAL = 1000;

/** Turns of the event loop in which a socket that is polled again accepts the connections that waited. */
const TURNS = 4;

/** Connections accepted within {@link TURNS} that show that they waited: one may arrive at that moment by chance. */
const WAITING = 2;

/** Backlog in connections that node:net asks for by default. */
const BACKLOG = 511;

/**
 * Keeps `server` accepting connections after an accept failed, as it does when the process has no file descriptors left, and
 * reports such failures as `Unreachable`, at most one a second.
 *
 * - Node closes the connection that it has no descriptor for, and goes on. Where it cannot, it emits "error" and goes on.
 * - Bun leaves connections in the backlog until descriptors are free, and says nothing.
 * - Deno never polls a listening socket again after an accept failed (`poll_tcp_handle` in its libs/core/uv_compat/tcp.rs drops the
 *   error, and with it the waker), and says nothing. Listening again on the same handle makes it poll. So that happens once a
 *   second. Connections that come in a burst right after a silent second had waited, which is what can be reported.
 *
 * @param address where the server listens, for the report
 */
export function keepAccepting(
  server: Server,
  address: string,
  onError: (error: VortexError) => void,
): void {
  let reported = Number.NEGATIVE_INFINITY;
  // Also for what the user's own callback throws, which the listener outlives.
  const guard = new Guard();
  const report = (error: VortexError): void => {
    const now = performance.now();
    if (now - reported < INTERVAL) return;
    reported = now;
    onError(error);
  };
  const onRefused = guard.wrap((error: Error) =>
    report(nativeError(error, "Unreachable", `cannot accept connections on ${address}`)),
  );
  server.on("error", onRefused);
  if ("Deno" in globalThis) pollAgain(server, guard, () => report(waitedError(address)));
}

function waitedError(address: string): VortexError {
  const message = `connections to ${address} waited: the process had no file descriptors left; raise its limit (ulimit -n)`;
  return new VortexError("Unreachable", message);
}

/** Polls Deno's listening socket again and again, and calls `onWaited` when connections had waited for that. */
function pollAgain(server: Server, guard: Guard, onWaited: () => void): void {
  let accepted = 0;
  const onConnection = guard.wrap(() => accepted++);
  const poll = guard.wrap(() => {
    const handle = listeningHandle(server);
    if (handle === undefined) return;
    const silent = accepted === 0;
    accepted = 0;
    handle.listen(BACKLOG);
    if (!silent) return;
    inTurns(TURNS, guard, () => {
      if (accepted >= WAITING) onWaited();
    });
  });
  const timer = setInterval(poll, INTERVAL);
  timer.unref();
  const onClose = guard.wrap(() => clearInterval(timer));
  server.on("connection", onConnection);
  server.once("close", onClose);
}

/** The native handle, which `server.listen` itself calls this way; undefined once the server is closed. */
function listeningHandle(server: Server): { listen(backlog: number): number } | undefined {
  const { _handle: handle } = server as { _handle?: { listen?(backlog: number): number } | null };
  return typeof handle?.listen === "function"
    ? (handle as { listen(backlog: number): number })
    : undefined;
}

function inTurns(turns: number, guard: Guard, run: () => void): void {
  if (turns === 0) run();
  else setImmediate(guard.wrap(() => inTurns(turns - 1, guard, run)));
}
