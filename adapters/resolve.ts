import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { abortedError } from "../src/errors.ts";
import { type Address, formatAddress } from "../src/transport/address.ts";
import { nativeError } from "./native-error.ts";

/** An IP address of the host, for bindings that take nothing else. Rejects with `Unreachable`, and as the signal says. */
export async function resolveHost(address: Address, signal?: AbortSignal): Promise<string> {
  const what = `dialling ${formatAddress(address)}`;
  if (signal?.aborted) throw abortedError(signal, what);
  const { host } = address;
  if (isIP(host) !== 0) return host;
  let found: string;
  try {
    found = (await lookup(host)).address;
  } catch (error) {
    throw nativeError(error, "Unreachable", `cannot resolve ${host}`);
  }
  if (signal?.aborted) throw abortedError(signal, what);
  return found;
}
