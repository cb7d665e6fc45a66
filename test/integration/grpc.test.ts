import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import {
  connect as connectHttp2,
  createServer as createHttp2Server,
  type ServerHttp2Session,
} from "node:http2";
import {
  type AddressInfo,
  connect as connectTcp,
  createServer as createTcpServer,
  type Server,
  type Socket,
} from "node:net";
import { describe, it } from "node:test";
import { createServer as createTlsServer } from "node:tls";
import { type GrpcBindingOptions, grpcBinding } from "../../adapters/grpc/client.ts";
import { type GrpcServer, type GrpcServerOptions, grpcServer } from "../../adapters/grpc/server.ts";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import { serverIdentity } from "../../adapters/shared/tls.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import type { TransferOptions } from "../../src/client/downloader.ts";
import { GrpcDownloader } from "../../src/client/grpc/downloader.ts";
import { digestOf } from "../../src/digest/digest.ts";
import type { VortexError } from "../../src/errors.ts";
import { portableRuntime, type Runtime } from "../../src/runtime.ts";
import { type ServerOptions, serverSettings } from "../../src/server/admission/upload.ts";
import { memoryPieceStoreWith } from "../../src/store/memory-store.ts";
import type { PieceStore } from "../../src/store/store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { assertRejects, rejectionOf } from "../support/failures.ts";
import { seededBytes } from "../support/random.ts";

const runtime: Runtime = { ...portableRuntime, hashers: nativeHashers };
const MEBI = 1024 * 1024;
const taskId = "ab".repeat(32);
const loopback = { host: "127.0.0.1", port: 0 };
const testOptions = { timeout: 60_000 };

/** Task of 128 MiB in two pieces. `manyTask` has the same bytes in 32 pieces of 4 MiB. */
const bigTask = "b".repeat(64);
const manyTask = "c".repeat(64);
const bytes = seededBytes(7, 128 * MEBI);
const store = memoryPieceStoreWith(nativeHashers);
store.putTask(taskId, bytes.subarray(0, 20_000), { pieceLength: 6000 });
store.putTask(bigTask, bytes, { pieceLength: 64 * MEBI });
store.putTask(manyTask, bytes, { pieceLength: 4 * MEBI });

interface PairOptions {
  readonly store?: PieceStore;
  readonly server?: ServerOptions & GrpcServerOptions;
  readonly client?: TransferOptions & GrpcBindingOptions;
}

/** Runs `use` with a server and a downloader, and closes both afterwards. */
async function withPair(
  { store: served = store, server: { tls: serverTls, ...server } = {}, client = {} }: PairOptions,
  use: (pair: {
    server: GrpcServer;
    downloader: GrpcDownloader;
    addr: string;
    errors: VortexError[];
  }) => Promise<void>,
): Promise<void> {
  const errors: VortexError[] = [];
  const settings = serverSettings({ onError: (error) => errors.push(error), ...server }, runtime);
  const running = await grpcServer(loopback, served, settings, serverTls && { tls: serverTls });
  const downloader = downloaderOf(client);
  try {
    await use({ server: running, downloader, addr: formatAddress(running.address), errors });
  } finally {
    await downloader.close();
    await running.close({ grace: 0 });
  }
}

function downloaderOf({
  tls,
  ...options
}: TransferOptions & GrpcBindingOptions = {}): GrpcDownloader {
  return new GrpcDownloader(
    async () => grpcBinding(tls && { tls }),
    downloaderSettings(options, runtime),
  );
}

function pieceRequest(addr: string, number = 0, task: string = taskId) {
  return { addr, hostId: "10.0.0.1-host", taskId: task, number };
}

async function fetched(
  downloader: GrpcDownloader,
  addr: string,
  number = 0,
  task: string = taskId,
) {
  return (await downloader.downloadPiece(pieceRequest(addr, number, task))).bytes();
}

function pieceBytes(number: number): Uint8Array {
  return bytes.subarray(number * 6000, (number + 1) * 6000);
}

/**
 * Creates a store of one piece whose bytes come from `read`, which calls `left` when it is
 * cancelled.
 */
function scriptedStore(read: (left: () => void) => AsyncIterable<Uint8Array>, length = 10_000) {
  let left: () => void = () => {};
  const reading = new Promise<void>((resolve) => {
    left = resolve;
  });
  const piece = bytes.subarray(0, length);
  const metadata = {
    number: 0,
    offset: 0n,
    length: BigInt(length),
    digest: digestOf("crc32", piece, nativeHashers),
    parentId: "",
    trafficType: 0,
    costSeconds: 0n,
    createdAtSeconds: 0n,
  };
  const scripted: PieceStore = {
    getPiece: async () => ({ metadata, read: () => read(left) }),
    getTask: async () => undefined,
  };
  return { scripted, reading, piece };
}

