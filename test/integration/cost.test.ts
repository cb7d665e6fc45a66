/**
 * What a megabyte costs, in things that can be counted: datagrams, calls of the native binding, turns of the event loop, bytes of
 * memory taken, bytes copied. A change that adds a copy of each byte, or a call for each packet, fails here; `npm run bench` tells
 * what that is worth.
 *
 * Both ends run in this process. How many datagrams one turn of the loop takes in depends on the machine, so calls are counted with no
 * network in between, where the test says how many come together.
 */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { loadQuiche } from "../../adapters/quiche/native.ts";
import { quicheTransport } from "../../adapters/quiche/transport.ts";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import { tcpTransport } from "../../adapters/tcp/transport.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import type { Downloader } from "../../src/client/downloader.ts";
import { QuicDownloader, TcpDownloader } from "../../src/client/vortex/downloader.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { VortexServer } from "../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { MemoryTransport } from "../../src/transport/memory.ts";
import type { Transport } from "../../src/transport/transport.ts";
import { countBytes, countCalls } from "../support/cost.ts";
import { runtimeName } from "../support/fixtures.ts";
import { QuichePair } from "../support/quiche-pair.ts";
import { seededBytes } from "../support/random.ts";

const PIECE = 4 * 1024 * 1024;
const PIECES = 12;
/** Bytes of memory that a reader has. */
const ROOM = 256 * 1024;
const BYTES = PIECE * PIECES;
const taskId = "c".repeat(64);
const runtime = { ...portableRuntime, hashers: nativeHashers };

describe("what a megabyte costs in the core", () => {
  it("no memory and no copy but the ones that the transport in memory makes between its two ends", async () => {
    await using peers = await Peers.start(new MemoryTransport(), { host: "a", port: 1 });
    const { allocated, copied } = await peers.fetchAll();
    assert.ok(allocated < 1.01 * BYTES, `${allocated} bytes allocated for ${BYTES}`);
    assert.ok(copied < 1.01 * BYTES, `${copied} bytes copied for ${BYTES}`);
  });
});

describe("what a megabyte costs over TCP", () => {
  it("one copy at most, from the socket's memory to the reader's, and no memory", async () => {
    await using peers = await Peers.start(tcpTransport, { host: "127.0.0.1", port: 0 });
    const { allocated, copied } = await peers.fetchAll();
    assert.ok(allocated < 0.05 * BYTES, `${allocated} bytes allocated for ${BYTES}`);
    assert.ok(copied <= 1.01 * BYTES, `${copied} bytes copied for ${BYTES}`);
  });
});

const quiche = runtimeName === "deno" ? describe.skip : describe;

quiche(
  runtimeName === "deno"
    ? "what a megabyte costs over quiche (gap: deno does not load the binding)"
    : "what a megabyte costs over quiche",
  () => {
    const payload = 16_000;
    let peers: Peers;
    before(async () => {
      const transport = await quicheTransport({ tls: { verify: false }, udpPayloadSize: payload });
      peers = await Peers.start(transport, { host: "127.0.0.1", port: 0 });
    });
    after(() => peers[Symbol.asyncDispose]());

    it("no memory and no copy in JavaScript", async () => {
      const { allocated, copied } = await peers.fetchAll();
      // The memory for datagrams to send is made when it is first needed, and kept.
      assert.ok(allocated < 0.05 * BYTES, `${allocated} bytes allocated for ${BYTES}`);
      assert.ok(copied < 0.01 * BYTES, `${copied} bytes copied for ${BYTES}`);
    });

    for (const [arriving, batch, acknowledgements, calls] of [
      ["one at a time", 1, 1 / 8, 10.2],
      ["eight together", 8, 1 / 8, 4.7],
      ["32 together", 32, 1 / 24, 3.4],
    ] as const) {
      it(`with datagrams that come ${arriving}: full ones, few acknowledgements, few calls of the binding`, async () => {
        const pair = await QuichePair.connect(payload);
        const answering = answerAll(pair);
        try {
          await pair.run(fetchOnce(pair), batch);
          const before = { ...pair.sent };
          const { Connection } = await loadQuiche();
          const counted = countCalls(
            (Connection as unknown as { readonly prototype: object }).prototype,
          );
          assert.equal(await pair.run(fetchOnce(pair), batch), PIECE);
          counted.stop();
          const [sent, acks] = [pair.sent.server - before.server, pair.sent.client - before.client];
          // A chunk's last datagram is not full; the same again for what may be sent twice.
          const least = Math.ceil(PIECE / (payload - PACKET_OVERHEAD)) + PIECE / CHUNK;
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
            "readable streams are listed when there may be new ones",
          );
          assert.equal(counted.calls.get("stats") ?? 0, 0, "statistics are for once in a while");
        } finally {
          pair.close();
          await answering;
        }
      });
    }
  },
);

