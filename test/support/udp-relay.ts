import { createSocket, type Socket } from "node:dgram";
import { isIPv6 } from "node:net";
import type { Address } from "../../src/transport/address.ts";

/** Options of a UDP relay, which simulate a slow or lossy link. */
export interface UdpRelayOptions {
  /** Delay of each datagram in each direction, in ms. Default: 0. */
  readonly delay?: number;
  /** Called for each datagram; returns true to drop it. Default: no datagram is dropped. */
  readonly drop?: (datagram: Uint8Array, fromClient: boolean) => boolean;
}

/** UDP relay between clients and one server, which simulates a NAT and a link. */
export interface UdpRelay {
  /** Address of the relay that clients dial. */
  readonly address: Address;
  /** Number of datagrams that the relay has forwarded to the server, and to clients. */
  readonly counts: { readonly toServer: number; readonly toClient: number };
  /**
   * Changes the address from which the server receives each client's datagrams, like a NAT that has
   * lost its bindings.
   */
  rebind(): void;
  /** Forwards all later datagrams of clients to another server. */
  retarget(target: Address): void;
  /** Drops all later datagrams if `silent` is true. Forwards datagrams again if it is false. */
  silence(silent: boolean): void;
  /** Sends a datagram to the server, as if it came from the client that sent most recently. */
  inject(datagram: Uint8Array): void;
  /** Delays all datagrams to clients until {@link release} is called. */
  hold(): void;
  /** Sends the delayed datagrams to the clients, and stops delaying. */
  release(): void;
  close(): Promise<void>;
}

/** Starts a UDP relay in front of `server`, on the same IP address. */
export async function udpRelay(server: Address, options: UdpRelayOptions = {}): Promise<UdpRelay> {
  const { delay = 0, drop = () => false } = options;
  let target = server;
  const family = isIPv6(target.host) ? "udp6" : "udp4";
  const clientSocket = createSocket(family);
  const serverSockets = new Map<string, Socket>();
  const timers = new Set<ReturnType<typeof setTimeout>>();
  const counts = { toServer: 0, toClient: 0 };
  let heldDatagrams: (() => void)[] | undefined;
  let silent = false;
  let closed = false;
  let lastClient: { readonly address: string; readonly port: number } | undefined;

  const afterDelay = (send: () => void): void => {
    if (delay === 0) {
      send();
      return;
    }
    const timer = setTimeout(() => {
      timers.delete(timer);
      send();
    }, delay);
    timers.add(timer);
  };
  const serverSocketFor = (host: string, port: number): Socket => {
    const key = `${host} ${port}`;
    const existing = serverSockets.get(key);
    if (existing !== undefined) return existing;
    const back = createSocket(family);
    back.on("error", () => {});
    back.on("message", (datagram) => {
      if (silent || drop(datagram, false)) return;
      const pass = (): void => {
        if (closed) return;
        counts.toClient++;
        clientSocket.send(datagram, port, host, () => {});
      };
      if (heldDatagrams === undefined) afterDelay(pass);
      else heldDatagrams.push(pass);
    });
    serverSockets.set(key, back);
    return back;
  };

  clientSocket.on("error", () => {});
  clientSocket.on("message", (datagram, { address, port }) => {
    lastClient = { address, port };
    if (silent || drop(datagram, true)) return;
    afterDelay(() => {
      if (closed) return;
      counts.toServer++;
      serverSocketFor(address, port).send(datagram, target.port, target.host, () => {});
    });
  });
  await new Promise<void>((resolve) =>
    clientSocket.bind({ address: target.host, port: 0 }, resolve),
  );
  const closeServerSockets = (): void => {
    for (const back of serverSockets.values()) back.close();
    serverSockets.clear();
  };
  return {
    address: { host: target.host, port: clientSocket.address().port },
    counts,
    rebind: closeServerSockets,
    inject(datagram) {
      if (lastClient !== undefined && !closed)
        serverSocketFor(lastClient.address, lastClient.port).send(
          datagram,
          target.port,
          target.host,
          () => {},
        );
    },
    hold() {
      heldDatagrams ??= [];
    },
    release() {
      const passing = heldDatagrams ?? [];
      heldDatagrams = undefined;
      for (const pass of passing) pass();
    },
    retarget(other) {
      target = other;
    },
    silence(value) {
      silent = value;
    },
    async close() {
      closed = true;
      for (const timer of timers) clearTimeout(timer);
      closeServerSockets();
      await new Promise<void>((resolve) => clientSocket.close(() => resolve()));
    },
  };
}
