import { VortexError } from "../errors.ts";
import type { Runtime } from "../runtime.ts";
import type { PieceStore } from "../store/store.ts";
import type { Address } from "../transport/address.ts";
import type { QuicTuning } from "../transport/quic-tuning.ts";
import type { TlsIdentity, TlsServerOptions } from "../transport/tls.ts";
import type { ListenerCounters, Transport } from "../transport/transport.ts";
import { type ServerOptions, type ServerSettings, serverSettings } from "./admission/upload.ts";
import type { GrpcServing } from "./grpc/service.ts";
import { VortexServer } from "./vortex-server.ts";

/** What to serve, where, and over what. */
export interface StorageServerOptions extends ServerOptions {
  /** What is served. */
  readonly store: PieceStore;
  /** The address to listen on. Default `0.0.0.0`, every IPv4 address of this host. */
  readonly host?: string;
  /** Serves the Vortex protocol over QUIC. `port` 0 takes any free one; stock peers use 4006. */
  readonly quic?: { readonly port: number } & QuicTuning;
  /** Serves the Vortex protocol over TCP; stock peers use 4005. */
  readonly tcp?: { readonly port: number };
  /**
   * Serves the Dragonfly API over gRPC, at {@link host} unless it has one of its own; stock peers use 4000. With `tls`, over TLS
   * with the certificate of {@link tls}; default false: HTTP/2 in the clear, as stock peers serve it unless they are configured
   * otherwise.
   */
  readonly grpc?: { readonly port: number; readonly host?: string; readonly tls?: boolean };
  /**
   * The one certificate of QUIC and of gRPC over TLS. Default: a new self-signed one, whose fingerprint clients may pin. TCP, and
   * gRPC in the clear, have none of this, nor of `clientCa`.
   */
  readonly tls?: TlsServerOptions;
  /**
   * The IP address at which peers reach this host, for answers over gRPC that name the ports of TCP and QUIC. Default: the one
   * at which the asking peer reached it; to be given when that is not the same for all, as behind address translation.
   */
  readonly advertisedIp?: string;
  /** For the ids of this host and its peers that answers over gRPC name. Default `vortex-peer`. */
  readonly hostname?: string;
}

/** One protocol of a {@link StorageServer}. */
export interface ProtocolServer {
  /** Where it listens; the port is the real one where 0 was asked for. */
  readonly address: Address;
  /** SHA-256 fingerprint of the certificate in use; undefined without TLS. */
  readonly fingerprint: string | undefined;
  /** Counts since it began to listen, see `Listener.counters`. */
  readonly counters?: ListenerCounters | undefined;
  /**
   * Shows connections that come from now on another certificate; those that exist go on.
   * Rejects with `InvalidArgument` for a certificate or key that is none, and with `Unavailable` where there is no TLS.
   */
  setIdentity(identity: TlsIdentity): Promise<void>;
  /** Stops listening, lets the answers under way end for `grace` milliseconds, then ends them. */
  close(options?: { readonly grace?: number }): Promise<void>;
}

/** What a runtime's face supplies to serve. A loader may reject with `Unavailable`, naming what works instead. */
export interface ServerBindings {
  /** What the core is given: clock, randomness, hashes. */
  readonly runtime: Runtime;
  /** Where certificates come from. */
  readonly identities: IdentityBinding;
  /** QUIC of this runtime, to listen with. */
  quicListener(tls: TlsServerOptions, tuning: QuicTuning): Promise<Transport>;
  /** TCP of this runtime. */
  tcp(): Promise<Transport>;
  /** In the clear without `tls`. */
  grpcServer(
    local: Address,
    store: PieceStore,
    settings: ServerSettings,
    tls: TlsServerOptions | undefined,
    serving: GrpcServing,
  ): Promise<ProtocolServer>;
}

/** Certificates, which the core cannot make or read. */
export interface IdentityBinding {
  /**
   * The identity that the options name; else the one that their store keeps, or a new self-signed one, which it then keeps.
   * Rejects with `InvalidArgument`, and as the store does.
   */
  ofServer(options: TlsServerOptions): Promise<TlsIdentity>;
  /** A new self-signed identity. */
  make(): Promise<TlsIdentity>;
  /** The identity itself. Throws `InvalidArgument` for a certificate or key that is none, and for a key of another one. */
  check(identity: TlsIdentity): TlsIdentity;
}

/** Serves one store over any of QUIC, TCP and gRPC at once, under one upload rate limit. */
export class StorageServer {
  /** The addresses in use, of those protocols that were asked for. */
  readonly addresses: { readonly quic?: Address; readonly tcp?: Address; readonly grpc?: Address };
  readonly #servers: readonly ProtocolServer[];
  readonly #tls: TlsServerOptions;
  readonly #identities: IdentityBinding;
  /** What is shown now; undefined where nothing is served over TLS. */
  #identity: TlsIdentity | undefined;
  #rotating: Promise<unknown> = Promise.resolve();

  private constructor(
    addresses: StorageServer["addresses"],
    servers: readonly ProtocolServer[],
    tls: TlsServerOptions,
    identities: IdentityBinding,
    identity: TlsIdentity | undefined,
  ) {
    this.addresses = addresses;
    this.#servers = servers;
    this.#tls = tls;
    this.#identities = identities;
    this.#identity = identity;
  }

