/**
 * What `src/transport/transport.ts` promises, as tests. Each transport passes them by supplying a fixture; what it cannot
 * do it names in `gaps`, by the name of the test.
 *
 * Nothing here waits for a span of time to see that something happened; where a test shows that something does not
 * happen, a slow machine makes it show less, and never fail.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { describe } from "node:test";
import { VortexError } from "../../src/errors.ts";
import type { Address } from "../../src/transport/address.ts";
import type {
  ByteReader,
  ByteStream,
  ByteWriter,
  Connection,
  Listener,
  ListenOptions,
  Transport,
} from "../../src/transport/transport.ts";
import { assertRejects, rejectionOf } from "../support/failures.ts";
import { dialAddressOf, itUnlessGap, type TransportFixture } from "../support/fixture.ts";
import { crc32Of, readAll } from "../support/hostile.ts";
import { chunked, joined, seededBytes, seededRandom } from "../support/random.ts";

/** Registers the tests of one transport. */
export function transportCompliance(name: string, fixture: TransportFixture): void {
  const it = (test: string, run: () => Promise<void>): void => itUnlessGap(fixture, test, run);
  const withPeers: WithPeers = (use, options, local) => runPeers(fixture, use, options, local);

  describe(`${name}: bytes`, () => {
    it("many small writes come back from an echo, in order", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        const sent = chunked(seededBytes(1, 60_000), seededRandom(2), 100);
        const echoing = echo(far);
        const receiving = readAll(near);
        for (const chunk of sent) await near.writer.write(chunk);
        await near.writer.end();
        assert.deepEqual(await receiving, joined(sent));
        await echoing;
      });
    });

    for (const [direction, swap] of [
      ["to", false],
      ["from", true],
    ] as const) {
      it(`64 MiB ${direction} the accepting side arrive whole`, async () => {
        await withPeers(async ({ open }) => {
          const [near, far] = await open();
          const [from, to] = swap ? [far, near] : [near, far];
          const block = seededBytes(3, 999_983);
          const total = 64 * 1024 * 1024;
          const writing = (async () => {
            for (let at = 0; at < total; at += block.length) await from.writer.write(block.slice(0, total - at));
            await from.writer.end();
          })();
          let at = 0;
          for (let chunk = await to.reader.read(); chunk !== undefined; chunk = await to.reader.read()) {
            assert.ok(chunk.length > 0, "an empty chunk");
            assertRepeats(chunk, block, at);
            at += chunk.length;
          }
          assert.equal(at, total);
          await writing;
        });
      });
    }

    it("an empty write is no chunk", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        await near.writer.write(new Uint8Array(0));
        await near.writer.write(Uint8Array.of(1));
        await near.writer.write(new Uint8Array(0));
        await near.writer.end();
        assert.deepEqual(await far.reader.read(), Uint8Array.of(1));
        assert.equal(await far.reader.read(), undefined);
      });
    });

    it("a chunk that was read is the reader's: changing it changes nothing that comes", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        const sent = seededBytes(4, 300_000);
        const writing = writeAll(near, [sent]);
        const copies: Uint8Array[] = [];
        for (let chunk = await far.reader.read(); chunk !== undefined; chunk = await far.reader.read()) {
          copies.push(chunk.slice());
          chunk.fill(0);
        }
        assert.deepEqual(joined(copies), sent);
        assert.deepEqual(sent, seededBytes(4, 300_000));
        await writing;
      });
    });
  });

  describe(`${name}: half-close`, () => {
    it("a side that has ended still receives", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        await near.writer.write(text("question"));
        await near.writer.end();
        assert.deepEqual(await readAll(far), text("question"));
        await far.writer.write(text("answer"));
        await far.writer.end();
        assert.deepEqual(await readAll(near), text("answer"));
      });
    });

    it("the accepting side may end first, and still receives", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        await far.writer.write(text("welcome"));
        await far.writer.end();
        assert.deepEqual(await readAll(near), text("welcome"));
        await near.writer.write(text("thanks"));
        await near.writer.end();
        assert.deepEqual(await readAll(far), text("thanks"));
      });
    });

    it("after the end reads stay undefined, and end() and cancel() have no effect", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        await near.writer.end();
        await near.writer.end();
        assert.equal(await far.reader.read(), undefined);
        assert.equal(await far.reader.read(), undefined);
        far.reader.cancel();
        await far.writer.write(text("still here"));
        await far.writer.end();
        assert.deepEqual(await readAll(near), text("still here"));
      });
    });
  });

  describe(`${name}: flow`, () => {
    it("a reader that does not read holds the writer, and loses nothing", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        const block = seededBytes(5, 65_521);
        const limit = 256 * 1024 * 1024;
        let written = 0;
        let stop = false;
        const writing = (async () => {
          while (!stop && written < limit) {
            await near.writer.write(block);
            written += block.length;
          }
          await near.writer.end();
        })();
        await standsStill(() => written);
        assert.ok(written < limit, `${written} bytes were taken from a writer whose reader does not read`);
        stop = true;
        let at = 0;
        for (let chunk = await far.reader.read(); chunk !== undefined; chunk = await far.reader.read()) {
          assertRepeats(chunk, block, at);
          at += chunk.length;
        }
        await writing;
        assert.equal(at, written);
      });
    });

    it("a stream whose reader does not read does not hold its neighbour", async () => {
      await withPeers(async ({ open }) => {
        const [held, heldFar] = await open();
        let written = 0;
        const holding = (async () => {
          for (;;) {
            await held.writer.write(new Uint8Array(65_536));
            written += 65_536;
          }
        })().catch((error: VortexError) => error.code);
        await standsStill(() => written);
        const [near, far] = await open();
        const sent = seededBytes(6, 1024 * 1024);
        const echoing = echo(far);
        const receiving = readAll(near);
        await writeAll(near, [sent]);
        assert.equal(crc32Of(await receiving), crc32Of(sent));
        await echoing;
        held.writer.abort();
        assert.equal(await holding, "Closed");
        await rejectionOf(readAll(heldFar));
      });
    });

    it("a reader ahead of the writer gets each chunk when it comes", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        for (let at = 0; at < 50; at++) {
          const reading = far.reader.read();
          await tick();
          await near.writer.write(Uint8Array.of(at));
          assert.deepEqual(await reading, Uint8Array.of(at));
        }
      });
    });
  });

  describe(`${name}: cancel and abort`, () => {
    it("cancel by a reader that has ended its own direction is StreamReset for the writer", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        await near.writer.end();
        assert.equal(await far.reader.read(), undefined);
        const writing = writeUntilRefused(far.writer);
        assert.ok((await near.reader.read()) !== undefined);
        near.reader.cancel();
        assert.equal((await writing).code, "StreamReset");
        await assertRejects(far.writer.write(Uint8Array.of(1)), "StreamReset");
      });
    });

    it("cancel by a reader whose own direction is open is StreamReset for the writer", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        const writing = writeUntilRefused(far.writer);
        assert.ok((await near.reader.read()) !== undefined);
        near.reader.cancel();
        assert.equal((await writing).code, "StreamReset");
      });
    });

    it("cancel leaves the other direction as it is", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        near.reader.cancel();
        await near.writer.write(text("one direction"));
        await near.writer.end();
        assert.deepEqual(await readAll(far), text("one direction"));
      });
    });

    it("abort by the writer is StreamReset for a reader that waits, and for its next read", async () => {
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

    it("abort by the writer after bytes is never a clean end for the reader", async () => {
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

    it("reads after cancel are Closed, and so is the one that waits", async () => {
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

    it("writes after end are Closed", async () => {
      await withPeers(async ({ open }) => {
        const [near] = await open();
        await near.writer.end();
        await assertRejects(near.writer.write(Uint8Array.of(1)), "Closed");
      });
    });

    it("writes after abort are Closed, and so is the one that waits", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        const writing = writeUntilRefused(near.writer);
        await tick();
        near.writer.abort();
        near.writer.abort();
        assert.equal((await writing).code, "Closed");
        await assertRejects(near.writer.write(Uint8Array.of(1)), "Closed");
        await assertRejects(readAll(far), "StreamReset");
      });
    });

    it("a stream given up in both directions leaves the connection and its other streams as they are", async () => {
      await withPeers(async ({ open }) => {
        const [kept, keptFar] = await open();
        const [given, givenFar] = await open();
        given.reader.cancel();
        given.writer.abort();
        await rejectionOf(readAll(givenFar));
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
    it("1,000 streams one after the other, aborted and cancelled ones among them, on credit for 16", async () => {
      await withPeers(
        async (peers) => {
          const serving = serveEchoes(peers);
          for (let at = 0; at < 1000; at++) await exchangeOne(peers.connection, at);
          await serving.stop();
        },
        { maxStreams: 16 },
      );
    });

    it("200 streams at once, aborted and cancelled ones among them, on credit for 16", async () => {
      await withPeers(
        async (peers) => {
          const serving = serveEchoes(peers);
          await Promise.all(Array.from({ length: 200 }, (_, at) => exchangeOne(peers.connection, at)));
          // All credit is back: as many as are allowed can be open at once again.
          const open = await Promise.all(Array.from({ length: 16 }, () => peers.connection.openStream()));
          for (const stream of open) await writeAll(stream, [text("last")]);
          for (const stream of open) assert.deepEqual(await readAll(stream), text("last"));
          await serving.stop();
        },
        { maxStreams: 16 },
      );
    });

    it("200 streams at once with default limits all come through", async () => {
      await withPeers(async (peers) => {
        const serving = serveEchoes(peers);
        await Promise.all(Array.from({ length: 200 }, (_, at) => exchangeOne(peers.connection, at)));
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
          await standsStill(() => Number(opened));
          assert.equal(opened, false);
          await Promise.all([writeAll(first, []), writeAll(firstFar, [])]);
          await Promise.all([readAll(first), readAll(firstFar)]);
          await writeAll(await third, [text("third")]);
          second.writer.abort();
          second.reader.cancel();
          await rejectionOf(readAll(secondFar));
        },
        { maxStreams: 2 },
      );
    });

    it("an abort ends the wait for credit at once, and takes no credit with it", async () => {
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

    it("an abort that crosses the credit it waited for leaves it to the next in line", async () => {
      for (let moments = 0; moments < 24; moments++) {
        await withPeers(
          async ({ open, connection }) => {
            const [near, far] = await open();
            const abort = new AbortController();
            const first = connection.openStream({ signal: abort.signal });
            const second = connection.openStream();
            first.then(giveUp, () => {});
            const ending = Promise.all([writeAll(near, []), writeAll(far, []), readAll(near), readAll(far)]);
            for (let moment = 0; moment < moments; moment++) await Promise.resolve();
            abort.abort();
            await ending;
            await writeAll(await second, [text("second")]);
          },
          { maxStreams: 1 },
        );
      }
    });

    it("an abort before opening is Aborted, or the signal's own VortexError", async () => {
      await withPeers(async ({ connection, open }) => {
        await assertRejects(connection.openStream({ signal: AbortSignal.abort() }), "Aborted");
        const reason = new VortexError("PieceTimeout", "late");
        const error = await rejectionOf(connection.openStream({ signal: AbortSignal.abort(reason) }));
        assert.equal(error, reason);
        await open();
      });
    });

    it("the accepting side opens a stream too", async () => {
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

  describe(`${name}: the end of a connection`, () => {
    it("a graceful close by the accepting side delivers what was ended, however slowly it is read", async () => {
      await withPeers(async ({ open }) => {
        const [near, far, accepted] = await open();
        await near.writer.end();
        const sent = seededBytes(8, 40_000);
        await writeAll(far, [sent]);
        const closing = accepted.close();
        const chunks: Uint8Array[] = [];
        for (let chunk = await near.reader.read(); chunk !== undefined; chunk = await near.reader.read()) {
          chunks.push(chunk);
          await tick();
        }
        assert.deepEqual(joined(chunks), sent);
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
        await endsAbruptly({ near: far, far: near, end: () => accepted.abort(), other: connection });
      });
    });

    it("an abrupt end by the dialling side: ConnectionLost there, Closed here", async () => {
      await withPeers(async ({ open, connection }) => {
        const [near, far, accepted] = await open();
        await endsAbruptly({ near, far, end: () => connection.abort(), other: accepted });
      });
    });

    async function endsAbruptly(pair: { near: ByteStream; far: ByteStream; end(): void; other: Connection }) {
      const { near, far, end, other } = pair;
      const [here, there] = [near.reader.read(), far.reader.read()];
      const [writing, writingThere] = [writeUntilRefused(near.writer), writeUntilRefused(far.writer)];
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

  describe(`${name}: dialling and listening`, () => {
    it("a second connection from the same side lives and dies by itself", async () => {
      await withPeers(async ({ transport, address, open, connection, acceptStream }) => {
        const [near, far] = await open();
        const second = await transport.dial(address);
        const other = await second.openStream();
        await other.writer.write(text("second"));
        const [otherFar] = await acceptStream();
        assert.deepEqual(await readExactly(otherFar.reader, 6), text("second"));
        connection.abort();
        await rejectionOf(readToFailure(near.reader));
        await rejectionOf(readToFailure(far.reader));
        await otherFar.writer.write(text("still here"));
        assert.deepEqual(await readExactly(other.reader, 10), text("still here"));
        second.abort();
      });
    });

    it("both sides know the protocol, the address and that nothing was resumed", async () => {
      await withPeers(async ({ transport, address, open, connection }) => {
        const [, , accepted] = await open();
        assert.deepEqual(connection.remote, address);
        for (const one of [connection, accepted]) {
          assert.equal(one.protocol, transport.protocol);
          assert.equal(one.resumed, false);
        }
        assert.ok(accepted.remote.port > 0);
        assert.notEqual(accepted.remote.port, address.port);
      });
    });

    it("a port where nobody listens: ConnectionRefused", async () => {
      const transport = await fixture.transport();
      const listener = await transport.listen(fixture.listenAddress);
      const address = dialAddressOf(fixture, listener.address);
      await listener.close();
      await assertRejects(transport.dial(address, { signal: AbortSignal.timeout(20_000) }), "ConnectionRefused");
    });

    it("an abort before dialling is Aborted, or the signal's own VortexError", async () => {
      await withPeers(async ({ transport, address }) => {
        const cause = new Error("changed my mind");
        const error = await assertRejects(transport.dial(address, { signal: AbortSignal.abort(cause) }), "Aborted");
        assert.equal(error.cause, cause);
        const own = new VortexError("ConnectTimeout", "too slow");
        assert.equal(await rejectionOf(transport.dial(address, { signal: AbortSignal.abort(own) })), own);
      });
    });

    it("an abort during dialling is Aborted, or the signal's own VortexError", async () => {
      await withPeers(async ({ transport, address, open }) => {
        for (const reason of [new Error("changed my mind"), new VortexError("ConnectTimeout", "too slow")]) {
          const abort = new AbortController();
          const dialling = transport.dial(address, { signal: abort.signal });
          abort.abort(reason);
          const error = await rejectionOf(dialling);
          if (reason instanceof VortexError) assert.equal(error, reason);
          else assert.deepEqual([error.code, error.cause], ["Aborted", reason]);
        }
        await open();
      });
    });

    it("an abort after dialling has no effect on the connection", async () => {
      await withPeers(async ({ transport, address, open, acceptStream }) => {
        await open();
        const abort = new AbortController();
        const connection = await transport.dial(address, { signal: abort.signal });
        abort.abort();
        const near = await connection.openStream();
        await near.writer.write(text("alive"));
        const [far] = await acceptStream();
        assert.deepEqual(await readExactly(far.reader, 5), text("alive"));
        connection.abort();
      });
    });

    it("a listener on an IPv6 address", async () => {
      await withPeers(
        async ({ listener, open }) => {
          assert.equal(listener.address.host, "::1");
          const [near, far] = await open();
          await Promise.all([echo(far), writeAll(near, [text("six")])]);
          assert.deepEqual(await readAll(near), text("six"));
        },
        {},
        { host: "::1", port: 0 },
      );
    });

    it("an address that is in use: AddressInUse, and the listener there goes on", async () => {
      await withPeers(async ({ transport, listener, open }) => {
        await assertRejects(transport.listen(listener.address), "AddressInUse");
        await open();
      });
    });

    it("port 0 is any free port, another one each time, and free again after close", async () => {
      const transport = await fixture.transport();
      const one = await transport.listen({ ...fixture.listenAddress, port: 0 });
      const two = await transport.listen({ ...fixture.listenAddress, port: 0 });
      assert.ok(one.address.port > 0);
      assert.notEqual(one.address.port, two.address.port);
      await one.close();
      const again = await transport.listen(one.address);
      assert.deepEqual(again.address, one.address);
      await Promise.all([two.close(), again.close()]);
    });

    it("closing a listener ends its accept loops and its connections, and dials are refused", async () => {
      const transport = await fixture.transport();
      const listener = await transport.listen(fixture.listenAddress);
      const address = dialAddressOf(fixture, listener.address);
      const loops = count(listener.accept(), (connection) => count(connection.accept()));
      const connection = await transport.dial(address);
      const stream = await connection.openStream();
      await stream.writer.write(text("x"));
      const reading = readAll(stream);
      reading.catch(() => {});
      await standsStill(() => 0);
      await listener.close({ grace: 0 });
      await listener.close();
      assert.equal(await loops, 1);
      await rejectionOf(reading);
      await assertRejects(transport.dial(address, { signal: AbortSignal.timeout(20_000) }), "ConnectionRefused");
      connection.abort();
    });

    it("connections beyond the listener's limit are turned away, and there is room again after one ends", async () => {
      await withPeers(
        async (peers) => {
          const { transport, address, open, connection } = peers;
          const [near, far, accepted] = await open();
          const serving = serveEchoes(peers);
          assert.equal(await isServed(transport, address), false);
          await Promise.all([echo(far), writeAll(near, [text("honest")])]);
          assert.deepEqual(await readAll(near), text("honest"));
          await connection.close();
          await accepted.closed;
          let served = false;
          // The listener may hear of the end a little later than the connection does.
          for (let round = 0; !served && round < 1000; round++) {
            await tick();
            served = await isServed(transport, address);
          }
          assert.equal(served, true);
          await serving.stop();
        },
        { maxConnections: 1 },
      );
    });
  });
}

interface Peers {
  readonly transport: Transport;
  readonly listener: Listener;
  /** Where the listener is dialled. */
  readonly address: Address;
  /** A connection to the listener. */
  readonly connection: Connection;
  /** The next stream that the listener's side got, whatever connection it came by. */
  acceptStream(): Promise<[stream: ByteStream, connection: Connection]>;
  /** Opens a stream, and gives both of its ends and the accepting side's connection. */
  open(): Promise<[near: ByteStream, far: ByteStream, accepted: Connection]>;
}

type WithPeers = (use: (peers: Peers) => Promise<void>, options?: ListenOptions, local?: Address) => Promise<void>;

async function runPeers(
  fixture: TransportFixture,
  use: (peers: Peers) => Promise<void>,
  options: ListenOptions = {},
  local: Address = fixture.listenAddress,
): Promise<void> {
  const transport = await fixture.transport();
  const listener = await transport.listen(local, options);
  const address = dialAddressOf(fixture, listener.address);
  const arrived: [ByteStream, Connection][] = [];
  const waiting: ((arrival: [ByteStream, Connection]) => void)[] = [];
  const arrive = (arrival: [ByteStream, Connection]): void => {
    const taker = waiting.shift();
    if (taker === undefined) arrived.push(arrival);
    else taker(arrival);
  };
  const accepting = each(listener.accept(), (connection) =>
    each(connection.accept(), async (stream) => arrive([stream, connection])),
  );
  const connection = await transport.dial(address);
  const acceptStream = (): Promise<[ByteStream, Connection]> =>
    new Promise((resolve) => {
      const arrival = arrived.shift();
      if (arrival === undefined) waiting.push(resolve);
      else resolve(arrival);
    });
  const open = async (): Promise<[ByteStream, ByteStream, Connection]> => {
    const near = await connection.openStream();
    // The other side need not see a stream before its first byte.
    await near.writer.write(Uint8Array.of(0));
    const [far, accepted] = await acceptStream();
    assert.deepEqual(await far.reader.read(), Uint8Array.of(0));
    return [near, far, accepted];
  };
  try {
    await use({ transport, listener, address, connection, acceptStream, open });
  } finally {
    await connection.close({ grace: 0 });
    await listener.close({ grace: 0 });
  }
  await accepting;
}

/** Echoes every stream that comes, but resets those whose first byte says so. */
function serveEchoes({ acceptStream }: Peers): { stop(): Promise<void> } {
  let stopped = false;
  const running: Promise<void>[] = [];
  const accepting = (async () => {
    for (;;) {
      const [stream] = await acceptStream();
      if (stopped) return;
      running.push(echo(stream).catch(() => {}));
    }
  })();
  accepting.catch(() => {});
  return {
    async stop() {
      stopped = true;
      await Promise.all(running);
    },
  };
}

/** One exchange with an echo; every seventh is aborted, every eleventh cancelled on its way. */
async function exchangeOne(connection: Connection, at: number): Promise<void> {
  const stream = await connection.openStream();
  const sent = seededBytes(at + 1, 1 + (at % 5000));
  if (at % 7 === 3) {
    await stream.writer.write(sent);
    stream.writer.abort();
    stream.reader.cancel();
  } else if (at % 11 === 5) {
    await stream.writer.write(sent);
    stream.reader.cancel();
    await stream.writer.end();
  } else {
    await stream.writer.write(sent);
    await stream.writer.end();
    assert.deepEqual(await readAll(stream), sent, `stream ${at}`);
  }
}

/** Whether a byte sent to `address`, where everything is echoed, comes back. */
async function isServed(transport: Transport, address: Address): Promise<boolean> {
  let connection: Connection | undefined;
  try {
    connection = await transport.dial(address, { signal: AbortSignal.timeout(20_000) });
    const stream = await connection.openStream();
    await stream.writer.write(Uint8Array.of(7));
    return (await stream.reader.read())?.[0] === 7;
  } catch {
    return false;
  } finally {
    connection?.abort();
  }
}

async function echo({ reader, writer }: ByteStream): Promise<void> {
  try {
    for (let chunk = await reader.read(); chunk !== undefined; chunk = await reader.read()) await writer.write(chunk);
    await writer.end();
  } catch (error) {
    reader.cancel();
    writer.abort();
    throw error;
  }
}

function giveUp({ reader, writer }: ByteStream): void {
  reader.cancel();
  writer.abort();
}

async function writeAll({ writer }: ByteStream, chunks: readonly Uint8Array[]): Promise<void> {
  for (const chunk of chunks) await writer.write(chunk);
  await writer.end();
}

/** Writes until that fails, and gives the error. */
async function writeUntilRefused(writer: ByteWriter): Promise<VortexError> {
  const chunk = new Uint8Array(16 * 1024);
  return rejectionOf(
    (async () => {
      for (let written = 0; written < 1024 * 1024 * 1024; written += chunk.length) await writer.write(chunk);
    })(),
  );
}

/** Reads `length` bytes, in however many chunks they come. */
async function readExactly(reader: ByteReader, length: number): Promise<Uint8Array> {
  let got: Uint8Array = new Uint8Array(0);
  while (got.length < length) {
    const chunk = await reader.read();
    if (chunk === undefined) return got;
    got = joined([got, chunk]);
  }
  return got;
}

/** Reads until that fails; a clean end resolves. */
async function readToFailure(reader: ByteReader): Promise<void> {
  while ((await reader.read()) !== undefined);
}

async function drained(...readers: ByteReader[]): Promise<void> {
  for (const reader of readers) assert.ok((await reader.read()) !== undefined);
}

function assertRepeats(chunk: Uint8Array, block: Uint8Array, offset: number): void {
  for (let at = 0; at < chunk.length; ) {
    const from = (offset + at) % block.length;
    const length = Math.min(block.length - from, chunk.length - at);
    const [got, expected] = [chunk.subarray(at, at + length), block.subarray(from, from + length)];
    // deepEqual is slow on long arrays, so it is only asked to tell the difference.
    if (Buffer.compare(got, expected) !== 0) assert.deepEqual(got, expected, `bytes from ${offset + at}`);
    at += length;
  }
}

/** Waits until a value has not changed for a while. */
async function standsStill(value: () => number): Promise<void> {
  for (let still = 0, last = value(); still < 15; still++) {
    await silence(10);
    if (value() !== last) {
      last = value();
      still = 0;
    }
  }
}

function silence(milliseconds = 200): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
  });
}

/** A turn of the event loop, in which what is under way on this machine may go on. */
function tick(): Promise<void> {
  return silence(1);
}

async function each<T>(items: AsyncIterable<T>, use: (item: T) => Promise<unknown>): Promise<void> {
  const running: Promise<unknown>[] = [];
  for await (const item of items) running.push(use(item));
  await Promise.all(running);
}

async function count<T>(items: AsyncIterable<T>, use: (item: T) => Promise<unknown> = async () => {}): Promise<number> {
  let seen = 0;
  await each(items, (item) => {
    seen++;
    return use(item);
  });
  return seen;
}

async function next<T>(items: AsyncIterable<T>): Promise<T> {
  for await (const item of items) return item;
  assert.fail("the loop ended without an item");
}

function text(value: string): Uint8Array {
  return new TextEncoder().encode(value);
}

export type { TransportFixture };
