import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import type { CallOptions, PieceRequest, TransferOptions } from "../../src/client/downloader.ts";
import { VortexDownloader } from "../../src/client/vortex/downloader.ts";
import { type ErrorCode, VortexError } from "../../src/errors.ts";
import type { Piece } from "../../src/piece.ts";
import { RemoteErrorCode } from "../../src/protocol/packet.ts";
import { Tag } from "../../src/protocol/tags.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { Connection, Transport } from "../../src/transport/transport.ts";
import { assertRejects } from "../support/failures.ts";
import { FakeClock, fakeRuntime } from "../support/fake-clock.ts";
import { dialAddressOf, itUnlessGap, type TransportFixture } from "../support/fixture.ts";
import { fixtures } from "../support/fixtures.ts";
import {
  answer,
  fieldEnds,
  rawHeader,
  type Script,
  ScriptedServer,
  specificationForm,
} from "../support/hostile.ts";
import { errorPacket, wrongAnswers } from "../support/hostile-vortex.ts";
import { joined } from "../support/random.ts";

const taskId = "ab".repeat(32);
const STALL_TIMEOUT_MS = 30_000;
const PIECE_TIMEOUT_MS = 360_000;

for (const [name, fixture] of Object.entries(fixtures)) {
  describe(`a hostile server, over ${name}`, () => hostileServer(fixture));
}

