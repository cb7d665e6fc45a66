import { randomBytes } from "node:crypto";
import type { Socket } from "node:dgram";
import { setImmediate } from "node:timers";
import {
  type ConnectionHost,
  type HostPort,
  QuicheConnection,
} from "../../adapters/quiche/connection.ts";
import { SendRing } from "../../adapters/quiche/datagrams.ts";
import { loadQuiche, type NativeConfig } from "../../adapters/quiche/native.ts";
import { applySettings, quicheSettings, windowThreshold } from "../../adapters/quiche/options.ts";
import { PathMtu } from "../../adapters/quiche/path-mtu.ts";
import { clientConfig, serverConfig } from "../../adapters/quiche/tls.ts";
import { Guard } from "../../adapters/shared/guard.ts";
import { selfSigned } from "../../adapters/shared/tls.ts";
import { FakeClock } from "./fake-clock.ts";

/**
 * Max number of consecutive steps of 1 ms of fake time without a datagram. After more steps, the
 * test fails.
 */
const MAX_IDLE_ROUNDS = 1000;

/** One of the two connections of a {@link QuichePair}. */
interface End {
  readonly connection: QuicheConnection;
  /** Datagrams that the other end has sent to this end, and that are not delivered yet. */
  readonly inbox: Uint8Array[];
}

/**
 * Two connected quiche connections without a network between them. A test sets how many datagrams
 * arrive together, so that it can count their cost exactly. With a socket, that number depends on
 * the machine.
 */
export class QuichePair {
  readonly client: QuicheConnection;
  readonly server: QuicheConnection;
  /** Number of datagrams that each end has sent. */
  readonly sent = { client: 0, server: 0 };
  readonly #clock = new FakeClock();
  readonly #ends: readonly [End, End];

  private constructor(make: (pair: QuichePair, clock: FakeClock) => readonly [End, End]) {
    this.#ends = make(this, this.#clock);
    [this.client, this.server] = [this.#ends[0].connection, this.#ends[1].connection];
  }

  /**
   * Creates a client and a server connection with default settings, and completes their handshake.
   *
   * @param payload max length of a UDP payload, in bytes
   * @param server options of the server's connection
   */
  static async connect(
    payload: number,
    server: Pick<ConnectionHost, "abuseBudget"> = {},
  ): Promise<QuichePair> {
    const quiche = await loadQuiche();
    const settings = quicheSettings({ udpPayloadSize: payload });
    const addresses = [
      { host: "127.0.0.1", port: 1 },
      { host: "127.0.0.1", port: 2 },
    ] as const;
    const configured = (config: NativeConfig): NativeConfig => {
      applySettings(config, settings, 16, payload);
      return config;
    };
    const [clientSide, serverSide] = [
      configured(clientConfig(quiche, { verify: false })),
      configured(serverConfig(quiche, await selfSigned(), undefined)),
    ];
    const pair = new QuichePair((self, clock) => {
      const inboxes: [Uint8Array[], Uint8Array[]] = [[], []];
      const hostOf = (
        local: HostPort,
        outbox: Uint8Array[],
        name: "client" | "server",
      ): ConnectionHost => ({
        quiche,
        clock,
        guard: new Guard({
          end: (error) => (name === "client" ? self.client : self.server).fail(error),
        }),
        ring: new SendRing(
          socketInto((datagram) => {
            self.sent[name]++;
            outbox.push(datagram);
          }),
          payload,
        ),
        pathMtu: new PathMtu(payload, true),
        local,
        connected: true,
        drains: false,
        keepAlive: undefined,
        ackThreshold: settings.ackThreshold,
        windowThreshold: windowThreshold(settings),
        ...(name === "server" && server),
        onEarlyData: () => {},
        onEstablished: () => {},
        onEnded: () => {},
        onTerminated: () => {},
      });
      const [near, far] = addresses;
      const dialled = quiche.Connection.connect("d7y", randomBytes(16), near, far, clientSide);
      const accepted = quiche.Connection.accept(randomBytes(16), null, far, near, serverSide);
      return [
        {
          connection: new QuicheConnection(
            dialled,
            far,
            far,
            false,
            hostOf(near, inboxes[1], "client"),
          ),
          inbox: inboxes[0],
        },
        {
          connection: new QuicheConnection(
            accepted,
            near,
            near,
            true,
            hostOf(far, inboxes[0], "server"),
          ),
          inbox: inboxes[1],
        },
      ];
    });
    pair.client.start(undefined);
    await pair.run(Promise.all([pair.client.ready, pair.server.ready]), 1);
    return pair;
  }

  /**
   * Delivers datagrams between the two ends until `work` settles. Each end receives at most `batch`
   * datagrams at a time.
   */
  async run<T>(work: Promise<T>, batch: number): Promise<T> {
    let settled = false;
    const settle = (): void => {
      settled = true;
    };
    work.then(settle, settle);
    for (let idle = 0; !settled; ) {
      let carried = 0;
      for (const { connection, inbox } of this.#ends) {
        const datagrams = inbox.splice(0, batch);
        carried += datagrams.length;
        for (const datagram of datagrams) connection.receive(datagram);
        await nextTurn();
      }
      if (carried > 0) idle = 0;
      else if (++idle > MAX_IDLE_ROUNDS) throw new Error("nothing moves any more");
      else await this.#clock.advance(1);
    }
    return work;
  }

  close(): void {
    this.client.abort();
    this.server.abort();
  }
}

/**
 * Creates a fake UDP socket that passes each sent datagram to `take`. It has only the functions
 * that a {@link SendRing} calls.
 */
function socketInto(take: (datagram: Uint8Array) => void): Socket {
  const socket = {
    send: (buffer: Uint8Array, offset: number, length: number) =>
      take(buffer.slice(offset, offset + length)),
    getSendQueueCount: () => 0,
  };
  return socket as unknown as Socket;
}

/** Waits until all callbacks that do not wait for I/O have run. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(() => setImmediate(resolve));
  });
}
