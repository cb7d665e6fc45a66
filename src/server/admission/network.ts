/**
 * Returns the network of an IP address, the unit of fairness among clients: an IPv4 address itself,
 * or the /64 prefix of an IPv6 address. A host can choose any address in its /64, but not another
 * prefix (RFC 4291, section 2.5.1). An IPv4-mapped IPv6 address counts as IPv4; other text is
 * returned as it is.
 */
export function networkOf(host: string): string {
  const mapped = /^::ffff:([0-9.]+)$/i.exec(host)?.[1];
  if (mapped !== undefined) return mapped;
  if (!host.includes(":")) return host;
  const [address = ""] = host.split("%");
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
