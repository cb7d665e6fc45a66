import {
  type Checks,
  fields,
  flag,
  implementing,
  integer,
  required,
  requireOptions,
  text,
} from "../arguments.ts";
import { VortexError } from "../errors.ts";
import type { Runtime } from "../runtime.ts";
import type { PieceStore } from "../store/store.ts";
import type { Address } from "../transport/address.ts";
import { type QuicTuning, quicChecks } from "../transport/quic-tuning.ts";
import { type TlsIdentity, type TlsServerOptions, tlsServerChecks } from "../transport/tls.ts";
import type { ListenerCounters, Transport } from "../transport/transport.ts";
import {
  type ServerOptions,
  type ServerSettings,
  serverChecks,
  serverSettings,
} from "./admission/upload.ts";
import type { AdvertisedHost } from "./grpc/advertised.ts";
import { VortexServer } from "./vortex-server.ts";

/** Options of {@link startStorageServer}. At least one of `quic`, `tcp` and `grpc` is required. */
export interface StorageServerOptions extends ServerOptions {
  /** Store that contains the pieces to serve. */
  readonly store: PieceStore;
  /** Local address to listen on. Default `0.0.0.0`, all IPv4 addresses of this host. */
  readonly host?: string | undefined;
  /**
   * Serves the Vortex protocol over QUIC at the UDP port `port`; port 0 selects a free port. Stock
   * Dragonfly peers use 4006. The other fields are QUIC transport parameters. Default: the server
   * does not listen for QUIC.
   */
  readonly quic?: ({ readonly port: number } & QuicTuning) | undefined;
  /**
   * Serves the Vortex protocol over TCP at the port `port`; port 0 selects a free port. Stock
   * Dragonfly peers use 4005. Default: the server does not listen for Vortex over TCP.
   */
  readonly tcp?: { readonly port: number } | undefined;
  /**
   * Serves the Dragonfly API over gRPC at the port `port`; port 0 selects a free port. Stock
   * Dragonfly peers use 4000. Default: the server does not listen for gRPC.
   *
   * - `host`: local address for gRPC only. Default: the option {@link host}.
   * - `tls`: true to use TLS with the certificate in the option {@link tls}. Default false:
   *   plaintext HTTP/2, like dfdaemon with its default configuration.
   */
  readonly grpc?:
    | { readonly port: number; readonly host?: string | undefined; readonly tls?: boolean }
    | undefined;
  /**
   * Certificate and client authentication for QUIC, and for gRPC with `grpc.tls`. Does not apply to
   * TCP or to plaintext gRPC. Default: a new self-signed certificate; clients may pin its
   * fingerprint.
   */
  readonly tls?: TlsServerOptions | undefined;
  /**
   * IP address at which peers reach this host. The server sends it in gRPC responses, together with
   * the TCP and QUIC ports of its Vortex servers. Default: the local address of the gRPC connection
   * on which the request arrived. Set this option if peers use another address, for example behind
   * NAT.
   */
  readonly advertisedIp?: string | undefined;
  /**
   * Host name from which the server builds the host ID and peer ID in its gRPC responses. Default
   * `vortex-peer`.
   */
  readonly hostname?: string | undefined;
  /**
   * True to close the server at SIGINT and SIGTERM, and then to let the signal take its default
   * effect. Without a close, children of a QUIC server wait for its idle timeout, about a minute.
   * Default false: a handler in a library keeps the signal from ending the program, so the program
   * calls {@link StorageServer.close} itself.
   *
   * A second signal does not wait for the close. Where the program has handlers for the signal,
   * they decide about the end of the process. `Unavailable` where the runtime has no signals.
   */
  readonly closeOnSignals?: boolean | undefined;
}

/** Server of one protocol (QUIC, TCP or gRPC); a {@link StorageServer} consists of up to three. */
export interface ProtocolServer {
  /**
   * Local address that the server listens at. Contains the assigned port if port 0 was requested.
   */
  readonly address: Address;
  /**
   * SHA-256 fingerprint of the certificate for new connections; undefined if this server does not
   * use TLS.
   */
  readonly fingerprint: string | undefined;
  /** Counters of the listener, see `Listener.counters`. Absent if the listener does not count. */
  readonly counters?: ListenerCounters | undefined;
  /**
   * Replaces the certificate for new connections; existing connections continue with the old
   * certificate. Rejects with `InvalidArgument` if the certificate or key is invalid, and with
   * `Unavailable` if this server does not use TLS.
   */
  setIdentity(identity: TlsIdentity): Promise<void>;
  /**
   * Rejects new requests and waits up to `grace` ms for responses in flight. Then aborts the
   * responses that are still in flight, and stops listening.
   */
  close(options?: { readonly grace?: number | undefined }): Promise<void>;
}

