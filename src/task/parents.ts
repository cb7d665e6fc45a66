import { VortexError } from "../errors.ts";
import { type Address, formatAddress, parseAddress } from "../transport/address.ts";
import { nameOf, type PeerAddress, type PeerAddresses } from "../transport/peer-address.ts";
import type { TaskParent } from "./task.ts";

/** Default port of dfdaemon's gRPC API, `upload.server.port`. */
const API_PORT = 4000;

/** Parent of a request, with its addresses in normalized form. */
export interface KnownParent {
  /** Name of the parent in reports and errors: `addr`, or `apiAddr` if `addr` is unknown. */
  readonly name: string;
  /** Address for piece requests, `host:port`; undefined if only `apiAddr` is known. */
  readonly addr: string | undefined;
  /** Address for each protocol. Absent if the request gives only one address. */
  readonly addresses?: PeerAddresses;
  /**
   * Address of the parent's Dragonfly gRPC API; undefined if the parent is not asked for its
   * pieces, and is assumed to have all.
   */
  readonly apiAddr: string | undefined;
}

/**
 * Normalizes the addresses of the parents of a request, and removes duplicate parents.
 *
 * @param apiDefault address of the Dragonfly gRPC API for a parent without `apiAddr`. With
 * `same-address`, it is `addr`. With `same-host`, it is the host of `addr` with port 4000. With
 * `no`, it is undefined, so the parent is not asked for its pieces.
 * @param resolve converts an address to the form that the transport expects
 * @throws `InvalidArgument` if the list is empty, an address is malformed, or a parent has neither
 * `addr` nor `apiAddr`
 */
export function parentsOf(
  parents: readonly (string | TaskParent)[],
  apiDefault: "no" | "same-address" | "same-host",
  resolve: (addr: PeerAddress) => PeerAddress = (addr) => addr,
): readonly KnownParent[] {
  const known = new Map<string, KnownParent>();
  const seen = new Set<string>();
  for (const parent of parents) {
    const given = typeof parent === "string" ? { addr: parent } : parent;
    const resolved = given.addr === undefined ? undefined : resolve(given.addr);
    const addresses = typeof resolved === "string" ? undefined : resolved;
    const text =
      typeof given.addr === "string"
        ? given.addr
        : typeof resolved === "string"
          ? resolved
          : undefined;
    const named = text ?? (addresses && nameOf(addresses));
    const remote = named === undefined ? undefined : parseAddress(named);
    const addr = remote && formatAddress(remote);
    const apiAddr =
      given.apiAddr === undefined
        ? apiAddrOf(given.addr, remote, addresses, apiDefault)
        : formatAddress(parseAddress(given.apiAddr));
    const name = addr ?? apiAddr;
    if (name === undefined)
      throw new VortexError("InvalidArgument", "parents: expected addr or apiAddr, got neither");
    // A scheduler's candidates may name one peer twice. Any common address identifies it.
    const keys = [addr, ...Object.values(addresses ?? {}), ...(addr === undefined ? [apiAddr] : [])]
      .filter((text) => text !== undefined)
      .map((text) => canonicalText(parseAddress(text)));
    if (keys.some((key) => seen.has(key))) continue;
    for (const key of keys) seen.add(key);
    known.set(name, { name, addr, ...(addresses && { addresses }), apiAddr });
  }
  if (known.size === 0)
    throw new VortexError("InvalidArgument", "parents: expected at least one, got none");
  return [...known.values()];
}

/**
 * Returns the address of the Dragonfly gRPC API for a parent without `apiAddr`, according to
 * `apiDefault`. An address that the request gives for the protocol `grpc` takes precedence. Returns
 * undefined if the API is not used.
 */
function apiAddrOf(
  given: PeerAddress | undefined,
  remote: Address | undefined,
  addresses: PeerAddresses | undefined,
  apiDefault: "no" | "same-address" | "same-host",
): string | undefined {
  if (remote === undefined || apiDefault === "no") return undefined;
  const named = addresses?.grpc ?? (typeof given === "object" ? given.grpc : undefined);
  if (named !== undefined) return formatAddress(parseAddress(named));
  return formatAddress(
    apiDefault === "same-address" ? remote : { host: remote.host, port: API_PORT },
  );
}

/**
 * Returns one text for all spellings of an address: IPv6 in its shortest form, IPv4-mapped IPv6 as
 * IPv4, and names in lower case.
 */
function canonicalText({ host, port }: Address): string {
  const lower = host.toLowerCase();
  if (!lower.includes(":") || lower.includes("%")) return `${lower}:${port}`;
  const { hostname } = new URL(`http://[${lower}]`);
  const [, high, low] = /^\[::ffff:([0-9a-f]+):([0-9a-f]+)\]$/.exec(hostname) ?? [];
  if (high === undefined || low === undefined) return `${hostname}:${port}`;
  const bytes = [high, low]
    .map((part) => Number.parseInt(part, 16))
    .flatMap((n) => [n >> 8, n & 255]);
  return `${bytes.join(".")}:${port}`;
}
