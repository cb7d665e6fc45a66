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

/** Milliseconds without a handshake before it is asked whether anybody listens there, and between two such questions. */
const FIRST_PROBE = 25;
const NEXT_PROBE = 500;
/** Refusals in a row, with nothing received between them, that mean that the peer of a connection is gone. */
const REFUSALS = 3;
/** Milliseconds between them. */
const REFUSAL_PAUSE = 100;

/** What all dials of a transport share. */
export interface ClientContext extends EndpointContext {
  readonly settings: NodeQuicSettings;
  readonly tls: TlsClientOptions;
  readonly sessions: SessionCache;
  /** Default: the system's. */
  readonly resolver: Resolver | undefined;
}

/** Dials one peer by all its addresses, each attempt on its own socket. */
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
    // What is sent ahead of the handshake cannot move to another address.
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
  const connection = new DialledPeer(
    context,
    tls,
    endpoint,
    session,
    remote,
    host,
    ticket !== undefined,
  ).connection;
  const onAbort = new Guard().wrap(() => {
    // The connection may be in use already, ahead of its handshake.
    if (signal !== undefined)
      connection.abort(StreamCode.Cancelled, "", abortedError(signal, `dialling ${addr}`));
  });
  const settled = (): void => signal?.removeEventListener("abort", onAbort);
  signal?.addEventListener("abort", onAbort, { once: true });
  if (signal?.aborted) onAbort();
  connection.ready.then(settled, settled);
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

/** What a client does for a connection besides the connection itself. */
class DialledPeer {
  readonly connection: NodeQuicConnection;
  readonly #context: ClientContext;
  readonly #tls: ClientTls;
  readonly #endpoint: NativeEndpoint;
  readonly #session: NativeSession;
  readonly #remote: Address;
  readonly #guard: Guard;
  readonly #probe: PortProbe;
  #probeTimer: Timer | undefined;
  #received = 0n;
  #refusals = 0;
  /** Tickets come at any time after the handshake; the last one counts. */
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
    this.#setProbe(FIRST_PROBE);
    // What the module found of the authority shows only when the peer has confirmed the handshake, a round trip later.
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
    // A session of a peer that failed the check is not kept.
    if (this.#ticket !== undefined && this.connection.established) {
      this.#context.sessions.put(formatAddress(this.#remote), this.#ticket);
    }
    this.#probeTimer?.cancel();
    this.#probe.close();
    this.#endpoint.close().catch(() => {});
  }

  #setProbe(milliseconds: number): void {
    this.#probeTimer = this.#guard.clock.setTimer(() => this.#onProbeTimer(), milliseconds, {
      background: true,
    });
  }

  /** Nothing is asked while something comes. */
  #onProbeTimer(): void {
    const { pktRecv } = this.#session.stats;
    const silent = pktRecv === this.#received;
    this.#received = pktRecv;
    if (silent) this.#probe.send();
    else this.#refusals = 0;
    const { established } = this.connection;
    this.#setProbe(
      !established
        ? NEXT_PROBE
        : this.#refusals > 0
          ? REFUSAL_PAUSE
          : this.#context.settings.keepAlive,
    );
  }

  /**
   * Before the handshake is over, nobody listens there. After it, an answer may be a forgery or a passing fault of the network
   * (RFC 9000, section 14.2.1); several in a row are a dead peer.
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
    if (this.#refusals >= REFUSALS) {
      const error = new VortexError(
        "ConnectionLost",
        "nobody listens at the peer's address any more",
        { cause },
      );
      this.connection.abort(StreamCode.None, "", error);
      return;
    }
    this.#probeTimer?.cancel();
    this.#setProbe(REFUSAL_PAUSE);
  }
}
