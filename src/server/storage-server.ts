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

/** Options of {@link StorageServer.start}. At least one of `quic`, `tcp` and `grpc` is required. */
export interface StorageServerOptions extends ServerOptions {
  /** Store whose pieces are served. */
  readonly store: PieceStore;
  /** Local address to listen on. Default `0.0.0.0`, all IPv4 addresses of this host. */
  readonly host?: string;
  /**
   * Serves the Vortex protocol over QUIC. Port 0 selects a free UDP port; stock peers use 4006.
   * Default: not served.
   */
  readonly quic?: { readonly port: number } & QuicTuning;
  /**
   * Serves the Vortex protocol over TCP. Port 0 selects a free port; stock peers use 4005. Default:
   * not served.
   */
  readonly tcp?: { readonly port: number };
  /**
   * Serves the Dragonfly API over gRPC. Port 0 selects a free port; stock peers use 4000. Default:
   * not served.
   *
   * `host` overrides {@link host} for gRPC. With `tls: true` it uses TLS with the certificate of
   * {@link tls}. Default false: plaintext HTTP/2, like dfdaemon with its default configuration.
   */
  readonly grpc?: { readonly port: number; readonly host?: string; readonly tls?: boolean };
  /**
   * Certificate and client authentication for QUIC and for gRPC over TLS. Does not apply to TCP and
   * to plaintext gRPC. Default: a new self-signed certificate, whose fingerprint clients may pin.
   */
  readonly tls?: TlsServerOptions;
  /**
   * IP address at which peers reach this host. gRPC answers contain it, together with the ports of
   * TCP and QUIC. Default: the local address of the peer's gRPC connection. Set it when peers reach
   * this host by another address, as behind NAT.
   */
  readonly advertisedIp?: string;
  /** Host name in the host IDs and peer IDs of gRPC answers. Default `vortex-peer`. */
  readonly hostname?: string;
}

/** Server of one protocol, part of a {@link StorageServer}. */
export interface ProtocolServer {
  /** Bound address, with the assigned port when port 0 was requested. */
  readonly address: Address;
  /** SHA-256 fingerprint of the current certificate; undefined without TLS. */
  readonly fingerprint: string | undefined;
  /** Counters of the listener, see `Listener.counters`. */
  readonly counters?: ListenerCounters | undefined;
  /**
   * Replaces the certificate for new connections; existing ones keep theirs. Rejects with
   * `InvalidArgument` for an invalid certificate or key, and with `Unavailable` without TLS.
   */
  setIdentity(identity: TlsIdentity): Promise<void>;
  /**
   * Rejects new requests and waits up to `grace` ms for answers in flight. Then aborts the rest and
   * stops listening.
   */
  close(options?: { readonly grace?: number }): Promise<void>;
}

/**
 * Runtime-specific parts of a {@link StorageServer}, supplied by the entry point of each runtime. A
 * loader rejects with `Unavailable` where the runtime lacks a protocol; the message names an
 * alternative.
 */
export interface ServerBindings {
  /** Clock, randomness and hashes. */
  readonly runtime: Runtime;
  /** Creates and checks certificates. */
  readonly identities: IdentityBinding;
  /** Loads the QUIC transport of this runtime, for listening. */
  quicListener(tls: TlsServerOptions, tuning: QuicTuning): Promise<Transport>;
  /** Loads the TCP transport of this runtime. */
  tcp(): Promise<Transport>;
  /** Starts a gRPC server at `local`; plaintext HTTP/2 without `tls`. */
  grpcServer(
    local: Address,
    store: PieceStore,
    settings: ServerSettings,
    tls: TlsServerOptions | undefined,
    serving: GrpcServing,
  ): Promise<ProtocolServer>;
}

/** Certificate operations that the core cannot perform by itself. */
export interface IdentityBinding {
  /**
   * Resolves to the identity of a server: the one in the options, else the one in their identity
   * store. If that is empty, creates a self-signed identity and saves it there. Rejects with
   * `InvalidArgument`, and with the errors of the store.
   */
  ofServer(options: TlsServerOptions): Promise<TlsIdentity>;
  /** Creates a new self-signed identity. */
  make(): Promise<TlsIdentity>;
  /**
   * Returns the identity if it is valid. Throws `InvalidArgument` for an invalid certificate or
   * key, and for a key that does not match the certificate.
   */
  check(identity: TlsIdentity): TlsIdentity;
}

