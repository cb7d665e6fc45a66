/** Happy Eyeballs (RFC 8305): dials a host with several addresses, over any protocol. */
import { abortedError, type ErrorCode, VortexError } from "../errors.ts";
import type { Clock } from "../runtime.ts";
import { type Address, formatAddress } from "./address.ts";
import { runStaggered, type Setback } from "./staggered-race.ts";

/** Connection Attempt Delay, in ms; the value that RFC 8305 recommends (section 8). */
export const ATTEMPT_DELAY_MS = 250;
/** Maximum number of addresses that a dial tries; a name server may list any number. */
export const MAX_ADDRESSES = 16;

/** Options of {@link dialAddresses}. */
export interface AddressDial<T> {
  /** Peer with its unresolved host name; supplies the port, and the name for messages. */
  readonly remote: Address;
  /** IP addresses of the host, in the order of the resolver (RFC 6724). */
  readonly addresses: readonly string[];
  readonly clock: Clock;
  /** Aborts all attempts. */
  readonly signal: AbortSignal | undefined;
  /**
   * Dials one address. `only` is true when there is no other; only then may it resolve before the
   * peer has answered. Rejects when the signal aborts.
   */
  dial(address: string, signal: AbortSignal | undefined, only: boolean): Promise<T>;
  /** Closes a connection that was established after another one had won. */
  discard(result: T): void;
}

/**
 * Dials the addresses in turn, families interleaved. Starts the next attempt when one fails or
 * after {@link ATTEMPT_DELAY_MS}. The first connection wins; the other attempts are aborted.
 *
 * When all attempts fail, the message lists each failure, and the code is the most informative one.
 * The cause is an `AggregateError` of all. These end all attempts at once:
 *
 * - the signal, with `Aborted` or its reason
 * - an error outside of the network, such as `InvalidArgument`
 * - `HandshakeFailed`, which would otherwise stay hidden behind a silent address until the connect
 *   timeout
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
 * Returns the addresses with IPv6 and IPv4 alternating, starting with the family of the first one
 * (RFC 8305, section 4). Keeps the order within a family and drops duplicates.
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

/** Most informative codes, in order: a peer answered, a host answered, nothing answered. */
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
  const each = failures
    .map(({ address, error }) => `${address}: ${error.code}, ${error.message}`)
    .join("; ");
  const message = `cannot connect to any of ${failures.length} addresses of ${addr}: ${each}`;
  return new VortexError(code, message, { cause: new AggregateError(errors, message), addr });
}
