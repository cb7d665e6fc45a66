import { networkInterfaces } from "node:os";
import { VortexError } from "../../src/errors.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import { isGranted } from "./permission.ts";

/**
 * Returns true if `host` is known to be an address of this machine, so that datagrams to it stay
 * within the machine. Without permission to list the interfaces, only loopback addresses count.
 */
export function isSameHost(host: string): boolean {
  const plain = plainAddress(host);
  if (isLoopback(plain)) return true;
  if (!isGranted({ name: "sys", kind: "networkInterfaces" })) return false;
  return Object.values(networkInterfaces()).some((addresses) =>
    addresses?.some(({ address }) => address === plain),
  );
}

/** Returns true if `host` is a loopback address. */
export function isLoopback(host: string): boolean {
  const plain = plainAddress(host);
  return plain.startsWith("127.") || plain === "::1";
}

/**
 * Splits an IPv6 address into the address without zone and its zone (RFC 4007, section 11), such as
 * `%eth0`. The zone is empty for an address without one, and for anything else.
 */
export function splitZone(host: string): readonly [address: string, zone: string] {
  const [, address, zone] = /^([^%]*:[^%]*)(%.+)$/.exec(host) ?? [];
  return address === undefined || zone === undefined ? [host, ""] : [address, zone];
}

/** Returns true if `host` is a link-local IPv6 address (fe80::/10; RFC 4291, section 2.5.6). */
export function isLinkLocal(host: string): boolean {
  return /^fe[89ab][0-9a-f]:/i.test(host);
}

/**
 * Checks that node:net can dial an address.
 * @throws `InvalidArgument` for a zone on Deno, which would dial the address without the zone
 */
export function requireDiallable(remote: Address): void {
  const [, zone] = splitZone(remote.host);
  if (zone === "" || !("Deno" in globalThis)) return;
  throw new VortexError(
    "InvalidArgument",
    `cannot dial ${formatAddress(remote)}: expected an address without a zone, got zone "${zone.slice(1)}"; ` +
      "Deno's TCP and HTTP/2 do not support zones, its QUIC does",
  );
}

function plainAddress(host: string): string {
  return splitZone(host)[0].replace(/^::ffff:/, "");
}
