import { type LookupAllOptions, lookup } from "node:dns";
import { isIP } from "node:net";
import { abortedError, untilAborted, VortexError } from "../../src/errors.ts";
import { systemClock } from "../../src/runtime.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import { type AddressDial, dialAddresses } from "../../src/transport/happy-eyeballs.ts";
import { nativeError } from "./native-error.ts";
import { isGranted } from "./permission.ts";

/**
 * Finds the IP addresses of a host name, the best one first (RFC 6724). `port` is the one to dial.
 * A result that is a name is left to the runtime to resolve.
 */
export type Resolver = (host: string, port: number) => Promise<readonly string[]>;

/** Options of {@link dialHost}. */
export interface HostDial<T> {
  readonly remote: Address;
  /** Ends resolution and all attempts. */
  readonly signal: AbortSignal | undefined;
  /** Default: {@link systemResolver}. */
  readonly resolver?: Resolver | undefined;
  /** Address to try first, if the host still has it. */
  readonly preferred?: string | undefined;
  /** Dials one address, see {@link AddressDial}. */
  readonly dial: AddressDial<T>["dial"];
  /** Closes a connection that came too late. */
  discard(result: T): void;
}

/** Resolves a host and dials it by {@link dialAddresses}. Rejects as that does, or Unreachable. */
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
 * Returns the IP addresses of a host, at least one. An IP address stands for itself, and needs
 * neither resolver nor permission. Rejects with `Unreachable`, or as the signal says.
 */
export async function resolveHost(
  address: Address,
  signal?: AbortSignal,
  resolver: Resolver = systemResolver,
): Promise<readonly string[]> {
  const { host, port } = address;
  const what = `dialling ${formatAddress(address)}`;
  if (signal?.aborted) throw abortedError(signal, what);
  // The zone of an IPv6 address is not part of an address to every runtime.
  if (isIP(host) !== 0 || host.includes(":")) return [host];
  const found = resolver(host, port).then(
    (addresses) => {
      if (addresses.length === 0)
        throw new VortexError("Unreachable", `cannot resolve ${host}: it has no address`);
      return addresses;
    },
    (error) => {
      throw nativeError(error, "Unreachable", `cannot resolve ${host}`);
    },
  );
  // A lookup cannot be cancelled, only left alone.
  return untilAborted(found, signal, what);
}

/**
 * Asks getaddrinfo of the system. A Deno program may be permitted a host by its name only
 * (`--allow-net=name:port`). It may not dial that host's addresses, so it gets the name instead,
 * for the runtime to resolve.
 */
export const systemResolver: Resolver = async (host, port) => {
  if (!isPermitted(host, port)) return [host];
  const addresses = await lookupAll(host, port);
  return addresses.every((address) => isPermitted(address, port)) ? addresses : [host];
};

/** Asks getaddrinfo of the system, whether or not the program may use the addresses. */
export const lookupAll: Resolver = (host, port) =>
  new Promise((resolve, reject) => {
    // Deno asks for the permission of the port with the name; others do not look at the port.
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
