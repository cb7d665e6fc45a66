/** Texts of errors that combine the errors of several attempts. */
import type { ErrorCode, VortexError } from "./errors.ts";

/** Failed attempt of an operation that failed as a whole. */
export interface FailedAttempt {
  /** Name of the attempt, such as a parent or a protocol. Empty if the message names it. */
  readonly label: string;
  /** Error of the attempt; undefined if the label says why it failed. */
  readonly error: VortexError | undefined;
}

/**
 * Formats the errors of several attempts, for the message of an error with the code `code` that
 * combines them. Attempts with the same error share one entry. Their codes are shown unless all of
 * them are `code`.
 */
export function listFailures(attempts: readonly FailedAttempt[], code: ErrorCode): string {
  const labels = new Map<string, string[]>();
  const isSameCode = attempts.every(({ error }) => error === undefined || error.code === code);
  for (const { label, error } of attempts) {
    const prefix = isSameCode ? "" : `${error?.code}, `;
    const text = error === undefined ? "" : `${prefix}${error.message}`;
    labels.set(text, [...(labels.get(text) ?? []), label]);
  }
  return [...labels]
    .map(([text, named]) => [named.filter((label) => label !== "").join(", "), text])
    .map((parts) => parts.filter((part) => part !== "").join(": "))
    .join("; ");
}

/**
 * Returns the label of an attempt with a peer: its address, the protocol, or both. Omits the
 * address if the error's message names it.
 */
export function attemptLabel(
  addr: string,
  protocol: string | undefined,
  { message }: VortexError,
): string {
  const words = message.split(/[\s;,()]+/).map((word) => word.replace(/:$/, ""));
  if (words.includes(addr)) return protocol ?? "";
  return protocol === undefined ? addr : `${addr} over ${protocol}`;
}
