/**
 * Hostile datagrams and connections against the QUIC server of each binding, beside an honest
 * connection.
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { datagramAttacks, UNANSWERABLE_SOURCES } from "../../bench/hostile/datagrams.ts";
import { encodePacket } from "../../src/protocol/packet.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { VortexServer } from "../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import type { Connection } from "../../src/transport/transport.ts";
import { fixtures } from "../support/fixtures.ts";
import { readAll } from "../support/hostile.ts";
import { seededBytes, seededRandom } from "../support/random.ts";

const testOptions = { timeout: 120_000 };
const taskId = "ab".repeat(32);
const content = seededBytes(4, 20_000);
const NODE_QUIC_BUG =
  "BUG: Bun 1.4's node:quic retries a datagram that the system refuses, and sends nothing else meanwhile; it is opt-in";
const MAX_CONNECTIONS = 8;
/** Number of tries of each attack. The campaign, `npm run hostile`, makes many. */
const TRIES: Readonly<Record<string, number>> = { datagram: 500, connection: 24 };

for (const [name, fixture] of Object.entries(fixtures)) {
  if (!fixture.overUdp) continue;
  describe(`hostile datagrams and connections, over ${name}`, () => {
    for (const attack of datagramAttacks(() => fixture.transport())) {
      const gap =
        name === "node-quic" && attack.name === UNANSWERABLE_SOURCES ? NODE_QUIC_BUG : undefined;
      const title = `${attack.name}: an honest connection is served meanwhile`;
      it(gap === undefined ? title : `${title} [gap: ${gap}]`, {
        ...testOptions,
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
          // A connection that has made a request is not evicted first.
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
