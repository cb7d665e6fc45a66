import { type ContextKey, createContextKey, createContextValues } from "@connectrpc/connect";
// Connect declares these private. The exact version in package.json makes their use safe; the
// adapters of Connect itself are built on them.
import {
  createAsyncIterable,
  type UniversalHandler,
  type UniversalServerRequest,
  type UniversalServerResponse,
  untilFirst,
} from "@connectrpc/connect/protocol";
import { setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import type { ServerSettings } from "../admission/upload.ts";
import { reportFailure } from "./answer.ts";

/**
 * Generator function for the raw body of a gRPC response, which is sent without Connect's encoder.
 * If it throws, the exception determines the gRPC status of the call.
 */
export type Body = (signal: AbortSignal) => AsyncGenerator<Uint8Array, void, void>;

/**
 * Connect context value with the {@link Body} of a response. The implementation of a download
 * method sets it, so that {@link bypassConnect} sends this body. It stays undefined if the method
 * fails.
 */
export const bypassBody: ContextKey<Body | undefined> = createContextKey<Body | undefined>(
  undefined,
);

/**
 * Wraps a Connect handler of a download method, such as DownloadPiece. The wrapper discards the
 * messages that Connect encodes, and sends the body in {@link bypassBody} instead. If that is
 * undefined, the response has no body, only a status.
 */
export function bypassConnect(
  handler: UniversalHandler,
  settings: ServerSettings,
): UniversalHandler {
  const answer = async (request: UniversalServerRequest): Promise<UniversalServerResponse> => {
    const contextValues = request.contextValues ?? createContextValues();
    const response = await handler({ ...request, contextValues });
    // Drain Connect's messages: after the last one it ends the call, and its deadline timer.
    for await (const _message of response.body ?? []);
    const body = contextValues.get(bypassBody);
    if (body === undefined) return { ...response, body: createAsyncIterable([]) };
    const trailer = new Headers(response.trailer);
    // Await the first chunk: a failure before any content then yields a status without a body.
    return {
      ...response,
      trailer,
      body: await untilFirst(withStatus(body, trailer, request.signal, settings)),
    };
  };
  const { protocolNames, service, method, requestPath, allowedMethods, supportedContentType } =
    handler;
  return Object.assign(answer, {
    protocolNames,
    service,
    method,
    requestPath,
    allowedMethods,
    supportedContentType,
  });
}

/**
 * Yields the chunks of `body`. If `body` throws, the response ends there, and the gRPC status of
 * the exception is written to `trailer`.
 */
async function* withStatus(
  body: Body,
  trailer: Headers,
  signal: AbortSignal,
  settings: ServerSettings,
): AsyncGenerator<Uint8Array, void, void> {
  try {
    yield* body(signal);
  } catch (error) {
    setTrailerStatus(trailer, reportFailure(error, "the content", signal, settings));
  }
}
