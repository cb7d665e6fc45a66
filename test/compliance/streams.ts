/** Compliance tests of cancelled and aborted streams, many streams, and stream credit. */
import assert from "node:assert/strict";
import { describe } from "node:test";
import { VortexError } from "../../src/errors.ts";
import { assertRejects, rejectionOf } from "../support/failures.ts";
import { assertCutOff } from "../support/fixture.ts";
import { readAll } from "../support/hostile.ts";
import {
  abortBoth,
  echo,
  exchangeOne,
  next,
  type Suite,
  serveEchoes,
  text,
  tick,
  waitUntilStable,
  writeAll,
  writeToFailure,
} from "./peers.ts";

/** Registers the tests for one transport. */
export function streamsCompliance({ name, it, fixture, withPeers }: Suite): void {
  describe(`${name}: cancel and abort`, () => {
    it("cancel by a reader that has ended its sending direction is StreamReset for the writer", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        await near.writer.end();
        assert.equal(await far.reader.read(), undefined);
        const writing = writeToFailure(far.writer);
        assert.ok((await near.reader.read()) !== undefined);
        near.reader.cancel();
        assert.equal((await writing).code, "StreamReset");
        await assertRejects(far.writer.write(Uint8Array.of(1)), "StreamReset");
      });
    });

    it("cancel by a reader whose sending direction is open is StreamReset for the writer", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        const writing = writeToFailure(far.writer);
        assert.ok((await near.reader.read()) !== undefined);
        near.reader.cancel();
        assert.equal((await writing).code, "StreamReset");
      });
    });

    it("an empty write sends nothing, and rejects with StreamReset once the peer has cancelled", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        await far.writer.write(new Uint8Array(0));
        await near.writer.end();
        near.reader.cancel();
        const error = await rejectionOf(
          (async () => {
            for (;;) {
              await far.writer.write(new Uint8Array(0));
              await tick();
            }
          })(),
        );
        assert.equal(error.code, "StreamReset");
      });
    });

    it("cancel leaves the other direction open", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        near.reader.cancel();
        await near.writer.write(text("one direction"));
        await near.writer.end();
        assert.deepEqual(await readAll(far), text("one direction"));
      });
    });

    it("abort by the writer rejects the pending read and the next one with StreamReset", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        const reading = far.reader.read();
        reading.catch(() => {});
        await tick();
        near.writer.abort();
        await assertRejects(reading, "StreamReset");
        await assertRejects(far.reader.read(), "StreamReset");
      });
    });

    it("abort by the writer after data never looks like a clean end to the reader", async () => {
      await withPeers(async ({ open }) => {
        for (const swap of [false, true]) {
          const [near, far] = await open();
          const [from, to] = swap ? [far, near] : [near, far];
          await from.writer.write(new Uint8Array(50_000));
          from.writer.abort();
          assert.equal((await rejectionOf(readAll(to))).code, "StreamReset");
        }
      });
    });

    it("cancel rejects the pending read and later reads with Closed", async () => {
      await withPeers(async ({ open }) => {
        const [near] = await open();
        const reading = near.reader.read();
        reading.catch(() => {});
        await tick();
        near.reader.cancel();
        near.reader.cancel();
        await assertRejects(reading, "Closed");
        await assertRejects(near.reader.read(), "Closed");
      });
    });

    it("writes after end reject with Closed", async () => {
      await withPeers(async ({ open }) => {
        const [near] = await open();
        await near.writer.end();
        await assertRejects(near.writer.write(Uint8Array.of(1)), "Closed");
      });
    });

    it("abort rejects the pending write and later writes with Closed", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        const writing = writeToFailure(near.writer);
        await tick();
        near.writer.abort();
        near.writer.abort();
        assert.equal((await writing).code, "Closed");
        await assertRejects(near.writer.write(Uint8Array.of(1)), "Closed");
        await assertRejects(readAll(far), "StreamReset");
      });
    });

    it("aborting a stream in both directions affects neither the connection nor other streams", async () => {
      await withPeers(async ({ open }) => {
        const [kept, keptFar] = await open();
        const [given, givenFar] = await open();
        given.reader.cancel();
        given.writer.abort();
        await assertCutOff(fixture, readAll(givenFar));
        const echoing = echo(keptFar);
        await writeAll(kept, [text("on it goes")]);
        assert.deepEqual(await readAll(kept), text("on it goes"));
        await echoing;
        const [late, lateFar] = await open();
        await Promise.all([echo(lateFar), writeAll(late, [text("and on")])]);
        assert.deepEqual(await readAll(late), text("and on"));
      });
    });
  });

  describe(`${name}: many streams`, () => {
    it("1,000 sequential streams, some aborted or cancelled, succeed with credit for 16", async () => {
      await withPeers(
        async (peers) => {
          const serving = serveEchoes(peers);
          for (let at = 0; at < 1000; at++) await exchangeOne(peers.connection, at);
          await serving.stop();
        },
        { maxStreams: 16 },
      );
    });

    it("200 concurrent streams, some aborted or cancelled, succeed with credit for 16", async () => {
      await withPeers(
        async (peers) => {
          const serving = serveEchoes(peers);
          await Promise.all(
            Array.from({ length: 200 }, (_, at) => exchangeOne(peers.connection, at)),
          );
          // The credit has returned. A receiver may withhold some until a frame is worthwhile
          // (RFC 9000, section 4.6); lsquic withholds half.
          const open = await Promise.all(
            Array.from({ length: 8 }, () => peers.connection.openStream()),
          );
          for (const stream of open) await writeAll(stream, [text("last")]);
          for (const stream of open) assert.deepEqual(await readAll(stream), text("last"));
          await serving.stop();
        },
        { maxStreams: 16 },
      );
    });

    it("200 concurrent streams succeed with default limits", async () => {
      await withPeers(async (peers) => {
        const serving = serveEchoes(peers);
        await Promise.all(
          Array.from({ length: 200 }, (_, at) => exchangeOne(peers.connection, at)),
        );
        await serving.stop();
      });
    });

    it("a stream beyond the credit waits until another has ended", async () => {
      await withPeers(
        async ({ open, connection }) => {
          const [first, firstFar] = await open();
          const [second, secondFar] = await open();
          let opened = false;
          const third = connection.openStream().then((stream) => {
            opened = true;
            return stream;
          });
          await waitUntilStable(() => Number(opened));
          assert.equal(opened, false);
          await Promise.all([writeAll(first, []), writeAll(firstFar, [])]);
          await Promise.all([readAll(first), readAll(firstFar)]);
          await writeAll(await third, [text("third")]);
          second.writer.abort();
          second.reader.cancel();
          await assertCutOff(fixture, readAll(secondFar));
        },
        { maxStreams: 2 },
      );
    });

    it("an abort ends the wait for credit at once, and uses no credit", async () => {
      await withPeers(
        async ({ open, connection }) => {
          const [near, far] = await open();
          const aborts = Array.from({ length: 3 }, () => new AbortController());
          const waiting = aborts.map(({ signal }) => connection.openStream({ signal }));
          for (const stream of waiting) stream.catch(() => {});
          await tick();
          for (const abort of aborts) abort.abort();
          for (const stream of waiting) await assertRejects(stream, "Aborted");
          const next = connection.openStream();
          await Promise.all([writeAll(near, []), writeAll(far, []), readAll(near), readAll(far)]);
          await writeAll(await next, [text("next")]);
        },
        { maxStreams: 1 },
      );
    });

    it("an abort that coincides with new credit leaves the credit to the next waiter", async () => {
      for (let moments = 0; moments < 24; moments++) {
        await withPeers(
          async ({ open, connection }) => {
            const [near, far] = await open();
            const abort = new AbortController();
            const first = connection.openStream({ signal: abort.signal });
            const second = connection.openStream();
            first.then(abortBoth, () => {});
            const ending = Promise.all([
              writeAll(near, []),
              writeAll(far, []),
              readAll(near),
              readAll(far),
            ]);
            for (let moment = 0; moment < moments; moment++) await Promise.resolve();
            abort.abort();
            await ending;
            await writeAll(await second, [text("second")]);
          },
          { maxStreams: 1 },
        );
      }
    });

    it("an abort before opening rejects with Aborted, or with the signal's VortexError", async () => {
      await withPeers(async ({ connection, open }) => {
        await assertRejects(connection.openStream({ signal: AbortSignal.abort() }), "Aborted");
        const reason = new VortexError("PieceTimeout", "late");
        const error = await rejectionOf(
          connection.openStream({ signal: AbortSignal.abort(reason) }),
        );
        assert.equal(error, reason);
        await open();
      });
    });

    it("the accepting side can open a stream", async () => {
      await withPeers(async ({ open, connection }) => {
        const [, , accepted] = await open();
        const coming = next(connection.accept());
        const near = await accepted.openStream();
        await near.writer.write(text("from the other side"));
        await near.writer.end();
        assert.deepEqual(await readAll(await coming), text("from the other side"));
      });
    });
  });
}
