import { VortexError } from "../../src/errors.ts";
import type { Timer } from "../../src/runtime.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import { AsyncQueue } from "../../src/transport/queue.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import {
  type Connection,
  type Listener,
  type ListenerCounters,
  StreamCode,
} from "../../src/transport/transport.ts";
import { Guard } from "../shared/guard.ts";
import { isLoopback } from "../shared/local-address.ts";
import { listenError, systemCode } from "../shared/native-error.ts";
import { fingerprintOf, requireIdentity } from "../shared/tls.ts";
import { DenoQuicConnection } from "./connection.ts";
import {
  collectSockets,
  collectSocketsSoon,
  type DenoQuic,
  type NativeConn,
  type NativeEndpoint,
  type NativeIncoming,
  type NativeListener,
} from "./native.ts";
import {
  type DenoQuicSettings,
  nativeSettings,
  STOCK_PROTOCOLS,
  VORTEX_PROTOCOLS,
} from "./options.ts";

/** Half-open connections at a time; what comes on top is ignored, and a client tries again. */
const MAX_HALF_OPEN = 4096;
/** Milliseconds for which a closed listener tells clients that it is closed, which otherwise find out by waiting. */
const LINGER = 10_000;
/** Milliseconds between looks whether a socket is free, and in all: quinn keeps it until the last close has settled. */
const LOOK = 50;
const PATIENCE = 5_000;

/** What a listener is made of. */
export interface ListenerContext {
  readonly quic: DenoQuic;
  readonly settings: DenoQuicSettings;
  readonly maxConnections: number;
  readonly maxStreams: number;
  readonly earlyData: boolean;
  /** The certificate to begin with. */
  readonly identity: TlsIdentity;
  /** Hears of exceptions in event callbacks. */
  readonly onError: ((error: VortexError) => void) | undefined;
}

/** Closed endpoints of this process that linger still, by the address they have. */
const lingering = new Map<string, () => void>();
/** Addresses whose sockets this process had and has given up, so that they are free as soon as they have been collected. */
const givenUp = new Set<string>();

/** Listens on one UDP socket for all its connections. Rejects with `AddressInUse` or `Unreachable`. */
export async function listenDenoQuic(context: ListenerContext, local: Address): Promise<Listener> {
  const endpoint = await bind(context.quic, local);
  try {
    return new DenoQuicListener(context, endpoint, local.host);
  } catch (error) {
    endpoint.close({ closeCode: StreamCode.None, reason: "" });
    throw error;
  }
}

async function bind(quic: DenoQuic, local: Address): Promise<NativeEndpoint> {
  const addr = formatAddress(local);
  const until = performance.now() + PATIENCE;
  for (;;) {
    try {
      return new quic.QuicEndpoint({ hostname: local.host, port: local.port });
    } catch (error) {
      lingering.get(addr)?.();
      const free =
        systemCode(error) === "EADDRINUSE" && givenUp.has(addr) && performance.now() < until;
      if (!free) throw bindError(error, addr);
      collectSockets();
      await new Promise((resolve) => {
        setTimeout(resolve, LOOK);
      });
    }
  }
}

function bindError(error: unknown, addr: string): VortexError {
  if (error instanceof Error && error.message.startsWith("failed to lookup")) {
    return VortexError.from(error, "Unreachable", `cannot resolve ${addr}`);
  }
  return listenError(error, addr);
}

class DenoQuicListener implements Listener {
  readonly address: Address;
  readonly #context: ListenerContext;
  readonly #guard: Guard;
  /** Until it is closed, since whatever refers to it holds the socket. */
  #endpoint: NativeEndpoint | undefined;
  /** All that were made, by the first of which clients come: when one is garbage, the endpoint listens no more. */
  readonly #natives: NativeListener[] = [];
  readonly #incoming = new AsyncQueue<Connection>();
  readonly #connections = new Set<DenoQuicConnection>();
  /** Connections that were handed out. */
  readonly #usable = new Set<DenoQuicConnection>();
  #fingerprint = "";
  #halfOpen = 0;
  #open = 0;
  #closing: Promise<void> | undefined;

  constructor(context: ListenerContext, endpoint: NativeEndpoint, host: string) {
    this.#context = context;
    this.#guard = new Guard({ onError: context.onError });
    this.#endpoint = endpoint;
    this.address = { host, port: endpoint.addr.port };
    givenUp.delete(formatAddress(this.address));
    const native = this.#show(context.identity);
    this.#guard.run(() => this.#acceptConnections(native));
  }

  get fingerprint(): string {
    return this.#fingerprint;
  }

