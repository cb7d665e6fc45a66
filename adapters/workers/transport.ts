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
 * TCP transport on `cloudflare:sockets`, for edge workers. It can dial but not listen. A
 * dialled `Connection` opens a separate socket for each concurrent stream, which later streams
 * reuse.
 *
 * The runtime closes a socket at the end of the incoming HTTP request during which it was opened.
 * So only streams of the same request can reuse it: in another one, its first use fails.
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
      "cannot listen: edge workers accept no connections; serve from Node, Bun or Deno",
    );
  },
};

/** Opens a socket to a peer. Resolves when the connection is established. */
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
    // `opened`, and later the streams, report the same failure.
    socket.closed.catch(() => {});
  });
  return socket;
}

/**
 * Converts the error of a failed connection attempt. The message "cannot connect to the specified
 * address" becomes `ConnectionRefused`. Other errors become `Unreachable`. workerd reports that
 * message for a closed port, an unresolvable name and a forbidden address.
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
