/** Interoperability with stock Dragonfly peers and clients, over QUIC and TCP. */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { denoQuicTransport } from "../../adapters/deno-quic/lazy-transport.ts";
import { quicheTransport } from "../../adapters/quiche/lazy-transport.ts";
import { tcpTransport } from "../../adapters/tcp/transport.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import { VortexDownloader } from "../../src/client/vortex/downloader.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { VortexServer } from "../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import type { TlsClientOptions } from "../../src/transport/tls.ts";
import type { Transport } from "../../src/transport/transport.ts";
import { assertRejects } from "../support/failures.ts";
import { runtimeName } from "../support/fixtures.ts";
import { readAll } from "../support/hostile.ts";
import { seededBytes } from "../support/random.ts";
import { type Program, runners, runToEnd, startProgram } from "../support/run.ts";
import { runtimeEntry } from "../support/runtime-entry.ts";
import type { StockAnswer } from "./stock-client.ts";
import type { StockPeer } from "./stock-peer.ts";
import {
  crc32,
  readAnswer,
  STOCK_PIECE_LENGTH,
  STOCK_PIECES,
  stockPiece,
  stockRequest,
} from "./stock-wire.ts";

const taskId = "ef".repeat(32);
const local = { host: "127.0.0.1", port: 0 };
const deno = runners.deno;
const noDeno = typeof deno === "string" ? deno : undefined;
const onDeno = runtimeName === "deno" ? undefined : "this tests Deno's QUIC";
const offDeno = runtimeName === "deno" ? "Deno's QUIC can dial without ALPN" : undefined;

/** Defines a test, or a skipped test with the reason in its name. */
function itUnless(reason: string | undefined, name: string, run: () => Promise<void>): void {
  const skipped = noDeno ?? reason;
  if (skipped === undefined) it(name, { timeout: 60_000 }, run);
  else it(`${name} [gap: ${skipped}]`, { skip: skipped }, run);
}

/** Runs a program on Deno with additional flags. */
function onDenoRun(
  program: string,
  args: readonly string[],
  flags: readonly string[] = [],
): Promise<string> {
  if (typeof deno === "string") assert.fail(deno);
  return runToEnd([...deno, ...flags, program, ...args]).then(({ code, out, err }) => {
    assert.equal(code, 0, err);
    return out.trim();
  });
}

/** Starts `stock-peer.ts`, which behaves like a stock peer. */
async function startStockPeer(
  ...flags: readonly string[]
): Promise<{ program: Program; peer: StockPeer }> {
  if (typeof deno === "string") assert.fail(deno);
  const program = startProgram([...deno, "test/interop/stock-peer.ts", ...flags]);
  return { program, peer: JSON.parse(await program.line()) as StockPeer };
}

describe("a stock Dragonfly peer of 1.4.9 or later", () => {
  let program: Program | undefined;
  let peer: StockPeer = { quic: 0, tcp: 0, fingerprint: "", cert: "" };

  before(async () => {
    if (typeof deno !== "string") ({ program, peer } = await startStockPeer("--survive"));
  });
  after(() => program?.kill());

  itUnless(undefined, "serves its pieces over TCP to every runtime", async () => {
    await fetchesAll(tcpTransport, peer.tcp);
  });

  itUnless(
    onDeno,
    "serves its pieces over QUIC to Deno, with a pinned or a self-signed trusted certificate",
    async () => {
      for (const tls of [
        { fingerprints: [peer.fingerprint] },
        { ca: peer.cert, serverName: "d7y" },
      ] satisfies TlsClientOptions[]) {
        await fetchesAll(await denoQuicTransport({ tls }), peer.quic);
      }
    },
  );

  itUnless(onDeno, "is dialled without ALPN again on the second connection", async () => {
    const transport = await denoQuicTransport({ tls: { fingerprints: [peer.fingerprint] } });
    const remote = { host: "127.0.0.1", port: peer.quic };
    const first = await transport.dial(remote);
    assert.equal(first.earlyData, "none");
    const stream = await first.openStream();
    await stream.writer.write(stockRequest(7, taskId, 2));
    await stream.writer.end();
    assert.deepEqual(readAnswer(await readAll(stream)).content, stockPiece(2));
    await first.close();
    // Sessions belong to the ALPN choice that worked, so early data shows that the dial uses it.
    const second = await transport.dial(remote, { earlyData: true });
    assert.equal(second.earlyData, "pending");
    await second.ready;
    assert.equal(second.earlyData, "accepted");
    await second.close();
  });

  itUnless(onDeno, "with verify: false, needs Deno's flag and the error names it", async () => {
    const args = [`127.0.0.1:${peer.quic}`, taskId, "2"];
    const flag = "--unsafely-ignore-certificate-errors=d7y";
    assert.equal(
      await onDenoRun("test/interop/unverified-client.ts", args, [flag]),
      String(crc32(stockPiece(2))),
    );
    const refused = await onDenoRun("test/interop/unverified-client.ts", args);
    assert.match(
      refused,
      /^HandshakeFailed: .*--unsafely-ignore-certificate-errors=d7y.*tls\.fingerprints/,
    );
  });

  itUnless(
    offDeno,
    "over QUIC on Node and Bun, fails with one error that names the cause and the remedy",
    async () => {
      await withDownloader(
        await quicheTransport({ tls: { verify: false } }),
        peer.quic,
        async (fetchPiece) => {
          const error = await assertRejects(fetchPiece(0), "ProtocolNotSupported");
          assert.match(error.message, /dfdaemon/);
          assert.match(error.message, /"tcp"/);
        },
      );
    },
  );
});

