import { randomBytes } from "node:crypto";
import type { Socket } from "node:dgram";
import { abortedError, VortexError } from "../../src/errors.ts";
import { systemClock } from "../../src/runtime.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import type { SessionCache } from "../../src/transport/session-cache.ts";
import type { TlsClientOptions } from "../../src/transport/tls.ts";
import {
  type CloseInfo,
  type Connection,
  type DialOptions,
  StreamCode,
} from "../../src/transport/transport.ts";
import { Guard } from "../shared/guard.ts";
import { isSameHost, splitZone } from "../shared/local-address.ts";
import { nativeError } from "../shared/native-error.ts";
import { alertOf } from "../shared/quic-errors.ts";
import { dialHost, type Resolver } from "../shared/resolve.ts";
import { checkCertificate, serverNameOf } from "../shared/tls.ts";
import { isAboutCertificate, refusedCertificate } from "../shared/tls-errors.ts";
import { type HostPort, QuicheConnection } from "./connection.ts";
import { familyOf, SendRing, udpSocket } from "./datagrams.ts";
import type { NativeConfig, NativeConnection, Quiche } from "./native.ts";
import { payloadSizeFor, type QuicheSettings, windowThreshold } from "./options.ts";
import { PathMtu, SAFE_SIZE } from "./path-mtu.ts";

/** Datagrams turned away in a row, with nothing received between them, that mean that the peer is gone. */
const REFUSALS = 3;
/** Bytes of a connection id of this side. */
const ID_LENGTH = 16;

/** What all dials of a transport share. */
export interface ClientContext {
  readonly quiche: Quiche;
  readonly settings: QuicheSettings;
  readonly tls: TlsClientOptions;
  readonly sessions: SessionCache;
  /** Default: the system's. */
  readonly resolver: Resolver | undefined;
  /** With early data, quiche sends it whenever a session allows. Throws `InvalidArgument` for certificates that are none. */
  configFor(payloadSize: number, earlyData: boolean): NativeConfig;
}

/** Dials one peer by all its addresses, each attempt on its own socket. */
export function dialQuiche(
  context: ClientContext,
  remote: Address,
  { signal, earlyData = false }: DialOptions,
): Promise<Connection> {
  return dialHost({
    remote,
    signal,
    resolver: context.resolver,
    // What is sent ahead of the handshake cannot move to another address.
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
  let giveUp: (error: VortexError) => void = () => {};
  const givenUp = new Promise<never>((_resolve, reject) => {
    giveUp = reject;
  });
  const guard = new Guard({
    end: (error) => {
      connection?.fail(error);
      giveUp(error);
    },
  });
  const onAbort = guard.wrap(() => {
    if (signal === undefined) return;
    const error = abortedError(signal, `dialling ${addr}`);
    // The connection may be in use already, ahead of its handshake.
    connection?.abort(StreamCode.Cancelled, "", error);
    giveUp(error);
  });
  const settled = (): void => signal?.removeEventListener("abort", onAbort);
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    const local = await Promise.race([givenUp, connectSocket(socket, host, remote.port, addr)]);
    const peer = { host, port: remote.port };
    connection = startHandshake(context, socket, guard, remote, peer, local, earlyData);
    connection.ready.then(settled, settled);
    if (connection.earlyData !== "pending") await connection.ready;
    return connection;
  } catch (error) {
    settled();
    if (connection === undefined) closeSocket(socket);
    else connection.abort(StreamCode.Cancelled);
    throw error;
  }
}

function closeSocket(socket: Socket): void {
  // What still comes from a connect under way is of no interest.
  socket.on("error", () => {});
  socket.close();
}

/** Connects the socket, so that the kernel drops what comes from elsewhere and tells of ports that nobody listens on. */
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
        // The dial was given up, and the socket closed, in the meantime.
        reject(nativeError(error, "Closed", `dialling ${addr} was given up`));
      }
    });
    socket.once("error", onError);
    // By its event, since a callback would be called too when there is no way to the address: a broadcast address, say.
    socket.once("connect", onConnect);
    try {
      socket.connect(port, host);
    } catch (error) {
      // Port 0, for one.
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
  const payloadSize = payloadSizeFor(settings, sameHost);
  const config = context.configFor(payloadSize, earlyData);
  const to = { host: splitZone(peer.host)[0], port: peer.port };
  const native = quiche.Connection.connect(
    serverNameOf(tls, remote.host),
    randomBytes(ID_LENGTH),
    local,
    to,
    config,
  );
  const connection = new QuicheConnection(native, remote, peer, false, {
    quiche,
    clock: systemClock,
    guard,
    ring: new SendRing(socket, Math.max(payloadSize, SAFE_SIZE)),
    pathMtu: new PathMtu(payloadSize, sameHost),
    local,
    connected: true,
    drains: false,
    keepAlive: settings.keepAlive,
    ackThreshold: settings.ackThreshold,
    windowThreshold: windowThreshold(settings),
    hold: (busy) => (busy ? socket.ref() : socket.unref()),
    onEarlyData: () => {},
    onEstablished: () => checkCertificate(native.peerCertChain(), tls, remote.host),
    explain: (info) => explainRefusal(info, native, tls, remote.host),
    onEnded: (ended) => {
      // Sessions come at any time after the handshake; the last one counts. One of a peer that failed the check is not kept.
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
  // An ICMP answer shows as an error of the socket. Before the handshake is over, nobody listens there. After it, one may
  // be a forgery or a passing fault of the network (RFC 9000, section 14.2.1); several in a row are a dead peer.
  const onRefused = guard.wrap((error: Error) => {
    refusals++;
    if (!connection.established) {
      connection.fail(nativeError(error, "Unreachable", `cannot reach ${formatAddress(remote)}`));
    } else if (refusals >= REFUSALS) {
      connection.fail(
        new VortexError("ConnectionLost", "nobody listens at the peer's address any more", {
          cause: error,
        }),
      );
    }
  });
  socket.on("error", onRefused);
  connection.start(sessions.take(formatAddress(remote)));
  return connection;
}

/** BoringSSL tells of a certificate that it refused by an alert only, the same one for several faults. */
function explainRefusal(
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
