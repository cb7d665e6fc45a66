import { VortexError } from "../../src/errors.ts";

/**
 * Socket of the runtime module `cloudflare:sockets`, with the members used here. Source:
 * Cloudflare's documentation, Runtime APIs, TCP sockets.
 */
export interface WorkerSocket {
  readonly readable: ReadableStream<Uint8Array<ArrayBuffer>>;
  readonly writable: WritableStream<Uint8Array>;
  /** Resolves when the connection is established. Rejects if the connection attempt fails. */
  readonly opened: Promise<unknown>;
  /** Settles when the whole connection is closed, not when only one direction has ended. */
  readonly closed: Promise<unknown>;
  /** Closes both directions of the connection. */
  close(): Promise<void>;
}

/**
 * Opens a socket to an address of the form `host:port`. Throws `TypeError` if the address is
 * invalid.
 */
export type ConnectSocket = (
  address: string,
  options: { readonly allowHalfOpen: boolean },
) => WorkerSocket;

/**
 * Loads the `connect` function of the runtime module `cloudflare:sockets`. Rejects with
 * `Unavailable` if the runtime does not have the module.
 */
export async function loadConnect(): Promise<ConnectSocket> {
  try {
    // @ts-expect-error the module is built into workerd, and no installed package declares it.
    const sockets: { readonly connect: ConnectSocket } = await import("cloudflare:sockets");
    return sockets.connect;
  } catch (cause) {
    throw new VortexError(
      "Unavailable",
      "TCP in edge workers: needs the module cloudflare:sockets, which this runtime does not have",
      { cause },
    );
  }
}
