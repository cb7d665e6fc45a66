import { VortexError } from "../errors.ts";

/** The protocols that pieces travel over. */
export type Protocol = "quic" | "tcp" | "grpc";

/** All protocols, the default one of stock Dragonfly first. */
export const protocols: readonly Protocol[] = ["tcp", "quic", "grpc"];

/** @throws `InvalidArgument` unless `value` is one of {@link protocols} */
export function requireProtocol(value: unknown): Protocol {
  const found = protocols.find((protocol) => protocol === value);
  if (found === undefined) {
    throw new VortexError("InvalidArgument", `protocol ${JSON.stringify(value)}: expected ${protocols.join(", ")}`);
  }
  return found;
}
