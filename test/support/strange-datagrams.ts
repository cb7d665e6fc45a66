/** Datagrams that no honest client sends: from sources that cannot be answered, and of lengths at the bounds. */
import type { Address } from "../../src/transport/address.ts";
import { unknownVersion } from "./first-datagram.ts";

/** Lengths at the bounds: of nothing, of a first datagram (RFC 9000, section 14.1), of UDP over IPv4. */
export const LENGTHS: readonly number[] = [0, 1, 1_199, 1_200, 65_507];
/** Bytes in the longest datagram that loopback carries over IPv6: its MTU is 65,536. */
const LONGEST_OVER_IPV6 = 65_487;

/** Sources by what they are, IPv4 and IPv6. Those with a zone come from a socket only, since no packet holds one. */
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

/** Whether `source` is an IPv6 address. */
export function isOverIpv6({ host }: Address): boolean {
  return host.includes(":");
}

/**
 * Every length with every beginning: of a first datagram, of a version that nobody speaks, of a short header, of nothing.
 *
 * @param initial the first datagram of a client
 */
export function strangePayloads(initial: Uint8Array, overIpv6: boolean): readonly Uint8Array[] {
  const beginnings = [
    initial,
    unknownVersion(initial),
    Uint8Array.from(initial, () => 0x40),
    new Uint8Array(0),
  ];
  return LENGTHS.flatMap((length) =>
    beginnings.map((beginning) => {
      const payload = new Uint8Array(overIpv6 ? Math.min(length, LONGEST_OVER_IPV6) : length);
      payload.set(beginning.subarray(0, payload.length));
      return payload;
    }),
  );
}
