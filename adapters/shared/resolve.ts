import { type LookupAllOptions, lookup } from "node:dns";
import { isIP } from "node:net";
import { abortedError, untilAborted, VortexError } from "../../src/errors.ts";
import { systemClock } from "../../src/runtime.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import { type AddressDial, dialAddresses } from "../../src/transport/happy-eyeballs.ts";
import { nativeError } from "./native-error.ts";
import { isGranted } from "./permission.ts";

/**
 * Resolves a host name to IP addresses, in order of preference (RFC 6724). `port` is the port to
 * dial. A result may be a name, which the runtime resolves when it dials.
 */
export type Resolver = (host: string, port: number) => Promise<readonly string[]>;

/** Options of {@link dialHost}. */
export interface HostDial<T> {
  readonly remote: Address;
  /** Aborts the resolution and all attempts. */
  readonly signal: AbortSignal | undefined;
  /** Default: {@link systemResolver}. */
  readonly resolver?: Resolver | undefined;
  /** Address to try first, if it is among the resolved ones. */
  readonly preferred?: string | undefined;
  /** Dials one address, see {@link AddressDial}. */
  readonly dial: AddressDial<T>["dial"];
  /** Closes a connection that was established after another one had won. */
  discard(result: T): void;
}

/**
 * Resolves a host and dials its addresses by Happy Eyeballs (RFC 8305). Rejects like
 * {@link dialAddresses}, or with `Unreachable` when the name does not resolve.
 */
export async function dialHost<T>(options: HostDial<T>): Promise<T> {
  const { remote, signal, resolver, preferred } = options;
  const found = await resolveHost(remote, signal, resolver);
  const addresses =
    preferred !== undefined && found.includes(preferred) ? [preferred, ...found] : found;
  return dialAddresses({
    remote,
    addresses,
    clock: systemClock,
    signal,
    dial: (host, own, only) => options.dial(host, own, only),
    discard: (late) => options.discard(late),
  });
}

/**
 * Returns the IP addresses of a host, at least one. An IP address is returned as it is, without a
 * lookup. Rejects with `Unreachable`, or with the signal's abort error.
 */
export async function resolveHost(
  address: Address,
  signal?: AbortSignal,
  resolver: Resolver = systemResolver,
): Promise<readonly string[]> {
  const { host, port } = address;
  const what = `dialling ${formatAddress(address)}`;
  if (signal?.aborted) throw abortedError(signal, what);
  // Not every runtime's `isIP` accepts an IPv6 address with a zone.
  if (isIP(host) !== 0 || host.includes(":")) return [host];
  const found = resolver(host, port).then(
    (addresses) => {
      if (addresses.length === 0)
        throw new VortexError("Unreachable", `cannot resolve ${host}: name has no address`);
      return addresses;
    },
    (error) => {
      throw nativeError(error, "Unreachable", `cannot resolve ${host}`);
    },
  );
  // A lookup cannot be cancelled. After an abort its result is ignored.
  return untilAborted(found, signal, what);
}

/**
 * Resolver that uses the system's getaddrinfo. A Deno program may have permission for a host name
 * only (`--allow-net=name:port`) and must not dial its addresses. Then the result is the name,
 * which Deno resolves.
 */
export const systemResolver: Resolver = async (host, port) => {
  if (!isPermitted(host, port)) return [host];
  const addresses = await lookupAll(host, port);
  return addresses.every((address) => isPermitted(address, port)) ? addresses : [host];
};

/**
 * Resolver that uses the system's getaddrinfo, without a check of permissions for the addresses.
 */
export const lookupAll: Resolver = (host, port) =>
  new Promise((resolve, reject) => {
    // Deno checks the permission for name and port. Other runtimes ignore the port.
    const options: LookupAllOptions & { readonly port: number } = {
      all: true,
      verbatim: true,
      port,
    };
    lookup(host, options, (error, found) => {
      if (error === null) resolve(found.map(({ address }) => address));
      else reject(error);
    });
  });

function isPermitted(host: string, port: number): boolean {
  return isGranted({ name: "net", host: formatAddress({ host, port }) });
}