  /**
   * Starts what the options name.
   * Rejects with `InvalidArgument`, `AddressInUse` or `Unavailable`, and with `StorageFailed` when the kept certificate cannot be
   * read or written; then nothing is left listening.
   */
  static async start(
    options: StorageServerOptions,
    bindings: ServerBindings,
  ): Promise<StorageServer> {
    const { store, host = "0.0.0.0", quic, tcp, grpc, tls = {} } = options;
    const settings = serverSettings(options, bindings.runtime);
    if (quic === undefined && tcp === undefined && grpc === undefined) {
      throw new VortexError(
        "InvalidArgument",
        "nothing to serve: expected quic, tcp or grpc with a port",
      );
    }
    const started: ProtocolServer[] = [];
    const addresses: { quic?: Address; tcp?: Address; grpc?: Address } = {};
    let identity: TlsIdentity | undefined;
    const listen = async (transport: Transport, port: number): Promise<VortexServer> => {
      const server = await VortexServer.listen(
        transport,
        { host, port },
        store,
        bindings.runtime,
        settings,
      );
      started.push(server);
      return server;
    };
    try {
      // One identity for every protocol, so that clients pin one fingerprint.
      if (quic !== undefined || grpc?.tls === true)
        identity = await bindings.identities.ofServer(tls);
      const shown = { ...identity, ...(tls.clientCa !== undefined && { clientCa: tls.clientCa }) };
      if (quic !== undefined)
        addresses.quic = (
          await listen(await bindings.quicListener(shown, quic), quic.port)
        ).address;
      if (tcp !== undefined) addresses.tcp = (await listen(await bindings.tcp(), tcp.port)).address;
      if (grpc !== undefined) {
        const local = { host: grpc.host ?? host, port: grpc.port };
        const shownOverGrpc = grpc.tls === true ? shown : undefined;
        const server = await bindings.grpcServer(
          local,
          store,
          settings,
          shownOverGrpc,
          servingOf(options, addresses),
        );
        started.push(server);
        addresses.grpc = server.address;
      }
    } catch (error) {
      await Promise.all(started.map((server) => server.close({ grace: 0 })));
      throw error;
    }
    return new StorageServer(addresses, started, tls, bindings.identities, identity);
  }

  /** Counts of what the servers survived: the sum over all protocols. */
  get counters(): ListenerCounters {
    const sum = { unanswerable: 0, unsent: 0, caught: 0 };
    for (const { counters } of this.#servers) {
      sum.unanswerable += counters?.unanswerable ?? 0;
      sum.unsent += counters?.unsent ?? 0;
      sum.caught += counters?.caught ?? 0;
    }
    return sum;
  }

  /** SHA-256 fingerprint of the certificate in use, for clients to pin; undefined where nothing is served over TLS. */
  get fingerprint(): string | undefined {
    return this.#secured()[0]?.fingerprint;
  }

  /**
   * Shows connections that come from now on another certificate, over QUIC and gRPC; those that exist go on. Resolves to its
   * fingerprint.
   *
   * Rejects with `InvalidArgument` for a certificate or key that is none, and without one where the certificate was given with
   * the options; with `StorageFailed` when it cannot be kept; with `Unavailable` where nothing is served over TLS, or a runtime
   * cannot change it. Then the one before it stays.
   *
   * @param identity default: a new self-signed one. Either is kept where `tls.identityStore` says.
   */
  rotateCertificate(identity?: TlsIdentity): Promise<string> {
    const rotation = this.#rotating.then(() => this.#rotate(identity));
    this.#rotating = rotation.catch(() => {});
    return rotation;
  }

  async #rotate(given: TlsIdentity | undefined): Promise<string> {
    const servers = this.#secured();
    const before = this.#identity;
    if (servers.length === 0 || before === undefined) {
      throw new VortexError(
        "Unavailable",
        "nothing is served over TLS, so there is no certificate to change",
      );
    }
    if (given === undefined && this.#tls.cert !== undefined) {
      const message =
        "the certificate was given with the options: expected another one in its place";
      throw new VortexError("InvalidArgument", message);
    }
    const identity =
      given === undefined ? await this.#identities.make() : this.#identities.check(given);
    try {
      for (const server of servers) await server.setIdentity(identity);
      await this.#tls.identityStore?.save(identity);
    } catch (error) {
      // One that is not shown over every protocol, or would be gone after a restart, is shown nowhere.
      for (const server of servers) await server.setIdentity(before).catch(() => {});
      throw error;
    }
    this.#identity = identity;
    return servers[0]?.fingerprint ?? "";
  }

  #secured(): ProtocolServer[] {
    return this.#servers.filter(({ fingerprint }) => fingerprint !== undefined);
  }

  /** Stops listening, lets the answers under way end for `grace` milliseconds (default 5,000), then ends them. */
  async close(options: { readonly grace?: number } = {}): Promise<void> {
    await Promise.all(this.#servers.map((server) => server.close(options)));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** What gRPC tells of the other servers, which listen by then. */
function servingOf(
  { advertisedIp, hostname }: StorageServerOptions,
  { tcp, quic }: StorageServer["addresses"],
): GrpcServing {
  return {
    ...(tcp !== undefined && { tcpPort: tcp.port }),
    ...(quic !== undefined && { quicPort: quic.port }),
    ...(advertisedIp !== undefined && { advertisedIp }),
    ...(hostname !== undefined && { hostname }),
  };
}
