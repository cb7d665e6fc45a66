import { show } from "../arguments.ts";
import { VortexError } from "../errors.ts";

/**
 * Protocol for transferring pieces: Vortex over QUIC, Vortex over TCP, or the Dragonfly API over
 * gRPC.
 */
export type Protocol = "quic" | "tcp" | "grpc";

/**
 * Protocol option of a downloader. A {@link Protocol} uses only that protocol.
 *
 * - `auto` selects a protocol for each peer: at first one that works, later the fastest.
 * - `hybrid` uses several protocols at once for each task.
 */
export type ProtocolChoice = Protocol | "auto" | "hybrid";

/** Protocol that a downloader does not use with a peer, and the reason. */
export interface ExcludedProtocol {
  /** Protocol that the downloader does not use. */
  readonly protocol: Protocol;
  /** Reason as one line of text for people. */
  readonly reason: string;
}

/** All values of {@link Protocol}. The first is the default protocol of stock Dragonfly. */
export const protocols: readonly Protocol[] = ["tcp", "quic", "grpc"];

/** All values of {@link ProtocolChoice}. */
export const protocolChoices: readonly ProtocolChoice[] = [...protocols, "auto", "hybrid"];

/**
 * Returns `value` unchanged if it is a {@link ProtocolChoice}.
 *
 * @throws `InvalidArgument` if `value` is not one of {@link protocolChoices}
 */
export function requireProtocolChoice(value: unknown): ProtocolChoice {
  const found = protocolChoices.find((choice) => choice === value);
  if (found === undefined) {
    throw new VortexError(
      "InvalidArgument",
      `protocol: expected ${protocolChoices.join(", ")}, got ${show(value)}`,
    );
  }
  return found;
}