function hostileServer(fixture: TransportFixture): void {
  const good = answer();
  const { packet, content, whole } = good;
  const half = content.length / 2;

  it("control: a valid answer is delivered completely", async () => {
    await withDownloads(fixture, send(whole), async (download) => {
      for (const how of readModes) {
        const { received, error } = await download(how);
        assert.equal(error, undefined);
        assert.deepEqual(received, content);
      }
    });
  });

  it("a valid answer in any number of chunks is delivered completely", async () => {
    const byteByByte: Script = async ({ send, finish }) => {
      for (const byte of whole) await send(Uint8Array.of(byte));
      await finish();
    };
    await withDownloads(fixture, byteByByte, async (download) => {
      for (const how of readModes) assert.deepEqual((await download(how)).received, content);
    });
  });

  it("content with the specification's header length is accepted", async () => {
    await withDownloads(
      fixture,
      send(joined([specificationForm(good), content])),
      async (download) => {
        for (const how of readModes) assert.deepEqual((await download(how)).received, content);
      },
    );
  });

  it("an empty piece is complete", async () => {
    await withDownloads(fixture, send(answer(0).whole), async (download) => {
      for (const how of readModes)
        assert.deepEqual(await download(how), { received: new Uint8Array(0), error: undefined });
    });
  });

  describe("silence", () => {
    const points: [after: string, bytes: Uint8Array][] = [
      ["nothing", new Uint8Array(0)],
      ...fieldEnds(good).map((end): [string, Uint8Array] => [
        `${end} bytes of its packet`,
        packet.subarray(0, end),
      ]),
      ["half of the content", whole.subarray(0, packet.length + half)],
      ["all of the content, without an end", whole],
    ];
    for (const [after, bytes] of points) {
      // Over TCP, the response ends with its content, and the connection is kept.
      const isComplete = bytes === whole && fixture === fixtures.tcp;
      const what = isComplete ? "right at once" : "Stalled at the stall timeout, and not before";
      it(`after ${after}: ${what}`, async () => {
        const silent: Script = async ({ send }) => void (await send(bytes));
        await withDownloads(fixture, silent, async (download, { clock, server, ready }) => {
          // The scripted server does not read a second request on a kept connection.
          for (const how of isComplete ? readModes.slice(0, 1) : readModes) {
            const answered = server.requests + 1;
            const outcome = download(how);
            await server.answered(answered);
            // With 0-RTT, the second download may run before the handshake ends, in real time.
            await ready();
            const passed = await clock.advanceUntil(outcome, 2 * STALL_TIMEOUT_MS);
            if (isComplete) {
              const { received, error } = await outcome;
              assert.equal(error, undefined);
              assert.deepEqual(received, content);
              continue;
            }
            assert.ok(passed >= STALL_TIMEOUT_MS, `after ${passed} ms`);
            assertFailed(await outcome, "Stalled", content);
          }
        });
      });
    }

    it("a stall timeout of the call overrides the downloader's", async () => {
      await withDownloads(
        fixture,
        () => {},
        async (download, { clock, server }) => {
          const outcome = download("bytes", { call: { stallTimeout: 2000 } });
          await server.answered(1);
          assert.equal(await clock.advanceUntil(outcome, STALL_TIMEOUT_MS), 2000);
          assertFailed(await outcome, "Stalled", content);
        },
      );
    });

    it("a slow reader does not count as a stalled peer", async () => {
      await withDownloads(
        fixture,
        send(whole),
        async (_download, { clock, downloader, request }) => {
          const piece = await downloader.downloadPiece(request);
          await clock.advance(10 * STALL_TIMEOUT_MS);
          assert.deepEqual(await piece.bytes(), content);
        },
      );
    });
  });

  describe("the end of the stream", () => {
    it("at every byte of header and metadata: TruncatedContent", async () => {
      await truncatedAt(range(0, packet.length));
    });

    it("at every byte of the content: TruncatedContent", async () => {
      await truncatedAt(range(packet.length, whole.length));
    });

    it("at every byte, with the specification's header length: TruncatedContent", async () => {
      await truncatedAt(range(0, whole.length), joined([specificationForm(good), content]));
    });

    async function truncatedAt(cuts: number[], bytes: Uint8Array = whole): Promise<void> {
      let cut = 0;
      const script: Script = async ({ send, finish }) => {
        await send(bytes.subarray(0, cut));
        await finish();
      };
      await withDownloads(fixture, script, async (download) => {
        for (cut of cuts) {
          for (const how of readModes)
            assertFailed(await download(how), "TruncatedContent", content, `cut at ${cut}`);
        }
      });
    }
  });

  describe("a stream or connection that breaks", () => {
    const unlessGap = (name: string, run: () => Promise<void>): void => {
      itUnlessGap(fixture, name, run, "a lost connection is ConnectionLost");
    };
    const points: [at: string, bytes: Uint8Array][] = [
      ["before a byte", new Uint8Array(0)],
      ["inside the header", packet.subarray(0, 3)],
      ["inside the metadata", packet.subarray(0, 30)],
      ["after the metadata", packet],
      ["inside the content", whole.subarray(0, packet.length + half)],
      ["after the content, before its end", whole],
    ];
    for (const [at, bytes] of points) {
      const thenReset: Script = async ({ send, reset }) => {
        await send(bytes);
        reset();
      };
      const strict = (): Promise<void> =>
        withDownloads(fixture, thenReset, async (download) => {
          for (const how of readModes) {
            const outcome = await download(how);
            if (bytes !== whole || fixture !== fixtures.tcp || outcome.error !== undefined)
              assertFailed(outcome, "StreamReset", content);
          }
        });
      itUnlessGap(
        fixture,
        `a reset ${at}: StreamReset`,
        strict,
        "a reset differs from a clean end",
      );

      it(`a reset ${at}: only the correct content is delivered as complete`, async () => {
        await withDownloads(fixture, thenReset, async (download) => {
          for (const how of readModes) {
            const { received, error } = await download(how);
            if (error === undefined) assert.deepEqual(received, content);
            else assert.ok(received.length < content.length);
          }
        });
      });

      unlessGap(`the connection lost ${at}: ConnectionLost`, async () => {
        const script: Script = async ({ send, drop }) => {
          await send(bytes);
          drop();
        };
        await withDownloads(fixture, script, async (download) => {
          for (const how of readModes) assertFailed(await download(how), "ConnectionLost", content);
        });
      });
    }

    unlessGap(
      "a request on a reused connection that is lost is retried once, on a new connection",
      async () => {
        const script: Script = async ({ index, send, finish, drop }) => {
          if (index === 1) return drop();
          await send(whole);
          await finish();
        };
        await withDownloads(fixture, script, async (download, { server }) => {
          assert.deepEqual((await download("bytes")).received, content);
          assert.deepEqual((await download("bytes")).received, content);
          assert.equal(server.requests, 3);
        });
      },
    );

    unlessGap("a connection lost again on the retry is reported", async () => {
      const script: Script = async ({ index, send, finish, drop }) => {
        if (index > 0) return drop();
        await send(whole);
        await finish();
      };
      await withDownloads(fixture, script, async (download, { server }) => {
        await download("bytes");
        assertFailed(await download("bytes"), "ConnectionLost", content);
        assert.equal(server.requests, 3);
      });
    });
  });

  describe("wrong answers", () => {
    for (const [what, bytes, code] of wrongAnswers) {
      it(`${what}: ${code}`, async () => {
        await withDownloads(fixture, send(bytes), async (download) => {
          for (const how of readModes) assertFailed(await download(how), code, content);
        });
      });
    }

    it("bytes after the content in a later chunk: ProtocolViolation", async () => {
      const script: Script = async ({ send, finish }) => {
        for (const part of [packet, content, Uint8Array.of(0)]) await send(part);
        await finish();
      };
      await withDownloads(fixture, script, async (download) => {
        for (const how of readModes)
          assertFailed(await download(how), "ProtocolViolation", content);
      });
    });

    it("an answer invalid in its first bytes is refused while the peer still sends", async () => {
      const endless: Script = async ({ send }) => {
        await send(rawHeader(Tag.Error, 0xffffffff));
        while (await send(new Uint8Array(64 * 1024)));
      };
      await withDownloads(fixture, endless, async (download, { server }) => {
        assertFailed(await download("bytes"), "LimitExceeded", content);
        // The script ends only when its writes are refused.
        await server.answered(1);
      });
    });

    it("a piece above the downloader's maxPieceLength: LimitExceeded", async () => {
      await withDownloads(
        fixture,
        send(whole),
        async (download) => assertFailed(await download("bytes"), "LimitExceeded", content),
        { maxPieceLength: 39 },
      );
    });

    it("metadata above the downloader's maxMetadataLength: LimitExceeded", async () => {
      await withDownloads(
        fixture,
        send(joined([answer(40, { parentId: "p".repeat(100) }).packet, content])),
        async (download) => assertFailed(await download("bytes"), "LimitExceeded", content),
        { maxMetadataLength: 64 },
      );
    });

    for (const [what, bytes] of [
      [
        "an error text",
        errorPacket(RemoteErrorCode.NotFound, "no\r\n\u001b[2Jsuch\u009b2J\u202epiece\u2028"),
      ],
      ["a digest", joined([answer(40, { digest: "crc32:\n\u001b[2J\u202e1" }).packet, content])],
    ] as const) {
      it(`${what} with control characters is one line of the message, without them`, async () => {
        await withDownloads(fixture, send(bytes), async (download) => {
          const { error } = await download("bytes");
          assert.match(error?.message ?? "", /^[^\p{Cc}\p{Zl}\p{Bidi_Control}]+$/u);
        });
      });
    }

    it("an error text of 60 KiB is truncated in the message", async () => {
      await withDownloads(
        fixture,
        send(errorPacket(RemoteErrorCode.NotFound, "y".repeat(60 * 1024))),
        async (download) => {
          const { error } = await download("bytes");
          assert.equal(error?.code, "NotFound");
          assert.ok(error.message.length < 2000);
        },
      );
    });
  });

  describe("deadlines and aborts", () => {
    const slow: Script = async ({ send, stream }) => {
      // Sends a byte each time the test calls `drip`.
      drips.push(async (bytes) => void (await send(bytes)));
      await stream.reader.read().catch(() => {});
    };
    let drips: ((bytes: Uint8Array) => Promise<void>)[] = [];

    for (const [what, pieceTimeout, code] of [
      [
        "within the piece timeout succeeds, because the peer never stalls",
        PIECE_TIMEOUT_MS,
        undefined,
      ],
      ["beyond the piece timeout fails with PieceTimeout", 50_000, "PieceTimeout"],
    ] as const) {
      itUnlessGap(fixture, `a byte every second ${what}`, slowly, "bytes take no real time");
      async function slowly(): Promise<void> {
        drips = [];
        await withDownloads(fixture, slow, async (download, { clock, server }) => {
          const outcome = download("bytes", { call: { pieceTimeout } });
          await server.answered(1);
          for (const byte of whole) {
            await drips[0]?.(Uint8Array.of(byte));
            await clock.advance(1000);
          }
          if (code === undefined) {
            assert.ok(whole.length * 1000 > 3 * STALL_TIMEOUT_MS);
            const passed = await clock.advanceUntil(outcome, STALL_TIMEOUT_MS);
            // All content has arrived, but not the end of the stream.
            assert.equal(passed, STALL_TIMEOUT_MS - 1000);
            assertFailed(await outcome, "Stalled", content);
          } else {
            assertFailed(await outcome, code, content);
          }
        });
      }
    }

    it("unread content is cancelled at the piece timeout, and its lease released", async () => {
      await withDownloads(
        fixture,
        send(whole),
        async (_download, { clock, downloader, request }) => {
          const piece = await downloader.downloadPiece(request);
          assert.equal(active(downloader), 1);
          await clock.advance(PIECE_TIMEOUT_MS);
          assert.equal(active(downloader), 0);
          assert.equal((await assertRejects(piece.bytes(), "PieceTimeout")).addr, request.addr);
        },
      );
    });

    for (const [when, bytes] of [
      ["before the answer", new Uint8Array(0)],
      ["inside the content", whole.subarray(0, packet.length + half)],
    ] as const) {
      it(`an abort ${when}: Aborted at once, with the signal's reason as cause`, async () => {
        const silent: Script = async ({ send }) => void (await send(bytes));
        await withDownloads(fixture, silent, async (download, { server }) => {
          for (const how of readModes) {
            const abort = new AbortController();
            const answered = server.requests + 1;
            const outcome = download(how, { call: { signal: abort.signal } });
            await server.answered(answered);
            const reason = new Error("enough");
            abort.abort(reason);
            const { error } = assertFailed(await outcome, "Aborted", content);
            assert.equal(error.cause, reason);
          }
        });
      });
    }

    it("an abort before the call: Aborted, and no request is sent", async () => {
      await withDownloads(fixture, send(whole), async (download, { server, downloader }) => {
        assertFailed(
          await download("bytes", { call: { signal: AbortSignal.abort() } }),
          "Aborted",
          content,
        );
        assert.equal(server.requests, 0);
        assert.deepEqual(downloader.connections(), []);
      });
    });

    it("a piece cancelled before it is read: later reads fail with Aborted, and the lease is released", async () => {
      await withDownloads(fixture, send(whole), async (_download, { downloader, request }) => {
        const piece = await downloader.downloadPiece(request);
        piece.cancel();
        piece.cancel();
        assert.equal(active(downloader), 0);
        await assertRejects(piece.bytes(), "Aborted");
      });
    });

    it("a content stream cancelled half way releases the lease, and stops the peer", async () => {
      const { script, taken } = longPieceScript();
      await withDownloads(fixture, script, async (_download, { downloader, request, server }) => {
        const piece = await downloader.downloadPiece(request);
        const reader = piece.content.getReader();
        assert.equal((await reader.read()).done, false);
        await reader.cancel();
        assert.equal(active(downloader), 0);
        await server.answered(1);
        assert.ok(taken() < LONG_PIECE_BYTES, `${taken()} bytes were sent`);
      });
    });

    it("closing the downloader fails in-flight and later requests with Closed", async () => {
      await withDownloads(
        fixture,
        () => {},
        async (download, { server, downloader, request }) => {
          const waiting = readModes.map((how) => download(how));
          await server.answered(readModes.length);
          await downloader.close();
          for (const outcome of waiting) assertFailed(await outcome, "Closed", content);
          await assertRejects(downloader.downloadPiece(request), "Closed");
        },
      );
    });
  });

  describe("the content can be read once", () => {
    it("bytes() after bytes(), content after bytes(), bytes() after content: InvalidArgument", async () => {
      await withDownloads(fixture, send(whole), async (_download, { downloader, request }) => {
        const first = await downloader.downloadPiece(request);
        await first.bytes();
        await assertRejects(first.bytes(), "InvalidArgument");
        assert.throws(() => first.content, { code: "InvalidArgument" });
        const second = await downloader.downloadPiece(request);
        assert.equal(second.content, second.content);
        await assertRejects(second.bytes(), "InvalidArgument");
        await second.content.cancel();
      });
    });
  });

  describe("ranges within a piece", () => {
    const ranges: [start: number, end: number | undefined][] = [
      [0, undefined],
      [0, 40],
      [0, 1],
      [39, 40],
      [13, 27],
      [20, undefined],
      [0, 0],
      [17, 17],
      [40, 40],
    ];
    for (const [start, end] of ranges) {
      it(`bytes ${start} to ${end ?? "the end"} in chunks of any size, and no byte outside`, async () => {
        const range = { start, ...(end !== undefined && { end }) };
        for (const step of [1, 7, 40]) {
          const script: Script = async ({ send, finish }) => {
            await send(packet);
            for (let at = 0; at < content.length; at += step)
              await send(content.subarray(at, at + step));
            await finish();
          };
          await withDownloads(fixture, script, async (download) => {
            for (const how of readModes) {
              const { received, error } = await download(how, { request: { range } });
              assert.equal(error, undefined);
              assert.deepEqual(received, content.subarray(start, end));
            }
          });
        }
      });
    }

    it("bytes after the range are cancelled, not read", async () => {
      const { script, taken } = longPieceScript();
      await withDownloads(fixture, script, async (download, { server }) => {
        const { received } = await download("bytes", { request: { range: { start: 5, end: 10 } } });
        assert.deepEqual(received, new Uint8Array(5).fill(0xaa));
        await server.answered(1);
        assert.ok(taken() < LONG_PIECE_BYTES, `${taken()} bytes were sent`);
      });
    });

    it("a stream that ends inside the range: TruncatedContent", async () => {
      await withDownloads(fixture, send(whole.subarray(0, packet.length + 9)), async (download) => {
        for (const how of readModes) {
          const outcome = await download(how, { request: { range: { start: 5, end: 10 } } });
          assertFailed(outcome, "TruncatedContent", content);
        }
      });
    });

    it("a range outside the piece: InvalidArgument", async () => {
      await withDownloads(fixture, send(whole), async (download) => {
        for (const range of [
          { start: 41 },
          { start: 0, end: 41 },
          { start: 3, end: 2 },
          { start: -1 },
          { start: 0.5 },
        ]) {
          assertFailed(await download("bytes", { request: { range } }), "InvalidArgument", content);
        }
      });
    });
  });

  describe("invalid requests", () => {
    const requests: [what: string, request: Partial<PieceRequest>][] = [
      ["a task id of another length", { taskId: "short" }],
      ["a negative number", { number: -1 }],
      ["a number beyond 32 bits", { number: 2 ** 32 }],
      ["an unknown kind", { kind: "other" as "standard" }],
    ];
    for (const [what, request] of requests) {
      it(`${what}: InvalidArgument, and no request is sent`, async () => {
        await withDownloads(
          fixture,
          send(whole),
          async (_download, { downloader, request: usual, server }) => {
            await assertRejects(
              downloader.downloadPiece({ ...usual, ...request }),
              "InvalidArgument",
            );
            assert.equal(active(downloader), 0);
            assert.equal(server.requests, 0);
          },
        );
      });
    }

    it("invalid addresses and timeouts: InvalidArgument", async () => {
      await withDownloads(fixture, send(whole), async (_download, { downloader, request }) => {
        await assertRejects(
          downloader.downloadPiece({ ...request, addr: "nowhere" }),
          "InvalidArgument",
        );
        for (const options of [{ pieceTimeout: 0 }, { stallTimeout: -1 }, { pieceTimeout: 1.5 }]) {
          await assertRejects(
            downloader.downloadPiece({ ...request, ...options }),
            "InvalidArgument",
          );
        }
      });
    });
  });
}

