/** Compliance tests of data transfer: integrity, half-close and backpressure. */
import assert from "node:assert/strict";
import { describe } from "node:test";
import type { VortexError } from "../../src/errors.ts";
import { assertCutOff } from "../support/fixture.ts";
import { crc32Of, readAll } from "../support/hostile.ts";
import { chunked, joined, seededBytes, seededRandom } from "../support/random.ts";
import { assertRepeats, echo, type Suite, text, tick, waitUntilStable, writeAll } from "./peers.ts";

/** Registers the tests for one transport. */
export function bytesCompliance({ name, it, fixture, withPeers }: Suite): void {
  describe(`${name}: bytes`, () => {
    it("an echo returns many small writes in order", async () => {
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
      it(`64 MiB ${direction} the accepting side arrive intact`, async () => {
        await withPeers(async ({ open }) => {
          const [near, far] = await open();
          const [from, to] = swap ? [far, near] : [near, far];
          const block = seededBytes(3, 999_983);
          const total = 64 * 1024 * 1024;
          const writing = (async () => {
            for (let at = 0; at < total; at += block.length)
              await from.writer.write(block.slice(0, total - at));
            await from.writer.end();
          })();
          let at = 0;
          for (
            let chunk = await to.reader.read();
            chunk !== undefined;
            chunk = await to.reader.read()
          ) {
            assert.ok(chunk.length > 0, "an empty chunk");
            assertRepeats(chunk, block, at);
            at += chunk.length;
          }
          assert.equal(at, total);
          await writing;
        });
      });
    }

    it("an empty write produces no chunk", async () => {
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

    it("modifying a chunk after reading it does not affect later chunks", async () => {
      await withPeers(async ({ open }) => {
        const [near, far] = await open();
        const sent = seededBytes(4, 300_000);
        const writing = writeAll(near, [sent]);
        const copies: Uint8Array[] = [];
        for (
          let chunk = await far.reader.read();
          chunk !== undefined;
          chunk = await far.reader.read()
        ) {
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
    it("a side that has ended its direction still receives", async () => {
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

    for (const length of [1, 4000, 3_000_000]) {
      it(`end() delivers its last ${length} bytes`, async () => {
        await withPeers(async ({ open }) => {
          const [near, far] = await open();
          const last = seededBytes(5, length);
          const receiving = readAll(far);
          await near.writer.write(text("first"));
          await near.writer.end(last);
          assert.deepEqual(await receiving, joined([text("first"), last]));
          await assert.rejects(near.writer.end(last), { code: "Closed" });
        });
      });
    }

    it("the accepting side may end its direction first, and still receives", async () => {
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

    it("after the end, reads stay undefined, and end() and cancel() have no effect", async () => {
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

  describe(`${name}: flow control`, () => {
    it("a reader that stops blocks the writer, and loses nothing", async () => {
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
        await waitUntilStable(() => written);
        assert.ok(
          written < limit,
          `${written} bytes were taken from a writer whose reader does not read`,
        );
        stop = true;
        let at = 0;
        for (
          let chunk = await far.reader.read();
          chunk !== undefined;
          chunk = await far.reader.read()
        ) {
          assertRepeats(chunk, block, at);
          at += chunk.length;
        }
        await writing;
        assert.equal(at, written);
      });
    });

    it("a blocked stream does not block another stream", async () => {
      await withPeers(async ({ open }) => {
        const [held, heldFar] = await open();
        let written = 0;
        const holding = (async () => {
          for (;;) {
            await held.writer.write(new Uint8Array(65_536));
            written += 65_536;
          }
        })().catch((error: VortexError) => error.code);
        await waitUntilStable(() => written);
        const [near, far] = await open();
        const sent = seededBytes(6, 1024 * 1024);
        // Exceeds the flow-control window of any connection.
        const chunks = Array.from({ length: 40 }, () => sent);
        const echoing = echo(far);
        const receiving = readAll(near);
        await writeAll(near, chunks);
        assert.equal(crc32Of(await receiving), crc32Of(joined(chunks)));
        await echoing;
        held.writer.abort();
        assert.equal(await holding, "Closed");
        await assertCutOff(fixture, readAll(heldFar));
      });
    });

    it("a waiting reader receives each chunk as it arrives", async () => {
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
}
