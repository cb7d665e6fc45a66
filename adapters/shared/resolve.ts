import { type LookupAllOptions, lookup } from "node:dns";
import { isIP } from "node:net";
import { abortedError, untilAborted, VortexError } from "../../src/errors.ts";
import { systemClock } from "../../src/runtime.ts";
import { type Address, formatAddress, isIPv6 } from "../../src/transport/address.ts";
import { type AddressDial, dialAddresses } from "../../src/transport/happy-eyeballs.ts";
import { nativeError } from "./native-error.ts";
import { isGranted } from "./permission.ts";

/**
 * Resolves a host name to IP addresses, in order of preference (RFC 6724). The result may instead
 * be the host name, which the runtime then resolves when it dials.
 *
 * @param port port that is dialled afterwards; Deno's permissions depend on it
 */
export type Resolver = (host: string, port: number) => Promise<readonly string[]>;

/** Options of {@link dialHost}. */
export interface HostDial<T> {
  readonly remote: Address;
  /** Aborts the resolution and all connection attempts. */
  readonly signal: AbortSignal | undefined;
  /** Resolver for the host name. Default: {@link systemResolver}. */
  readonly resolver?: Resolver | undefined;
  /** IP address that is dialled first, if the host name resolves to it. */
  readonly preferred?: string | undefined;
  /** Dials one IP address, see {@link AddressDial}. */
  readonly dial: AddressDial<T>["dial"];
  /** Closes a connection that was established after another attempt had succeeded. */
  discard(result: T): void;
}

/**
 * Resolves a host name and dials its IP addresses by Happy Eyeballs (RFC 8305). Rejects with
 * `Unreachable` if the name does not resolve, otherwise like {@link dialAddresses}.
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
 * Returns the IP addresses of a host, at least one. An IP address is returned without a lookup.
 * Rejects with `Unreachable` if the host name does not resolve. If `signal` aborts, rejects with
 * `Aborted`, or with the signal's reason if that is a `VortexError`.
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
  if (isIP(host) !== 0 || isIPv6(host)) return [host];
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
 * Resolver that uses the system's getaddrinfo. A Deno program may have permission to dial a host
 * name (`--allow-net=name:port`), but not its IP addresses. Then the result is the host name, and
 * Deno resolves it when it dials.
 */
export const systemResolver: Resolver = async (host, port) => {
  if (!isPermitted(host, port)) return [host];
  const addresses = await lookupAll(host, port);
  return addresses.every((address) => isPermitted(address, port)) ? addresses : [host];
};

/**
 * Resolver that uses the system's getaddrinfo. It returns IP addresses even if Deno grants no
 * permission to dial them.
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
