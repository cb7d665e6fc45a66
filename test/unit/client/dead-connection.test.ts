/** Connections that the peer has lost, distinguished from slow peers and dead paths. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { downloaderSettings } from "../../../src/client/call/settings.ts";
import { VortexDownloader } from "../../../src/client/vortex/downloader.ts";
import { VortexError } from "../../../src/errors.ts";
import { VortexServer } from "../../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../../src/store/memory-store.ts";
import type { PieceStore } from "../../../src/store/store.ts";
import { formatAddress } from "../../../src/transport/address.ts";
import { MemoryTransport } from "../../../src/transport/memory.ts";
import type { ByteStream, Connection, Transport } from "../../../src/transport/transport.ts";
import { assertRejects } from "../../support/failures.ts";
import { type FakeClock, fakeRuntime, settle } from "../../support/fake-clock.ts";
import { seededBytes } from "../../support/random.ts";

const taskId = "c".repeat(64);
const content = seededBytes(4, 3000);
/** Maximum time to detect a dead connection, in ms. */
const SOON = 5000;

interface Scene {
  readonly clock: FakeClock;
  readonly downloader: VortexDownloader;
  /** Dialled connections. */
  readonly dialled: Connection[];
  /** Numbers of the pieces requested from the store. */
  readonly asked: number[];
  get(number: number): Promise<Uint8Array>;
}

interface SceneOptions {
  /** Outcome of each dial, from 0: a server, a peer that never answers, or a failure. */
  readonly peers: (dial: number) => "served" | "mute" | VortexError;
  /** Delay of the store before it returns a piece, in ms. Default 0. */
  readonly delay?: number;
  /** Replaces the opening of streams. */
  readonly openStream?: (
    connection: Connection,
    dial: number,
  ) => ReturnType<Connection["openStream"]>;
  /** Number of packets received on a connection. Default: not counted. */
  readonly received?: (dial: number) => number;
}

async function withScene(
  { peers, delay = 0, openStream, received }: SceneOptions,
  use: (scene: Scene) => Promise<void>,
): Promise<void> {
  const runtime = fakeRuntime();
  const { clock } = runtime;
  const memory = new MemoryTransport();
  const pieces = new MemoryPieceStore();
  pieces.putTask(taskId, content, { pieceLength: 1000 });
  const asked: number[] = [];
  const store: PieceStore = {
    getTask: (id) => pieces.getTask(id),
    async getPiece(request) {
      asked.push(request.number);
      if (delay > 0) await new Promise<void>((resolve) => clock.setTimer(resolve, delay));
      return pieces.getPiece(request);
    },
  };
  const server = await VortexServer.listen(memory, { host: "peer", port: 1 }, store, runtime);
  const mute = await memory.listen({ host: "mute", port: 1 });
  const dialled: Connection[] = [];
  let dials = 0;
  const transport: Transport = {
    protocol: "quic",
    listen: () => Promise.reject(new Error("not here")),
    async dial() {
      const dial = dials++;
      const peer = peers(dial);
      if (peer instanceof VortexError) throw peer;
      const inner = await memory.dial(peer === "served" ? server.address : mute.address);
      const connection: Connection = {
        protocol: "quic",
        remote: server.address,
        resumed: false,
        earlyData: "none",
        ready: Promise.resolve(),
        closed: inner.closed,
        accept: () => inner.accept(),
        close: () => inner.close({ grace: 0 }),
        abort: (code, reason, error) => inner.abort(code, reason, error),
        openStream: (options) => openStream?.(inner, dial) ?? inner.openStream(options),
        get received() {
          return received?.(dial) ?? 0;
        },
      };
      dialled.push(connection);
      return connection;
    },
  };
  const downloader = new VortexDownloader(async () => transport, downloaderSettings({}, runtime));
  const addr = formatAddress(server.address);
  try {
    await use({
      clock,
      downloader,
      dialled,
      asked,
      get: async (number) =>
        (await downloader.downloadPiece({ addr, hostId: "h", taskId, number })).bytes(),
    });
  } finally {
    await downloader.close();
    await mute.close({ grace: 0 });
    await server.close({ grace: 0 });
    assert.equal(clock.pending, 0, "timers are left");
  }
}

