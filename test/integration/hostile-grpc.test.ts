import assert from "node:assert/strict";
import { once } from "node:events";
import { networkInterfaces } from "node:os";
import { after, before, describe, it } from "node:test";
import { grpcBinding } from "../../adapters/grpc/client.ts";
import { grpcServer } from "../../adapters/grpc/server.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import type { TransferOptions } from "../../src/client/downloader.ts";
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

const testOptions = { timeout: 60_000 };
const STALL_TIMEOUT_MS = 30_000;
/**
 * Maximum number of variants of a fault tried for a call. Of more, evenly spaced ones are tried.
 */
const MAX_VARIANTS = 150;
/** Number of variants between two valid answers on one downloader; silent ones run concurrently. */
const BATCH_VARIANTS = 10;

describe("a hostile server, over gRPC", () => {
  let server: ScriptedHttp2Server;
  before(async () => {
    server = await ScriptedHttp2Server.listen(hostileGrpc);
  });
  after(() => server.close());

  it("control: a valid answer to each call is delivered completely", testOptions, async () => {
    await withDownloader(async (downloader) => {
      for (const call of grpcCalls)
        assert.equal(await callGrpc(downloader, server.addr, call, grpcFaultId(call)), "right");
    });
  });

  for (const fault of grpcFaults) {
    for (const call of fault.calls ?? grpcCalls) {
      it(
        `${fault.name}, for a ${call}: fails with its code, and the next request succeeds`,
        testOptions,
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
                `variant ${variant}: ${verdict}, expected ${codes.join(" or ")}`,
              );
            };
            const forms = variantsOf(fault, call);
            // Silent variants run concurrently, because each takes the whole stall timeout.
            const atOnce = fault.silent ? BATCH_VARIANTS : 1;
            for (let turn = 0; turn < forms.length; turn += atOnce) {
              // A valid call first establishes a connection: a dial takes real time, in which the
              // fake clock would run ahead of a silent variant.
              if (turn % BATCH_VARIANTS === 0) await well();
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
                  assert.ok(
                    passed >= STALL_TIMEOUT_MS,
                    `variant ${variant}: Stalled after ${passed} ms`,
                  );
              });
              const ended = Promise.all(outcomes);
              if (fault.silent) await clock.advanceUntil(ended, 3 * STALL_TIMEOUT_MS);
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
    it(`a ${call} within ${pieceTimeout} ms: ${code}`, testOptions, async () => {
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
        // Sends 60 bytes: a prefix that announces 100, and 55 bytes of the message.
        const bytes = Uint8Array.of(0, 0, 0, 0, 100, ...new Uint8Array(55).fill(10));
        for (const byte of bytes) {
          if (over) break;
          exchange.data(Uint8Array.of(byte));
          await arrived(exchange);
          await clock.advance(1000);
        }
        await clock.advanceUntil(ended, 2 * STALL_TIMEOUT_MS);
        assert.equal(await ended, code);
      });
      await server.close();
    });
  }
});

/** Addresses that cannot have a listener, or have none. */
const unreachableAddresses = [
  "255.255.255.255:4000",
  "224.0.0.1:4000",
  "127.0.0.1:0",
  "[fe80::1%nowhere]:4000",
  "[::1%lo]:1",
  "[ff02::1]:4000",
];

for (const addr of unreachableAddresses) {
  it(`a parent at ${addr} fails as unreachable`, testOptions, async () => {
    const downloader = new GrpcDownloader(
      async () => grpcBinding(),
      downloaderSettings({ connectTimeout: 500 }, portableRuntime),
    );
    const { code } = await rejectionOf(downloader.statTask(addr, "a".repeat(64)));
    // Deno's HTTP/2 does not dial zones; the adapter reports that.
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

it(`a parent at an IPv6 address with a zone is reached${unzoned}`, {
  ...testOptions,
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

// Node 20 aborted by an internal assertion during garbage collection after some dozens of them.
it("many concurrent header blocks without end do not crash the process", testOptions, async () => {
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
  "an abort within the answer causes Aborted at once, and keeps the connection",
  testOptions,
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

it("a status message of 60 KiB is truncated in the error's message", testOptions, async () => {
  const server = await ScriptedHttp2Server.listen(hostileGrpc);
  const long = grpcFaults.find(({ name }) => name === "a status message of 60 KiB");
  await withDownloader(async (downloader) => {
    const error = await rejectionOf(downloader.statTask(server.addr, grpcFaultId("stat", long)));
    assert.equal(error.code, "NotFound");
    assert.ok(error.message.length < 2000);
  });
  await server.close();
});

it("calls aborted while the peer grants no stream are not sent later", testOptions, async () => {
  let first: Http2Exchange | undefined;
  let others = 0;
  const server = await ScriptedHttp2Server.listen((exchange) => {
    first ??= exchange;
    if (exchange !== first) others++;
    if (exchange !== first) hostileGrpc(exchange);
  });
  await withDownloader(async (downloader) => {
    // The peer grants one stream, which this call occupies.
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
});

it(
  "a status message with control characters is one line of the error's message, without them",
  testOptions,
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

/**
 * Runs `use` with a downloader. Afterwards, asserts that no request is active and no timer is left.
 */
async function withDownloader(
  use: (downloader: GrpcDownloader, clock: FakeClock) => Promise<void>,
  options: TransferOptions = {},
): Promise<void> {
  const clock = new FakeClock();
  // A lost connection is replaced once, in real time; the fake clock runs ahead of that dial.
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

function variantsOf(fault: GrpcFault, call: GrpcCall): number[] {
  const count = fault.variants?.(call) ?? 1;
  // All variants of silent faults, so that there is silence after each field.
  const step = fault.silent ? 1 : Math.ceil(count / MAX_VARIANTS);
  return Array.from({ length: Math.ceil(count / step) }, (_, turn) => turn * step);
}

/**
 * Resolves once the client has read everything sent: it answers a PING in order (RFC 9113, section
 * 6.7).
 */
async function arrived(exchange: Http2Exchange): Promise<void> {
  const answered = once(exchange.socket, "data");
  exchange.frame(Frame.Ping, 0, new Uint8Array(8), 0);
  await answered;
}
