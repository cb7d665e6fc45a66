import { isIPv6 } from "node:net";
import type { NativeAddress, NativeEndpoint, NodeQuic } from "./native.ts";
import type { SocketOptions } from "./socket-options.ts";

/** What all endpoints of a transport share. */
export interface EndpointContext {
  readonly quic: NodeQuic;
  /** Undefined where sockets cannot be reached. */
  readonly socketOptions: SocketOptions | undefined;
  /** Bytes. */
  readonly socketBuffer: number;
}

/** An address as the module wants it. */
export function nativeAddress(host: string, port: number): NativeAddress {
  return { address: host, port, family: isIPv6(host) ? "ipv6" : "ipv4" };
}

/**
 * Makes an endpoint, and has `use` bind its socket, which the module does within the call. Rejects as `use` does, and with
 * the module's error when the address cannot be had.
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
  // Another thread may have taken the descriptor meanwhile; then the socket stays as it is.
  if (port !== undefined && socketOptions?.isUdp(fd, port)) {
    socketOptions.ignoreNetworkErrors(fd);
    socketOptions.setBuffers(fd, socketBuffer);
  }
  // A socket that could not be bound shows here, and not in what `use` does.
  if (endpoint.destroyed) await endpoint.closed;
  try {
    return [endpoint, await using];
  } catch (error) {
    endpoint.close().catch(() => {});
    throw error;
  }
}
