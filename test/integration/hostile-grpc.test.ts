import assert from "node:assert/strict";
import { once } from "node:events";
import { networkInterfaces } from "node:os";
import { after, before, describe, it } from "node:test";
import { grpcBinding } from "../../adapters/grpc/client.ts";
import { grpcServer } from "../../adapters/grpc/server.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import type { DownloaderOptions } from "../../src/client/downloader.ts";
import { GrpcDownloader } from "../../src/client/grpc/downloader.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { serverSettings } from "../../src/server/admission/upload.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { rejectionOf } from "../support/failures.ts";
import { FakeClock, fakeRuntime } from "../support/fake-clock.ts";
import {
  callGrpc,
  type GrpcCall,
  type GrpcFault,
  grpcCalls,
  grpcFaultId,
  grpcFaults,
  hostileGrpc,
} from "../support/hostile-grpc.ts";
import { Frame, type Http2Exchange, ScriptedHttp2Server } from "../support/hostile-http2.ts";
import type { FaultOutcome } from "../support/hostile-vortex.ts";

const limit = { timeout: 60_000 };
const STALL = 30_000;
/** Forms of a fault that are tried for a call; of more, some at equal distances. */
const MOST = 150;
/** Forms between two right answers on the same downloader, and silent ones at once. */
const BETWEEN = 10;

describe("a hostile server, over gRPC", () => {
  let server: ScriptedHttp2Server;
  before(async () => {
    server = await ScriptedHttp2Server.listen(hostileGrpc);
  });
  after(() => server.close());

  it("control: a right answer to each call is handed on complete", limit, async () => {
    await withDownloader(async (downloader) => {
      for (const call of grpcCalls)
        assert.equal(await callGrpc(downloader, server.addr, call, grpcFaultId(call)), "right");
    });
  });

  for (const fault of grpcFaults) {
    for (const call of fault.calls ?? grpcCalls) {
      it(
        `${fault.name}, for a ${call}: its code, and the next request is served`,
        limit,
        async () => {
          await withDownloader(async (downloader, clock) => {
            const well = async (): Promise<void> => {
              assert.equal(
                await callGrpc(downloader, server.addr, call, grpcFaultId(call)),
                "right",
              );
            };
            const check = (verdict: FaultOutcome, variant: number): void => {
              const codes = fault.codes(call, variant);
              assert.ok(
                codes.includes(verdict),
                `form ${variant}: ${verdict}, expected ${codes.join(" or ")}`,
              );
            };
            const forms = formsOf(fault, call);
            // What is silent is so for several forms at once, since each is to be waited for.
            const atOnce = fault.silent ? BETWEEN : 1;
            for (let turn = 0; turn < forms.length; turn += atOnce) {
              // What is to be silent finds a connection: making one takes real time, and the clock runs ahead.
              if (turn % BETWEEN === 0) await well();
              const began = clock.now();
              const outcomes = forms.slice(turn, turn + atOnce).map(async (variant) => {
                const verdict = await callGrpc(
                  downloader,
                  server.addr,
                  call,
                  grpcFaultId(call, fault, variant),
                );
                const passed = clock.now() - began;
                check(verdict, variant);
                if (verdict === "Stalled")
                  assert.ok(passed >= STALL, `form ${variant}: Stalled after ${passed} ms`);
              });
              const ended = Promise.all(outcomes);
              if (fault.silent) await clock.advanceUntil(ended, 3 * STALL);
              await ended;
            }
            await well();
          });
        },
      );
    }
  }
});

describe("a server that sends a byte a second, over gRPC", () => {
  for (const [call, pieceTimeout, code] of [
    ["piece", 50_000, "PieceTimeout"],
    ["task", 50_000, "PieceTimeout"],
    ["stat", 50_000, "PieceTimeout"],
    ["piece", 360_000, "Stalled"],
  ] as const) {
    it(`a ${call} within ${pieceTimeout} ms: ${code}`, limit, async () => {
      let take: (exchange: Http2Exchange) => void = () => {};
      const taken = new Promise<Http2Exchange>((resolve) => {
        take = resolve;
      });
      const server = await ScriptedHttp2Server.listen((exchange) => take(exchange));
      await withDownloader(async (downloader, clock) => {
        const outcome = callGrpc(downloader, server.addr, call, grpcFaultId(call), {
          pieceTimeout,
        });
        let over = false;
        const ended = outcome.finally(() => {
          over = true;
        });
        const exchange = await taken;
        exchange.headers({ ":status": "200", "content-type": "application/grpc" });
        // A message of 100 bytes, of which 60 come.
        const bytes = Uint8Array.of(0, 0, 0, 0, 100, ...new Uint8Array(55).fill(10));
        for (const byte of bytes) {
          if (over) break;
          exchange.data(Uint8Array.of(byte));
          await arrived(exchange);
          await clock.advance(1000);
        }
        await clock.advanceUntil(ended, 2 * STALL);
        assert.equal(await ended, code);
      });
      await server.close();
    });
  }
});

