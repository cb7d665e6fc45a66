import { VortexError } from "../../src/errors.ts";

/** The part of a `cloudflare:sockets` socket that is used here. Source: Cloudflare's documentation, Runtime APIs, TCP sockets. */
export interface WorkerSocket {
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array>;
  /** Settles when the connection stands, or cannot be made. */
  readonly opened: Promise<unknown>;
  /** Settles when the connection is gone; not at the end of one direction. */
  readonly closed: Promise<unknown>;
  /** Ends both directions. */
  close(): Promise<void>;
}

/** Opens a socket to `host:port`. Throws TypeError for an address that it does not take. */
export type ConnectSocket = (
  address: string,
  options: { readonly allowHalfOpen: boolean },
) => WorkerSocket;

/** The runtime's own `connect`. Rejects with `Unavailable` where there is none. */
export async function loadConnect(): Promise<ConnectSocket> {
  try {
    // @ts-expect-error workerd has this module inside it, and no package declares it here.
    const sockets: { readonly connect: ConnectSocket } = await import("cloudflare:sockets");
    return sockets.connect;
  } catch (cause) {
    throw new VortexError(
      "Unavailable",
      "TCP from an edge worker needs the module cloudflare:sockets, which this runtime does not have",
      { cause },
    );
  }
}
