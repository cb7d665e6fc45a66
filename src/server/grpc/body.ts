import { type ContextKey, createContextKey, createContextValues } from "@connectrpc/connect";
// Connect calls these private, which its exact version in package.json answers for. They are what its own adapters stand on.
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

/** The body of an answer that goes past Connect. What it throws becomes the call's status. */
export type Body = (signal: AbortSignal) => AsyncGenerator<Uint8Array, void, void>;

/** Carries that body from a method's implementation to the answer. */
export const answeredBody: ContextKey<Body | undefined> = createContextKey<Body | undefined>(
  undefined,
);

/** A handler that, where the method's implementation left a body, sends that instead of Connect's messages. */
export function pastConnect(handler: UniversalHandler, settings: ServerSettings): UniversalHandler {
  const answer = async (request: UniversalServerRequest): Promise<UniversalServerResponse> => {
    const contextValues = request.contextValues ?? createContextValues();
    const response = await handler({ ...request, contextValues });
    // Connect ends the call, and its timer for the peer's deadline, when its own messages have been taken.
    for await (const _message of response.body ?? []);
    const body = contextValues.get(answeredBody);
    if (body === undefined) return { ...response, body: createAsyncIterable([]) };
    const trailer = new Headers(response.trailer);
    // The first read decides what is said before the content.
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

/** The body; what it throws ends it early, and goes to the trailer. */
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