/** Where nobody can be, or where nobody is. */
const nowhere = [
  "255.255.255.255:4000",
  "224.0.0.1:4000",
  "127.0.0.1:0",
  "[fe80::1%nowhere]:4000",
  "[::1%lo]:1",
  "[ff02::1]:4000",
];

for (const addr of nowhere) {
  it(`a parent at ${addr}: a failure to reach it`, limit, async () => {
    const downloader = new GrpcDownloader(
      async () => grpcBinding(),
      downloaderSettings({ connectTimeout: 500 }, portableRuntime),
    );
    const { code } = await rejectionOf(downloader.statTask(addr, "a".repeat(64)));
    // Deno's HTTP/2 dials no zones, and says so.
    if (addr.includes("%") && "Deno" in globalThis) assert.equal(code, "InvalidArgument");
    else assert.match(code, /^(Unreachable|ConnectionRefused|ConnectTimeout)$/);
    await downloader.close();
  });
}

const [zone, local] = linkLocal() ?? [];
const unzoned = local === undefined ? " (this machine has no link-local address)" : zoneless();

function zoneless(): string {
  return "Deno" in globalThis ? " (Deno's node:net dials without the zone)" : "";
}

it(`a parent whose IPv6 address has a zone is reached there${unzoned}`, {
  ...limit,
  skip: unzoned !== "",
}, async () => {
  const store = new MemoryPieceStore();
  store.putTask("ab".repeat(32), new Uint8Array(100), { pieceLength: 100 });
  const server = await grpcServer(
    { host: "::", port: 0 },
    store,
    serverSettings({}, portableRuntime),
  );
  const downloader = new GrpcDownloader(
    async () => grpcBinding(),
    downloaderSettings({}, portableRuntime),
  );
  try {
    const stat = await downloader.statTask(
      `[${local}%${zone}]:${server.address.port}`,
      "ab".repeat(32),
    );
    assert.equal(stat.contentLength, 100);
  } finally {
    await downloader.close();
    await server.close({ grace: 0 });
  }
});

function linkLocal(): readonly [name: string, address: string] | undefined {
  for (const [name, addresses = []] of Object.entries(networkInterfaces())) {
    for (const { address } of addresses) if (address.startsWith("fe80:")) return [name, address];
  }
  return undefined;
}

// Node 20 aborted by an assertion of its own after some dozens of them, when it collected garbage.
it("header fields without end, many times at once, do not end the process", limit, async () => {
  const server = await ScriptedHttp2Server.listen(hostileGrpc);
  const endless = grpcFaults.find(({ name }) => name === "header fields without end");
  const lane = (): Promise<void> =>
    withDownloader(async (downloader) => {
      for (let turn = 0; turn < 8; turn++) {
        const verdict = await callGrpc(
          downloader,
          server.addr,
          "piece",
          grpcFaultId("piece", endless),
        );
        assert.ok(endless?.codes("piece", 0).includes(verdict), verdict);
      }
    });
  await Promise.all(Array.from({ length: 8 }, lane));
  await server.close();
});

it(
  "an abort within the answer is Aborted at once, and the connection lives on",
  limit,
  async () => {
    const server = await ScriptedHttp2Server.listen(hostileGrpc);
    const silence = grpcFaults.find(({ name }) => name.startsWith("silence after each byte"));
    await withDownloader(async (downloader) => {
      for (const call of grpcCalls) {
        const abort = new AbortController();
        const outcome = callGrpc(downloader, server.addr, call, grpcFaultId(call, silence, 20), {
          signal: abort.signal,
        });
        await callGrpc(downloader, server.addr, call, grpcFaultId(call));
        abort.abort();
        assert.equal(await outcome, "Aborted");
        assert.equal(downloader.connections().length, 1);
      }
    });
    await server.close();
  },
);

