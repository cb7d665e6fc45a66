import { networkInterfaces } from "node:os";
import { VortexError } from "../../src/errors.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import { isGranted } from "./permission.ts";

/** Whether `host` is known to be an address of this machine, so that datagrams to it do not leave it. */
export function isSameHost(host: string): boolean {
  const plain = plainAddress(host);
  if (isLoopback(plain)) return true;
  if (!isGranted({ name: "sys", kind: "networkInterfaces" })) return false;
  return Object.values(networkInterfaces()).some((addresses) =>
    addresses?.some(({ address }) => address === plain),
  );
}

/** Whether `host` is an address that only this machine reaches. */
export function isLoopback(host: string): boolean {
  const plain = plainAddress(host);
  return plain.startsWith("127.") || plain === "::1";
}

/**
 * Splits an IPv6 address into the address itself and its zone (RFC 4007, section 11), such as `%eth0`. The zone is empty where there is
 * none, and for anything that is no IPv6 address.
 */
export function splitZone(host: string): readonly [address: string, zone: string] {
  const [, address, zone] = /^([^%]*:[^%]*)(%.+)$/.exec(host) ?? [];
  return address === undefined || zone === undefined ? [host, ""] : [address, zone];
}

/** Whether `host` is an IPv6 address of one link only (fe80::/10; RFC 4291, section 2.5.6). */
export function isLinkLocal(host: string): boolean {
  return /^fe[89ab][0-9a-f]:/i.test(host);
}

/**
 * Checks an address that node:net is to dial.
 * @throws `InvalidArgument` for a zone on Deno, which dials the address without it
 */
export function requireDiallable(remote: Address): void {
  const [, zone] = splitZone(remote.host);
  if (zone === "" || !("Deno" in globalThis)) return;
  throw new VortexError(
    "InvalidArgument",
    `cannot dial ${formatAddress(remote)}: expected an address without a zone, got zone "${zone.slice(1)}"; ` +
      "Deno's TCP and HTTP/2 take none, its QUIC does",
  );
}

function plainAddress(host: string): string {
  return splitZone(host)[0].replace(/^::ffff:/, "");
}
