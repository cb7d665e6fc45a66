/** Compliance tests of connection migration after NAT rebinding (RFC 9000, sections 5.1 and 9). */
import assert from "node:assert/strict";
import { describe } from "node:test";
import { readAll } from "../support/hostile.ts";
import { joined, seededBytes } from "../support/random.ts";
import { echo, readExactly, type Suite, text, writeAll } from "./peers.ts";

const MEBI = 1024 * 1024;

/** Registers the tests for one transport over UDP. */
export function pathsCompliance({ name, it, withPeers }: Suite): void {
  describe(`${name}: migration`, () => {
    it("NAT rebinding keeps a client's connection and streams", async () => {
      await withPeers(
        async ({ open, relay }) => {
          const [near, far] = await open();
          for (let binding = 0; binding < 3; binding++) {
            relay?.rebind();
            await near.writer.write(text("from here"));
            assert.deepEqual(await readExactly(far.reader, 9), text("from here"));
            await far.writer.write(text("and back"));
            assert.deepEqual(await readExactly(near.reader, 8), text("and back"));
            const [late, lateFar] = await open();
            await Promise.all([echo(lateFar), writeAll(late, [text("a new one")])]);
            assert.deepEqual(await readAll(late), text("a new one"));
          }
        },
        { relayed: true },
      );
    });

    it("repeated rebinding during a transfer loses no bytes in either direction", async () => {
      await withPeers(
        async ({ open, relay }) => {
          const [near, far] = await open();
          const sent = seededBytes(11, 4 * MEBI);
          const echoing = echo(far);
          const writing = writeAll(near, [sent]);
          const chunks: Uint8Array[] = [];
          let received = 0;
          for (
            let chunk = await near.reader.read();
            chunk !== undefined;
            chunk = await near.reader.read()
          ) {
            const before = Math.floor(received / MEBI);
            received += chunk.length;
            if (Math.floor(received / MEBI) > before) relay?.rebind();
            chunks.push(chunk);
          }
          await Promise.all([echoing, writing]);
          assert.equal(received, sent.length);
          assert.deepEqual(joined(chunks), sent);
        },
        { relayed: true },
      );
    });
  });
}