describe("a stock Dragonfly peer of 1.1.0 to 1.4.8, which exits on a failed QUIC handshake", () => {
  itUnless(undefined, "keeps running under auto and hybrid, which fetch over TCP", async () => {
    const { program, peer } = await startStockPeer("--close");
    try {
      const { createDownloader } = await runtimeEntry();
      const addr = { quic: `127.0.0.1:${peer.quic}`, tcp: `127.0.0.1:${peer.tcp}` };
      for (const protocol of ["auto", "hybrid"] as const) {
        for (const tls of [undefined, {}, { verify: false as const }, { serverName: "d7y" }]) {
          await using downloader = createDownloader({ protocol, ...(tls && { tls }) });
          const piece = await downloader.downloadPiece({ addr, hostId: "host", taskId, number: 1 });
          assert.deepEqual(await piece.bytes(), stockPiece(1));
          const request = { taskId, hostId: "host", parents: [{ addr }], ...stockLengths };
          assert.equal(
            (await downloader.streamTask(request).bytes()).length,
            stockLengths.contentLength,
          );
        }
        // An abort and a lost protocol race also cause failed handshakes.
        await using downloader = createDownloader({ protocol, auto: { delay: 1 } });
        const request = { addr, hostId: "host", taskId, number: 1 };
        await Promise.allSettled(
          Array.from({ length: 8 }, () =>
            downloader.downloadPiece({ ...request, signal: AbortSignal.timeout(1) }),
          ),
        );
      }
      await fetchesAll(tcpTransport, peer.tcp);
      program.end();
      assert.equal((await program.ended).code, 0);
    } finally {
      program.kill();
    }
  });

  itUnless(
    onDeno,
    "keeps running after QUIC handshakes of Deno, whose certificate checks pass",
    async () => {
      const { program, peer } = await startStockPeer();
      try {
        for (const tls of [
          { fingerprints: [peer.fingerprint] },
          { ca: peer.cert, serverName: "d7y" },
        ] satisfies TlsClientOptions[]) {
          await fetchesAll(await denoQuicTransport({ tls }), peer.quic);
        }
        const flag = "--unsafely-ignore-certificate-errors=d7y";
        const args = [`127.0.0.1:${peer.quic}`, taskId, "2"];
        assert.equal(
          await onDenoRun("test/interop/unverified-client.ts", args, [flag]),
          String(crc32(stockPiece(2))),
        );
        program.end();
        assert.equal((await program.ended).code, 0);
      } finally {
        program.kill();
      }
    },
  );

  itUnless(undefined, "exits after a QUIC handshake that the client aborts", async () => {
    const { program, peer } = await startStockPeer();
    try {
      let exited = false;
      const ended = program.ended.finally(() => {
        exited = true;
      });
      const tls = { fingerprints: [peer.fingerprint] };
      const transport = await (runtimeName === "deno" ? denoQuicTransport : quicheTransport)({
        tls,
      });
      // A handshake may complete before its abort, so the dial is repeated.
      while (!exited) {
        const controller = new AbortController();
        const dial = transport.dial(
          { host: "127.0.0.1", port: peer.quic },
          { signal: controller.signal },
        );
        setImmediate(() => controller.abort());
        await dial.then(
          (connection) => connection.close(),
          () => {},
        );
        await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 100))]);
      }
      await transport.close?.();
      assert.equal((await ended).code, 101);
    } finally {
      program.kill();
    }
  });

  itUnless(undefined, 'exits when quicPeers is "any" and QUIC loses the race to TCP', async () => {
    const { program, peer } = await startStockPeer();
    try {
      const { createDownloader } = await runtimeEntry();
      await using downloader = createDownloader({
        protocol: "auto",
        auto: { quicPeers: "any", delay: 1 },
      });
      const addr = { quic: `127.0.0.1:${peer.quic}`, tcp: `127.0.0.1:${peer.tcp}` };
      const request = { addr, hostId: "host", taskId, number: 1 };
      // The exit may also end the request over TCP.
      await downloader.downloadPiece(request).then(
        (piece) => piece.cancel(),
        () => {},
      );
      assert.equal((await program.ended).code, 101);
    } finally {
      program.kill();
    }
  });

  itUnless(offDeno, "exits after one QUIC handshake of a client that offers ALPN", async () => {
    const { program, peer } = await startStockPeer();
    try {
      await withDownloader(
        await quicheTransport({ tls: { verify: false } }),
        peer.quic,
        async (fetchPiece) => {
          await assertRejects(fetchPiece(0), "ProtocolNotSupported");
        },
      );
      assert.equal((await program.ended).code, 101);
    } finally {
      program.kill();
    }
  });
});

