/**
 * What a megabyte costs, in things that can be counted: datagrams, calls of the native binding, turns of the event loop, bytes of
 * memory taken, bytes copied. A change that adds a copy of each byte, or a call for each packet, fails here; `npm run bench` tells
 * what that is worth.
 *
 * Both ends run in this process. How many datagrams one turn of the loop takes in depends on the machine, so the bounds hold for one
 * at a time, the worst of all cases.
 */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { nativeHashers } from "../../adapters/native-hashers.ts";
import { loadQuiche } from "../../adapters/quiche/native.ts";
import { quicheTransport } from "../../adapters/quiche/transport.ts";
import { tcpTransport } from "../../adapters/tcp/transport.ts";
import type { Downloader } from "../../src/client/downloader.ts";
import { downloaderSettings } from "../../src/client/settings.ts";
import { QuicDownloader, TcpDownloader } from "../../src/client/vortex-downloader.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { MemoryPieceStore } from "../../src/server/memory-store.ts";
import { VortexServer } from "../../src/server/vortex-server.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { MemoryTransport } from "../../src/transport/memory.ts";
import type { Transport } from "../../src/transport/transport.ts";
import { countBytes, countCalls } from "../support/cost.ts";
import { runtimeName } from "../support/fixtures.ts";
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

    it("full datagrams, few acknowledgements, few calls of the binding, no list of readable streams a datagram", async () => {
      const { Connection } = await loadQuiche();
      const counted = countCalls((Connection as unknown as { readonly prototype: object }).prototype);
      await peers.fetchAll();
      counted.stop();
      const count = (of: ReadonlyMap<string, number>, name: string): number => of.get(name) ?? 0;
      const least = BYTES / payload;
      const sent = count(counted.fruitful, "send");
      const received = count(counted.calls, "recv");
      // Content in full datagrams, and at most half a datagram of everything else for each of them.
      assert.ok(sent < 1.5 * least + 50 * PIECES, `${sent} datagrams sent: ${Math.ceil(least)} hold the content`);
      let all = 0;
      for (const calls of counted.calls.values()) all += calls;
      const perDatagram = all / (sent + received);
      assert.ok(
        perDatagram < 12,
        `${perDatagram.toFixed(1)} native calls for each datagram sent or received: ${show(counted.calls)}`,
      );
      // On the client, never; on the server, where there may be new streams.
      assert.ok(count(counted.calls, "readable") < 20 * PIECES, `${count(counted.calls, "readable")} lists of streams`);
      assert.ok(
        count(counted.calls, "stats") + count(counted.calls, "pathStats") < PIECES,
        "statistics are for once in a while",
      );
    });
  },
);

/** A server and a downloader on one transport. */
class Peers {
  readonly #server: VortexServer;
  readonly #downloader: Downloader;

  private constructor(server: VortexServer, downloader: Downloader) {
    this.#server = server;
    this.#downloader = downloader;
  }

  static async start(transport: Transport, local: { readonly host: string; readonly port: number }): Promise<Peers> {
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
