/** Happy Eyeballs (RFC 8305): dials a host with several addresses, over any protocol. */
import { abortedError, type ErrorCode, VortexError } from "../errors.ts";
import { listFailures } from "../failure-list.ts";
import type { Clock } from "../runtime.ts";
import { type Address, formatAddress, isIPv6 } from "./address.ts";
import { runStaggered, type Setback } from "./staggered-race.ts";

/**
 * Delay between the starts of two connection attempts, in ms. RFC 8305 recommends this value
 * (section 8, Connection Attempt Delay).
 */
export const ATTEMPT_DELAY_MS = 250;
/**
 * Maximum number of addresses of a host name that are dialled. Further addresses from the name
 * server are ignored.
 */
export const MAX_ADDRESSES = 16;

/** Options of {@link dialAddresses}. */
export interface AddressDial<T> {
  /** Address of the peer with its host name. Supplies the port, and the name for error messages. */
  readonly remote: Address;
  /** IP addresses of the host name, in the order in which the resolver returned them (RFC 6724). */
  readonly addresses: readonly string[];
  readonly clock: Clock;
  /** Aborts all connection attempts. */
  readonly signal: AbortSignal | undefined;
  /**
   * Starts a connection attempt to one IP address. Must reject when `signal` aborts.
   *
   * @param only true if the host name has no other address. Only then may the promise resolve
   * before the peer has answered, as with 0-RTT
   */
  dial(address: string, signal: AbortSignal | undefined, only: boolean): Promise<T>;
  /** Closes a connection that was established after another connection attempt had succeeded. */
  discard(result: T): void;
}

/**
 * Dials the IP addresses of a host name in turn, IPv6 and IPv4 alternating. Starts the next attempt
 * when an attempt fails, or {@link ATTEMPT_DELAY_MS} after the previous start. Resolves to the
 * first connection that is established, and aborts the other attempts.
 *
 * If all attempts fail, rejects with the most informative error code. The message lists each
 * failure, and the cause is an `AggregateError` of them. Some events end all attempts at once:
 *
 * - `signal` aborts: rejects with its reason if that is a `VortexError`, else with `Aborted`
 * - an attempt fails for a reason outside of the network, such as `InvalidArgument`
 * - an attempt fails with `HandshakeFailed`; without this rule, the connect timeout of another,
 *   silent address would hide that error
 */
export async function dialAddresses<T>(options: AddressDial<T>): Promise<T> {
  const { remote, clock, signal, dial, discard } = options;
  const addresses = interleaveFamilies(options.addresses).slice(0, MAX_ADDRESSES);
  const addr = formatAddress(remote);
  const what = `dialling ${addr}`;
  const [first] = addresses;
  if (first === undefined)
    throw new VortexError("Unreachable", `cannot dial ${addr}: host name has no address`, { addr });
  if (addresses.length === 1) {
    if (signal?.aborted) throw abortedError(signal, what);
    return dial(first, signal, true);
  }
  const outcome = await runStaggered({
    candidates: addresses,
    delay: ATTEMPT_DELAY_MS,
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
 * Returns the addresses with IPv6 and IPv4 alternating, starting with the family of the first
 * address (RFC 8305, section 4). Addresses of one family stay in their order. Removes duplicates.
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

/**
 * Error codes from the most to the least informative. The first code means that a peer answered,
 * the second that a host answered, the third that nothing answered.
 */
const informative: readonly ErrorCode[] = [
  "ProtocolNotSupported",
  "ConnectionRefused",
  "ConnectTimeout",
];

function allFailed(addr: string, setbacks: readonly Setback<string>[]): VortexError {
  const failures = setbacks.flatMap(({ candidate, error }) =>
    error ? [{ address: candidate, error }] : [],
  );
  const errors = failures.map(({ error }) => error);
  const code =
    informative.find((one) => errors.some((error) => error.code === one)) ??
    errors[0]?.code ??
    "Unreachable";
  const attempts = failures.map(({ address, error }) => ({ label: address, error }));
  const each = listFailures(attempts, code);
  const message = `cannot connect to any of ${failures.length} addresses of ${addr}: ${each}`;
  return new VortexError(code, message, { cause: new AggregateError(errors, message), addr });
}
