import { networkInterfaces } from "node:os";

/** Whether `host` is an address of this machine, so that datagrams to it do not leave it. */
export function isSameHost(host: string): boolean {
  const plain = plainAddress(host);
  if (isLoopback(plain)) return true;
  return Object.values(networkInterfaces()).some((addresses) => addresses?.some(({ address }) => address === plain));
}

/** Whether `host` is an address that only this machine reaches. */
export function isLoopback(host: string): boolean {
  const plain = plainAddress(host);
  return plain.startsWith("127.") || plain === "::1";
}

function plainAddress(host: string): string {
  return host.replace(/^::ffff:/, "").replace(/%.*$/, "");
}
