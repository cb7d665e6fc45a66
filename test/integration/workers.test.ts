/**
 * The edge workers' entry point in workerd, without compatibility flags. Bundled into one module,
 * it fetches from peers in this process over loopback.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { describe, it } from "node:test";
import { tcpTransport } from "../../adapters/tcp/transport.ts";
import { planTask } from "../../src/piece.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { serverSettings } from "../../src/server/admission/upload.ts";
import { VortexServer } from "../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { bundleForEdge, type EdgeClient, startEdgeClient } from "../support/edge-peer.ts";
import type { EdgeFetch, EdgeResult } from "../support/edge-worker.ts";
import { answer, crc32Of, type Script, ScriptedServer } from "../support/hostile.ts";
import { seededBytes } from "../support/random.ts";

const loopback = { host: "127.0.0.1", port: 0 };
const taskId = "ed".repeat(32);
const PIECE_LENGTH = 256 * 1024;
/** Content of twelve pieces and a shorter last one. */
const content = seededBytes(21, 12 * PIECE_LENGTH + 4_321);
const plan = planTask(content.length, PIECE_LENGTH);
const numbers = Array.from({ length: plan.pieceCount }, (_, number) => number);
const expected: EdgeResult = {
  length: content.length,
  crc32: crc32Of(content).slice("crc32:".length),
  sha256: createHash("sha256").update(content).digest("hex"),
};

let starting: Promise<EdgeClient> | undefined;

describe("edge workers: the bundle", () => {
  it("the entry point is one module that imports only cloudflare:sockets", async () => {
    assert.deepEqual((await bundleForEdge("entry/workers.ts")).imports, ["cloudflare:sockets"]);
  });

  it("the core is one module without imports", async () => {
    assert.deepEqual((await bundleForEdge("entry/core.ts")).imports, []);
  });

  it("the worker runs without Node's globals", async () => {
    const { url } = await edge();
    assert.deepEqual(await (await fetch(new URL("/globals", url))).json(), []);
  });
});

describe("edge workers: a task", () => {
  it("of several pieces and a shorter last one is fetched piece by piece", () =>
    withServer(async (addr) => {
      assert.deepEqual(await (await edge()).fetchTask(addr, taskId, plan), expected);
    }));

  it("is fetched with more concurrent pieces than Cloudflare's limit of pending connections", () =>
    withServer(async (addr) => {
      assert.deepEqual(await fetched({ addr, pieces: numbers, concurrent: true }), expected);
    }));

  it("is fetched by many concurrent requests to the worker", () =>
    withServer(async (addr) => {
      const results = await Promise.all(
        Array.from({ length: 8 }, () => fetched({ addr, pieces: numbers })),
      );
      for (const result of results) assert.deepEqual(result, expected);
    }));

  it("is fetched with one downloader for all requests, sequential and concurrent", () =>
    withServer(async (addr) => {
      const request = { addr, pieces: numbers, shared: true };
      for (let round = 0; round < 3; round++) assert.deepEqual(await fetched(request), expected);
      const results = await Promise.all(Array.from({ length: 5 }, () => fetched(request)));
      for (const result of results) assert.deepEqual(result, expected);
    }));

  it("is fetched from an IPv6 address", () =>
    withServer(
      async (addr) => {
        assert.match(addr, /^\[::1\]:/);
        assert.deepEqual(await fetched({ addr, pieces: numbers }), expected);
      },
      { host: "::1", port: 0 },
    ));
});

