import type { VortexError } from "../../errors.ts";
import type { Operation, OperationStart, Telemetry } from "../../telemetry.ts";
import type { Protocol } from "../../transport/protocol.ts";
import type { ProtocolSelector } from "./protocol-selector.ts";

/** Protocol of a call that is about to start, with the reason for it. */
export interface ChosenCall {
  /** Key of the peer in the {@link ProtocolSelector}. */
  readonly peer: string;
  readonly protocol: Protocol;
  readonly reason: string;
}

/**
 * Telemetry between the downloaders of each protocol and the observer. Adds the protocol and its
 * reason to each operation, and reports the transferred bytes to the {@link ProtocolSelector}.
 */
export class ProtocolTelemetry implements Telemetry {
  readonly #observer: Telemetry | undefined;
  readonly #selector: ProtocolSelector;
  #call: ChosenCall | undefined;

  constructor(observer: Telemetry | undefined, selector: ProtocolSelector) {
    this.#observer = observer;
    this.#selector = selector;
  }

  /** Makes a call. Its operation starts synchronously in `call`, so no other one can intervene. */
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
      return this.#observer?.begin(start) ?? { end: () => {}, run: (work) => work() };
    const { peer, protocol, reason } = call;
    const operation = this.#observer?.begin({ ...start, protocol, protocolReason: reason });
    const measured = this.#selector.measure(peer, protocol);
    return {
      ...operation,
      run: (work) => (operation === undefined ? work() : operation.run(work)),
      end: (result) => {
        measured.end(result.bytes ?? 0);
        if (result.error !== undefined && isLost(result.error))
          this.#selector.reportFailure(peer, protocol);
        operation?.end(result);
      },
    };
  }
}

/** Returns true if the path to the peer has failed, as opposed to the request. */
function isLost({ code }: VortexError): boolean {
  return code === "ConnectionLost" || code === "Stalled";
}