/**
 * Parts of a {@link StorageServer} that depend on the runtime (Node, Bun, Deno). The entry point of
 * each runtime supplies them. A method rejects with `Unavailable` if the runtime lacks the
 * protocol; the error message names an alternative.
 */
export interface ServerBindings {
  /** Clock, source of randomness and hash functions. */
  readonly runtime: Runtime;
  /** Functions that create and validate certificates. */
  readonly identities: IdentityBinding;
  /** Resolves to the QUIC transport of this runtime, configured for a server that listens. */
  quicListener(tls: TlsServerOptions, tuning: QuicTuning): Promise<Transport>;
  /** Resolves to the TCP transport of this runtime. */
  tcp(): Promise<Transport>;
  /**
   * Starts a gRPC server that listens at the address `local`. Without `tls`, the server uses
   * plaintext HTTP/2.
   */
  grpcServer(
    local: Address,
    store: PieceStore,
    settings: ServerSettings,
    tls: TlsServerOptions | undefined,
    serving: AdvertisedHost,
  ): Promise<ProtocolServer>;
  /**
   * Calls `close` at SIGINT and SIGTERM, then lets the signal take its default effect. Returns a
   * function that unsubscribes. Absent if the runtime has no signals.
   */
  closeOnSignals?(close: () => Promise<void>): () => void;
}

/** Operations on server certificates that need functions of the runtime. */
export interface IdentityBinding {
  /**
   * Resolves to the certificate and key of a server: those in `options`, else those in the identity
   * store in `options`. If both are absent, creates a self-signed identity, and saves it in the
   * identity store if there is one.
   *
   * Rejects with `InvalidArgument` if the options are invalid, and with the error of the identity
   * store if it cannot be read or written.
   */
  serverIdentity(options: TlsServerOptions): Promise<TlsIdentity>;
  /** Creates a self-signed certificate with a new private key. */
  create(): Promise<TlsIdentity>;
  /**
   * Resolves to `identity` unchanged if it is valid. Rejects with `InvalidArgument` if the
   * certificate or key is invalid, or the key does not match the certificate.
   */
  validate(identity: TlsIdentity): Promise<TlsIdentity>;
}

/**
 * Serves the pieces of one store over any combination of QUIC, TCP and gRPC. All protocols share
 * one upload rate limit. QUIC and gRPC over TLS share one certificate. Created by `startServer`.
 */
