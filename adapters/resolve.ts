import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { abortedError, untilAborted } from "../src/errors.ts";
import { type Address, formatAddress } from "../src/transport/address.ts";
import { nativeError } from "./native-error.ts";

/** An IP address of the host, for bindings that take nothing else. Rejects with `Unreachable`, and at once as the signal says. */
export async function resolveHost(address: Address, signal?: AbortSignal): Promise<string> {
  const { host } = address;
  const what = `dialling ${formatAddress(address)}`;
  if (signal?.aborted) throw abortedError(signal, what);
  if (isIP(host) !== 0) return host;
  const found = lookup(host).then(
    (entry) => entry.address,
    (error) => {
      throw nativeError(error, "Unreachable", `cannot resolve ${host}`);
    },
  );
  // A lookup cannot be given up, only left alone.
  return untilAborted(found, signal, what);
}
