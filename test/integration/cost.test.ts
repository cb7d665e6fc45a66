/**
 * Cost of a transfer in countable units: datagrams, native calls, bytes allocated and bytes copied.
 * A change that adds a copy of each byte, or a call for each packet, fails here. `npm run bench`
 * measures the effect on time.
 *
 * Both ends run in this process. The number of datagrams per event-loop turn depends on the
 * machine. So calls are counted without a network, with a given number of datagrams per batch.
 */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { quicheTransport } from "../../adapters/quiche/lazy-transport.ts";
import { loadQuiche } from "../../adapters/quiche/native.ts";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import { tcpTransport } from "../../adapters/tcp/transport.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import type { PieceDownloader } from "../../src/client/downloader.ts";
import { QuicDownloader, TcpDownloader } from "../../src/client/vortex/downloader.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { VortexServer } from "../../src/server/vortex-server.ts";
import { memoryPieceStoreWith } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { MemoryTransport } from "../../src/transport/memory.ts";
import type { Transport } from "../../src/transport/transport.ts";
import { countBytes, countCalls } from "../support/cost.ts";
import { runtimeName } from "../support/fixtures.ts";
import { QuichePair } from "../support/quiche-pair.ts";
import { seededBytes } from "../support/random.ts";

const PIECE_BYTES = 4 * 1024 * 1024;
const PIECE_COUNT = 12;
/** Size of a reader's buffer, in bytes. */
const BUFFER_BYTES = 256 * 1024;
const TOTAL_BYTES = PIECE_BYTES * PIECE_COUNT;
const taskId = "c".repeat(64);
const runtime = { ...portableRuntime, hashers: nativeHashers };

describe("the cost of a transfer in the core", () => {
  it("is one allocation and one copy of each byte, both made by the in-memory transport", async () => {
    await using peers = await Peers.start(new MemoryTransport(), { host: "a", port: 1 });
    const { allocated, copied } = await peers.fetchAll();
    assert.ok(allocated < 1.01 * TOTAL_BYTES, `${allocated} bytes allocated for ${TOTAL_BYTES}`);
    assert.ok(copied < 1.01 * TOTAL_BYTES, `${copied} bytes copied for ${TOTAL_BYTES}`);
  });
});

describe("the cost of a transfer over TCP", () => {
  it("is one copy at most, from the socket's buffer to the reader's, and no allocation", async () => {
    await using peers = await Peers.start(tcpTransport, { host: "127.0.0.1", port: 0 });
    const { allocated, copied } = await peers.fetchAll();
    assert.ok(allocated < 0.05 * TOTAL_BYTES, `${allocated} bytes allocated for ${TOTAL_BYTES}`);
    assert.ok(copied <= 1.01 * TOTAL_BYTES, `${copied} bytes copied for ${TOTAL_BYTES}`);
  });
});

const quiche = runtimeName === "deno" ? describe.skip : describe;

quiche(
  runtimeName === "deno"
    ? "the cost of a transfer over quiche (gap: deno does not load the binding)"
    : "the cost of a transfer over quiche",
  () => {
    const payload = 16_000;
    let peers: Peers;
    before(async () => {
      const transport = await quicheTransport({ tls: { verify: false }, udpPayloadSize: payload });
      peers = await Peers.start(transport, { host: "127.0.0.1", port: 0 });
    });
    after(() => peers[Symbol.asyncDispose]());

    it("is no allocation and no copy in JavaScript", async () => {
      const { allocated, copied } = await peers.fetchAll();
      // Buffers for outgoing datagrams are allocated at first use, and kept.
      assert.ok(allocated < 0.05 * TOTAL_BYTES, `${allocated} bytes allocated for ${TOTAL_BYTES}`);
      assert.ok(copied < 0.01 * TOTAL_BYTES, `${copied} bytes copied for ${TOTAL_BYTES}`);
    });

    for (const [arriving, batch, acknowledgements, calls] of [
      ["one at a time", 1, 1 / 8, 10.2],
      ["eight together", 8, 1 / 8, 4.7],
      ["32 together", 32, 1 / 24, 3.4],
    ] as const) {
      it(`is full datagrams, few acknowledgements and few native calls, received ${arriving}`, async () => {
        const pair = await QuichePair.connect(payload);
        const answering = answerAll(pair);
        try {
          await pair.run(fetchOnce(pair), batch);
          const before = { ...pair.sent };
          const { Connection } = await loadQuiche();
          const counted = countCalls(
            (Connection as unknown as { readonly prototype: object }).prototype,
          );
          assert.equal(await pair.run(fetchOnce(pair), batch), PIECE_BYTES);
          counted.stop();
          const [sent, acks] = [pair.sent.server - before.server, pair.sent.client - before.client];
          // The last datagram of a chunk is not full. The factor 1.1 allows for retransmissions.
          const least =
            Math.ceil(PIECE_BYTES / (payload - PACKET_OVERHEAD_BYTES)) + PIECE_BYTES / CHUNK_BYTES;
          assert.ok(sent < 1.1 * least, `${sent} datagrams sent: ${least} hold the content`);
          assert.ok(
            acks < 1.15 * acknowledgements * sent,
            `${acks} acknowledgements of ${sent} datagrams`,
          );
          let all = 0;
          for (const times of counted.calls.values()) all += times;
          const each = all / (sent + acks);
          assert.ok(
            each < calls,
            `${each.toFixed(2)} native calls for each datagram: ${show(counted.calls)}`,
          );
          assert.ok(
            (counted.calls.get("readable") ?? 0) <= 2,
            "readable streams are listed only when there may be new ones",
          );
          assert.equal(counted.calls.get("stats") ?? 0, 0, "statistics are read only rarely");
        } finally {
          pair.close();
          await answering;
        }
      });
    }
  },
);

