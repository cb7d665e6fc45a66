import { isIP } from "node:net";
import { abortedError, untilAborted, VortexError } from "../../src/errors.ts";
import { type Address, formatAddress, isIPv6, splitZone } from "../../src/transport/address.ts";
import type { TlsClientOptions } from "../../src/transport/tls.ts";
import {
  type CloseInfo,
  type Connection,
  type DialOptions,
  StreamCode,
} from "../../src/transport/transport.ts";
import { Guard } from "../shared/guard.ts";
import { permissionError } from "../shared/permission.ts";
import { dialHost, type Resolver } from "../shared/resolve.ts";
import { authoritiesOf, identityOf, pinsOf, STOCK_NAME } from "../shared/tls.ts";
import { DenoQuicConnection } from "./connection.ts";
import { ClientEndpoints, release } from "./endpoints.ts";
import { closeInfoOf, isProtocolRefused, type Trust } from "./errors.ts";
import type { DenoQuic, NativeConn, NativeConnectOptions, NativeEndpoint } from "./native.ts";
import {
  type DenoQuicSettings,
  nativeSettings,
  STOCK_PROTOCOLS,
  VORTEX_PROTOCOLS,
} from "./options.ts";

/**
 * Maximum number of peers remembered as requiring ALPN. Above it, the peer remembered first is
 * forgotten.
 */
const MAX_REMEMBERED_PEERS = 1024;

/** Opens the outgoing connections of one transport. */
export class DenoQuicDialler {
  readonly #quic: DenoQuic;
  readonly #tls: TlsClientOptions;
  readonly #options: Omit<
    NativeConnectOptions,
    "hostname" | "port" | "serverName" | "alpnProtocols" | "zeroRtt"
  >;
  readonly #endpoints: ClientEndpoints;
  readonly #guard = new Guard();
  readonly #resolver: Resolver | undefined;
  /** Addresses of peers that require this library's ALPN, in the order of their discovery. */
  readonly #peersWithAlpn = new Set<string>();

