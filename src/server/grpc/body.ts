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

/** Body of an answer that bypasses Connect. Its exception becomes the status of the call. */
export type Body = (signal: AbortSignal) => AsyncGenerator<Uint8Array, void, void>;

/** Context value in which the implementation of a method leaves the {@link Body} of its answer. */
export const bypassBody: ContextKey<Body | undefined> = createContextKey<Body | undefined>(
  undefined,
);

/**
 * Wraps a handler of Connect. If the implementation of the method left a {@link Body}, the wrapper
 * sends that instead of Connect's messages.
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

/** Yields the chunks of the body. An exception ends it early, and is written to the trailer. */
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
