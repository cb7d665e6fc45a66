/**
 * Datagrams that no honest client sends: from source addresses that cannot be answered, and of
 * boundary lengths.
 */
import type { Address } from "../../src/transport/address.ts";
import { unknownVersion } from "./first-datagram.ts";

/**
 * Boundary lengths of a UDP payload, in bytes: 0, 1, below and at the min length of a client's
 * first datagram (RFC 9000, section 14.1), and the max over IPv4.
 */
export const BOUNDARY_LENGTHS: readonly number[] = [0, 1, 1_199, 1_200, 65_507];
/** Max length of a UDP payload over IPv6 on loopback, whose MTU is 65,536, in bytes. */
const MAX_IPV6_DATAGRAM_BYTES = 65_487;

/**
 * Unusual source addresses of datagrams, by description. An address with a zone is only reported by
 * a socket, because no packet contains a zone.
 */
export const SOURCES: Readonly<Record<string, Address>> = {
  "port 0": { host: "127.0.0.1", port: 0 },
  "port 65535": { host: "127.0.0.1", port: 65_535 },
  multicast: { host: "224.0.0.1", port: 9 },
  broadcast: { host: "255.255.255.255", port: 9 },
  unspecified: { host: "0.0.0.0", port: 9 },
  "another loopback address": { host: "127.1.2.3", port: 9 },
  "an address without a route": { host: "240.0.0.1", port: 9 },
  "port 0 over IPv6": { host: "::1", port: 0 },
  "multicast over IPv6": { host: "ff02::1", port: 9 },
  "unspecified over IPv6": { host: "::", port: 9 },
  "link-local without a zone": { host: "fe80::1", port: 9 },
  "link-local with a zone": { host: "fe80::1%lo", port: 9 },
  "link-local with the zone of no device": { host: "fe80::1%nowhere", port: 9 },
  "mapped from IPv4": { host: "::ffff:127.0.0.1", port: 9 },
  "mapped from IPv4 broadcast": { host: "::ffff:255.255.255.255", port: 9 },
};

/** Returns true if an address is an IPv6 address. */
export function isOverIpv6({ host }: Address): boolean {
  return host.includes(":");
}

/**
 * Creates UDP payloads with each combination of a boundary length and a start. The starts are a
 * client's first datagram, an unsupported version, a short header, and zeros.
 *
 * @param initial first datagram of a client
 */
export function strangePayloads(initial: Uint8Array, overIpv6: boolean): readonly Uint8Array[] {
  const beginnings = [
    initial,
    unknownVersion(initial),
    Uint8Array.from(initial, () => 0x40),
    new Uint8Array(0),
  ];
  return BOUNDARY_LENGTHS.flatMap((length) =>
    beginnings.map((beginning) => {
      const payload = new Uint8Array(overIpv6 ? Math.min(length, MAX_IPV6_DATAGRAM_BYTES) : length);
      payload.set(beginning.subarray(0, payload.length));
      return payload;
    }),
  );
}