/** Bytes of a datagram that are not content, and some more. */
const PACKET_OVERHEAD = 64;
/** Bytes that the answering side writes at a time. */
const CHUNK = 512 * 1024;

/** Answers every request on the accepting side, one after the other, with a piece in chunks. */
async function answerAll({ server }: QuichePair): Promise<void> {
  for await (const { reader, writer } of server.accept()) {
    while ((await reader.read(new Uint8Array(128))) !== undefined);
    for (let at = CHUNK; at < PIECE; at += CHUNK) await writer.write(new Uint8Array(CHUNK));
    await writer.end(new Uint8Array(CHUNK));
  }
}

/** Asks for a piece; the bytes that came. */
async function fetchOnce({ client }: QuichePair): Promise<number> {
  const { reader, writer } = await client.openStream();
  await writer.end(new Uint8Array(74));
  const room = new Uint8Array(ROOM);
  let length = 0;
  for (let chunk = await reader.read(room); chunk !== undefined; chunk = await reader.read(room))
    length += chunk.length;
  return length;
}

/** A server and a downloader on one transport. */
class Peers {
  readonly #server: VortexServer;
  readonly #downloader: Downloader;

  private constructor(server: VortexServer, downloader: Downloader) {
    this.#server = server;
    this.#downloader = downloader;
  }

  static async start(
    transport: Transport,
    local: { readonly host: string; readonly port: number },
  ): Promise<Peers> {
    const store = new MemoryPieceStore(nativeHashers);
    store.putTask(taskId, seededBytes(1, BYTES), { pieceLength: PIECE });
    const server = await VortexServer.listen(transport, local, store, runtime);
    const peers = new Peers(
      server,
      new (transport.protocol === "tcp" ? TcpDownloader : QuicDownloader)(
        async () => transport,
        downloaderSettings({}, runtime),
      ),
    );
    // So that neither the dial nor what is made once counts.
    await peers.#fetch(0, new Uint8Array(ROOM));
    return peers;
  }

  /** Fetches all pieces, four at a time, each into the same memory of its reader; the bytes that this cost. */
  async fetchAll(): Promise<{ readonly allocated: number; readonly copied: number }> {
    const memory = Array.from({ length: 4 }, () => new Uint8Array(ROOM));
    const counted = countBytes();
    try {
      let next = 0;
      await Promise.all(
        memory.map(async (room) => {
          while (next < PIECES) await this.#fetch(next++, room);
        }),
      );
      return counted.costs();
    } finally {
      counted.stop();
    }
  }

  async #fetch(number: number, room: Uint8Array): Promise<void> {
    const addr = formatAddress(this.#server.address);
    const piece = await this.#downloader.downloadPiece({ addr, hostId: "h", taskId, number });
    let length = 0;
    // What is checked here is the way of the bytes; that they are right, the digest has said.
    for (let chunk = await piece.read(room); chunk !== undefined; chunk = await piece.read(room)) {
      length += chunk.length;
    }
    assert.equal(length, PIECE);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#downloader.close();
    await this.#server.close({ grace: 0 });
  }
}

function show(calls: ReadonlyMap<string, number>): string {
  return [...calls].map(([name, count]) => `${name} ${count}`).join(", ");
}
