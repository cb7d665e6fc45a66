import { VortexError } from "../../src/errors.ts";
import type { QuicTuning } from "../../src/transport/quic-tuning.ts";
import {
  requiresTrust,
  type TlsClientOptions,
  type TlsServerOptions,
} from "../../src/transport/tls.ts";
import type { Connection, Listener, Transport } from "../../src/transport/transport.ts";
import { warnOnce } from "./warn-once.ts";

/** How QUIC behaves, and how it authenticates when it is dialled and when it listens. */
export interface QuicBindingOptions extends QuicTuning {
  readonly tls?: TlsClientOptions;
  readonly serverTls?: TlsServerOptions;
}

/** The QUIC of a runtime; may reject with `Unavailable`, naming what works instead. */
export type QuicBinding = (options: QuicBindingOptions) => Promise<Transport>;

/**
 * The first of several ways to have QUIC that this machine has, and TCP when it has none. Whatever stands in for another is
 * told once a process, with the reason, which says what to do.
 *
 * TCP has no TLS. So it does not stand in where the options say whom to trust: that rejects with `Unavailable`.
 *
 * @param tell prints one line
 */
export function withFallback(
  bindings: readonly (readonly [name: string, binding: QuicBinding])[],
  tcp: Transport,
  tell: (line: string) => void = warnOnce,
): QuicBinding {
  return async (options) => {
    const reasons: VortexError[] = [];
    for (const [name, binding] of bindings) {
      try {
        const transport = await binding(options);
        for (const reason of reasons)
          tell(`vortex-peer: ${reason.message}. QUIC runs on ${name} meanwhile.`);
        return transport;
      } catch (error) {
        if (!(error instanceof VortexError) || error.code !== "Unavailable") throw error;
        reasons.push(error);
      }
    }
    const reason = reasons.map(({ message }) => message).join("; ");
    if (requiresTrust(options.tls ?? {}) || options.serverTls?.clientCa !== undefined) {
      throw new VortexError(
        "Unavailable",
        `${reason}. TCP is no way out here: it has no TLS, and tls says whom to trust`,
        {
          cause: reasons,
        },
      );
    }
    tell(`vortex-peer: ${reason}. TCP is used in place of QUIC, without TLS.`);
    return standIn(tcp, reason);
  };
}

function standIn(tcp: Transport, reason: string): Transport {
  return {
    protocol: tcp.protocol,
    insteadOf: "quic",
    dial: (...args): Promise<Connection> => explained(tcp.dial(...args), reason),
    listen: (...args): Promise<Listener> => explained(tcp.listen(...args), reason),
  };
}

/** What fails over TCP may be due to its being TCP: a peer's QUIC port is rarely its TCP port. */
async function explained<T>(attempt: Promise<T>, reason: string): Promise<T> {
  try {
    return await attempt;
  } catch (error) {
    if (!(error instanceof VortexError) || error.kind !== "transport") throw error;
    const message = `${error.message} (TCP, tried in place of QUIC: ${reason})`;
    throw new VortexError(error.code, message, { cause: error });
  }
}