it("a text of 60 KiB is cut in the error's message", limit, async () => {
  const server = await ScriptedHttp2Server.listen(hostileGrpc);
  const long = grpcFaults.find(({ name }) => name === "a status message of 60 KiB");
  await withDownloader(async (downloader) => {
    const error = await rejectionOf(downloader.statTask(server.addr, grpcFaultId("stat", long)));
    assert.equal(error.code, "NotFound");
    assert.ok(error.message.length < 2000);
  });
  await server.close();
});

it(
  "calls that were given up while the peer took no stream are not sent when it does",
  limit,
  async () => {
    let first: Http2Exchange | undefined;
    let others = 0;
    const server = await ScriptedHttp2Server.listen((exchange) => {
      first ??= exchange;
      if (exchange !== first) others++;
      if (exchange !== first) hostileGrpc(exchange);
    });
    await withDownloader(async (downloader) => {
      // One stream at a time, and that one is held.
      const held = callGrpc(downloader, server.addr, "stat", grpcFaultId("stat"));
      while (first === undefined) await new Promise((resolve) => setTimeout(resolve, 1));
      first.frame(Frame.Settings, 0, Uint8Array.of(0, 3, 0, 0, 0, 1), 0);
      await arrived(first);
      const abort = new AbortController();
      const { signal } = abort;
      const waiting = grpcCalls.flatMap((call) =>
        Array.from({ length: 5 }, () =>
          callGrpc(downloader, server.addr, call, grpcFaultId(call), { signal }),
        ),
      );
      await new Promise((resolve) => setImmediate(resolve));
      abort.abort();
      assert.deepEqual(new Set(await Promise.all(waiting)), new Set(["Aborted"]));
      hostileGrpc(first);
      assert.equal(await held, "right");
      assert.equal(await callGrpc(downloader, server.addr, "stat", grpcFaultId("stat")), "right");
      assert.equal(others, 1);
    });
    await server.close();
  },
);

it(
  "a text with what moves a cursor is on one line of the error's message, without that",
  limit,
  async () => {
    const text = encodeURIComponent("no\r\n\u001b[2Jsuch\u009b2J\u202etask\u2028");
    const server = await ScriptedHttp2Server.listen((exchange) => {
      const opening = { ":status": "200", "content-type": "application/grpc" };
      exchange.headers({ ...opening, "grpc-status": "5", "grpc-message": text }, true);
    });
    await withDownloader(async (downloader) => {
      const { code, message } = await rejectionOf(
        downloader.statTask(server.addr, grpcFaultId("stat")),
      );
      assert.equal(code, "NotFound");
      assert.match(message, /no \[2Jsuch 2J task/);
      assert.match(message, /^[^\p{Cc}\p{Zl}\p{Bidi_Control}]+$/u);
    });
    await server.close();
  },
);

/** Runs `use` with a downloader. However it ended: no request is active, and no timer is left. */
async function withDownloader(
  use: (downloader: GrpcDownloader, clock: FakeClock) => Promise<void>,
  options: DownloaderOptions = {},
): Promise<void> {
  const clock = new FakeClock();
  // A connection that ends is replaced, once, in real time, and the clock runs ahead of that.
  const settings = downloaderSettings(
    { connectTimeout: 3_600_000, ...options },
    fakeRuntime(clock),
  );
  const downloader = new GrpcDownloader(async () => grpcBinding(), settings);
  try {
    await use(downloader, clock);
    const active = downloader
      .connections()
      .reduce((sum, { activeRequests }) => sum + activeRequests, 0);
    assert.equal(active, 0, "requests still active");
  } finally {
    await downloader.close();
  }
  assert.equal(clock.pending, 0, "timers left");
}

function formsOf(fault: GrpcFault, call: GrpcCall): number[] {
  const count = fault.variants?.(call) ?? 1;
  // After each field there is silence once, at least.
  const step = fault.silent ? 1 : Math.ceil(count / MOST);
  return Array.from({ length: Math.ceil(count / step) }, (_, turn) => turn * step);
}

/** Resolves when the client has taken all that was sent so far: it answers a PING in its turn (RFC 9113, section 6.7). */
async function arrived(exchange: Http2Exchange): Promise<void> {
  const answered = once(exchange.socket, "data");
  exchange.frame(Frame.Ping, 0, new Uint8Array(8), 0);
  await answered;
}