/** Starts `server`, runs `use` with its address, then closes the server and its sockets. */
async function listening(server: Server, use: (addr: string) => Promise<void>): Promise<void> {
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    socket.on("error", () => {});
    sockets.add(socket);
  });
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  try {
    await use(`127.0.0.1:${(server.address() as AddressInfo).port}`);
  } finally {
    for (const socket of sockets) socket.destroy();
    await new Promise<void>((resolve) => {
      server.close(() => resolve());
    });
  }
}

describe("gRPC over loopback", () => {
  it("fetches every piece of a task, and its lengths by stat", testOptions, async () => {
    await withPair({}, async ({ downloader, addr, errors }) => {
      assert.deepEqual(await downloader.statTask(addr, taskId), {
        contentLength: 20_000,
        pieceLength: 6000,
      });
      for (let number = 0; number < 4; number++) {
        const expected = bytes.subarray(number * 6000, Math.min((number + 1) * 6000, 20_000));
        assert.deepEqual(await fetched(downloader, addr, number), expected);
      }
      await assertRejects(downloader.downloadPiece(pieceRequest(addr, 4)), "NotFound");
      assert.equal(downloader.connections().length, 1);
      assert.deepEqual(errors, []);
    });
  });

  it("transfers pieces of 64 MiB, one and two at a time", testOptions, async () => {
    await withPair({}, async ({ downloader, addr }) => {
      assert.ok(
        Buffer.compare(await fetched(downloader, addr, 1, bigTask), bytes.subarray(64 * MEBI)) ===
          0,
      );
      const both = await Promise.all(
        [0, 1].map((number) => fetched(downloader, addr, number, bigTask)),
      );
      for (const [number, piece] of both.entries()) {
        assert.ok(
          Buffer.compare(piece, bytes.subarray(number * 64 * MEBI, (number + 1) * 64 * MEBI)) === 0,
        );
      }
    });
  });

  it("transfers 32 pieces of 4 MiB at a time", testOptions, async () => {
    await withPair({}, async ({ downloader, addr, errors }) => {
      for (let round = 0; round < 3; round++) {
        await Promise.all(
          Array.from({ length: 32 }, async (_, number) => {
            const piece = await fetched(downloader, addr, number, manyTask);
            assert.ok(
              Buffer.compare(piece, bytes.subarray(number * 4 * MEBI, (number + 1) * 4 * MEBI)) ===
                0,
            );
          }),
        );
      }
      assert.equal(downloader.connections().length, 1);
      assert.deepEqual(errors, []);
    });
  });

  it("respects the peer's stream limit when more calls are made", testOptions, async () => {
    await withPair({ server: { maxStreams: 4 } }, async ({ downloader, addr }) => {
      const calls = Array.from({ length: 60 }, (_, turn) => fetched(downloader, addr, turn % 4));
      for (const [turn, piece] of (await Promise.all(calls)).entries()) {
        assert.equal(piece.length, turn % 4 === 3 ? 2000 : 6000);
      }
    });
  });

  it(
    "an abort ends the call at once, stops the peer's store read, and keeps the connection",
    testOptions,
    async () => {
      const slow = (left: () => void) =>
        (async function* () {
          try {
            yield bytes.subarray(0, 5000);
            await new Promise<void>((resolve) => {
              setTimeout(resolve, 300);
            });
            for (let at = 5000; at < 10_000; at++) yield bytes.subarray(at, at + 1);
          } finally {
            left();
          }
        })();
      const { scripted, reading } = scriptedStore(slow);
      await withPair({ store: scripted }, async ({ downloader, addr, errors }) => {
        const controller = new AbortController();
        const call = downloader.downloadPiece({ ...pieceRequest(addr), signal: controller.signal });
        setTimeout(() => controller.abort(), 100);
        await assertRejects(call, "Aborted");
        assert.equal(downloader.connections()[0]?.activeRequests, 0);
        await reading;
        assert.equal((await fetched(downloader, addr)).length, 10_000);
        assert.equal(downloader.connections().length, 1);
        assert.deepEqual(errors, []);
      });
    },
  );

  it("a store error inside a piece truncates the piece", testOptions, async () => {
    const { scripted } = scriptedStore(async function* () {
      yield bytes.subarray(0, 5000);
      throw new Error("bad sector");
    });
    await withPair({ store: scripted }, async ({ downloader, addr, errors }) => {
      const error = await assertRejects(
        downloader.downloadPiece(pieceRequest(addr)),
        "TruncatedContent",
      );
      assert.equal(error.addr, addr);
      assert.deepEqual(
        errors.map(({ message }) => message),
        ["bad sector"],
      );
    });
  });

  it("a stalled store read causes Stalled at the client", testOptions, async () => {
    let released: () => void = () => {};
    const { scripted } = scriptedStore(async function* () {
      yield bytes.subarray(0, 5000);
      await new Promise<void>((resolve) => {
        released = resolve;
      });
    });
    await withPair(
      { store: scripted, client: { stallTimeout: 200 } },
      async ({ downloader, addr }) => {
        await assertRejects(downloader.downloadPiece(pieceRequest(addr)), "Stalled");
        await assertRejects(
          downloader.downloadPiece({ ...pieceRequest(addr), pieceTimeout: 100 }),
          "PieceTimeout",
        );
        released();
      },
    );
  });
});

