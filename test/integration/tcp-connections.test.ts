/** TCP connections that carry several requests: our server, and stand-ins for dfdaemon. */
import assert from "node:assert/strict";
import { connect, createServer, type Socket } from "node:net";
import { describe, it } from "node:test";
import { tcpTransport } from "../../adapters/tcp/transport.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import { VortexDownloader } from "../../src/client/vortex/downloader.ts";
import { portableRuntime, type Runtime } from "../../src/runtime.ts";
import { VortexServer } from "../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import type { OperationResult, Telemetry } from "../../src/telemetry.ts";
import type { Listener, Transport } from "../../src/transport/transport.ts";
import {
  readAnswer,
  readRequest,
  stockAnswer,
  stockNotFound,
  stockRequest,
} from "../interop/stock-wire.ts";
import { assertRejects } from "../support/failures.ts";
import { type FakeClock, fakeRuntime, settle } from "../support/fake-clock.ts";
import { joined, seededBytes } from "../support/random.ts";

const taskId = "c5".repeat(32);
const local = { host: "127.0.0.1", port: 0 };
const PIECES = 25;
const PIECE_LENGTH = 20_000;
const CONCURRENT = 8;
const REQUEST_BYTES = 74;
const content = seededBytes(30, PIECES * PIECE_LENGTH);
const testOptions = { timeout: 60_000 };

function pieceAt(number: number): Uint8Array {
  return content.subarray(number * PIECE_LENGTH, (number + 1) * PIECE_LENGTH);
}

/** Counts the connections that a transport accepts, and those that are open. */
function counting(transport: Transport): { transport: Transport; accepted: () => number } {
  let accepted = 0;
  return {
    accepted: () => accepted,
    transport: {
      protocol: transport.protocol,
      dial: (remote, options) => transport.dial(remote, options),
      async listen(address, options): Promise<Listener> {
        const listener = await transport.listen(address, options);
        return {
          address: listener.address,
          fingerprint: listener.fingerprint,
          setIdentity: (identity) => listener.setIdentity(identity),
          close: (close) => listener.close(close),
          async *accept() {
            for await (const connection of listener.accept()) {
              accepted++;
              yield connection;
            }
          },
        };
      },
    },
  };
}

/** Counts requests that have begun and ended. */
class Spans implements Telemetry {
  begun = 0;
  readonly ended: string[] = [];

  begin() {
    this.begun++;
    return {
      run: <T>(work: () => T): T => work(),
      end: ({ bytes, error }: OperationResult): void => {
        this.ended.push(String(error?.code ?? bytes));
      },
    };
  }
}

interface Served {
  readonly server: VortexServer;
  readonly port: number;
  readonly accepted: () => number;
  readonly spans: Spans;
}

async function startServer(runtime: Runtime = portableRuntime): Promise<Served> {
  const { transport, accepted } = counting(tcpTransport);
  const store = new MemoryPieceStore();
  store.putTask(taskId, content, { pieceLength: PIECE_LENGTH });
  const spans = new Spans();
  const server = await VortexServer.listen(transport, local, store, runtime, { telemetry: spans });
  return { server, port: server.address.port, accepted, spans };
}

function downloaderOf(): VortexDownloader {
  return new VortexDownloader(async () => tcpTransport, downloaderSettings({}, portableRuntime));
}

/** Fetches all pieces, and checks them. */
async function fetchAll(downloader: VortexDownloader, port: number): Promise<void> {
  let next = 0;
  await Promise.all(
    Array.from({ length: CONCURRENT }, async () => {
      for (let number = next++; number < PIECES; number = next++) {
        const request = { addr: `127.0.0.1:${port}`, hostId: "h", taskId, number };
        const piece = await downloader.downloadPiece(request);
        assert.deepEqual(await piece.bytes(), pieceAt(number));
      }
    }),
  );
}

/** Stand-in for dfdaemon that answers requests over TCP. */
interface StandIn {
  readonly port: number;
  /** Number of accepted connections. */
  readonly accepted: () => number;
  /** Numbers of the requested pieces, one array for each connection. */
  readonly requests: readonly number[][];
  readonly sockets: readonly Socket[];
  close(): Promise<void>;
}

/**
 * Starts a stand-in. Calls `afterAnswer` after each response, with the number of responses on the
 * connection so far. dfdaemon up to 1.5.6 ends the connection after the first.
 */
