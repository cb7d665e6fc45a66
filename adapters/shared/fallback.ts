import { VortexError } from "../../src/errors.ts";
import type { QuicTuning } from "../../src/transport/quic-tuning.ts";
import {
  requiresTrust,
  type TlsClientOptions,
  type TlsServerOptions,
} from "../../src/transport/tls.ts";
import type { Connection, Listener, Transport } from "../../src/transport/transport.ts";
import { warnOnce } from "./warn-once.ts";

/** Options of a QUIC binding: its tuning, and TLS options for dialling and for listening. */
export interface QuicBindingOptions extends QuicTuning {
  /** TLS options of connections that this side dials. */
  readonly tls?: TlsClientOptions | undefined;
  /** TLS options of connections that this side accepts. Required for a transport that listens. */
  readonly serverTls?: TlsServerOptions | undefined;
}

/**
 * Creates a QUIC transport. Rejects with `Unavailable` if the QUIC implementation does not work on
 * this platform.
 */
export type QuicBinding = (options: QuicBindingOptions) => Promise<Transport>;

/**
 * Creates a QUIC binding that tries `bindings` in order, and uses the first available one. If all
 * of them are unavailable, it dials over the TCP transport `tcp`. Each unavailable binding causes a
 * warning with the reason and a remedy.
 *
 * The binding rejects with `Unavailable`, instead of using TCP:
 *
 * - if the transport is to listen (`serverTls`), since a client that dials QUIC would not reach it
 * - if `tls` requires verification of the peer, since TCP has no TLS
 *
 * @param warn prints one line. Default: `console.warn`, at most once per process for the same line
 */
export function withFallback(
  bindings: readonly (readonly [name: string, binding: QuicBinding])[],
  tcp: Transport,
  warn: (line: string) => void = warnOnce,
): QuicBinding {
  return async (options) => {
    const reasons: VortexError[] = [];
    for (const [name, binding] of bindings) {
      try {
        const transport = await binding(options);
        for (const reason of reasons)
          warn(`vortex-peer: ${reason.message}; using QUIC on ${name} instead`);
        return transport;
      } catch (error) {
        if (!(error instanceof VortexError) || error.code !== "Unavailable") throw error;
        reasons.push(error);
      }
    }
    const reason = reasons.map(({ message }) => message).join("; ");
    const cause = new AggregateError(reasons, reason);
    const unavailable = new VortexError("Unavailable", reason, { cause });
    if (options.serverTls !== undefined) throw unavailable;
    if (requiresTrust(options.tls ?? {})) {
      throw new VortexError(
        "Unavailable",
        `${reason}; cannot fall back to TCP: it has no TLS, and tls requires verification`,
        { cause },
      );
    }
    warn(`vortex-peer: ${reason}; using TCP instead of QUIC, without TLS`);
    return substituteForQuic(tcp, unavailable);
  };
}

/**
 * Wraps the TCP transport that dials instead of QUIC. Errors of the wrapped transport name the
 * reason for the fallback. It does not listen: its address would be taken for one of QUIC.
 */
function substituteForQuic(tcp: Transport, unavailable: VortexError): Transport {
  return {
    protocol: tcp.protocol,
    insteadOf: "quic",
    dial: (...args): Promise<Connection> =>
      withFallbackReason(tcp.dial(...args), unavailable.message),
    listen: (): Promise<Listener> => Promise.reject(unavailable),
  };
}

/**
 * Adds the reason for the fallback to TCP to the transport errors of `attempt`. The fallback itself
 * may cause such an error, because the QUIC port of a peer is rarely its TCP port.
 */
async function withFallbackReason<T>(attempt: Promise<T>, reason: string): Promise<T> {
  try {
    return await attempt;
  } catch (error) {
    if (!(error instanceof VortexError) || error.kind !== "transport") throw error;
    const message = `${error.message} (over TCP instead of QUIC: ${reason})`;
    throw new VortexError(error.code, message, { cause: error });
  }
}
