import type { VortexError } from "../../errors.ts";
import type { Operation, OperationStart, Telemetry } from "../../telemetry.ts";
import type { Protocol } from "../../transport/protocol.ts";
import type { ProtocolSelector } from "./protocol-selector.ts";

/** A call that is about to begin. */
export interface ChosenCall {
  /** As verdicts know the peer. */
  readonly peer: string;
  readonly protocol: Protocol;
  readonly reason: string;
}

/**
 * Stands between the downloaders of each protocol and whoever listens: operations are told with their protocol and the
 * reason for it, and what they moved is counted for the verdicts. So the content is not counted twice.
 */
export class ProtocolTelemetry implements Telemetry {
  readonly #listener: Telemetry | undefined;
  readonly #verdicts: ProtocolSelector;
  #call: ChosenCall | undefined;

  constructor(listener: Telemetry | undefined, verdicts: ProtocolSelector) {
    this.#listener = listener;
    this.#verdicts = verdicts;
  }

  /** Makes a call. Its operation begins before `call` returns, so no other one can come between. */
  attribute<T>(chosen: ChosenCall, call: () => T): T {
    this.#call = chosen;
    try {
      return call();
    } finally {
      this.#call = undefined;
    }
  }

  begin(start: OperationStart): Operation {
    const call = this.#call;
    this.#call = undefined;
    if (call === undefined)
      return this.#listener?.begin(start) ?? { end: () => {}, run: (work) => work() };
    const { peer, protocol, reason } = call;
    const operation = this.#listener?.begin({ ...start, protocol, protocolReason: reason });
    const measured = this.#verdicts.begin(peer, protocol);
    return {
      ...operation,
      run: (work) => (operation === undefined ? work() : operation.run(work)),
      end: (result) => {
        measured.end(result.bytes ?? 0);
        if (result.error !== undefined && isLost(result.error))
          this.#verdicts.failed(peer, protocol);
        operation?.end(result);
      },
    };
  }
}

/** Whether the way to the peer has failed, and not what was asked there. */
function isLost({ code }: VortexError): boolean {
  return code === "ConnectionLost" || code === "Stalled";
}