describe("a stock Dragonfly client", () => {
  itUnless(onDeno, "fetches pieces from a server configured for stock peers", () =>
    withServer("stock", async (port, fingerprint, content) => {
      const args = [String(port), fingerprint, taskId, "1"];
      const answer = JSON.parse(
        await onDenoRun("test/interop/stock-client.ts", args),
      ) as StockAnswer;
      const piece = content.subarray(PIECE_LENGTH, 2 * PIECE_LENGTH);
      const crc = crc32(piece);
      const expected: StockAnswer = {
        number: 1,
        offset: PIECE_LENGTH,
        length: piece.length,
        digest: `crc32:${crc}`,
        crc32: crc,
      };
      assert.deepEqual(answer, expected);
    }),
  );

  itUnless(onDeno, "shares that server with this library on Deno, which detects stock ALPN", () =>
    withServer("stock", async (port, fingerprint, content) => {
      await withDownloader(
        await denoQuicTransport({ tls: { fingerprints: [fingerprint] } }),
        port,
        async (fetchPiece) => {
          assert.deepEqual(await fetchPiece(0), content.subarray(0, PIECE_LENGTH));
        },
      );
    }),
  );

  itUnless(onDeno, "is refused by a server configured for peers of this library", () =>
    withServer("vortex", async (port, fingerprint) => {
      const args = [String(port), fingerprint, taskId, "1"];
      const { error } = JSON.parse(await onDenoRun("test/interop/stock-client.ts", args)) as {
        error: string;
      };
      assert.match(error, /error 120/);
    }),
  );
});

const PIECE_LENGTH = 300_000;
const stockLengths = {
  contentLength: (STOCK_PIECES - 1) * STOCK_PIECE_LENGTH + stockPiece(STOCK_PIECES - 1).length,
  pieceLength: STOCK_PIECE_LENGTH,
};

async function withServer(
  clients: "stock" | "vortex",
  use: (port: number, fingerprint: string, content: Uint8Array) => Promise<void>,
): Promise<void> {
  const content = seededBytes(3, 2 * PIECE_LENGTH);
  const store = new MemoryPieceStore();
  store.putTask(taskId, content, { pieceLength: PIECE_LENGTH });
  const server = await VortexServer.listen(
    await denoQuicTransport({ clients }),
    local,
    store,
    portableRuntime,
  );
  try {
    await use(server.address.port, server.fingerprint ?? "", content);
  } finally {
    await server.close({ grace: 0 });
  }
}

async function fetchesAll(transport: Transport, port: number): Promise<void> {
  await withDownloader(transport, port, async (fetchPiece) => {
    const numbers = Array.from({ length: STOCK_PIECES }, (_, number) => number);
    const pieces = await Promise.all(numbers.map(fetchPiece));
    for (const number of numbers)
      assert.deepEqual(pieces[number], stockPiece(number), `piece ${number}`);
    await assertRejects(fetchPiece(STOCK_PIECES), "NotFound");
  });
}

async function withDownloader(
  transport: Transport,
  port: number,
  use: (fetchPiece: (number: number) => Promise<Uint8Array>) => Promise<void>,
): Promise<void> {
  await using downloader = new VortexDownloader(
    async () => transport,
    downloaderSettings({}, portableRuntime),
  );
  await use(async (number) => {
    const request = { addr: `127.0.0.1:${port}`, hostId: "host", taskId, number };
    const piece = await downloader.downloadPiece(request);
    return piece.bytes();
  });
}