/**
 * Server of one store over QUIC, TCP and gRPC, in any combination. All protocols share one upload
 * rate limit and one certificate.
 */
export class StorageServer {
  /** Bound address of each protocol that is served. */
  readonly addresses: { readonly quic?: Address; readonly tcp?: Address; readonly grpc?: Address };
  readonly #servers: readonly ProtocolServer[];
  readonly #tls: TlsServerOptions;
  readonly #identities: IdentityBinding;
  /** Current identity; undefined without TLS. */
  #identity: TlsIdentity | undefined;
  /** Settles after all rotations so far; serialises them. */
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
   * Starts to serve the protocols in `options`. Rejects with `InvalidArgument`, `AddressInUse` or
   * `Unavailable`, and with `StorageFailed` when the stored certificate cannot be read or written.
   * After a rejection nothing is left listening.
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
        "protocols to serve: expected quic, tcp or grpc with a port, got none",
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
      // All protocols share one identity, so clients pin a single fingerprint.
      if (quic !== undefined || grpc?.tls === true)
        identity = await bindings.identities.ofServer(tls);
      const serverTls = {
        ...identity,
        ...(tls.clientCa !== undefined && { clientCa: tls.clientCa }),
      };
      if (quic !== undefined)
        addresses.quic = (
          await listen(await bindings.quicListener(serverTls, quic), quic.port)
        ).address;
      if (tcp !== undefined) addresses.tcp = (await listen(await bindings.tcp(), tcp.port)).address;
      if (grpc !== undefined) {
        const local = { host: grpc.host ?? host, port: grpc.port };
        const server = await bindings.grpcServer(
          local,
          store,
          settings,
          grpc.tls === true ? serverTls : undefined,
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

  /** Counters of the listeners, summed over all protocols. */
  get counters(): ListenerCounters {
    const sum = { unanswerable: 0, unsent: 0, caught: 0 };
    for (const { counters } of this.#servers) {
      sum.unanswerable += counters?.unanswerable ?? 0;
      sum.unsent += counters?.unsent ?? 0;
      sum.caught += counters?.caught ?? 0;
    }
    return sum;
  }

  /** SHA-256 fingerprint of the current certificate, for clients to pin; undefined without TLS. */
  get fingerprint(): string | undefined {
    return this.#secured()[0]?.fingerprint;
  }

  /**
   * Replaces the certificate for new connections over QUIC and gRPC; existing ones keep theirs.
   * Resolves to the fingerprint of the new certificate.
   *
   * The old certificate stays in use when this rejects:
   *
   * - `InvalidArgument`: the certificate or key is invalid. Also if `identity` is omitted although
   *   the options contain a certificate.
   * - `StorageFailed`: `tls.identityStore` cannot save the identity.
   * - `Unavailable`: no protocol uses TLS, or the runtime cannot replace a certificate.
   *
   * @param identity new certificate and key, saved in `tls.identityStore` if there is one. Default:
   * a new self-signed identity
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
        "cannot rotate the certificate: no protocol uses TLS; serve quic, or grpc with tls",
      );
    }
    if (given === undefined && this.#tls.cert !== undefined) {
      const message =
        "cannot rotate the certificate of option tls.cert: expected a new one, got none";
      throw new VortexError("InvalidArgument", message);
    }
    const identity =
      given === undefined ? await this.#identities.make() : this.#identities.check(given);
    try {
      for (const server of servers) await server.setIdentity(identity);
      await this.#tls.identityStore?.save(identity);
    } catch (error) {
      // Roll back: a certificate must be in use for every protocol, and survive a restart, or for
      // none.
      for (const server of servers) await server.setIdentity(before).catch(() => {});
      throw error;
    }
    this.#identity = identity;
    return servers[0]?.fingerprint ?? "";
  }

  #secured(): ProtocolServer[] {
    return this.#servers.filter(({ fingerprint }) => fingerprint !== undefined);
  }

  /**
   * Rejects new requests and waits up to `grace` ms (default 5,000) for answers in flight. Then
   * aborts the rest and stops listening. Idempotent.
   */
  async close(options: { readonly grace?: number } = {}): Promise<void> {
    await Promise.all(this.#servers.map((server) => server.close(options)));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Returns the addresses and names that gRPC answers advertise, from bound Vortex servers. */
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
