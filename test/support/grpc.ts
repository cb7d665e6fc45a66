import { Code, ConnectError, createConnectRouter, type ServiceImpl } from "@connectrpc/connect";
import type { UniversalClientFn, UniversalHandler } from "@connectrpc/connect/protocol";
import { createTransport } from "@connectrpc/connect/protocol-grpc";
import { DfdaemonUpload } from "../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { GrpcBinding, GrpcConnection, GrpcDialOptions } from "../../src/transport/grpc.ts";

/**
 * Creates the gRPC handlers of a peer that implements only the given methods of `DfdaemonUpload`.
 */
export function scriptedPeer(
  methods: Partial<ServiceImpl<typeof DfdaemonUpload>>,
): readonly UniversalHandler[] {
  const router = createConnectRouter({ acceptCompression: [], connect: false, grpcWeb: false });
  router.service(DfdaemonUpload, methods);
  return router.handlers;
}

/**
 * gRPC binding that connects to a peer in the same process, whatever address is dialled. Messages
 * are encoded as in gRPC, with message headers and trailers, but without HTTP/2.
 */
export class MemoryGrpcBinding implements GrpcBinding {
  /** Addresses that were dialled, in order, as `host:port`. */
  readonly dialled: string[] = [];
  readonly connections: MemoryGrpcConnection[] = [];
  readonly #handlers: readonly UniversalHandler[];

  constructor(handlers: readonly UniversalHandler[]) {
    this.#handlers = handlers;
  }

  async dial(
    remote: { readonly host: string; readonly port: number },
    options: GrpcDialOptions,
  ): Promise<GrpcConnection> {
    this.dialled.push(formatAddress(remote));
    const connection = new MemoryGrpcConnection(this.#handlers, options.maxMessageLength);
    this.connections.push(connection);
    return connection;
  }
}

/** Connection that {@link MemoryGrpcBinding} dials. */
export class MemoryGrpcConnection implements GrpcConnection {
  readonly closed: Promise<void>;
  /**
   * Callback of the most recent call, for received bytes. Tests call it to simulate received bytes.
   */
  onBytes: () => void = () => {};
  readonly #handlers: readonly UniversalHandler[];
  readonly #maxMessageLength: number;
  readonly #life = new AbortController();

  constructor(handlers: readonly UniversalHandler[], maxMessageLength: number) {
    this.#handlers = handlers;
    this.#maxMessageLength = maxMessageLength;
    this.closed = new Promise((resolve) => {
      this.#life.signal.addEventListener("abort", () => resolve(), { once: true });
    });
  }

  get open(): boolean {
    return !this.#life.signal.aborted;
  }

  transport(onBytes: () => void): ReturnType<GrpcConnection["transport"]> {
    this.onBytes = onBytes;
    const client = clientOf(this.#handlers);
    return createTransport({
      baseUrl: "http://in-memory",
      httpClient: (request) => {
        const signal = AbortSignal.any([
          this.#life.signal,
          ...(request.signal === undefined ? [] : [request.signal]),
        ]);
        return client({ ...request, signal });
      },
      useBinaryFormat: true,
      interceptors: [],
      acceptCompression: [],
      sendCompression: null,
      compressMinBytes: 1024,
      readMaxBytes: this.#maxMessageLength,
      writeMaxBytes: 0xffffffff,
    });
  }

  /** Simulates a lost connection: fails the pending calls and closes the connection. */
  lose(): void {
    this.#life.abort();
  }

  async close(): Promise<void> {
    this.lose();
  }
}

/**
 * Creates a client that calls handlers in the same way as an HTTP/2 server. It reads the trailers
 * after the body, and an aborted call ends the handler's body. Connect's
 * `createUniversalHandlerClient` does neither.
 */
function clientOf(handlers: readonly UniversalHandler[]): UniversalClientFn {
  return async ({
    url,
    method,
    header,
    body = emptyBody(),
    signal = new AbortController().signal,
  }) => {
    const { pathname } = new URL(url);
    const handler = handlers.find(({ requestPath }) => requestPath === pathname);
    if (handler === undefined)
      throw new ConnectError(`${pathname} is not served`, Code.Unimplemented);
    const answer = handler({ httpVersion: "2.0", method, url, header, body, signal });
    const {
      status,
      header: responseHeader,
      trailer,
      body: responseBody,
    } = await unlessAborted(signal, answer);
    return {
      status,
      header: new Headers(responseHeader),
      trailer: trailer ?? new Headers(),
      body: abortable(responseBody ?? emptyBody(), signal),
    };
  };
}

async function* abortable(
  body: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const chunks = body[Symbol.asyncIterator]();
  const leave = (): void => {
    void chunks.return?.();
  };
  signal.addEventListener("abort", leave, { once: true });
  try {
    for (;;) {
      const chunk = await unlessAborted(signal, chunks.next());
      if (chunk.done) return;
      yield chunk.value;
    }
  } finally {
    leave();
  }
}

async function unlessAborted<T>(signal: AbortSignal, promise: Promise<T>): Promise<T> {
  let onAbort = (): void => {};
  const aborted = new Promise<never>((_resolve, reject) => {
    onAbort = () => reject(ConnectError.from(signal.reason, Code.Canceled));
  });
  signal.addEventListener("abort", onAbort, { once: true });
  if (signal.aborted) onAbort();
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

async function* emptyBody(): AsyncGenerator<Uint8Array> {
  yield* [];
}
