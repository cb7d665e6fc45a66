/**
 * Compliance tests for the contract in `src/transport/transport.ts`. A transport supplies a fixture
 * and runs them all. Tests that it cannot pass are listed in the fixture's `gaps`, by name.
 *
 * No test waits for a fixed time to see that something happens. Where a test shows that something
 * does not happen, a slow machine weakens it but never fails it.
 */
import { itUnlessGap, type TransportFixture } from "../support/fixture.ts";
import { addressesCompliance } from "./addresses.ts";
import { bytesCompliance } from "./bytes.ts";
import { diallingCompliance } from "./dialling.ts";
import { endsCompliance } from "./ends.ts";
import { pathsCompliance } from "./paths.ts";
import { runPeers, type Suite } from "./peers.ts";
import { silenceCompliance } from "./silence.ts";
import { streamsCompliance } from "./streams.ts";

/** Registers the compliance tests of one transport. */
export function transportCompliance(name: string, fixture: TransportFixture): void {
  const suite: Suite = {
    name,
    fixture,
    it: (test, run) => itUnlessGap(fixture, test, run),
    withPeers: (use, options) => runPeers(fixture, use, options),
  };
  bytesCompliance(suite);
  streamsCompliance(suite);
  endsCompliance(suite);
  diallingCompliance(suite);
  if (fixture.resolvesNames === true) addressesCompliance(suite);
  if (fixture.overUdp === true) pathsCompliance(suite);
  silenceCompliance(suite);
}

export type { TransportFixture };
