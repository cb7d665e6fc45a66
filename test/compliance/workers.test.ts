/** The transport of edge workers, in workerd: it dials there, and listens on node:net here. */
import { describe, it } from "node:test";
import { startEdgeClient } from "../support/edge-peer.ts";
import { type EdgeTransport, edgeTransport } from "../support/edge-transport.ts";
import type { TransportFixture } from "../support/fixture.ts";
import { tcpFixture } from "../support/fixtures.ts";
import { transportCompliance } from "./suite.ts";

const noReset = "workerd gives a socket up with an end, not with a reset, and has no other way";
const noProcess = "a worker has no process of its own";

let starting: Promise<EdgeTransport> | undefined;

const fixture: TransportFixture = {
  transport() {
    starting ??= startEdgeClient().then(edgeTransport);
    return starting;
  },
  listenAddress: { host: "127.0.0.1", port: 0 },
  // The server of the pair.
  peer: "tcp",
  gaps: {
    ...tcpFixture.gaps,
    "a stream whose reader does not read does not hold its neighbour": noReset,
    "abort by the writer is StreamReset for a reader that waits, and for its next read": noReset,
    "abort by the writer after bytes is never a clean end for the reader": noReset,
    "writes after abort are Closed, and so is the one that waits": noReset,
    "a stream given up in both directions leaves the connection and its other streams as they are":
      noReset,
    "the loop over streams ends with the connection, on both sides": noReset,
    "a second connection from the same side lives and dies by itself": noReset,
    "a graceful close by the dialling side while streams run ends them: Closed here, an error there":
      noReset,
    "dials that were given up leave nothing behind, and their process ends by itself": noProcess,
    "the client's process is killed: nobody here waits for ever, and others are served": noProcess,
  },
};

transportCompliance("workers", fixture);

describe("workers: the end", () => {
  it("workerd ends with the test", async () => {
    await (await starting)?.end();
  });
});
