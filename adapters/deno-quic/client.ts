import { isIP } from "node:net";
import { abortedError, untilAborted, VortexError } from "../../src/errors.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import type { TlsClientOptions } from "../../src/transport/tls.ts";
import {
  type CloseInfo,
  type Connection,
  type DialOptions,
  StreamCode,
} from "../../src/transport/transport.ts";
import { Guard } from "../shared/guard.ts";
import { splitZone } from "../shared/local-address.ts";
import { permissionError } from "../shared/permission.ts";
import { dialHost, type Resolver } from "../shared/resolve.ts";
import { authoritiesOf, identityOf, pinsOf, STOCK_NAME } from "../shared/tls.ts";
import { DenoQuicConnection } from "./connection.ts";
import { ClientEndpoints, release } from "./endpoints.ts";
import { failureInfo, isProtocolRefused, type Trust } from "./errors.ts";
import type { DenoQuic, NativeConn, NativeConnectOptions, NativeEndpoint } from "./native.ts";
import {
  type DenoQuicSettings,
  nativeSettings,
  STOCK_PROTOCOLS,
  VORTEX_PROTOCOLS,
} from "./options.ts";

/** Peers that are remembered to be stock ones. */
const CAPACITY = 1024;

/** Dials, for one transport. */
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
  /** Addresses whose peers refuse to name an application protocol, as stock ones do; the one met longest ago first. */
  readonly #stock = new Set<string>();

  /** @throws `InvalidArgument` for options that cannot be, and for those that Deno cannot join */
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
        "tls.fingerprints with tls.cert: Deno shows no client certificate to a pinned peer; name its authority (tls.ca)",
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

  /** Dials one peer by all its addresses. */
  dial(remote: Address, { signal, earlyData = false }: DialOptions): Promise<Connection> {
    return dialHost({
      remote,
      signal,
      resolver: this.#resolver,
      // What is sent ahead of the handshake cannot move to another address.
      dial: (host, own, only) => this.#dialAddress(remote, host, own, earlyData && only),
      discard: (late) => late.abort(StreamCode.Cancelled),
    });
  }

  async #dialAddress(
    remote: Address,
    host: string,
    signal: AbortSignal | undefined,
    earlyData: boolean,
  ): Promise<Connection> {
    const addr = formatAddress(remote);
    if (signal?.aborted) throw abortedError(signal, `dialling ${addr}`);
    const stock = this.#stock.has(addr);
    try {
      return await this.#dialAs(stock, remote, host, earlyData, signal);
    } catch (error) {
      if (!isProtocolRefused(error)) throw error;
      // The peer is another one than it was, or met for the first time.
      this.#stock.delete(addr);
      const connection = await this.#dialAs(!stock, remote, host, earlyData, signal).catch(
        (second) => {
          // What the peer said of the name "vortex" is what its user can do something about.
          throw isProtocolRefused(second) ? error : second;
        },
      );
      if (!stock) this.#rememberStock(addr);
      return connection;
    }
  }

  /** See {@link Transport.close}. */
  close(): void {
    this.#endpoints.close();
  }

  #rememberStock(addr: string): void {
    this.#stock.add(addr);
    if (this.#stock.size <= CAPACITY) return;
    const [oldest] = this.#stock;
    if (oldest !== undefined) this.#stock.delete(oldest);
  }

  async #dialAs(
    stock: boolean,
    remote: Address,
    host: string,
    earlyData: boolean,
    signal: AbortSignal | undefined,
  ): Promise<Connection> {
    const addr = formatAddress(remote);
    // A socket is of one family, and its sessions are those of the peer at this address.
    const key = `${addr} ${host} ${stock}`;
    // Whoever trusts any certificate has Deno told so by its name on the command line, which is the stock peers' one.
    const name =
      this.#tls.serverName ?? (this.#tls.verify === false ? STOCK_NAME : splitZone(remote.host)[0]);
    const trust: Trust = { tls: this.#tls, name };
    // Deno itself makes the socket for a name, which the program may not resolve.
    const family = host.includes(":") ? 6 : isIP(host) === 4 ? 4 : undefined;
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
    if (!(attempt instanceof Promise)) return this.#early(attempt, remote, key, trust, signal);
    let native: NativeConn;
    try {
      native = await untilAborted(attempt, signal, `dialling ${addr}`);
    } catch (error) {
      this.#giveUp(attempt, key, endpoint, signal?.aborted === true);
      if (error instanceof VortexError) throw error;
      throw failureInfo(error, { established: false, server: false, trust }).error;
    }
    const connection = new DenoQuicConnection(native, remote, {
      guard: this.#guard,
      server: false,
      established: true,
      trust,
    });
    this.#giveBack(connection, key, native.endpoint);
    return connection;
  }

  /** A connection ahead of its handshake. The signal may end it until that is over. */
  #early(
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
    this.#giveBack(connection, key, native.endpoint);
    const onAbort = this.#guard.wrap(() => {
      if (signal === undefined) return;
      connection.abort(
        StreamCode.Cancelled,
        "",
        abortedError(signal, `dialling ${formatAddress(remote)}`),
      );
    });
    const settled = (): void => signal?.removeEventListener("abort", onAbort);
    signal?.addEventListener("abort", onAbort, { once: true });
    connection.ready.then(settled, settled);
    return connection;
  }

  /** Deno cannot give up a handshake but by giving up its socket. */
  #giveUp(
    attempt: Promise<NativeConn>,
    key: string,
    endpoint: NativeEndpoint | undefined,
    underWay: boolean,
  ): void {
    if (endpoint !== undefined && !underWay) this.#endpoints.put(key, endpoint);
    else if (endpoint !== undefined) release(endpoint);
    attempt.then(
      this.#guard.wrap((late: NativeConn) =>
        late.close({ closeCode: StreamCode.Cancelled, reason: "" }),
      ),
      () => {},
    );
  }

  #giveBack(connection: DenoQuicConnection, key: string, endpoint: NativeEndpoint): void {
    const onClosed = this.#guard.wrap(({ error }: CloseInfo) => {
      // The peer has forgotten the sessions that the socket is kept for.
      if (error.code === "EarlyDataRefused") release(endpoint);
      else this.#endpoints.put(key, endpoint);
    });
    void connection.closed.then(onClosed);
  }
}

function bytesOf(hex: string): Uint8Array {
  return Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}
