import { onAbort } from "../../on-abort.ts";
import type { Clock } from "../../runtime.ts";
import { type Call, HEADERS_ONLY } from "./call.ts";
import { HOST_INTERVAL_MS, type HostMessage } from "./host-reporter.ts";
import type { UploadService } from "./upload-service.ts";

/**
 * Implements SyncHost: yields this host with its load and bandwidth once a second, until the peer
 * ends the call. A child weighs its parents by their idle bandwidth.
 *
 * @throws UNAVAILABLE when the server closes, and RESOURCE_EXHAUSTED at the limit `maxTaskStreams`
 */
export async function* syncHost(
  { settings, host, hostSlots, draining }: UploadService,
  { network, signal, localIp }: Call,
): AsyncGenerator<HostMessage | typeof HEADERS_ONLY, void, void> {
  const slot = hostSlots.take(network, signal, draining);
  try {
    yield HEADERS_ONLY;
    while (!slot.signal.aborted) {
      yield await host.message(localIp);
      await pause(settings.runtime.clock, HOST_INTERVAL_MS, slot.signal);
    }
    slot.throwIfEnded();
  } finally {
    slot.leave();
  }
}

/** Resolves after `milliseconds`, or when `signal` aborts. Its timer keeps no process alive. */
function pause(clock: Clock, milliseconds: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const timer = clock.setTimer(
      () => {
        unsubscribe();
        resolve();
      },
      milliseconds,
      { background: true },
    );
    const unsubscribe = onAbort(signal, () => {
      timer.cancel();
      resolve();
    });
  });
}
