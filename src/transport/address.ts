import { VortexError } from "../errors.ts";
import { requireInteger } from "../piece.ts";

/** Network address: an IP address or host name, and a port. */
export interface Address {
  /** IPv4 address, IPv6 address without brackets, or host name. */
  readonly host: string;
  /** Port, 0 to 65535. Port 0 is valid only for listening, and selects a free port. */
  readonly port: number;
}

/**
 * Parses an address in the form `host:port`. An IPv6 address must be in brackets: `[::1]:4006`.
 *
 * @throws `InvalidArgument` if `text` does not have this form, or the port exceeds 65535
 */
export function parseAddress(text: string): Address {
  const match = /^(?:\[([0-9A-Fa-f:.]+(?:%[^\]\s]+)?)\]|([^\s:[\]/]+)):([0-9]{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65535) {
    throw new VortexError(
      "InvalidArgument",
      `address: expected host:port, such as 10.0.0.1:4006 or [::1]:4006, got "${text}"`,
    );
  }
  return { host, port };
}

/**
 * Formats an address in the form `host:port`. Puts an IPv6 address in brackets.
 *
 * @throws `InvalidArgument` if the port is not an integer from 0 to 65535
 */
export function formatAddress({ host, port }: Address): string {
  requireInteger("port", port, 0, 65535);
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