type ReadMode = "bytes" | "stream";
const readModes: readonly ReadMode[] = ["bytes", "stream"];

interface Outcome {
  /** Bytes delivered before the end or the error. */
  readonly received: Uint8Array;
  readonly error: VortexError | undefined;
}

interface TestContext {
  readonly clock: FakeClock;
  readonly downloader: VortexDownloader;
  readonly server: ScriptedServer;
  readonly request: PieceRequest;
  /** Resolves once the handshake of the last connection has finished. */
  ready(): Promise<void>;
}

type Download = (
  how: ReadMode,
  options?: { call?: CallOptions; request?: Partial<PieceRequest> },
) => Promise<Outcome>;

/**
 * Runs `use` with a downloader and a scripted peer. Afterwards, asserts that no request is active,
 * no timer is left and every error names the peer.
 */
async function withDownloads(
  fixture: TransportFixture,
  script: Script,
  use: (download: Download, surroundings: TestContext) => Promise<unknown>,
  options: TransferOptions = {},
): Promise<void> {
  const clock = new FakeClock();
  const transport = await fixture.transport();
  const server = await ScriptedServer.listen(transport, fixture.listenAddress, script);
  let last: Connection | undefined;
  const recording: Transport = {
    protocol: transport.protocol,
    listen: (...args) => transport.listen(...args),
    async dial(...args) {
      last = await transport.dial(...args);
      return last;
    },
  };
  const downloader = new VortexDownloader(
    async () => recording,
    downloaderSettings(options, fakeRuntime(clock)),
  );
  const addr = formatAddress(dialAddressOf(fixture, server.address));
  const usual: PieceRequest = { addr, hostId: "host", taskId, number: 3 };
  const download: Download = async (how, { call, request } = {}) => {
    const received: Uint8Array[] = [];
    let error: VortexError | undefined;
    try {
      const piece = await downloader.downloadPiece({ ...usual, ...request, ...call });
      if (how === "bytes") received.push(await piece.bytes());
      else await drain(piece, received);
    } catch (thrown) {
      assert.ok(thrown instanceof VortexError, String(thrown));
      // No peer is involved in an argument that is rejected before the call.
      const isLocal =
        thrown.code === "InvalidArgument" && /^range\.\w+: .* from 0 /.test(thrown.message);
      const expected = isLocal ? undefined : addr;
      assert.equal(thrown.addr, expected, `address of ${thrown.code}: ${thrown.message}`);
      error = thrown;
    }
    return { received: joined(received), error };
  };
  try {
    const ready = async (): Promise<void> => last?.ready;
    await use(download, { clock, downloader, server, request: usual, ready });
    assert.equal(active(downloader), 0, "requests still active");
  } finally {
    await downloader.close();
    await server.close();
  }
  assert.equal(clock.pending, 0, "timers left");
}

