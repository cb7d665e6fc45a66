import { networkInterfaces } from "node:os";
import { VortexError } from "../../src/errors.ts";
import { type Address, formatAddress, splitZone, unmapped } from "../../src/transport/address.ts";
import { isGranted } from "./permission.ts";

/**
 * Returns true if `host` is known to be an IP address of this machine. Datagrams to such an address
 * stay within the machine. Without Deno's permission to list the network interfaces, only loopback
 * addresses are known.
 */
export function isSameHost(host: string): boolean {
  const plain = plainAddress(host);
  if (isLoopback(plain)) return true;
  if (!isGranted({ name: "sys", kind: "networkInterfaces" })) return false;
  return Object.values(networkInterfaces()).some((addresses) =>
    addresses?.some(({ address }) => address === plain),
  );
}

/**
 * Returns true if `host` is a loopback address: an address in 127.0.0.0/8, also IPv4-mapped, or
 * ::1.
 */
export function isLoopback(host: string): boolean {
  const plain = plainAddress(host);
  return plain.startsWith("127.") || plain === "::1";
}

/** Returns true if `host` is a link-local IPv6 address (fe80::/10; RFC 4291, section 2.5.6). */
export function isLinkLocal(host: string): boolean {
  return /^fe[89ab][0-9a-f]:/i.test(host);
}

/**
 * Checks that node:net can dial an address.
 * @throws `InvalidArgument` on Deno if the address has a zone, because Deno would ignore the zone
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
  return unmapped(splitZone(host)[0]);
}