async function standIn(afterAnswer: (socket: Socket, answers: number) => void): Promise<StandIn> {
  const requests: number[][] = [];
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    const own: number[] = [];
    requests.push(own);
    sockets.push(socket);
    let received = new Uint8Array(0);
    socket.on("error", () => {});
    socket.on("data", (chunk: Uint8Array) => {
      received = Uint8Array.of(...received, ...chunk);
      while (received.length >= REQUEST_BYTES && socket.writable) {
        const request = readRequest(received.slice(0, REQUEST_BYTES));
        received = received.slice(REQUEST_BYTES);
        const { id = 0, number = 0 } = request ?? {};
        own.push(number);
        if (number >= PIECES) socket.write(stockNotFound(id));
        else {
          const piece = pieceAt(number);
          const head = stockAnswer(id, number, number * PIECE_LENGTH, piece);
          socket.write(joined([head, piece]));
        }
        afterAnswer(socket, own.length);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, local.host, resolve));
  const address = server.address();
  return {
    port: typeof address === "object" && address !== null ? address.port : 0,
    accepted: () => sockets.length,
    requests,
    sockets,
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

describe("connections of a client", () => {
  it("25 pieces take at most 8 connections to a server, twice in a row", testOptions, async () => {
    const { server, port, accepted, spans } = await startServer();
    const downloader = downloaderOf();
    await fetchAll(downloader, port);
    await fetchAll(downloader, port);
    assert.ok(accepted() <= CONCURRENT, `${accepted()} connections`);
    await downloader.close();
    await server.close();
    assert.deepEqual([spans.begun, spans.ended], [50, Array(50).fill(String(PIECE_LENGTH))]);
  });

  it("25 pieces take at most 8 connections to dfdaemon 1.5.10", testOptions, async () => {
    const peer = await standIn(() => {});
    const downloader = downloaderOf();
    await fetchAll(downloader, peer.port);
    assert.ok(peer.accepted() <= CONCURRENT, `${peer.accepted()} connections`);
    assert.equal(peer.requests.flat().length, PIECES);
    await downloader.close();
    await peer.close();
  });

  it(
    "a peer that closes after one response is sent one request a connection",
    testOptions,
    async () => {
      const peer = await standIn((socket) => socket.end());
      const downloader = downloaderOf();
      await fetchAll(downloader, peer.port);
      await fetchAll(downloader, peer.port);
      assert.ok(peer.requests.every((numbers) => numbers.length <= 1));
      assert.equal(peer.requests.flat().length, 2 * PIECES);
      await downloader.close();
      await peer.close();
    },
  );

  it("an error packet leaves the connection in use", testOptions, async () => {
    const peer = await standIn(() => {});
    const downloader = downloaderOf();
    const request = { addr: `127.0.0.1:${peer.port}`, hostId: "h", taskId };
    for (const number of [PIECES, PIECES + 1])
      await assertRejects(downloader.downloadPiece({ ...request, number }), "NotFound");
    const piece = await downloader.downloadPiece({ ...request, number: 0 });
    assert.deepEqual(await piece.bytes(), pieceAt(0));
    assert.equal(peer.accepted(), 1);
    await downloader.close();
    await peer.close();
  });

  it("content left unread closes the connection", testOptions, async () => {
    const peer = await standIn(() => {});
    const downloader = downloaderOf();
    const request = { addr: `127.0.0.1:${peer.port}`, hostId: "h", taskId };
    (await downloader.downloadPiece({ ...request, number: 0 })).cancel();
    const part = { ...request, number: 1, range: { start: 0, end: 10 } };
    assert.equal((await (await downloader.downloadPiece(part)).bytes()).length, 10);
    await (await downloader.downloadPiece({ ...request, number: 2 })).bytes();
    assert.deepEqual(peer.requests, [[0], [1], [2]]);
    await downloader.close();
    await peer.close();
  });

  it(
    "a reused connection that is reset before the response: the request is repeated on a new one",
    testOptions,
    async () => {
      // The third request on a connection is not answered.
      const peer = await standIn((socket, answers) => {
        if (answers < 2) return;
        socket.removeAllListeners("data");
        socket.once("data", () => socket.resetAndDestroy());
      });
      const downloader = downloaderOf();
      const request = { addr: `127.0.0.1:${peer.port}`, hostId: "h", taskId };
      for (let number = 0; number < 5; number++) {
        const piece = await downloader.downloadPiece({ ...request, number });
        assert.deepEqual(await piece.bytes(), pieceAt(number));
      }
      assert.deepEqual(peer.requests, [[0, 1], [2, 3], [4]]);
      await downloader.close();
      await peer.close();
    },
  );

  it("a new connection that ends before the response is not repeated", testOptions, async () => {
    let accepted = 0;
    const server = createServer((socket) => {
      accepted++;
      socket.on("error", () => {});
      socket.once("data", () => socket.end());
    });
    await new Promise<void>((resolve) => server.listen(0, local.host, resolve));
    const { port } = server.address() as { port: number };
    const downloader = downloaderOf();
    const request = { addr: `127.0.0.1:${port}`, hostId: "h", taskId, number: 0 };
    await assertRejects(downloader.downloadPiece(request), "TruncatedContent");
    assert.equal(accepted, 1);
    await downloader.close();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  });

  for (const [what, disturb] of [
    ["a FIN", (socket: Socket) => socket.end()],
    ["a byte", (socket: Socket) => socket.write(Uint8Array.of(1))],
  ] as const) {
    it(`${what} on an idle connection closes it`, testOptions, async () => {
      const peer = await standIn(() => {});
      const downloader = downloaderOf();
      const request = { addr: `127.0.0.1:${peer.port}`, hostId: "h", taskId };
      for (const number of [0, 1])
        await (await downloader.downloadPiece({ ...request, number })).bytes();
      const [socket] = peer.sockets;
      assert.ok(socket !== undefined);
      const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
      disturb(socket);
      await closed;
      await (await downloader.downloadPiece({ ...request, number: 2 })).bytes();
      assert.deepEqual(peer.requests, [[0, 1], [2]]);
      await downloader.close();
      await peer.close();
    });
  }

  it("close() closes idle connections", testOptions, async () => {
    const peer = await standIn(() => {});
    const downloader = downloaderOf();
    await fetchAll(downloader, peer.port);
    const closed = Promise.all(
      peer.sockets.map(
        (socket) => new Promise<void>((resolve) => socket.once("close", () => resolve())),
      ),
    );
    await downloader.close();
    await closed;
    await peer.close();
  });
});

describe("connections of a server", () => {
  it(
    "close() drops the idle connections of a client without any wait, and each span has ended",
    testOptions,
    async () => {
      const { clock } = fakeRuntime();
      const { server, port, spans } = await startServer(fakeRuntime(clock));
      const downloader = downloaderOf();
      await fetchAll(downloader, port);
      assert.deepEqual([spans.begun, spans.ended.length], [PIECES, PIECES]);
      // The time of this clock does not advance, so any wait for a timer would never end.
      await server.close();
      await downloader.close();
    },
  );

  /** Connects to a server, and collects what it sends. */
  function client(port: number) {
    const socket = connect({ port, host: local.host, allowHalfOpen: true });
    const chunks: Uint8Array[] = [];
    const ended = new Promise<void>((resolve) => socket.once("end", () => resolve()));
    socket.on("error", () => {});
    socket.on("data", (chunk: Uint8Array) => chunks.push(chunk));
    const received = async (length: number): Promise<Uint8Array> => {
      while (joined(chunks).length < length)
        await new Promise<void>((resolve) => socket.once("data", () => resolve()));
      return joined(chunks);
    };
    return { socket, ended, received };
  }

  /** Waits until a server has accepted `count` connections. */
  async function accepting(accepted: () => number, count: number): Promise<void> {
    while (accepted() < count) await settle();
  }

  it(
    "an idle connection receives a FIN after 30 s, before and after a request",
    testOptions,
    async () => {
      const clock: FakeClock = fakeRuntime().clock;
      const { server, port, spans, accepted } = await startServer(fakeRuntime(clock));
      for (const requests of [0, 1]) {
        const { socket, ended, received } = client(port);
        await accepting(accepted, requests + 1);
        for (let sent = 0; sent < requests; sent++) {
          socket.write(stockRequest(1, taskId, 0));
          await received(PIECE_LENGTH);
          while (spans.ended.length === 0) await clock.advance(0);
        }
        const waited = await clock.advanceUntil(ended, 30_000, 1000);
        assert.ok(waited >= 29_000, `${waited} ms`);
        socket.end();
      }
      await server.close();
    },
  );

  it(
    "a client that ends its direction is answered, then the connection ends",
    testOptions,
    async () => {
      const { server, port } = await startServer();
      const { socket, ended, received } = client(port);
      socket.end(stockRequest(1, taskId, 3));
      await ended;
      const { number, content: piece } = readAnswer(await received(0));
      assert.deepEqual([number, piece], [3, pieceAt(3)]);
      await server.close();
    },
  );

  it("requests in one packet are answered one after another", testOptions, async () => {
    const { server, port, accepted } = await startServer();
    const { socket, ended, received } = client(port);
    socket.write(joined([0, 1, 2].map((number) => stockRequest(number, taskId, number))));
    socket.end();
    await ended;
    const all = await received(0);
    let at = 0;
    for (const number of [0, 1, 2]) {
      const metadata = new DataView(all.buffer, all.byteOffset + at).getUint32(6);
      const end = at + 10 + metadata + PIECE_LENGTH;
      assert.deepEqual(readAnswer(all.subarray(at, end)).content, pieceAt(number));
      at = end;
    }
    assert.equal(accepted(), 1);
    await server.close();
  });

  it(
    "the deadline of a request begins with its first byte, on an idle connection too",
    testOptions,
    async () => {
      const clock: FakeClock = fakeRuntime().clock;
      const { server, port, spans } = await startServer(fakeRuntime(clock));
      const { socket, received } = client(port);
      socket.write(stockRequest(1, taskId, 0));
      await received(PIECE_LENGTH);
      while (spans.ended.length === 0) await clock.advance(0);
      // Longer than requestTimeout (10 s), and shorter than the limit of an idle connection.
      await clock.advance(20_000);
      socket.write(stockRequest(1, taskId, 1).subarray(0, 10));
      const closed = new Promise<void>((resolve) => {
        // Deno's reset may arrive as an end.
        socket.once("end", resolve).once("close", () => resolve());
      });
      const waited = await clock.advanceUntil(closed, 10_000, 1000);
      assert.ok(waited >= 9_000, `${waited} ms`);
      await server.close();
    },
  );
});
