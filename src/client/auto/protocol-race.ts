import { VortexError } from "../../errors.ts";
import { attemptLabel, listFailures } from "../../failure-list.ts";
import type { Clock } from "../../runtime.ts";
import type { Protocol } from "../../transport/protocol.ts";
import { runStaggered, type Setback } from "../../transport/staggered-race.ts";

/** Options of {@link raceProtocols}, whose requests have a result of type `T`. */
export interface RaceOptions<T> {
  /** Protocols to try, in the order in which they start; at least one. */
  readonly candidates: readonly Protocol[];
  /**
   * Explanations why other protocols are not tried, one text per protocol. They become part of the
   * reason for the selection.
   */
  readonly excluded: readonly string[];
  /** Head start in ms of a protocol before the next protocol starts. */
  readonly delay: number;
  readonly clock: Clock;
  /** Signal of the caller. Its abort aborts all attempts. */
  readonly signal: AbortSignal | undefined;
  /** Address of the peer, for error messages. */
  readonly addr: string;
  /** Effect of a rejected TLS certificate of the peer, see {@link PeerTrust}. */
  readonly trust: PeerTrust;
  /**
   * Sends the request over `protocol`. If the request succeeds although `signal` has aborted, its
   * result is passed to `discard`.
   *
   * @param reason explanation why this protocol is tried
   */
  run(protocol: Protocol, signal: AbortSignal, reason: string): Promise<T>;
  /** Disposes of a result that arrived after another protocol was selected, or after an abort. */
  discard(result: T): void;
  /** Called when the aborted attempt over `protocol` has ended. */
  onLost(protocol: Protocol): void;
}

/** Protocol over which the peer responded first, and the response. */
export interface RaceResult<T> {
  readonly protocol: Protocol;
  /**
   * Reason for the selection of this protocol, in one line: why earlier protocols were not
   * selected.
   */
  readonly reason: string;
  /**
   * Result of the request, or an error that other protocols would give too, see {@link isAnswer}.
   */
  readonly answer: { readonly result: T } | { readonly error: VortexError };
}

/**
 * Happy Eyeballs (RFC 8305) over protocols: starts the next protocol when the previous one fails or
 * after `delay` ms. The first response wins, even if it is an error of the peer. The other attempts
 * are aborted.
 *
 * Rejects if all protocols fail, or with `Aborted` when `signal` aborts.
 */
export async function raceProtocols<T>(options: RaceOptions<T>): Promise<RaceResult<T>> {
  const { candidates, excluded, delay, clock, signal, addr, trust } = options;
  const reasonAfter = (setbacks: readonly Setback<Protocol>[]): string => {
    const waited = setbacks.flatMap(({ candidate, error }) =>
      error ? [] : [`${candidate} had not answered within ${delay} ms`],
    );
    return (
      [...excluded, ...failuresOf(setbacks).map(describe), ...waited].join("; ") || "tried first"
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

/** Failed protocol with its error. */
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
 * Effect of a rejected TLS certificate of a peer:
 *
 * - `named`: the request fails, because the caller set the option `ca`, `fingerprints` or `cert`.
 * - `unnamed`: the next protocol is tried, because the caller accepts unauthenticated TCP.
 */
export type PeerTrust = "named" | "unnamed";

/**
 * Returns true if every other protocol would give the same error, so no other protocol is tried.
 */
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
  const code = mostSpecific?.error.code ?? "Unreachable";
  const attempts = failures.map(({ protocol, error }) => ({ label: protocol, error }));
  const isNamed = failures.some(({ error }) => attemptLabel(addr, undefined, error) === "");
  const message = `no protocol works${isNamed ? "" : ` with ${addr}`}: ${listFailures(attempts, code)}`;
  return new VortexError(code, message, {
    cause: new AggregateError(
      failures.map(({ error }) => error),
      message,
    ),
    addr: mostSpecific?.error.addr ?? addr,
  });
}

function describe({ protocol, error }: Failure): string {
  return `${protocol}: ${error.code}, ${error.message}`;
}