describe("gRPC: the connection", () => {
  it("an address without a listener causes ConnectionRefused", testOptions, async () => {
    await withPair({}, async ({ server, downloader, addr }) => {
      await server.close();
      await assertRejects(downloader.downloadPiece(pieceRequest(addr)), "ConnectionRefused");
    });
  });

  it("a peer that accepts and sends nothing causes ConnectTimeout", testOptions, async () => {
    await listening(createTcpServer(), async (addr) => {
      const downloader = downloaderOf({ connectTimeout: 200 });
      await assertRejects(downloader.downloadPiece(pieceRequest(addr)), "ConnectTimeout");
      await downloader.close();
    });
  });

  it(
    "a peer that closes the connection at once causes ConnectionRefused",
    testOptions,
    async () => {
      const server = createTcpServer((socket) => {
        socket.end();
      });
      await listening(server, async (addr) => {
        const downloader = downloaderOf();
        await assertRejects(downloader.downloadPiece(pieceRequest(addr)), "ConnectionRefused");
        await downloader.close();
      });
    },
  );

  it("a peer that speaks another protocol causes ProtocolNotSupported", testOptions, async () => {
    const server = createTcpServer((socket) => {
      socket.write(
        "SSH-2.0-OpenSSH_9.6\r\nand a lot more of it, so that a whole frame can be read of this\r\n",
      );
    });
    await listening(server, async (addr) => {
      const downloader = downloaderOf();
      const { message } = await assertRejects(
        downloader.downloadPiece(pieceRequest(addr)),
        "ProtocolNotSupported",
      );
      assert.match(message, /does not speak HTTP\/2.*check that it is the peer's gRPC port/);
      await downloader.close();
    });
  });

  it("an abort ends a dial", testOptions, async () => {
    await listening(createTcpServer(), async (addr) => {
      const downloader = downloaderOf();
      const controller = new AbortController();
      const call = downloader.downloadPiece({ ...pieceRequest(addr), signal: controller.signal });
      setTimeout(() => controller.abort(), 50);
      await assertRejects(call, "Aborted");
      await downloader.close();
    });
  });

  it("a server that closes during a call causes ConnectionLost", testOptions, async () => {
    const { scripted } = scriptedStore(async function* () {
      yield bytes.subarray(0, 5000);
      await new Promise<void>(() => {});
    });
    await withPair({ store: scripted }, async ({ server, downloader, addr }) => {
      const call = assertRejects(downloader.downloadPiece(pieceRequest(addr)), "ConnectionLost");
      setTimeout(() => server.close({ grace: 0 }), 100);
      await call;
    });
  });

  it("a closing server finishes in-flight answers", testOptions, async () => {
    const { scripted, piece } = scriptedStore(async function* () {
      yield bytes.subarray(0, 5000);
      await new Promise<void>((resolve) => {
        setTimeout(resolve, 300);
      });
      yield bytes.subarray(5000, 10_000);
    });
    await withPair({ store: scripted }, async ({ server, downloader, addr }) => {
      const call = fetched(downloader, addr);
      await new Promise<void>((resolve) => {
        setTimeout(resolve, 100);
      });
      const closing = server.close();
      assert.deepEqual(await call, piece);
      await closing;
      await assertRejects(downloader.downloadPiece(pieceRequest(addr)), "ConnectionRefused");
    });
  });

  it("a restarted peer is dialled again", testOptions, async () => {
    await withPair({}, async ({ server, downloader, addr }) => {
      await fetched(downloader, addr);
      await server.close();
      const again = await grpcServer(server.address, store, serverSettings({}, runtime));
      assert.equal((await fetched(downloader, addr)).length, 6000);
      await downloader.close();
      await again.close();
    });
  });

  it("closing the downloader fails its calls with Closed", testOptions, async () => {
    const { scripted } = scriptedStore(async function* () {
      yield bytes.subarray(0, 5000);
      await new Promise<void>(() => {});
    });
    await withPair({ store: scripted }, async ({ downloader, addr }) => {
      const call = assertRejects(downloader.downloadPiece(pieceRequest(addr)), "Closed");
      setTimeout(() => downloader.close(), 100);
      await call;
    });
  });
});

describe("gRPC: peers of another kind", () => {
  /** Runs `use` with an HTTP/2 server that answers every request with `answer`. */
  async function withHttp2(
    answer: (stream: import("node:http2").ServerHttp2Stream) => void,
    use: (addr: string) => Promise<void>,
  ): Promise<void> {
    const sessions = new Set<ServerHttp2Session>();
    const server = createHttp2Server();
    server.on("session", (session) => {
      session.on("error", () => {});
      sessions.add(session);
    });
    server.on("stream", (stream) => {
      stream.on("error", () => {});
      stream.resume();
      answer(stream);
    });
    await listening(server, use);
    for (const session of sessions) session.destroy();
  }

  it("a peer without DownloadPiece causes RemoteUnimplemented", testOptions, async () => {
    const header = { "content-type": "application/grpc", "grpc-status": "12" };
    await withHttp2(
      (stream) => stream.respond({ ":status": 200, ...header }, { endStream: true }),
      async (addr) => {
        const downloader = downloaderOf();
        const error = await assertRejects(
          downloader.downloadPiece(pieceRequest(addr)),
          "RemoteUnimplemented",
        );
        assert.match(error.message, /"tcp" or "quic"/);
        await downloader.close();
      },
    );
  });

  it("a web server is not accepted as a gRPC peer", testOptions, async () => {
    await withHttp2(
      (stream) => {
        stream.respond({ ":status": 200, "content-type": "text/html" });
        stream.end("<html>");
      },
      async (addr) => {
        const downloader = downloaderOf();
        await assertRejects(downloader.downloadPiece(pieceRequest(addr)), "ProtocolViolation");
        await downloader.close();
      },
    );
  });

  it("a stream reset before or within the answer causes StreamReset", testOptions, async () => {
    for (const answered of [false, true]) {
      await listening(resettingServer(answered), async (addr) => {
        const downloader = downloaderOf();
        await assertRejects(downloader.downloadPiece(pieceRequest(addr)), "StreamReset");
        assert.equal(downloader.connections().length, 1);
        await downloader.close();
      });
    }
  });

  it(
    "a message announced above the limit causes LimitExceeded before it is read",
    testOptions,
    async () => {
      await withHttp2(
        (stream) => {
          stream.respond({ ":status": 200, "content-type": "application/grpc" });
          stream.write(new Uint8Array([0, 0xff, 0xff, 0xff, 0xff]));
        },
        async (addr) => {
          const downloader = downloaderOf();
          await assertRejects(downloader.downloadPiece(pieceRequest(addr)), "LimitExceeded");
          await downloader.close();
        },
      );
    },
  );
});

/**
 * Creates a minimal HTTP/2 server that answers each request with RST_STREAM (RFC 9113, section
 * 6.4), after response headers if `answered`. An HTTP/2 library would end the stream before the
 * reset.
 */
function resettingServer(answered: boolean): Server {
  const frame = (
    type: number,
    flags: number,
    stream: number,
    payload: readonly number[],
  ): Uint8Array => new Uint8Array([0, 0, payload.length, type, flags, 0, 0, 0, stream, ...payload]);
  const literal = (text: string): number[] => [text.length, ...new TextEncoder().encode(text)];
  // HPACK: ":status: 200" from the static table, and a literal field (RFC 7541, sections 6.1 and
  // 6.2.2).
  const header = [0x88, 0x00, ...literal("content-type"), ...literal("application/grpc")];
  return createTcpServer((socket) => {
    let received = Buffer.alloc(0);
    // Skips the client's connection preface (RFC 9113, section 3.4).
    let at = 24;
    socket.write(frame(4, 0, 0, []));
    socket.on("data", (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      while (received.length >= at + 9) {
        const [type, stream] = [received[at + 3], received.readUInt32BE(at + 5)];
        at += 9 + received.readUIntBE(at, 3);
        if (type !== 1) continue;
        if (answered) socket.write(frame(1, 4, stream, header));
        if (answered) socket.write(frame(0, 0, stream, [0, 0, 0]));
        // INTERNAL_ERROR.
        socket.write(frame(3, 0, stream, [0, 0, 0, 2]));
      }
    });
  });
}

describe("gRPC: a server enforces", () => {
  /** Runs `use` with a plain HTTP/2 session to a server. */
  async function withSession(
    addr: string,
    use: (session: import("node:http2").ClientHttp2Session) => Promise<void>,
    settings: import("node:http2").Settings = {},
  ): Promise<void> {
    const session = connectHttp2(`http://${addr}`, { settings });
    session.on("error", () => {});
    await new Promise<void>((resolve) => {
      session.once("remoteSettings", () => resolve());
    });
    try {
      await use(session);
    } finally {
      session.destroy();
    }
  }

  const call = {
    ":method": "POST",
    ":path": "/dfdaemon.v2.DfdaemonUpload/DownloadPiece",
    "content-type": "application/grpc",
  };

  for (const tls of [undefined, {}]) {
    it(
      `its connection limit, closing connections without a request first${tls ? ", with TLS" : ""}`,
      testOptions,
      async () => {
        let release: () => void = () => {};
        const released = new Promise<void>((resolve) => {
          release = resolve;
        });
        let asked: () => void = () => {};
        const waiting = new Promise<void>((resolve) => {
          asked = resolve;
        });
        const held: PieceStore = {
          getTask: (id) => store.getTask(id),
          async getPiece(wanted) {
            if (wanted.number === 1) {
              asked();
              await released;
            }
            return store.getPiece(wanted);
          },
        };
        const server = { maxConnections: 1, ...(tls && { tls }) };
        const client = tls && { tls: { verify: false } as const };
        await withPair(
          { store: held, server, ...(client && { client }) },
          async ({ downloader, addr, errors }) => {
            await using other = downloaderOf(client);
            {
              await using one = downloaderOf(client);
              await using two = downloaderOf(client);
              // The two compete for the only connection slot.
              for (let round = 0; round < 3; round++) {
                for (const each of [one, two])
                  assert.deepEqual(await fetched(each, addr), pieceBytes(0));
              }
            }
            const answering = fetched(downloader, addr, 1);
            await waiting;
            const refused = await rejectionOf(other.downloadPiece(pieceRequest(addr)));
            assert.equal(refused.kind, "transport", refused.message);
            release();
            assert.deepEqual(await answering, pieceBytes(1));
            assert.deepEqual(await fetched(other, addr), pieceBytes(0));
            assert.deepEqual(errors, []);
          },
        );
      },
    );
  }

  const kernel = "/proc/net/tcp";
  const told = { skip: existsSync(kernel) ? false : "only Linux reports socket timers" };
  it("TCP keep-alive on its connections, with TLS too", {
    ...testOptions,
    ...told,
  }, async () => {
    for (const tls of [undefined, {}]) {
      await withPair({ server: { ...(tls && { tls }) } }, async ({ server }) => {
        const socket = connectTcp(server.address);
        await once(socket, "connect");
        const { localPort = 0 } = socket;
        const port = localPort.toString(16).toUpperCase().padStart(4, "0");
        // The server's socket. A timer of 2 is keep-alive (proc_net_tcp.rst in Linux's
        // documentation).
        const pattern = new RegExp(`:[0-9A-F]{4} [0-9A-F]{8}:${port} 01 \\S+ (\\d\\d):`);
        let timer: string | undefined;
        while (timer !== "02") {
          await new Promise((resolve) => setTimeout(resolve, 5));
          timer = pattern.exec(readFileSync(kernel, "utf8"))?.[1];
        }
        socket.destroy();
      });
    }
  });

  it("its request timeout and its maximum request length", testOptions, async () => {
    await withPair({ server: { requestTimeout: 200 } }, async ({ addr, errors }) => {
      await withSession(addr, async (session) => {
        for (const body of [new Uint8Array(2), new Uint8Array(65 * 1024)]) {
          const stream = session.request(call);
          stream.on("error", () => {});
          stream.write(body);
          const code = await new Promise<number>((resolve) => {
            stream.once("close", () => resolve(stream.rstCode));
          });
          // CANCEL (RFC 9113, section 7).
          assert.equal(code, 8);
        }
      });
      assert.deepEqual(errors, []);
    });
  });

  it(
    "its stall timeout for a peer that does not read, and releases the store",
    testOptions,
    async () => {
      let handedOut = 0;
      const { scripted, reading } = scriptedStore(
        (left) =>
          (async function* () {
            try {
              for (; handedOut < 4 * MEBI; handedOut += 65_536)
                yield bytes.subarray(handedOut, handedOut + 65_536);
            } finally {
              left();
            }
          })(),
        4 * MEBI,
      );
      await withPair(
        { store: scripted, server: { stallTimeout: 200 } },
        async ({ addr, errors }) => {
          await withSession(
            addr,
            async (session) => {
              const stream = session.request(call);
              stream.on("error", () => {});
              stream.pause();
              stream.end(
                new Uint8Array([0, 0, 0, 0, 66, 0x12, 64, ...new TextEncoder().encode(taskId)]),
              );
              await reading;
            },
            // The peer grants no flow-control window (RFC 9113, section 6.9.2).
            { initialWindowSize: 0 },
          );
          assert.ok(handedOut < 4 * MEBI);
          assert.deepEqual(errors, []);
        },
      );
    },
  );

  it("its method list: other methods are UNIMPLEMENTED", testOptions, async () => {
    await withPair({}, async ({ addr }) => {
      await withSession(addr, async (session) => {
        const stream = session.request({ ...call, ":path": "/dfdaemon.v2.DfdaemonUpload/Nothing" });
        stream.end();
        const status = await new Promise((resolve) => {
          stream.once("response", (headers) => resolve(headers["grpc-status"]));
        });
        assert.equal(status, "12");
        stream.close();
      });
    });
  });

  it(
    "its address: a second server at the address fails with AddressInUse",
    testOptions,
    async () => {
      await withPair({}, async ({ server }) => {
        await assertRejects(
          grpcServer(server.address, store, serverSettings({}, runtime)),
          "AddressInUse",
        );
      });
    },
  );
});

describe("gRPC over TLS, on one side only", () => {
  it("causes ProtocolNotSupported when only the client uses TLS", testOptions, async () => {
    await withPair({ client: { tls: { verify: false } } }, async ({ downloader, addr }) => {
      await assertRejects(downloader.downloadPiece(pieceRequest(addr)), "ProtocolNotSupported");
    });
  });

  it(
    "causes no connection when only the server uses TLS, and the server keeps serving",
    testOptions,
    async () => {
      await withPair(
        { server: { tls: {} }, client: { tls: { verify: false } } },
        async ({ downloader, addr, errors }) => {
          const clear = downloaderOf();
          const error = await rejectionOf(clear.downloadPiece(pieceRequest(addr)));
          assert.ok(["ConnectionRefused", "ProtocolNotSupported"].includes(error.code), error.code);
          await clear.close();
          assert.equal((await fetched(downloader, addr)).length, 6000);
          assert.deepEqual(errors, []);
        },
      );
    },
  );

  it(
    "does not delay a closing server when a client never starts its handshake",
    testOptions,
    async () => {
      // A server that waited for its request timeout would exceed this test's timeout.
      await withPair({ server: { tls: {}, requestTimeout: 600_000 } }, async ({ server }) => {
        const socket = connectTcp(server.address);
        socket.on("error", () => {});
        await new Promise<void>((resolve) => {
          socket.once("connect", resolve);
        });
        const ended = new Promise<void>((resolve) => {
          socket.once("close", () => resolve());
        });
        socket.resume();
        await server.close({ grace: 0 });
        await ended;
      });
    },
  );

  it(
    "causes ProtocolNotSupported when the peer speaks another protocol inside TLS",
    testOptions,
    async () => {
      const server = createTlsServer({
        ...(await serverIdentity({})),
        ALPNProtocols: ["http/1.1"],
      });
      server.on("tlsClientError", () => {});
      await listening(server, async (addr) => {
        const downloader = downloaderOf({ tls: { verify: false } });
        await assertRejects(downloader.downloadPiece(pieceRequest(addr)), "ProtocolNotSupported");
        await downloader.close();
      });
    },
  );
});
