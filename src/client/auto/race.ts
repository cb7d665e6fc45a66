import { VortexError } from "../../errors.ts";
import type { Clock } from "../../runtime.ts";
import type { Protocol } from "../../transport/protocol.ts";
import { runStaggered, type Setback } from "../../transport/staggered-race.ts";

/** Options of {@link raceProtocols}. */
export interface RaceOptions<T> {
  /** Protocols in order of their start; at least one. */
  readonly candidates: readonly Protocol[];
  /** Explanations of the protocols that do not take part. They become part of the reason. */
  readonly leftOut: readonly string[];
  /** Head start of a candidate before the next one, in ms. */
  readonly delay: number;
  readonly clock: Clock;
  /** Signal of the caller; its abort ends the race. */
  readonly signal: AbortSignal | undefined;
  /** Address of the peer, for messages. */
  readonly addr: string;
  /** Effect of a rejected certificate, see {@link isAnswer}. */
  readonly trust: PeerTrust;
  /** Starts a candidate. A result after the abort of its signal goes to `discard`. */
  run(protocol: Protocol, signal: AbortSignal, reason: string): Promise<T>;
  /** Disposes of a result that came after the end of the race. */
  discard(result: T): void;
  /** Called when an aborted candidate has ended. */
  onLost(protocol: Protocol): void;
}

/** Winner of a race. */
export interface RaceResult<T> {
  readonly protocol: Protocol;
  /** Reason why this protocol won: what the earlier candidates did, in one line. */
  readonly reason: string;
  /** Result of the winner, or an error that is an answer, see {@link isAnswer}. */
  readonly answer: { readonly result: T } | { readonly error: VortexError };
}

/**
 * Happy Eyeballs (RFC 8305) over protocols: starts the next protocol when the previous one fails or
 * after `delay` ms. The first answer wins, even if it is an error of the peer; the others are
 * aborted. Rejects if no protocol works, or with `Aborted` when `signal` aborts.
 */
export async function raceProtocols<T>(options: RaceOptions<T>): Promise<RaceResult<T>> {
  const { candidates, leftOut, delay, clock, signal, addr, trust } = options;
  const reasonAfter = (setbacks: readonly Setback<Protocol>[]): string => {
    const waited = setbacks.flatMap(({ candidate, error }) =>
      error ? [] : [`${candidate} had not answered within ${delay} ms`],
    );
    return (
      [...leftOut, ...failuresOf(setbacks).map(describe), ...waited].join("; ") || "tried first"
    );
  };
  const outcome = await runStaggered<Protocol, T>({
    candidates,
    delay,
    clock,
    signal,
    aborted: ({ reason }) =>
      reason instanceof VortexError
        ? reason
        : new VortexError("Aborted", `a request to ${addr} was aborted`, { cause: reason, addr }),
    beatenBy: (protocol) => new VortexError("Aborted", `${protocol} answered first`, { addr }),
    run: (protocol, runSignal, setbacks) => options.run(protocol, runSignal, reasonAfter(setbacks)),
    isFinal: (error) => isAnswer(error, trust),
    discard: (result) => options.discard(result),
    onLost: (protocol) => options.onLost(protocol),
  });
  if (!("candidate" in outcome)) throw allFailed(addr, failuresOf(outcome.setbacks));
  const { candidate, setbacks, ...answer } = outcome;
  return { protocol: candidate, reason: reasonAfter(setbacks), answer };
}

/** Protocol that failed, with its error. */
interface Failure {
  readonly protocol: Protocol;
  readonly error: VortexError;
}

function failuresOf(setbacks: readonly Setback<Protocol>[]): Failure[] {
  return setbacks.flatMap(({ candidate, error }) =>
    error ? [{ protocol: candidate, error }] : [],
  );
}

/**
 * Effect of a rejected certificate:
 *
 * - `named`: the request fails, since the options set `ca`, `fingerprints` or `cert`.
 * - `unnamed`: the next protocol is tried, since the caller accepts unauthenticated TCP.
 */
export type PeerTrust = "named" | "unnamed";

/** Returns true for an error that every other protocol would give too, so it ends the race. */
export function isAnswer({ code, kind }: VortexError, trust: PeerTrust): boolean {
  switch (code) {
    case "Unavailable":
    // Permissions are granted per port, and each protocol has its own port.
    case "PermissionDenied":
    case "RemoteUnimplemented":
      return false;
    case "HandshakeFailed":
      return trust === "named";
    // TCP has no ALPN: only an invalid answer shows that the peer does not speak Vortex.
    case "InvalidPacket":
    case "InvalidLength":
    case "InvalidUtf8":
    case "ProtocolViolation":
    case "TruncatedContent":
      return false;
    default:
      return kind !== "transport" && kind !== "timeout";
  }
}

function allFailed(addr: string, failures: readonly Failure[]): VortexError {
  const [only] = failures;
  if (failures.length === 1 && only !== undefined) return only.error;
  // An unsupported protocol says the least about the peer, so other errors take precedence.
  const mostSpecific =
    failures.find(({ error }) => !["Unavailable", "ProtocolNotSupported"].includes(error.code)) ??
    only;
  const message = `no protocol works with ${addr}: ${failures.map(describe).join("; ")}`;
  return new VortexError(mostSpecific?.error.code ?? "Unreachable", message, {
    cause: failures.map(({ error }) => error),
    addr,
  });
}

function describe({ protocol, error }: Failure): string {
  return `${protocol}: ${error.code}, ${error.message}`;
}
