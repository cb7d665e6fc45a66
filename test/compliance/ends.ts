/** Compliance tests of the end of connections, as seen by both sides. */
import assert from "node:assert/strict";
import { describe } from "node:test";
import type { VortexError } from "../../src/errors.ts";
import type { ByteStream, Connection } from "../../src/transport/transport.ts";
import { assertRejects, rejectionOf } from "../support/failures.ts";
import { readAll } from "../support/hostile.ts";
import { joined, seededBytes } from "../support/random.ts";
import {
  count,
  echo,
  type Peers,
  readOneEach,
  readToFailure,
  type Suite,
  text,
  tick,
  writeAll,
  writeToFailure,
} from "./peers.ts";

/** Number of concurrent streams. */
const OPEN_STREAMS = 8;

/** Registers the tests for one transport. */
export function endsCompliance({ name, it, withPeers }: Suite): void {
  describe(`${name}: the end of a connection`, () => {
    it("a graceful close by the accepting side delivers ended streams to a slow reader", async () => {
      await withPeers(async ({ open }) => {
        const [near, far, accepted] = await open();
        await near.writer.end();
        const sent = seededBytes(8, 40_000);
        await writeAll(far, [sent]);
        const closing = accepted.close();
        const chunks: Uint8Array[] = [];
        for (
          let chunk = await near.reader.read();
          chunk !== undefined;
          chunk = await near.reader.read()
        ) {
          chunks.push(chunk);
          await tick();
        }
        assert.deepEqual(joined(chunks), sent);
        await closing;
      });
    });

    it("streams that ended before a graceful close stay readable after it", async () => {
      await withPeers(async ({ open, connection }) => {
        const [near, far, accepted] = await open();
        await near.writer.end();
        const sent = seededBytes(8, 40_000);
        await writeAll(far, [sent]);
        const waiting = near.reader.read(new Uint8Array(100));
        const closing = accepted.close();
        const first = await waiting;
        // The connection may outlive the pause: where a close waits for readers, or each stream is
        // a separate connection.
        await Promise.race([connection.closed, pause(1000)]);
        const rest = await readAll(near);
        assert.deepEqual(joined([first ?? new Uint8Array(0), rest]), sent);
        await closing;
      });
    });

    it("a graceful close by the dialling side delivers ended streams", async () => {
      await withPeers(async ({ open, connection }) => {
        const [near, far] = await open();
        const sent = seededBytes(9, 40_000);
        await writeAll(near, [sent]);
        const closing = connection.close();
        assert.deepEqual(await readAll(far), sent);
        await far.writer.end();
        await closing;
      });
    });

    it("a graceful close by the dialling side fails open streams: Closed locally, an error at the peer", async () => {
      await withPeers(async ({ open, connection }) => {
        const [running] = await circulatingStreams(open);
        await connection.close();
        assert.deepEqual(await running.near, Array(OPEN_STREAMS).fill("Closed"));
        for (const code of await running.far)
          assert.ok(code === "ConnectionLost" || code === "StreamReset", code);
        assert.equal((await connection.closed).error.code, "Closed");
      });
    });

    it("a graceful close by the accepting side fails open streams: Closed locally, an error at the peer", async () => {
      await withPeers(async ({ open, listener }) => {
        const [running, accepted] = await circulatingStreams(open);
        await listener.close();
        for (const code of await running.near)
          assert.ok(code === "ConnectionLost" || code === "StreamReset", code);
        assert.deepEqual(await running.far, Array(OPEN_STREAMS).fill("Closed"));
        for (const one of accepted) assert.equal((await one.closed).error.code, "Closed");
      });
    });

    /** Opens streams that exchange data continuously. Returns the error codes they end with. */
    async function circulatingStreams(
      open: Peers["open"],
    ): Promise<[{ near: Promise<string[]>; far: Promise<string[]> }, accepted: Connection[]]> {
      const streams = [];
      for (let stream = 0; stream < OPEN_STREAMS; stream++) streams.push(await open());
      let rounds = 0;
      let wake: () => void = () => {};
      const circling = new Promise<void>((resolve) => {
        wake = resolve;
      });
      const circle = async ({ reader, writer }: ByteStream): Promise<never> => {
        for (;;) {
          await writer.write(new Uint8Array(1000));
          assert.ok((await reader.read()) !== undefined, "a clean end");
          rounds++;
          if (rounds === 10 * OPEN_STREAMS) wake();
        }
      };
      const code = async (error: Promise<VortexError>): Promise<string> => (await error).code;
      const near = Promise.all(streams.map(([near]) => code(rejectionOf(circle(near)))));
      const far = Promise.all(streams.map(([, far]) => code(rejectionOf(echo(far)))));
      near.catch(() => {});
      far.catch(() => {});
      await circling;
      return [{ near, far }, streams.map(([, , accepted]) => accepted)];
    }

    it("openStream rejects with Closed once close() has begun", async () => {
      await withPeers(async ({ open, connection }) => {
        const [near, far] = await open();
        await writeAll(near, [text("under way")]);
        const closing = connection.close();
        await assertRejects(connection.openStream(), "Closed");
        assert.deepEqual(await readAll(far), text("under way"));
        await far.writer.end();
        await closing;
        await connection.close();
        await assertRejects(connection.openStream(), "Closed");
      });
    });

    it("an abort by the accepting side is Closed locally and ConnectionLost at the peer", async () => {
      await withPeers(async ({ open, connection }) => {
        const [near, far, accepted] = await open();
        await endsAbruptly({
          near: far,
          far: near,
          end: () => accepted.abort(),
          other: connection,
        });
      });
    });

    it("an abort by the dialling side is Closed locally and ConnectionLost at the peer", async () => {
      await withPeers(async ({ open, connection }) => {
        const [near, far, accepted] = await open();
        await endsAbruptly({ near, far, end: () => connection.abort(), other: accepted });
      });
    });

    /**
     * Asserts what both sides see when `near`'s connection is aborted while streams are blocked.
     */
    async function endsAbruptly(pair: {
      near: ByteStream;
      far: ByteStream;
      end(): void;
      other: Connection;
    }) {
      const { near, far, end, other } = pair;
      const [here, there] = [near.reader.read(), far.reader.read()];
      const [writing, writingThere] = [writeToFailure(near.writer), writeToFailure(far.writer)];
      here.catch(() => {});
      there.catch(() => {});
      // The reads above take the writers' first bytes; the writers then block.
      await Promise.all([here, there]);
      await readOneEach(near.reader, far.reader);
      end();
      await assertRejects(readToFailure(near.reader), "Closed");
      await assertRejects(readToFailure(far.reader), "ConnectionLost");
      assert.equal((await writing).code, "Closed");
      assert.equal((await writingThere).code, "ConnectionLost");
      await assertRejects(other.openStream(), "ConnectionLost");
    }

    it("an abort by the accepting side never looks like a clean end to a reader", async () => {
      await withPeers(async ({ open }) => {
        const [near, far, accepted] = await open();
        await far.writer.write(new Uint8Array(10_000));
        assert.ok((await near.reader.read()) !== undefined);
        accepted.abort();
        const { code } = await rejectionOf(readAll(near));
        assert.ok(code === "ConnectionLost" || code === "StreamReset", code);
        await assertRejects(readToFailure(far.reader), "Closed");
      });
    });

    it("closed resolves on both sides, and reports which side ended the connection", async () => {
      await withPeers(async ({ open, connection }) => {
        const [, , accepted] = await open();
        accepted.abort(7, "enough");
        const [here, there] = await Promise.all([accepted.closed, connection.closed]);
        assert.equal(here.remote, false);
        assert.equal(here.error.code, "Closed");
        assert.equal(there.remote, true);
        assert.equal(there.error.code, "ConnectionLost");
        assert.deepEqual([there.code, there.reason], [7, "enough"]);
      });
    });

    it("closed resolves on the side that ended the connection", async () => {
      await withPeers(async ({ open, connection }) => {
        await open();
        connection.abort();
        connection.abort();
        const info = await connection.closed;
        assert.deepEqual([info.remote, info.error.code], [false, "Closed"]);
        await connection.close();
      });
    });

    it("iteration over accepted streams ends with the connection, on both sides", async () => {
      await withPeers(async ({ open, connection }) => {
        const [, , accepted] = await open();
        const nothing = count(connection.accept());
        connection.abort();
        assert.equal(await nothing, 0);
        await accepted.closed;
      });
    });

    it("a wait for stream credit ends with the connection", async () => {
      await withPeers(
        async ({ open, connection }) => {
          await open();
          const waiting = connection.openStream();
          waiting.catch(() => {});
          await tick();
          connection.abort();
          await assertRejects(waiting, "Closed");
        },
        { maxStreams: 1 },
      );
    });
  });
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
  });
}
