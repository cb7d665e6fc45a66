import { VortexError } from "../errors.ts";
import { requireInteger } from "../piece.ts";

/** A host and a port. */
export interface Address {
  /** An IPv4 or IPv6 address, without brackets, or a host name. */
  readonly host: string;
  /** 0 to 65535; 0 only to listen on any free port. */
  readonly port: number;
}

/**
 * Takes `host:port` apart; an IPv6 address stands in brackets.
 * @throws `InvalidArgument`
 */
export function parseAddress(text: string): Address {
  const match = /^(?:\[([0-9A-Fa-f:.]+(?:%[^\]\s]+)?)\]|([^\s:[\]/]+)):([0-9]{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65535) {
    throw new VortexError(
      "InvalidArgument",
      `address "${text}": expected host:port, such as 10.0.0.1:4006 or [::1]:4006`,
    );
  }
  return { host, port };
}

/** `host:port`, an IPv6 address in brackets. */
export function formatAddress({ host, port }: Address): string {
  requireInteger("port", port, 0, 65535);
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
