import type { QuicTuning } from "../transport/quic-tuning.ts";
import type { Config } from "./sections.ts";

/**
 * Returns the QUIC transport parameters that a configuration sets. Omits parameters that the
 * configuration does not set.
 */
export function quicTuning({ vortexPeer }: Config): QuicTuning {
  const {
    congestionControl,
    udpPayloadSize,
    streamWindow,
    connectionWindow,
    socketBuffer,
    ackThreshold,
  } = vortexPeer.quic;
  return {
    ...(congestionControl !== undefined && { congestionControl }),
    ...(udpPayloadSize !== undefined && { udpPayloadSize }),
    ...(streamWindow !== undefined && { streamWindow }),
    ...(connectionWindow !== undefined && { connectionWindow }),
    ...(socketBuffer !== undefined && { socketBuffer }),
    ...(ackThreshold !== undefined && { ackThreshold }),
  };
}
