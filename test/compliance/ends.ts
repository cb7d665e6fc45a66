/** How connections end, and what those who use them see of it. */
import assert from "node:assert/strict";
import { describe } from "node:test";
import type { VortexError } from "../../src/errors.ts";
import type { ByteStream, Connection } from "../../src/transport/transport.ts";
import { assertRejects, rejectionOf } from "../support/failures.ts";
import { readAll } from "../support/hostile.ts";
import { joined, seededBytes } from "../support/random.ts";
import {
  count,
  drained,
  echo,
  type Peers,
  readToFailure,
  type Suite,
  text,
  tick,
  writeAll,
  writeUntilRefused,
} from "./peers.ts";

/** Streams that run at a time. */
const RUNNING = 8;

/** Registers these tests for one transport. */
export function endsCompliance({ name, it, withPeers }: Suite): void {
  describe(`${name}: the end of a connection`, () => {
    it("a graceful close by the accepting side delivers what was ended, however slowly it is read", async () => {
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

    it("what was ended before a graceful close can be read after it", async () => {
      await withPeers(async ({ open, connection }) => {
        const [near, far, accepted] = await open();
        await near.writer.end();
        const sent = seededBytes(8, 40_000);
        await writeAll(far, [sent]);
        const waiting = near.reader.read(new Uint8Array(100));
        const closing = accepted.close();
        const first = await waiting;
        // Where a close waits for its readers, or each stream is a connection of its own, this one does not end before.
        await Promise.race([connection.closed, pause(1000)]);
        const rest = await readAll(near);
        assert.deepEqual(joined([first ?? new Uint8Array(0), rest]), sent);
        await closing;
      });
    });

    it("a graceful close by the dialling side delivers what was ended", async () => {
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

    it("a graceful close by the dialling side while streams run ends them: Closed here, an error there", async () => {
      await withPeers(async ({ open, connection }) => {
        const [running] = await runningStreams(open);
        await connection.close();
        assert.deepEqual(await running.near, Array(RUNNING).fill("Closed"));
        for (const code of await running.far)
          assert.ok(code === "ConnectionLost" || code === "StreamReset", code);
        assert.equal((await connection.closed).error.code, "Closed");
      });
    });

    it("a graceful close by the accepting side while streams run ends them: Closed there, an error here", async () => {
      await withPeers(async ({ open, listener }) => {
        const [running, accepted] = await runningStreams(open);
        await listener.close();
        for (const code of await running.near)
          assert.ok(code === "ConnectionLost" || code === "StreamReset", code);
        assert.deepEqual(await running.far, Array(RUNNING).fill("Closed"));
        for (const one of accepted) assert.equal((await one.closed).error.code, "Closed");
      });
    });

    /** Streams on which bytes go round and round; tells what ended them on each side. */
    async function runningStreams(
      open: Peers["open"],
    ): Promise<[{ near: Promise<string[]>; far: Promise<string[]> }, accepted: Connection[]]> {
      const streams = [];
      for (let stream = 0; stream < RUNNING; stream++) streams.push(await open());
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
          if (rounds === 10 * RUNNING) wake();
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

    it("after close() has begun no stream is opened: Closed", async () => {
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

    it("an abrupt end by the accepting side: ConnectionLost there, Closed here", async () => {
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

    it("an abrupt end by the dialling side: ConnectionLost there, Closed here", async () => {
      await withPeers(async ({ open, connection }) => {
        const [near, far, accepted] = await open();
        await endsAbruptly({ near, far, end: () => connection.abort(), other: accepted });
      });
    });

    async function endsAbruptly(pair: {
      near: ByteStream;
      far: ByteStream;
      end(): void;
      other: Connection;
    }) {
      const { near, far, end, other } = pair;
      const [here, there] = [near.reader.read(), far.reader.read()];
      const [writing, writingThere] = [
        writeUntilRefused(near.writer),
        writeUntilRefused(far.writer),
      ];
      here.catch(() => {});
      there.catch(() => {});
      // The reads above take the first bytes of the writers; these wait.
      await Promise.all([here, there]);
      await drained(near.reader, far.reader);
      end();
      await assertRejects(readToFailure(near.reader), "Closed");
      await assertRejects(readToFailure(far.reader), "ConnectionLost");
      assert.equal((await writing).code, "Closed");
      assert.equal((await writingThere).code, "ConnectionLost");
      await assertRejects(other.openStream(), "ConnectionLost");
    }

    it("an abrupt end by the accepting side is never a clean end for a reader in the middle", async () => {
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

    it("closed resolves on both sides, and says which one ended it", async () => {
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

    it("closed resolves on the side that ended it", async () => {
      await withPeers(async ({ open, connection }) => {
        await open();
        connection.abort();
        connection.abort();
        const info = await connection.closed;
        assert.deepEqual([info.remote, info.error.code], [false, "Closed"]);
        await connection.close();
      });
    });

    it("the loop over streams ends with the connection, on both sides", async () => {
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