describe("a connection that the peer has lost", () => {
  it("is replaced within seconds, and its unanswered requests are retried on the new one", () =>
    withScene(
      { peers: (dial) => (dial === 0 ? "mute" : "served") },
      async ({ clock, get, dialled, asked }) => {
        const pieces = Promise.all([0, 1, 2].map(get));
        const took = await clock.advanceUntil(pieces, SOON, 100);
        assert.ok(took <= SOON, `${took} ms`);
        assert.deepEqual(await pieces, [
          content.subarray(0, 1000),
          content.subarray(1000, 2000),
          content.subarray(2000),
        ]);
        assert.equal(dialled.length, 2);
        assert.deepEqual([...asked].sort(), [0, 1, 2]);
        const lost = await dialled[0]?.closed;
        assert.equal(lost?.error.code, "ConnectionLost");
      },
    ));

  it("fails reads of started answers with ConnectionLost", () => {
    let reads = 0;
    // After the announcement, every stream of the first connection is silent.
    const openStream = async (inner: Connection, dial: number): Promise<ByteStream> => {
      const stream = await inner.openStream();
      const silence = async (): Promise<never> => {
        throw (await inner.closed).error;
      };
      const reader: ByteStream["reader"] = {
        read: () => (reads++ === 0 ? stream.reader.read(new Uint8Array(200)) : silence()),
        cancel: (code) => stream.reader.cancel(code),
      };
      return dial === 0 ? { ...stream, reader } : stream;
    };
    return withScene({ peers: () => "served", openStream }, async ({ clock, get }) => {
      const reading = get(0);
      reading.catch(() => {});
      await clock.advanceUntil(reading, SOON, 100);
      await assertRejects(reading, "ConnectionLost");
      assert.ok(reads > 1, "the answer had not begun");
    });
  });

  it("is probed repeatedly, so a later restart of the peer is detected", () => {
    const refused = new VortexError("ConnectionRefused", "nobody listens");
    const peers = (dial: number): "mute" | "served" | VortexError =>
      dial === 0 ? "mute" : dial < 4 ? refused : "served";
    return withScene({ peers }, async ({ clock, get, dialled }) => {
      const piece = get(0);
      await clock.advanceUntil(piece, 20_000, 100);
      assert.deepEqual(await piece, content.subarray(0, 1000));
      assert.equal(dialled.length, 2);
    });
  });

  it("leaves nothing behind when the pool is closed during the probe", () =>
    withScene({ peers: () => "mute" }, async ({ clock, get, downloader, dialled }) => {
      const piece = get(0);
      piece.catch(() => {});
      // The second connection is established, and the first is probed again.
      await clock.advance(2500);
      assert.equal(dialled.length, 2);
      await downloader.close();
      await clock.advance(SOON);
      await assertRejects(piece, "Closed");
      await Promise.all(dialled.map(({ closed }) => closed));
    }));
});

describe("a live connection", () => {
  it("to a slow peer is kept: one store request, no second dial", () =>
    withScene({ peers: () => "served", delay: 20_000 }, async ({ clock, get, dialled, asked }) => {
      const piece = get(1);
      const took = await clock.advanceUntil(piece, 21_000, 100);
      assert.ok(took >= 20_000, `${took} ms`);
      assert.deepEqual(await piece, content.subarray(1000, 2000));
      assert.deepEqual(asked, [1]);
      assert.equal(dialled.length, 1);
    }));

  it("whose peer sends only packets is kept, without a second dial", () => {
    let packets = 0;
    return withScene(
      { peers: () => "mute", received: () => packets++ },
      async ({ clock, get, dialled }) => {
        const piece = get(0);
        piece.catch(() => {});
        await clock.advance(10_000);
        assert.ok(packets > 0, "the peer received no packet");
        assert.equal(dialled.length, 1);
      },
    );
  });

  it("that answers after the second dial is kept, and the second one closed", () => {
    let dials = 0;
    let packets = 0;
    const peers = (dial: number): "mute" | "served" => {
      dials = dial + 1;
      return dial === 0 ? "mute" : "served";
    };
    const received = (dial: number): number => (dial === 0 && dials > 1 ? packets++ : 0);
    return withScene({ peers, received }, async ({ clock, get, dialled, asked }) => {
      const piece = get(0);
      piece.catch(() => {});
      await clock.advance(SOON);
      assert.equal(dialled.length, 2);
      await dialled[1]?.closed;
      assert.deepEqual(asked, []);
    });
  });

  it("without stream credit for a probe is kept", () => {
    let opened = 0;
    const openStream = (inner: Connection): Promise<ByteStream> =>
      opened++ === 0 ? inner.openStream() : new Promise(() => {});
    return withScene({ peers: () => "mute", openStream }, async ({ clock, get, dialled }) => {
      const piece = get(0);
      piece.catch(() => {});
      await clock.advance(10_000);
      assert.ok(opened > 1, "it was never asked");
      assert.equal(dialled.length, 1);
    });
  });

  it("on a dead path is kept until the stall timeout, since no second dial succeeds", () => {
    const lost = new VortexError("ConnectTimeout", "nothing came");
    return withScene(
      { peers: (dial) => (dial === 0 ? "mute" : lost) },
      async ({ clock, get, dialled }) => {
        const piece = get(0);
        piece.catch(() => {});
        await clock.advance(29_000);
        let over = false;
        void dialled[0]?.closed.then(() => {
          over = true;
        });
        await settle();
        assert.equal(over, false);
        await clock.advance(1000);
        await assertRejects(piece, "Stalled");
      },
    );
  });
});
