import { it } from "node:test";
import type { Address } from "../../src/transport/address.ts";
import { MemoryTransport } from "../../src/transport/memory.ts";
import type { Transport } from "../../src/transport/transport.ts";
import { assertRejects } from "./failures.ts";

/** What a test may ask of a transport; a transport without such a thing leaves it aside, and names what it cannot. */
export interface TransportTuning {
  /** Milliseconds of silence after which a connection is lost. */
  readonly idleTimeout?: number;
  /** Milliseconds of silence after which the dialling side asks for a sign of life. */
  readonly keepAlive?: number;
  /** IP addresses of any host that is dialled by a name. Default: as the system resolves it. */
  readonly addresses?: readonly string[];
}

/** What a transport supplies to be tested. */
export interface TransportFixture {
  /** A transport of its own for each test that asks. */
  transport(tuning?: TransportTuning): Promise<Transport>;
  /** Where to listen; port 0 for any free one. */
  readonly listenAddress: Address;
  /** Whether it is QUIC over UDP: a relay of datagrams can stand between, and there is always TLS. */
  readonly overUdp?: boolean;
  /** True when it resolves names, and so heeds {@link TransportTuning.addresses}. */
  readonly resolvesNames?: boolean;
  /** Whether a connection ends when its early data is refused. */
  readonly endsWithEarlyData?: boolean;
  /** Whether all connections that one transport dials share a socket, and so a port. */
  readonly sharesSocket?: boolean;
  /**
   * Which of `fixtures` a peer in a process of its own is made from. Default: the name under which the suite runs, which
   * has to be one of them.
   */
  readonly peer?: string;
  /** Where to dial what listens there, if not at the listener's own address. */
  dialAddress?(listening: Address): Address;
  /** Tests that this transport cannot pass, by name, and why. Printed as skips. */
  readonly gaps?: Readonly<Record<string, string>>;
}

const oneProcess = "it lives within one process, where nobody is silent or killed";

/** The in-memory transport, in the behaviour of QUIC. */
export const memoryFixture: TransportFixture = {
  transport: async () => new MemoryTransport(),
  listenAddress: { host: "127.0.0.1", port: 0 },
  gaps: {
    "dialling a peer that never answers ends when its signal fires, as the signal says": oneProcess,
    "dials that were given up leave nothing behind, and their process ends by itself": oneProcess,
    "the peer's process is killed: nobody here waits for ever": oneProcess,
    "the peer's process is killed: ConnectionLost for all that waits": oneProcess,
    "the client's process is killed: nobody here waits for ever, and others are served": oneProcess,
    "the client's process is killed: ConnectionLost for all that waits": oneProcess,
    "a connection without a word is ConnectionLost after the idle timeout, on both sides":
      oneProcess,
    "keep-alive holds a connection without a word through several idle timeouts": oneProcess,
  },
};

/** Where to dial what a fixture's transport listens on. */
export function dialAddressOf(fixture: TransportFixture, listening: Address): Address {
  return fixture.dialAddress?.(listening) ?? listening;
}

/** `it`, or a printed skip when the fixture names `key` (default: the test's name) among its gaps. */
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

/** A printed skip. Not every runtime prints the reason, so it stands in the name. */
export function skipped(name: string, reason: string, run: () => Promise<void>): void {
  it(`${name} [gap: ${reason}]`, { skip: reason }, run);
}

/** The gap of a transport over which a reset looks like an end. */
export const RESET_IS_REPORTED = "a reset is told from an end";

/** Fails unless `reading` failed with `StreamReset`; over a transport that cannot tell a reset from an end it has to end. */
export async function assertCutOff(
  fixture: Pick<TransportFixture, "gaps">,
  reading: Promise<unknown>,
): Promise<void> {
  if (fixture.gaps?.[RESET_IS_REPORTED] === undefined) await assertRejects(reading, "StreamReset");
  else await reading.catch(() => {});
}
