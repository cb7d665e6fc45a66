/**
 * Compliance tests of `DialOptions.earlyData` (RFC 9001, section 4.6), for transports over UDP. A
 * relay holds the server's datagrams back. Data that arrives meanwhile was therefore sent before
 * the end of the handshake, on any machine.
 */
import assert from "node:assert/strict";
import { describe } from "node:test";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import { VortexDownloader } from "../../src/client/vortex/downloader.ts";
import { VortexError } from "../../src/errors.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { VortexServer } from "../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type {
  ByteStream,
  Connection,
  Listener,
  ListenOptions,
  Transport,
} from "../../src/transport/transport.ts";
import { rejectionOf } from "../support/failures.ts";
import { itUnlessGap, type TransportFixture, type TransportTuning } from "../support/fixture.ts";
import { readAll } from "../support/hostile.ts";
import { seededBytes } from "../support/random.ts";
import { type UdpRelay, udpRelay } from "../support/udp-relay.ts";

/** Registers the tests for a transport over UDP that can send early data. */
export function earlyDataCompliance(name: string, fixture: TransportFixture): void {
  const it = (test: string, run: () => Promise<void>): void => itUnlessGap(fixture, test, run);

  describe(`${name}: early data`, () => {
    it("a first connection sends no early data", () =>
      withEcho(fixture, {}, async ({ dial }) => {
        const connection = await dial();
        assert.deepEqual([connection.earlyData, connection.resumed], ["none", false]);
        await connection.ready;
        assert.deepEqual(await exchange(connection, "hello"), "hello");
        await connection.close();
      }));

    it("a second connection's first bytes arrive before the server has answered", () =>
      withEcho(fixture, {}, async ({ dial, relay, received }) => {
        await connectOnce(dial);
        const before = relay.counts.toClient;
        relay.hold();
        const connection = await dial();
        assert.equal(connection.earlyData, "pending");
        const stream = await connection.openStream();
        await write(stream, "early");
        await received("early");
        assert.equal(relay.counts.toClient, before);
        relay.release();
        assert.deepEqual(await textOf(stream), "early");
        await connection.ready;
        assert.deepEqual([connection.earlyData, connection.resumed], ["accepted", true]);
        assert.deepEqual(await exchange(connection, "and on"), "and on");
        await connection.close();
      }));

    it("each connection provides the session for the next", () =>
      withEcho(fixture, {}, async ({ dial }) => {
        await connectOnce(dial);
        for (const word of ["one", "two", "three"]) {
          const connection = await dial();
          assert.equal(connection.earlyData, "pending", word);
          assert.equal(await exchange(connection, word), word);
          await connection.ready;
          assert.equal(connection.earlyData, "accepted", word);
          await connection.close();
        }
      }));

    it("a name with one address resumes its session; one with several sends no early data", async () => {
      for (const [addresses, expected] of [
        [["127.0.0.1"], "pending"],
        [["127.0.0.1", "127.0.0.2"], "none"],
      ] as const) {
        await withEcho(
          fixture,
          {},
          async ({ dial, relay }) => {
            const host = "localhost";
            await connectOnce(() => dial({ host }));
            const connection = await dial({ host });
            assert.equal(connection.earlyData, expected);
            assert.deepEqual(connection.remote, { host, port: relay.address.port });
            assert.equal(await exchange(connection, "hello"), "hello");
            await connection.close();
          },
          { addresses },
        );
      }
    });

    it("without earlyData, dial waits for the handshake, and may resume the session", () =>
      withEcho(fixture, {}, async ({ dial }) => {
        await connectOnce(dial);
        const connection = await dial({ earlyData: false });
        assert.equal(connection.earlyData, "none");
        assert.equal(await exchange(connection, "late"), "late");
        await connection.close();
      }));

    it("a server that rejects early data receives the request after the handshake", () =>
      withEcho(fixture, { earlyData: false }, async ({ dial }) => {
        await connectOnce(dial);
        const connection = await dial();
        assert.equal(await exchangeWithRetry(connection, "late"), "late");
        assert.notEqual(connection.earlyData, "accepted");
        await connection.close();
      }));

    it("a restarted server refuses early data, and serves after the handshake", () =>
      withEcho(fixture, {}, async ({ dial, restart }) => {
        await connectOnce(dial);
        await restart();
        const connection = await dial();
        assert.equal(connection.earlyData, "pending");
        if (fixture.endsWithEarlyData === true) {
          assert.equal((await rejectionOf(exchange(connection, "early"))).code, "EarlyDataRefused");
          assert.equal((await connection.closed).error.code, "EarlyDataRefused");
          assert.equal((await rejectionOf(connection.ready)).code, "EarlyDataRefused");
          assert.deepEqual([connection.earlyData, connection.resumed], ["refused", false]);
          // The session of the former server is not used again.
          const next = await dial();
          assert.equal(next.earlyData, "none");
          assert.equal(await exchange(next, "once more"), "once more");
          await next.close();
          return;
        }
        assert.equal(await exchangeWithRetry(connection, "once more"), "once more");
        await connection.ready;
        assert.deepEqual([connection.earlyData, connection.resumed], ["refused", false]);
        await connection.close();
      }));

    it("streams aborted before the handshake do not hide that early data is refused", () =>
      withEcho(fixture, {}, async ({ dial, restart }) => {
        await connectOnce(dial);
        await restart();
        const connection = await dial();
        const stream = await connection.openStream();
        const reading = rejectionOf(stream.reader.read());
        stream.reader.cancel();
        stream.writer.abort();
        assert.equal((await reading).code, "Closed");
        if (fixture.endsWithEarlyData === true) {
          assert.equal((await connection.closed).error.code, "EarlyDataRefused");
        } else {
          await connection.ready;
          assert.equal(await exchange(connection, "go on"), "go on");
          await connection.close();
        }
        assert.equal(connection.earlyData, "refused");
      }));

    it("the signal ends a connection that is used before its handshake", () =>
      withEcho(fixture, {}, async ({ dial, relay }) => {
        await connectOnce(dial);
        relay.silence(true);
        const attempt = new AbortController();
        const connection = await dial({ signal: attempt.signal });
        assert.equal(connection.earlyData, "pending");
        const stream = await connection.openStream();
        await write(stream, "nobody hears");
        const reading = rejectionOf(stream.reader.read());
        const ready = rejectionOf(connection.ready);
        attempt.abort(new VortexError("ConnectTimeout", "no answer"));
        assert.equal((await reading).code, "ConnectTimeout");
        assert.equal((await ready).code, "ConnectTimeout");
        assert.equal((await connection.closed).error.code, "ConnectTimeout");
      }));

    it("a vanished peer is ConnectTimeout for a piece requested with early data", () =>
      withPieces(fixture, async ({ fetchPiece, relay, reconnect }) => {
        assert.deepEqual(await fetchPiece(0), piece(0));
        await reconnect();
        relay.silence(true);
        assert.equal((await rejectionOf(fetchPiece(1))).code, "ConnectTimeout");
      }));

    it("a downloader with a session requests its first piece before the handshake", () =>
      withPieces(fixture, async ({ fetchPiece, relay, reconnect, asked }) => {
        for (let early = false; !early; ) {
          try {
            assert.deepEqual(await fetchPiece(0), piece(0));
            await reconnect();
            relay.hold();
            const fetching = fetchPiece(1);
            fetching.catch(() => {});
            // The session arrives some time after the handshake. Without it, the held handshake
            // times out.
            early = await Promise.race([asked(1).then(() => true), fetching.then(() => false)]);
            relay.release();
            assert.deepEqual(await fetching, piece(1));
          } catch (error) {
            // Also on a machine that stalls for that long.
            if (!(error instanceof VortexError) || error.code !== "ConnectTimeout") throw error;
            early = false;
            relay.release();
          }
        }
      }));

    it("a downloader whose session is refused still receives its pieces", () =>
      withPieces(fixture, async ({ fetchPiece, reconnect, restart }) => {
        assert.deepEqual(await fetchPiece(0), piece(0));
        await restart();
        await reconnect();
        assert.deepEqual(
          await Promise.all([0, 1, 2, 3].map((number) => fetchPiece(number))),
          [0, 1, 2, 3].map(piece),
        );
      }));

    it("earlyData: false disables early data", () =>
      withPieces(
        fixture,
        async ({ fetchPiece, relay, reconnect, asked }) => {
          assert.deepEqual(await fetchPiece(0), piece(0));
          await reconnect();
          relay.hold();
          const before = relay.counts.toServer;
          const fetching = fetchPiece(1);
          let early = false;
          void asked(1).then(() => {
            early = true;
          });
          // The client retransmits its handshake, and does not send the request.
          while (relay.counts.toServer < before + 2) await pause();
          assert.equal(early, false);
          relay.release();
          assert.deepEqual(await fetching, piece(1));
        },
        false,
      ));
  });
}