export interface StorageServer {
  /** Local address of each protocol that this server listens for, with the assigned port. */
  readonly addresses: { readonly quic?: Address; readonly tcp?: Address; readonly grpc?: Address };
  /** Sum of the listener counters of all protocols. A listener that does not count adds 0. */
  readonly counters: ListenerCounters;
  /**
   * SHA-256 fingerprint of the current certificate, for clients to pin. Undefined if no protocol
   * uses TLS.
   */
  readonly fingerprint: string | undefined;
  /**
   * Replaces the certificate for new connections over QUIC and gRPC; existing connections continue
   * with the old certificate. Resolves to the fingerprint of the new certificate.
   *
   * If the method rejects, new connections still get the old certificate. It rejects with:
   *
   * - `InvalidArgument` if the certificate or key is invalid, or if `identity` is omitted although
   *   the server options contain a certificate
   * - `StorageFailed` if `tls.identityStore` cannot save the identity
   * - `Unavailable` if no protocol uses TLS, or the runtime cannot replace a certificate
   *
   * @param identity new certificate and key, saved in `tls.identityStore` if there is one. Default:
   * a new self-signed certificate
   */
  rotateCertificate(identity?: TlsIdentity): Promise<string>;
  /**
   * Rejects new requests and waits up to `grace` ms (default 5,000) for responses in flight. Then
   * aborts the responses that are still in flight, and stops listening. Idempotent.
   */
  close(options?: { readonly grace?: number | undefined }): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Starts to listen for the protocols in `options`. If one protocol fails, the others are closed
 * too. Rejects with:
 *
 * - `InvalidArgument` if an option is invalid, or no protocol is given
 * - `AddressInUse` if an address is in use, or does not belong to this host
 * - `Unavailable` if the runtime lacks a protocol
 * - `StorageFailed` if `tls.identityStore` cannot be read or written
 */
export async function startStorageServer(
  options: StorageServerOptions,
  bindings: ServerBindings,
): Promise<StorageServer> {
  requireOptions("startServer", options, storageServerChecks);
  const { store, host = "0.0.0.0", quic, tcp, grpc, tls = {} } = options;
  const settings = serverSettings(options, bindings.runtime);
  if (quic === undefined && tcp === undefined && grpc === undefined) {
    throw new VortexError(
      "InvalidArgument",
      "protocols to serve: expected quic, tcp or grpc with a port, got none",
    );
  }
  const { closeOnSignals } = bindings;
  if (options.closeOnSignals && closeOnSignals === undefined)
    throw new VortexError("Unavailable", "closeOnSignals: this runtime has no signals");
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
      identity = await bindings.identities.serverIdentity(tls);
    const serverTls = {
      ...identity,
      ...(tls.clientCa !== undefined && { clientCa: tls.clientCa }),
    };
    if (quic !== undefined) {
      const { port, ...tuning } = quic;
      const transport = await bindings.quicListener(serverTls, tuning);
      addresses.quic = (await listen(transport, port)).address;
    }
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
  const group = new ServerGroup(addresses, started, tls, bindings.identities, identity);
  if (options.closeOnSignals) group.unsubscribe = closeOnSignals?.(() => group.close());
  return group;
}

/** {@link StorageServer} that consists of one server per protocol. */
class ServerGroup implements StorageServer {
  readonly addresses: { readonly quic?: Address; readonly tcp?: Address; readonly grpc?: Address };
  /** Ends the subscription to signals. Undefined if there is none. */
  unsubscribe: (() => void) | undefined;
  readonly #servers: readonly ProtocolServer[];
  readonly #tls: TlsServerOptions;
  readonly #identities: IdentityBinding;
  /** Certificate and key for new connections; undefined if no protocol uses TLS. */
  #identity: TlsIdentity | undefined;
  /**
   * Promise that resolves when the latest certificate rotation has ended. The next rotation waits
   * for it, so that rotations run one after another.
   */
  #rotating: Promise<unknown> = Promise.resolve();

  constructor(
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

  get counters(): ListenerCounters {
    const sum = { unanswerable: 0, unsent: 0, caught: 0 };
    for (const { counters } of this.#servers) {
      sum.unanswerable += counters?.unanswerable ?? 0;
      sum.unsent += counters?.unsent ?? 0;
      sum.caught += counters?.caught ?? 0;
    }
    return sum;
  }

  get fingerprint(): string | undefined {
    return this.#secured()[0]?.fingerprint;
  }

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
      given === undefined
        ? await this.#identities.create()
        : await this.#identities.validate(given);
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

  async close(options: { readonly grace?: number | undefined } = {}): Promise<void> {
    await Promise.all(this.#servers.map((server) => server.close(options)));
    this.unsubscribe?.();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Returns the ports, IP address and host name that the gRPC server advertises to peers. */
function servingOf(
  { advertisedIp, hostname }: StorageServerOptions,
  { tcp, quic }: StorageServer["addresses"],
): AdvertisedHost {
  return {
    ...(tcp !== undefined && { tcpPort: tcp.port }),
    ...(quic !== undefined && { quicPort: quic.port }),
    ...(advertisedIp !== undefined && { advertisedIp }),
    ...(hostname !== undefined && { hostname }),
  };
}

const port = required(integer(0, 65535));

const quicServerChecks: Checks<NonNullable<StorageServerOptions["quic"]>> = {
  ...quicChecks,
  port,
};

const tcpServerChecks: Checks<NonNullable<StorageServerOptions["tcp"]>> = { port };

const grpcServerChecks: Checks<NonNullable<StorageServerOptions["grpc"]>> = {
  port,
  host: text,
  tls: flag,
};

const storageServerChecks: Checks<StorageServerOptions> = {
  ...serverChecks,
  store: required(implementing("a store", "getPiece", "getTask")),
  host: text,
  quic: fields(quicServerChecks),
  tcp: fields(tcpServerChecks),
  grpc: fields(grpcServerChecks),
  tls: fields(tlsServerChecks),
  advertisedIp: text,
  hostname: text,
  closeOnSignals: flag,
};
