/**
 * Compliance of the edge workers' transport: it dials from workerd, and listens on node:net here.
 */
import { describe, it } from "node:test";
import { startEdgeClient } from "../support/edge-peer.ts";
import { type EdgeTransport, edgeTransport } from "../support/edge-transport.ts";
import type { TransportFixture } from "../support/fixture.ts";
import { tcpFixture } from "../support/fixtures.ts";
import { transportCompliance } from "./suite.ts";

const noReset = "workerd closes a socket with a FIN, and cannot send a reset";
const noProcess = "a worker runs in no separate process";

let starting: Promise<EdgeTransport> | undefined;

const fixture: TransportFixture = {
  transport() {
    starting ??= startEdgeClient().then(edgeTransport);
    return starting;
  },
  listenAddress: { host: "127.0.0.1", port: 0 },
  // Fixture of the server side.
  peer: "tcp",
  gaps: {
    ...tcpFixture.gaps,
    "a blocked stream does not block another stream": noReset,
    "abort by the writer rejects the pending read and the next one with StreamReset": noReset,
    "abort by the writer after data never looks like a clean end to the reader": noReset,
    "abort rejects the pending write and later writes with Closed": noReset,
    "aborting a stream in both directions affects neither the connection nor other streams":
      noReset,
    "iteration over accepted streams ends with the connection, on both sides": noReset,
    "a second connection from the same side is independent of the first": noReset,
    "a graceful close by the dialling side fails open streams: Closed locally, an error at the peer":
      noReset,
    "aborted dials leave no sockets, and their process exits": noProcess,
    "after a client is killed, all pending operations of the server settle, and other clients are served":
      noProcess,
  },
};

transportCompliance("workers", fixture);

describe("workers: teardown", () => {
  it("workerd ends with the test", async () => {
    await (await starting)?.end();
  });
});
