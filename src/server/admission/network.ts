import { isIPv6, splitZone, unmapped } from "../../transport/address.ts";

/**
 * Returns the network of a client's IP address. Limits are shared fairly among networks, not among
 * connections.
 *
 * The network of an IPv4 address is the address itself; an IPv4-mapped IPv6 address counts as IPv4.
 * The network of another IPv6 address is its /64 prefix. A host can choose any address within its
 * /64, but not another prefix (RFC 4291, section 2.5.1). Text that is not an IP address is returned
 * unchanged.
 */
export function networkOf(host: string): string {
  const [address] = splitZone(unmapped(host));
  if (!isIPv6(address)) return address;
  const [before = "", after] = address.split("::");
  const groups = before === "" ? [] : before.split(":");
  if (after !== undefined) {
    // Expand `::` to eight groups; only the first four are used.
    const following = after === "" ? 0 : after.split(":").length + (after.includes(".") ? 1 : 0);
    for (let missing = 8 - groups.length - following; missing > 0; missing--) groups.push("0");
    groups.push(...after.split(":"));
  }
  const prefix = groups.slice(0, 4).map((group) => Number.parseInt(group, 16).toString(16));
  return `${prefix.join(":")}::/64`;
}
