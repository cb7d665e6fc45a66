import { Code, ConnectError } from "@connectrpc/connect";
import { DfdaemonUpload } from "../../gen/dfdaemon/v2/dfdaemon_pb.ts";
import { HealthCheckResponse_ServingStatus as Status } from "../../gen/grpc/health/v1/health_pb.ts";
import { onAbort } from "../../on-abort.ts";
import type { Call } from "./call.ts";
import type { UploadService } from "./upload-service.ts";

/** Message of a response to Check or Watch. */
export interface Health {
  readonly status: Status;
}

/** Services whose state is known. The empty name is the server as a whole. */
const services: ReadonlySet<string> = new Set(["", DfdaemonUpload.typeName]);

/**
 * Implements Check of `grpc.health.v1.Health`: SERVING while the server accepts requests,
 * NOT_SERVING while it closes. A scheduler uses a seed peer only if it is SERVING.
 *
 * @throws NOT_FOUND for an unknown service
 */
export function checkHealth({ draining }: UploadService, service: string): Health {
  if (!services.has(service))
    throw new ConnectError(`service ${service}: not on this server`, Code.NotFound);
  return { status: draining.aborted ? Status.NOT_SERVING : Status.SERVING };
}

/**
 * Implements Watch of `grpc.health.v1.Health`: yields the state of a service, then NOT_SERVING when
 * the server closes. For an unknown service it yields SERVICE_UNKNOWN and waits likewise.
 *
 * @throws UNAVAILABLE when the server closes, so that the client watches again later;
 * RESOURCE_EXHAUSTED at the limit `maxTaskStreams`
 */
export async function* watchHealth(
  { draining, hostSlots }: UploadService,
  service: string,
  { network, signal }: Call,
): AsyncGenerator<Health, void, void> {
  const slot = hostSlots.take(network, signal, draining);
  try {
    const known = services.has(service);
    if (!draining.aborted) yield { status: known ? Status.SERVING : Status.SERVICE_UNKNOWN };
    await aborted(slot.signal);
    if (known && draining.aborted) yield { status: Status.NOT_SERVING };
    slot.throwIfEnded();
  } finally {
    slot.leave();
  }
}

/** Resolves when `signal` aborts. */
function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => void onAbort(signal, resolve));
}
