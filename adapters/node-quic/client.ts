import { isIPv6 } from "node:net";
import { abortedError, VortexError } from "../../src/errors.ts";
import { systemClock, type Timer } from "../../src/runtime.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import type { SessionCache } from "../../src/transport/session-cache.ts";
import type { TlsClientOptions } from "../../src/transport/tls.ts";
import { type Connection, type DialOptions, StreamCode } from "../../src/transport/transport.ts";
import { ALPN } from "../quiche/options.ts";
import { Guard } from "../shared/guard.ts";
import { nativeError } from "../shared/native-error.ts";
import { dialHost, type Resolver } from "../shared/resolve.ts";
import { checkCertificate, serverNameOf } from "../shared/tls.ts";
import { refusedCertificate } from "../shared/tls-errors.ts";
import { NodeQuicConnection } from "./connection.ts";
import { bindEndpoint, type EndpointContext, nativeAddress } from "./endpoint.ts";
import type { HandshakeInfo, NativeEndpoint, NativeSession } from "./native.ts";
import type { NodeQuicSettings } from "./options.ts";
import { PortProbe } from "./port-probe.ts";
import { sessionConfig } from "./session-config.ts";
import { type ClientTls, clientTls } from "./tls.ts";

/**
 * Time in ms after the start of a handshake at which the peer's port is first probed, see
 * {@link PortProbe}.
 */
const FIRST_PROBE_DELAY_MS = 25;
/** Interval at which {@link PortProbe} probes the UDP port of the peer in a handshake, in ms. */
const PROBE_INTERVAL_MS = 500;
/**
 * Number of ICMP errors in a row that end an established connection. A received packet resets the
 * count to 0.
 */
const MAX_CONSECUTIVE_REFUSALS = 3;
/** Interval between probes of the peer's port after an ICMP error, in ms. */
const REFUSAL_PROBE_INTERVAL_MS = 100;

/** State shared by all outgoing connections of one transport. */
export interface ClientContext extends EndpointContext {
  readonly settings: NodeQuicSettings;
  readonly tls: TlsClientOptions;
  readonly sessions: SessionCache;
  /** Resolver for host names. If undefined, the system's resolver is used. */
  readonly resolver: Resolver | undefined;
}

/**
 * Opens a connection to `remote`. Tries the addresses of a host name by Happy Eyeballs (RFC 8305),
 * each with a separate UDP socket.
 */
export async function dialNodeQuic(
  context: ClientContext,
  remote: Address,
  { signal, earlyData = false }: DialOptions,
): Promise<Connection> {
  const tls = clientTls(context.tls);
  return dialHost({
    remote,
    signal,
    resolver: context.resolver,
    // Early data that was sent to one address cannot move to another.
    dial: (host, own, only) => dialAddress(context, tls, remote, host, own, earlyData && only),
    discard: (late) => late.abort(StreamCode.Cancelled),
  });
}

async function dialAddress(
  context: ClientContext,
  tls: ClientTls,
  remote: Address,
  host: string,
  signal: AbortSignal | undefined,
  earlyData: boolean,
): Promise<Connection> {
  const addr = formatAddress(remote);
  const ticket = earlyData ? context.sessions.take(addr) : undefined;
  const [endpoint, session] = await connect(context, tls, remote, host, ticket);
  const connection = new DialledSession(
    context,
    tls,
    endpoint,
    session,
    remote,
    host,
    ticket !== undefined,
  ).connection;
  const onAbort = new Guard().wrap(() => {
    // With early data, the application may already use the connection before its handshake is over.
    if (signal !== undefined)
      connection.abort(StreamCode.Cancelled, "", abortedError(signal, `dialling ${addr}`));
  });
  const unsubscribe = (): void => signal?.removeEventListener("abort", onAbort);
  signal?.addEventListener("abort", onAbort, { once: true });
  if (signal?.aborted) onAbort();
  connection.ready.then(unsubscribe, unsubscribe);
  if (connection.earlyData !== "pending") await connection.ready;
  return connection;
}

async function connect(
  context: ClientContext,
  tls: ClientTls,
  remote: Address,
  host: string,
  ticket: Uint8Array | undefined,
): Promise<[NativeEndpoint, NativeSession]> {
  const { quic, settings } = context;
  const servername = serverNameOf(context.tls, remote.host);
  try {
    return await bindEndpoint(
      context,
      nativeAddress(isIPv6(host) ? "::" : "0.0.0.0", 0),
      (endpoint) =>
        quic.connect(nativeAddress(host, remote.port), {
          // Peers open no streams towards a client.
          ...sessionConfig(settings, 0, true),
          endpoint,
          alpn: ALPN,
          ca: tls.ca,
          ...tls.identity,
          ...(servername !== undefined && { servername }),
          keepAlive: settings.keepAlive,
          ...(ticket && { sessionTicket: ticket }),
        }),
    );
  } catch (error) {
    throw nativeError(error, "Unreachable", `cannot reach ${formatAddress(remote)}`);
  }
}