async function drain(piece: Piece, received: Uint8Array[]): Promise<void> {
  const reader = piece.content.getReader();
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
    if (value !== undefined) received.push(value);
  }
}

/** Asserts that the download failed with `code` before all of `content` was delivered. */
function assertFailed(
  outcome: Outcome,
  code: ErrorCode,
  content: Uint8Array,
  what?: string,
): { error: VortexError } {
  const { error, received } = outcome;
  assert.ok(error !== undefined, `${what ?? "the download"} did not fail: expected ${code}`);
  assert.equal(error.code, code, `${what ?? ""} ${error.message}`);
  assert.ok(received.length < content.length, `all of the content was delivered before ${code}`);
  return { error };
}

function active(downloader: VortexDownloader): number {
  return downloader.connections().reduce((sum, { activeRequests }) => sum + activeRequests, 0);
}

/** Piece length limit in bytes, which exceeds the buffers of any transport. */
const LONG_PIECE_BYTES = 64 * 1024 * 1024;

/** Creates a script that sends a long piece until its writes fail, and counts the bytes. */
function longPieceScript(): { script: Script; taken(): number } {
  const chunk = new Uint8Array(64 * 1024).fill(0xaa);
  let taken = 0;
  const script: Script = async ({ send }) => {
    if (!(await send(answer(0, { length: BigInt(LONG_PIECE_BYTES), digest: "crc32:1" }).packet)))
      return;
    while (taken < LONG_PIECE_BYTES && (await send(chunk))) taken += chunk.length;
  };
  return { script, taken: () => taken };
}

/** Creates a script that sends `bytes` and ends the stream. */
function send(bytes: Uint8Array): Script {
  return async ({ send, finish }) => {
    await send(bytes);
    await finish();
  };
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, at) => from + at);
}
