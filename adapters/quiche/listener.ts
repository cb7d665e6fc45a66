import { randomBytes } from "node:crypto";
import type { RemoteInfo, Socket } from "node:dgram";
import { VortexError } from "../../src/errors.ts";
import { systemClock, type Timer } from "../../src/runtime.ts";
import { type Address, formatAddress, splitZone } from "../../src/transport/address.ts";
import { AsyncQueue } from "../../src/transport/queue.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import type { Connection, Listener, ListenerCounters } from "../../src/transport/transport.ts";
import { Guard } from "../shared/guard.ts";
import { isSameHost } from "../shared/local-address.ts";
import { listenError } from "../shared/native-error.ts";
import { CONNECTION_REFUSED } from "../shared/quic-errors.ts";
import { fingerprintOf } from "../shared/tls.ts";
import { type ConnectionHost, type HostPort, QuicheConnection } from "./connection.ts";
import { familyOf, SendRing, udpSocket } from "./datagrams.ts";
import type { NativeConfig, Quiche } from "./native.ts";
import { type QuicheSettings, udpPayloadFor, windowThreshold } from "./options.ts";
import { PathMtu, SAFE_UDP_PAYLOAD_BYTES, SAME_HOST_UDP_PAYLOAD_BYTES } from "./path-mtu.ts";
import { RetryTokens } from "./retry-token.ts";
import { StatelessResets } from "./stateless-reset.ts";

/** Length in bytes of the connection IDs that this endpoint issues. */
const CONNECTION_ID_BYTES = 16;
/**
 * Number of leading bytes of a connection ID that serve as the key in the map of connections. A
 * JavaScript number holds six bytes exactly, which is cheaper than a string key.
 */
const INDEX_BYTES = 6;
/** Minimum size in bytes of a datagram that opens a connection (RFC 9000, section 14.1). */
const MIN_INITIAL_BYTES = 1200;
/**
 * Maximum number of half-open connections, whose handshake is not complete. At the limit, Initial
 * packets of new clients are dropped, and the clients retransmit them.
 */
const MAX_HALF_OPEN = 4096;

/**
 * Number of bytes that {@link ConnectionHost.abuseBudget} grants in addition to the windows of all
 * permitted streams.
 */
const ABUSE_BUDGET_BYTES = 1024 * 1024;

/** Dependencies and limits of a {@link QuicheListener}. */
export interface ListenerContext {
  readonly quiche: Quiche;
  readonly settings: QuicheSettings;
  /** Maximum number of established connections. Further connections are refused. */
  readonly maxConnections: number;
  /** Maximum number of concurrent streams that a client may open on one connection. */
  readonly maxStreams: number;
  /** Certificate and private key that the listener starts with. */
  readonly identity: TlsIdentity;
  /** Receives the exceptions that event callbacks of the listener and its connections throw. */
  readonly onError: ((error: VortexError) => void) | undefined;
  /**
   * Returns a function for the certificate in `identity`, which maps a UDP payload size in bytes to
   * quiche's configuration.
   *
   * @throws `InvalidArgument` if the certificate or its key is unusable
   */
  configsFor(identity: TlsIdentity): (payloadSize: number) => NativeConfig;
  /** Function that creates the UDP socket. Default: {@link udpSocket}. */
  readonly openSocket?: typeof udpSocket;
}

/** State of one connection within the listener. */
interface Accepted {
  readonly connection: QuicheConnection;
  /** Keys in the listener's map of connections, one for each connection ID issued to the client. */
  readonly indices: number[];
  /** Destination connection ID of the client's first Initial packet, as a map key. */
  readonly initialId: string;
  readonly handshakeTimer: Timer;
  state: "half-open" | "open" | "ended";
  /**
   * True if `accept` has returned the connection before its handshake was complete, because early
   * data arrived.
   */
  deliveredEarly: boolean;
}

/**
 * Binds a UDP socket to `local` and returns a listener that accepts QUIC connections on it.
 *
 * Rejects with `AddressInUse` if the address cannot be bound, and with `Unreachable` if
 * `local.host` is not an IP address. Rejects with `InvalidArgument` if the certificate is unusable.
 */
