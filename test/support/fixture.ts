import { it } from "node:test";
import type { Address } from "../../src/transport/address.ts";
import { MemoryTransport } from "../../src/transport/memory.ts";
import type { Transport } from "../../src/transport/transport.ts";

/** What a transport supplies to be tested. */
export interface TransportFixture {
  /** A transport of its own for each test that asks. */
  transport(): Promise<Transport>;
  /** Where to listen; port 0 for any free one. */
  readonly listenAddress: Address;
  /** Whether datagrams carry it, so that a relay of datagrams can stand between. */
  readonly overUdp?: boolean;
  /** Where to dial what listens there, if not at the listener's own address. */
  dialAddress?(listening: Address): Address;
  /** Tests that this transport cannot pass, by name, and why. Printed as skips. */
  readonly gaps?: Readonly<Record<string, string>>;
}

/** The in-memory transport, in the behaviour of QUIC. */
export const memoryFixture: TransportFixture = {
  transport: async () => new MemoryTransport(),
  listenAddress: { host: "127.0.0.1", port: 0 },
};

/** Where to dial what a fixture's transport listens on. */
export function dialAddressOf(fixture: TransportFixture, listening: Address): Address {
  return fixture.dialAddress?.(listening) ?? listening;
}

/** `it`, or a printed skip when the fixture names `key` (default: the test's name) among its gaps. */
export function itUnlessGap(
  fixture: TransportFixture,
  name: string,
  run: () => Promise<void>,
  key: string = name,
): void {
  const reason = fixture.gaps?.[key];
  if (reason === undefined) it(name, { timeout: 60_000 }, run);
  // Not every runtime prints the reason of a skip, so it stands in the name.
  else it(`${name} [gap: ${reason}]`, { skip: reason }, run);
}
