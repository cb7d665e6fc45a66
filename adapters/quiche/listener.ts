import { randomBytes } from "node:crypto";
import type { RemoteInfo, Socket } from "node:dgram";
import { VortexError } from "../../src/errors.ts";
import { systemClock, type Timer } from "../../src/runtime.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import { AsyncQueue } from "../../src/transport/queue.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import type { Connection, Listener, ListenerCounters } from "../../src/transport/transport.ts";
import { Guard } from "../shared/guard.ts";
import { isSameHost, splitZone } from "../shared/local-address.ts";
import { listenError } from "../shared/native-error.ts";
import { CONNECTION_REFUSED } from "../shared/quic-errors.ts";
import { fingerprintOf } from "../shared/tls.ts";
import { type ConnectionHost, type HostPort, QuicheConnection } from "./connection.ts";
import { familyOf, SendRing, udpSocket } from "./datagrams.ts";
import type { NativeConfig, Quiche } from "./native.ts";
import { payloadSizeFor, type QuicheSettings, windowThreshold } from "./options.ts";
import { PathMtu, SAFE_SIZE, SAME_HOST_SIZE } from "./path-mtu.ts";
import { RetryTokens } from "./retry-token.ts";
import { StatelessResets } from "./stateless-reset.ts";

/** Bytes of a connection id that this side gives out. */
const ID_LENGTH = 16;
/** Bytes of it that find the connection: six fit a JavaScript number, and need no string for each datagram. */
const INDEX_LENGTH = 6;
/** Least length of a datagram that may open a connection (RFC 9000, section 14.1). */
const MIN_INITIAL_BYTES = 1200;
/** Half-open connections at a time; what comes on top is dropped, and a client tries again. */
const MAX_HALF_OPEN = 4096;

/** Bytes beyond its windows that a client may have sent without their being of use, see {@link ConnectionHost.abuseBudget}. */
const ABUSE_BUDGET = 1024 * 1024;

/** What a listener is made of. */
export interface ListenerContext {
  readonly quiche: Quiche;
  readonly settings: QuicheSettings;
  readonly maxConnections: number;
  /** On each of them. */
  readonly maxStreams: number;
  /** The certificate to begin with. */
  readonly identity: TlsIdentity;
  /** Hears of exceptions in event callbacks. */
  readonly onError: ((error: VortexError) => void) | undefined;
  /** Native configurations that show a certificate, by payload size. Throws `InvalidArgument` for one that is none. */
  configsFor(identity: TlsIdentity): (payloadSize: number) => NativeConfig;
  /** Makes the UDP socket. Default: {@link udpSocket}. */
  readonly openSocket?: typeof udpSocket;
}

interface Accepted {
  readonly connection: QuicheConnection;
  /** Indices of the connection ids that lead to it. */
  readonly indices: number[];
  /** The id that the client chose, which its first datagrams carry. */
  readonly initialId: string;
  readonly handshakeTimer: Timer;
  state: "half-open" | "open" | "ended";
  /** The application has it, if its requests came early. */
  early: boolean;
}

