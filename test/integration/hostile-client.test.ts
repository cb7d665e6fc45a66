import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { VortexError } from "../../src/errors.ts";
import { type PieceKind, pieceKinds } from "../../src/piece.ts";
import { PacketDecoder } from "../../src/protocol/decoder.ts";
import { encodePacket, type Packet, RemoteErrorCode } from "../../src/protocol/packet.ts";
import { Tag } from "../../src/protocol/tags.ts";
import { EVICTION_DELAY_MS } from "../../src/server/admission/connection-slots.ts";
import type { ServerOptions } from "../../src/server/admission/upload.ts";
import { VortexServer } from "../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import type { PieceStore, StoredPiece } from "../../src/store/store.ts";
import type { ByteStream, Connection } from "../../src/transport/transport.ts";
import { rejectionOf } from "../support/failures.ts";
import { FakeClock, fakeRuntime, settle } from "../support/fake-clock.ts";
import {
  assertCutOff,
  dialAddressOf,
  itUnlessGap,
  type TransportFixture,
} from "../support/fixture.ts";
import { fixtures } from "../support/fixtures.ts";
import { answer, rawHeader, readAll, trickyIds } from "../support/hostile.ts";
import { joined, seededBytes, seededRandom } from "../support/random.ts";

const taskId = "cd".repeat(32);
const PIECE_LENGTH = 300_000;
const content = seededBytes(11, 2 * PIECE_LENGTH + 1234);

for (const [name, fixture] of Object.entries(fixtures)) {
  describe(`a hostile client, over ${name}`, () => hostileClient(fixture));
}

