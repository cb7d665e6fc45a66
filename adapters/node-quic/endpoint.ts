import { isIPv6 } from "node:net";
import type { NativeAddress, NativeEndpoint, NodeQuic } from "./native.ts";
import type { SocketOptions } from "./socket-options.ts";

/** State shared by all endpoints of one transport. */
export interface EndpointContext {
  readonly quic: NodeQuic;
  /** Access to the UDP sockets; undefined where the runtime has none. */
  readonly socketOptions: SocketOptions | undefined;
  /** Send and receive buffers of the UDP socket, in bytes. */
  readonly socketBuffer: number;
}

/** Converts an address into the module's format. */
export function nativeAddress(host: string, port: number): NativeAddress {
  return { address: host, port, family: isIPv6(host) ? "ipv6" : "ipv4" };
}

/**
 * Creates an endpoint and passes it to `use`, whose module call binds the socket synchronously.
 * Sets socket options after that. Rejects like `use`, or with the module's error when the address
 * cannot be bound.
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
