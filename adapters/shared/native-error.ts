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
  // Descriptors or memory of this process are exhausted. That says nothing about the peer.
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

/**
 * Converts an error of node:net, node:dgram or node:dns to a `VortexError`. A known system error
 * determines its code, such as `ConnectionRefused` for ECONNREFUSED. For an unknown system error,
 * its code is `fallback`. If the runtime denied a permission, its code is `PermissionDenied`.
 *
 * @param what the failed action, for the message, such as `cannot connect to 10.0.0.7:4001`
 */
export function nativeError(error: unknown, fallback: ErrorCode, what: string): VortexError {
  if (error instanceof VortexError) return error;
  return (
    permissionError(error, what) ??
    new VortexError(codes[systemCode(error)] ?? fallback, `${what}: ${detailOf(error, what)}`, {
      cause: error,
    })
  );
}

/** Returns the message of a native error, without an address that already ends `what`. */
function detailOf(error: unknown, what: string): string {
  const message = error instanceof Error ? error.message : String(error);
  const address = what.slice(what.lastIndexOf(" ") + 1);
  // Native messages have IPv6 addresses without brackets.
  return [address, address.replace(/^\[(.*)\]:/, "$1:")].reduce(
    (text, ending) => (text.endsWith(` ${ending}`) ? text.slice(0, -ending.length - 1) : text),
    message,
  );
}

/**
 * Converts the error of a failed `listen` call to a `VortexError`. Its code is `PermissionDenied`
 * if the runtime denied a permission, and `Unreachable` if the host name does not resolve.
 * Otherwise its code is `AddressInUse`.
 */
export function listenError(error: unknown, addr: string): VortexError {
  const code = systemCode(error);
  const inUse = code === "EADDRINUSE" ? ", address in use" : "";
  const message = `cannot listen on ${addr}${inUse}`;
  const denied = permissionError(error, `cannot listen on ${addr}`);
  return (
    denied ??
    VortexError.from(error, code === "ENOTFOUND" ? "Unreachable" : "AddressInUse", message)
  );
}

/**
 * Returns the system error code of a native error, such as `ECONNRESET`. Returns an empty string if
 * the error has no code.
 */
export function systemCode(error: unknown): string {
  if (!(error instanceof Error)) return "";
  // Deno dials all addresses of a name itself when the program has permission for the name only.
  if (error instanceof AggregateError && error.errors.length > 0)
    return systemCode(error.errors[0]);
  const { code } = error as { code?: unknown };
  return typeof code === "string" ? code : "";
}