function hostileClient(fixture: TransportFixture): void {
  it("control: every piece of a task of each kind is served whole, including the short last one", async () => {
    for (const kind of pieceKinds) {
      await withServer(fixture, { store: storeOf(kind) }, async ({ ask }) => {
        for (let number = 0; number < 3; number++) {
          const { packet, rest } = await ask(request({ number, kind }));
          assert.ok(packet.type === "piece-content");
          assert.deepEqual([packet.kind, packet.metadata.number, packet.id], [kind, number, 9]);
          assert.deepEqual(
            rest,
            content.subarray(number * PIECE_LENGTH, (number + 1) * PIECE_LENGTH),
          );
        }
      });
    }
  });

  it("control: a client that keeps its side open is answered, like stock peers over TCP expect", async () => {
    await withServer(fixture, {}, async ({ connection, clock, errors }) => {
      const stream = await connection.openStream();
      await stream.writer.write(request());
      // The server waits only a limited time for the end of the request, over TCP for another one.
      const answer = readAll(stream);
      if (fixture === fixtures.tcp) await clock.advanceUntil(answer, 60_000);
      const answered = await answer;
      assert.deepEqual(answered.subarray(-PIECE_LENGTH), content.subarray(0, PIECE_LENGTH));
      await clock.advance(60_000);
      assert.deepEqual(errors, []);
    });
  });

  describe("bytes that are not a request", () => {
    const good = request();
    const notUtf8 = good.slice();
    notUtf8[20] = 0xff;
    // A TCP connection may carry no request, or several.
    const isKept = fixture === fixtures.tcp;
    const oneRequest: [what: string, bytes: Uint8Array][] = [
      ["no bytes", new Uint8Array(0)],
      ["two requests", joined([good, good])],
      ["a request and a further byte", joined([good, Uint8Array.of(0)])],
    ];
    const wrong: [what: string, bytes: Uint8Array][] = [
      ...(isKept ? [] : oneRequest),
      ["a close packet", rawHeader(Tag.Close, 0)],
      ["an error packet", encodePacket({ type: "error", id: 1, code: 2, message: "no" })],
      ["an error packet of 4 GiB", rawHeader(Tag.Error, 0xffffffff)],
      ["a content packet", answer(10).whole],
      [
        "a content packet of 4 GiB",
        joined([rawHeader(Tag.PieceContent, 0xffffffff), new Uint8Array(4).fill(0xff)]),
      ],
      ["a reserved packet", rawHeader(8, 0)],
      ["a reserved packet of 4 GiB", rawHeader(253, 0xffffffff)],
      ["a request of 67 bytes", joined([rawHeader(Tag.DownloadPiece, 67), new Uint8Array(67)])],
      ["a request of 4 GiB", rawHeader(Tag.DownloadPiece, 0xffffffff)],
      ["a request whose task id is not UTF-8", notUtf8],
      ["an HTTP request", new TextEncoder().encode("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")],
    ];
    for (const [what, bytes] of wrong) {
      it(`${what}: answered with InvalidArgument`, async () => {
        await withServer(fixture, {}, async ({ ask, errors }) => {
          assertError(await ask(bytes), RemoteErrorCode.InvalidArgument);
          assert.deepEqual(errors, []);
        });
      });
    }

    it("a request truncated at every byte: answered with InvalidArgument", async () => {
      await withServer(fixture, {}, async ({ ask }) => {
        for (let cut = isKept ? 1 : 0; cut < good.length; cut++) {
          assertError(await ask(good.subarray(0, cut)), RemoteErrorCode.InvalidArgument);
        }
      });
    });

    it("seeded garbage: an answer or a reset, and an honest request is served meanwhile", async () => {
      await withServer(fixture, {}, async ({ ask, connection, errors }) => {
        const random = seededRandom(3);
        for (let round = 0; round < 100; round++) {
          const garbage = seededBytes(round, Math.floor(random() * 400));
          // Half of the rounds have a valid tag and length, so that the decoder reads further.
          if (round % 2 === 0) garbage.set(rawHeader(round % 10, 68).subarray(0, garbage.length));
          await send(connection, garbage);
        }
        const { rest } = await ask(good);
        assert.deepEqual(rest, content.subarray(0, PIECE_LENGTH));
        assert.deepEqual(errors, []);
      });
    });

    it("bytes after the request in a later chunk do not affect other requests", async () => {
      await withServer(fixture, {}, async ({ ask, connection, errors }) => {
        const stream = await connection.openStream();
        await stream.writer.write(good);
        await settle();
        await stream.writer.write(new Uint8Array(1000)).catch(() => {});
        await stream.writer.end().catch(() => {});
        await readAll(stream).catch(() => {});
        assert.deepEqual((await ask(good)).rest, content.subarray(0, PIECE_LENGTH));
        assert.deepEqual(errors, []);
      });
    });
  });

  describe("requests for missing pieces", () => {
    const tricks: [what: string, bytes: Uint8Array][] = [
      ["another task", request({ taskId: "0".repeat(64) })],
      ["a number after the last", request({ number: 3 })],
      ["the greatest number", request({ number: 0xffffffff })],
      ["another kind", request({ kind: "cache" })],
      ...trickyIds.map(([what, taskId]): [string, Uint8Array] => [
        `${what} for a task id`,
        request({ taskId }),
      ]),
    ];
    for (const [what, bytes] of tricks) {
      it(`${what}: answered with NotFound, under the request's id`, async () => {
        await withServer(fixture, {}, async ({ ask, errors }) => {
          const { packet } = assertError(await ask(bytes), RemoteErrorCode.NotFound);
          assert.equal(packet.id, 9);
          assert.deepEqual(errors, []);
        });
      });
    }
  });

  describe("time", () => {
    for (const [what, bytes] of [
      ["nothing", new Uint8Array(0)],
      ["half a request", request().subarray(0, 37)],
      ["all but the last byte of a request", request().subarray(0, -1)],
    ] as const) {
      it(`${what}, then silence: reset once the request timeout has passed, and not before`, async () => {
        await withServer(fixture, {}, async ({ connection, clock, errors, served }) => {
          const stream = await connection.openStream();
          // A server sees a stream at its first byte. Without one, no request may time out.
          if (bytes.length === 0) stream.writer.write(request().subarray(0, 1)).catch(() => {});
          else await stream.writer.write(bytes);
          await served(1);
          const reading = readAll(stream);
          const passed = await clock.advanceUntil(reading, 30_000);
          assertPassed(fixture, passed, 10_000);
          await assertCutOff(fixture, reading);
          assert.deepEqual(errors, []);
        });
      });
    }

    it("a request sent at a byte a second is reset at the request timeout", async () => {
      await withServer(
        fixture,
        { options: { requestTimeout: 5000 } },
        async ({ connection, clock, served }) => {
          const stream = await connection.openStream();
          const reading = readAll(stream);
          reading.catch(() => {});
          await stream.writer.write(request().subarray(0, 1));
          await served(1);
          for (const byte of request().subarray(1, 5)) {
            await stream.writer.write(Uint8Array.of(byte));
            await clock.advance(1000);
            assert.equal(clock.pending, 1);
          }
          // The deadline starts when the server has received the first byte.
          await clock.advanceUntil(
            reading.catch(() => {}),
            5000,
          );
          await assertCutOff(fixture, reading);
        },
      );
    });

    it("a client that never reads: reset at the stall timeout, and little is read from the store", async () => {
      const total = 256 * 1024 * 1024;
      const endless = storeOfChunks(total);
      await withServer(fixture, { store: endless }, async ({ connection, clock, errors }) => {
        const stream = await connection.openStream();
        await stream.writer.write(request());
        await stream.writer.end();
        await endless.started;
        await clock.advanceUntil(endless.ended, 10 * 60_000);
        assert.ok(
          endless.bytesRead() > 0 && endless.bytesRead() < total / 2,
          `${endless.bytesRead()} bytes were read from the store`,
        );
        await readAll(stream).catch(() => {});
        assert.deepEqual(errors, []);
      });
    });

    itUnlessGap(
      fixture,
      "a client that reads a chunk from time to time is not reset",
      async () => {
        await withServer(fixture, {}, async ({ connection, clock }) => {
          const stream = await connection.openStream();
          await stream.writer.write(request());
          await stream.writer.end();
          let got = 0;
          for (
            let chunk = await stream.reader.read();
            chunk !== undefined;
            chunk = await stream.reader.read()
          ) {
            got += chunk.length;
            await clock.advance(20_000);
          }
          assert.ok(got > PIECE_LENGTH);
        });
      },
      "bytes take no real time",
    );
  });

  itUnlessGap(
    fixture,
    "requests aborted while they wait for the rate limit do not consume it",
    async () => {
      const rate = 80_000;
      await withServer(
        fixture,
        { options: { uploadRateLimit: rate } },
        async ({ connection, clock, served, ask }) => {
          const given: ByteStream[] = [];
          for (let count = 0; count < 100; count++) {
            const stream = await connection.openStream();
            await write(stream, request());
            given.push(stream);
          }
          await served(1);
          await settle();
          for (const { reader, writer } of given) {
            reader.cancel();
            writer.abort();
          }
          // Each aborted request had waited for an eighth of a second's worth of bytes.
          const passed = await clock.advanceUntil(ask(request()), 60_000, 100);
          assert.ok(passed <= (PIECE_LENGTH / rate) * 1000 + 500, `the request took ${passed} ms`);
        },
      );
    },
    "bytes take no real time",
  );

  describe("stores that fail", () => {
    const secret = "disk sda7 at 10.9.8.7 said no";
    for (const [what, thrown, code] of [
      ["an Error", new Error(secret), "StorageFailed"],
      ["a VortexError", new VortexError("StorageFailed", secret), "StorageFailed"],
      ["a string", secret, "StorageFailed"],
    ] as const) {
      it(`a store that throws ${what}: answered with Internal; only onError gets the details`, async () => {
        const store = storeWith(async () => {
          throw thrown;
        });
        await withServer(fixture, { store }, async ({ ask, errors }) => {
          const { packet } = assertError(await ask(request()), RemoteErrorCode.Internal);
          assert.ok(packet.type === "error" && !packet.message.includes("10.9.8.7"));
          assert.deepEqual(
            errors.map(({ code }) => code),
            [code],
          );
          assert.ok(errors[0]?.message.includes(secret));
        });
      });
    }

    it("a store that fails inside the content: reset, never a clean end, and reported to onError", async () => {
      const whole = answer(500_000);
      const cause = new VortexError("StorageFailed", secret);
      const store = storeWith(async () => ({
        metadata: { ...whole.metadata, number: 0 },
        async *read() {
          yield whole.content.subarray(0, 200_000);
          throw cause;
        },
      }));
      await withServer(fixture, { store }, async ({ connection, errors }) => {
        const stream = await connection.openStream();
        await stream.writer.write(request());
        await stream.writer.end();
        let got = 0;
        const reading = (async () => {
          for (
            let chunk = await stream.reader.read();
            chunk !== undefined;
            chunk = await stream.reader.read()
          ) {
            got += chunk.length;
          }
        })();
        // A transport that cannot distinguish a reset from an end still ends early.
        await assertCutOff(fixture, reading);
        assert.ok(got < whole.whole.length);
        assert.deepEqual(errors, [cause]);
      });
    });

    it("an onError that throws does not affect the server", async () => {
      const store = storeWith(async () => {
        throw new Error("no");
      });
      const onError = (): void => {
        throw new Error("thrown by the callback");
      };
      await withServer(fixture, { store, options: { onError } }, async ({ ask }) => {
        for (let round = 0; round < 3; round++)
          assertError(await ask(request()), RemoteErrorCode.Internal);
      });
    });

    it("a client that cancels mid-answer ends the store read, and is not reported as an error", async () => {
      const endless = storeOfChunks(256 * 1024 * 1024);
      await withServer(fixture, { store: endless }, async ({ connection, errors }) => {
        const stream = await connection.openStream();
        await stream.writer.write(request());
        await stream.writer.end();
        assert.ok((await stream.reader.read()) !== undefined);
        connection.abort();
        await endless.ended;
        assert.deepEqual(errors, []);
      });
    });
  });

  describe("bounds", () => {
    const beyond = "streams beyond the limit wait until others have ended";
    itUnlessGap(
      fixture,
      beyond,
      async () => {
        await withServer(
          fixture,
          { options: { maxStreams: 3 } },
          async ({ connection, clock, served, ask }) => {
            const idle = await Promise.all([1, 2, 3].map(() => connection.openStream()));
            for (const stream of idle) await stream.writer.write(request().subarray(0, 1));
            await served(3);
            let answered = false;
            const next = ask(request()).finally(() => {
              answered = true;
            });
            // The idle streams keep their credit until the request timeout.
            await clock.advance(9999);
            assert.equal(answered, false);
            await clock.advance(1);
            assert.deepEqual((await next).rest, content.subarray(0, PIECE_LENGTH));
          },
        );
      },
      fixture.gaps?.[beyond] === undefined
        ? "a stream beyond the credit waits until another has ended"
        : beyond,
    );

    const holding = "a reader that stops blocks the writer, and loses nothing";
    itUnlessGap(
      fixture,
      "unread answers are evicted in favour of newer ones",
      async () => {
        const chunk = new Uint8Array(64 * 1024);
        const total = 1024 * chunk.length;
        let [begun, left] = [0, 0];
        const endless: StoredPiece = {
          metadata: { ...answer(0).metadata, number: 0, length: BigInt(total) },
          async *read() {
            begun++;
            try {
              for (let at = 0; at < total; at += chunk.length) yield chunk;
            } finally {
              left++;
            }
          },
        };
        const stored = storeOf("standard");
        const store: PieceStore = {
          getTask: async () => undefined,
          getPiece: async (wanted) => (wanted.number === 0 ? endless : stored.getPiece(wanted)),
        };
        // Room for two pending answers.
        const options = { maxPendingBytes: 2 * chunk.length };
        await withServer(fixture, { store, options }, async ({ dial, askOn, clock, errors }) => {
          const started = clock.now();
          for (let index = 0; index < 5; index++) {
            const stream = await (await dial()).openStream();
            await stream.writer.end(request());
            while (begun <= index || left < index - 1) await settle();
          }
          const { rest } = await askOn(await dial(), request({ number: 1 }));
          assert.deepEqual(rest, content.subarray(PIECE_LENGTH, 2 * PIECE_LENGTH));
          assert.equal(clock.now(), started);
          assert.deepEqual(errors, []);
        });
      },
      fixture.gaps?.[holding] === undefined ? undefined : holding,
    );

    it("connections without a complete request make room for new ones, oldest first", async () => {
      // So long that no request times out while the fake clock runs ahead of the sockets.
      const options = { maxConnections: 3, requestTimeout: 24 * 3600 * 1000 };
      await withServer(fixture, { options }, async ({ dial, clock }) => {
        const silent: {
          over: boolean;
          readonly stream: ByteStream;
          readonly answer: Promise<Uint8Array>;
        }[] = [];
        for (let index = 0; index < 7; index++) {
          const stream = await (await dial()).openStream();
          await stream.writer.write(request().subarray(0, 1 + index));
          const each = { over: false, stream, answer: readAll(stream) };
          const over = (): void => {
            each.over = true;
          };
          each.answer.then(over, over);
          silent.push(each);
          // Waits until the new connection has its slot.
          const leaving = silent[index - 3];
          if (leaving !== undefined)
            await clock.advanceUntil(leaving.answer, 9_000, EVICTION_DELAY_MS);
        }
        assert.deepEqual(
          silent.map(({ over }) => over),
          [true, true, true, true, false, false, false],
        );
        const last = silent[6];
        assert.ok(last);
        await write(last.stream, request().subarray(7));
        assert.deepEqual(decode(await last.answer).rest, content.subarray(0, PIECE_LENGTH));
      });
    });

    it("connections with requests keep their slots, and a further one is refused", async () => {
      const stored = storeOf("standard");
      let release: () => void = () => {};
      const released = new Promise<void>((resolve) => {
        release = resolve;
      });
      let asked = 0;
      const store: PieceStore = {
        getTask: async () => undefined,
        async getPiece(wanted) {
          asked++;
          await released;
          return stored.getPiece(wanted);
        },
      };
      await withServer(
        fixture,
        { store, options: { maxConnections: 2 } },
        async ({ dial, askOn }) => {
          const asking = [0, 1].map(async (number) => askOn(await dial(), request({ number })));
          while (asked < 2) await settle();
          await rejectionOf(dial().then((connection) => askOn(connection, request())));
          release();
          for (const [number, answering] of asking.entries()) {
            const piece = content.subarray(number * PIECE_LENGTH, (number + 1) * PIECE_LENGTH);
            assert.deepEqual((await answering).rest, piece);
          }
          // A slot is free once the server has seen the connections end.
          let next: Answered | undefined;
          while (next === undefined) {
            await settle();
            next = await dial()
              .then((connection) => askOn(connection, request()))
              .catch(() => undefined);
          }
          assert.deepEqual(next.rest, content.subarray(0, PIECE_LENGTH));
        },
      );
    });

    it("the upload rate limit holds over all answers together", async () => {
      const rate = 100_000;
      const day = 24 * 3600 * 1000;
      const options = { uploadRateLimit: rate, requestTimeout: day, stallTimeout: day };
      await withServer(fixture, { options }, async ({ ask, clock }) => {
        const started = clock.now();
        const answers = Promise.all([ask(request({ number: 0 })), ask(request({ number: 1 }))]);
        await clock.advanceUntil(answers, 60_000, 100);
        const [first, second] = await answers;
        assert.deepEqual(first.rest, content.subarray(0, PIECE_LENGTH));
        assert.deepEqual(second.rest, content.subarray(PIECE_LENGTH, 2 * PIECE_LENGTH));
        const seconds = (clock.now() - started) / 1000;
        // One second's worth of bytes is sent at once.
        const least = (2 * PIECE_LENGTH) / rate - 1;
        assert.ok(seconds >= least, `took ${seconds} s, expected at least ${least} s`);
        assert.equal(
          seconds < least + 1,
          fixture.gaps?.["bytes take no real time"] === undefined || seconds < least + 1,
        );
      });
    });
  });

  describe("closing the server", () => {
    it("finishes in-flight answers, and answers no new request", async () => {
      const endless = storeOfChunks(8 * 1024 * 1024);
      await withServer(fixture, { store: endless }, async ({ connection, server, served }) => {
        const stream = await connection.openStream();
        await stream.writer.write(request());
        await stream.writer.end();
        assert.ok((await stream.reader.read()) !== undefined);
        const closing = server.close({ grace: 3_600_000 });
        const late = askLate(connection);
        await served(1);
        const rest = await readAll(stream);
        assert.ok(rest.length > 7 * 1024 * 1024);
        assert.equal(await late, "not served");
        await closing;
      });
    });

    it("resets in-flight answers after the grace period", async () => {
      const total = 256 * 1024 * 1024;
      const endless = storeOfChunks(total);
      await withServer(
        fixture,
        { store: endless },
        async ({ connection, server, clock, errors }) => {
          const stream = await connection.openStream();
          await stream.writer.write(request());
          await stream.writer.end();
          assert.ok((await stream.reader.read()) !== undefined);
          const closing = server.close({ grace: 7000 });
          assert.equal(server.close(), closing);
          assertPassed(fixture, await clock.advanceUntil(closing, 60_000), 7000);
          await endless.ended;
          // A transport that cannot distinguish a reset from an end still ends early.
          await readAll(stream).catch(() => {});
          assert.ok(endless.bytesRead() < total);
          assert.deepEqual(errors, []);
        },
      );
    });

    it("without a grace period, resets in-flight answers at once", async () => {
      const total = 256 * 1024 * 1024;
      const endless = storeOfChunks(total);
      await withServer(fixture, { store: endless }, async ({ connection, server }) => {
        const stream = await connection.openStream();
        await stream.writer.write(request());
        await stream.writer.end();
        assert.ok((await stream.reader.read()) !== undefined);
        await server.close({ grace: 0 });
        await endless.ended;
        await readAll(stream).catch(() => {});
        assert.ok(endless.bytesRead() < total);
      });
    });

    it("does not wait for streams without a complete request", async () => {
      await withServer(fixture, {}, async ({ connection, server, served }) => {
        const stream = await connection.openStream();
        await stream.writer.write(request().subarray(0, 10));
        await served(1);
        await server.close({ grace: 3_600_000 });
        await rejectionOf(readAll(stream));
      });
    });

    it("aborts pending store lookups", async () => {
      let asked: () => void = () => {};
      const looking = new Promise<void>((resolve) => {
        asked = resolve;
      });
      const store: PieceStore = {
        getTask: async () => undefined,
        getPiece: (_request, options) =>
          new Promise((_resolve, reject) => {
            options?.signal?.addEventListener("abort", () => reject(options.signal?.reason));
            asked();
          }),
      };
      await withServer(fixture, { store }, async ({ connection, server }) => {
        const stream = await connection.openStream();
        await stream.writer.write(request());
        await looking;
        await server.close({ grace: 0 });
        await rejectionOf(readAll(stream));
      });
    });
  });
}

