import { VortexError } from "../../src/errors.ts";

/**
 * Part of the `cloudflare:sockets` socket that is used here. Source: Cloudflare's documentation,
 * Runtime APIs, TCP sockets.
 */
export interface WorkerSocket {
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array>;
  /** Resolves when the connection is established, rejects when it fails. */
  readonly opened: Promise<unknown>;
  /** Settles when the connection is closed, but not at the end of one direction. */
  readonly closed: Promise<unknown>;
  /** Closes both directions. */
  close(): Promise<void>;
}

/** Opens a socket to `host:port`. Throws TypeError for an invalid address. */
export type ConnectSocket = (
  address: string,
  options: { readonly allowHalfOpen: boolean },
) => WorkerSocket;

/** Loads the runtime's `connect` function. Rejects with `Unavailable` if the runtime has none. */
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