  /**
   * @throws `InvalidArgument` if a TLS option is unusable, or if pinned fingerprints are combined
   * with a client certificate
   */
  constructor(
    quic: DenoQuic,
    tls: TlsClientOptions,
    settings: DenoQuicSettings,
    resolver: Resolver | undefined,
  ) {
    this.#quic = quic;
    this.#tls = tls;
    this.#resolver = resolver;
    this.#endpoints = new ClientEndpoints(quic);
    const identity = identityOf(tls);
    const pins = pinsOf(tls);
    const caCerts = authoritiesOf(tls.ca);
    if (identity !== undefined && pins !== undefined) {
      throw new VortexError(
        "InvalidArgument",
        "tls options conflict: expected fingerprints or cert, got both; Deno sends no client certificate to a pinned peer, so name its authority (tls.ca)",
      );
    }
    this.#options = {
      // Peers open no streams towards a client.
      ...nativeSettings(settings, 0, false),
      keepAliveInterval: settings.keepAlive,
      ...(caCerts && { caCerts }),
      ...(pins && {
        serverCertificateHashes: pins.map((pin) => ({ algorithm: "sha-256", value: bytesOf(pin) })),
      }),
      ...identity,
    };
  }

  /**
   * Opens a connection to `remote`. Tries the addresses of a host name by Happy Eyeballs (RFC
   * 8305), each with a separate UDP socket.
   */
  dial(remote: Address, { signal, earlyData = false }: DialOptions): Promise<Connection> {
    return dialHost({
      remote,
      signal,
      resolver: this.#resolver,
      // Early data that was sent to one address cannot move to another.
      dial: (host, own, only) => this.#dialAddress(remote, host, own, earlyData && only),
      discard: (late) => late.abort(StreamCode.Cancelled),
    });
  }

  /**
   * Dials an unknown peer without ALPN first. A peer of this library refuses that, which costs one
   * round trip. The reverse order would end a dfdaemon of 1.1.0 to 1.4.8, since it exits when a
   * handshake fails.
   */
  async #dialAddress(
    remote: Address,
    host: string,
    signal: AbortSignal | undefined,
    earlyData: boolean,
  ): Promise<Connection> {
    const addr = formatAddress(remote);
    if (signal?.aborted) throw abortedError(signal, `dialling ${addr}`);
    const stock = !this.#peersWithAlpn.has(addr);
    try {
      return await this.#dialAs(stock, remote, host, earlyData, signal);
    } catch (error) {
      if (!isProtocolRefused(error)) throw error;
      // The peer at this address has changed, or is dialled for the first time.
      this.#peersWithAlpn.delete(addr);
      const connection = await this.#dialAs(!stock, remote, host, earlyData, signal);
      if (stock) this.#rememberWithAlpn(addr);
      return connection;
    }
  }

  /** Releases the endpoints without a connection. Implements `Transport.close`. */
  close(): void {
    this.#endpoints.close();
  }

  #rememberWithAlpn(addr: string): void {
    this.#peersWithAlpn.add(addr);
    if (this.#peersWithAlpn.size <= MAX_REMEMBERED_PEERS) return;
    const [oldest] = this.#peersWithAlpn;
    if (oldest !== undefined) this.#peersWithAlpn.delete(oldest);
  }

  /**
   * Dials one address of a peer, with or without ALPN.
   *
   * @param stock true to offer no ALPN, like dfdaemon; false to offer this library's ALPN
   */
  async #dialAs(
    stock: boolean,
    remote: Address,
    host: string,
    earlyData: boolean,
    signal: AbortSignal | undefined,
  ): Promise<Connection> {
    const addr = formatAddress(remote);
    // An endpoint has one address family, and stores sessions of the peer at this address.
    const key = `${addr} ${host} ${stock}`;
    // With `verify: false` Deno skips verification only for the name on its command line, which is
    // dfdaemon's.
    const name =
      this.#tls.serverName ?? (this.#tls.verify === false ? STOCK_NAME : splitZone(remote.host)[0]);
    const trust: Trust = { tls: this.#tls, name };
    // For a host name, which the program may not be permitted to resolve, Deno creates the socket.
    const family = isIPv6(host) ? 6 : isIP(host) === 4 ? 4 : undefined;
    const endpoint = family && this.#endpoints.take(key, family);
    let attempt: Promise<NativeConn> | NativeConn;
    try {
      attempt = this.#quic.connectQuic({
        ...this.#options,
        hostname: host,
        port: remote.port,
        serverName: name,
        alpnProtocols: [...(stock ? STOCK_PROTOCOLS : VORTEX_PROTOCOLS)],
        zeroRtt: earlyData,
        ...(endpoint && { endpoint }),
      });
    } catch (error) {
      if (endpoint !== undefined) release(endpoint);
      const what = `cannot dial ${addr}`;
      throw permissionError(error, what) ?? VortexError.from(error, "Unreachable", what, addr);
    }
    if (!(attempt instanceof Promise))
      return this.#connectionOf(attempt, remote, key, trust, signal);
    let native: NativeConn;
    try {
      native = await untilAborted(attempt, signal, `dialling ${addr}`);
    } catch (error) {
      this.#abandon(attempt, key, endpoint, signal?.aborted === true);
      if (error instanceof VortexError) throw error;
      throw closeInfoOf(error, { established: false, server: false, trust }).error;
    }
    const connection = new DenoQuicConnection(native, remote, {
      guard: this.#guard,
      server: false,
      established: true,
      trust,
    });
    this.#returnOnClose(connection, key, native.endpoint);
    return connection;
  }

  /**
   * Creates the connection object for a dial with early data (0-RTT), before the handshake is
   * complete. Until the handshake is complete, `signal` aborts the connection.
   *
   * @param key key of the endpoint pool: the peer with the offered ALPN
   */
  #connectionOf(
    native: NativeConn,
    remote: Address,
    key: string,
    trust: Trust,
    signal: AbortSignal | undefined,
  ): DenoQuicConnection {
    const connection = new DenoQuicConnection(native, remote, {
      guard: this.#guard,
      server: false,
      established: false,
      trust,
    });
    this.#returnOnClose(connection, key, native.endpoint);
    const onAbort = this.#guard.wrap(() => {
      if (signal === undefined) return;
      connection.abort(
        StreamCode.Cancelled,
        "",
        abortedError(signal, `dialling ${formatAddress(remote)}`),
      );
    });
    const unsubscribe = (): void => signal?.removeEventListener("abort", onAbort);
    signal?.addEventListener("abort", onAbort, { once: true });
    connection.ready.then(unsubscribe, unsubscribe);
    return connection;
  }

  /**
   * Abandons a dial that has failed or was aborted. Deno can cancel a handshake in progress only by
   * closing its socket.
   *
   * @param inProgress true if the handshake is in progress, so the endpoint is released. If false,
   * the endpoint returns to the pool.
   */
  #abandon(
    attempt: Promise<NativeConn>,
    key: string,
    endpoint: NativeEndpoint | undefined,
    inProgress: boolean,
  ): void {
    if (endpoint !== undefined && !inProgress) this.#endpoints.put(key, endpoint);
    else if (endpoint !== undefined) release(endpoint);
    attempt.then(
      this.#guard.wrap((late: NativeConn) =>
        late.close({ closeCode: StreamCode.Cancelled, reason: "" }),
      ),
      () => {},
    );
  }

  /**
   * Returns the endpoint to the pool when the connection has closed.
   *
   * @param key key of the endpoint pool: the peer with the offered ALPN
   */
  #returnOnClose(connection: DenoQuicConnection, key: string, endpoint: NativeEndpoint): void {
    const onClosed = this.#guard.wrap(({ error }: CloseInfo) => {
      // After refused early data, the peer has lost the sessions for which the endpoint is kept.
      if (error.code === "EarlyDataRefused") release(endpoint);
      else this.#endpoints.put(key, endpoint);
    });
    void connection.closed.then(onClosed);
  }
}

function bytesOf(hex: string): Uint8Array {
  return Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}
