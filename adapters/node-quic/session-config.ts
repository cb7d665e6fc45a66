import type { SessionConfig } from "./native.ts";
import type { NodeQuicSettings } from "./options.ts";

/**
 * Creates the options of a `node:quic` connection that clients and servers share.
 *
 * @param maxStreams maximum number of concurrent streams that the peer may open
 * @param earlyData true to permit early data (0-RTT)
 */
export function sessionConfig(
  settings: NodeQuicSettings,
  maxStreams: number,
  earlyData: boolean,
): SessionConfig {
  const { streamWindow, connectionWindow, congestionControl } = settings;
  return {
    transportParams: {
      initialMaxStreamDataBidiLocal: streamWindow,
      initialMaxStreamDataBidiRemote: streamWindow,
      initialMaxData: connectionWindow,
      initialMaxStreamsBidi: maxStreams,
      initialMaxStreamsUni: 0,
      maxIdleTimeout: settings.idleTimeout,
      maxDatagramFrameSize: 0,
    },
    handshakeTimeout: settings.handshakeTimeout,
    ...(congestionControl !== "adaptive" && { cc: congestionControl }),
    enableEarlyData: earlyData,
    verifyPeer: "manual",
  };
}
