import type { SessionConfig } from "./native.ts";
import type { NodeQuicSettings } from "./options.ts";

/**
 * Builds the session options that clients and servers share.
 *
 * @param maxStreams concurrent streams that the peer may open
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