export async function listenQuiche(context: ListenerContext, local: Address): Promise<Listener> {
  const configFor = context.configsFor(context.identity);
  const { settings, openSocket = udpSocket } = context;
  const socket = openSocket(familyOf(local.host), settings.socketBuffer);
  await new Promise<void>((resolve, reject) => {
    const guard = new Guard({ end: reject });
    const onError = guard.wrap((error: Error) => {
      socket.close();
      reject(listenError(error, formatAddress(local)));
    });
    const onBound = guard.wrap(() => {
      socket.removeAllListeners("error");
      resolve();
    });
    socket.once("error", onError);
    socket.bind({ port: local.port, address: local.host, exclusive: true }, onBound);
  });
  return new QuicheListener(context, configFor, socket, local.host);
}

class QuicheListener implements Listener {
  readonly address: Address;
  #fingerprint: string;
  /** Returns quiche's configuration for new connections with a given UDP payload size in bytes. */
  #configFor: (payloadSize: number) => NativeConfig;
  readonly #context: ListenerContext;
  readonly #socket: Socket;
  readonly #local: HostPort;
  readonly #ring: SendRing;
  readonly #guard: Guard;
  readonly #retryTokens = new RetryTokens();
  #resets: StatelessResets;
  readonly #incoming = new AsyncQueue<Connection>();
  readonly #byIndex = new Map<number, Accepted>();
  readonly #byInitialId = new Map<string, Accepted>();
  readonly #accepted = new Map<QuicheConnection, Accepted>();
  #halfOpen = 0;
  #open = 0;
  #unanswerable = 0;
  #closing: Promise<void> | undefined;

