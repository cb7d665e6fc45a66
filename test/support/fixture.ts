import { it } from "node:test";
import type { Address } from "../../src/transport/address.ts";
import { MemoryTransport } from "../../src/transport/memory.ts";
import type { Transport } from "../../src/transport/transport.ts";
import { assertRejects } from "./failures.ts";

/**
 * Options that a test may set on a transport. A transport without an option ignores it, and lists
 * the tests it fails as gaps.
 */
export interface TransportTuning {
  /** Idle timeout in ms. */
  readonly idleTimeout?: number;
  /** Keep-alive interval of the dialling side, in ms. */
  readonly keepAlive?: number;
  /** IP addresses that every host name resolves to. Default: the system's resolver. */
  readonly addresses?: readonly string[];
}

/** Transport under test. */
export interface TransportFixture {
  /** Creates a separate transport for each call. */
  transport(tuning?: TransportTuning): Promise<Transport>;
  /** Address to listen on; port 0 selects a free port. */
  readonly listenAddress: Address;
  /** True for QUIC: datagrams can pass through a relay, and there is always TLS. */
  readonly overUdp?: boolean;
  /** True if it resolves host names, and so respects {@link TransportTuning.addresses}. */
  readonly resolvesNames?: boolean;
  /** True if a connection ends when its early data is refused. */
  readonly endsWithEarlyData?: boolean;
  /** True if all connections dialled by one transport share a socket, and so a port. */
  readonly sharesSocket?: boolean;
  /**
   * Key in `fixtures` for peers in separate processes. Default: the name under which the suite
   * runs, which must be a key.
   */
  readonly peer?: string;
  /** Maps a listener's address to the address to dial. Default: the same. */
  dialAddress?(listening: Address): Address;
  /** Reasons why this transport cannot pass certain tests, by test name. Printed as skips. */
  readonly gaps?: Readonly<Record<string, string>>;
}

const oneProcess = "it lives within one process, where no peer is silent or killed";

/** The in-memory transport, which behaves like QUIC. */
export const memoryFixture: TransportFixture = {
  transport: async () => new MemoryTransport(),
  listenAddress: { host: "127.0.0.1", port: 0 },
  gaps: {
    "dialling a silent peer rejects when its signal aborts, with the signal's reason": oneProcess,
    "aborted dials leave no sockets, and their process exits": oneProcess,
    "after the server is killed, all pending operations of its client settle": oneProcess,
    "after the server is killed, all pending operations of its client reject with ConnectionLost":
      oneProcess,
    "after a client is killed, all pending operations of the server settle, and other clients are served":
      oneProcess,
    "after a client is killed, all pending operations of the server reject with ConnectionLost":
      oneProcess,
    "an idle connection is ConnectionLost on both sides after the idle timeout": oneProcess,
    "keep-alive keeps an idle connection open for several idle timeouts": oneProcess,
  },
};

/** Returns the address to dial a fixture's listener at. */
export function dialAddressOf(fixture: TransportFixture, listening: Address): Address {
  return fixture.dialAddress?.(listening) ?? listening;
}

/**
 * Registers a test, or a printed skip if the fixture's gaps contain `key`, by default the test's
 * name.
 */
export function itUnlessGap(
  fixture: Pick<TransportFixture, "gaps">,
  name: string,
  run: () => Promise<void>,
  key: string = name,
): void {
  const reason = fixture.gaps?.[key];
  if (reason === undefined) it(name, { timeout: 60_000 }, run);
  else skipped(name, reason, run);
}

/** Registers a printed skip. The reason is part of the name, since not every runtime prints it. */
export function skipped(name: string, reason: string, run: () => Promise<void>): void {
  it(`${name} [gap: ${reason}]`, { skip: reason }, run);
}

/** Key in `gaps` of a transport over which a reset looks like a clean end. */
export const RESET_IS_REPORTED = "a reset differs from a clean end";

/**
 * Asserts that `reading` rejects with `StreamReset`, or merely settles if the transport reports
 * resets as ends.
 */
export async function assertCutOff(
  fixture: Pick<TransportFixture, "gaps">,
  reading: Promise<unknown>,
): Promise<void> {
  if (fixture.gaps?.[RESET_IS_REPORTED] === undefined) await assertRejects(reading, "StreamReset");
  else await reading.catch(() => {});
}
