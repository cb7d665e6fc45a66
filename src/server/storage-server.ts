import { VortexError } from "../errors.ts";
import type { Runtime } from "../runtime.ts";
import type { Address } from "../transport/address.ts";
import type { TlsServerOptions } from "../transport/tls.ts";
import type { Transport } from "../transport/transport.ts";
import type { PieceStore } from "./store.ts";
import { type ServerOptions, type ServerSettings, serverSettings } from "./upload.ts";
import { VortexServer } from "./vortex-server.ts";

/** What to serve, where, and over what. */
export interface StorageServerOptions extends ServerOptions {
  readonly store: PieceStore;
  /** The address to listen on. Default `0.0.0.0`, every IPv4 address of this host. */
  readonly host?: string;
  /** Serves the Vortex protocol over QUIC. `port` 0 takes any free one; stock peers use 4006. */
  readonly quic?: { readonly port: number };
  /** Serves the Vortex protocol over TCP; stock peers use 4005. */
  readonly tcp?: { readonly port: number };
  /** Serves the Dragonfly API over gRPC; stock peers use 4000. */
  readonly grpc?: { readonly port: number };
  /** The certificate of QUIC. Default: a new self-signed one, whose fingerprint clients may pin. */
  readonly tls?: TlsServerOptions;
}

/** One protocol of a {@link StorageServer}. */
export interface ProtocolServer {
  readonly address: Address;
  close(options?: { readonly grace?: number }): Promise<void>;
}

/** What a runtime's face supplies to serve. A loader may reject with `Unavailable`, naming what works instead. */
export interface ServerBindings {
  readonly runtime: Runtime;
  quicListener(tls: TlsServerOptions): Promise<Transport>;
  tcp(): Promise<Transport>;
  grpcServer(local: Address, store: PieceStore, settings: ServerSettings): Promise<ProtocolServer>;
}

/** Serves one store over any of QUIC, TCP and gRPC at once, under one upload rate limit. */
export class StorageServer {
  /** The addresses in use, of those protocols that were asked for. */
  readonly addresses: { readonly quic?: Address; readonly tcp?: Address; readonly grpc?: Address };
  /** SHA-256 fingerprint of the QUIC certificate, for clients to pin; undefined without QUIC. */
  readonly fingerprint: string | undefined;
  readonly #servers: readonly ProtocolServer[];

  private constructor(
    addresses: StorageServer["addresses"],
    fingerprint: string | undefined,
    servers: readonly ProtocolServer[],
  ) {
    this.addresses = addresses;
    this.fingerprint = fingerprint;
    this.#servers = servers;
  }

  /**
   * Starts what the options name.
   * Rejects with `InvalidArgument`, `AddressInUse` or `Unavailable`; then nothing is left listening.
   */
  static async start(options: StorageServerOptions, bindings: ServerBindings): Promise<StorageServer> {
    const { store, host = "0.0.0.0", quic, tcp, grpc, tls = {} } = options;
    const settings = serverSettings(options, bindings.runtime);
    if (quic === undefined && tcp === undefined && grpc === undefined) {
      throw new VortexError("InvalidArgument", "nothing to serve: expected quic, tcp or grpc with a port");
    }
    const started: ProtocolServer[] = [];
    const addresses: { quic?: Address; tcp?: Address; grpc?: Address } = {};
    let fingerprint: string | undefined;
    const listen = async (transport: Transport, port: number): Promise<VortexServer> => {
      const server = await VortexServer.listen(transport, { host, port }, store, bindings.runtime, settings);
      started.push(server);
      return server;
    };
    try {
      if (quic !== undefined) {
        const server = await listen(await bindings.quicListener(tls), quic.port);
        addresses.quic = server.address;
        fingerprint = server.fingerprint;
      }
      if (tcp !== undefined) addresses.tcp = (await listen(await bindings.tcp(), tcp.port)).address;
      if (grpc !== undefined) {
        const server = await bindings.grpcServer({ host, port: grpc.port }, store, settings);
        started.push(server);
        addresses.grpc = server.address;
      }
    } catch (error) {
      await Promise.all(started.map((server) => server.close({ grace: 0 })));
      throw error;
    }
    return new StorageServer(addresses, fingerprint, started);
  }

  /** Stops listening, lets the answers under way end for `grace` milliseconds (default 5,000), then ends them. */
  async close(options: { readonly grace?: number } = {}): Promise<void> {
    await Promise.all(this.#servers.map((server) => server.close(options)));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
