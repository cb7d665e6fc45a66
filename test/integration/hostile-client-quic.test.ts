/** Datagrams and connections that are meant to do harm, against the QUIC server of each binding; an honest connection lives on beside them. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { datagramAttacks, STRANGE_SOURCES } from "../../bench/hostile/datagrams.ts";
import { encodePacket } from "../../src/protocol/packet.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { VortexServer } from "../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import type { Connection } from "../../src/transport/transport.ts";
import { fixtures } from "../support/fixtures.ts";
import { readAll } from "../support/hostile.ts";
import { seededBytes, seededRandom } from "../support/random.ts";

const limit = { timeout: 120_000 };
const taskId = "ab".repeat(32);
const content = seededBytes(4, 20_000);
const SILENCED =
  "BUG: Bun 1.4's node:quic sends a datagram that the system refuses again and again, and nothing else meanwhile; it is no default";
const MAX_CONNECTIONS = 8;
/** Few of each: the campaign makes many (`npm run hostile`). */
const TRIES: Readonly<Record<string, number>> = { datagram: 500, connection: 24 };

for (const [name, fixture] of Object.entries(fixtures)) {
  if (!fixture.overUdp) continue;
  describe(`hostile datagrams and connections, over ${name}`, () => {
    for (const attack of datagramAttacks(() => fixture.transport())) {
      const gap = name === "node-quic" && attack.name === STRANGE_SOURCES ? SILENCED : undefined;
      const title = `${attack.name}: an honest connection beside is served`;
      it(gap === undefined ? title : `${title} [gap: ${gap}]`, {
        ...limit,
        skip: gap !== undefined,
      }, async () => {
        const store = new MemoryPieceStore();
        store.putTask(taskId, content, { pieceLength: content.length });
        const transport = await fixture.transport();
        const server = await VortexServer.listen(
          transport,
          fixture.listenAddress,
          store,
          portableRuntime,
          {
            maxConnections: MAX_CONNECTIONS,
          },
        );
        const honest = await transport.dial(server.address);
        try {
          const target = {
            ...server.address,
            taskId,
            longTaskId: taskId,
            maxConnections: MAX_CONNECTIONS,
          };
          // Who has asked for something is not the first to make room.
          await assertServed(honest);
          let over = false;
          const attacking = attack
            .run(target, TRIES[attack.unit] ?? 1, seededRandom(9))
            .finally(() => {
              over = true;
            });
          do await assertServed(honest);
          while (!over);
          await assertServed(honest);
          for (const outcome of Object.keys(await attacking))
            assert.doesNotMatch(outcome, /^wrong/);
        } finally {
          honest.abort();
          await server.close({ grace: 0 });
        }
      });
    }
  });
}

async function assertServed(connection: Connection): Promise<void> {
  const stream = await connection.openStream();
  await stream.writer.end(
    encodePacket({ type: "download-piece", id: 1, kind: "standard", taskId, number: 0 }),
  );
  assert.deepEqual((await readAll(stream)).subarray(-content.length), content);
}