describe("edge workers: failures", () => {
  it("a port without a listener: ConnectionRefused", async () => {
    const listener = await tcpTransport.listen(loopback);
    await listener.close();
    const addr = formatAddress(listener.address);
    const error = await failed({ addr, pieces: [0] }, "ConnectionRefused");
    assert.equal(error.addr, addr);
  });

  it("an address that workerd refuses: Unreachable", async () => {
    await failed({ addr: "%%:1", pieces: [0] }, "Unreachable");
  });

  it("a piece missing at the peer: NotFound", () =>
    withServer(async (addr) => {
      await failed({ addr, pieces: [plan.pieceCount] }, "NotFound");
    }));

  it("wrong bytes: DigestMismatch", () =>
    withScript(
      async ({ send, finish }) => {
        await send(answer(100_000, { digest: "crc32:1" }).whole);
        await finish();
      },
      async (addr) => {
        const { length } = await failedResult({ addr, pieces: [3] }, "DigestMismatch");
        assert.ok(length < 100_000);
      },
    ));

  it("content that ends early: TruncatedContent", () =>
    withScript(
      async ({ send, finish }) => {
        await send(answer(100_000).whole.subarray(0, 50_000));
        await finish();
      },
      async (addr) => {
        await failed({ addr, pieces: [3] }, "TruncatedContent");
      },
    ));

  it("a connection reset within the content: StreamReset", () =>
    withScript(
      async ({ send, reset }) => {
        await send(answer(100_000).whole.subarray(0, 50_000));
        reset();
      },
      async (addr) => {
        await failed({ addr, pieces: [3] }, "StreamReset");
      },
    ));

  it("a peer that stops in the middle of the content: Stalled", () =>
    withScript(
      async ({ send }) => {
        await send(answer(100_000).whole.subarray(0, 50_000));
      },
      async (addr) => {
        await failed({ addr, pieces: [3], options: { stallTimeout: 300 } }, "Stalled");
      },
    ));

  it("a peer that never answers: Stalled", () =>
    withScript(
      () => {},
      async (addr) => {
        await failed({ addr, pieces: [3], options: { stallTimeout: 300 } }, "Stalled");
      },
    ));

  it("an abort before the call or before the answer: Aborted", () =>
    withScript(
      () => {},
      async (addr) => {
        await failed({ addr, pieces: [3], abortAt: "before" }, "Aborted");
        await failed({ addr, pieces: [3], abortAt: "waiting" }, "Aborted");
      },
    ));

  it("an abort in the middle of the content: Aborted", () =>
    withScript(
      async ({ send }) => {
        await send(answer(100_000).whole.subarray(0, 50_000));
      },
      async (addr) => {
        const { length } = await failedResult({ addr, pieces: [3], abortAt: "reading" }, "Aborted");
        assert.ok(length > 0);
      },
    ));

  it("a piece cancelled in the middle stops the peer", async () => {
    let refused = false;
    await withScript(
      async ({ send }) => {
        const { packet, content: whole } = answer(64 * 1024 * 1024);
        await send(packet);
        for (let at = 0; !refused && at < whole.length; at += 65_536)
          refused = !(await send(whole.subarray(at, at + 65_536)));
      },
      async (addr, server) => {
        const { length, error } = await fetched({ addr, pieces: [3], abortAt: "cancel" });
        assert.equal(error, undefined);
        assert.ok(length > 0 && length < 64 * 1024 * 1024);
        await server.answered(1);
        assert.equal(refused, true);
      },
    );
  });

  for (const protocol of ["quic", "grpc"] as const) {
    it(`${protocol}: Unavailable, and the message names the available protocol`, async () => {
      const { message } = await failed(
        { addr: "127.0.0.1:9", pieces: [0], options: { protocol } },
        "Unavailable",
      );
      assert.match(message, /edge workers do not have; use protocol "tcp"/);
    });
  }
});

describe("edge workers: the end", () => {
  it("workerd ends with the test", async () => {
    await (await starting)?.close();
  });
});

/** Returns the workerd shared by all tests, started at the first call. */
function edge(): Promise<EdgeClient> {
  starting ??= startEdgeClient();
  return starting;
}

async function fetched(request: Omit<EdgeFetch, "taskId">): Promise<EdgeResult> {
  return (await edge()).fetch({ taskId, ...request });
}

async function failedResult(request: Omit<EdgeFetch, "taskId">, code: string): Promise<EdgeResult> {
  const result = await fetched(request);
  assert.equal(result.error?.code, code, result.error?.message);
  return result;
}

async function failed(
  request: Omit<EdgeFetch, "taskId">,
  code: string,
): Promise<NonNullable<EdgeResult["error"]>> {
  const { error } = await failedResult(request, code);
  if (error === undefined) assert.fail("the request did not fail");
  return error;
}

async function withServer(
  use: (addr: string) => Promise<void>,
  local: typeof loopback = loopback,
): Promise<void> {
  const store = new MemoryPieceStore();
  store.putTask(taskId, content, { pieceLength: PIECE_LENGTH });
  const server = await VortexServer.listen(
    tcpTransport,
    local,
    store,
    portableRuntime,
    serverSettings({}, portableRuntime),
  );
  try {
    await use(formatAddress(server.address));
  } finally {
    await server.close({ grace: 0 });
  }
}

async function withScript(
  script: Script,
  use: (addr: string, server: ScriptedServer) => Promise<void>,
): Promise<void> {
  const server = await ScriptedServer.listen(tcpTransport, loopback, script);
  try {
    await use(formatAddress(server.address), server);
  } finally {
    await server.close();
  }
}