/** Upper bound for the bytes of a datagram that are not content. */
const PACKET_OVERHEAD_BYTES = 64;
/** Size of one write by the server, in bytes. */
const CHUNK_BYTES = 512 * 1024;

/** Answers every request on the server side, in sequence, with a piece in chunks. */
async function answerAll({ server }: QuichePair): Promise<void> {
  for await (const { reader, writer } of server.accept()) {
    while ((await reader.read(new Uint8Array(128))) !== undefined);
    for (let at = CHUNK_BYTES; at < PIECE_BYTES; at += CHUNK_BYTES)
      await writer.write(new Uint8Array(CHUNK_BYTES));
    await writer.end(new Uint8Array(CHUNK_BYTES));
  }
}

/** Requests a piece. Resolves with the number of received bytes. */
async function fetchOnce({ client }: QuichePair): Promise<number> {
  const { reader, writer } = await client.openStream();
  await writer.end(new Uint8Array(74));
  const room = new Uint8Array(BUFFER_BYTES);
  let length = 0;
  for (let chunk = await reader.read(room); chunk !== undefined; chunk = await reader.read(room))
    length += chunk.length;
  return length;
}

/** Server and downloader on one transport. */
class Peers {
  readonly #server: VortexServer;
  readonly #downloader: PieceDownloader;

  private constructor(server: VortexServer, downloader: PieceDownloader) {
    this.#server = server;
    this.#downloader = downloader;
  }

  static async start(
    transport: Transport,
    local: { readonly host: string; readonly port: number },
  ): Promise<Peers> {
    const store = memoryPieceStoreWith(nativeHashers);
    store.putTask(taskId, seededBytes(1, TOTAL_BYTES), { pieceLength: PIECE_BYTES });
    const server = await VortexServer.listen(transport, local, store, runtime);
    const peers = new Peers(
      server,
      new (transport.protocol === "tcp" ? TcpDownloader : QuicDownloader)(
        async () => transport,
        downloaderSettings({}, runtime),
      ),
    );
    // Excludes the dial and one-time allocations from the count.
    await peers.#fetch(0, new Uint8Array(BUFFER_BYTES));
    return peers;
  }

  /**
   * Fetches all pieces, four at a time, into four reused buffers. Resolves with the counted bytes.
   */
  async fetchAll(): Promise<{ readonly allocated: number; readonly copied: number }> {
    const memory = Array.from({ length: 4 }, () => new Uint8Array(BUFFER_BYTES));
    const counted = countBytes();
    try {
      let next = 0;
      await Promise.all(
        memory.map(async (room) => {
          while (next < PIECE_COUNT) await this.#fetch(next++, room);
        }),
      );
      return counted.costs();
    } finally {
      counted.stop();
    }
  }

  async #fetch(number: number, room: Uint8Array<ArrayBuffer>): Promise<void> {
    const addr = formatAddress(this.#server.address);
    const piece = await this.#downloader.downloadPiece({ addr, hostId: "h", taskId, number });
    let length = 0;
    // Only the length is checked: the digest has verified the content.
    for (let chunk = await piece.read(room); chunk !== undefined; chunk = await piece.read(room)) {
      length += chunk.length;
    }
    assert.equal(length, PIECE_BYTES);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#downloader.close();
    await this.#server.close({ grace: 0 });
  }
}

function show(calls: ReadonlyMap<string, number>): string {
  return [...calls].map(([name, count]) => `${name} ${count}`).join(", ");
}
