import { VortexError } from "../errors.ts";
import { requireInteger } from "../piece.ts";

/** Network address: a host and a port. */
export interface Address {
  /** IPv4 address, IPv6 address without brackets, or host name. */
  readonly host: string;
  /** Port, 0 to 65535. Port 0 is only for listening, on any free port. */
  readonly port: number;
}

/**
 * Parses `host:port`. An IPv6 address must be in brackets.
 *
 * @throws `InvalidArgument` for any other text
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

/** Formats an address as `host:port`, with an IPv6 address in brackets. */
export function formatAddress({ host, port }: Address): string {
  requireInteger("port", port, 0, 65535);
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