/**
 * Outgoing connection on `node:quic`: checks the server's certificate, stores TLS session tickets
 * and detects a closed port.
 */
class DialledSession {
  readonly connection: NodeQuicConnection;
  readonly #context: ClientContext;
  readonly #tls: ClientTls;
  readonly #endpoint: NativeEndpoint;
  readonly #session: NativeSession;
  readonly #remote: Address;
  readonly #guard: Guard;
  readonly #probe: PortProbe;
  #probeTimer: Timer | undefined;
  #receivedPackets = 0n;
  /** Number of ICMP errors since a packet was last received. */
  #refusals = 0;
  /** Latest TLS session ticket from the server, which may send several after the handshake. */
  #ticket: Uint8Array | undefined;

  constructor(
    context: ClientContext,
    tls: ClientTls,
    endpoint: NativeEndpoint,
    session: NativeSession,
    remote: Address,
    host: string,
    resuming: boolean,
  ) {
    this.#context = context;
    this.#tls = tls;
    this.#endpoint = endpoint;
    this.#session = session;
    this.#remote = remote;
    this.#guard = new Guard({
      end: (error) => this.connection.abort(StreamCode.Internal, "", error),
    });
    this.#probe = new PortProbe(host, remote.port, this.#guard, (cause) => this.#onRefused(cause));
    session.onsessionticket = this.#guard.wrap((ticket: Uint8Array) => {
      this.#ticket = ticket;
    });
    this.connection = new NodeQuicConnection(session, remote, resuming ? "pending" : "none", {
      clock: systemClock,
      guard: this.#guard,
      settings: context.settings,
      server: false,
      onEarlyData: () => {},
      onEstablished: (_connection, info) => this.#onEstablished(info),
      onEnded: () => this.#onEnded(),
    });
    this.#scheduleProbe(FIRST_PROBE_DELAY_MS);
    // Without `verify`, the handshake counts as complete a round trip earlier. With it, the result
    // of the module's certificate check is needed, which arrives only with the peer's confirmation.
    if (!tls.verify && !resuming) this.#guard.run(() => this.connection.watchHandshake());
  }

  #onEstablished(info: HandshakeInfo | undefined): void {
    const { tls } = this.#context;
    const leaf = this.#session.peerCertificate?.raw;
    if (this.#tls.verify && info?.validationErrorCode !== undefined) {
      throw refusedCertificate(
        leaf,
        tls,
        this.#remote.host,
        info.validationErrorReason ?? info.validationErrorCode,
      );
    }
    checkCertificate(leaf === undefined ? null : [leaf], tls, this.#remote.host);
  }

  #onEnded(): void {
    // Tickets of a peer that failed the certificate check are not stored.
    if (this.#ticket !== undefined && this.connection.established) {
      this.#context.sessions.put(formatAddress(this.#remote), this.#ticket);
    }
    this.#probeTimer?.cancel();
    this.#probe.close();
    this.#endpoint.close().catch(() => {});
  }

  #scheduleProbe(milliseconds: number): void {
    this.#probeTimer = this.#guard.clock.setTimer(() => this.#onProbeTimer(), milliseconds, {
      background: true,
    });
  }

  /**
   * Probes the peer's port if nothing was received since the previous call, then sets the timer for
   * the next call.
   */
  #onProbeTimer(): void {
    const { pktRecv } = this.#session.stats;
    const silent = pktRecv === this.#receivedPackets;
    this.#receivedPackets = pktRecv;
    if (silent) this.#probe.send();
    else this.#refusals = 0;
    const { established } = this.connection;
    this.#scheduleProbe(
      !established
        ? PROBE_INTERVAL_MS
        : this.#refusals > 0
          ? REFUSAL_PROBE_INTERVAL_MS
          : this.#context.settings.keepAlive,
    );
  }

  /**
   * Handles an ICMP error for the peer's port. An error during the handshake means that the port is
   * closed, and ends the connection. Later a single error may be forged or transient (RFC 9000,
   * section 14.2.1). So only {@link MAX_CONSECUTIVE_REFUSALS} in a row end the connection.
   */
  #onRefused(cause: unknown): void {
    if (!this.connection.established) {
      const error = nativeError(
        cause,
        "Unreachable",
        `cannot reach ${formatAddress(this.#remote)}`,
      );
      this.connection.abort(StreamCode.None, "", error);
      return;
    }
    this.#refusals++;
    if (this.#refusals >= MAX_CONSECUTIVE_REFUSALS) {
      const error = new VortexError(
        "ConnectionLost",
        `connection lost: ${this.#refusals} consecutive ICMP errors, the peer's port is closed`,
        { cause },
      );
      this.connection.abort(StreamCode.None, "", error);
      return;
    }
    this.#probeTimer?.cancel();
    this.#scheduleProbe(REFUSAL_PROBE_INTERVAL_MS);
  }
}