/** An echo server behind a relay, and a client. */
interface Echo {
  readonly relay: UdpRelay;
  /** Dials the relay; `host` is a name for its address. */
  dial(options?: {
    readonly host?: string;
    readonly earlyData?: boolean;
    readonly signal?: AbortSignal;
  }): Promise<Connection>;
  /** Resolves when the server has read this text. */
  received(text: string): Promise<void>;
  /** Replaces the server by a new one at the same address, without the former's sessions. */
  restart(): Promise<void>;
}

/** Runs `use` with an echo server behind a relay. */
async function withEcho(
  fixture: TransportFixture,
  options: ListenOptions,
  use: (echo: Echo) => Promise<void>,
  tuning?: TransportTuning,
): Promise<void> {
  const [client, server] = [await fixture.transport(tuning), await fixture.transport()];
  const seen = eventPromises<string>();
  let listener = await server.listen(fixture.listenAddress, options);
  const { address } = listener;
  void serveEcho(listener, seen.happened);
  const relay = await udpRelay(address);
  try {
    await use({
      relay,
      dial: ({
        host = relay.address.host,
        earlyData = true,
        signal = AbortSignal.timeout(30_000),
      } = {}) => client.dial({ ...relay.address, host }, { earlyData, signal }),
      received: seen.wait,
      async restart() {
        await listener.close({ grace: 0 });
        listener = await (await fixture.transport()).listen(address, options);
        void serveEcho(listener, seen.happened);
      },
    });
  } finally {
    await listener.close({ grace: 0 });
    await relay.close();
  }
}