  /** The runtime keeps the socket to itself, and counts nothing of it. */
  get counters(): ListenerCounters {
    return { unanswerable: 0, unsent: 0, caught: this.#guard.caught };
  }

  async setIdentity(identity: TlsIdentity): Promise<void> {
    this.#show(requireIdentity(identity));
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
    await Promise.all(
      [...this.#connections].map((each) =>
        this.#usable.has(each) ? each.close(options) : each.close({ grace: 0 }),
      ),
    );
    const endpoint = this.#endpoint;
    if (endpoint === undefined) return;
    this.#endpoint = undefined;
    // A closed endpoint refuses whoever comes, as long as it is there.
    endpoint.close({ closeCode: StreamCode.None, reason: "" });
    linger(formatAddress(this.address), endpoint, this.#natives.splice(0));
  }

  /** Shows a certificate from now on. Deno's endpoint takes its configuration from whoever listened last. */
  #show(identity: TlsIdentity): NativeListener {
    const { settings, maxStreams } = this.#context;
    if (this.#endpoint === undefined) throw new VortexError("Closed", "the listener is closed");
    let native: NativeListener;
    try {
      native = this.#endpoint.listen({
        ...nativeSettings(settings, maxStreams, isLoopback(this.address.host)),
        ...identity,
        alpnProtocols: [...(settings.clients === "stock" ? STOCK_PROTOCOLS : VORTEX_PROTOCOLS)],
      });
    } catch (error) {
      throw VortexError.from(error, "InvalidArgument", "tls.cert and tls.key");
    }
    this.#natives.push(native);
    this.#fingerprint = fingerprintOf(identity.cert);
    return native;
  }

  async #acceptConnections(native: NativeListener): Promise<void> {
    for (;;) {
      let incoming: NativeIncoming;
      try {
        incoming = await native.incoming();
      } catch {
        // The endpoint was closed.
        return;
      }
      // One that fails is no reason to accept no others.
      this.#guard.run(() => this.#onIncoming(incoming));
    }
  }

  #onIncoming(incoming: NativeIncoming): void {
    if (this.#closing !== undefined || this.#open >= this.#context.maxConnections) {
      incoming.refuse();
      return;
    }
    if (this.#halfOpen >= MAX_HALF_OPEN) {
      incoming.ignore();
      return;
    }
    let conn: NativeConn;
    try {
      conn = incoming.accept({ zeroRtt: true });
    } catch {
      // Its first datagram was none that a handshake can begin with.
      return;
    }
    this.#adopt(conn);
  }

  #adopt(native: NativeConn): void {
    const { settings, earlyData } = this.#context;
    const { hostname: host, port } = native.remoteAddr;
    let state: "half-open" | "open" | "ended" = "half-open";
    const connection = new DenoQuicConnection(
      native,
      { host, port },
      {
        guard: this.#guard,
        server: true,
        established: false,
        takesEarlyData: earlyData,
        onUsable: (usable) => this.#handOut(usable),
        onEstablished: (established) => {
          timer.cancel();
          this.#halfOpen--;
          this.#open++;
          state = "open";
          // Others may have got there first since it was accepted.
          if (this.#open > this.#context.maxConnections)
            established.abort(StreamCode.Busy, NO_ROOM);
        },
      },
    );
    this.#connections.add(connection);
    this.#halfOpen++;
    const timer: Timer = this.#guard.clock.setTimer(
      () => connection.abort(StreamCode.Timeout, "the client did not finish in time"),
      settings.handshakeTimeout,
      { background: true },
    );
    const onClosed = this.#guard.wrap(() => {
      timer.cancel();
      if (state === "half-open") this.#halfOpen--;
      else this.#open--;
      state = "ended";
      this.#connections.delete(connection);
      this.#usable.delete(connection);
    });
    void connection.closed.then(onClosed);
  }

  #handOut(connection: DenoQuicConnection): void {
    if (this.#usable.has(connection)) return;
    if (this.#open > this.#context.maxConnections) {
      connection.abort(StreamCode.Busy, NO_ROOM);
      return;
    }
    this.#usable.add(connection);
    if (!this.#incoming.push(connection)) connection.abort();
  }
}

const NO_ROOM = "no room for another connection";

/** Keeps a closed endpoint for a while, so that clients are told, and then lets go of its socket. */
function linger(addr: string, endpoint: NativeEndpoint, natives: readonly NativeListener[]): void {
  const kept: unknown[] = [endpoint, ...natives];
  givenUp.add(addr);
  const letGo = (): void => {
    timer.cancel();
    kept.length = 0;
    lingering.delete(addr);
  };
  const timer = new Guard().clock.setTimer(
    () => {
      letGo();
      collectSocketsSoon();
    },
    LINGER,
    { background: true },
  );
  lingering.set(addr, letGo);
}
