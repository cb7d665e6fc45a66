import { VortexError } from "../errors.ts";

/** Protocol that transfers pieces: the Vortex protocol over QUIC or TCP, or the API over gRPC. */
export type Protocol = "quic" | "tcp" | "grpc";

/**
 * Protocol option of a downloader: one protocol; `auto`, the best one for each peer; or `hybrid`,
 * several at once for each task.
 */
export type ProtocolChoice = Protocol | "auto" | "hybrid";

/** Protocol that is not used with a peer, and the reason. */
export interface LeftOutProtocol {
  /** Protocol that is not used. */
  readonly protocol: Protocol;
  /** Human-readable reason, in one line. */
  readonly reason: string;
}

/** All protocols, starting with the default of stock Dragonfly. */
export const protocols: readonly Protocol[] = ["tcp", "quic", "grpc"];

/** All values of {@link ProtocolChoice}. */
export const protocolChoices: readonly ProtocolChoice[] = [...protocols, "auto", "hybrid"];

/**
 * Returns `value` as a {@link ProtocolChoice}.
 *
 * @throws `InvalidArgument` unless `value` is one of {@link protocolChoices}
 */
export function requireProtocolChoice(value: unknown): ProtocolChoice {
  const found = protocolChoices.find((choice) => choice === value);
  if (found === undefined) {
    throw new VortexError(
      "InvalidArgument",
      `protocol: expected ${protocolChoices.join(", ")}, got ${JSON.stringify(value)}`,
    );
  }
  return found;
}
