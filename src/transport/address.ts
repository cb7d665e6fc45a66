import { requireInteger, show } from "../arguments.ts";
import { VortexError } from "../errors.ts";

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
      `address: expected host:port, such as 10.0.0.1:4006 or [::1]:4006, got ${show(text)}`,
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
  return isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`;
}

/**
 * Returns true if `host` of an {@link Address} is an IPv6 address, with or without a zone. IPv4
 * addresses and host names contain no colon.
 */
export function isIPv6(host: string): boolean {
  return host.includes(":");
}

/** Returns true if `text` is an IPv4 address, or an IPv6 address without a zone. */
export function isIpAddress(text: string): boolean {
  return isIPv6(text)
    ? /^[0-9a-f:.]+$/i.test(text) && URL.canParse(`http://[${text}]/`)
    : /^(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?=\d)|$)){4}$/.test(text);
}

/**
 * Splits an IPv6 address into the address without its zone and the zone (RFC 4007, section 11),
 * such as `fe80::1` and `%eth0`. For a host without a zone, returns `host` and an empty string.
 */
export function splitZone(host: string): readonly [address: string, zone: string] {
  const [, address, zone] = /^([^%]*:[^%]*)(%.+)$/.exec(host) ?? [];
  return address === undefined || zone === undefined ? [host, ""] : [address, zone];
}

/**
 * Converts an IPv4-mapped IPv6 address, which a dual-stack socket reports, to IPv4. Returns other
 * hosts unchanged.
 */
export function unmapped(host: string): string {
  return host.replace(/^::ffff:(?=[0-9.]+$)/i, "");
}
