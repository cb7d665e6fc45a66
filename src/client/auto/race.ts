import { VortexError } from "../../errors.ts";
import type { Clock } from "../../runtime.ts";
import type { Protocol } from "../../transport/protocol.ts";
import { runStaggered, type Setback } from "../../transport/staggered-race.ts";

/** What a race is told. */
export interface RaceOptions<T> {
  /** In the order in which they begin; at least one. */
  readonly candidates: readonly Protocol[];
  /** Protocols that do not take part, each with its reason; part of the reason for the winner. */
  readonly leftOut: readonly string[];
  /** Milliseconds that a candidate is ahead of the next one. */
  readonly delay: number;
  readonly clock: Clock;
  /** The caller's own; its end is that of the race. */
  readonly signal: AbortSignal | undefined;
  /** The peer, for messages. */
  readonly addr: string;
  /** Decides which errors are an answer, see {@link isAnswer}. */
  readonly trust: PeerTrust;
  /** Begins a candidate. What it resolves with after its signal fired goes to `discard`. */
  run(protocol: Protocol, signal: AbortSignal, reason: string): Promise<T>;
  /** Gives up a result that came too late. */
  discard(result: T): void;
  /** A candidate that was given up has ended. */
  lost(protocol: Protocol): void;
}

/** Who was first, with what, and why not the one before. */
export interface RaceResult<T> {
  readonly protocol: Protocol;
  readonly reason: string;
  /** What it answered: a result, or an error that is an answer. */
  readonly answer: { readonly result: T } | { readonly error: VortexError };
}

/**
 * Happy Eyeballs (RFC 8305) over protocols: starts the next protocol when the previous one fails or
 * after `delay` ms. The first answer wins, also when it is an error of the peer; the others are
 * aborted. Rejects when none works, or as the signal says.
 */
export async function raceProtocols<T>(options: RaceOptions<T>): Promise<RaceResult<T>> {
  const { candidates, leftOut, delay, clock, signal, addr, trust } = options;
  const reasonAfter = (setbacks: readonly Setback<Protocol>[]): string => {
    const waited = setbacks.flatMap(({ candidate, error }) =>
      error ? [] : [`${candidate} had not answered within ${delay} ms`],
    );
    return [...leftOut, ...failuresOf(setbacks).map(told), ...waited].join("; ") || "tried first";
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
    run: (protocol, own, setbacks) => options.run(protocol, own, reasonAfter(setbacks)),
    isFinal: (error) => isAnswer(error, trust),
    discard: (result) => options.discard(result),
    onLost: (protocol) => options.lost(protocol),
  });
  if (!("candidate" in outcome)) throw noneWorks(addr, failuresOf(outcome.setbacks));
  const { candidate, setbacks, ...answer } = outcome;
  return { protocol: candidate, reason: reasonAfter(setbacks), answer };
}

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
 * What a certificate decides. `named`: the caller says whom to trust, so a peer that fails the check is
 * not asked over another protocol. `unnamed`: TCP without a certificate is good enough, and so a failed
 * check is a reason to take it.
 */
export type PeerTrust = "named" | "unnamed";

/** Returns true for an answer of the peer, or of this side to the caller, which no other protocol would change. */
export function isAnswer({ code, kind }: VortexError, trust: PeerTrust): boolean {
  switch (code) {
    case "Unavailable":
    // Of one port, and another protocol has another.
    case "PermissionDenied":
    case "RemoteUnimplemented":
      return false;
    case "HandshakeFailed":
      return trust === "named";
    // Over TCP nothing but the answer tells whether the peer speaks Vortex.
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

function noneWorks(addr: string, failures: readonly Failure[]): VortexError {
  const [only] = failures;
  if (failures.length === 1 && only !== undefined) return only.error;
  // What says that a protocol is not spoken says the least about the peer.
  const telling =
    failures.find(({ error }) => !["Unavailable", "ProtocolNotSupported"].includes(error.code)) ??
    only;
  const message = `no protocol works with ${addr}: ${failures.map(told).join("; ")}`;
  return new VortexError(telling?.error.code ?? "Unreachable", message, {
    cause: failures.map(({ error }) => error),
    addr,
  });
}

function told({ protocol, error }: Failure): string {
  return `${protocol}: ${error.code}, ${error.message}`;
}