/**
 * Asserts the elapsed fake time in ms, except over sockets, where the clock may run ahead of the
 * bytes.
 */
function assertPassed(fixture: TransportFixture, passed: number, expected: number): void {
  if (fixture.gaps?.["bytes take no real time"] === undefined) assert.equal(passed, expected);
  else assert.ok(passed >= expected, `after ${passed} ms`);
}

interface Answered {
  readonly packet: Packet;
  /** Bytes after the packet. */
  readonly rest: Uint8Array;
}

interface TestContext {
  readonly server: VortexServer;
  readonly connection: Connection;
  readonly clock: FakeClock;
  /** Errors reported to `onError`. */
  readonly errors: VortexError[];
  /** Sends bytes on a new stream, ends the stream, and resolves with the answer. */
  ask(bytes: Uint8Array): Promise<Answered>;
  askOn(connection: Connection, bytes: Uint8Array): Promise<Answered>;
  /** Dials another connection. */
  dial(): Promise<Connection>;
  /** Resolves once at least `count` streams wait for a request or are being answered. */
  served(count: number): Promise<void>;
}

async function withServer(
  fixture: TransportFixture,
  setup: { store?: PieceStore; options?: ServerOptions },
  use: (surroundings: TestContext) => Promise<void>,
): Promise<void> {
  const clock = new FakeClock();
  const errors: VortexError[] = [];
  const transport = await fixture.transport();
  const server = await VortexServer.listen(
    transport,
    fixture.listenAddress,
    setup.store ?? storeOf("standard"),
    fakeRuntime(clock),
    { onError: (error) => errors.push(error), ...setup.options },
  );
  const dialled: Connection[] = [];
  const dial = async (): Promise<Connection> => {
    const each = await transport.dial(dialAddressOf(fixture, server.address));
    dialled.push(each);
    return each;
  };
  const connection = await dial();
  const askOn = async (each: Connection, bytes: Uint8Array): Promise<Answered> => {
    const stream = await each.openStream();
    await write(stream, bytes);
    return decode(await readAll(stream));
  };
  // Each stream being served has a timer on the server's clock.
  const served = async (count: number): Promise<void> => {
    while (clock.pending < count) await settle();
  };
  try {
    await use({
      server,
      connection,
      clock,
      errors,
      ask: (bytes) => askOn(connection, bytes),
      askOn,
      dial,
      served,
    });
  } finally {
    for (const each of dialled) each.abort();
    await server.close({ grace: 0 });
  }
  assert.equal(clock.pending, 0, "timers left");
}