  constructor(
    context: ListenerContext,
    configFor: (payloadSize: number) => NativeConfig,
    socket: Socket,
    host: string,
  ) {
    const { port } = socket.address();
    this.address = { host, port };
    this.#fingerprint = fingerprintOf(context.identity.cert);
    this.#configFor = configFor;
    this.#resets = new StatelessResets(context.identity.key, systemClock);
    this.#context = context;
    this.#socket = socket;
    this.#local = { host: splitZone(socket.address().address)[0], port };
    this.#ring = new SendRing(
      socket,
      context.settings.udpPayloadSize === "auto"
        ? SAME_HOST_UDP_PAYLOAD_BYTES
        : Math.max(context.settings.udpPayloadSize, SAFE_UDP_PAYLOAD_BYTES),
    );
    this.#guard = new Guard({ onError: context.onError });
    socket.on(
      "message",
      this.#guard.wrap((datagram: Uint8Array, from: RemoteInfo) =>
        this.#onDatagram(datagram, from.address, from.port),
      ),
    );
    // A failed send concerns one client only, which retransmits.
    socket.on("error", () => {});
  }

  get fingerprint(): string {
    return this.#fingerprint;
  }

  get counters(): ListenerCounters {
    return {
      unanswerable: this.#unanswerable,
      unsent: this.#ring.unsent,
      caught: this.#guard.caught,
    };
  }

  async setIdentity(identity: TlsIdentity): Promise<void> {
    this.#configFor = this.#context.configsFor(identity);
    this.#resets = new StatelessResets(identity.key, systemClock);
    this.#fingerprint = fingerprintOf(identity.cert);
  }

  accept(): AsyncIterable<Connection> {
    return this.#incoming;
  }

  close(options: { readonly grace?: number } = {}): Promise<void> {
    this.#closing ??= this.#close(options);
    return this.#closing;
  }

  async #close(options: { readonly grace?: number }): Promise<void> {
    this.#incoming.end();
    await Promise.all([...this.#accepted.keys()].map((connection) => connection.close(options)));
    for (const { connection } of [...this.#accepted.values()]) connection.fail(closed());
    await new Promise<void>((resolve) => this.#socket.close(() => resolve()));
  }

  #onDatagram(datagram: Uint8Array, host: string, port: number): void {
    const first = datagram[0];
    if (first === undefined) return;
    // Port 0 is a legal source, meaning "not used" (RFC 768), but no destination.
    if (port === 0) {
      this.#unanswerable++;
      return;
    }
    if ((first & 0x80) === 0) {
      if (datagram.length <= CONNECTION_ID_BYTES) return;
      const known = this.#byIndex.get(indexOf(datagram, 1));
      if (known !== undefined) known.connection.receive(datagram, host, port);
      else this.#sendStatelessReset(datagram, host, port);
      return;
    }
    // Long header (RFC 8999, section 5.1): version, then the two connection IDs, each with its
    // length.
    const length = datagram[5] ?? 0;
    if (datagram.length < 7 + length || length > 20) return;
    const destination = datagram.subarray(6, 6 + length);
    const known =
      (length === CONNECTION_ID_BYTES ? this.#byIndex.get(indexOf(destination, 0)) : undefined) ??
      this.#byInitialId.get(idKeyOf(destination));
    if (known !== undefined) {
      known.connection.receive(datagram, host, port);
    } else if (datagram.length >= MIN_INITIAL_BYTES && this.#closing === undefined) {
      this.#onInitial(datagram, host, port);
    }
  }

  /**
   * Handles a datagram whose connection ID is unknown and which is large enough to open a
   * connection. Replies with version negotiation or a Retry packet, or accepts the connection.
   */
  #onInitial(datagram: Uint8Array, host: string, port: number): void {
    const { quiche, settings } = this.#context;
    let header: ReturnType<Quiche["Header"]["fromSlice"]>;
    try {
      header = quiche.Header.fromSlice(datagram, CONNECTION_ID_BYTES);
    } catch {
      return;
    }
    if (!quiche.versionIsSupported(header.version)) {
      this.#reply(
        quiche.negotiateVersion(header.scid, header.dcid, this.#ring.current),
        host,
        port,
      );
      return;
    }
    if (header.ty !== quiche.Type.Initial) return;
    const token = header.token ?? new Uint8Array(0);
    if (token.length === 0) {
      const threshold =
        settings.retry === "always" ? 0 : settings.retry === "never" ? Infinity : settings.retry;
      if (this.#halfOpen >= threshold) {
        const id = this.#newId();
        const minted = this.#retryTokens.mint(host, port, header.dcid, systemClock.now());
        const { scid, dcid, version } = header;
        this.#reply(quiche.retry(scid, dcid, id, minted, version, this.#ring.current), host, port);
        return;
      }
      this.#accept(datagram, header.dcid, this.#newId(), undefined, host, port);
      return;
    }
    const originalId = this.#retryTokens.verify(host, port, token, systemClock.now());
    // After a Retry, the client's destination connection ID is the ID from our Retry packet (RFC
    // 9000, section 7.3).
    if (originalId !== undefined && header.dcid.length === CONNECTION_ID_BYTES) {
      this.#accept(datagram, header.dcid, header.dcid, originalId, host, port);
    }
  }

  #accept(
    datagram: Uint8Array,
    initialId: Uint8Array,
    id: Uint8Array,
    originalId: Uint8Array | undefined,
    host: string,
    port: number,
  ): void {
    if (this.#halfOpen >= MAX_HALF_OPEN) return;
    const { quiche, settings } = this.#context;
    const peer = { host, port };
    const plainPeer = { host: splitZone(host)[0], port };
    const sameHost = isSameHost(host);
    const payloadSize = udpPayloadFor(settings, sameHost);
    const config = this.#configFor(payloadSize);
    // quiche copies the token into the connection.
    config.setStatelessResetToken(this.#resets.tokenNumberOf(id));
    const native = quiche.Connection.accept(id, originalId, this.#local, plainPeer, config);
    const pathMtu = new PathMtu(payloadSize, sameHost);
    const guard = this.#guard.of((error) => connection.fail(error));
    const connection = new QuicheConnection(native, peer, peer, true, this.#hostOf(pathMtu, guard));
    const index = indexOf(id, 0);
    const accepted: Accepted = {
      connection,
      indices: [index],
      initialId: idKeyOf(initialId),
      handshakeTimer: guard.clock.setTimer(() => {
        connection.refuse(
          CONNECTION_REFUSED,
          new VortexError(
            "ConnectTimeout",
            `handshake timeout: not complete after ${settings.handshakeTimeout} ms (handshakeTimeout)`,
          ),
        );
      }, settings.handshakeTimeout),
      state: "half-open",
      deliveredEarly: false,
    };
    this.#accepted.set(connection, accepted);
    this.#byIndex.set(index, accepted);
    this.#byInitialId.set(accepted.initialId, accepted);
    this.#halfOpen++;
    connection.receive(datagram);
    if (this.#open >= this.#context.maxConnections)
      connection.refuse(CONNECTION_REFUSED, this.#tooManyConnections());
  }

  #hostOf(pathMtu: PathMtu, guard: Guard): ConnectionHost {
    const { quiche, settings, maxStreams } = this.#context;
    return {
      quiche,
      clock: systemClock,
      guard,
      ring: this.#ring,
      pathMtu,
      local: this.#local,
      connected: false,
      drains: true,
      // Keep-alive is up to the client, which decides how long the connection is needed.
      keepAlive: undefined,
      ackThreshold: settings.ackThreshold,
      windowThreshold: windowThreshold(settings),
      abuseBudget: maxStreams * settings.streamWindow + ABUSE_BUDGET_BYTES,
      onEarlyData: (connection) => this.#onEarlyData(connection),
      onEstablished: (connection) => this.#onEstablished(connection),
      onEnded: (connection) => this.#onEnded(connection),
      onTerminated: (connection) => this.#onTerminated(connection),
    };
  }

  #onEarlyData(connection: QuicheConnection): void {
    const accepted = this.#accepted.get(connection);
    if (accepted === undefined) return;
    if (this.#open >= this.#context.maxConnections) throw this.#tooManyConnections();
    accepted.deliveredEarly = true;
    if (!this.#incoming.push(connection)) throw closed();
  }

  #onEstablished(connection: QuicheConnection): void {
    const accepted = this.#accepted.get(connection);
    if (accepted === undefined) return;
    // Other handshakes may have completed since this one started.
    if (this.#open >= this.#context.maxConnections) throw this.#tooManyConnections();
    accepted.handshakeTimer.cancel();
    this.#byInitialId.delete(accepted.initialId);
    accepted.state = "open";
    this.#halfOpen--;
    this.#open++;
    // With spare ids the client can migrate to another address unlinkably (RFC 9000, section
    // 5.1.1).
    while (connection.native.sourceCidsLeft() > 0) {
      const id = this.#newId();
      connection.native.newSourceCid(id, this.#resets.tokenNumberOf(id), false);
      accepted.indices.push(indexOf(id, 0));
      this.#byIndex.set(indexOf(id, 0), accepted);
    }
    if (!accepted.deliveredEarly && !this.#incoming.push(connection)) throw closed();
  }

  #onEnded(connection: QuicheConnection): void {
    const accepted = this.#accepted.get(connection);
    if (accepted === undefined) return;
    accepted.handshakeTimer.cancel();
    if (accepted.state === "half-open") this.#halfOpen--;
    else if (accepted.state === "open") this.#open--;
    accepted.state = "ended";
  }

  #onTerminated(connection: QuicheConnection): void {
    const accepted = this.#accepted.get(connection);
    if (accepted === undefined) return;
    this.#accepted.delete(connection);
    this.#byInitialId.delete(accepted.initialId);
    for (const index of accepted.indices) this.#byIndex.delete(index);
  }

  /**
   * Replies to a packet for an unknown connection ID with a stateless reset (RFC 9000, section
   * 10.3). An earlier process on this address may have issued the ID.
   */
  #sendStatelessReset(datagram: Uint8Array, host: string, port: number): void {
    const id = datagram.subarray(1, 1 + CONNECTION_ID_BYTES);
    const length = this.#resets.writeReset(datagram.length, id, this.#ring.current);
    if (length > 0) this.#reply(length, host, port);
  }

  /** Sends the first `length` bytes of the send ring's current buffer to a client. */
  #reply(length: number, host: string, port: number): void {
    this.#ring.send(length, port, host);
  }

  /**
   * Returns a random connection ID whose leading {@link INDEX_BYTES} differ from those of all
   * issued IDs.
   */
  #newId(): Uint8Array {
    for (;;) {
      const id = new Uint8Array(randomBytes(CONNECTION_ID_BYTES));
      if (!this.#byIndex.has(indexOf(id, 0))) return id;
    }
  }

  #tooManyConnections(): VortexError {
    return new VortexError(
      "ConnectionRefused",
      `connection refused: the listener is at its limit of ${this.#context.maxConnections} (maxConnections)`,
    );
  }
}

/**
 * Returns the map key of the connection ID at byte `offset` of `bytes`: the first
 * {@link INDEX_BYTES} of the ID as a number.
 */
function indexOf(bytes: Uint8Array, offset: number): number {
  let index = 0;
  for (let at = offset; at < offset + INDEX_BYTES; at++) index = index * 256 + (bytes[at] ?? 0);
  return index;
}

/** Converts a connection ID of any length to a string that serves as a map key. */
function idKeyOf(id: Uint8Array): string {
  return String.fromCharCode(...id);
}

function closed(): VortexError {
  return new VortexError("Closed", "the listener is closed");
}
