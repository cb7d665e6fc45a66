import type { SessionConfig } from "./native.ts";
import type { NodeQuicSettings } from "./options.ts";

/** What both sides tell the module of a connection. */
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
