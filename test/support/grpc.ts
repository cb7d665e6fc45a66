import { Code, ConnectError, createConnectRouter, type ServiceImpl } from "@connectrpc/connect";
import {
  readAllBytes,
  type UniversalClientFn,
  type UniversalHandler,
} from "@connectrpc/connect/protocol";
import { createTransport } from "@connectrpc/connect/protocol-grpc";
import { withoutStatusDetails } from "../../src/client/grpc/status-details.ts";
import { DfdaemonUpload } from "../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import { type GrpcRequest, MAX_REQUEST_LENGTH } from "../../src/server/grpc/call.ts";
import { dispatch, type GrpcDispatcher } from "../../src/server/grpc/dispatcher.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { GrpcBinding, GrpcConnection, GrpcDialOptions } from "../../src/transport/grpc.ts";

/** Creates a peer that implements only the given methods of `DfdaemonUpload`. */
export function scriptedPeer(methods: Partial<ServiceImpl<typeof DfdaemonUpload>>): Peer {
  const router = createConnectRouter({ acceptCompression: [], connect: false, grpcWeb: false });
  router.service(DfdaemonUpload, methods);
  return clientOf(router.handlers);
}

/** Function that answers gRPC requests, as the HTTP/2 server of a peer does. */
export type Peer = UniversalClientFn;

/** Creates the peer that serves `methods` to a client of `network`. */
export function peerServing(methods: GrpcDispatcher, network: string = ""): Peer {
  return async ({ url, method: verb, header, body = emptyBody(), signal = neverAborted() }) => {
    const request: GrpcRequest = {
      verb,
      path: new URL(url).pathname,
      headers: header,
      body: await readAllBytes(body, MAX_REQUEST_LENGTH),
      signal,
      network,
      localIp: "",
    };
    const { status, headers, body: chunks = emptyBody(), trailers } = dispatch(methods, request);
    return { status, header: headers, trailer: trailers, body: abortable(chunks, signal) };
  };
}

/**
 * gRPC binding that connects to a peer in the same process, whatever address is dialled. Messages
 * are encoded as in gRPC, with message headers and trailers, but without HTTP/2.
 */
export class MemoryGrpcBinding implements GrpcBinding {
  /** Addresses that were dialled, in order, as `host:port`. */
  readonly dialled: string[] = [];
  readonly connections: MemoryGrpcConnection[] = [];
  readonly #peer: Peer;

  constructor(peer: Peer) {
    this.#peer = peer;
  }

  async dial(
    remote: { readonly host: string; readonly port: number },
    options: GrpcDialOptions,
  ): Promise<GrpcConnection> {
    this.dialled.push(formatAddress(remote));
    const connection = new MemoryGrpcConnection(this.#peer, options.maxMessageLength);
    this.connections.push(connection);
    return connection;
  }
}

/** Connection that {@link MemoryGrpcBinding} dials. */
export class MemoryGrpcConnection implements GrpcConnection {
  readonly closed: Promise<void>;
  /** Simulates received bytes of all calls. */
  readonly onBytes = (): void => {
    for (const report of this.#onBytes) report();
  };
  readonly #onBytes = new Set<() => void>();
  readonly #peer: Peer;
  readonly #maxMessageLength: number;
  readonly #life = new AbortController();

  constructor(peer: Peer, maxMessageLength: number) {
    this.#peer = peer;
    this.#maxMessageLength = maxMessageLength;
    this.closed = new Promise((resolve) => {
      this.#life.signal.addEventListener("abort", () => resolve(), { once: true });
    });
  }

  get open(): boolean {
    return !this.#life.signal.aborted;
  }

  transport(onBytes: () => void): ReturnType<GrpcConnection["transport"]> {
    this.#onBytes.add(onBytes);
    return createTransport({
      baseUrl: "http://in-memory",
      httpClient: withoutStatusDetails((request) => {
        const signal = AbortSignal.any([
          this.#life.signal,
          ...(request.signal === undefined ? [] : [request.signal]),
        ]);
        return this.#peer({ ...request, signal });
      }),
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
function clientOf(handlers: readonly UniversalHandler[]): Peer {
  return async ({ url, method, header, body = emptyBody(), signal = neverAborted() }) => {
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

/** Yields the chunks of a response. An abort of the call fails the iteration, and ends `body`. */
export async function* abortable(
  body: AsyncIterable<Uint8Array>,
  signal: AbortSignal = neverAborted(),
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

function neverAborted(): AbortSignal {
  return new AbortController().signal;
}
