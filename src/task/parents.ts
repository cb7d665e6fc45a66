import { VortexError } from "../errors.ts";
import { formatAddress, parseAddress } from "../transport/address.ts";
import { nameOf, type PeerAddress, type PeerAddresses } from "../transport/peer-address.ts";
import type { TaskParent } from "./task.ts";

/** Stock Dragonfly's port for the API over gRPC, `upload.server.port`. */
const API_PORT = 4000;

/** A parent with its addresses in one form. */
export interface KnownParent {
  /** How it is called in reports. */
  readonly name: string;
  readonly addr: string | undefined;
  /** Where it serves each protocol, where that was told. */
  readonly addresses?: PeerAddresses;
  readonly apiAddr: string | undefined;
}

/**
 * The parents of a request, each once.
 *
 * @param ask how a parent that names no address for the API is asked: not at all, at the same address, or at stock Dragonfly's
 * port of the same host
 * @param resolve makes of an address what the source wants
 * @throws `InvalidArgument`
 */
export function parentsOf(
  parents: readonly (string | TaskParent)[],
  ask: "no" | "same-address" | "same-host",
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
        ? defaultApi(given.addr, addr, addresses, ask)
        : formatAddress(parseAddress(given.apiAddr));
    const name = addr ?? apiAddr;
    if (name === undefined) throw new VortexError("InvalidArgument", "a parent without an address");
    if (!known.has(name)) known.set(name, { name, addr, ...(addresses && { addresses }), apiAddr });
  }
  if (known.size === 0)
    throw new VortexError("InvalidArgument", "a task without parents: expected at least one");
  return [...known.values()];
}

function defaultApi(
  given: PeerAddress | undefined,
  addr: string | undefined,
  addresses: PeerAddresses | undefined,
  ask: "no" | "same-address" | "same-host",
): string | undefined {
  if (addr === undefined || ask === "no") return undefined;
  const told = addresses?.grpc ?? (typeof given === "object" ? given.grpc : undefined);
  if (told !== undefined) return formatAddress(parseAddress(told));
  return ask === "same-address"
    ? addr
    : formatAddress({ host: parseAddress(addr).host, port: API_PORT });
}
