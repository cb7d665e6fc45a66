import { VortexError } from "../errors.ts";
import { onAbort } from "../on-abort.ts";
import type { Clock, Timer } from "../runtime.ts";
import type { Protocol } from "../transport/protocol.ts";

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
 * Tries protocols one after the other, each as soon as the one before has failed, or beside it once it had its time. The
 * first that works wins, also when its answer is an error of the peer; the others are given up. Rejects when none works.
 */
export function raceProtocols<T>(options: RaceOptions<T>): Promise<RaceResult<T>> {
  const { candidates, leftOut, delay, clock, signal, addr } = options;
  return new Promise((resolve, reject) => {
    const running = new Map<Protocol, AbortController>();
    const failures: { protocol: Protocol; error: VortexError }[] = [];
    const waited: string[] = [];
    let next = 0;
    let over = false;
    let timer: Timer | undefined;

    const finish = (settle: () => void, reason: VortexError): void => {
      over = true;
      timer?.cancel();
      heard?.();
      for (const controller of running.values()) controller.abort(reason);
      settle();
    };
    const abort = (): void => {
      const reason =
        signal?.reason instanceof VortexError
          ? signal.reason
          : new VortexError("Aborted", `a request to ${addr} was aborted`, { cause: signal?.reason, addr });
      finish(() => reject(reason), reason);
    };
    const begin = (): void => {
      timer?.cancel();
      const protocol = candidates[next++];
      if (protocol === undefined) return;
      if (next < candidates.length) {
        timer = clock.setTimer(() => {
          waited.push(`${protocol} had not answered within ${delay} ms`);
          begin();
        }, delay);
      }
      const controller = new AbortController();
      running.set(protocol, controller);
      const reason = [...leftOut, ...failures.map(told), ...waited].join("; ") || "tried first";
      options.run(protocol, controller.signal, reason).then(
        (result) => {
          running.delete(protocol);
          if (!over) {
            win(protocol, reason, { result });
            return;
          }
          options.discard(result);
          options.lost(protocol);
        },
        (thrown: unknown) => {
          running.delete(protocol);
          if (over) {
            options.lost(protocol);
            return;
          }
          const error = VortexError.from(thrown, "Internal");
          if (isAnswer(error)) {
            win(protocol, reason, { error });
            return;
          }
          failures.push({ protocol, error });
          if (next < candidates.length) begin();
          else if (running.size === 0) {
            const failure = noneWorks(addr, failures);
            finish(() => reject(failure), failure);
          }
        },
      );
    };
    const win = (protocol: Protocol, reason: string, answer: RaceResult<T>["answer"]): void => {
      const lost = new VortexError("Aborted", `${protocol} answered first`, { addr });
      finish(() => resolve({ protocol, reason, answer }), lost);
    };

    const heard = signal && onAbort(signal, abort);
    if (signal?.aborted) abort();
    else begin();
  });
}

/**
 * Whether a failure is the peer's answer, or ours to the caller, and so another protocol would not help. A certificate that
 * is not accepted is one: whoever is on the path could otherwise have content in the clear.
 */
export function isAnswer({ code, kind }: VortexError): boolean {
  switch (code) {
    case "Unavailable":
    case "RemoteUnimplemented":
      return false;
    case "HandshakeFailed":
      return true;
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

function noneWorks(addr: string, failures: readonly { protocol: Protocol; error: VortexError }[]): VortexError {
  const [only] = failures;
  if (failures.length === 1 && only !== undefined) return only.error;
  // What says that a protocol is not spoken says the least about the peer.
  const telling = failures.find(({ error }) => !["Unavailable", "ProtocolNotSupported"].includes(error.code)) ?? only;
  const message = `no protocol works with ${addr}: ${failures.map(told).join("; ")}`;
  return new VortexError(telling?.error.code ?? "Unreachable", message, {
    cause: failures.map(({ error }) => error),
    addr,
  });
}

function told({ protocol, error }: { protocol: Protocol; error: VortexError }): string {
  return `${protocol}: ${error.code}, ${error.message}`;
}
