import { createSocket, type Socket } from "node:dgram";
import { isIPv6 } from "node:net";
import type { Address } from "../../src/transport/address.ts";

/** How a relay treats datagrams. */
export interface UdpRelayOptions {
  /** Milliseconds that each datagram is held, in each direction. Default 0. */
  readonly delay?: number;
  /** Whether a datagram is dropped; asked for each. Default: none is. */
  readonly drop?: (datagram: Uint8Array, fromClient: boolean) => boolean;
}

/** Stands between clients and one UDP server: a NAT with a cable of any length. */
export interface UdpRelay {
  /** What clients dial. */
  readonly address: Address;
  /** Datagrams passed on, towards the server and towards clients. */
  readonly counts: { readonly toServer: number; readonly toClient: number };
  /** Gives every client a new address towards the server, as a NAT does that has forgotten its binding. */
  rebind(): void;
  /** Passes what clients send from now on to another server. */
  retarget(target: Address): void;
  /** Drops everything from now on, or passes it again. */
  silence(silent: boolean): void;
  /** Sends the server a datagram, from the address of the client that spoke last. */
  inject(datagram: Uint8Array): void;
  /** Keeps what goes to clients back, until it is released. */
  hold(): void;
  release(): void;
  close(): Promise<void>;
}

/** Relays UDP on loopback to a server. */
export async function udpRelay(server: Address, options: UdpRelayOptions = {}): Promise<UdpRelay> {
  const { delay = 0, drop = () => false } = options;
  let target = server;
  const family = isIPv6(target.host) ? "udp6" : "udp4";
  const front = createSocket(family);
  const backs = new Map<string, Socket>();
  const timers = new Set<ReturnType<typeof setTimeout>>();
  const counts = { toServer: 0, toClient: 0 };
  let held: (() => void)[] | undefined;
  let silent = false;
  let closed = false;
  let last: { readonly address: string; readonly port: number } | undefined;

  const later = (send: () => void): void => {
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
  const backOf = (host: string, port: number): Socket => {
    const key = `${host} ${port}`;
    const existing = backs.get(key);
    if (existing !== undefined) return existing;
    const back = createSocket(family);
    back.on("error", () => {});
    back.on("message", (datagram) => {
      if (silent || drop(datagram, false)) return;
      const pass = (): void => {
        if (closed) return;
        counts.toClient++;
        front.send(datagram, port, host, () => {});
      };
      if (held === undefined) later(pass);
      else held.push(pass);
    });
    backs.set(key, back);
    return back;
  };

  front.on("error", () => {});
  front.on("message", (datagram, { address, port }) => {
    last = { address, port };
    if (silent || drop(datagram, true)) return;
    later(() => {
      if (closed) return;
      counts.toServer++;
      backOf(address, port).send(datagram, target.port, target.host, () => {});
    });
  });
  await new Promise<void>((resolve) => front.bind({ address: target.host, port: 0 }, resolve));
  const closeBacks = (): void => {
    for (const back of backs.values()) back.close();
    backs.clear();
  };
  return {
    address: { host: target.host, port: front.address().port },
    counts,
    rebind: closeBacks,
    inject(datagram) {
      if (last !== undefined && !closed)
        backOf(last.address, last.port).send(datagram, target.port, target.host, () => {});
    },
    hold() {
      held ??= [];
    },
    release() {
      const passing = held ?? [];
      held = undefined;
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
      closeBacks();
      await new Promise<void>((resolve) => front.close(() => resolve()));
    },
  };
}
