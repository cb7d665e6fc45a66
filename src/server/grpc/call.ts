import type { DescMessage, DescMethod } from "@bufbuild/protobuf";
import { create, type MessageInitShape, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
// Connect declares these private. The exact version in package.json makes their use safe; the
// adapters of Connect itself are built on them.
import {
  compressionNegotiate,
  createAsyncIterable,
  createMethodSerializationLookup,
  createMethodUrl,
  encodeEnvelope,
  pipe,
  type Serialization,
  transformDecompressEnvelope,
  transformParseEnvelope,
  transformSplitEnvelope,
} from "@connectrpc/connect/protocol";
import {
  contentTypeProto,
  headerAcceptEncoding,
  headerContentType,
  headerEncoding,
  headerTimeout,
  parseContentType,
  parseTimeout,
  setTrailerStatus,
} from "@connectrpc/connect/protocol-grpc";
import { onAbort } from "../../on-abort.ts";
import type { ServerSettings } from "../admission/upload.ts";
import { reportFailure } from "./answer.ts";

/** Maximum length of a request message, in bytes. A SyncPieces request for 50,000 pieces fits. */
export const MAX_REQUEST_LENGTH: number = 256 * 1024;

/** Longest deadline that a timer can measure, in ms. A longer timer would fire at once. */
const MAX_TIMER_MS = 0x7fffffff;

/** HTTP/2 request of a gRPC call, as an adapter passes it to the dispatcher. */
export interface GrpcRequest {
  /** HTTP method, `POST` in gRPC. */
  readonly verb: string;
  /** Path of the gRPC method, such as `/dfdaemon.v2.DfdaemonUpload/DownloadPiece`. */
  readonly path: string;
  /** Request headers, without pseudo-headers. */
  readonly headers: Headers;
  /** Complete body, at most {@link MAX_REQUEST_LENGTH} bytes. */
  readonly body: Uint8Array;
  /** Aborts when the stream closes, for example because the peer cancels the call. */
  readonly signal: AbortSignal;
  /** Network of the client, see `networkOf`. */
  readonly network: string;
  /** IP address of this host that the client connected to. Empty if the connection has ended. */
  readonly localIp: string;
}

/** HTTP/2 response to a gRPC call. */
export interface GrpcResponse {
  /** HTTP status code. */
  readonly status: number;
  /** Response headers, without pseudo-headers. */
  readonly headers: Headers;
  /**
   * Length-prefixed messages, cut into chunks at any byte. An empty chunk sends the headers before
   * the first message. The call is handled while the chunks are read: an unread body runs no
   * handler. Absent if the response consists of headers only.
   */
  readonly body?: AsyncGenerator<Uint8Array, void, void>;
  /** Trailers with the gRPC status. They are set when `body` has ended. */
  readonly trailers: Headers;
}

/** Properties of one call that a method's implementation uses, apart from the request message. */
export interface Call extends Pick<GrpcRequest, "headers" | "signal" | "network" | "localIp"> {
  /**
   * Aborts when the stream closes. Also aborts at the deadline of the call; the reason is then a
   * `ConnectError` with the code DEADLINE_EXCEEDED. The deadline of a streamed response ends with
   * its headers, see {@link grpcMethod}.
   */
  readonly signal: AbortSignal;
}

/** gRPC method that the server implements. */
export interface GrpcMethod {
  /** Protobuf descriptor of the method. */
  readonly descriptor: DescMethod;
  /** Answers a request for this method. Failures are statuses in the response's trailers. */
  readonly handler: (request: GrpcRequest) => GrpcResponse;
}

/**
 * Implementation of a gRPC method. Yields the response as length-prefixed messages, cut into chunks
 * at any byte. If it throws, {@link reportFailure} converts the error to the status of the call.
 *
 * It yields bytes, not messages, so that content passes from the store to the stream without a
 * copy. A chunk is read from the store only when the stream can send it. The encoder of Connect
 * would hold a piece in memory three times before the first byte: as content, message and envelope.
 */
export type Implementation<M extends DescMethod> = (
  request: MessageShape<M["input"]>,
  call: Call,
) => AsyncIterable<Uint8Array>;

/** Returns the request path of a gRPC method. */
export function pathOf(descriptor: DescMethod): string {
  return createMethodUrl("/", descriptor);
}

/**
 * Creates the handler of a method. It checks the media type, decodes the request, applies the
 * deadline of the call, and sets the status at the end of the response.
 *
 * The deadline (`grpc-timeout`) of a unary method is for the whole response. That of a streaming
 * method is for the response headers only, like in tonic, which dfdaemon uses. A child sets 10 s
 * for SyncPieces, and reads the stream for as long as the task grows.
 */
export function grpcMethod<M extends DescMethod>(
  descriptor: M,
  implementation: Implementation<M>,
  settings: ServerSettings,
): GrpcMethod {
  const streams = descriptor.methodKind === "server_streaming";
  const limits = { readMaxBytes: MAX_REQUEST_LENGTH, writeMaxBytes: 0xffffffff };
  const requests = createMethodSerializationLookup<M["input"], M["output"]>(
    descriptor,
    undefined,
    undefined,
    limits,
  ).getI(true);

  async function* bodyOf(
    request: GrpcRequest,
    trailers: Headers,
  ): AsyncGenerator<Uint8Array, void, void> {
    const { headers, network, localIp } = request;
    const deadline = parseTimeout(headers.get(headerTimeout), Number.MAX_SAFE_INTEGER);
    const { signal, cancelDeadline, release } = callSignal(
      request.signal,
      deadline.timeoutMs,
      settings,
    );
    try {
      const message = await decoded(request, requests, deadline.error);
      for await (const chunk of implementation(message, { headers, signal, network, localIp })) {
        if (streams) cancelDeadline();
        yield chunk;
      }
      setTrailerStatus(trailers, undefined);
    } catch (error) {
      setTrailerStatus(trailers, reportFailure(error, "the answer", signal, settings));
    } finally {
      release();
    }
  }

  return {
    descriptor,
    handler: (request) => {
      const trailers = new Headers();
      if (request.verb !== "POST") return { status: 405, headers: new Headers(), trailers };
      // JSON is slow to parse, and content that is sent in chunks is not JSON.
      if (parseContentType(request.headers.get(headerContentType))?.binary !== true)
        return { status: 415, headers: new Headers(), trailers };
      const headers = new Headers({ [headerContentType]: contentTypeProto });
      return { status: 200, headers, body: bodyOf(request, trailers), trailers };
    },
  };
}

/**
 * Item of a streamed response that sends the response headers. A method yields it after it has
 * accepted the request, if the first message may take long. Without it, the deadline for the
 * headers would end the call.
 */
export const HEADERS_ONLY: unique symbol = Symbol("HEADERS_ONLY");

/** Encodes a message in the length-prefixed format of gRPC. */
export function encodedMessage<D extends DescMessage>(
  schema: D,
  message: MessageInitShape<D>,
): Uint8Array {
  return encodeEnvelope(0, toBinary(schema, create(schema, message)));
}

/**
 * Decodes the only message of a request.
 *
 * @param deadlineError error of the header with the deadline, which is thrown
 * @throws the `ConnectError` with the status for the peer, if the request is malformed, too long,
 * compressed, or does not contain exactly one message
 */
async function decoded<T>(
  { headers, body }: GrpcRequest,
  messages: Serialization<T>,
  deadlineError: ConnectError | undefined,
): Promise<T> {
  const compression = compressionNegotiate(
    [],
    headers.get(headerEncoding),
    headers.get(headerAcceptEncoding),
    headerAcceptEncoding,
  );
  if (compression.error !== undefined) throw compression.error;
  if (deadlineError !== undefined) throw deadlineError;
  const received: T[] = [];
  const all = pipe(
    createAsyncIterable([body]),
    transformSplitEnvelope(MAX_REQUEST_LENGTH),
    transformDecompressEnvelope(null, MAX_REQUEST_LENGTH),
    transformParseEnvelope(messages),
  );
  for await (const message of all) {
    received.push(message);
    if (received.length > 1) break;
  }
  const [message, extra] = received;
  if (message === undefined || extra !== undefined) {
    const got = message === undefined ? "none" : "more";
    throw new ConnectError(`request: expected one message, got ${got}`, Code.Unimplemented);
  }
  return message;
}

/** Signal of a call, with its deadline. */
interface CallSignal {
  readonly signal: AbortSignal;
  /** Cancels the deadline. The signal still aborts when the peer cancels the call. Idempotent. */
  readonly cancelDeadline: () => void;
  /** Ends the observation of the stream and the deadline. */
  readonly release: () => void;
}

/**
 * Creates the signal of a call, which aborts with `cancelled`, or at the deadline. Without
 * `timeoutMs`, or if it is beyond {@link MAX_TIMER_MS}, the call has no deadline. The caller must
 * call `release` at the end of the call.
 */
function callSignal(
  cancelled: AbortSignal,
  timeoutMs: number | undefined,
  { runtime }: ServerSettings,
): CallSignal {
  const ended = new AbortController();
  const { signal } = ended;
  const cancelDeadline = (): void => {};
  if (cancelled.aborted) {
    ended.abort(cancelled.reason);
    return { signal, cancelDeadline, release: () => {} };
  }
  const unsubscribe = onAbort(cancelled, () => ended.abort(cancelled.reason));
  if (timeoutMs === undefined || timeoutMs > MAX_TIMER_MS)
    return { signal, cancelDeadline, release: unsubscribe };
  const timer = runtime.clock.setTimer(
    () => ended.abort(new ConnectError("the deadline of the call passed", Code.DeadlineExceeded)),
    timeoutMs,
  );
  return {
    signal,
    cancelDeadline: () => timer.cancel(),
    release: () => {
      unsubscribe();
      timer.cancel();
    },
  };
}
