import type { Server } from "node:net";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import { Guard } from "./guard.ts";
import { listenError } from "./native-error.ts";
import { requireNet } from "./permission.ts";
import { lookupAll, resolveHost } from "./resolve.ts";

/**
 * Makes `server` listen on the address `local`. Rejects with `AddressInUse` if the address cannot
 * be used, and with `Unreachable` if the host name in `local` does not resolve. Rejects with
 * `PermissionDenied` if the runtime denies the permission to listen.
 */
export async function listenOn(server: Server, local: Address): Promise<void> {
  const { port } = local;
  let { host } = local;
  if ("Deno" in globalThis) {
    // Deno also checks the permission for the address of a name, and ends the process if it is
    // denied.
    [host = host] = await resolveHost(local, undefined, lookupAll);
    await requireNet(host, port);
  }
  await new Promise<void>((resolve, reject) => {
    const onError = new Guard({ end: reject }).wrap((error: Error) =>
      reject(listenError(error, formatAddress(local))),
    );
    server.once("error", onError);
    server.listen({ host, port }, resolve);
  });
}
