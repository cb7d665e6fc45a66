import { isIPv6 } from "node:net";
import type { NativeAddress, NativeEndpoint, NodeQuic } from "./native.ts";
import type { SocketOptions } from "./socket-options.ts";

/** State shared by all UDP sockets of one transport. */
export interface EndpointContext {
  readonly quic: NodeQuic;
  /**
   * Functions that set options of UDP sockets by file descriptor. Undefined on platforms without
   * access to the C library.
   */
  readonly socketOptions: SocketOptions | undefined;
  /**
   * Size in bytes of the kernel's send buffer for each UDP socket, and also of its receive buffer.
   */
  readonly socketBuffer: number;
}

/** Converts an IP address and port to the format of `node:quic`. */
export function nativeAddress(host: string, port: number): NativeAddress {
  return { address: host, port, family: isIPv6(host) ? "ipv6" : "ipv4" };
}

/**
 * Creates an endpoint for the local address and passes it to `use`. The function `use` must call
 * `listen` or `connect` of `node:quic`, which binds the UDP socket synchronously. After that, this
 * function sets the options of the socket.
 *
 * Returns the endpoint and the result of `use`. Rejects with the error of `use`, or with an error
 * of `node:quic` if the address cannot be bound.
 */
export async function bindEndpoint<T>(
  { quic, socketOptions, socketBuffer }: EndpointContext,
  local: NativeAddress,
  use: (endpoint: NativeEndpoint) => Promise<T>,
): Promise<[endpoint: NativeEndpoint, result: T]> {
  const endpoint = new quic.QuicEndpoint({ address: local });
  endpoint.closed.catch(() => {});
  const fd = socketOptions?.nextDescriptor() ?? -1;
  const using = use(endpoint);
  using.catch(() => {});
  const port = endpoint.address?.port;
  // Another thread may have taken the descriptor in the meantime: then the socket keeps its
  // defaults.
  if (port !== undefined && socketOptions?.isUdp(fd, port)) {
    socketOptions.ignoreNetworkErrors(fd);
    socketOptions.setBuffers(fd, socketBuffer);
  }
  // A bind error rejects `closed`, not the promise of `use`.
  if (endpoint.destroyed) await endpoint.closed;
  try {
    return [endpoint, await using];
  } catch (error) {
    endpoint.close().catch(() => {});
    throw error;
  }
}