async function serveEcho(listener: Listener, onText: (text: string) => void): Promise<void> {
  for await (const connection of listener.accept()) {
    void (async () => {
      for await (const stream of connection.accept()) {
        void (async () => {
          const bytes = await readAll(stream);
          onText(new TextDecoder().decode(bytes));
          await stream.writer.write(bytes);
          await stream.writer.end();
        })().catch(() => {});
      }
    })();
  }
}

/** A server of pieces behind a relay, and a downloader. */
interface Pieces {
  readonly relay: UdpRelay;
  fetchPiece(number: number): Promise<Uint8Array>;
  /** Closes the downloader's connections, so that the next request dials again. */
  reconnect(): Promise<void>;
  /** Resolves when the server has received a request for this piece. */
  asked(number: number): Promise<void>;
  /** Replaces the server by a new one at the same address, without the former's sessions. */
  restart(): Promise<void>;
}

const TASK = "ab".repeat(32);
const PIECE_LENGTH = 50_000;

function piece(number: number): Uint8Array {
  return seededBytes(number + 1, PIECE_LENGTH);
}

/** Runs `use` with a server of pieces behind a relay, and a downloader. */
async function withPieces(
  fixture: TransportFixture,
  use: (pieces: Pieces) => Promise<void>,
  earlyData = true,
): Promise<void> {
  const seen = eventPromises<number>();
  const content = new Uint8Array(4 * PIECE_LENGTH);
  for (let number = 0; number < 4; number++) content.set(piece(number), number * PIECE_LENGTH);
  const stored = new MemoryPieceStore();
  stored.putTask(TASK, content, { pieceLength: PIECE_LENGTH });
  const store = {
    getPiece: (...args: Parameters<typeof stored.getPiece>) => {
      seen.happened(args[0].number);
      return stored.getPiece(...args);
    },
    getTask: (...args: Parameters<typeof stored.getTask>) => stored.getTask(...args),
  };
  let server = await VortexServer.listen(
    await fixture.transport(),
    fixture.listenAddress,
    store,
    portableRuntime,
  );
  const { address } = server;
  const relay = await udpRelay(address);
  const dialled: Connection[] = [];
  const transport = recording(await fixture.transport(), dialled);
  const settings = downloaderSettings({ earlyData, connectTimeout: 3_000 }, portableRuntime);
  await using downloader = new VortexDownloader(async () => transport, settings);
  try {
    await use({
      relay,
      async fetchPiece(number) {
        const request = {
          addr: formatAddress(relay.address),
          hostId: "host",
          taskId: TASK,
          number,
        };
        return (await downloader.downloadPiece(request)).bytes();
      },
      async reconnect() {
        await Promise.all(dialled.splice(0).map((connection) => connection.close({ grace: 0 })));
      },
      asked: seen.wait,
      async restart() {
        await server.close({ grace: 0 });
        server = await VortexServer.listen(
          await fixture.transport(),
          address,
          store,
          portableRuntime,
        );
      },
    });
  } finally {
    await server.close({ grace: 0 });
    await relay.close();
  }
}

/** Wraps a transport to record the connections that it dials. */
function recording(transport: Transport, dialled: Connection[]): Transport {
  return {
    protocol: transport.protocol,
    listen: (...args) => transport.listen(...args),
    async dial(...args) {
      const connection = await transport.dial(...args);
      dialled.push(connection);
      return connection;
    },
  };
}

/** Completes one connection, so that the client has a session. */
async function connectOnce(dial: Echo["dial"]): Promise<void> {
  const connection = await dial();
  assert.equal(await exchange(connection, "we meet"), "we meet");
  await connection.close();
}

async function exchange(connection: Connection, text: string): Promise<string> {
  const stream = await connection.openStream();
  await write(stream, text);
  return textOf(stream);
}

/** Like {@link exchange}, but repeats the exchange once if early data was refused. */
async function exchangeWithRetry(connection: Connection, text: string): Promise<string> {
  try {
    return await exchange(connection, text);
  } catch (error) {
    if (!(error instanceof VortexError) || error.code !== "EarlyDataRefused") throw error;
    return exchange(connection, text);
  }
}

async function write({ writer }: ByteStream, text: string): Promise<void> {
  await writer.write(new TextEncoder().encode(text));
  await writer.end();
}

async function textOf(stream: ByteStream): Promise<string> {
  return new TextDecoder().decode(await readAll(stream));
}

/** Creates promises for named events, which may already have happened. */
function eventPromises<T>(): { happened: (what: T) => void; wait: (what: T) => Promise<void> } {
  const past = new Set<T>();
  const waiting = new Map<T, () => void>();
  return {
    happened(what) {
      past.add(what);
      waiting.get(what)?.();
    },
    wait: (what) =>
      new Promise((resolve) => {
        if (past.has(what)) resolve();
        else waiting.set(what, resolve);
      }),
  };
}

function pause(): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, 5);
  });
}
