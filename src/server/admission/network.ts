/**
 * What a peer cannot leave at will, by the IP address it came from: an IPv4 address, or the /64 that an IPv6 address is in. Of those a
 * host has one to itself, with all of its addresses (RFC 4291, section 2.5.1). IPv4 as a socket for both shows it is the IPv4
 * address. Anything else is itself.
 */
export function networkOf(host: string): string {
  const mapped = /^::ffff:([0-9.]+)$/i.exec(host)?.[1];
  if (mapped !== undefined) return mapped;
  if (!host.includes(":")) return host;
  const [address = ""] = host.split("%");
  const [before = "", after] = address.split("::");
  const groups = before === "" ? [] : before.split(":");
  if (after !== undefined) {
    // As many zeros as make up eight groups; only those of the first four matter.
    const following = after === "" ? 0 : after.split(":").length + (after.includes(".") ? 1 : 0);
    for (let missing = 8 - groups.length - following; missing > 0; missing--) groups.push("0");
    groups.push(...after.split(":"));
  }
  const prefix = groups.slice(0, 4).map((group) => Number.parseInt(group, 16).toString(16));
  return `${prefix.join(":")}::/64`;
}