/** Requests a piece from a closing server. */
async function askLate(connection: Connection): Promise<"served" | "not served"> {
  try {
    const stream = await connection.openStream();
    await write(stream, request());
    const { packet } = decode(await readAll(stream));
    return packet.type === "piece-content" ? "served" : "not served";
  } catch {
    return "not served";
  }
}

async function write({ writer }: ByteStream, bytes: Uint8Array): Promise<void> {
  await writer.write(bytes);
  await writer.end();
}

/** Sends bytes on a new stream, and waits until the stream ends or fails. */
async function send(connection: Connection, bytes: Uint8Array): Promise<void> {
  const stream = await connection.openStream();
  try {
    await write(stream, bytes);
    await readAll(stream);
  } catch (error) {
    assert.ok(error instanceof VortexError && error.kind === "transport", String(error));
  }
}

function decode(bytes: Uint8Array): Answered {
  const decoder = new PacketDecoder();
  decoder.push(bytes);
  const packet = decoder.next();
  assert.ok(packet !== undefined, `no packet in ${bytes.length} bytes`);
  return { packet, rest: decoder.takeRest() };
}

function assertError(answered: Answered, code: number): Answered {
  const { packet, rest } = answered;
  assert.ok(packet.type === "error", `answered with ${packet.type}`);
  assert.equal(packet.code, code);
  assert.equal(rest.length, 0);
  return answered;
}

