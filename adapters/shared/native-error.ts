import { type ErrorCode, VortexError } from "../../src/errors.ts";
import { permissionError } from "./permission.ts";

const codes: Record<string, ErrorCode> = {
  ECONNREFUSED: "ConnectionRefused",
  EHOSTUNREACH: "Unreachable",
  ENETUNREACH: "Unreachable",
  ENETDOWN: "Unreachable",
  ENOTFOUND: "Unreachable",
  EAI_AGAIN: "Unreachable",
  EAI_NODATA: "Unreachable",
  EADDRNOTAVAIL: "Unreachable",
  EINVAL: "Unreachable",
  // A broadcast address, or a rule of this host's firewall.
  EACCES: "Unreachable",
  EPERM: "Unreachable",
  // No descriptors or memory left here: the peer may well speak the protocol.
  EMFILE: "Unreachable",
  ENFILE: "Unreachable",
  ENOBUFS: "Unreachable",
  ENOMEM: "Unreachable",
  EADDRINUSE: "AddressInUse",
  ETIMEDOUT: "ConnectTimeout",
  ECONNRESET: "StreamReset",
  EPIPE: "StreamReset",
  ERR_STREAM_DESTROYED: "StreamReset",
  ERR_STREAM_WRITE_AFTER_END: "Closed",
};

/** Converts errors of node:net, node:dgram and node:dns. Unknown ones get `fallback`, refused permissions `PermissionDenied`. */
export function nativeError(error: unknown, fallback: ErrorCode, what: string): VortexError {
  return (
    permissionError(error, what) ??
    VortexError.from(error, codes[systemCode(error)] ?? fallback, what)
  );
}

/** As {@link nativeError}, for an address that could not be listened on. */
export function listenError(error: unknown, addr: string): VortexError {
  const code = systemCode(error);
  const message = code === "EADDRINUSE" ? `${addr} is in use` : `cannot listen on ${addr}`;
  const denied = permissionError(error, `cannot listen on ${addr}`);
  return (
    denied ??
    VortexError.from(error, code === "ENOTFOUND" ? "Unreachable" : "AddressInUse", message)
  );
}

/** The code of a native error, such as `ECONNRESET`; empty when it has none. */
export function systemCode(error: unknown): string {
  if (!(error instanceof Error)) return "";
  // Deno dials the addresses of a name itself where a program is permitted the name only.
  if (error instanceof AggregateError && error.errors.length > 0)
    return systemCode(error.errors[0]);
  const { code } = error as { code?: unknown };
  return typeof code === "string" ? code : "";
}
