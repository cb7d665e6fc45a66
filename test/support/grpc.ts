import { createConnectRouter, type ServiceImpl } from "@connectrpc/connect";
import { createUniversalHandlerClient, type UniversalHandler } from "@connectrpc/connect/protocol";
import { createTransport } from "@connectrpc/connect/protocol-grpc";
import { DfdaemonUpload } from "../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { GrpcBinding, GrpcConnection, GrpcDialOptions } from "../../src/transport/grpc.ts";

/** A peer whose answers are `methods`; the rest of the service is not implemented. */
export function scriptedPeer(methods: Partial<ServiceImpl<typeof DfdaemonUpload>>): readonly UniversalHandler[] {
  const router = createConnectRouter({ acceptCompression: [], connect: false, grpcWeb: false });
  router.service(DfdaemonUpload, methods);
  return router.handlers;
}

/**
 * A binding that reaches one peer within this process, whatever the address: the bytes are those of gRPC, with envelopes and
 * trailers, and there is no HTTP/2 under them.
 */
export class MemoryGrpcBinding implements GrpcBinding {
  /** Every dial, by address. */
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

/** A connection of {@link MemoryGrpcBinding}. */
export class MemoryGrpcConnection implements GrpcConnection {
  readonly closed: Promise<void>;
  /** Tells every call that bytes have come. */
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
    const client = createUniversalHandlerClient([...this.#handlers]);
    return createTransport({
      baseUrl: "http://in-memory",
      httpClient: (request) => {
        const signal = AbortSignal.any([this.#life.signal, ...(request.signal === undefined ? [] : [request.signal])]);
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

  /** What a lost connection looks like: calls fail, and it is not open any more. */
  lose(): void {
    this.#life.abort();
  }

  async close(): Promise<void> {
    this.lose();
  }
}
