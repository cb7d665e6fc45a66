import { VortexError } from "../errors.ts";

/** The protocols that pieces travel over. */
export type Protocol = "quic" | "tcp" | "grpc";

/**
 * What a user may ask for: one protocol, `auto` for whichever works best with each peer, or `hybrid` for several at once in
 * each task.
 */
export type ProtocolChoice = Protocol | "auto" | "hybrid";

/** Protocol that is not used with a peer. */
export interface LeftOutProtocol {
  /** The protocol. */
  readonly protocol: Protocol;
  /** Why, in one line for people. */
  readonly reason: string;
}

/** All protocols, the default one of stock Dragonfly first. */
export const protocols: readonly Protocol[] = ["tcp", "quic", "grpc"];

/** All that may be asked for. */
export const protocolChoices: readonly ProtocolChoice[] = [...protocols, "auto", "hybrid"];

/** @throws `InvalidArgument` unless `value` is one of {@link protocolChoices} */
export function requireProtocolChoice(value: unknown): ProtocolChoice {
  const found = protocolChoices.find((choice) => choice === value);
  if (found === undefined) {
    throw new VortexError(
      "InvalidArgument",
      `protocol ${JSON.stringify(value)}: expected ${protocolChoices.join(", ")}`,
    );
  }
  return found;
}
