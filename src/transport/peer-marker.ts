/**
 * Header of every response of this library's gRPC servers; dfdaemon's responses do not have it. It
 * tells clients that the peer does not exit when a QUIC handshake fails, unlike dfdaemon 1.1.0 to
 * 1.4.8. It is not authenticated.
 */
export const peerMarker = { name: "vortex-peer", value: "1" } as const;

/** Returns true if the headers of a gRPC response contain the {@link peerMarker}. */
export function isMarked(headers: { get(name: string): string | null }): boolean {
  return headers.get(peerMarker.name) === peerMarker.value;
}