/** Listens on one UDP socket for all its connections. */
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
  /** Of connections that come from now on. */
  #configFor: (payloadSize: number) => NativeConfig;
  readonly #context: ListenerContext;
  readonly #socket: Socket;
  readonly #local: HostPort;
  readonly #ring: SendRing;
  readonly #guard: Guard;
  readonly #tokens = new RetryTokens();
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
        ? SAME_HOST_SIZE
        : Math.max(context.settings.udpPayloadSize, SAFE_SIZE),
    );
    this.#guard = new Guard({ onError: context.onError });
    socket.on(
      "message",
      this.#guard.wrap((datagram: Uint8Array, from: RemoteInfo) =>
        this.#onDatagram(datagram, from.address, from.port),
      ),
    );
    // A datagram to one client that could not be sent concerns that client only, and it asks again.
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
    // Port 0 is a source "if not used" (RFC 768), and no destination.
    if (port === 0) {
      this.#unanswerable++;
      return;
    }
    if ((first & 0x80) === 0) {
      if (datagram.length <= ID_LENGTH) return;
      const known = this.#byIndex.get(indexOf(datagram, 1));
      if (known !== undefined) known.connection.receive(datagram, host, port);
      else this.#reset(datagram, host, port);
      return;
    }
    // Long header (RFC 8999, section 5.1): version, then the two connection ids, each with its length.
    const length = datagram[5] ?? 0;
    if (datagram.length < 7 + length || length > 20) return;
    const destination = datagram.subarray(6, 6 + length);
    const known =
      (length === ID_LENGTH ? this.#byIndex.get(indexOf(destination, 0)) : undefined) ??
      this.#byInitialId.get(textOf(destination));
    if (known !== undefined) {
      known.connection.receive(datagram, host, port);
    } else if (datagram.length >= MIN_INITIAL_BYTES && this.#closing === undefined) {
      this.#onInitial(datagram, host, port);
    }
  }

  /** A datagram of no known connection, long enough to open one. */
  #onInitial(datagram: Uint8Array, host: string, port: number): void {
    const { quiche, settings } = this.#context;
    let header: ReturnType<Quiche["Header"]["fromSlice"]>;
    try {
      header = quiche.Header.fromSlice(datagram, ID_LENGTH);
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
        const minted = this.#tokens.mint(host, port, header.dcid, systemClock.now());
        const { scid, dcid, version } = header;
        this.#reply(quiche.retry(scid, dcid, id, minted, version, this.#ring.current), host, port);
        return;
      }
      this.#accept(datagram, header.dcid, this.#newId(), undefined, host, port);
      return;
    }
    const originalId = this.#tokens.open(host, port, token, systemClock.now());
    // The id that came with the retry is the client's destination now, and has to be ours (RFC 9000, section 7.3).
    if (originalId !== undefined && header.dcid.length === ID_LENGTH) {
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
    const payloadSize = payloadSizeFor(settings, sameHost);
    const config = this.#configFor(payloadSize);
    // quiche copies it into the connection.
    config.setStatelessResetToken(this.#resets.numberOf(id));
    const native = quiche.Connection.accept(id, originalId, this.#local, plainPeer, config);
    const pathMtu = new PathMtu(payloadSize, sameHost);
    const guard = this.#guard.of((error) => connection.fail(error));
    const connection = new QuicheConnection(native, peer, peer, true, this.#hostOf(pathMtu, guard));
    const index = indexOf(id, 0);
    const accepted: Accepted = {
      connection,
      indices: [index],
      initialId: textOf(initialId),
      handshakeTimer: guard.clock.setTimer(() => {
        connection.refuse(
          CONNECTION_REFUSED,
          new VortexError("ConnectTimeout", "the client did not finish in time"),
        );
      }, settings.handshakeTimeout),
      state: "half-open",
      early: false,
    };
    this.#accepted.set(connection, accepted);
    this.#byIndex.set(index, accepted);
    this.#byInitialId.set(accepted.initialId, accepted);
    this.#halfOpen++;
    connection.receive(datagram);
    if (this.#open >= this.#context.maxConnections) connection.refuse(CONNECTION_REFUSED, noRoom());
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
      // Whoever wants the connection kept, the client, asks for signs of life.
      keepAlive: undefined,
      ackThreshold: settings.ackThreshold,
      windowThreshold: windowThreshold(settings),
      abuseBudget: maxStreams * settings.streamWindow + ABUSE_BUDGET,
      onEarlyData: (connection) => this.#onEarlyData(connection),
      onEstablished: (connection) => this.#onEstablished(connection),
      onEnded: (connection) => this.#onEnded(connection),
      onTerminated: (connection) => this.#onGone(connection),
    };
  }

  #onEarlyData(connection: QuicheConnection): void {
    const accepted = this.#accepted.get(connection);
    if (accepted === undefined) return;
    if (this.#open >= this.#context.maxConnections) throw noRoom();
    accepted.early = true;
    if (!this.#incoming.push(connection)) throw closed();
  }

  #onEstablished(connection: QuicheConnection): void {
    const accepted = this.#accepted.get(connection);
    if (accepted === undefined) return;
    // Others may have got there first since it was accepted.
    if (this.#open >= this.#context.maxConnections) throw noRoom();
    accepted.handshakeTimer.cancel();
    this.#byInitialId.delete(accepted.initialId);
    accepted.state = "open";
    this.#halfOpen--;
    this.#open++;
    // Spare ids let the client move to another address without being linked to the old one (RFC 9000, section 5.1.1).
    while (connection.native.sourceCidsLeft() > 0) {
      const id = this.#newId();
      connection.native.newSourceCid(id, this.#resets.numberOf(id), false);
      accepted.indices.push(indexOf(id, 0));
      this.#byIndex.set(indexOf(id, 0), accepted);
    }
    if (!accepted.early && !this.#incoming.push(connection)) throw closed();
  }

  #onEnded(connection: QuicheConnection): void {
    const accepted = this.#accepted.get(connection);
    if (accepted === undefined) return;
    accepted.handshakeTimer.cancel();
    if (accepted.state === "half-open") this.#halfOpen--;
    else if (accepted.state === "open") this.#open--;
    accepted.state = "ended";
  }

  #onGone(connection: QuicheConnection): void {
    const accepted = this.#accepted.get(connection);
    if (accepted === undefined) return;
    this.#accepted.delete(connection);
    this.#byInitialId.delete(accepted.initialId);
    for (const index of accepted.indices) this.#byIndex.delete(index);
  }

  /** Answers a packet of an unknown connection: an ended one, or one of an earlier process. */
  #reset(datagram: Uint8Array, host: string, port: number): void {
    const id = datagram.subarray(1, 1 + ID_LENGTH);
    const length = this.#resets.answer(datagram.length, id, this.#ring.current);
    if (length > 0) this.#reply(length, host, port);
  }

  #reply(length: number, host: string, port: number): void {
    this.#ring.send(length, port, host);
  }

  #newId(): Uint8Array {
    for (;;) {
      const id = new Uint8Array(randomBytes(ID_LENGTH));
      if (!this.#byIndex.has(indexOf(id, 0))) return id;
    }
  }
}

function indexOf(bytes: Uint8Array, offset: number): number {
  let index = 0;
  for (let at = offset; at < offset + INDEX_LENGTH; at++) index = index * 256 + (bytes[at] ?? 0);
  return index;
}

function textOf(id: Uint8Array): string {
  return String.fromCharCode(...id);
}

function noRoom(): VortexError {
  return new VortexError("ConnectionRefused", "no room for another connection");
}

function closed(): VortexError {
  return new VortexError("Closed", "the listener is closed");
}
