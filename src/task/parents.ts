import { VortexError } from "../errors.ts";
import { formatAddress, parseAddress } from "../transport/address.ts";
import { nameOf, type PeerAddress, type PeerAddresses } from "../transport/peer-address.ts";
import type { TaskParent } from "./task.ts";

/** Default port of dfdaemon's gRPC API, `upload.server.port`. */
const API_PORT = 4000;

/** Parent with normalized addresses. */
export interface KnownParent {
  /** Name of the parent in reports and errors. */
  readonly name: string;
  /** Address for piece requests, `host:port`; undefined if only `apiAddr` is known. */
  readonly addr: string | undefined;
  /** Address per protocol, if the request names several. */
  readonly addresses?: PeerAddresses;
  /** Address of the Dragonfly gRPC API; undefined if the parent is not asked what it has. */
  readonly apiAddr: string | undefined;
}

/**
 * Normalizes the parents of a request and removes duplicates.
 *
 * @param apiDefault address of the gRPC API if the request names none: `no` (the API is not used),
 * `same-address`, or `same-host` with dfdaemon's default port
 * @param resolve converts an address to the form that the source expects
 * @throws `InvalidArgument`
 */
export function parentsOf(
  parents: readonly (string | TaskParent)[],
  apiDefault: "no" | "same-address" | "same-host",
  resolve: (addr: PeerAddress) => PeerAddress = (addr) => addr,
): readonly KnownParent[] {
  const known = new Map<string, KnownParent>();
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
    const addr =
      text === undefined ? addresses && nameOf(addresses) : formatAddress(parseAddress(text));
    const apiAddr =
      given.apiAddr === undefined
        ? apiAddrOf(given.addr, addr, addresses, apiDefault)
        : formatAddress(parseAddress(given.apiAddr));
    const name = addr ?? apiAddr;
    if (name === undefined)
      throw new VortexError("InvalidArgument", "parents: expected addr or apiAddr, got neither");
    if (!known.has(name)) known.set(name, { name, addr, ...(addresses && { addresses }), apiAddr });
  }
  if (known.size === 0)
    throw new VortexError("InvalidArgument", "parents: expected at least one, got none");
  return [...known.values()];
}

/** Returns the address of the gRPC API for a parent that names none. */
function apiAddrOf(
  given: PeerAddress | undefined,
  addr: string | undefined,
  addresses: PeerAddresses | undefined,
  apiDefault: "no" | "same-address" | "same-host",
): string | undefined {
  if (addr === undefined || apiDefault === "no") return undefined;
  const named = addresses?.grpc ?? (typeof given === "object" ? given.grpc : undefined);
  if (named !== undefined) return formatAddress(parseAddress(named));
  return apiDefault === "same-address"
    ? addr
    : formatAddress({ host: parseAddress(addr).host, port: API_PORT });
}
