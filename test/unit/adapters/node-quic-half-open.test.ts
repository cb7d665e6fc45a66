/** Eviction of half-open connections by a `node:quic` listener, on a fake module. */
import assert from "node:assert/strict";
import { it } from "node:test";
import { listenNodeQuic, MAX_HALF_OPEN } from "../../../adapters/node-quic/listener.ts";
import type {
  NativeEndpoint,
  NativeSession,
  NodeQuic,
} from "../../../adapters/node-quic/native.ts";
import { nodeQuicSettings } from "../../../adapters/node-quic/options.ts";
import { selfSigned } from "../../../adapters/shared/tls.ts";

it("a listener at its limit of half-open connections evicts the oldest", async () => {
  const endpoint: Partial<NativeEndpoint> = {
    address: { port: 1 },
    destroyed: false,
    busy: false,
    closed: new Promise(() => {}),
    close: async () => {},
  };
  let onSession: (session: NativeSession) => void = () => {};
  const quic: NodeQuic = {
    QuicEndpoint: function endpointOf() {
      return endpoint;
    } as unknown as NodeQuic["QuicEndpoint"],
    async listen(taken) {
      onSession = taken;
      return endpoint as NativeEndpoint;
    },
    connect: () => Promise.reject(new Error("the test does not dial")),
  };
  const listener = await listenNodeQuic(
    {
      quic,
      socketOptions: undefined,
      socketBuffer: 0,
      settings: nodeQuicSettings(),
      maxConnections: 8,
      maxStreams: 1,
      earlyData: false,
      identity: await selfSigned(),
      clientCa: undefined,
      onError: undefined,
    },
    { host: "127.0.0.1", port: 0 },
  );
  const ended: number[] = [];
  const begin = (index: number, opened = false): void =>
    onSession(sessionOf(opened, () => ended.push(index)));
  // Established connections do not count as half-open.
  for (let index = 0; index < 4; index++) begin(-1, true);
  await Promise.resolve();
  for (let index = 0; index < MAX_HALF_OPEN; index++) begin(index);
  assert.deepEqual(ended, []);
  begin(MAX_HALF_OPEN);
  begin(MAX_HALF_OPEN + 1);
  assert.deepEqual(ended, [0, 1]);
  await listener.close({ grace: 0 });
});

/** Creates a fake session, which is established at once or never. */
function sessionOf(opened: boolean, onEnd: () => void): NativeSession {
  let end: () => void = () => {};
  const closed = new Promise<void>((resolve) => {
    end = resolve;
  });
  const session: Partial<NativeSession> = {
    opened: opened
      ? Promise.resolve({
          validationErrorReason: undefined,
          validationErrorCode: undefined,
          earlyDataAttempted: false,
          earlyDataAccepted: false,
        })
      : new Promise(() => {}),
    closed,
    destroyed: false,
    stats: { pktRecv: 0n },
    destroy() {
      onEnd();
      end();
    },
  };
  return session as NativeSession;
}
