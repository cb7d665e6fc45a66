/**
 * What `src/transport/transport.ts` promises, as tests. Each transport passes them by supplying a fixture; what it cannot
 * do it names in `gaps`, by the name of the test.
 *
 * Nothing here waits for a span of time to see that something happened; where a test shows that something does not
 * happen, a slow machine makes it show less, and never fail.
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

/** Registers the tests of one transport. */
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
