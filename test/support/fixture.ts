import { it } from "node:test";
import type { Address } from "../../src/transport/address.ts";
import { MemoryTransport } from "../../src/transport/memory.ts";
import type { Transport } from "../../src/transport/transport.ts";
import { assertRejects } from "./failures.ts";

/**
 * Options that a test sets on the transport under test. A transport that lacks an option ignores
 * it. The fixture of such a transport lists the failing tests as gaps.
 */
export interface TransportTuning {
  /** Idle timeout of connections, in ms. */
  readonly idleTimeout?: number;
  /** Interval of keep-alive packets from the dialling side, in ms. */
  readonly keepAlive?: number;
  /** IP addresses to which every host name resolves. Default: those of the system's resolver. */
  readonly addresses?: readonly string[];
}

/** Transport under test, and its properties that the tests must know. */
export interface TransportFixture {
  /** Creates a new transport on each call. */
  transport(tuning?: TransportTuning): Promise<Transport>;
  /** Address for listeners of the tests; port 0 selects a free port. */
  readonly listenAddress: Address;
  /**
   * True for QUIC transports, which always use TLS. Tests can pass the datagrams of such a
   * transport through a relay.
   */
  readonly overUdp?: boolean;
  /**
   * True if the transport resolves host names, and so supports {@link TransportTuning.addresses}.
   */
  readonly resolvesNames?: boolean;
  /** True if a refusal of early data ends the connection. */
  readonly endsWithEarlyData?: boolean;
  /** True if all connections that one transport dials share a UDP socket, and so a local port. */
  readonly sharesSocket?: boolean;
  /**
   * Name in `fixtures` by which a separate process finds this fixture. Default: the name under
   * which the suite runs.
   */
  readonly peer?: string;
  /** Returns the address that clients dial to reach a listener. Default: the listener's address. */
  dialAddress?(listening: Address): Address;
  /**
   * Reasons why this transport cannot pass certain tests, by test name. Those tests are skipped,
   * and the reasons are printed.
   */
  readonly gaps?: Readonly<Record<string, string>>;
}

const oneProcess = "it lives within one process, where no peer is silent or killed";

/** Fixture of the in-memory transport, which behaves like QUIC. */
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

/** Returns the address that clients dial to reach a listener of this fixture. */
export function dialAddressOf(fixture: TransportFixture, listening: Address): Address {
  return fixture.dialAddress?.(listening) ?? listening;
}

/**
 * Registers a test. If the fixture's gaps contain `key`, registers a skipped test with the reason
 * instead.
 * @param key default: the name of the test
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

/**
 * Registers a skipped test. Its name contains the reason, because not every runtime prints reasons.
 */
export function skipped(name: string, reason: string, run: () => Promise<void>): void {
  it(`${name} [gap: ${reason}]`, { skip: reason }, run);
}

/** Key in the `gaps` of a transport that reports a reset of a stream as a clean end. */
export const RESET_IS_REPORTED = "a reset differs from a clean end";

/**
 * Asserts that `reading` rejects with `StreamReset`. If the transport reports a reset as a clean
 * end, only waits until `reading` settles.
 */
export async function assertCutOff(
  fixture: Pick<TransportFixture, "gaps">,
  reading: Promise<unknown>,
): Promise<void> {
  if (fixture.gaps?.[RESET_IS_REPORTED] === undefined) await assertRejects(reading, "StreamReset");
  else await reading.catch(() => {});
}
