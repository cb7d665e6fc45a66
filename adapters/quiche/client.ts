import { randomBytes } from "node:crypto";
import type { Socket } from "node:dgram";
import { abortedError, VortexError } from "../../src/errors.ts";
import { systemClock } from "../../src/runtime.ts";
import { type Address, formatAddress, splitZone } from "../../src/transport/address.ts";
import type { SessionCache } from "../../src/transport/session-cache.ts";
import type { TlsClientOptions } from "../../src/transport/tls.ts";
import {
  type CloseInfo,
  type Connection,
  type DialOptions,
  StreamCode,
} from "../../src/transport/transport.ts";
import { Guard } from "../shared/guard.ts";
import { isSameHost } from "../shared/local-address.ts";
import { nativeError } from "../shared/native-error.ts";
import { alertOf } from "../shared/quic-errors.ts";
import { dialHost, type Resolver } from "../shared/resolve.ts";
import { checkCertificate, serverNameOf } from "../shared/tls.ts";
import { isAboutCertificate, refusedCertificate } from "../shared/tls-errors.ts";
import { type HostPort, QuicheConnection } from "./connection.ts";
import { familyOf, SendRing, udpSocket } from "./datagrams.ts";
import type { NativeConfig, NativeConnection, Quiche } from "./native.ts";
import { type QuicheSettings, udpPayloadFor, windowThreshold } from "./options.ts";
import { PathMtu, SAFE_UDP_PAYLOAD_BYTES } from "./path-mtu.ts";

/**
 * Number of ICMP errors in a row that end an established connection. A received datagram resets the
 * count to 0.
 */
const MAX_CONSECUTIVE_REFUSALS = 3;
/** Length in bytes of the connection IDs that this endpoint chooses. */
const CONNECTION_ID_BYTES = 16;

/** State shared by all outgoing connections of one transport. */
export interface ClientContext {
  readonly quiche: Quiche;
  readonly settings: QuicheSettings;
  readonly tls: TlsClientOptions;
  readonly sessions: SessionCache;
  /** Resolver for host names. If undefined, the system's resolver is used. */
  readonly resolver: Resolver | undefined;
  /**
   * Returns quiche's configuration for a UDP payload size in bytes. If `earlyData` is true, quiche
   * sends 0-RTT data when the resumed session permits it.
   *
   * @throws `InvalidArgument` if the certificate, its key or an authority is unusable
   */
  configFor(payloadSize: number, earlyData: boolean): NativeConfig;
}

/**
 * Opens a connection to `remote`. Tries the addresses of a host name by Happy Eyeballs (RFC 8305),
 * each with a separate UDP socket.
 */
export function dialQuiche(
  context: ClientContext,
  remote: Address,
  { signal, earlyData = false }: DialOptions,
): Promise<Connection> {
  return dialHost({
    remote,
    signal,
    resolver: context.resolver,
    // Early data that was sent to one address cannot move to another.
    dial: (host, own, only) => dialAddress(context, remote, host, own, earlyData && only),
    discard: (late) => late.abort(StreamCode.Cancelled),
  });
}

async function dialAddress(
  context: ClientContext,
  remote: Address,
  host: string,
  signal: AbortSignal | undefined,
  earlyData: boolean,
): Promise<Connection> {
  const addr = formatAddress(remote);
  if (signal?.aborted) throw abortedError(signal, `dialling ${addr}`);
  const socket = udpSocket(familyOf(host), context.settings.socketBuffer);
  let connection: QuicheConnection | undefined;
  let rejectDial: (error: VortexError) => void = () => {};
  const dialRejected = new Promise<never>((_resolve, reject) => {
    rejectDial = reject;
  });
  const guard = new Guard({
    end: (error) => {
      connection?.fail(error);
      rejectDial(error);
    },
  });
  const onAbort = guard.wrap(() => {
    if (signal === undefined) return;
    const error = abortedError(signal, `dialling ${addr}`);
    // With early data, the application may already use the connection before its handshake is over.
    connection?.abort(StreamCode.Cancelled, "", error);
    rejectDial(error);
  });
  const unsubscribe = (): void => signal?.removeEventListener("abort", onAbort);
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    const local = await Promise.race([
      dialRejected,
      connectSocket(socket, host, remote.port, addr),
    ]);
    const peer = { host, port: remote.port };
    connection = startHandshake(context, socket, guard, remote, peer, local, earlyData);
    connection.ready.then(unsubscribe, unsubscribe);
    if (connection.earlyData !== "pending") await connection.ready;
    return connection;
  } catch (error) {
    unsubscribe();
    if (connection === undefined) closeSocket(socket);
    else connection.abort(StreamCode.Cancelled);
    throw error;
  }
}

function closeSocket(socket: Socket): void {
  // A connect in progress may still emit an error after the close; without a listener it would
  // throw.
  socket.on("error", () => {});
  socket.close();
}

