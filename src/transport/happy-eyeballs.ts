/**
 * Happy Eyeballs (RFC 8305): the one way to dial a host with several addresses, over every
 * protocol.
 */
import { abortedError, type ErrorCode, VortexError } from "../errors.ts";
import type { Clock } from "../runtime.ts";
import { type Address, formatAddress } from "./address.ts";
import { type PriorAttempt, runStaggered } from "./staggered-race.ts";

/** Connection Attempt Delay, in ms; the value that RFC 8305 recommends (section 8). */
export const ATTEMPT_DELAY = 250;
/** Addresses of one host that a dial tries; a name server may list any number. */
export const MAX_ADDRESSES = 16;

/** Options of {@link dialAddresses}. */
export interface AddressDial<T> {
  /** The peer as it was named: for messages, and the port. */
  readonly remote: Address;
  /** IP addresses of its host, as the resolver sorted them (RFC 6724). */
  readonly addresses: readonly string[];
  readonly clock: Clock;
  /** Ends all attempts. */
  readonly signal: AbortSignal | undefined;
  /**
   * Dials one address. `only` is true when there is no other: then a connection may be returned
   * before the peer has answered. Rejects as the signal says once it has aborted.
   */
  dial(address: string, signal: AbortSignal | undefined, only: boolean): Promise<T>;
  /** Closes a connection that came too late. */
  discard(result: T): void;
}

/**
 * Dials the addresses in turn, families interleaved: the next one when an attempt has failed or
 * after {@link ATTEMPT_DELAY}. The first connection wins, and the other attempts are aborted.
 *
 * When all fail, the error names each. Its `cause` is an `AggregateError` of all, its code the
 * most telling one. These end all attempts:
 *
 * - the signal, with `Aborted` or its own reason
 * - an error that is not of the network, such as `InvalidArgument`
 * - `HandshakeFailed`, which a silent address would hide until the connect timeout
 */
export async function dialAddresses<T>(options: AddressDial<T>): Promise<T> {
  const { remote, clock, signal, dial, discard } = options;
  const addresses = interleaveFamilies(options.addresses).slice(0, MAX_ADDRESSES);
  const addr = formatAddress(remote);
  const what = `dialling ${addr}`;
  const [first] = addresses;
  if (first === undefined)
    throw new VortexError("Unreachable", `${remote.host} has no address`, { addr });
  if (addresses.length === 1) {
    if (signal?.aborted) throw abortedError(signal, what);
    return dial(first, signal, true);
  }
  const outcome = await runStaggered({
    candidates: addresses,
    delay: ATTEMPT_DELAY,
    clock,
    signal,
    aborted: (by) => abortedError(by, what),
    beatenBy: (address) => new VortexError("Aborted", `${address} answered first`, { addr }),
    run: (address, own) => dial(address, own, false),
    isFinal: ({ code, kind }) =>
      code === "HandshakeFailed" || (kind !== "transport" && kind !== "timeout"),
    discard,
  });
  if (!("candidate" in outcome)) throw allFailed(addr, outcome.setbacks);
  if ("error" in outcome) throw outcome.error;
  return outcome.result;
}

/**
 * Orders addresses so that IPv6 and IPv4 alternate, beginning with the family of the first one
 * (RFC 8305, section 4). The order within a family stays; repeated addresses are left out.
 */
export function interleaveFamilies(addresses: readonly string[]): string[] {
  const [first = ""] = addresses;
  const preferred = new Set(addresses.filter((address) => isIPv6(address) === isIPv6(first)));
  const other = [...new Set(addresses)].filter((address) => !preferred.has(address));
  const ordered: string[] = [];
  for (const address of preferred) {
    const next = other.shift();
    ordered.push(address, ...(next === undefined ? [] : [next]));
  }
  return [...ordered, ...other];
}

function isIPv6(address: string): boolean {
  return address.includes(":");
}

/** Codes that show the most first: a peer, then a host. */
const telling: readonly ErrorCode[] = [
  "ProtocolNotSupported",
  "ConnectionRefused",
  "ConnectTimeout",
];

function allFailed(addr: string, setbacks: readonly PriorAttempt<string>[]): VortexError {
  const failures = setbacks.flatMap(({ candidate, error }) =>
    error ? [{ address: candidate, error }] : [],
  );
  const errors = failures.map(({ error }) => error);
  const code =
    telling.find((one) => errors.some((error) => error.code === one)) ??
    errors[0]?.code ??
    "Unreachable";
  const each = failures
    .map(({ address, error }) => `${address}: ${error.code}, ${error.message}`)
    .join("; ");
  const message = `none of the ${failures.length} addresses of ${addr} works: ${each}`;
  return new VortexError(code, message, { cause: new AggregateError(errors, message), addr });
}
