import { abortedError, VortexError } from "../../src/errors.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import type {
  Connection,
  DialOptions,
  Listener,
  Transport,
} from "../../src/transport/transport.ts";
import { DialledPeer } from "../shared/dialled-peer.ts";
import { Guard } from "../shared/guard.ts";
import { loadConnect, type WorkerSocket } from "./native.ts";
import { SocketStream } from "./stream.ts";

/**
 * TCP on `cloudflare:sockets`, for edge workers. It dials and does not listen. As stock Dragonfly peers want it, each stream is
 * a connection of its own: what this calls a connection is the peer that sockets are opened to.
 *
 * A socket belongs to the incoming request that opened it, and ends with it.
 */
export const workersTransport: Transport = {
  protocol: "tcp",
  async dial(remote, options = {}): Promise<Connection> {
    return DialledPeer.dial(
      remote,
      options,
      async (each) => new SocketStream(await openSocket(remote, each)),
    );
  },
  async listen(): Promise<Listener> {
    throw new VortexError(
      "Unavailable",
      "an edge worker cannot listen; serve from Node, Bun or Deno",
    );
  },
};

async function openSocket(remote: Address, options: DialOptions): Promise<WorkerSocket> {
  const addr = formatAddress(remote);
  const { signal } = options;
  const connect = await loadConnect();
  if (signal?.aborted) throw abortedError(signal, `dialling ${addr}`);
  let socket: WorkerSocket;
  try {
    socket = connect(addr, { allowHalfOpen: true });
  } catch (error) {
    throw VortexError.from(error, "Unreachable", `cannot connect to ${addr}`);
  }
  await new Promise<void>((resolve, reject) => {
    const onAbort = new Guard({ end: reject }).wrap(() => {
      socket.close().catch(() => {});
      if (signal !== undefined) reject(abortedError(signal, `dialling ${addr}`));
    });
    signal?.addEventListener("abort", onAbort, { once: true });
    socket.opened
      .then(
        () => resolve(),
        (error: unknown) => reject(dialError(error, addr)),
      )
      .finally(() => signal?.removeEventListener("abort", onAbort));
    // Whoever waits hears of it from `opened`, and later from the streams.
    socket.closed.catch(() => {});
  });
  return socket;
}

/**
 * workerd says the same of a port where nobody listens, a name that does not resolve and an address that it may not reach:
 * "proxy request failed, cannot connect to the specified address".
 */
function dialError(error: unknown, addr: string): VortexError {
  const refused =
    error instanceof Error && error.message.includes("cannot connect to the specified address");
  return VortexError.from(
    error,
    refused ? "ConnectionRefused" : "Unreachable",
    `cannot connect to ${addr}`,
  );
}