/**
 * Connects a UDP socket to the peer, and resolves to the local address of the socket. The kernel
 * then drops datagrams from other addresses and reports ICMP errors, such as a closed port.
 *
 * Rejects with `Unreachable` if the connect fails, and with `Closed` if the socket is closed first.
 */
function connectSocket(
  socket: Socket,
  host: string,
  port: number,
  addr: string,
): Promise<HostPort> {
  return new Promise((resolve, reject) => {
    const guard = new Guard({ end: reject });
    const onError = guard.wrap((error: Error) =>
      reject(nativeError(error, "Unreachable", `cannot reach ${addr}`)),
    );
    const onConnect = guard.wrap(() => {
      socket.off("error", onError);
      try {
        const bound = socket.address();
        resolve({ host: splitZone(bound.address)[0], port: bound.port });
      } catch (error) {
        // The dial was aborted, and the socket closed, in the meantime.
        reject(nativeError(error, "Closed", `dial of ${addr} aborted`));
      }
    });
    socket.once("error", onError);
    // An event listener, since node:dgram calls the callback even when the connect fails, for
    // example to a broadcast address.
    socket.once("connect", onConnect);
    try {
      socket.connect(port, host);
    } catch (error) {
      // For example, port 0.
      reject(nativeError(error, "Unreachable", `cannot reach ${addr}`));
    }
  });
}

function startHandshake(
  context: ClientContext,
  socket: Socket,
  guard: Guard,
  remote: Address,
  peer: Address,
  local: HostPort,
  earlyData: boolean,
): QuicheConnection {
  const { quiche, settings, tls, sessions } = context;
  const sameHost = isSameHost(peer.host);
  const payloadSize = udpPayloadFor(settings, sameHost);
  const config = context.configFor(payloadSize, earlyData);
  const to = { host: splitZone(peer.host)[0], port: peer.port };
  const native = quiche.Connection.connect(
    serverNameOf(tls, remote.host),
    randomBytes(CONNECTION_ID_BYTES),
    local,
    to,
    config,
  );
  const connection = new QuicheConnection(native, remote, peer, false, {
    quiche,
    clock: systemClock,
    guard,
    ring: new SendRing(socket, Math.max(payloadSize, SAFE_UDP_PAYLOAD_BYTES)),
    pathMtu: new PathMtu(payloadSize, sameHost),
    local,
    connected: true,
    drains: false,
    keepAlive: settings.keepAlive,
    ackThreshold: settings.ackThreshold,
    windowThreshold: windowThreshold(settings),
    setBusy: (busy) => (busy ? socket.ref() : socket.unref()),
    onEarlyData: () => {},
    onEstablished: () => checkCertificate(native.peerCertChain(), tls, remote.host),
    describeClose: (info) => withCertificateFault(info, native, tls, remote.host),
    onEnded: (ended) => {
      // The server may send several session tickets; the latest is stored. A peer that failed the
      // certificate check never gets this far.
      if (!ended.established) return;
      const session = native.session();
      if (session !== null) sessions.put(formatAddress(remote), session);
    },
    onTerminated: () => socket.close(),
  });
  let refusals = 0;
  const onDatagram = guard.wrap((datagram: Uint8Array) => {
    refusals = 0;
    connection.receive(datagram);
  });
  socket.on("message", onDatagram);
  // The socket reports ICMP errors as "error" events. During the handshake one of them means that
  // the port is closed. Later a single error may be forged or transient (RFC 9000, section 14.2.1),
  // so only several in a row end the connection.
  const onRefused = guard.wrap((error: Error) => {
    refusals++;
    if (!connection.established) {
      connection.fail(nativeError(error, "Unreachable", `cannot reach ${formatAddress(remote)}`));
    } else if (refusals >= MAX_CONSECUTIVE_REFUSALS) {
      connection.fail(
        new VortexError(
          "ConnectionLost",
          `connection lost: ${refusals} consecutive ICMP errors, the peer's port is closed`,
          {
            cause: error,
          },
        ),
      );
    }
  });
  socket.on("error", onRefused);
  connection.start(sessions.take(formatAddress(remote)));
  return connection;
}

/**
 * Returns `info` with a description of the fault in the server's certificate, if this fault made
 * the handshake fail. Otherwise returns `info` unchanged. BoringSSL itself reports only a TLS
 * alert, which is the same for several faults.
 */
function withCertificateFault(
  info: CloseInfo,
  native: NativeConnection,
  tls: TlsClientOptions,
  host: string,
): CloseInfo {
  const alert = alertOf(info.code);
  if (
    info.remote ||
    info.error.code !== "HandshakeFailed" ||
    alert === undefined ||
    !isAboutCertificate(alert)
  ) {
    return info;
  }
  const [leaf] = native.peerCertChain() ?? [];
  return {
    ...info,
    error: refusedCertificate(leaf, tls, host, `TLS alert ${alert}`, info.error.cause),
  };
}