function request(fields: { taskId?: string; number?: number; kind?: PieceKind } = {}): Uint8Array {
  return encodePacket({
    type: "download-piece",
    id: 9,
    kind: "standard",
    taskId,
    number: 0,
    ...fields,
  });
}

function storeOf(kind: PieceKind): MemoryPieceStore {
  const store = new MemoryPieceStore();
  store.putTask(taskId, content, { kind, pieceLength: PIECE_LENGTH });
  return store;
}

function storeWith(getPiece: () => Promise<StoredPiece | undefined>): PieceStore {
  return { getPiece, getTask: async () => undefined };
}

interface ChunkStore extends PieceStore {
  /** Returns the number of bytes read so far. */
  bytesRead(): number;
  /** Resolves once reading has started. */
  readonly started: Promise<void>;
  /** Resolves once reading has ended or was cancelled. */
  readonly ended: Promise<void>;
}

/** Creates a store with one piece of `total` bytes that counts the bytes read. */
function storeOfChunks(total: number): ChunkStore {
  const chunk = new Uint8Array(64 * 1024).fill(0x55);
  let taken = 0;
  let start: () => void = () => {};
  const started = new Promise<void>((resolve) => {
    start = resolve;
  });
  let end: () => void = () => {};
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  const piece: StoredPiece = {
    metadata: { ...answer(0).metadata, number: 0, length: BigInt(total) },
    async *read() {
      start();
      try {
        while (taken < total) {
          taken += chunk.length;
          yield chunk;
        }
      } finally {
        end();
      }
    },
  };
  return { ...storeWith(async () => piece), bytesRead: () => taken, started, ended };
}
